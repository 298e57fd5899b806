"""Every number of a run, decided before any work; or a refusal with numbers and a remedy."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from orthoflow.geometry.box import Box, Triple, split
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation
from orthoflow.geometry.output import OutputSpec
from orthoflow.geometry.scale import core_box, support_box
from orthoflow.geometry.shares import Share, extent, shares_of
from orthoflow.geometry.weights import Patches, Weighting, weighted
from orthoflow.models.card import Normalization
from orthoflow.options import Options
from orthoflow.plan import blocks as blocking
from orthoflow.reduce.vote import Ballot, Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.geometry.tiling import Tiling
    from orthoflow.models.card import Card

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

    # ----------------------------------------------------------------- what the kernels are told

    @property
    def orientations(self) -> tuple[Orientation, ...]:
        """Orientations in their canonical order."""
        return tuple(ORIENTATIONS[way.chosen.orientation] for way in self.ways)

    @property
    def channels(self) -> int:
        """Logit channels that are blended: one foreground logit if binary, else all."""
        return 1 if self.mode == "binary" else self.card.outputs

    @property
    def needs_statistics(self) -> bool:
        """Whether voxels have to be looked at before the first block."""
        methods = ("zscore", "minmax", "percentile")
        return self.normalization.scope == "volume" and self.normalization.method in methods

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

    @cached_property
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

    def parts(self) -> Iterator[Part]:
        """Parts in z, y, x order, made one at a time."""
        size = cast(
            "Triple", tuple(b * n for b, n in zip(self.block, self.part_blocks, strict=True))
        )
        for box in split(self.region, size, self.region.start):
            yield self.part_of(tuple(split(box, self.block, self.region.start)))

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
        """Working voxels whose blended logits an output `box` depends on."""
        need = support_box(box, source=self.working, target=self.facts.shape)
        half = self.options.median // 2
        if half == 0 or orientation.stack is None:
            return need
        planes, spans = orientation.spans(need)
        last = self.working[orientation.stack]
        return orientation.box((max(0, planes[0] - half), min(last, planes[1] + half)), spans)

    def shares(self, part: Part, block: Box) -> dict[str, list[Share]]:
        """Patches that the task of `block` computes, by orientation."""
        number = part.blocks.index(block)
        counts = [len(spans) for spans in part.cores]
        place = list(itertools.product(*(range(n) for n in counts)))[number]
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
        working = self.working_box(self.shares(part, block))
        return None if working is None else self.read_box(working)

    def neighbours(self, part: Part, giver: Box) -> list[Box]:
        """Blocks of the part that need sums of patches that belong to block `giver`."""
        shares = self.shares(part, giver)
        takers = []
        for taker in part.blocks:
            if taker == giver:
                continue
            for orientation in self.orientations:
                sums = self.sums_box(part, orientation, shares[orientation.name])
                if sums is not None and sums.intersect(self.need(taker, orientation)):
                    takers.append(taker)
                    break
        return takers

    # ------------------------------------------------------------------------------------ reports

    def to_dict(self) -> dict[str, Any]:
        """Every number, JSON-able; see docs/planning.md for the keys."""
        from orthoflow.plan.explain import plan_numbers  # noqa: PLC0415 - explain reads plans

        return plan_numbers(self)

    def __str__(self) -> str:
        from orthoflow.plan.explain import explain  # noqa: PLC0415

        return explain(self)
