"""OME-Zarr outputs: the group made once, boxes of whole shards written, levels read, records.

Nothing here locks. A box is written only if it is made of whole shards, so that no two writers
ever touch one object; the bytes that lie there are never read first.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.storage import WrapperStore

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box
from orthoflow.stores.multiscales import group_attributes, image_metadata
from orthoflow.stores.objects import delete_tree, list_names, read_json, write_object
from orthoflow.stores.urls import locate, refusals, require_writable
from orthoflow.stores.zarr_nodes import as_array, layout_of, open_array, read_node

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt
    import zarr
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import ArraySpec, LevelSpec, OutputSpec
    from orthoflow.stores.urls import Location, Options
    from orthoflow.stores.zarr_nodes import Layout, Node

FOLDER = "orthoflow"
"""Where records lie inside an output."""

RECORD_LIMIT = 16 * 2**20
"""Bytes of the largest record that is written or read."""

_RECORD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_UNFINISHED = "creating"


def create_output(
    url: str | Path,
    spec: OutputSpec,
    record: dict[str, Any],
    *,
    overwrite: bool = False,
    storage_options: Options = (),
) -> None:
    """Make the group with all its metadata, arrays without voxels, and the run's record.

    The record `orthoflow/run.json` is written last: where it exists the output is complete.

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
    _check_spec(spec)
    _record_bytes("run", record)
    _make_room(place, overwrite=overwrite)
    with refusals(place, "write to"):
        write_record(url, _UNFINISHED, {"format": spec.ome_version}, storage_options)
        _create_groups(place, spec)
        write_record(url, "run", record, storage_options)
        fs, path = place.child(f"{FOLDER}/{_UNFINISHED}.json").filesystem()
        fs.rm_file(path)


def write_box(
    url: str | Path,
    path: str,
    level: int,
    box: Box,
    data: npt.NDArray[Any],
    storage_options: Options = (),
) -> int:
    """Write whole shards; return their uncompressed bytes.

    Parameters
    ----------
    url, path, level
        Output group, array inside it ("labels/segmentation"), level number.
    box
        Starts on the shard grid, and ends on it or at the end of the array.
    data
        Voxels of `box`, (z, y, x) or (c, z, y, x), in the array's dtype.

    Raises
    ------
    BadInput
        When the box cuts a shard, or `data` has another shape or dtype than the array.
    """
    node = _level_node(locate(url, storage_options), path, level)
    layout = layout_of(node)
    shape, grid = layout.shape[-3:], (layout.shards or layout.chunks)[-3:]
    _check_whole(box, shape, grid, f"{node.place}")
    expected = (*layout.shape[:-3], *box.shape)
    if data.shape != expected or data.dtype != layout.dtype:
        raise BadInput(
            f"data {data.shape} {data.dtype} does not fit {node.place}, box {box}: "
            f"expected {expected} {layout.dtype}"
        )
    with refusals(node.place, "write to"):
        array = _writable(node)
        array[(..., *box.slices)] = data
    return int(data.nbytes)


def read_level(
    url: str | Path,
    path: str,
    level: int,
    box: Box | None = None,
    storage_options: Options = (),
) -> npt.NDArray[Any]:
    """Voxels of one level, (z, y, x) or (c, z, y, x); all of them, or those of `box`."""
    node = _level_node(locate(url, storage_options), path, level)
    layout = layout_of(node)
    inside = Box.whole(_triple(layout.shape))
    wanted = box or inside
    if not inside.contains(wanted):
        raise BadInput(f"box {wanted} reaches beyond {node.place} with shape {layout.shape}")
    return as_array(open_array(node)[(..., *wanted.slices)])


def level_layout(
    url: str | Path, path: str, level: int, storage_options: Options = ()
) -> tuple[Layout, dict[str, Any]]:
    """Layout of one level and what the run noted beside it: `factors` from level 0, `kind`."""
    node = _level_node(locate(url, storage_options), path, level)
    noted = node.attributes.get(FOLDER)
    if not isinstance(noted, dict) or "factors" not in noted or "kind" not in noted:
        raise BadInput(f"{node.place} was not made by orthoflow: it notes no factors")
    return layout_of(node), noted


