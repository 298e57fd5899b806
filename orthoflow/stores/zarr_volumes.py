"""Volumes in Zarr v2 and v3: plain arrays, groups of arrays, OME-Zarr images and labels."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput, BlockFailed, StoreRefused
from orthoflow.stores.answers import first_line
from orthoflow.stores.formats import DECODER_ERRORS, Reading, Stored, is_damage
from orthoflow.stores.guard import guarded_store
from orthoflow.stores.multiscales import channel_names, label_names, read_multiscale
from orthoflow.stores.zarr_nodes import (
    as_array,
    child_nodes,
    document_of,
    known_node,
    layout_of,
    open_array,
    read_node,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from orthoflow.stores.guard import GuardedStore
    from orthoflow.stores.multiscales import Multiscale
    from orthoflow.stores.urls import Location
    from orthoflow.stores.zarr_nodes import Layout, Node

_SEARCH_DEPTH = 5
"""Groups in groups that are looked into: a plate holds row, column, field, level."""
_LETTERS = set("tczyx")
_OWN = "orthoflow"
"""Attribute of the arrays that `stores.ome` makes, where empty chunks are not stored."""


class ZarrFormat:
    """Zarr arrays, alone or in groups."""

    def find(self, place: Location, array: str | None, level: int) -> tuple[Location, str]:
        """Place and path of the array: by path, by OME-Zarr level, or the only one there is."""
        path = (array or "").strip("/")
        node = read_node(place.child(path))
        if node is None:
            found = ", ".join(_choices(place)) or "none that can be listed"
            raise BadInput(f"no array {path!r} in {place}; it has: {found}")
        if node.kind == "group":
            return place, _join(path, _within_group(node, level))
        _only_level(node, level)
        return (place, path) if path else _with_parent(place)

    def inspect(self, place: Location, array: str) -> Stored:
        """Facts of one array, with the calibration its group states for it."""
        node = _require(place, array)
        layout = layout_of(node)
        # Unknown codecs and the like show here, before any work is planned.
        open_array(node, store=guarded_store(node, layout, Reading()))
        facts = Stored(
            layout.shape,
            layout.dtype,
            _named_axes(layout.names),
            layout.chunks,
            document=document_of(node),
            sparse=_OWN in node.attributes,
            shards=layout.shards,
            checksum=layout.checksum,
        )
        image, level = _described_by(place, array)
        if image is None:
            return facts
        if len(image.axes) != len(layout.shape):
            raise BadInput(
                f"{node.place} has shape {layout.shape} but its metadata states axes "
                f"{image.axes!r}; correct the metadata or pass the array's own url and --axes"
            )
        scale, translation = image.calibration(level)
        return replace(
            facts, axes=image.axes, scale=scale, translation=translation, units=image.units
        )

    def read(
        self, place: Location, array: str, index: tuple[slice, ...], reading: Reading
    ) -> npt.NDArray[np.generic]:
        """Voxels of `index`; zarr fetches every chunk it touches once, and no metadata."""
        if reading.document:
            node = known_node(place.child(array), reading.document)
        else:
            node = _require(place, array)
        layout = layout_of(node)
        try:
            return _values(node, guarded_store(node, layout, reading, index), index)
        except DECODER_ERRORS as error:
            if not is_damage(error):
                raise
            raise _first_damaged(node, layout, reading, index, error) from error

    def summarize(self, place: Location) -> dict[str, Any]:
        """Levels, codecs, channels and labels of an image, or the arrays of a group."""
        node = _require(place, "")
        if node.kind == "array":
            return {"levels": [_array_facts(node, "")], "format": f"zarr v{node.zarr_format}"}
        image = read_multiscale(node.attributes, node.named)
        facts: dict[str, Any] = {"format": f"zarr v{node.zarr_format}", "labels": _labels(place)}
        if image is None:
            names = _choices(place)
            inner = [self.find(place, None, 0)[1]] if len(names) == 1 else []
            levels = [_array_facts(_require(place, path), path) for path in inner]
            return {**facts, "arrays": names, "levels": levels}
        levels = [
            {
                **_array_facts(_require(place, dataset.path), dataset.path),
                "scale": image.calibration(number)[0],
                "translation": image.calibration(number)[1],
            }
            for number, dataset in enumerate(image.datasets)
        ]
        return {
            **facts,
            "format": f"ome-zarr {image.version or '(version not stated)'}",
            "axes": image.axes,
            "units": [
                unit for axis, unit in zip(image.axes, image.units, strict=True) if axis in "zyx"
            ],
            "channel_names": channel_names(node.attributes),
            "levels": levels,
        }


def _values(node: Node, store: GuardedStore, index: tuple[slice, ...]) -> npt.NDArray[np.generic]:
    try:
        return as_array(open_array(node, store=store)[index])
    except ExceptionGroup as group:
        # Ranges of one shard are read side by side, and fail side by side.
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from first.__cause__


def _first_damaged(
    node: Node, layout: Layout, reading: Reading, index: tuple[slice, ...], error: Exception
) -> BlockFailed:
    """The failure that names the chunk: read one by one, the first that cannot be decoded."""
    for part in _chunks_of(layout, index):
        store = guarded_store(node, layout, reading, part)
        try:
            _values(node, store, part)
        except DECODER_ERRORS as found:
            if not is_damage(found):
                raise
            return BlockFailed(
                f"chunk {', '.join(store.keys)} of {node.place} cannot be decoded: "
                f"{first_line(found)}; store it again"
            )
    return BlockFailed(
        f"a chunk of {node.place} could not be decoded at first ({first_line(error)}), but when "
        "read again; its store or network is not reliable"
    )


def _chunks_of(layout: Layout, index: tuple[slice, ...]) -> Iterator[tuple[slice, ...]]:
    """What `index` wants of each chunk that it touches."""
    axes = []
    for span, size, chunk in zip(index, layout.shape, layout.chunks, strict=True):
        start, stop, _ = span.indices(size)
        firsts = range(start - start % chunk, stop, chunk)
        axes.append([slice(max(start, one), min(stop, one + chunk)) for one in firsts])
    return itertools.product(*axes)


def _require(place: Location, array: str) -> Node:
    node = read_node(place.child(array))
    if node is None:
        raise BadInput(f"no array {array!r} in {place}; it may have been removed")
    return node


def _within_group(node: Node, level: int) -> str:
    image = read_multiscale(node.attributes, node.named)
    if image is not None:
        if not 0 <= level < len(image.datasets):
            raise BadInput(
                f"level {level} of {node.place}: it has {len(image.datasets)} levels, "
                f"0 to {len(image.datasets) - 1}"
            )
        return image.datasets[level].path
    names = _choices(node.place)
    if not names:
        raise BadInput(
            f"no array in the group {node.place}; pass --array NAME if its store cannot be listed"
        )
    if len(names) > 1:
        raise BadInput(f"{node.place} holds several arrays: {', '.join(names)}; pass --array NAME")
    only = _require(node.place, names[0])
    if only.kind == "group":
        return _join(names[0], _within_group(only, level))
    _only_level(only, level)
    return names[0]


def _only_level(node: Node, level: int) -> None:
    if level:
        raise BadInput(f"level {level} of {node.place}: it is one array; pass its image's url")


def _choices(place: Location) -> list[str]:
    return list(_walk(place, "", _SEARCH_DEPTH))


def _walk(place: Location, prefix: str, depth: int) -> Iterator[str]:
    for name, node in child_nodes(place):
        path = _join(prefix, name)
        if node.kind == "array" or read_multiscale(node.attributes, node.named) is not None:
            yield path
        elif depth > 1:
            yield from _walk(node.place, path, depth - 1)


def _with_parent(place: Location) -> tuple[Location, str]:
    # The group above states the voxel size, if it lists this array as one of its levels.
    parent = place.parent
    if place.is_local and parent.url == place.url:
        return place, ""
    if not place.is_local and parent.url.endswith(":/"):
        return place, ""
    try:
        image, _ = _described_by(parent, place.name)
    except (BadInput, StoreRefused):
        # What lies above was not asked for: it may be forbidden, or not ours to judge.
        return place, ""
    return (place, "") if image is None else (parent, place.name)


def _described_by(place: Location, array: str) -> tuple[Multiscale | None, int]:
    """Nearest group on the way from `place` to the array that lists it, and the level it is."""
    parts = array.split("/") if array else []
    for count in range(len(parts) - 1, -1, -1):
        group = read_node(place.child("/".join(parts[:count])))
        if group is None or group.kind == "array":
            continue
        image = read_multiscale(group.attributes, group.named)
        below = "/".join(parts[count:])
        if image is not None:
            paths = [dataset.path for dataset in image.datasets]
            if below in paths:
                return image, paths.index(below)
    return None, 0


def _named_axes(names: tuple[str | None, ...] | None) -> str | None:
    letters = [str(name).lower() for name in names or ()]
    known = set(letters) <= _LETTERS and len(set(letters)) == len(letters)
    return "".join(letters) if letters and known else None


def _labels(place: Location) -> list[str]:
    node = read_node(place.child("labels"))
    return [] if node is None else [f"labels/{name}" for name in label_names(node.attributes)]


def _array_facts(node: Node, path: str) -> dict[str, Any]:
    layout = layout_of(node)
    return {
        "path": path,
        "shape": list(layout.shape),
        "dtype": layout.dtype.name,
        "chunks": list(layout.chunks),
        "shards": list(layout.shards) if layout.shards else None,
        "codecs": list(layout.codecs),
        "checksum": layout.checksum,
        "bytes": math.prod(layout.shape) * layout.dtype.itemsize,
    }


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
