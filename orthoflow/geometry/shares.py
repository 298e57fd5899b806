"""Which task computes which patches: inside a part, every patch exactly once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orthoflow.geometry.box import Box
from orthoflow.geometry.orientations import ORIENTATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orthoflow.geometry.stripes import Layout
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
    stack = _stack_of(stack_need, orientation.stack, cores, block)
    for position in tiling.positions(plane_need):
        turns = []
        for axis, span in zip(orientation.plane, position.spans, strict=True):
            along = _owners(cores[axis], span)
            if block[axis] not in along:
                break
            turns.append((along.index(block[axis]), len(along)))
        else:
            mine = _run_of(position.count, stack, turns)
            if mine[0] < mine[1]:
                yield Share(position, mine)


@dataclass(frozen=True, slots=True)
class Stack:
    """Along the stack: planes that a part needs, those of each of its blocks, and which it is."""

    need: Span
    cores: Sequence[Span]
    number: int


NO_STACK = Stack((0, 1), ((0, 1),), 0)
"""Of 3-D patches: one plane, which no block is kept from."""


def _stack_of(
    need: Span, axis: int | None, cores: Sequence[Sequence[Span]], block: Sequence[int]
) -> Stack:
    return NO_STACK if axis is None else Stack(need, cores[axis], block[axis])


def _run_of(count: int, stack: Stack, turns: Sequence[tuple[int, int]]) -> Span:
    """Groups of a position that fall to a block.

    `count` planes make a group; `turns` are the block's place among the owners along each plane
    axis, and their number.
    """
    first, end = groups_along_stack(count, stack)
    rank, owners = 0, 1
    for place, sharers in turns:
        rank = rank * sharers + place
        owners *= sharers
    groups = max(0, end - first)
    return first + groups * rank // owners, first + groups * (rank + 1) // owners


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


def groups_along_stack(count: int, stack: Stack) -> Span:
    """Groups whose first plane lies in the block; the outermost blocks take the halo's as well."""
    first, end = stack.need[0] // count, math.ceil(stack.need[1] / count)
    filled = _filled(stack.cores)
    if stack.number not in filled:
        return (0, 0)
    core = stack.cores[stack.number]
    lo = first if stack.number == filled[0] else math.ceil(core[0] / count)
    hi = end if stack.number == filled[-1] else math.ceil(core[1] / count)
    return max(lo, first), min(hi, end)


def extent(tiling: Tiling, shares: Sequence[Share]) -> Box:
    """Smallest working box that holds the patches of `shares`."""
    orientation = ORIENTATIONS[tiling.orientation]
    boxes = [orientation.box(s.planes(tiling.planes), s.position.spans) for s in shares]
    whole = boxes[0]
    for box in boxes[1:]:
        whole = whole.union(box)
    return whole


@dataclass(frozen=True, slots=True)
class Kind:
    """Patches along one plane axis that a block treats alike; where the first and the last lie."""

    layout: Layout
    turn: tuple[int, int]
    """The block's place among the owners, and their number."""
    times: int
    span: Span


def kinds_along(
    tiling: Tiling, axis: int, need: Span, cores: Sequence[Span], number: int
) -> tuple[Kind, ...]:
    """Kinds of the patches along plane axis `axis` (0: rows) that fall to one block of a part."""
    found: dict[tuple[Layout, tuple[int, int]], tuple[int, Span]] = {}
    grid = tiling.grids[axis]
    for i in tiling.pieces(axis, need):
        span = (grid.starts[i], grid.stops[i])
        along = _owners(cores, span)
        if number in along:
            key = (tiling.layouts[axis][i], (along.index(number), len(along)))
            times, before = found.get(key, (0, span))
            found[key] = (times + 1, (before[0], span[1]))
    return tuple(Kind(*key, *value) for key, value in found.items())


@dataclass(frozen=True, slots=True)
class Census:
    """What the shares of one block add up to; `box` holds all their patches."""

    patches: int
    tiles: int
    pixels: int
    box: Box | None


def count_shares(tiling: Tiling, kinds: Sequence[Sequence[Kind]], stack: Stack) -> Census:
    """The sums over `shares_of`, from the kinds along each plane axis: no patch is visited."""
    patches = tiles = pixels = 0
    box = None
    orientation = ORIENTATIONS[tiling.orientation]
    for kind in itertools.product(*kinds):
        count = math.prod(k.layout.count for k in kind)
        first, end = _run_of(count, stack, [k.turn for k in kind])
        if first >= end:
            continue
        times = math.prod(k.times for k in kind)
        planes = (first * count, min(end * count, tiling.planes))
        patches += times * (planes[1] - planes[0])
        tiles += times * (end - first)
        pixels += times * (end - first) * math.prod(k.layout.tile for k in kind)
        here = orientation.box(planes, tuple(k.span for k in kind))
        box = here if box is None else box.union(here)
    return Census(patches, tiles, pixels, box)
