"""Files of a model on a disk or in a bucket: which may be opened, and how much is read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import fsspec

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.hosts import is_metadata, is_this_machine
from orthoflow.libraries import first_line, store_errors

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
        # What stands between the protocols may be a password.
        raise BadInput("model URL chains protocols with '::'; give one plain path or URL")
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
    host = url.hostname or ""
    if url.scheme == "https" and (is_this_machine(host) or is_metadata(host)):
        raise BadInput(f"model URL host {host!r} is this machine or its link; use a path")
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
    except store_errors() as error:
        raise StoreRefused(f"cannot read {location}: {first_line(error)}") from error
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
