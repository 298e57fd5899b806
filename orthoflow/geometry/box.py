"""Half-open boxes of voxels; the coordinate that travels with every array."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

Triple = tuple[int, int, int]
AXES = "zyx"


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Half-open box of voxels, axes (z, y, x); origins may be non-zero.

    >>> Box((0, 2, 4), (3, 5, 9)).shape
    (3, 3, 5)
    """

    start: Triple
    stop: Triple

    def __post_init__(self) -> None:
        if len(self.start) != 3 or len(self.stop) != 3:
            raise ValueError(f"a box has three axes (z, y, x), got {self.start} to {self.stop}")
        if any(lo > hi for lo, hi in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"box {self.start} to {self.stop} ends before it starts")

    @classmethod
    def whole(cls, shape: Triple) -> Box:
        """Box that covers an array of `shape` from the origin."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        """Voxels along (z, y, x)."""
        z, y, x = (hi - lo for lo, hi in zip(self.start, self.stop, strict=True))
        return (z, y, x)

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices into an array that covers the whole volume."""
        return self.within(Box((0, 0, 0), self.stop))

    def within(self, outer: Box) -> tuple[slice, slice, slice]:
        """Slices that cut this box out of an array covering `outer`."""
        z, y, x = (
            slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True)
        )
        return (z, y, x)

    def intersect(self, other: Box) -> Box | None:
        """Common box, or None where the two share no voxel."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        if any(lo >= hi for lo, hi in zip(start, stop, strict=True)):
            return None
        return Box(start, stop)  # type: ignore[arg-type]

    def union(self, other: Box) -> Box:
        """Smallest box that holds both."""
        return Box(
            tuple(map(min, self.start, other.start)),  # type: ignore[arg-type]
            tuple(map(max, self.stop, other.stop)),  # type: ignore[arg-type]
        )

    def contains(self, other: Box) -> bool:
        """Whether `other` lies inside this box."""
        return self.intersect(other) == other

    def shifted(self, origin: Triple) -> Box:
        """The same box counted from `origin`."""
        start = tuple(a - o for a, o in zip(self.start, origin, strict=True))
        stop = tuple(a - o for a, o in zip(self.stop, origin, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def moved(self, by: Triple) -> Box:
        """The same box, `by` voxels further along each axis; the inverse of `shifted`."""
        z, y, x = by
        return self.shifted((-z, -y, -x))

    def rounded_out(self, grid: Triple, shape: Triple) -> Box:
        """Smallest box of whole `grid` cells around this one, clipped to an array of `shape`."""
        start = tuple(lo // g * g for lo, g in zip(self.start, grid, strict=True))
        stop = tuple(
            min(-(-hi // g) * g, n) for hi, g, n in zip(self.stop, grid, shape, strict=True)
        )
        return Box(start, stop)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join(f"{lo}:{hi}" for lo, hi in zip(self.start, self.stop, strict=True))


def split(box: Box, size: Triple, origin: Triple = (0, 0, 0)) -> Iterator[Box]:
    """Cut `box` along the grid of `size` that starts at `origin`, in z, y, x order.

    >>> [str(b) for b in split(Box((0, 0, 0), (1, 1, 5)), (1, 1, 3))]
    ['0:1,0:1,0:3', '0:1,0:1,3:5']
    """
    spans = []
    for lo, hi, step, zero in zip(box.start, box.stop, size, origin, strict=True):
        first = zero + (lo - zero) // step * step
        cuts = [lo, *(c for c in range(first + step, hi, step) if c > lo), hi]
        spans.append(list(itertools.pairwise(cuts)))
    for z, y, x in itertools.product(*spans):
        yield Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def parse_roi(text: str, shape: Triple) -> Box:
    """Box from "z0:z1,y0:y1,x0:x1"; an empty bound means the volume's own.

    >>> str(parse_roi("2:5,:,10:", (8, 9, 20)))
    '2:5,0:9,10:20'
    """
    parts = text.split(",")
    bounds = []
    try:
        if len(parts) != 3:
            raise ValueError(text)
        for part, size in zip(parts, shape, strict=True):
            first, end = part.split(":")
            bounds.append((int(first) if first.strip() else 0, int(end) if end.strip() else size))
    except ValueError as error:
        raise BadInput(
            f"roi {text!r} is not of the form z0:z1,y0:y1,x0:x1, as in 0:64,128:512,:"
        ) from error
    for axis, (lo, hi), size in zip(AXES, bounds, shape, strict=True):
        if not 0 <= lo < hi <= size:
            raise BadInput(
                f"roi {lo}:{hi} on axis {axis} lies outside the volume or is empty; "
                f"use bounds with 0 <= start < stop <= {size}"
            )
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return Box((z0, y0, x0), (z1, y1, x1))
