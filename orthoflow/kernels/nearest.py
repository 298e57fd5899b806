"""The centre nearest to where a cell votes: exact, by buckets, for many planes at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

FRACTION = 256
"""Votes are rounded to multiples of 1 / FRACTION pixel, so that distances are exact integers."""
LONGEST = 2.0**16
"""Longest offset, pixels; squares of distances stay far below 2**53, exact in float64."""
_CHUNK = {"cpu": 2**15, "cuda": 2**21}
# Side of the first buckets, in units of the mean distance between centres.
_FIRST_BUCKET = 0.25


@dataclass(frozen=True, slots=True)
class Centers:
    """Centres in raster order: plane (counted in the box), row, column (in the plane), int64."""

    plane: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    planes: int
    """Planes of the box."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Cells that look for their centre, and what they vote for."""

    plane: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    offsets: torch.Tensor
    """(2, n) float32: rows and columns from the cell to its centre, in pixels."""

    def part(self, which: slice | torch.Tensor) -> Votes:
        """Some of them."""
        return Votes(self.plane[which], self.row[which], self.column[which], self.offsets[:, which])


def nearest_centers(
    centers: Centers, votes: Votes, *, pixels: int, reach: int | None
) -> torch.Tensor:
    """Index of the centre nearest to each vote, int64 (n,); -1 where none is within reach.

    Of equally near centres the first one counts.

    Parameters
    ----------
    centers
        At least one.
    pixels
        Per cell; rows and columns are counted in cells.
    reach
        Centres are at most so many pixels from the cell itself, along rows and along columns.
        None: any distance, in float32 as empanada computes it.
    """
    area = math.prod(int(c.max() - c.min()) + 1 for c in (centers.row, centers.column))
    spacing = pixels * math.sqrt(area * centers.planes / len(centers.row))
    side = max(math.ceil(spacing * _FIRST_BUCKET), 1)
    metric: _Metric = _Float32() if reach is None else _Exact()
    size = _CHUNK.get(votes.plane.device.type, _CHUNK["cpu"])
    found = torch.full_like(votes.plane, -1)
    todo = torch.arange(len(found), device=found.device)
    while len(todo):
        buckets = _Buckets.of(centers, metric, pixels, side)
        left = []
        for which in torch.split(todo, size):
            choice, settled = _search(buckets, votes.part(which), reach)
            found[which] = choice
            left.append(which[~settled])
        todo = torch.cat(left)
        side *= 2
    return found


