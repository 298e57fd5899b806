"""Markers: small objects, created once, that say which blocks are done and what they stored.

A marker is created after the objects it names, so a block that has one is done. It lies in a
folder named after the run's fingerprint, under the number of its block; so do notes on failures::

    orthoflow/markers/<fingerprint>/blocks/Z-Y-X.json
    orthoflow/markers/<fingerprint>/labels/Z-Y-X.json
    orthoflow/markers/<fingerprint>/levels/LEVEL/ARRAY/Z-Y-X.json
    orthoflow/failed/<fingerprint>/blocks/Z-Y-X.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from orthoflow.errors import BadInput
from orthoflow.stores.objects import (
    create_object,
    delete_object,
    list_objects,
    read_many,
    write_object,
)
from orthoflow.stores.stamps import (
    BLOCK_NAME,
    FINGERPRINT,
    LABELS_NAME,
    LEVEL_NAME,
    MARKER_LIMIT,
    failure_bytes,
    failure_from,
)
from orthoflow.stores.stamps import Marker as Marker
from orthoflow.stores.stamps import Stamp as Stamp
from orthoflow.stores.urls import locate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import Stage
    from orthoflow.stores.urls import Location, Options

Kind = Literal["blocks", "labels", "levels"]
_NAMES = {"blocks": BLOCK_NAME, "labels": LABELS_NAME, "levels": LEVEL_NAME}

_FOLDER, _FAILED = "orthoflow/markers", "orthoflow/failed"


def block_marker_name(number: Triple, stage: Stage = "blocks") -> str:
    """Name of a block's marker, from its number along (z, y, x).

    >>> block_marker_name((0, 12, 3))
    'blocks/0-12-3'
    """
    return f"{stage}/{'-'.join(map(str, number))}"


def level_marker_name(level: int, array: str, number: Triple) -> str:
    """Name of the marker of a box of a level, from its shard's number.

    >>> level_marker_name(2, "labels/segmentation", (0, 1, 0))
    'levels/2/labels.segmentation/0-1-0'
    """
    return f"levels/{level}/{array.replace('/', '.') or '-'}/{'-'.join(map(str, number))}"


def block_number_of(name: str, stage: Stage = "blocks") -> Triple | None:
    """Number of the block whose marker has this name; None where it is not a block's.

    >>> block_number_of("blocks/0-12-3")
    (0, 12, 3)
    """
    found = _NAMES[stage].fullmatch(name)
    if found is None:
        return None
    z, y, x = map(int, found.groups())
    return (z, y, x)


def create_marker(url: str | Path, marker: Marker, storage_options: Options = ()) -> bool:
    """Say that a block is done; False where that was said before.

    Its objects have to be stored by now.
    """
    folder = _folder(locate(url, storage_options), marker.fingerprint)
    return create_object(folder.child(f"{marker.name}.json"), marker.to_bytes())


def list_marker_names(
    url: str | Path, fingerprint: str, storage_options: Options = (), kind: Kind = "blocks"
) -> set[str]:
    """Names of the markers of a run, from a listing alone; foreign names are left out."""
    folder = _folder(locate(url, storage_options), fingerprint)
    names = (f"{kind}/{name}" for name in _names(folder.child(kind)))
    return {name for name in names if _NAMES[kind].fullmatch(name)}


def read_markers(
    url: str | Path,
    fingerprint: str,
    storage_options: Options = (),
    *,
    kind: Kind = "blocks",
    names: Iterable[str] | None = None,
) -> Iterator[tuple[str, Marker | BadInput]]:
    """Markers of a run, read and checked a batch at a time, by name.

    Yields
    ------
    name, marker
        What is wrong with it, in place of a marker that cannot be trusted or is not there.
    """
    if names is None:
        names = sorted(list_marker_names(url, fingerprint, storage_options, kind))
    folder = _folder(locate(url, storage_options), fingerprint)
    files = (f"{name}.json" for name in names)
    for file, stored in read_many(folder, files, MARKER_LIMIT):
        name = file.removesuffix(".json")
        try:
            yield name, _checked(stored, name, fingerprint, f"{folder}/{file}")
        except BadInput as problem:
            yield name, problem


def remove_marker(
    url: str | Path, fingerprint: str, name: str, storage_options: Options = ()
) -> None:
    """Make a block undone; nothing happens where it is."""
    folder = _folder(locate(url, storage_options), fingerprint)
    delete_object(folder.child(f"{name}.json"))


def write_failure(
    url: str | Path,
    fingerprint: str,
    name: str,
    facts: dict[str, Any],
    storage_options: Options = (),
) -> None:
    """Note why a block could not be done: "block" and "reason" (text), "tries" (a number)."""
    place = _folder(locate(url, storage_options), fingerprint, failed=True)
    if not BLOCK_NAME.fullmatch(name):
        raise BadInput(f"failure of {name!r}: no block has this name")
    write_object(place.child(f"{name}.json"), failure_bytes(name, facts))


def list_failures(
    url: str | Path, fingerprint: str, storage_options: Options = ()
) -> dict[str, dict[str, Any]]:
    """What is noted of blocks that could not be done, by the name that their marker would have."""
    place = _folder(locate(url, storage_options), fingerprint, failed=True)
    names = (f"blocks/{name}" for name in _names(place.child("blocks")))
    files = [f"{name}.json" for name in sorted(names) if BLOCK_NAME.fullmatch(name)]
    found = {}
    for file, stored in read_many(place, files, MARKER_LIMIT):
        name = file.removesuffix(".json")
        if stored is None:  # removed since it was listed: the block is done
            continue
        try:
            found[name] = failure_from(stored, f"{place}/{file}")
        except BadInput as problem:
            found[name] = {"block": name, "reason": str(problem), "tries": 0}
    return found


def remove_failure(
    url: str | Path, fingerprint: str, name: str, storage_options: Options = ()
) -> None:
    """Forget a failure; nothing happens where none is noted."""
    place = _folder(locate(url, storage_options), fingerprint, failed=True)
    delete_object(place.child(f"{name}.json"))


def _folder(place: Location, fingerprint: str, *, failed: bool = False) -> Location:
    """Where the markers of a run lie in the output at `place`, or its notes on failures."""
    if not FINGERPRINT.fullmatch(fingerprint):
        raise BadInput(f"fingerprint {fingerprint[:80]!r} is not 16 or more hexadecimal digits")
    return place.child(f"{_FAILED if failed else _FOLDER}/{fingerprint[:16]}")


def _names(folder: Location) -> Iterator[str]:
    for name, _ in list_objects(folder, sized=False):
        if name.endswith(".json"):
            yield name.removesuffix(".json")


def _checked(stored: bytes | None, name: str, fingerprint: str, named: str) -> Marker:
    if stored is None:
        raise BadInput(f"no marker {named}")
    marker = Marker.from_bytes(stored, named)
    if (marker.name, marker.fingerprint) != (name, fingerprint):
        raise BadInput(f"{named} is the marker of {marker.name} of run {marker.fingerprint[:16]}")
    return marker
