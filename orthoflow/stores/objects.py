"""Small objects in any store: read with a size cap, written whole, listed, removed."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.stores.urls import refusals

if TYPE_CHECKING:
    from orthoflow.stores.urls import Location

METADATA_LIMIT = 32 * 2**20
"""Bytes of the largest metadata document that is read."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def read_object(place: Location, *, limit: int = METADATA_LIMIT) -> bytes | None:
    """Bytes of one object, or None where there is none.

    Raises
    ------
    BadInput
        When the object is larger than `limit` bytes.
    """
    with refusals(place, "read"):
        fs, path = place.filesystem()
        try:
            facts = fs.info(path)
            if facts.get("type") == "directory":
                return None
            size = facts.get("size") or 0
            content = b"" if size > limit else bytes(fs.cat_file(path))
        except _ABSENT:
            return None
    if max(size, len(content)) > limit:
        raise BadInput(f"{place} has {max(size, len(content))} bytes; at most {limit} are read")
    return content


def read_json(place: Location, *, limit: int = METADATA_LIMIT) -> dict[str, Any] | None:
    """A JSON object, or None where there is none; anything else is refused."""
    content = read_object(place, limit=limit)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place} is not valid JSON ({error}); it may be cut off") from error
    if not isinstance(value, dict):
        raise BadInput(f"{place} holds a JSON {type(value).__name__}, expected an object")
    return value


def write_object(place: Location, content: bytes) -> None:
    """Store `content` as one object; readers see all of it or none."""
    with refusals(place, "write to"):
        if place.is_local:
            target = Path(place.url)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
            partial.write_bytes(content)
            os.replace(partial, target)
            return
        fs, path = place.filesystem()
        fs.pipe_file(path, content)


def list_names(place: Location) -> list[str]:
    """Names directly below `place`, sorted; empty where there is nothing."""
    with refusals(place, "list"):
        fs, path = place.filesystem()
        try:
            entries = fs.ls(path, detail=False)
        except _ABSENT:
            return []
    paths = {str(entry).rstrip("/") for entry in entries}
    # A file, and a "folder" object of an object store, are listed as their own content.
    paths.discard(str(path).rstrip("/"))
    return sorted(name for name in (p.rpartition("/")[2] for p in paths) if name)


def delete_tree(place: Location) -> None:
    """Remove everything at and below `place`."""
    with refusals(place, "remove"):
        if place.is_local:
            shutil.rmtree(place.url)
            return
        fs, path = place.filesystem()
        fs.rm(path, recursive=True)
