"""Holes in labelled objects, block by block: tables, what they merge to, and filling.

A hole is a component of background (voxels that share a face) that does not touch the border of
the volume and whose neighbours, across faces, all have one label; it gets that label. So a cavity
that holds another object stays, and so does one between two objects that touch. Where there is one
label, this is what `scipy.ndimage.binary_fill_holes` fills.

Faces, not corners: objects are connected over corners too, and a wall that is closed in that sense
does not let background through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int, groups, runs_of, touching
from orthoflow.reduce.pieces import Pieces, whole_numbers
from orthoflow.reduce.seams import Joined, Sides, join, on_sides, seams
from orthoflow.reduce.solids import place_of
from orthoflow.reduce.tables import Rows, tally

_FAR = np.iinfo(np.int64).max
# Rows behind a row whose voxels share faces with its own.
_STEPS = ((0, 1), (1, 0))


@dataclass(frozen=True, slots=True)
class Gaps(Rows):
    """Pieces of background in a block, piece i + 1 in row i.

    Attributes
    ----------
    size
        (n,) voxels.
    border
        (n,) whether it touches the border of the volume.
    low, high
        (n,) least and greatest label that it touches inside the block; 0 where there is none.
    """

    size: Int
    border: npt.NDArray[np.bool_]
    low: Int
    high: Int


@dataclass(frozen=True, slots=True)
class HoleTables:
    """Tables of the block `box` of a volume of `shape`; on its sides labels are shown, too."""

    shape: Triple
    box: Box
    gaps: Gaps
    sides: Sides

    @property
    def count(self) -> int:
        """Pieces of background in the block."""
        return len(self.gaps)


@dataclass(frozen=True, slots=True)
class Filled(Rows):
    """Labels that get holes, sorted, and how many voxels of them."""

    label: Int
    size: Int


@dataclass(frozen=True, slots=True)
class MergedHoles:
    """What is filled.

    Attributes
    ----------
    filled
        Voxels that labels gain.
    joined
        Component of background that each piece of every block belongs to.
    label
        (n,) what component i + 1 is filled with, 0 = not at all.
    """

    filled: Filled
    joined: Joined
    label: Int

    def lookup(self, block: int) -> Int:
        """What piece 0 (none), 1, 2, ... of background in a block is filled with, 0 = nothing."""
        return np.append(0, self.label)[self.joined.of(block)]


def hole_tables(
    labels: npt.NDArray[np.generic], *, box: Box | None = None, shape: Triple | None = None
) -> HoleTables:
    """Tables of the block `box` of a volume of `shape`; of the whole volume unless they are given.

    Parameters
    ----------
    labels
        Final labels (z, y, x) of the block, 0 = background.

    Raises
    ------
    BadInput
        If the labels are no whole numbers, or do not fit the block.
    """
    box, shape = place_of(labels, box, shape)
    labels = whole_numbers(labels, "labels", box.shape)
    pieces, piece, label = _background(labels)
    size = np.bincount(pieces.number, pieces.runs.stop - pieces.runs.start, pieces.count + 1)
    low, high = np.full(pieces.count, _FAR), np.zeros(pieces.count, np.int64)
    _widen(low, high, piece, label)
    gaps = Gaps(
        size[1:].astype(np.int64), _at_border(pieces, box, shape), np.where(high, low, 0), high
    )
    return HoleTables(shape, box, gaps, Sides(*on_sides([pieces.volume(), labels], box, shape)))


def merge_holes(blocks: Sequence[HoleTables]) -> MergedHoles:
    """Which components of background are holes, and what fills them.

    `blocks` are the tables of all blocks, in raster order of their boxes; they are read twice from
    front to back and may come from a store.

    Raises
    ------
    ValueError
        If the blocks are no grid that fills a volume, or not in raster order.
    """
    background = join(blocks, 6, lambda seam: (seam.ends.piece > 0) & (seam.begins.piece > 0))
    count = background.count
    low, high = np.full(count, _FAR), np.zeros(count, np.int64)
    size, border = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    for seam in seams(blocks, 6):
        gaps, number = seam.block.gaps, background.number[seam.place]
        np.add.at(size, number - 1, gaps.size)
        np.logical_or.at(border, number - 1, gaps.border)
        _widen(low, high, number, np.where(gaps.high, gaps.low, 0))
        _widen(low, high, number, gaps.high)
        for one, other in ((seam.ends, seam.begins), (seam.begins, seam.ends)):
            edge = (one.piece > 0) & (other.label > 0)
            _widen(low, high, background.number[one.piece[edge] - 1], other.label[edge])
    label = np.where((low == high) & ~border, high, 0)
    (given,), voxels = tally([label[label > 0]], size[label > 0])
    return MergedHoles(Filled(given, voxels), background, label)


def fill(labels: npt.NDArray[Any], lookup: Int) -> npt.NDArray[Any]:
    """Labels (z, y, x) of a block with holes filled, as `MergedHoles.lookup` says."""
    pieces, _, _ = _background(np.ascontiguousarray(labels))
    filled: npt.NDArray[Any] = labels + pieces.volume(lookup.astype(labels.dtype))
    return filled


def _background(labels: npt.NDArray[np.generic]) -> tuple[Pieces, Int, Int]:
    """Pieces of background, and the pieces and labels of voxels that share a face."""
    z, y, x = shape = labels.shape
    runs = runs_of(labels)
    label = labels.reshape(-1)[runs.start].astype(np.int64)
    # Runs that follow each other in a row differ in label.
    first = np.flatnonzero(runs.start[1:] % x > 0)
    touches = [
        (first, first + 1),
        *(touching(runs, shape, step, corners=False)[:2] for step in _STEPS),
    ]
    a, b = joined(touches)
    empty = np.flatnonzero(label == 0)
    order = np.zeros(len(label), np.int64)
    order[empty] = np.arange(len(empty))
    inner = (label[a] == 0) & (label[b] == 0)
    group = groups(len(empty), order[a[inner]], order[b[inner]])
    number = np.zeros(len(label), np.int64)
    number[empty] = group + 1
    ends, others = np.concatenate([a, b]), np.concatenate([b, a])
    edge = (label[ends] == 0) & (label[others] > 0)
    pieces = Pieces((z, y, x), runs, number, int(group.max(initial=-1)) + 1)
    return pieces, number[ends[edge]], label[others[edge]]


def _widen(low: Int, high: Int, number: Int, label: Int) -> None:
    """Take note that `number` 1, 2, ... touches `label`; 0 is none."""
    some = label > 0
    np.minimum.at(low, number[some] - 1, label[some])
    np.maximum.at(high, number[some] - 1, label[some])


def _at_border(pieces: Pieces, box: Box, shape: Triple) -> npt.NDArray[np.bool_]:
    """Which pieces of the block `box` touch the border of a volume of `shape`."""
    runs, number = pieces.runs, pieces.number
    length = runs.stop - runs.start
    touches = np.zeros(len(number), np.bool_)
    for axis, place in enumerate(np.unravel_index(runs.start, pieces.shape)):
        last = place + (length - 1 if axis == 2 else 0)
        touches |= (place + box.start[axis] == 0) | (last + box.start[axis] == shape[axis] - 1)
    border = np.zeros(pieces.count + 1, np.bool_)
    border[number[touches]] = True
    return border[1:]
