"""Tables between the passes over the voxels of an output: one object each, with its digest.

They lie below ``orthoflow/tables/<key>/<pass>/Z-Y-X`` and are created once: where one is, its pass
over that block is done.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from numcodecs.zstd import compress, decompress

from orthoflow.errors import BadInput
from orthoflow.stores.objects import create_object, list_objects, read_object
from orthoflow.stores.urls import locate

if TYPE_CHECKING:
    from pathlib import Path

    from orthoflow.geometry.box import Triple
    from orthoflow.stores.urls import Location, Options

TABLE_LIMIT = 4 * 2**30
"""Bytes of the largest table, packed or not."""

ENDS_STEP = "ends"
"""Of the blocks of a flow network: where their voxels end. Written before a block's marker."""

_FOLDER = "orthoflow/tables"
_KEY = re.compile(r"[0-9a-f]{16}")
_STEP = re.compile(r"[a-z]{1,20}")
_PLACE = re.compile(r"(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})")
_MAGIC = b"orthoflow table\n"
_DIGEST = 16
_LEVEL = 1


def ends_key(fingerprint: str) -> str:
    """Folder of the tables that the blocks of a run leave."""
    return fingerprint[:16]


def pack(content: bytes) -> bytes:
    """A table's bytes as they are stored: compressed, behind their digest."""
    packed: bytes = compress(content, _LEVEL)
    body = len(content).to_bytes(8, "little") + packed
    return _MAGIC + hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def unpack(stored: bytes, named: str) -> bytes:
    """What was packed, from bytes that may come from anywhere.

    Raises
    ------
    BadInput
        If they are not the bytes that `pack` made.
    """
    start = len(_MAGIC) + _DIGEST
    digest, body = stored[len(_MAGIC) : start], stored[start:]
    if not stored.startswith(_MAGIC):
        raise BadInput(f"{named} is no table of orthoflow")
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise BadInput(f"{named} was changed or cut since it was written: its digest differs")
    size = int.from_bytes(body[:8], "little")
    if size > TABLE_LIMIT:
        raise BadInput(f"{named} unpacks to {size:,} bytes, at most {TABLE_LIMIT:,}")
    # Into memory of the size that was promised: a frame that holds more is an error.
    content = bytearray(size)
    try:
        if size:
            decompress(body[8:], content)
    except RuntimeError as error:
        raise BadInput(f"{named} cannot be unpacked: {error}") from error
    return bytes(content)


def create_table(
    url: str | Path,
    key: str,
    step: str,
    number: Triple,
    content: bytes,
    storage_options: Options = (),
) -> None:
    """Store the table of one pass over one block, unless it is there."""
    place = _place(url, key, step, storage_options)
    create_object(place.child(_name(number)), pack(content))


def read_table(
    url: str | Path, key: str, step: str, number: Triple, storage_options: Options = ()
) -> bytes:
    """The table of one pass over one block.

    Raises
    ------
    BadInput
        If there is none, or it was changed.
    """
    place = _place(url, key, step, storage_options).child(_name(number))
    stored = read_object(place, limit=TABLE_LIMIT)
    if stored is None:
        raise BadInput(f"no table {place}; run with --resume")
    return unpack(stored, f"table {place}")


def list_tables(url: str | Path, key: str, step: str, storage_options: Options = ()) -> set[Triple]:
    """Numbers of the blocks whose table of this pass is there, from a listing alone."""
    found = set()
    for name, _ in list_objects(_place(url, key, step, storage_options), sized=False):
        number = number_of(name)
        if number is not None:
            found.add(number)
    return found


def is_table(below: str) -> bool:
    """Whether a table may be stored under this key below the folder of records."""
    parts = below.split("/")
    return (
        len(parts) == 4
        and parts[0] == _FOLDER.rpartition("/")[2]
        and bool(_KEY.fullmatch(parts[1]))
        and bool(_STEP.fullmatch(parts[2]))
        and number_of(parts[3]) is not None
    )


def number_of(name: str) -> Triple | None:
    """Number of the block whose table has this name; None where no table is called that."""
    found = _PLACE.fullmatch(name)
    if found is None:
        return None
    z, y, x = map(int, found.groups())
    return (z, y, x)


def _name(number: Triple) -> str:
    return "-".join(map(str, number))


def _place(url: str | Path, key: str, step: str, storage_options: Options) -> Location:
    if not _KEY.fullmatch(key) or not _STEP.fullmatch(step):
        raise BadInput(f"tables {key!r:.40}/{step!r:.40}: no run has tables of this name")
    return locate(url, storage_options).child(f"{_FOLDER}/{key}/{step}")
