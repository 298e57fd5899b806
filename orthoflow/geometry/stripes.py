"""Several pieces side by side along one axis of a tile: the layouts.

The exactness contract, for a plain CNN with zero padding: pieces whose starts are congruent modulo
the network's stride, with at least `reach` zero rows between them and to the tile's edges, get
the same logits bit for bit as each of them alone in the middle of a tile.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """Where pieces of `length` voxels lie along one axis of a tile of `tile` voxels."""

    length: int
    tile: int
    starts: tuple[int, ...]

    @property
    def count(self) -> int:
        """Pieces in one tile."""
        return len(self.starts)

    @property
    def gap(self) -> int:
        """Fewest zero voxels between two pieces; the tile's length for one piece."""
        steps = (b - a - self.length for a, b in itertools.pairwise(self.starts))
        return min(steps, default=self.tile)

    @property
    def margin(self) -> int:
        """Fewest zero voxels between a piece and the tile's edge."""
        return min(self.starts[0], self.tile - self.starts[-1] - self.length)

    def is_exact(self, *, stride: int, reach: int | None) -> bool:
        """Whether packing cannot be seen by a plain CNN of this stride and reach (voxels)."""
        if self.count == 1:
            return True
        if reach is None or min(self.gap, self.margin) < reach:
            return False
        return all((start - _alone(self.length, self.tile)) % stride == 0 for start in self.starts)


def _alone(length: int, tile: int) -> int:
    """Start of a piece that has a tile to itself: half the spare rows on each side."""
    return (tile - length) // 2


def single_layout(length: int, tile: int) -> Layout:
    """One piece in the middle of its tile, the odd voxel behind.

    >>> single_layout(68, 256).starts
    (94,)
    """
    return Layout(length, tile, (_alone(length, tile),))


def balanced_layout(
    length: int, *, tile: int, stride: int, guard: int, border: int, most: int
) -> Layout | None:
    """As many pieces as fit, at most `most`, in phase, the spare rows shared by gaps and margins.

    `guard` is the least gap and `border` the least margin, in voxels. None where not even two
    pieces fit. The seed's 68 rows in 256 (spare rows between and around, phase of the middle)::

        >>> balanced_layout(68, tile=256, stride=16, guard=8, border=8, most=9).starts
        (14, 94, 174)
    """
    for count in range(min(most, tile // length), 1, -1):
        layouts = _in_phase(length, tile=tile, stride=stride, count=count)
        fitting = [x for x in layouts if x.gap >= guard and x.margin >= border]
        if fitting:
            # The widest narrowest space; then the most even margins; then the first.
            return max(fitting, key=lambda x: (min(x.gap, x.margin), x.margin, -x.starts[0]))
    return None


def _in_phase(length: int, *, tile: int, stride: int, count: int) -> list[Layout]:
    """All layouts of `count` equidistant pieces whose phase is that of a piece alone."""
    first = _alone(length, tile) % stride
    found = []
    for step in range(-(-length // stride) * stride, tile, stride):
        end = tile - length - (count - 1) * step
        found += [
            Layout(length, tile, tuple(start + i * step for i in range(count)))
            for start in range(first, end + 1, stride)
        ]
    return found


def seed_layout(length: int, *, tile: int, pack_k: int, border: int) -> Layout | None:
    """The layout of the packed Cellpose fork, for comparisons: not in phase, spare rows unused.

    Slots of `length + 2 * border` rows from the tile's first row, with the widest gap that keeps
    `pack_k` slots in the tile: the fork puts that gap in the place of whatever guard was asked for
    (0 where `pack_k` slots do not fit, however many rows are then free).

    >>> seed_layout(68, tile=256, pack_k=3, border=5).starts
    (5, 94, 183)
    """
    if pack_k < 2:
        return None
    slot = length + 2 * border
    guard = max(0, (tile - pack_k * slot) // (pack_k - 1))
    for count in range(pack_k, 1, -1):
        if count * slot + (count - 1) * guard <= tile:
            starts = tuple(border + i * (slot + guard) for i in range(count))
            return Layout(length, tile, starts)
    return None
