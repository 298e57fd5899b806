"""Metadata of an output: every document of every group and array, from the plan alone.

The documents are written out here and not by zarr, so that they are the same bytes whichever
process makes them, and with whichever version of zarr.
"""

from __future__ import annotations

import functools
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES
from orthoflow.geometry.output import check_path
from orthoflow.stores.multiscales import group_attributes, image_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orthoflow.geometry.output import ArraySpec, LevelSpec, OutputSpec
    from orthoflow.stores.urls import Location

FOLDER = "orthoflow"
"""Where records lie inside an output, and the attribute that its arrays have."""


@functools.lru_cache(maxsize=16)
def documents(spec: OutputSpec) -> Mapping[str, bytes]:
    """Every metadata object of an output, by its key inside the group."""
    content: dict[str, bytes] = {}
    for path, facts in _group_contents(spec).items():
        content |= _group_documents(path, facts, spec)
    for array in spec.arrays:
        for number in range(len(array.levels)):
            content |= _array_documents(array, number, spec)
    return MappingProxyType(dict(sorted(content.items())))


def array_document(spec: OutputSpec, path: str, level: int) -> bytes:
    """The document of one array, without which no voxel can be read or written.

    Raises
    ------
    BadInput
        If the output has no such array or level.
    """
    name = "zarr.json" if spec.ome_version == "0.5" else ".zarray"
    found = documents(spec).get(f"{array_path(path, level)}/{name}")
    if found is None:
        raise BadInput(f"no level {level} of {path!r} in this output; it has {_named(spec)}")
    return found


def array_path(path: str, level: int) -> str:
    """Where a level of an array lies inside the group."""
    return f"{path}/{level}" if path else str(level)


def chunk_folder(spec: OutputSpec, path: str, level: int) -> str:
    """Where the objects of a level lie inside the group."""
    return array_path(path, level) + ("/c" if spec.ome_version == "0.5" else "")


def check_spec(spec: OutputSpec, place: Location) -> None:
    """Refuse what cannot be stored in its OME-Zarr version.

    Raises
    ------
    BadInput
        With the array and the remedy.
    """
    if not spec.arrays:
        raise BadInput(f"output {place} has no arrays; ask for labels or probabilities")
    for array in spec.arrays:
        check_path(array.path)
        if array.kind == "labels" and np.dtype(array.dtype).kind not in "iu":
            raise BadInput(f"labels {array.path!r} have dtype {array.dtype}; use whole numbers")
        if spec.ome_version == "0.4" and any(one.shard != one.chunk for one in array.levels):
            raise BadInput("OME-Zarr 0.4 has no shards; use --ome-version 0.5 or shard = chunk")


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


def _group_documents(path: str, facts: dict[str, Any], spec: OutputSpec) -> dict[str, bytes]:
    prefix = f"{path}/" if path else ""
    attributes = group_attributes(spec.ome_version, facts) if facts else {}
    if spec.ome_version == "0.5":
        content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return {f"{prefix}zarr.json": _encoded(content)}
    return {
        f"{prefix}.zgroup": _encoded({"zarr_format": 2}),
        f"{prefix}.zattrs": _encoded(attributes),
    }


def _array_documents(array: ArraySpec, number: int, spec: OutputSpec) -> dict[str, bytes]:
    level = array.levels[number]
    prefix = array_path(array.path, number)
    attributes = {FOLDER: {"factors": list(level.factors), "kind": array.kind}}
    if spec.ome_version == "0.5":
        content = {**_array_v3(array, level, spec), "attributes": attributes}
        return {f"{prefix}/zarr.json": _encoded(content)}
    return {
        f"{prefix}/.zarray": _encoded(_array_v2(array, level, spec)),
        f"{prefix}/.zattrs": _encoded(attributes),
    }


def _array_v3(array: ArraySpec, level: LevelSpec, spec: OutputSpec) -> dict[str, Any]:
    dtype = np.dtype(array.dtype)
    # One channel to a chunk and to a shard: viewers fetch channels one at a time.
    ones = [1] if array.classes else []
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}
    codecs: list[dict[str, Any]] = [
        plain if dtype.itemsize > 1 else {"name": "bytes"},
        {"name": "zstd", "configuration": {"level": spec.compression, "checksum": False}},
        checksum,
    ]
    if level.shard != level.chunk:
        inner = {
            "chunk_shape": [*ones, *level.chunk],
            "codecs": codecs,
            "index_codecs": [plain, checksum],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": _full_shape(array, level),
        "data_type": array.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [*ones, *level.shard]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _zero(dtype),
        "codecs": codecs,
        "dimension_names": [*("c" for _ in ones), *AXES],
        "storage_transformers": [],
    }


def _array_v2(array: ArraySpec, level: LevelSpec, spec: OutputSpec) -> dict[str, Any]:
    dtype = np.dtype(array.dtype)
    return {
        "zarr_format": 2,
        "shape": _full_shape(array, level),
        "chunks": [*([1] if array.classes else []), *level.chunk],
        "dtype": dtype.newbyteorder("<").str,
        "compressor": {"id": "zstd", "level": spec.compression, "checksum": True},
        "fill_value": _zero(dtype),
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _full_shape(array: ArraySpec, level: LevelSpec) -> list[int]:
    return [*([array.classes] if array.classes else []), *level.shape]


def _zero(dtype: np.dtype[Any]) -> float:
    return 0.0 if dtype.kind == "f" else 0


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()


def _named(spec: OutputSpec) -> str:
    return ", ".join(f"{one.path!r} with {len(one.levels)} levels" for one in spec.arrays)
