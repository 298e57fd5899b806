"""Where patches start along one axis of the whole volume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from orthoflow.errors import BadInput


@dataclass(frozen=True)
class Grid:
    """Patches along one axis: every voxel of `size` lies in at least one of them.

    All patches have one length, but for the last piece of a `shared_grid`, which is shorter.
    A side shorter than the patch is one patch of `size` voxels.
    """

    size: int
    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """First voxel after each patch."""
        return tuple(s + n for s, n in zip(self.starts, self.lengths, strict=True))


def stride_of(patch: int, overlap: float) -> float:
    """Distance between patches that share the fraction `overlap` of their length, in voxels."""
    if not 0 <= overlap <= 0.9:
        raise BadInput(
            f"overlap {overlap} is not a fraction of the patch that can be shared; "
            "use 0 <= overlap <= 0.9 (0.25 shares a quarter, stride = 0.75 of the patch)"
        )
    return max(1.0, (1 - overlap) * patch)


def even_grid(size: int, *, patch: int, stride: float) -> Grid:
    """Evenly spread patches, the first and the last flush with the ends.

    n = ceil((size - patch) / stride) + 1 patches start at
    round_half_even(i * (size - patch) / (n - 1)): the rule of nnU-Net, vesuvius and Cellpose::

        size 11   |-----------|
        patch 4    aaaa   dddd
        stride 3     bbbb          b and c start at 2 and 5: as even as whole voxels allow
                        cccc

    >>> even_grid(11, patch=4, stride=3).starts
    (0, 2, 5, 7)
    """
    if size <= patch:
        return Grid(size, (0,), (size,))
    # The tiny number forgives strides such as 0.7 * 100 that are not quite whole in binary.
    count = math.ceil((size - patch) / stride - 1e-9) + 1
    starts = tuple(round(i * (size - patch) / (count - 1)) for i in range(count))
    return Grid(size, starts, (patch,) * count)


def step_grid(size: int, *, patch: int, stride: float) -> Grid:
    """Patches every `stride` voxels, the last one pulled back: the rule of MONAI and qlty.

    >>> step_grid(11, patch=4, stride=3).starts
    (0, 3, 6, 7)
    """
    if size <= patch:
        return Grid(size, (0,), (size,))
    step = max(1, int(stride + 1e-9))
    starts = (*range(0, size - patch, step), size - patch)
    return Grid(size, starts, (patch,) * len(starts))


def shared_grid(size: int, *, patch: int, stride: float) -> Grid:
    """Full patches every `stride` voxels and one shorter last piece, so that pieces share tiles.

    Without a remainder this is the step grid::

        size 11   |-----------|
        patch 5    aaaaa           c has 3 voxels only: one tile of 8 takes two such pieces
        stride 4       bbbbb
                           ccc

    >>> shared_grid(11, patch=5, stride=4)
    Grid(size=11, starts=(0, 4, 8), lengths=(5, 5, 3))
    """
    if size <= patch:
        return Grid(size, (0,), (size,))
    step = max(1, int(stride + 1e-9))
    full = tuple(range(0, size - patch + 1, step))
    if full[-1] + patch == size:
        return Grid(size, full, (patch,) * len(full))
    last = full[-1] + step
    return Grid(size, (*full, last), (*(patch,) * len(full), size - last))


def rectangle_side(size: int, *, limit: int, usual: int, divisor: int, overlap: float) -> int:
    """Side of the patches, a multiple of `divisor`, that cover `size` with the fewest pixels.

    One patch, without any overlap, where that is at most `limit` long. A longer side takes many
    patches in any case; what they share is a fraction of their length, so longer ones save nothing
    there and cost more at the borders of blocks: the best side from `usual` to one and a half of
    it, the longest of equals.

    >>> rectangle_side(984, limit=1024, usual=256, divisor=16, overlap=0.1)
    992
    >>> rectangle_side(68, limit=1024, usual=256, divisor=16, overlap=0.1)
    80
    >>> rectangle_side(3000, limit=1024, usual=256, divisor=16, overlap=0.25)
    304
    """
    whole = -(-size // divisor) * divisor
    if whole <= limit:
        return whole
    first = -(-usual // divisor) * divisor
    sides = range(first, max(first, usual * 3 // 2) + 1, divisor)

    def cost(side: int) -> int:
        stride = stride_of(side, overlap)
        return side * len(even_grid(size, patch=side, stride=stride).starts)

    return min(sides, key=lambda side: (cost(side), -side))
