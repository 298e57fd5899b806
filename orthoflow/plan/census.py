"""What every block of a run computes and holds, counted per axis instead of per block."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from orthoflow.geometry.box import AXES, Box
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.scale import scales
from orthoflow.geometry.shares import (
    NO_STACK,
    Census,
    Kind,
    Stack,
    count_shares,
    groups_along_stack,
    kinds_along,
)
from orthoflow.plan.gets import count_gets, pieces_along

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.tiling import Span, Tiling
    from orthoflow.plan.gets import Piece
    from orthoflow.plan.plan import Plan

    Spans = tuple[tuple[Span, Span] | None, ...]


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """How far one block reaches along one axis."""

    sums: tuple[int, ...]
    """Working voxels for which it has sums, by orientation."""
    working: int
    """Working voxels that its patches are cut from."""
    read: int
    """Input voxels that those are made from."""
    pieces: tuple[Piece, ...]
    """Of the input's shards that hold these."""
    decoded: int
    """Voxels of their chunks."""
    side: int
    """Voxels of its output."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Blocks that compute the same patches, and how far they reach.

    They reach alike far along an axis that are at the same place along it: so every choice of one
    extent per axis is a block, as often as the product of the three numbers says.
    """

    ways: tuple[Census, ...]
    """Patches of one of these blocks, by orientation; their boxes are those of one of them."""
    along: tuple[Counter[Extent], Counter[Extent], Counter[Extent]]

    @property
    def blocks(self) -> int:
        """How many blocks these are."""
        return math.prod(counter.total() for counter in self.along)

    @property
    def decoded(self) -> int:
        """Voxels of the input's chunks that these blocks read, together."""
        return math.prod(
            sum(extent.decoded * times for extent, times in counter.items())
            for counter in self.along
        )

    @property
    def gets(self) -> int:
        """GETs for those."""
        along = []
        for counter in self.along:
            pieces: Counter[Piece] = Counter()
            for extent, times in counter.items():
                for piece in extent.pieces:
                    pieces[piece] += times
            along.append(pieces)
        return count_gets(along)


def census(plan: Plan) -> Iterator[Alike]:
    """Every block once, with all that are like it.

    What a block computes follows from its place along each axis, and few places differ in that:
    the first and the last, those with one patch more or less. So 10^6 blocks are a few hundred
    kinds, and only how far they reach is looked up for each of the 3 x 100 places.
    """
    along = [_places(plan, axis) for axis in range(len(AXES))]
    ways = [_Way.of(way.chosen, along) for way in plan.ways]
    reach = _Reach(plan)
    alike = [_alike(ways, axis, len(along[axis])) for axis in range(len(AXES))]
    for group in itertools.product(*alike):
        one = tuple(numbers[0] for numbers in group)
        counts = tuple(way.count(one) for way in ways)
        extents = []
        for axis, numbers in enumerate(group):
            spans = (_spans(ways, axis, one, n) for n in numbers)
            sides = (along[axis][n].side for n in numbers)
            extents.append(
                Counter(reach.along(axis, *pair) for pair in zip(spans, sides, strict=True))
            )
        yield Alike(counts, (extents[0], extents[1], extents[2]))


def census_of(
    tiling: Tiling, need: Box, cores: Sequence[Sequence[Span]], block: Sequence[int]
) -> Census:
    """What `shares_of` of the same arguments add up to; no patch is visited."""
    orientation = ORIENTATIONS[tiling.orientation]
    kinds = [
        kinds_along(tiling, i, (need.start[axis], need.stop[axis]), cores[axis], block[axis])
        for i, axis in enumerate(orientation.plane)
    ]
    stack = NO_STACK
    if orientation.stack is not None:
        axis = orientation.stack
        stack = Stack((need.start[axis], need.stop[axis]), cores[axis], block[axis])
    return count_shares(tiling, kinds, stack)


@dataclass(frozen=True, slots=True)
class _Place:
    """One block's place along one axis, and the part's that it lies in."""

    needs: dict[str, Span]
    """Working voxels on which the part needs sums, by orientation."""
    cores: tuple[Span, ...]
    number: int
    """Of the block within the part."""
    side: int


def _places(plan: Plan, axis: int) -> list[_Place]:
    """All places along one axis."""
    places = []
    sides = plan.block_sides()[axis]
    for first in range(0, len(sides), plan.part_blocks[axis]):
        begin = plan.region.start[axis] + first * plan.block[axis]
        line = []
        for side in sides[first : first + plan.part_blocks[axis]]:
            start, stop = list(plan.region.start), [a + 1 for a in plan.region.start]
            start[axis], stop[axis] = begin, begin + side
            line.append(Box(cast("Triple", tuple(start)), cast("Triple", tuple(stop))))
            begin += side
        part = plan.part_of(tuple(line))
        needs = {o.name: plan.need(part.box, o) for o in plan.orientations}
        spans = {name: (need.start[axis], need.stop[axis]) for name, need in needs.items()}
        places += [
            _Place(spans, part.cores[axis], i, block.shape[axis]) for i, block in enumerate(line)
        ]
    return places


def _alike(ways: list[_Way], axis: int, count: int) -> list[list[int]]:
    """Places along an axis, by what is computed there."""
    found: dict[object, list[int]] = {}
    for number in range(count):
        found.setdefault(tuple(way.patterns[axis][number] for way in ways), []).append(number)
    return list(found.values())


