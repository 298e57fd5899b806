"""What the name of a host means: this machine, a machine's metadata service, or another."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

# Where clouds tell a machine its credentials, besides the link-local addresses.
_METADATA_NAMES = {"metadata", "metadata.google.internal", "instance-data"}
_METADATA_ADDRESSES = {"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"}


def is_metadata(host: str) -> bool:
    """Whether a host is, by its name or number, a service that hands out a machine's credentials.

    A name that somebody's name server translates to such a number is not known by its looks.

    >>> is_metadata("169.254.169.254"), is_metadata("0xA9FEA9FE"), is_metadata("example.org")
    (True, True, False)
    """
    address = _address(host)
    if address is None:
        return _name(host) in _METADATA_NAMES
    return address.is_link_local or str(address) in _METADATA_ADDRESSES


def is_this_machine(host: str) -> bool:
    """Whether a host is a loopback address or the name of one.

    >>> is_this_machine("127.0.0.1"), is_this_machine("localhost"), is_this_machine("10.0.0.1")
    (True, True, False)
    """
    address = _address(host)
    if address is None:
        return _name(host) == "localhost" or _name(host).endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _name(host: str) -> str:
    """The name as a resolver is asked for it: full-width digits and dots are plain ones there."""
    with contextlib.suppress(UnicodeError):
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    return host.rstrip(".").lower()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The number that a host is written as; None for a name.

    The system's resolver also takes 2852039166, 0xA9FEA9FE and 169.254.43518 for 169.254.169.254.
    """
    text = _name(host).strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except (OSError, ValueError):
            return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
