"""Pieces of a block: connected voxels of one class, found on runs; and what is known of them.

A *piece* is what a solid, which may reach through many blocks, has in one of them. Its numbers add
up over blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int, Runs, groups, runs_of, touching
from orthoflow.reduce.tables import Rows

Connectivity = Literal[6, 26]
"""Neighbours of a voxel: those that share a face, or a corner at least."""

# Rows with neighbours that lie behind: (planes, rows) further on.
_STEPS: dict[Connectivity, tuple[tuple[int, int], ...]] = {
    6: ((0, 1), (1, 0)),
    26: ((0, 1), (1, -1), (1, 0), (1, 1)),
}


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces 1..count of a block of `shape`, 0 = none, in an order that the block alone decides.

    Attributes
    ----------
    shape
        Voxels of the block along (z, y, x).
    runs
        Runs that cover the block, in raster order.
    number
        Piece of each run.
    count
        How many there are.
    """

    shape: Triple
    runs: Runs
    number: Int
    count: int

    @classmethod
    def of(cls, number: npt.NDArray[np.integer[Any]], count: int) -> Pieces:
        """From the piece of each voxel (z, y, x)."""
        runs = runs_of(number)
        named = number.reshape(-1)[runs.start].astype(np.int64)
        return cls(_three(number), runs, named, count)

    def volume(self, values: npt.NDArray[np.generic] | None = None) -> npt.NDArray[Any]:
        """Array (z, y, x) of pieces, or of values[piece]; `values` begin with piece 0."""
        inks = self.number.astype(np.int32) if values is None else values[self.number]
        return np.repeat(inks, self.runs.stop - self.runs.start).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Solids(Rows):
    """Pieces of a block or whole solids, number i + 1 in row i.

    Attributes
    ----------
    label
        (n,) class, or label.
    size, box
        (n,) voxels, (n, 6) box around them: z0, y0, x0, z1, y1, x1, half-open, in the volume.
    first
        (n,) raster index in the volume of the first voxel.
    """

    label: Int
    size: Int
    box: Int
    first: Int

    @classmethod
    def measured(cls, pieces: Pieces, label: Int, box: Box, shape: Triple) -> Solids:
        """Pieces of the block `box` of a volume of `shape`; `label` (n,) says what they are."""
        runs, number = pieces.runs, pieces.number
        start, at = runs.start[number > 0], number[number > 0] - 1
        length = (runs.stop - runs.start)[number > 0]
        z, y, x = np.unravel_index(start, pieces.shape)
        low = np.full((pieces.count, 3), np.iinfo(np.int64).max)
        high = np.zeros_like(low)
        for axis, (begin, end) in enumerate(((z, z + 1), (y, y + 1), (x, x + length))):
            np.minimum.at(low[:, axis], at, begin)
            np.maximum.at(high[:, axis], at, end)
        first = np.empty(pieces.count, np.int64)
        first[at[::-1]] = raster_index((z, y, x), box, shape)[::-1]
        size = np.bincount(at, length, pieces.count).astype(np.int64)
        origin = np.array([*box.start, *box.start])
        return cls(label, size, np.concatenate([low, high], axis=1) + origin, first)

    def pooled(self, number: Int, count: int) -> Solids:
        """Solids 1..count to which `number` (n,) gives these; 0 drops one. None may be empty."""
        sums = SolidSums(count)
        sums.add(self, number)
        return sums.total()


class SolidSums:
    """Solids 1..count, put together from tables that come one after the other."""

    def __init__(self, count: int) -> None:
        far = np.iinfo(np.int64).max
        self._label, self._size = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._first, self._low = np.full(count, far), np.full((count, 3), far)
        self._high = np.zeros((count, 3), np.int64)

    def add(self, solids: Solids, number: Int) -> None:
        """Add what is known of `solids` to that of the `number` (n,) of each; 0 drops one."""
        mine = number > 0
        at = number[mine] - 1
        self._label[at] = solids.label[mine]
        np.add.at(self._size, at, solids.size[mine])
        np.minimum.at(self._first, at, solids.first[mine])
        np.minimum.at(self._low, at, solids.box[mine, :3])
        np.maximum.at(self._high, at, solids.box[mine, 3:])

    def total(self) -> Solids:
        """What was put together."""
        box = np.concatenate([self._low, self._high], axis=1)
        return Solids(self._label, self._size, box, self._first)


def pieces_of(classes: npt.NDArray[np.generic], connectivity: Connectivity) -> Pieces:
    """Connected voxels of one class, which is not 0, in a block (z, y, x).

    >>> corner = np.zeros((2, 2, 2), np.uint8)
    >>> corner[0, 0, 0] = corner[1, 1, 1] = 1
    >>> pieces_of(corner, 26).count, pieces_of(corner, 6).count
    (1, 2)
    """
    shape = _three(classes)
    runs = runs_of(classes)
    klass = classes.reshape(-1)[runs.start]
    inside = np.flatnonzero(klass)
    klass, some = klass[inside], Runs(runs.start[inside], runs.stop[inside])
    none = np.zeros(0, np.int64)
    links = [(none, none)]
    for step in _STEPS[connectivity]:
        near, far, _ = touching(some, shape, step, corners=connectivity == 26)
        alike = klass[near] == klass[far]
        links.append((near[alike], far[alike]))
    group = groups(len(inside), *joined(links))
    number = np.zeros(len(runs.start), np.int64)
    number[inside] = group + 1
    return Pieces(shape, runs, number, int(group.max(initial=-1)) + 1)


def labels_of(pieces: Pieces, classes: npt.NDArray[np.generic]) -> Int:
    """Class (n,) of each piece."""
    label = np.empty(pieces.count, np.int64)
    some = pieces.number > 0
    label[pieces.number[some] - 1] = classes.reshape(-1)[pieces.runs.start[some]]
    return label


def whole_numbers(
    array: npt.NDArray[np.generic], name: str, due: Triple
) -> npt.NDArray[np.integer[Any]]:
    """The array, C-contiguous; it has `due` voxels.

    Raises
    ------
    BadInput
        If it holds no whole numbers from 0 to 2**63 - 1, or has another shape.
    """
    if array.dtype.kind not in "bui":
        raise BadInput(f"{name} are {array.dtype}; pass whole numbers, 0 = background")
    if array.shape != due:
        raise BadInput(f"{name} have shape {array.shape}, and the block needs {due}, axes z, y, x")
    numbers: npt.NDArray[np.integer[Any]] = np.ascontiguousarray(array)
    # Only these two types hold anything beyond the limits.
    low = numbers.min(initial=0) if array.dtype.kind == "i" else 0
    high = numbers.max(initial=0) if array.dtype == np.uint64 else 0
    if low < 0 or high > np.iinfo(np.int64).max:
        raise BadInput(
            f"{name} hold {low if low < 0 else high}; they are from 0 (background) to 2**63 - 1"
        )
    return numbers


def raster_index(place: tuple[Int, ...], box: Box, shape: Triple) -> Int:
    """Raster index in a volume of `shape` of places (z, y, x) counted from the start of `box`."""
    z, y, x = (axis + start for axis, start in zip(place, box.start, strict=True))
    index: Int = (z * shape[1] + y) * shape[2] + x
    return index


def _three(array: npt.NDArray[np.generic]) -> Triple:
    z, y, x = array.shape
    return (z, y, x)
