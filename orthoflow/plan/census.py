"""What every block of a run computes and holds, counted per axis instead of per patch."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orthoflow.geometry.box import AXES, Box
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.scale import scales
from orthoflow.geometry.shares import (
    NO_STACK,
    Census,
    Kind,
    Stack,
    count_shares,
    kinds_along,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.geometry.tiling import Span, Tiling
    from orthoflow.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class BlockCensus:
    """What the task of one block computes and holds."""

    ways: tuple[Census, ...]
    """Patches, one entry per orientation."""
    sums: int
    """Working voxels for which it has sums, of all orientations together."""
    working: Box | None
    """Working voxels that its patches are cut from."""
    read: Box | None
    """Input voxels that those are made from."""
    voxels: int
    """Voxels of its output."""


def census(plan: Plan) -> Iterator[BlockCensus]:
    """One entry per block, in no particular order.

    A block's place along one axis decides which patches along that axis fall to it, so these are
    looked up once per axis and place: 10^4 blocks are 3 x 22 places.
    """
    along = [_places(plan, axis) for axis in range(len(AXES))]
    ways = [_Way.of(way.chosen, along) for way in plan.ways]
    support = _Support(plan)
    for number in itertools.product(*(range(len(places)) for places in along)):
        voxels = math.prod(places[i].voxels for places, i in zip(along, number, strict=True))
        counts = tuple(way.count(number) for way in ways)
        sums = sum(way.sums_voxels(c, number) for way, c in zip(ways, counts, strict=True))
        boxes = [c.box for c in counts if c.box is not None]
        working = functools.reduce(Box.union, boxes) if boxes else None
        read = None if working is None else support.box(working)
        yield BlockCensus(counts, sums, working, read, voxels)


@dataclass(frozen=True, slots=True)
class _Place:
    """One block's place along one axis, and the part's that it lies in."""

    needs: dict[str, Span]
    """Working voxels on which the part needs sums, by orientation."""
    cores: tuple[Span, ...]
    number: int
    """Of the block within the part."""
    voxels: int


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
            line.append(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
            begin += side
        part = plan.part_of(tuple(line))
        needs = {o.name: plan.need(part.box, o) for o in plan.orientations}
        spans = {name: (need.start[axis], need.stop[axis]) for name, need in needs.items()}
        places += [
            _Place(spans, part.cores[axis], i, block.shape[axis]) for i, block in enumerate(line)
        ]
    return places


@dataclass(frozen=True, slots=True)
class _Way:
    """Patches of one orientation along each axis, by the blocks' places."""

    tiling: Tiling
    kinds: tuple[tuple[tuple[Kind, ...], ...], ...]
    """By plane axis and place."""
    stacks: tuple[Stack, ...]
    """By place along the stack."""
    needs: tuple[tuple[Span, ...], ...]
    """By volume axis and place."""

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

    def count(self, number: tuple[int, ...]) -> Census:
        """Patches of the block at these places."""
        orientation = ORIENTATIONS[self.tiling.orientation]
        kinds = [
            by_place[number[axis]]
            for by_place, axis in zip(self.kinds, orientation.plane, strict=True)
        ]
        stack = NO_STACK if orientation.stack is None else self.stacks[number[orientation.stack]]
        return count_shares(self.tiling, kinds, stack)

    def sums_voxels(self, count: Census, number: tuple[int, ...]) -> int:
        """Working voxels of the part under the block's patches, as one box."""
        if count.box is None:
            return 0
        ends = zip(count.box.start, count.box.stop, self.needs, number, strict=True)
        return math.prod(
            max(0, min(b, needs[i][1]) - max(a, needs[i][0])) for a, b, needs, i in ends
        )


class _Support:
    """`Plan.read_box`, remembering what was asked along each axis."""

    def __init__(self, plan: Plan) -> None:
        self._along = [
            functools.cache(scale.support) for scale in scales(plan.facts.shape, plan.working)
        ]

    def box(self, working: Box) -> Box:
        (z0, z1), (y0, y1), (x0, x1) = (
            support((a, b))
            for support, a, b in zip(self._along, working.start, working.stop, strict=True)
        )
        return Box((z0, y0, x0), (z1, y1, x1))
