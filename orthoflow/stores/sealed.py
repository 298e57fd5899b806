"""JSON objects that hold a digest of themselves: records, markers, locks.

The digest finds accidents. It is no signature: whoever can write to a store can make another.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

from orthoflow.errors import BadInput

DIGEST = "digest"
"""Name of the entry that holds the digest of all the others; the first one as stored."""

_SIZE = 16


def digest_of(content: bytes | memoryview) -> str:
    """Digest by which stored bytes are known: 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=_SIZE).hexdigest()


def seal(content: dict[str, Any], *, indent: int | None = None) -> bytes:
    """A JSON object as bytes, with the digest of those bytes as its first entry.

    >>> seal({"b": 1, "a": [2.0]})
    b'{"digest":"8c1e0bd9afea2232fad87c270208e7c6","b":1,"a":[2.0]}'
    """
    if DIGEST in content or not content:
        raise BadInput(f"a record has entries, and none called {DIGEST!r}: that is its digest")
    # Entries whose names are no text become such; what comes back is what is sealed.
    body = _encoded(json.loads(json.dumps(content, allow_nan=False)), indent)
    return _joined(body, digest_of(body), indent)


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
    head = len(_joined(b"", "0" * 2 * _SIZE, indent))
    body = (b"{" if indent is None else b"{\n") + stored[head:]
    digest = digest_of(body)
    if _joined(body, digest, indent) == stored:
        return parse_object(body, named)
    content = parse_object(stored, named)
    found = content.pop(DIGEST, None)
    same = found is None
    if not same:
        # Other white space than ours; in the order of its entries.
        with suppress(ValueError, RecursionError):  # NaN, which is no JSON, or too deep
            same = digest_of(_encoded(content, indent)) == found
    if exact or not same:
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


def _encoded(content: dict[str, Any], indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else None
    return json.dumps(content, indent=indent, separators=separators, allow_nan=False).encode()


def _joined(body: bytes, digest: str, indent: int | None) -> bytes:
    """The text of an object with the digest before its other entries."""
    if indent is None:
        return b'{"%s":"%s",%s' % (DIGEST.encode(), digest.encode(), body[1:])
    return b'{\n%*s"%s": "%s",\n%s' % (indent, b"", DIGEST.encode(), digest.encode(), body[2:])
