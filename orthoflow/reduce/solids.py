"""Connected components of a volume of classes, block by block: tables, and what they merge to.

The answer is a function of the volume: cuts between blocks do not show in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.fragments import Int
from orthoflow.reduce.matching import large
from orthoflow.reduce.pieces import (
    Connectivity,
    Solids,
    SolidSums,
    labels_of,
    pieces_of,
    whole_numbers,
)
from orthoflow.reduce.seams import Joined, Sides, join, on_sides


@dataclass(frozen=True, slots=True)
class SolidTables:
    """Tables of the block `box` of a volume of `shape`: its pieces, and its sides."""

    shape: Triple
    box: Box
    pieces: Solids
    sides: Sides

    @property
    def count(self) -> int:
        """Pieces of the block."""
        return len(self.pieces)


@dataclass(frozen=True, slots=True)
class MergedSolids:
    """Solids of a volume, and the one that each piece of every block belongs to.

    Attributes
    ----------
    solids
        Solid i + 1 in row i, in the order of their first voxels.
    joined
        Numbers of pieces; `number` says which solid that is, 0 where it was dropped.
    """

    solids: Solids
    joined: Joined

    def lookup(self, block: int) -> Int:
        """Solid of piece 0 (none), 1, 2, ... of a block; 0 where it was dropped."""
        return self.joined.of(block)


def solid_tables(
    classes: npt.NDArray[np.generic],
    *,
    box: Box | None = None,
    shape: Triple | None = None,
    connectivity: Connectivity = 26,
) -> SolidTables:
    """Tables of the block `box` of a volume of `shape`; of the whole volume unless they are given.

    Parameters
    ----------
    classes
        Whole numbers (z, y, x) of the block, 0 = background.
    connectivity
        Voxels of one class that share a face (6), or an edge or corner too (26), are connected.
        26 is the default as components of planes take corners too: what is one piece in a plane is
        one in the volume, and thin oblique sheets do not fall apart.

    Raises
    ------
    BadInput
        If the classes are no whole numbers, or do not fit the block.
    """
    box, shape = place_of(classes, box, shape)
    classes = whole_numbers(classes, "classes", box.shape)
    pieces = pieces_of(classes, connectivity)
    label = labels_of(pieces, classes)
    return SolidTables(
        shape,
        box,
        Solids.measured(pieces, label, box, shape),
        Sides(*sides_of(pieces.volume(), label, box, shape)),
    )


def merge_solids(
    blocks: Sequence[SolidTables],
    *,
    connectivity: Connectivity = 26,
    min_size: int = 0,
    min_extent: int = 0,
) -> MergedSolids:
    """Solids of a volume from the tables of all blocks.

    Parameters
    ----------
    blocks
        Tables in raster order of their boxes. They are read twice from front to back and may come
        from a store, so that one is in memory at a time.
    connectivity
        That of the tables.
    min_size, min_extent
        Smallest solid that is kept: voxels, and voxels along every side of its box.

    Raises
    ------
    ValueError
        If the blocks are no grid that fills a volume, or not in raster order.
    """
    joined = join(blocks, connectivity, lambda seam: seam.ends.label == seam.begins.label)
    sums = SolidSums(joined.count)
    for index, block in enumerate(blocks):
        sums.add(block.pieces, joined.of(index)[1:])
    return kept(sums.total(), joined, min_size=min_size, min_extent=min_extent)


def kept(solids: Solids, joined: Joined, *, min_size: int, min_extent: int) -> MergedSolids:
    """Solids that are large enough, numbered in the order of their first voxels."""
    order = np.argsort(solids.first)
    good = large(solids.size, solids.box, min_size=min_size, min_extent=min_extent)[order]
    number = np.empty(len(order), np.int64)
    number[order] = np.where(good, np.cumsum(good), 0)
    return MergedSolids(solids.take(order[good]), joined.renumbered(number))


def sides_of(
    pieces: npt.NDArray[np.integer[Any]],
    label: Int,
    box: Box,
    shape: Triple,
    *more: npt.NDArray[np.integer[Any]],
) -> list[Int]:
    """Columns of `Sides` where there are pieces, and values of `more` volumes."""
    side, start, length, piece, *rest = on_sides([pieces, *more], box, shape)
    mine = piece > 0
    columns = [side, start, length, piece, np.append(0, label)[piece], *rest]
    return [column[mine] for column in columns]


def place_of(
    array: npt.NDArray[np.generic], box: Box | None, shape: Triple | None
) -> tuple[Box, Triple]:
    """Where a block lies: what is given, or the whole volume."""
    if array.ndim != 3:
        raise BadInput(f"an array of {array.ndim} axes; pass one with axes z, y, x")
    if shape is None:
        z, y, x = array.shape
        shape = (z, y, x)
    return Box.whole(shape) if box is None else box, shape
