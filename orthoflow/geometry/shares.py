"""Which task computes which patches: inside a part, every patch exactly once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orthoflow.geometry.orientations import ORIENTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.tiling import Position, Span, Tiling


@dataclass(frozen=True, slots=True)
class Share:
    """Groups `groups` (first, end) of one position: consecutive tiles of one orientation."""

    position: Position
    groups: Span

    @property
    def tiles(self) -> int:
        """Tiles in this share."""
        return self.groups[1] - self.groups[0]

    def planes(self, planes: int) -> Span:
        """First plane and end, in a stack of `planes`."""
        count = self.position.count
        return self.groups[0] * count, min(self.groups[1] * count, planes)


def shares_of(
    tiling: Tiling, need: Box, cores: Sequence[Sequence[Span]], block: Sequence[int]
) -> Iterator[Share]:
    """Shares of one block of a part.

    Parameters
    ----------
    tiling : Tiling
        Patches of one orientation.
    need : Box
        Working voxels on which the part needs sums.
    cores : sequence of sequences of (first, end)
        For every volume axis the working voxels that belong to each block of the part.
    block : sequence of int
        This block's number along every axis.

    Notes
    -----
    A patch belongs to the block in which it starts. A patch that covers whole blocks is shared
    among those, each taking a run of its planes: so large rectangles keep all blocks busy.
    """
    orientation = ORIENTATIONS[tiling.orientation]
    stack_need, plane_need = orientation.spans(need)
    for position in tiling.positions(plane_need):
        first, end = _groups_along_stack(position, stack_need, orientation.stack, cores, block)
        rank, owners = 0, 1
        for axis, span in zip(orientation.plane, position.spans, strict=True):
            along = _owners(cores[axis], span)
            if block[axis] not in along:
                break
            rank = rank * len(along) + along.index(block[axis])
            owners *= len(along)
        else:
            count = max(0, end - first)
            mine = (first + count * rank // owners, first + count * (rank + 1) // owners)
            if mine[0] < mine[1]:
                yield Share(position, mine)


def _owners(cores: Sequence[Span], span: Span) -> list[int]:
    """Blocks along one axis that a patch over `span` belongs to."""
    inside = [i for i, (lo, hi) in enumerate(cores) if lo < hi and span[0] <= lo and hi <= span[1]]
    if inside:
        return inside
    filled = _filled(cores)
    before = [i for i in filled if cores[i][0] <= span[0]]
    return [before[-1] if before else filled[0]]


def _filled(cores: Sequence[Span]) -> list[int]:
    """Blocks along one axis that have working voxels; the first one where none of them has any.

    A block thinner than the factor by which the volume shrinks may be left without.
    """
    return [i for i, (lo, hi) in enumerate(cores) if lo < hi] or [0]


def _groups_along_stack(
    position: Position,
    need: Span,
    stack: int | None,
    cores: Sequence[Sequence[Span]],
    block: Sequence[int],
) -> Span:
    """Groups whose first plane lies in the block; the outermost blocks take the halo's as well."""
    if stack is None:
        return (0, 1)
    count = position.count
    first, end = need[0] // count, math.ceil(need[1] / count)
    spans = cores[stack]
    filled = _filled(spans)
    mine = block[stack]
    if mine not in filled:
        return (0, 0)
    lo = first if mine == filled[0] else math.ceil(spans[mine][0] / count)
    hi = end if mine == filled[-1] else math.ceil(spans[mine][1] / count)
    return max(lo, first), min(hi, end)


def extent(tiling: Tiling, shares: Sequence[Share]) -> Box:
    """Smallest working box that holds the patches of `shares`."""
    orientation = ORIENTATIONS[tiling.orientation]
    boxes = [orientation.box(s.planes(tiling.planes), s.position.spans) for s in shares]
    whole = boxes[0]
    for box in boxes[1:]:
        whole = whole.union(box)
    return whole
