"""Objects from a volume of classes, stage by stage; here in memory, elsewhere block by block.

Two passes visit the voxels of a block alone, four where holes are filled; between them a process
works on tables::

    pieces   SolidRule.tables   -> SolidRule.merge -> solid of each piece
    labels   SolidRule.pieces   -> volume(lookup)
    holes    hole_tables        -> merge_holes     -> label of each hole
    filled   fill

The answer is the same, byte by byte, for every way to cut the volume into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple, split
from orthoflow.reduce.basins import BasinTables, basin_pieces, basin_tables, merge_basins
from orthoflow.reduce.climbing import surroundings
from orthoflow.reduce.distances import LARGEST_RADIUS
from orthoflow.reduce.engine import id_dtype
from orthoflow.reduce.holes import Filled, fill, hole_tables, merge_holes
from orthoflow.reduce.pieces import Connectivity, Pieces, Solids, pieces_of, whole_numbers
from orthoflow.reduce.solids import MergedSolids, SolidTables, merge_solids, place_of, solid_tables


@dataclass(frozen=True, slots=True)
class SolidRule:
    """How objects are found in a volume of classes.

    Attributes
    ----------
    kind
        "cc": connected components of each class; "watershed": these, divided at their necks.
    connectivity
        Neighbours of a voxel: 6 across faces, or 26.
    min_size, min_extent
        Smallest object: voxels, and voxels along every side of its box; holes do not count.
    depth
        For "watershed": how many voxels an object must narrow before it widens again to be two;
        narrowing is that of the radius, not of the width.
    radius
        For "watershed": where distances are cut off, in voxels, 1 to 181. Necks with a larger
        radius than that less `depth` never divide an object, and a block needs so much around it.
    fill_holes
        Whether objects get the holes that they alone enclose.
    """

    kind: Literal["cc", "watershed"] = "cc"
    connectivity: Connectivity = 26
    min_size: int = 0
    min_extent: int = 0
    depth: float = 1.0
    radius: int = 16
    fill_holes: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("cc", "watershed"):
            raise BadInput(f"kind {self.kind!r}; use cc or watershed")
        if self.connectivity not in (6, 26):
            raise BadInput(f"connectivity {self.connectivity}; use 6 or 26")
        if not (math.isfinite(self.depth) and self.depth > 0):
            raise BadInput(f"depth {self.depth}; use a number of voxels above 0")
        if not 1 <= self.radius <= LARGEST_RADIUS:
            raise BadInput(f"radius {self.radius}; use 1 to {LARGEST_RADIUS} voxels")

    @property
    def table(self) -> type[SolidTables | BasinTables]:
        """What `tables` gives, to read it back from a store."""
        return SolidTables if self.kind == "cc" else BasinTables

    def surroundings(self, box: Box, shape: Triple) -> Box:
        """Voxels of a volume of `shape` that have to be read for the block `box`."""
        return box if self.kind == "cc" else surroundings(box, shape, self.radius)

    def tables(
        self,
        classes: npt.NDArray[np.generic],
        *,
        box: Box | None = None,
        shape: Triple | None = None,
    ) -> SolidTables | BasinTables:
        """Tables of a block, from the classes in its surroundings."""
        if self.kind == "cc":
            return solid_tables(classes, box=box, shape=shape, connectivity=self.connectivity)
        return basin_tables(
            classes, box=box, shape=shape, radius=self.radius, connectivity=self.connectivity
        )

    def pieces(
        self,
        classes: npt.NDArray[np.generic],
        *,
        box: Box | None = None,
        shape: Triple | None = None,
    ) -> Pieces:
        """Pieces of a block, which its tables count, from the classes in its surroundings."""
        if self.kind == "cc":
            box, _ = place_of(classes, box, shape)
            return pieces_of(whole_numbers(classes, "classes", box.shape), self.connectivity)
        return basin_pieces(
            classes, box=box, shape=shape, radius=self.radius, connectivity=self.connectivity
        )

    def merge(self, blocks: Sequence[Any]) -> MergedSolids:
        """Objects from the tables of all blocks, in raster order; read twice, one at a time."""
        if self.kind == "cc":
            return merge_solids(
                blocks,
                connectivity=self.connectivity,
                min_size=self.min_size,
                min_extent=self.min_extent,
            )
        return merge_basins(
            blocks,
            radius=self.radius,
            depth=self.depth,
            connectivity=self.connectivity,
            min_size=self.min_size,
            min_extent=self.min_extent,
        )


@dataclass(frozen=True, slots=True)
class Segmented:
    """Labels (z, y, x), and the objects that they name: label i + 1 in row i."""

    labels: npt.NDArray[np.unsignedinteger]
    objects: Solids


def solids_of(
    classes: npt.NDArray[np.generic], rule: SolidRule, *, block: Triple | None = None
) -> Segmented:
    """Objects of a whole array in memory, worked out in blocks of `block` voxels where given.

    Parameters
    ----------
    classes
        Whole numbers or a mask (z, y, x), 0 = background. Voxels of two classes are never one
        object, and a class ends where another begins. "watershed" looks at each class by itself:
        a handful is meant.
    rule
        How objects are found.
    block
        Voxels of a block along z, y, x; it does not show in the answer.

    Returns
    -------
    Segmented
        Labels 1..n in the order of first voxels, uint32 while they fit; holes that were filled
        count in the sizes of the objects.

    Raises
    ------
    BadInput
        If the classes are no whole numbers with axes z, y, x.

    >>> bar = np.array([[[1, 1, 0, 2, 2, 1]]])
    >>> solids_of(bar, SolidRule(min_size=2), block=(1, 1, 1)).labels
    array([[[1, 1, 0, 2, 2, 0]]], dtype=uint32)
    """
    whole, shape = place_of(classes, None, None)
    boxes = list(split(whole, block or shape))

    def around(box: Box) -> npt.NDArray[np.generic]:
        return classes[rule.surroundings(box, shape).slices]

    found = rule.merge([rule.tables(around(box), box=box, shape=shape) for box in boxes])
    labels: npt.NDArray[Any] = np.empty(shape, id_dtype(np.array([len(found.solids)])))
    for index, box in enumerate(boxes):
        pieces = rule.pieces(around(box), box=box, shape=shape)
        labels[box.slices] = pieces.volume(found.lookup(index).astype(labels.dtype))
    if not rule.fill_holes:
        return Segmented(labels, found.solids)
    holes = merge_holes([hole_tables(labels[box.slices], box=box, shape=shape) for box in boxes])
    for index, box in enumerate(boxes):
        labels[box.slices] = fill(labels[box.slices], holes.lookup(index))
    return Segmented(labels, grown(found.solids, holes.filled))


def grown(objects: Solids, filled: Filled) -> Solids:
    """Objects 1..n with the holes that they get; neither boxes nor first voxels change."""
    size = objects.size.copy()
    size[filled.label - 1] += filled.size
    return replace(objects, size=size)