def write_record(
    url: str | Path, name: str, content: dict[str, Any], storage_options: Options = ()
) -> None:
    """Store a JSON object at `orthoflow/<name>.json`, all of it or nothing."""
    content_bytes = _record_bytes(name, content)
    write_object(_record_place(locate(url, storage_options), name), content_bytes)


def read_record(url: str | Path, name: str, storage_options: Options = ()) -> dict[str, Any]:
    """The JSON object at `orthoflow/<name>.json`.

    Raises
    ------
    BadInput
        When there is none, it is too large, or it is not a JSON object.
    """
    place = _record_place(locate(url, storage_options), name)
    content = read_json(place, limit=RECORD_LIMIT)
    if content is None:
        raise BadInput(f"no record at {place}; is this the output of an orthoflow run?")
    return content


def has_record(url: str | Path, name: str, storage_options: Options = ()) -> bool:
    """Whether `orthoflow/<name>.json` is stored."""
    place = _record_place(locate(url, storage_options), name)
    with refusals(place, "look at"):
        fs, path = place.filesystem()
        return bool(fs.exists(path))


class _OwnedChunks(WrapperStore[Any]):
    """A store whose chunks are never read: their writer owns them as a whole.

    Without it zarr reads shards at the border of an array before it writes them, because the
    array does not fill them, and would stumble over one that a killed writer left torn.
    """

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,  # noqa: ARG002 - the store's interface
        byte_range: ByteRequest | None = None,  # noqa: ARG002
    ) -> Buffer | None:
        del key
        return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,  # noqa: ARG002
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [None for _ in key_ranges]


def _writable(node: Node) -> zarr.Array[Any]:
    import zarr  # noqa: PLC0415
    from zarr.storage import StorePath  # noqa: PLC0415

    store: Store = _OwnedChunks(node.place.zarr_store(read_only=False))
    document = dict(node.document)
    if node.zarr_format == 2:
        document["attributes"] = node.attributes
    return zarr.Array.from_dict(StorePath(store, ""), document)


def _level_node(place: Location, path: str, level: int) -> Node:
    node = read_node(place.child("/".join(part for part in (path, str(level)) if part)))
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


def _check_spec(spec: OutputSpec) -> None:
    if not spec.arrays:
        raise BadInput("the output has no arrays; ask for labels or probabilities")
    for array in spec.arrays:
        if array.kind == "labels" and np.dtype(array.dtype).kind not in "iu":
            raise BadInput(f"labels {array.path!r} have dtype {array.dtype}; use whole numbers")
        if spec.ome_version == "0.4" and any(one.shard != one.chunk for one in array.levels):
            raise BadInput("OME-Zarr 0.4 has no shards; use --ome-version 0.5 or shard = chunk")


def _make_room(place: Location, *, overwrite: bool) -> None:
    if place.is_local and _is_link(place):
        raise BadInput(f"output {place} is a symbolic link; give the path it points to")
    fs, path = place.filesystem()
    with refusals(place, "look at"):
        names = list_names(place)
        taken = bool(names) or (fs.exists(path) and not fs.isdir(path))
    if not taken:
        return
    made_here = any(
        fs.exists(place.child(f"{FOLDER}/{name}.json").filesystem()[1])
        for name in ("run", _UNFINISHED)
    )
    if not overwrite:
        what = "the output of a run" if made_here else f"holding {', '.join(names[:5]) or 'a file'}"
        remedy = "pass --overwrite or --resume, or choose another path"
        raise BadInput(f"output {place} exists already ({what}); {remedy}")
    if not made_here:
        raise BadInput(
            f"output {place} was not made by an orthoflow run (no {FOLDER}/run.json), so it is not "
            "removed; remove it by hand or choose another path"
        )
    delete_tree(place)


def _is_link(place: Location) -> bool:
    from pathlib import Path  # noqa: PLC0415 - otherwise for types only

    return Path(place.url).is_symlink()


