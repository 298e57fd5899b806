"""OME-Zarr outputs: the group made once, boxes of whole shards written, levels read, records.

Nothing here locks. A box is written only if it is made of whole shards, so that no two writers
ever touch one object; the bytes that lie there are never read first.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box
from orthoflow.stores.answers import refusals
from orthoflow.stores.documents import (
    FOLDER,
    array_document,
    array_path,
    check_spec,
    documents,
)
from orthoflow.stores.formats import Reading
from orthoflow.stores.objects import (
    create_object,
    delete_object,
    delete_tree,
    list_names,
    read_object,
    write_object,
)
from orthoflow.stores.sealed import seal, unseal
from orthoflow.stores.shards import written_shards
from orthoflow.stores.urls import locate, require_writable
from orthoflow.stores.zarr_nodes import known_node, layout_of, read_node
from orthoflow.stores.zarr_volumes import ZarrFormat

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import ArraySpec, LevelSpec, OutputSpec
    from orthoflow.stores.stamps import Stamp
    from orthoflow.stores.urls import Location, Options
    from orthoflow.stores.zarr_nodes import Node

RECORD_LIMIT = 16 * 2**20
"""Bytes of the largest record that is written or read."""

LOCKS = "locks"
"""Below `FOLDER`: held before an output is made, kept while one is replaced."""

_RECORD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_UNFINISHED = "creating"
_INDENT = 1
_WRITERS = 8


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a box stored."""

    nbytes: int
    """Before compression."""
    objects: tuple[Stamp, ...]
    """By key; shards of nothing but background are not stored."""


def create_output(
    url: str | Path,
    spec: OutputSpec,
    record: dict[str, Any],
    *,
    overwrite: bool = False,
    join: bool = False,
    storage_options: Options = (),
) -> dict[str, Any]:
    """Make the group with all its metadata, arrays without voxels, and the run's record.

    The record `orthoflow/run.json` is written last: where it exists the output is complete.
    `orthoflow/creating.json` says until then whose output this is going to be.

    Parameters
    ----------
    record
        With the run's "fingerprint".
    overwrite
        Replace what a run has made before. Not while others may write there.
    join
        Go on with an output that is there; complete one that was begun with this fingerprint. Any
        number of processes may do so at once. Goes before `overwrite`.

    Returns
    -------
    dict
        The record that is stored: this one or, with `join`, the one that was there first.

    Raises
    ------
    BadInput
        When something is there already (and `overwrite` is false, or no run made it), or the
        spec cannot be stored in its OME-Zarr version.
    StoreRefused
        When the store says no.
    """
    place = locate(url, storage_options)
    require_writable(place)
    check_spec(spec, place)
    fingerprint = record.get("fingerprint")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise BadInput(f"the record of output {place} has no fingerprint; give it one")
    content = _record_bytes("run", record)
    if place.is_local and Path(place.url).is_symlink():
        raise BadInput(f"output {place} is a symbolic link; give the path it points to")
    if join:
        there = _joined(place, fingerprint)
        if there is not None:
            return there
    else:
        _make_room(place, fingerprint, overwrite=overwrite)
    with refusals(place, "write to"):
        _write_documents(place, spec)
        first = create_object(_record_place(place, "run"), content)
        delete_object(_record_place(place, _UNFINISHED))
    if first:
        return unseal(content, f"{place}", indent=_INDENT)
    if not join:
        raise BadInput(f"output {place} was made by another run meanwhile; choose another path")
    return _record(place, "run")


def write_box(  # noqa: PLR0913 - where, what, and which part of it
    url: str | Path,
    spec: OutputSpec,
    path: str,
    level: int,
    box: Box,
    data: npt.NDArray[Any],
    storage_options: Options = (),
) -> Written:
    """Write whole shards, each with one request; nothing is read, metadata neither.

    Parameters
    ----------
    url, spec, path, level
        Output group, what it holds, array inside it ("labels/segmentation"), level number.
    box
        Starts on the shard grid, and ends on it or at the end of the array.
    data
        Voxels of `box`, (z, y, x) or (c, z, y, x), in the array's dtype.

    Raises
    ------
    BadInput
        When the box cuts a shard, or `data` has another shape or dtype than the array.
    """
    place = locate(url, storage_options)
    document = array_document(spec, path, level)
    array, cut = _level_of(spec, path, level)
    node = known_node(place.child(array_path(path, level)), document.decode())
    _check_whole(box, cut.shape, cut.shard, f"{node.place}")
    expected = (*((array.classes,) if array.classes else ()), *box.shape)
    if data.shape != expected or data.dtype != np.dtype(array.dtype):
        raise BadInput(
            f"data {data.shape} {data.dtype} does not fit {node.place}, box {box}: "
            f"expected {expected} {array.dtype}"
        )
    with refusals(node.place, "write to"):
        stamps = written_shards(node, array_path(path, level), (..., *box.slices), data)
    return Written(int(data.nbytes), stamps)