class _Metric(Protocol):
    """Places as numbers, and distances between them."""

    def place(self, pixel: torch.Tensor) -> torch.Tensor:
        """Of whole pixels."""

    def vote(self, pixel: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Where a cell at a pixel votes."""

    def far(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """A measure that grows with the distance, from the differences of two places."""

    def surely(self, gap: torch.Tensor) -> torch.Tensor:
        """The measure that everything at least `gap` pixels (float64) away exceeds or equals."""


class _Exact:
    """Squares of distances in 256ths of a pixel: integers, exact on any device."""

    def place(self, pixel: torch.Tensor) -> torch.Tensor:
        return pixel.double() * FRACTION

    def vote(self, pixel: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        short = offset.double().clamp(-LONGEST, LONGEST)
        return self.place(pixel) + (short * FRACTION).round()

    def far(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return row * row + column * column

    def surely(self, gap: torch.Tensor) -> torch.Tensor:
        return (gap * FRACTION).square()


class _Float32:
    """empanada's arithmetic, rounding errors included: the norm of float32 differences."""

    def place(self, pixel: torch.Tensor) -> torch.Tensor:
        return pixel.float()

    def vote(self, pixel: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return pixel.float() + offset

    def far(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        far: torch.Tensor = torch.linalg.vector_norm(torch.stack([row, column], 1), dim=1)
        return far.double()

    def surely(self, gap: torch.Tensor) -> torch.Tensor:
        return gap * (1 - 1e-5) - 0.05


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Centres sorted into squares of `side` pixels."""

    metric: _Metric
    pixels: int
    side: int
    origin: tuple[int, int]
    """Row and column of the first bucket, in pixels."""
    grid: tuple[int, int]
    """Buckets along rows and columns of a plane."""
    first: torch.Tensor
    """Place of each bucket's first centre; one more than buckets."""
    index: torch.Tensor
    """The centre at each place."""
    row: torch.Tensor
    """Its row and column, cells."""
    column: torch.Tensor

    @classmethod
    def of(cls, centers: Centers, metric: _Metric, pixels: int, side: int) -> _Buckets:
        places = [axis * pixels for axis in (centers.row, centers.column)]
        origin = tuple(int(place.min()) for place in places)
        number = [(place - low) // side for place, low in zip(places, origin, strict=True)]
        grid = tuple(int(n.max()) + 1 for n in number)
        key = (centers.plane * grid[0] + number[0]) * grid[1] + number[1]
        order = key.argsort(stable=True)
        count = torch.bincount(key, minlength=centers.planes * math.prod(grid))
        return cls(
            metric,
            pixels,
            side,
            (origin[0], origin[1]),
            (grid[0], grid[1]),
            torch.cat([count.new_zeros(1), count.cumsum(0)]),
            order,
            centers.row[order],
            centers.column[order],
        )

    def runs(self, votes: Votes, row: torch.Tensor, column: torch.Tensor) -> Iterator[_Run]:
        """Places (first, end) of the centres around each bucket, by row of buckets."""
        for shift in (0, -1, 1):
            here = (row + shift).clamp(0, self.grid[0] - 1)
            base = (votes.plane * self.grid[0] + here) * self.grid[1]
            first = self.first[base + (column - 1).clamp_min(0)]
            end = self.first[base + (column + 1).clamp_max(self.grid[1] - 1) + 1]
            yield first, torch.where(here == row + shift, end, first)


_Run = tuple[torch.Tensor, torch.Tensor]


def _search(
    buckets: _Buckets, votes: Votes, reach: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best centre in the nine buckets around each vote, and whether none elsewhere is better."""
    metric, pixels = buckets.metric, buckets.pixels
    cells = (votes.row, votes.column)
    at = [
        metric.vote(cell * pixels, offset)
        for cell, offset in zip(cells, votes.offsets, strict=True)
    ]
    number, gap = [], torch.full_like(at[0], math.inf, dtype=torch.float64)
    for axis in (0, 1):
        # In pixels, as float64.
        pixel = at[axis].double() / float(metric.place(torch.ones(1)))
        bucket = ((pixel - buckets.origin[axis]) / buckets.side).floor().long()
        number.append(bucket.clamp_(0, buckets.grid[axis] - 1))
        gap = torch.minimum(gap, _gap(buckets, axis, number[axis], pixel, cells[axis], reach))
    best = torch.full_like(gap, math.inf)
    choice = torch.full_like(votes.plane, -1)
    for first, end in buckets.runs(votes, *number):
        asking = (first < end).nonzero()[:, 0]
        place = first[asking]
        while len(asking):
            _compare(buckets, votes, (asking, place), at, (best, choice), reach)
            place = place + 1
            more = (place < end[asking]).nonzero()[:, 0]
            asking, place = asking[more], place[more]
    return choice, (best < metric.surely(gap)) | gap.isinf()


def _gap(
    buckets: _Buckets,
    axis: int,
    bucket: torch.Tensor,
    pixel: torch.Tensor,
    cell: torch.Tensor,
    reach: int | None,
) -> torch.Tensor:
    """Pixels from a vote to the nearest place outside its buckets where a centre may count."""
    low = (bucket - 1) * buckets.side + buckets.origin[axis]
    high = low + 3 * buckets.side
    none_low, none_high = bucket <= 1, bucket >= buckets.grid[axis] - 2
    if reach is not None:
        none_low |= low <= cell * buckets.pixels - reach
        none_high |= high > cell * buckets.pixels + reach
    below = torch.where(none_low, math.inf, pixel - (low - 1))
    above = torch.where(none_high, math.inf, high - pixel)
    return torch.minimum(below, above)


def _compare(
    buckets: _Buckets,
    votes: Votes,
    pair: tuple[torch.Tensor, torch.Tensor],
    at: list[torch.Tensor],
    record: tuple[torch.Tensor, torch.Tensor],
    reach: int | None,
) -> None:
    """Keep the nearer centre of each pair (vote, place) and what is on record."""
    asking, place = pair
    best, choice = record
    row, column = buckets.row[place], buckets.column[place]
    far = buckets.metric.far(
        buckets.metric.place(row * buckets.pixels) - at[0][asking],
        buckets.metric.place(column * buckets.pixels) - at[1][asking],
    )
    if reach is not None:
        cells = reach // buckets.pixels
        near = (row - votes.row[asking]).abs() <= cells
        near &= (column - votes.column[asking]).abs() <= cells
        far = far.masked_fill_(~near, math.inf)
    index, old, last = buckets.index[place], best[asking], choice[asking]
    better = (far < old) | ((far == old) & (index < last))
    best[asking] = torch.minimum(far, old)
    choice[asking] = last + (index - last) * better  # torch.where is much slower