def _spans(ways: list[_Way], axis: int, one: Sequence[int], number: int) -> Spans:
    """Along an axis the span of each way's patches, and the span on which sums are needed."""
    spans: list[tuple[Span, Span] | None] = []
    for way in ways:
        span = way.span(axis, one, number)
        spans.append(None if span is None else (span, way.needs[axis][number]))
    return tuple(spans)


class _Way:
    """Patches of one orientation along each axis, by the blocks' places."""

    def __init__(
        self,
        tiling: Tiling,
        kinds: tuple[tuple[tuple[Kind, ...], ...], ...],
        stacks: tuple[Stack, ...],
        needs: tuple[tuple[Span, ...], ...],
    ) -> None:
        self._tiling = tiling
        self._orientation = ORIENTATIONS[tiling.orientation]
        self._kinds = kinds
        self._stacks = stacks
        self.needs = needs
        """By volume axis and place."""
        layouts = itertools.product(*(set(layouts) for layouts in tiling.layouts))
        self._group_sizes = sorted({math.prod(x.count for x in some) for some in layouts})
        self._spans: dict[object, Span | None] = {}
        self.patterns = [self._patterns(axis, len(along)) for axis, along in enumerate(needs)]
        """By volume axis and place: numbers that places share where the same is computed."""

    @classmethod
    def of(cls, tiling: Tiling, along: list[list[_Place]]) -> _Way:
        orientation = ORIENTATIONS[tiling.orientation]
        name = orientation.name
        kinds = tuple(
            tuple(kinds_along(tiling, i, p.needs[name], p.cores, p.number) for p in along[axis])
            for i, axis in enumerate(orientation.plane)
        )
        stacks: tuple[Stack, ...] = ()
        if orientation.stack is not None:
            places = along[orientation.stack]
            stacks = tuple(Stack(p.needs[name], p.cores, p.number) for p in places)
        needs = tuple(tuple(p.needs[name] for p in places) for places in along)
        return cls(tiling, kinds, stacks, needs)

    def count(self, number: Sequence[int]) -> Census:
        """Patches of the block at these places."""
        orientation = self._orientation
        kinds = [
            by_place[number[axis]]
            for by_place, axis in zip(self._kinds, orientation.plane, strict=True)
        ]
        stack = NO_STACK if orientation.stack is None else self._stacks[number[orientation.stack]]
        return count_shares(self._tiling, kinds, stack)

    def _patterns(self, axis: int, count: int) -> list[int]:
        known: dict[object, int] = {}
        found: list[object]
        if axis == self._orientation.stack:
            found = [tuple(self._run(size, n) for size in self._group_sizes) for n in range(count)]
        else:
            by_place = self._kinds[self._orientation.plane.index(axis)]
            found = [tuple((k.layout, k.turn, k.times) for k in kinds) for kinds in by_place]
        return [known.setdefault(pattern, len(known)) for pattern in found]

    def _run(self, size: int, number: int) -> tuple[int, int]:
        """Groups of `size` planes, and by how many planes the last one exceeds the stack."""
        first, end = groups_along_stack(size, self._stacks[number])
        return max(0, end - first), max(0, end * size - self._tiling.planes)

    def span(self, axis: int, one: Sequence[int], number: int) -> Span | None:
        """Working voxels along an axis under the patches of the block at place `number`.

        `one` is its place along the other axes, or one like it.
        """
        a, b = (axis + 1) % 3, (axis + 2) % 3
        key = (axis, number, self.patterns[a][one[a]], self.patterns[b][one[b]])
        if key not in self._spans:
            place = [number if a == axis else one[a] for a in range(3)]
            box = self.count(place).box
            self._spans[key] = None if box is None else (box.start[axis], box.stop[axis])
        return self._spans[key]


class _Reach:
    """Makes extents, remembering what was asked along each axis."""

    def __init__(self, plan: Plan) -> None:
        self._support = [
            functools.cache(scale.support) for scale in scales(plan.facts.shape, plan.working)
        ]
        self._shape = plan.facts.shape
        self._chunks = plan.facts.chunks or plan.facts.shape
        self._shards = plan.facts.shards or self._chunks
        self._whole = plan.facts.chunks is not None
        self.along = functools.cache(self._along)

    def _along(self, axis: int, spans: Spans, side: int) -> Extent:
        sums = tuple(
            0 if both is None else max(0, min(both[0][1], both[1][1]) - max(both[0][0], both[1][0]))
            for both in spans
        )
        mine = [both[0] for both in spans if both is not None]
        if not mine:
            return Extent(sums, 0, 0, (), 0, side)
        working = (min(a for a, _ in mine), max(b for _, b in mine))
        read = self._support[axis](working)
        size, chunk, shard = self._shape[axis], self._chunks[axis], self._shards[axis]
        first, end = read[0] // chunk * chunk, min(-(-read[1] // chunk) * chunk, size)
        return Extent(
            sums,
            working[1] - working[0],
            read[1] - read[0],
            pieces_along(read, size, chunk=chunk, shard=shard),
            end - first if self._whole else read[1] - read[0],
            side,
        )