def read_level(
    url: str | Path,
    path: str,
    level: int,
    box: Box | None = None,
    storage_options: Options = (),
    *,
    spec: OutputSpec | None = None,
) -> npt.NDArray[Any]:
    """Voxels of one level, (z, y, x) or (c, z, y, x); all of them, or those of `box`.

    With `spec` no metadata are asked for. Shards that are not stored are background: whether one
    should be there is for `stores.verify.check_listing` to say, before anything is built of them.
    """
    place = locate(url, storage_options)
    where = array_path(path, level)
    if spec is None:
        node = _level_node(place, path, level)
    else:
        node = known_node(place.child(where), array_document(spec, path, level).decode())
    shape = layout_of(node).shape
    inside = Box.whole(_triple(shape))
    wanted = box or inside
    if not inside.contains(wanted):
        raise BadInput(f"box {wanted} reaches beyond {node.place} with shape {shape}")
    lead = tuple(slice(0, n) for n in shape[:-3])
    reading = Reading(json.dumps(node.document), fill=True)
    with refusals(node.place, "read"):
        return ZarrFormat().read(place, where, (*lead, *wanted.slices), reading)


def write_record(
    url: str | Path, name: str, content: dict[str, Any], storage_options: Options = ()
) -> None:
    """Store a JSON object, with its digest, at `orthoflow/<name>.json`, all of it or nothing."""
    place = _record_place(locate(url, storage_options), name)
    write_object(place, _record_bytes(name, content))


def read_record(url: str | Path, name: str, storage_options: Options = ()) -> dict[str, Any]:
    """The JSON object at `orthoflow/<name>.json`, without its digest.

    Raises
    ------
    BadInput
        When there is none, it is too large, it is not a JSON object, or its digest is another.
    """
    return _record(locate(url, storage_options), name)


def remove_record(url: str | Path, name: str, storage_options: Options = ()) -> None:
    """Remove `orthoflow/<name>.json`; nothing happens where it is not."""
    delete_object(_record_place(locate(url, storage_options), name))


def check_record(stored: bytes, named: str) -> dict[str, Any]:
    """A record from the bytes that are stored, which have to be those that were written.

    Raises
    ------
    BadInput
        When they are not.
    """
    return unseal(stored, named, indent=_INDENT)


def has_record(url: str | Path, name: str, storage_options: Options = ()) -> bool:
    """Whether `orthoflow/<name>.json` is stored."""
    place = _record_place(locate(url, storage_options), name)
    with refusals(place, "look at"):
        fs, path = place.filesystem()
        return bool(fs.exists(path))


def _record(place: Location, name: str) -> dict[str, Any]:
    one = _record_place(place, name)
    stored = read_object(one, limit=RECORD_LIMIT)
    if stored is None:
        raise BadInput(f"no record at {one}; is this the output of an orthoflow run?")
    return unseal(stored, f"{one}", exact=False, indent=_INDENT)


def _level_of(spec: OutputSpec, path: str, level: int) -> tuple[ArraySpec, LevelSpec]:
    array = next(one for one in spec.arrays if one.path == path)
    return array, array.levels[level]


def _level_node(place: Location, path: str, level: int) -> Node:
    node = read_node(place.child(array_path(path, level)))
    if node is None or node.kind != "array":
        raise BadInput(f"no level {level} of {path!r} in {place}")
    return node


def _check_whole(box: Box, shape: tuple[int, ...], grid: tuple[int, ...], named: str) -> None:
    for axis, lo, hi, step, size in zip(AXES, box.start, box.stop, grid, shape, strict=True):
        if lo % step or (hi % step and hi != size) or not 0 <= lo < hi <= size:
            raise BadInput(
                f"box {lo}:{hi} on axis {axis} of {named} is not whole shards of {step} voxels "
                f"within {size}, so two writers could meet in one object; "
                f"make the block a multiple of {step}"
            )


