"""Where pieces of neighbouring blocks meet: on the seams, the planes that cut a volume in blocks.

Blocks come in raster order of their starts, so that a side waits only until the blocks behind it
have come: what is held at once is one seam across the volume, not all of them. Two voxels of
different blocks that are neighbours meet on exactly one seam, corners included: the one across z
if their blocks follow each other along z, else across y, else across x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int, Runs, groups, meetings, runs_of
from orthoflow.reduce.pieces import Connectivity, raster_index
from orthoflow.reduce.tables import Rows, key_sums


@dataclass(frozen=True, slots=True)
class Sides(Rows):
    """Runs of equal voxels on the sides of a block that face other blocks.

    Attributes
    ----------
    side
        2 * axis on the first, 2 * axis + 1 on the last voxels of the block along an axis z, y, x.
    start
        Raster index in the volume of the first voxel.
    length
        Voxels, along x; along y on the sides that x crosses.
    piece
        Piece from 1, 0 = none.
    label
        Class, or label.
    """

    side: Int
    start: Int
    length: Int
    piece: Int
    label: Int


class Tables(Protocol):
    """What seams need of the tables of a block."""

    @property
    def shape(self) -> Triple:
        """Of the volume."""

    @property
    def box(self) -> Box:
        """Of the block."""

    @property
    def sides(self) -> Any:
        """`Sides`, or more."""

    @property
    def count(self) -> int:
        """Pieces of the block."""


S = TypeVar("S", bound=Sides)
T = TypeVar("T", bound=Tables)


@dataclass(frozen=True, slots=True)
class Seam(Generic[T]):
    """A block, and where it meets the blocks before it.

    Attributes
    ----------
    block
        Tables of the block.
    place
        Where its pieces stand among those of all blocks.
    ends, begins
        Runs of voxels that are neighbours, row by row: of a block before, and of this one. They
        are `Sides`, or what else the tables have; pieces are counted from 1 through all blocks.
    """

    block: T
    place: slice
    ends: Any
    begins: Any


@dataclass(frozen=True, slots=True)
class Joined:
    """Group 1..n of every piece of all blocks, those of the first block first.

    `bounds` (blocks + 1,) says where those of each block begin.
    """

    number: Int
    bounds: Int

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.number.max(initial=0))

    def of(self, block: int) -> Int:
        """Group of piece 0 (none), 1, 2, ... of a block."""
        low, high = self.bounds[block : block + 2]
        return np.concatenate([np.zeros(1, np.int64), self.number[low:high]])

    def renumbered(self, number: Int) -> Joined:
        """The same with number[k - 1] in place of k."""
        return Joined(number[self.number - 1], self.bounds)


def on_sides(volumes: Sequence[npt.NDArray[np.integer[Any]]], box: Box, shape: Triple) -> list[Int]:
    """Columns of `Sides` up to length, and the values of `volumes`, which are blocks at `box`."""
    none = np.zeros(0, np.int64)
    found: list[list[Int]] = [[none] * (3 + len(volumes))]
    for side in range(6):
        axis, last = divmod(side, 2)
        if (box.stop[axis] == shape[axis]) if last else (box.start[axis] == 0):
            continue
        at = box.shape[axis] - 1 if last else 0
        cuts = [np.ascontiguousarray(volume.take(at, axis)) for volume in volumes]
        runs = runs_of(*cuts)
        place = list(np.unravel_index(runs.start, cuts[0].shape))
        place.insert(axis, np.full(len(runs.start), at))
        values = [cut.reshape(-1)[runs.start].astype(np.int64) for cut in cuts]
        start = raster_index(tuple(place), box, shape)
        found.append([np.full(len(start), side), start, runs.stop - runs.start, *values])
    return joined(found)


def seams(blocks: Sequence[T], connectivity: Connectivity) -> Iterator[Seam[T]]:
    """Blocks of a volume, and where each meets those before it; read once, front to back.

    Raises
    ------
    ValueError
        If the blocks are no grid that fills a volume, or are not in raster order.
    """
    starts: list[Triple] = []
    base = voxels = 0
    waiting: _Waiting[Any] | None = None
    for block in blocks:
        if waiting is None:
            waiting = _Waiting(block.shape, connectivity)
        if starts and block.box.start <= starts[-1]:
            raise ValueError(f"block {block.box} comes late; sort blocks by z, y, x")
        starts.append(block.box.start)
        voxels += block.box.voxels
        sides = replace(block.sides, piece=block.sides.piece + base * (block.sides.piece > 0))
        ends, begins = waiting.meet(block.box, sides)
        yield Seam(block, slice(base, base + block.count), ends, begins)
        base += block.count
    _require_grid(starts, voxels, waiting.shape if waiting else (0, 0, 0))


def join(
    blocks: Sequence[T],
    connectivity: Connectivity,
    linked: Callable[[Seam[T]], npt.NDArray[np.bool_]],
) -> Joined:
    """Pieces that belong together, over all blocks, as numbers from 1.

    Where `linked` says so of a row of a seam, its two pieces are one. The blocks are read once,
    front to back.
    """
    links, bounds = key_sums(2), [0]
    for seam in seams(blocks, connectivity):
        one = linked(seam)
        pairs = np.stack([seam.ends.piece[one], seam.begins.piece[one]]) - 1
        links.add([*pairs, np.ones(pairs.shape[1], np.int64)])
        bounds.append(seam.place.stop)
    a, b, _ = links.total()
    return Joined(groups(bounds[-1], a, b) + 1, np.array(bounds))


class _Waiting(Generic[S]):
    """Ends of blocks that wait for the blocks behind them, by axis and coordinate."""

    def __init__(self, shape: Triple, connectivity: Connectivity) -> None:
        self.shape = shape
        self._reach = int(connectivity == 26)
        self._ends: dict[tuple[int, int], list[S]] = {}
        self._at = (0, 0, 0)

    def meet(self, box: Box, sides: S) -> tuple[S, S]:
        """Rows of ends that wait and of this block that are neighbours; its own ends wait then."""
        self._forget(box)
        pairs = [(sides.take(sides.side < 0),) * 2]
        for axis in range(3):
            ends = self._at_seam(axis, box.start[axis], sides)
            begins = sides.take(sides.side == 2 * axis)
            i, j = self._neighbours(ends, begins, axis)
            pairs.append((ends.take(i), begins.take(j)))
            own = sides.take(sides.side == 2 * axis + 1)
            self._ends.setdefault((axis, box.stop[axis]), []).append(own)
        ends, begins = (_stacked(list(part)) for part in zip(*pairs, strict=True))
        return ends, begins

    def _forget(self, box: Box) -> None:
        """Drop ends that no block will meet any more: of other slabs, and of other rows of one."""
        (z, y, _), (z0, y0, _) = box.start, self._at
        self._at = box.start
        if z != z0:
            self._ends = {at: ends for at, ends in self._ends.items() if at == (0, z)}
        elif y != y0:
            kept = {(0, at) for axis, at in self._ends if axis == 0} | {(1, y)}
            self._ends = {at: ends for at, ends in self._ends.items() if at in kept}

    def _at_seam(self, axis: int, coordinate: int, like: S) -> S:
        """Ends on one seam, in the order of their keys."""
        parts = self._ends.get((axis, coordinate), [])
        if len(parts) > 1:
            ends = _stacked(parts)
            ends = ends.take(np.argsort(self._keys(ends, axis)))
            self._ends[axis, coordinate] = parts = [ends]
        return parts[0] if parts else like.take(like.side < 0)

    def _keys(self, sides: S, axis: int) -> Int:
        """Where runs begin on the seam, row by row, with two empty voxels behind every row."""
        z, y, x = np.unravel_index(sides.start, self.shape)
        row, column, width = ((y, x, 2), (z, x, 2), (z, y, 1))[axis]
        keys: Int = row * (self.shape[width] + 2) + column
        return keys

    def _neighbours(self, ends: S, begins: S, axis: int) -> tuple[Int, Int]:
        a, b = self._keys(ends, axis), self._keys(begins, axis)
        reach, pitch = self._reach, self.shape[1 if axis == 2 else 2] + 2
        found = [(a[:0], a[:0])]
        for row in range(-reach, reach + 1):
            low = b + row * pitch
            near = Runs(low - reach, low + begins.length + reach)
            j, i, _ = meetings(near, Runs(a, a + ends.length))
            found.append((i, j))
        i, j = joined(found)
        return i, j


def _stacked(parts: list[S]) -> S:
    return type(parts[0])(*joined(part.columns().values() for part in parts))


def _require_grid(starts: list[Triple], voxels: int, shape: Triple) -> None:
    cells = 1
    for axis in range(3):
        cells *= len({start[axis] for start in starts})
    if voxels != shape[0] * shape[1] * shape[2] or cells != len(starts):
        raise ValueError(f"{len(starts)} blocks of {voxels} voxels do not fill a volume of {shape}")
