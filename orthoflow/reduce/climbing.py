"""Hill climbing in a block: where voxels go on the relief of distances, and where their ways end.

A voxel goes to the highest of its neighbours and itself, of its own class; of equal ones to the
first in raster order of the volume. Where the relief is cut off it is flat, and connected voxels
there go to the first of them. See `basins` for the whole method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.distances import squared_distances
from orthoflow.reduce.fragments import Int
from orthoflow.reduce.pieces import (
    Connectivity,
    Pieces,
    labels_of,
    pieces_of,
    raster_index,
    whole_numbers,
)

Ways = npt.NDArray[np.signedinteger[Any]]

# Planes that are climbed at once.
_PLANES = 16


@dataclass(frozen=True, slots=True)
class Climbed:
    """A block in pieces: what climbs to one peak in it, or to one voxel outside of it.

    Attributes
    ----------
    pieces
        Pieces in the order of where their ways end.
    label
        (n,) class of each.
    to
        (n,) raster index in the volume of the peak, or of the voxel outside of the block.
    level
        (n,) squared height there.
    height
        Squared heights (z, y, x).
    """

    pieces: Pieces
    label: Int
    to: Int
    level: Int
    height: npt.NDArray[np.uint16]


def surroundings(box: Box, shape: Triple, radius: int) -> Box:
    """What has to be known of a volume of `shape` to climb in `box`: `radius` voxels more.

    That is enough for the neighbours of its voxels, too: what is `radius` away from one, or more,
    does not show in its height.
    """
    return _grown(box, shape, radius)


def climb(
    classes: npt.NDArray[np.generic],
    box: Box,
    shape: Triple,
    radius: int,
    connectivity: Connectivity,
) -> Climbed:
    """Climb in the block `box` of a volume of `shape`; `classes` are those of its surroundings.

    Raises
    ------
    BadInput
        If the classes are no whole numbers, or do not fit the block, or for a radius out of range.
    """
    outer = surroundings(box, shape, radius)
    known = whole_numbers(classes, "classes", outer.shape)
    near = _grown(box, shape, 1)
    height = squared_distances(known, radius)[near.within(outer)]
    known = np.ascontiguousarray(known[near.within(outer)])
    own = box.within(near)
    mine = np.zeros(near.shape, np.bool_)
    mine[own] = known[own] > 0
    inside = np.flatnonzero(mine)
    narrow: type[np.signedinteger[Any]] = np.int32 if mine.size < 2**31 else np.int64
    way: Ways = np.arange(mine.size).astype(narrow)
    _point(way, mine, height, known, connectivity)
    _point_on_top(way, known, own, height == radius**2, connectivity)
    while True:
        further = way[way[inside]]
        if np.array_equal(further, way[inside]):
            break
        way[inside] = further
    ends = np.zeros(mine.size, np.bool_)
    ends[way[inside]] = True
    number = np.zeros(mine.size, way.dtype)
    number[inside] = np.cumsum(ends, dtype=way.dtype)[way[inside]]
    block = np.ascontiguousarray(number.reshape(near.shape)[own])
    pieces = Pieces.of(block, int(np.count_nonzero(ends)))
    last = np.flatnonzero(ends)
    to = raster_index(np.unravel_index(last, near.shape), near, shape)
    level = height.reshape(-1)[last].astype(np.int64)
    label = labels_of(pieces, np.ascontiguousarray(known[own]))
    return Climbed(pieces, label, to, level, np.ascontiguousarray(height[own]))


def _point(
    way: Ways,
    mine: npt.NDArray[np.bool_],
    height: npt.NDArray[np.uint16],
    classes: npt.NDArray[np.integer[Any]],
    connectivity: Connectivity,
) -> None:
    """Write where `mine` go: the index of the highest neighbour of their class, or their own.

    A key holds a height and, below it, an index that counts backwards; so the greatest of the keys
    around a voxel names the neighbour that it goes to.
    """
    bits = way.size.bit_length()
    plane = mine.shape[1] * mine.shape[2]
    kinds = np.unique(classes[mine]).tolist()
    for low in range(0, len(mine), _PLANES):
        high = min(low + _PLANES, len(mine))
        first, last = max(low - 1, 0), min(high + 1, len(mine))
        place = way.size - 1 - np.arange(first * plane, last * plane)
        keys = height[first:last].astype(np.int64) << bits
        keys += place.reshape(keys.shape)
        for klass in kinds:
            alike = classes[first:last] == klass
            best = _greatest_around(np.where(alike, keys, 0), connectivity)[low - first :]
            inside = np.flatnonzero(mine[low:high] & alike[low - first : high - first])
            found = best.reshape(-1)[inside] & ((1 << bits) - 1)
            way[low * plane + inside] = way.size - 1 - found


def _greatest_around(
    keys: npt.NDArray[np.int64], connectivity: Connectivity
) -> npt.NDArray[np.int64]:
    best = keys.copy()
    for axis in range(3):
        # Over all corners: what was greatest along the axes before goes on along this one.
        seen = best.copy() if connectivity == 26 else keys
        low, high = [slice(None)] * 3, [slice(None)] * 3
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(low), tuple(high)
        np.maximum(best[here], seen[there], out=best[here])
        np.maximum(best[there], seen[here], out=best[there])
    return best


def _point_on_top(
    way: Ways,
    classes: npt.NDArray[np.integer[Any]],
    own: tuple[slice, ...],
    top: npt.NDArray[np.bool_],
    connectivity: Connectivity,
) -> None:
    """Let voxels where the relief is cut off go to the first one that is connected with them."""
    flat = np.ascontiguousarray(np.where(top, classes, 0)[own])
    if not flat.any():
        return
    pieces = pieces_of(flat, connectivity)
    index = np.arange(way.size, dtype=way.dtype).reshape(top.shape)[own]
    first = np.zeros(pieces.count + 1, way.dtype)
    named = pieces.number[::-1]
    first[named] = index.reshape(-1)[pieces.runs.start[::-1]]
    inside = flat > 0
    way[index[inside]] = pieces.volume(first)[inside]


def _grown(box: Box, shape: Triple, by: int) -> Box:
    start = tuple(max(0, low - by) for low in box.start)
    stop = tuple(min(n, high + by) for n, high in zip(shape, box.stop, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]