def _joined(place: Location, fingerprint: str) -> dict[str, Any] | None:
    """The record of an output that is complete; None where it is now ours to be completed.

    Whoever makes an output stores `creating` first and removes it after the record. So who could
    store it and then finds no record knows that nobody has completed the output.
    """
    unfinished, record = _record_place(place, _UNFINISHED), _record_place(place, "run")
    while True:
        names, ours = _names_of(place)
        # A listing that is taken while others write may miss what was there all the time.
        if "run.json" in ours or (names and not ours and _is_complete(record)):
            return _record(place, "run")
        if names and not ours:
            raise _taken(place, names)
        if create_object(unfinished, _creating(fingerprint)):
            if not _is_complete(record):
                return None
            delete_object(unfinished)
            continue
        stored = read_object(unfinished, limit=RECORD_LIMIT)
        if stored is not None:
            _check_creating(
                unseal(stored, f"{unfinished}", exact=False, indent=_INDENT), fingerprint, place
            )
            return None


def _is_complete(record: Location) -> bool:
    return read_object(record, limit=RECORD_LIMIT) is not None


def _check_creating(content: dict[str, Any], fingerprint: str, place: Location) -> None:
    if content.get("clearing"):
        raise BadInput(
            f"output {place} was being replaced when that was stopped, and holds parts of what was "
            "there before; pass --overwrite"
        )
    if content.get("fingerprint") != fingerprint:
        raise BadInput(
            f"output {place} was begun with other settings; use the same ones to resume, another "
            "output, or overwrite"
        )


def _make_room(place: Location, fingerprint: str, *, overwrite: bool) -> None:
    """Take the place for an output; what a run made there before goes if `overwrite` says so."""
    names, ours = _names_of(place)
    if names:
        if not overwrite:
            raise _taken(place, names, made_here=bool(ours))
        if not ours:
            raise BadInput(
                f"output {place} was not made by an orthoflow run (no {FOLDER}/run.json), so it is "
                "not removed; remove it by hand or choose another path"
            )
        _clear(place, names, fingerprint)
    if not create_object(_record_place(place, _UNFINISHED), _creating(fingerprint)):
        raise BadInput(f"output {place} is being made by another run; choose another path")


def _clear(place: Location, names: list[str], fingerprint: str) -> None:
    """Remove an output but for its locks, in an order that can be stopped anywhere."""
    unfinished = _record_place(place, _UNFINISHED)
    # From here on nobody joins; with the record gone nobody resumes either.
    write_object(unfinished, _creating(fingerprint, clearing=True))
    delete_object(_record_place(place, "run"))
    folder = place.child(FOLDER)
    below = [folder.child(name) for name in list_names(folder)]
    kept = {folder.child(LOCKS), unfinished}
    for one in (*below, *(place.child(name) for name in names if name != FOLDER)):
        if one not in kept:
            delete_tree(one)
    delete_object(unfinished)


def _names_of(place: Location) -> tuple[list[str], set[str]]:
    """Names in an output, none where there are only locks, and which of the records tell a run."""
    fs, path = place.filesystem()
    with refusals(place, "look at"):
        names = list_names(place)
        if not names and fs.exists(path) and not fs.isdir(path):
            return ["a file"], set()
    below = set(list_names(place.child(FOLDER))) if FOLDER in names else set()
    # Of others that are about to make this output.
    below = {name for name in below if not name.endswith(".partial")}
    if names == [FOLDER] and below <= {LOCKS}:
        return [], set()
    return names, below & {"run.json", f"{_UNFINISHED}.json"}


def _taken(place: Location, names: list[str], *, made_here: bool = False) -> BadInput:
    what = "the output of a run" if made_here else f"holding {', '.join(names[:5])}"
    return BadInput(
        f"output {place} exists already ({what}); pass --overwrite or --resume, or choose another "
        "path"
    )


def _write_documents(place: Location, spec: OutputSpec) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        contents = documents(spec).items()
        tasks = [pool.submit(write_object, place.child(key), one) for key, one in contents]
        for task in tasks:
            task.result()


def _creating(fingerprint: str, *, clearing: bool = False) -> bytes:
    return seal({"fingerprint": fingerprint, "clearing": clearing}, indent=_INDENT)


def _record_place(place: Location, name: str) -> Location:
    if not _RECORD_NAME.fullmatch(name) or ".." in name:
        raise BadInput(f"record name {name!r}: use letters, digits, '-', '_', '.' and '/'")
    return place.child(f"{FOLDER}/{name}.json")


def _record_bytes(name: str, content: dict[str, Any]) -> bytes:
    encoded = seal(content, indent=_INDENT)
    if len(encoded) > RECORD_LIMIT:
        raise BadInput(f"record {name!r} has {len(encoded)} bytes; at most {RECORD_LIMIT}")
    return encoded


def _triple(shape: tuple[int, ...]) -> Triple:
    z, y, x = shape[-3:]
    return (z, y, x)
