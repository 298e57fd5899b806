"""Watershed by hill climbing, block by block: tables, and what they merge to.

The relief is the squared distance to the nearest voxel of another class, cut off at a radius, in
integers. Three rules make objects of it, and none of them knows about blocks:

1. *Climb.* A voxel goes to the highest of its neighbours and itself; of equal ones to the first
   in raster order of the volume. The way ends on a peak; what leads to one peak is a basin.
2. *Top.* Where the relief is cut off it is flat: connected voxels there are one peak.
3. *Join.* Two basins meet in a saddle, the highest pair of neighbours between them, where a pair
   is as high as its lower voxel. From the highest saddle down, basins join where the lower one of
   their peaks is less than `depth` above it; of equal saddles, that of the first basins is first.

Rule 1 is the watershed by topographic distance as hill climbing finds it (Meyer 1994, Signal
Processing 38, 113-125; Roerdink & Meijster 2000, Fundamenta Informaticae 41, 187-228). Rule 3
leaves the basins of peaks whose dynamics (Grimaud 1992, Proc. SPIE 1769) are `depth` or more: it is
the clustering by persistence of Chazal et al. 2013, J. ACM 60(6). A height is the root of an
integer, correctly rounded, so that no machine decides otherwise.

Where a voxel goes depends on what lies within the radius, so a block needs that much around it;
ways that leave it are followed on tables, across the sides of blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.climbing import climb
from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int
from orthoflow.reduce.pieces import Connectivity, Pieces, Solids, SolidSums
from orthoflow.reduce.seams import Joined, Seam, Sides, join, seams
from orthoflow.reduce.solids import MergedSolids, kept, place_of, sides_of
from orthoflow.reduce.tables import Rows, key_sums

# Steps to half of the neighbours; the other half takes them back.
_AHEAD: dict[Connectivity, list[tuple[int, ...]]] = {
    6: [(0, 0, 1), (0, 1, 0), (1, 0, 0)],
    26: [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)],
}


@dataclass(frozen=True, slots=True)
class Slopes(Sides):
    """Sides with what is needed to climb on: squared height, and the voxel where a way goes on.

    `to` is the raster index in the volume of the peak, or of the voxel outside the block to which
    all ways of the piece lead.
    """

    height: Int
    to: Int


@dataclass(frozen=True, slots=True)
class Saddles(Rows):
    """Pairs of pieces a < b of one class with neighbouring voxels; squared height of the saddle."""

    a: Int
    b: Int
    height: Int


@dataclass(frozen=True, slots=True)
class BasinTables:
    """Tables of the block `box` of a volume of `shape`.

    A piece is what climbs to one peak in the block, or to one voxel outside of it; `peak` (n,) is
    the squared height there.
    """

    shape: Triple
    box: Box
    pieces: Solids
    peak: Int
    sides: Slopes
    saddles: Saddles

    @property
    def count(self) -> int:
        """Pieces of the block."""
        return len(self.pieces)


def basin_tables(
    classes: npt.NDArray[np.generic],
    *,
    radius: int,
    box: Box | None = None,
    shape: Triple | None = None,
    connectivity: Connectivity = 26,
) -> BasinTables:
    """Tables of the block `box` of a volume of `shape`; of the whole volume unless they are given.

    Parameters
    ----------
    classes
        Whole numbers (z, y, x), 0 = background, of the `surroundings` of the block.
    radius
        Where distances are cut off, in voxels: necks that are at least twice as thick never
        divide an object.
    connectivity
        Neighbours of a voxel.

    Raises
    ------
    BadInput
        If the classes are no whole numbers, or do not fit the block, or for a radius out of range.
    """
    box, shape = place_of(classes, box, shape)
    climbed = climb(classes, box, shape, radius, connectivity)
    pieces, height = climbed.pieces, climbed.height
    volume = pieces.volume()
    side, start, length, piece, label, level = sides_of(volume, climbed.label, box, shape, height)
    return BasinTables(
        shape,
        box,
        Solids.measured(pieces, climbed.label, box, shape),
        climbed.level,
        Slopes(side, start, length, piece, label, level, climbed.to[piece - 1]),
        _saddles(volume, height, climbed.label, connectivity),
    )


def basin_pieces(
    classes: npt.NDArray[np.generic],
    *,
    radius: int,
    box: Box | None = None,
    shape: Triple | None = None,
    connectivity: Connectivity = 26,
) -> Pieces:
    """The pieces that `basin_tables` tells of, to be painted; it is told the same."""
    box, shape = place_of(classes, box, shape)
    return climb(classes, box, shape, radius, connectivity).pieces


def merge_basins(
    blocks: Sequence[BasinTables],
    *,
    radius: int,
    depth: float,
    connectivity: Connectivity = 26,
    min_size: int = 0,
    min_extent: int = 0,
) -> MergedSolids:
    """Objects of a volume from the tables of all blocks.

    Parameters
    ----------
    blocks
        Tables in raster order of their boxes. They are read twice from front to back and may come
        from a store, so that one is in memory at a time.
    radius, connectivity
        Those of the tables.
    depth
        Basins join unless both their peaks are that much above their saddle, in voxels.
    min_size, min_extent
        Smallest object that is kept: voxels, and voxels along every side of its box.

    Raises
    ------
    ValueError
        If the blocks are no grid that fills a volume, or not in raster order.
    """

    def linked(seam: Seam[BasinTables]) -> npt.NDArray[np.bool_]:
        ends, begins, shape = seam.ends, seam.begins, seam.block.shape
        top = (ends.height == radius**2) & (begins.height == radius**2)
        top &= ends.label == begins.label
        return np.asarray(top | _holds(begins, ends.to, shape) | _holds(ends, begins.to, shape))

    basin = join(blocks, connectivity, linked)
    found, peak, saddles = _gathered(blocks, basin, connectivity)
    # From here on basins are counted by their first voxels, which no block decides.
    order = np.argsort(found.first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ends = np.sort([rank[saddles.a - 1], rank[saddles.b - 1]], axis=0)
    cluster = join_shallow(peak[order], ends[0], ends[1], saddles.height, depth=depth)
    number = cluster[rank] + 1
    objects = found.pooled(number, int(number.max(initial=0)))
    return kept(objects, basin.renumbered(number), min_size=min_size, min_extent=min_extent)


def join_shallow(peak: Int, a: Int, b: Int, saddle: Int, *, depth: float) -> Int:
    """Cluster 0..n-1 of each basin, after those that no deep saddle parts have joined.

    Parameters
    ----------
    peak
        (m,) squared height of each basin.
    a, b, saddle
        (n,) basins a < b from 0 with a common saddle, each pair once, and its squared height.
    depth
        See `merge_basins`.

    >>> one, two = np.array([0, 1]), np.array([1, 2])
    >>> join_shallow(np.array([25, 36, 25]), one, two, np.array([16, 4]), depth=2.0).tolist()
    [0, 0, 1]
    """
    # What is too deep for the basins themselves is so for the clusters, whose peaks are higher.
    lower = np.minimum(peak[a], peak[b])
    shallow = np.flatnonzero(np.sqrt(lower) - np.sqrt(saddle) < depth)
    order = shallow[np.lexsort((b[shallow], a[shallow], -saddle[shallow]))]
    parent, height = list(range(len(peak))), np.sqrt(peak).tolist()

    def top(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    heights = np.sqrt(saddle[order]).tolist()
    for one, other, level in zip(a[order].tolist(), b[order].tolist(), heights, strict=True):
        low, high = sorted((top(one), top(other)))
        if low != high and min(height[low], height[high]) - level < depth:
            parent[high] = low
            height[low] = max(height[low], height[high])
    _, cluster = np.unique([top(basin) for basin in parent], return_inverse=True)
    return cluster.astype(np.int64)


def _saddles(
    volume: npt.NDArray[np.integer[Any]],
    height: npt.NDArray[np.uint16],
    label: Int,
    connectivity: Connectivity,
) -> Saddles:
    """Highest pair of neighbours between pieces of one class in a block."""
    found = key_sums(2, by=np.maximum)
    kind = np.append(0, label)
    for step in _AHEAD[connectivity]:
        here = tuple(
            slice(max(0, -d), n - max(0, d)) for d, n in zip(step, volume.shape, strict=True)
        )
        there = tuple(
            slice(max(0, d), n + min(0, d)) for d, n in zip(step, volume.shape, strict=True)
        )
        one, other = volume[here], volume[there]
        apart = np.flatnonzero((one != other) & (one > 0) & (other > 0))
        a, b = (part.reshape(-1)[apart].astype(np.int64) for part in (one, other))
        level = np.minimum(height[here].reshape(-1)[apart], height[there].reshape(-1)[apart])
        alike = kind[a] == kind[b]
        pair = np.sort([a[alike], b[alike]], axis=0)
        found.add([*pair, level[alike].astype(np.int64)])
        found.total()
    return Saddles(*found.total())


def _gathered(
    blocks: Sequence[BasinTables], basin: Joined, connectivity: Connectivity
) -> tuple[Solids, Int, Saddles]:
    """Basins, their squared peaks, and the highest saddles between them, numbered as in `basin`."""
    sums, saddles = SolidSums(basin.count), key_sums(2, by=np.maximum)
    peak = np.zeros(basin.count, np.int64)
    for seam in seams(blocks, connectivity):
        block, number = seam.block, basin.number[seam.place]
        sums.add(block.pieces, number)
        np.maximum.at(peak, number - 1, block.peak)
        ends, begins = seam.ends, seam.begins
        met = np.where(ends.label == begins.label, np.minimum(ends.height, begins.height), 0)
        near = block.saddles
        inside = [number[near.a - 1], number[near.b - 1], near.height]
        across = [basin.number[ends.piece - 1], basin.number[begins.piece - 1], met]
        a, b, level = joined([inside, across])
        apart = (a != b) & (level > 0)
        saddles.add([*np.sort([a[apart], b[apart]], axis=0), level[apart]])
    return sums.total(), peak, Saddles(*saddles.total())


def _holds(sides: Sides, voxel: Int, shape: Triple) -> npt.NDArray[np.bool_]:
    """Whether each run holds the voxel of this raster index."""
    step = np.where(sides.side // 2 == 2, shape[2], 1)
    past = voxel - sides.start
    return np.asarray((past >= 0) & (past < sides.length * step) & (past % step == 0))
