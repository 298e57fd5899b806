"""Where voxels end: sinks in a table of end points, and what belongs to each; NumPy.

The table is sparse and adds up over boxes, so sinks can be sought in one box that is large enough,
or once for a whole volume.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orthoflow.geometry.following import CAPTURE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from orthoflow.geometry.box import Triple

    Numbers = npt.NDArray[np.int64]

PEAK = 10
"""A sink has more ends than that (Cellpose)."""
FLOOR = 2
"""What belongs to it too (Cellpose)."""
NEAR = 2
"""A sink has the most ends within so many voxels along each axis."""
# Sinks whose surroundings are held at once: 1331 bytes each.
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Sinks:
    """Which cell an end belongs to; ends that are not listed belong to none."""

    index: Numbers
    """Raster index of the voxel, ascending."""
    label: Numbers
    """1 + raster index of the sink."""


def sinks_of(index: Numbers, count: Numbers, shape: Triple, axes: Sequence[int]) -> Sinks:
    """Sinks of a table of ends, and the voxels around them that are theirs.

    A sink is a voxel with more than `PEAK` ends, more than any other voxel within `NEAR` of it
    along each axis; of equals the first in raster order. Its voxels are those it reaches in at most
    `CAPTURE` steps to one of the 26 neighbours over voxels with more than `FLOOR` ends. A voxel
    that several sinks reach belongs to the one with the most ends; of equals, to the first.

    Parameters
    ----------
    index, count
        Raster index in a volume of `shape`, ascending, and number of ends, int64. What belongs
        to whom inside a box is right if all ends within 2 * `CAPTURE` of it are known.
    axes
        Along which voxels moved; without axis 0, every plane is by itself, and labels count from
        its first voxel.
    """
    many = count > FLOOR
    index, count = index[many], count[many]
    grid = _Grid(index, shape, tuple(axes))
    sinks = _peaks(grid, count)
    # The last to be written stays: ascending by ends, the first in raster order last of equals.
    sinks = sinks[np.lexsort((-index[sinks], count[sinks]))]
    owner = np.full(len(index), -1)
    for first in range(0, len(sinks), _BATCH):
        rank, place = _reached(grid, sinks[first : first + _BATCH])
        np.maximum.at(owner, place, rank + first)
    taken = owner >= 0
    label = index[sinks[owner[taken]]]
    if 0 not in axes:
        label = label % (shape[1] * shape[2])
    return Sinks(index[taken], label + 1)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Listed voxels of a volume."""

    index: Numbers
    shape: Triple
    axes: tuple[int, ...]

    @property
    def strides(self) -> tuple[int, int, int]:
        return (self.shape[1] * self.shape[2], self.shape[2], 1)

    def place(self, which: npt.NDArray[np.intp]) -> list[Numbers]:
        """Coordinates z, y, x of some."""
        index = self.index[which]
        return [index // s % n for s, n in zip(self.strides, self.shape, strict=True)]

    def inside(self, place: list[Numbers], shift: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Which places stay in the volume when shifted."""
        good = np.ones(len(place[0]), bool)
        for axis in range(3):
            if shift[axis]:
                there = place[axis] + shift[axis]
                good &= (there >= 0) & (there < self.shape[axis])
        return good

    def by(self, shift: Sequence[int]) -> int:
        """What a shift adds to the raster index."""
        return sum(a * s for a, s in zip(shift, self.strides, strict=True))

    def shifts(self, far: int) -> Iterator[tuple[int, ...]]:
        """Along the moving axes, the nearest first."""
        spans = [range(-far, far + 1) if axis in self.axes else (0,) for axis in range(3)]
        return iter(sorted(itertools.product(*spans), key=lambda s: (max(map(abs, s)), s)))


def _peaks(grid: _Grid, count: Numbers) -> npt.NDArray[np.intp]:
    """Places in the list of the sinks."""
    which = (count > PEAK).nonzero()[0]
    place = grid.place(which)
    for shift in grid.shifts(NEAR):
        by = grid.by(shift)
        if not any(shift) or not len(which):
            continue
        wanted = grid.index[which] + by
        near = np.searchsorted(grid.index, wanted).clip(max=len(grid.index) - 1)
        listed = (grid.index[near] == wanted) & grid.inside(place, shift)
        other = np.where(listed, count[near], 0)
        # Of equals the first stays.
        keep = other < count[which] if by < 0 else other <= count[which]
        which, place = which[keep], [axis[keep] for axis in place]
    return which


def _reached(
    grid: _Grid, sinks: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of a sink (its place among `sinks`) and a listed voxel (its place) that it reaches."""
    side = 2 * CAPTURE + 1
    form = tuple(side if axis in grid.axes else 1 for axis in range(3))
    around = np.full((len(sinks), *form), -1)
    centre = tuple(n // 2 for n in form)
    place = grid.place(sinks)
    # Rows along x are runs of the list.
    low = np.maximum(-CAPTURE, -place[2])
    high = np.minimum(CAPTURE, grid.shape[2] - 1 - place[2])
    for z, y in itertools.product(range(form[0]), range(form[1])):
        shift = (z - centre[0], y - centre[1], 0)
        middle = grid.index[sinks] + grid.by(shift)
        first = np.searchsorted(grid.index, middle + low)
        end = np.searchsorted(grid.index, middle + high, side="right")
        length = np.where(grid.inside(place, shift), end - first, 0)
        sink = np.repeat(np.arange(len(sinks)), length)
        run = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        listed = first[sink] + run
        x = grid.index[listed] - middle[sink] + CAPTURE
        around[sink, z, y, x] = listed
    allowed = around >= 0
    reached = np.zeros_like(allowed)
    reached[:, centre[0], centre[1], centre[2]] = True
    for _ in range(CAPTURE):
        for axis in (1, 2, 3):
            grown = reached.copy()
            before, behind = ([slice(None)] * 4 for _ in range(2))
            before[axis], behind[axis] = slice(None, -1), slice(1, None)
            grown[tuple(before)] |= reached[tuple(behind)]
            grown[tuple(behind)] |= reached[tuple(before)]
            reached = grown
        reached &= allowed
    where = reached.nonzero()
    return where[0], around[where]