def _create_groups(place: Location, spec: OutputSpec) -> None:
    import zarr  # noqa: PLC0415

    zarr_format = 3 if spec.ome_version == "0.5" else 2
    store = place.zarr_store(read_only=False)
    for path, content in _group_contents(spec).items():
        group = zarr.open_group(store, path=path, mode="a", zarr_format=zarr_format)  # type: ignore[arg-type]
        attributes = group_attributes(spec.ome_version, content) if content else {}
        group.attrs.put(attributes)
    for array in spec.arrays:
        group = zarr.open_group(store, path=array.path, mode="r+", zarr_format=zarr_format)  # type: ignore[arg-type]
        for number, level in enumerate(array.levels):
            _create_array(group, str(number), array, level, spec)


def _group_contents(spec: OutputSpec) -> dict[str, dict[str, Any]]:
    """OME metadata of every group, parents first; an empty dict for a plain group."""
    groups: dict[str, dict[str, Any]] = {"": _root_content(spec)}
    for array in spec.arrays:
        parts = array.path.split("/") if array.path else []
        for count in range(1, len(parts)):
            groups.setdefault("/".join(parts[:count]), {})
        if parts:
            groups[array.path] = _image_content(spec, array)
        if len(parts) == 2 and parts[0] == "labels":
            groups["labels"].setdefault("labels", []).append(parts[1])
    return groups


def _root_content(spec: OutputSpec) -> dict[str, Any]:
    images = [array for array in spec.arrays if array.kind == "image"]
    labels = [array for array in spec.arrays if array.path.startswith("labels/")]
    shown = (images or labels or list(spec.arrays))[0]
    prefix = f"{shown.path}/" if shown.path else ""
    return {"multiscales": [image_metadata(spec, shown, prefix)]}


def _image_content(spec: OutputSpec, array: ArraySpec) -> dict[str, Any]:
    content: dict[str, Any] = {"multiscales": [image_metadata(spec, array)]}
    if array.kind == "labels":
        version = {"version": "0.4"} if spec.ome_version == "0.4" else {}
        up = "../" * len(array.path.split("/"))
        content["image-label"] = {**version, "source": {"image": up}}
    return content


def _create_array(
    group: zarr.Group, name: str, array: ArraySpec, level: LevelSpec, spec: OutputSpec
) -> None:
    # One channel to a chunk and to a shard: viewers fetch channels one at a time.
    lead = (array.classes,) if array.classes else ()
    ones = (1,) * len(lead)
    keywords = _coding_v3(lead, level, spec) if spec.ome_version == "0.5" else _coding_v2(spec)
    group.create_array(
        name,
        shape=(*lead, *level.shape),
        chunks=(*ones, *level.chunk),
        dtype=array.dtype,
        fill_value=0,
        attributes={FOLDER: {"factors": list(level.factors), "kind": array.kind}},
        **keywords,
    )


def _coding_v3(lead: tuple[int, ...], level: LevelSpec, spec: OutputSpec) -> dict[str, Any]:
    from zarr.codecs import Crc32cCodec, ZstdCodec  # noqa: PLC0415

    shards = (*(1 for _ in lead), *level.shard) if level.shard != level.chunk else None
    return {
        "shards": shards,
        "compressors": [ZstdCodec(level=spec.compression), Crc32cCodec()],
        "dimension_names": [*("c" for _ in lead), *AXES],
    }


def _coding_v2(spec: OutputSpec) -> dict[str, Any]:
    return {
        "compressors": {"id": "zstd", "level": spec.compression, "checksum": True},
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
    }


def _record_place(place: Location, name: str) -> Location:
    if not _RECORD_NAME.fullmatch(name) or ".." in name:
        raise BadInput(f"record name {name!r}: use letters, digits, '-', '_', '.' and '/'")
    return place.child(f"{FOLDER}/{name}.json")


def _record_bytes(name: str, content: dict[str, Any]) -> bytes:
    encoded = json.dumps(content, indent=1, allow_nan=False).encode()
    if len(encoded) > RECORD_LIMIT:
        raise BadInput(f"record {name!r} has {len(encoded)} bytes; at most {RECORD_LIMIT}")
    return encoded


def _triple(shape: tuple[int, ...]) -> Triple:
    z, y, x = shape[-3:]
    return (z, y, x)
