"""JSON objects that hold a digest of themselves: records, markers, locks.

The digest finds accidents. It is no signature: whoever can write to a store can make another.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from orthoflow.errors import BadInput

DIGEST = "digest"
"""Name of the entry that holds the digest of all the others; the last one as stored."""

_SIZE = 16


def digest_of(content: bytes | memoryview) -> str:
    """Digest by which stored bytes are known: 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=_SIZE).hexdigest()


def seal(content: dict[str, Any], *, indent: int | None = None) -> bytes:
    """A JSON object as bytes, with its digest as the last entry.

    >>> seal({"b": 1, "a": [2.0]})
    b'{"b":1,"a":[2.0],"digest":"b704184ee007571e58baee62ce0362ae"}'
    """
    if DIGEST in content:
        raise BadInput(f"a record has no entry {DIGEST!r} of its own: that is its digest")
    plain = json.loads(json.dumps(content, allow_nan=False))
    return _encoded(plain, _digest(plain), indent)


def unseal(
    stored: bytes, named: str, *, exact: bool = True, indent: int | None = None
) -> dict[str, Any]:
    """The object that was sealed, without its digest.

    Parameters
    ----------
    stored
        Of a size that was bounded before.
    named
        Whose bytes these are, for messages.
    exact
        Whether they have to be the bytes that `seal` made. Otherwise the digest is only checked
        where there is one, and the text may be laid out in another way.
    indent
        As it was sealed.

    Raises
    ------
    BadInput
        If the bytes are no JSON object, or not what was sealed.
    """
    content = parse_object(stored, named)
    digest = content.pop(DIGEST, None)
    if digest is None and not exact:
        return content
    try:
        same = digest == _digest(content)
        same = same and (not exact or _encoded(content, digest, indent) == stored)
    except (ValueError, RecursionError):  # NaN, which is no JSON, or too deep to be ours
        same = False
    if not same:
        raise BadInput(f"{named} was changed since it was written: its digest differs")
    return content


def parse_object(stored: bytes, named: str) -> dict[str, Any]:
    """A JSON object from its text.

    Raises
    ------
    BadInput
        If it is not valid JSON, or no object.
    """
    try:
        value = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{named} is not valid JSON ({error}); it may be cut off") from error
    if not isinstance(value, dict):
        raise BadInput(f"{named} holds a JSON {type(value).__name__}, expected an object")
    return value


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_of(canonical.encode())


def _encoded(content: dict[str, Any], digest: str, indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else None
    whole = {**content, DIGEST: digest}
    return json.dumps(whole, indent=indent, separators=separators, allow_nan=False).encode()
