"""Files of a model on a disk or in a bucket: which may be opened, and how much is read."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import fsspec

from orthoflow.errors import BadInput, StoreRefused

SCHEMES = frozenset({"file", "memory", "s3", "gs", "az", "abfs", "https"})
PIECE_BYTES = 16 * 2**20


def checked_location(name: str) -> str:
    """A local path made absolute, or a URL of an allowed scheme without secrets in it.

    Raises
    ------
    BadInput
        For a chain of protocols, another scheme, credentials or a query in the URL, or this host.
    """
    if "::" in name:
        raise BadInput(f"model {name!r} chains protocols with '::'; give one plain path or URL")
    if "://" not in name:
        return str(Path(name).expanduser().resolve())
    url = urlsplit(name)
    if url.scheme not in SCHEMES:
        allowed = ", ".join(sorted(SCHEMES))
        raise BadInput(f"model URL scheme {url.scheme!r} is not allowed; use one of {allowed}")
    if url.username or url.password or url.query:
        raise BadInput(
            f"model URL on {url.hostname} carries credentials or a query; leave them out and give "
            "credentials by the environment"
        )
    if url.scheme == "https" and _is_local(url.hostname or ""):
        raise BadInput(f"model URL host {url.hostname!r} is this machine or its link; use a path")
    return name


def read_location(location: str, *, limit: int) -> bytes:
    """Content of a file or object of at most `limit` bytes.

    Raises
    ------
    FileNotFoundError
        When there is none.
    BadInput
        When it is larger, or the package for its protocol is missing.
    StoreRefused
        When the store does not let us read it.
    """
    try:
        with fsspec.open(location, "rb") as file:
            content = _read_at_most(file, limit + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(location) from error
    except ImportError as error:
        raise BadInput(f"cannot read {location}: {error}") from error
    except OSError as error:
        raise StoreRefused(f"cannot read {location}: {error}") from error
    if len(content) > limit:
        raise BadInput(f"{location} has more than {limit} bytes; that is no file of a model")
    return content


def sha256(content: bytes) -> str:
    """``sha256:…`` of some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    """In pieces: asked for `limit` bytes at once, a file would make room for all of them."""
    content = bytearray()
    while len(content) < limit and (piece := file.read(min(PIECE_BYTES, limit - len(content)))):
        content += piece
    return bytes(content)


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified
