"""Every number of a run, decided before any work; or a refusal with numbers and a remedy."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from orthoflow.geometry.box import Box, Triple, split
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation
from orthoflow.geometry.output import OutputSpec
from orthoflow.geometry.scale import core_box, support_box
from orthoflow.geometry.shares import Share, extent, shares_of
from orthoflow.geometry.weights import Patches, Weighting, weighted
from orthoflow.models.card import Normalization
from orthoflow.models.heads import blend_factors
from orthoflow.options import Options
from orthoflow.plan import blocks as blocking
from orthoflow.plan.census import census_of
from orthoflow.plan.objects import blended_channels
from orthoflow.plan.order import ordered_boxes, ordered_cells, undone_boxes
from orthoflow.reduce.vote import Ballot, Mode

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.geometry.tiling import Tiling
    from orthoflow.models.card import Card
    from orthoflow.plan.objects import ObjectPlan

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Way:
    """The tiling chosen for one orientation, and those it was chosen among."""

    chosen: Tiling
    possible: tuple[Tiling, ...]
    unpacked: Tiling


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks that one Dask graph handles; inside it no patch is computed twice."""

    box: Box
    """Output voxels, in the input's coordinates."""
    blocks: tuple[Box, ...]
    cores: tuple[tuple[tuple[int, int], ...], ...]
    """Per axis the working voxels that belong to each block."""


@dataclass(frozen=True)
class Plan:
    """Every number of a run. `print(plan)` explains it; `to_dict()` gives the numbers.

    Boxes of blocks are in the input's voxels; boxes of patches and sums in working voxels, which
    differ where the volume is resampled for the network.
    """

    facts: VolumeFacts
    card: Card
    options: Options
    working: Triple
    """Shape of the volume that the network sees."""
    ways: tuple[Way, ...]
    mode: Mode
    normalization: Normalization
    region: Box
    block: Triple
    part_blocks: Triple
    output: OutputSpec
    kept: tuple[int, int]
    """First and end of the network's outputs that are used."""
    objects: ObjectPlan | None = None
    """How outputs become objects; None of a semantic run."""

    # ----------------------------------------------------------------- what the kernels are told

    @property
    def orientations(self) -> tuple[Orientation, ...]:
        """Orientations in their canonical order."""
        return tuple(ORIENTATIONS[way.chosen.orientation] for way in self.ways)

    @property
    def channels(self) -> int:
        """Channels that are blended: one foreground logit if binary, else all that are used."""
        return blended_channels(self.mode, self.kept, self.objects)

    @property
    def semantic(self) -> tuple[int, int]:
        """First and end of the class logits among the blended channels."""
        return (0, self.channels) if self.objects is None else self.objects.semantic

    @property
    def factors(self) -> tuple[float, ...]:
        """What blended channels are multiplied by beforehand; empty where it is one for all."""
        return () if self.objects is None else blend_factors(self.card)

    @property
    def needs_statistics(self) -> bool:
        """Whether voxels have to be looked at before the first block."""
        own = self.normalization
        if own.method == "fixed":
            # To see whether they are on the scale that the card's numbers are for.
            return self.facts.dtype not in ("uint8", "int8")
        return own.scope == "volume" and own.method in ("zscore", "minmax", "percentile")

    @property
    def ballot(self) -> Ballot:
        """The rule by which the orientations agree."""
        options = self.options
        weights = options.plane_weights or (1.0,) * len(self.ways)
        rule = cast("Literal['mean', 'vote']", options.consensus)
        return Ballot(self.mode, rule, options.votes, options.threshold, weights)

    def patches(self, orientation: str) -> Patches:
        """Tiling and weights of one orientation."""
        way = next(w for w in self.ways if w.chosen.orientation == orientation)
        weighting = cast("Weighting", self.options.weighting)
        return weighted(way.chosen, weighting, self.options.sigma_scale)

    @property
    def precision(self) -> Precision:
        """Precision of the network: what was asked for, bfloat16 on a GPU, float32 otherwise."""
        default = "bfloat16" if self.options.device.startswith("cuda") else "float32"
        return cast("Precision", self.options.precision or default)

    @property
    def batch(self) -> int:
        """Tiles that the network runs at once."""
        pixels = max(math.prod(p.tile) for p in self._first_positions())
        return self.options.batch_size or blocking.batch_size(pixels, self.options.device)

    def _first_positions(self) -> list[Any]:
        return [next(way.chosen.positions()) for way in self.ways]

    # --------------------------------------------------------------------------- blocks and parts

    @functools.cached_property
    def block_grid(self) -> Triple:
        """Blocks along (z, y, x)."""
        return blocking.cells(self.region.shape, self.block)

    @property
    def block_count(self) -> int:
        """Blocks of the whole run."""
        return math.prod(self.block_grid)

    @property
    def part_count(self) -> int:
        """Parts of the whole run."""
        return math.prod(blocking.cells(self.block_grid, self.part_blocks))

    def parts(self, share: tuple[int, int] = (1, 0)) -> Iterator[Part]:
        """Parts, neighbours close to each other, made one at a time.

        Parameters
        ----------
        share
            Number of jobs that share the parts, and which of them is asked for; each gets a run
            of parts, and all of them together get every part once. With more jobs than parts some
            get none.
        """
        for cell in ordered_cells(*self._stretch(share)):
            z, y, x = cell
            yield self._part_at(self._blocks_of(Box(cell, (z + 1, y + 1, x + 1))))

    def share_blocks(self, share: tuple[int, int]) -> int:
        """Blocks of a job's parts; no part is made for that."""
        return sum(self._blocks_of(box).voxels for box in ordered_boxes(*self._stretch(share)))

    def _stretch(self, share: tuple[int, int]) -> tuple[Triple, int, int]:
        """Grid of parts, and where a job's begin and end in their order."""
        jobs, job = share
        first, end = (self.part_count * n // jobs for n in (job, job + 1))
        return blocking.cells(self.block_grid, self.part_blocks), first, end

    def _blocks_of(self, parts: Box) -> Box:
        """Numbers of the blocks in a box of parts."""
        start, stop = (
            tuple(
                min(c * n, most)
                for c, n, most in zip(corner, self.part_blocks, self.block_grid, strict=True)
            )
            for corner in (parts.start, parts.stop)
        )
        return Box(cast("Triple", start), cast("Triple", stop))

    def unfinished(self, part: Part, done: Container[Triple]) -> Iterator[Part]:
        """What is left of a part when some of its blocks, given by number, are done.

        The whole part if none is; else few parts that hold the others, and compute again what
        they need of those that are done.
        """
        first, last = (self.block_number(part.blocks[place]) for place in (0, -1))
        stop = cast("Triple", tuple(n + 1 for n in last))
        for box in undone_boxes(Box(first, stop), done):
            yield self._part_at(box)

    def part_alone(self, block: Box) -> Part:
        """The part of one block."""
        return self.part_of((block,))

    def _part_at(self, numbers: Box) -> Part:
        """The part of the blocks with these numbers."""
        start, stop = (
            tuple(
                o + n * side for o, n, side in zip(self.region.start, ns, self.block, strict=True)
            )
            for ns in (numbers.start, numbers.stop)
        )
        box = Box(cast("Triple", start), cast("Triple", tuple(map(min, stop, self.region.stop))))
        return self.part_of(tuple(split(box, self.block, self.region.start)))

    def part_of(self, blocks: tuple[Box, ...]) -> Part:
        """A part of these blocks, which fill a box."""
        box = Box(blocks[0].start, blocks[-1].stop)
        cores = []
        for axis in range(3):
            spans = sorted({(b.start[axis], b.stop[axis]) for b in blocks})
            cores.append(tuple(self._core(axis, span) for span in spans))
        return Part(box, blocks, tuple(cores))

    def _core(self, axis: int, span: tuple[int, int]) -> tuple[int, int]:
        start, stop = [0, 0, 0], [1, 1, 1]
        start[axis], stop[axis] = span
        core = core_box(
            Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])),
            source=self.facts.shape,
            target=self.working,
        )
        return core.start[axis], core.stop[axis]

    def blocks(self) -> Iterator[Box]:
        """Every block's output box, part by part."""
        for part in self.parts():
            yield from part.blocks

    def block_number(self, block: Box) -> Triple:
        """Number of a block along (z, y, x)."""
        z, y, x = (
            (a - o) // side
            for a, o, side in zip(block.start, self.region.start, self.block, strict=True)
        )
        return (z, y, x)

    def block_sides(self) -> tuple[tuple[int, ...], ...]:
        """Voxels of the blocks along z, y and x."""
        return tuple(
            tuple(min(side, size - first) for first in range(0, size, side))
            for size, side in zip(self.region.shape, self.block, strict=True)
        )

    def need(self, box: Box, orientation: Orientation) -> Box:
        """Working voxels whose blended outputs an output `box` depends on."""
        need = self.view(box, orientation)
        return need if self.objects is None else self.objects.need(need, orientation, self.working)

    def view(self, box: Box, orientation: Orientation) -> Box:
        """Working voxels whose class logits the vote on an output `box` depends on."""
        need = support_box(box, source=self.working, target=self.facts.shape)
        half = self.options.median // 2
        if half == 0 or orientation.stack is None:
            return need
        planes, spans = orientation.spans(need)
        last = self.working[orientation.stack]
        return orientation.box((max(0, planes[0] - half), min(last, planes[1] + half)), spans)

    def shares(self, part: Part, block: Box) -> dict[str, list[Share]]:
        """Patches that the task of `block` computes, by orientation."""
        place = _place(part, block)
        return {
            way.chosen.orientation: list(
                shares_of(
                    way.chosen,
                    self.need(part.box, ORIENTATIONS[way.chosen.orientation]),
                    part.cores,
                    place,
                )
            )
            for way in self.ways
        }

    def sums_box(self, part: Part, orientation: Orientation, shares: list[Share]) -> Box | None:
        """Working voxels of the part for which `shares` give sums; None if there are none."""
        if not shares:
            return None
        way = next(w for w in self.ways if w.chosen.orientation == orientation.name)
        return extent(way.chosen, shares).intersect(self.need(part.box, orientation))

    def working_box(self, shares: dict[str, list[Share]]) -> Box | None:
        """Working voxels that the patches of `shares` are cut from; None without patches."""
        boxes = [
            extent(way.chosen, shares[way.chosen.orientation])
            for way in self.ways
            if shares[way.chosen.orientation]
        ]
        whole = boxes[0] if boxes else None
        for box in boxes[1:]:
            whole = box if whole is None else whole.union(box)
        return whole

    def read_box(self, working: Box) -> Box:
        """Input voxels that a working box is made from."""
        return support_box(working, source=self.facts.shape, target=self.working)

    def input_box(self, part: Part, block: Box) -> Box | None:
        """Input voxels that the task of `block` reads; None if it has no patch."""
        boxes = [box for box in self._extents(part, block) if box is not None]
        return self.read_box(functools.reduce(Box.union, boxes)) if boxes else None

    def neighbours(self, part: Part, giver: Box) -> list[Box]:
        """Blocks of the part that need sums of patches that belong to block `giver`."""
        takers: set[tuple[int, ...]] = set()
        for orientation, given in zip(self.orientations, self._extents(part, giver), strict=True):
            if given is not None:
                needs = [self.need(block, orientation) for block in _diagonal(part)]
                takers.update(itertools.product(*_touching(given, needs, part)))
        places = itertools.product(*(range(len(spans)) for spans in part.cores))
        return [
            block
            for place, block in zip(places, part.blocks, strict=True)
            if place in takers and block != giver
        ]

    def _extents(self, part: Part, block: Box) -> list[Box | None]:
        """Per orientation the working voxels under the patches of `block`; none is visited."""
        place = _place(part, block)
        needs = (self.need(part.box, orientation) for orientation in self.orientations)
        return [
            census_of(way.chosen, need, part.cores, place).box
            for way, need in zip(self.ways, needs, strict=True)
        ]

    # ------------------------------------------------------------------------------------ reports

    def to_dict(self) -> dict[str, Any]:
        """Every number, JSON-able; see docs/planning.md for the keys."""
        from orthoflow.plan.explain import plan_numbers  # noqa: PLC0415 - explain reads plans

        return plan_numbers(self)

    def __str__(self) -> str:
        from orthoflow.plan.explain import explain  # noqa: PLC0415

        return explain(self)


def _place(part: Part, block: Box) -> Triple:
    """Number of a block along each axis of its part."""
    number, (_, rows, columns) = part.blocks.index(block), map(len, part.cores)
    return number // (rows * columns), number // columns % rows, number % columns


def _diagonal(part: Part) -> list[Box]:
    """Blocks that show every place along each axis, the last one of an axis again and again."""
    counts = [len(spans) for spans in part.cores]
    numbers = ([min(i, n - 1) for n in counts] for i in range(max(counts)))
    return [part.blocks[(z * counts[1] + y) * counts[2] + x] for z, y, x in numbers]


def _touching(given: Box, needs: list[Box], part: Part) -> list[list[int]]:
    """Along each axis the places of a part's blocks whose `needs` meet a box."""
    return [
        [
            place
            for place, need in enumerate(needs[: len(spans)])
            if need.start[axis] < given.stop[axis] and given.start[axis] < need.stop[axis]
        ]
        for axis, spans in enumerate(part.cores)
    ]
