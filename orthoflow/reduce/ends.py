"""Objects of voxels that end in one place: tables of end points, summed over blocks.

A block knows where its voxels end, and no more. How many end in each voxel adds up over blocks, and
from the sums follow the sinks (`orthoflow.reduce.sinks`), what ends in each, and its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.consensus import boxes_around
from orthoflow.reduce.fragments import Int
from orthoflow.reduce.matching import Objects, large
from orthoflow.reduce.sinks import sinks_of
from orthoflow.reduce.tables import Rows

# Rows that wait before they are summed up.
_PENDING = 2**22


@dataclass(frozen=True, slots=True)
class EndTable(Rows):
    """Voxels in which others end, ascending.

    Attributes
    ----------
    index
        (n,) raster index of the voxel, on the grid on which flows are followed.
    seeds
        (n,) voxels of that grid that come to rest in it.
    count, box
        (n,) voxels of the output that end in it, and the box (n, 6) around them: z0, y0, x0, z1,
        y1, x1, half-open; a count of 0 has a box of zeros.
    """

    index: Int
    seeds: Int
    count: Int
    box: Int


def end_table(ends: npt.NDArray[np.integer], box: Box, index: Int, seeds: Int) -> EndTable:
    """Table of one block.

    Parameters
    ----------
    ends
        (z, y, x) of the output box `box`: 1 + raster index of where a voxel ends, 0 = background.
    index, seeds
        Where voxels of the block's own part of the flow's grid come to rest, and how many.
    """
    inside = np.flatnonzero(ends)
    where = ends.reshape(-1)[inside].astype(np.int64) - 1
    known, number = np.unique(np.concatenate([index, where]), return_inverse=True)
    place = np.stack(np.unravel_index(inside, ends.shape), axis=1).astype(np.int64)
    place += np.array(box.start, np.int64)
    number = number.reshape(-1)
    own, mine = number[: len(index)], number[len(index) :]
    around = boxes_around(mine + 1, np.concatenate([place, place + 1], axis=1), len(known))
    count = np.bincount(mine, minlength=len(known)).astype(np.int64)
    total = np.zeros(len(known), np.int64)
    np.add.at(total, own, seeds)
    return EndTable(known, total, count, around * (count > 0)[:, None])


def sum_ends(tables: Iterable[EndTable]) -> EndTable:
    """The table of a volume from those of its blocks, of which few are held at a time."""
    total, waiting, rows = no_ends(), [], 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        if rows > max(_PENDING, len(total)):
            total, waiting, rows = _summed([total, *waiting]), [], 0
    return _summed([total, *waiting])


def no_ends() -> EndTable:
    """Of a block in which nothing ends."""
    nothing = np.zeros(0, np.int64)
    return EndTable(nothing, nothing, nothing, np.zeros((0, 6), np.int64))


def _summed(tables: Sequence[EndTable]) -> EndTable:
    columns = [np.concatenate([getattr(t, name) for t in tables]) for name in ("index", "seeds")]
    count = np.concatenate([t.count for t in tables])
    box = np.concatenate([t.box for t in tables])
    index, number = np.unique(columns[0], return_inverse=True)
    number = number.reshape(-1)
    seeds, total = np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
    np.add.at(seeds, number, columns[1])
    np.add.at(total, number, count)
    some = count > 0
    around = boxes_around(number[some] + 1, box[some], len(index)) * (total > 0)[:, None]
    return EndTable(index, seeds, total, around)


@dataclass(frozen=True, slots=True)
class EndRule:
    """How objects are found from where voxels end.

    Attributes
    ----------
    min_size, min_extent
        Smallest object: voxels, and voxels along every side of its box.
    fill_holes
        Whether objects get the holes that they alone enclose (`orthoflow.reduce.holes`).
    """

    min_size: int = 0
    min_extent: int = 0
    fill_holes: bool = False


def settle_ends(
    table: EndTable, shape: Triple, axes: Sequence[int], rule: EndRule
) -> tuple[Int, Objects]:
    """Label 1..n of what ends in each row of a volume's table, 0 = nothing; and the objects.

    Labels follow the raster order of the sinks. `shape` is that of the grid on which flows are
    followed, `axes` those along which voxels move.
    """
    sinks = sinks_of(table.index, table.seeds, shape, axes)
    place = np.searchsorted(sinks.index, table.index).clip(max=max(len(sinks.index) - 1, 0))
    listed = np.zeros(len(table), np.bool_)
    if len(sinks.index):
        listed = sinks.index[place] == table.index
    names, number = np.unique(sinks.label[place[listed]], return_inverse=True)
    own = np.zeros(len(table), np.int64)
    own[listed] = number.reshape(-1) + 1
    return _kept(table, own, len(names), rule)


def settle_middles(table: EndTable, rule: EndRule) -> tuple[Int, Objects]:
    """Label 1..n of each row of a volume's table, each of which is one object; and the objects."""
    return _kept(table, np.arange(1, len(table) + 1), len(table), rule)


def _kept(table: EndTable, own: Int, count: int, rule: EndRule) -> tuple[Int, Objects]:
    """Final label of each row, 0 where its object 1..count is too small; and the objects."""
    size = np.zeros(count + 1, np.int64)
    np.add.at(size, own, table.count)
    some = (own > 0) & (table.count > 0)
    box = boxes_around(own[some], table.box[some], count)
    keep = large(size[1:], box, min_size=max(rule.min_size, 1), min_extent=rule.min_extent)
    final = np.zeros(count + 1, np.int64)
    final[1:][keep] = np.arange(1, int(keep.sum()) + 1)
    klass = np.ones(int(keep.sum()), np.uint8)
    return final[own], Objects(klass, size[1:][keep], box[keep])


def labels_of_ends(
    ends: npt.NDArray[Any], index: Int, label: npt.NDArray[np.unsignedinteger]
) -> npt.NDArray[np.unsignedinteger]:
    """Labels (z, y, x) of a block from where its voxels end and the label of each end of it."""
    if not len(index):
        return np.zeros(ends.shape, label.dtype)
    known = np.concatenate([np.zeros(1, label.dtype), label])
    where = np.searchsorted(index, ends.astype(np.int64) - 1)
    return known[np.where(ends > 0, where + 1, 0)]
