"""How the outputs of a network become objects: numbers of the cells, their halo, what is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.geometry.cells import CellRule, Window, cells_needed
from orthoflow.geometry.following import FlowRule, flow_halo, smoothing_halo
from orthoflow.geometry.output import CLASSES, ENDS, MIDDLES, PLANES, ArraySpec
from orthoflow.models.heads import (
    FLOW_SCALE,
    SEMANTIC,
    channels_of,
    class_count,
    thing_classes,
)
from orthoflow.options import triple
from orthoflow.plan.labels import (
    end_rule_of,
    label_arrays,
    length_voxels,
    rule_of,
    solid_rule_of,
)
from orthoflow.plan.tasks import method_of, of_classes, task_of
from orthoflow.reduce.vote import logit_of

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.geometry.orientations import Orientation
    from orthoflow.models.card import Card
    from orthoflow.options import Options
    from orthoflow.reduce.ends import EndRule
    from orthoflow.reduce.engine import Rule
    from orthoflow.reduce.solidengine import SolidRule
    from orthoflow.reduce.vote import Mode

MedianRule = Literal["plain", "recursive"]
Combination = Literal["mean", "sum"]

# Of the grid on which centres are sought: with heads of full resolution, and of a quarter.
_FINE_DISTANCE, _COARSE_DISTANCE = 7, 3
_COARSE_STEP = 4
# Voxels across the largest object, where neither the user nor the card says.
_USUAL_THING, _USUAL_CELL = 256, 128
_DIAMETERS = 4
# Labels of a plane beyond its centres: one for each class (`geometry.cells.no_center`).
_MOST_CLASSES = 256


@dataclass(frozen=True, slots=True)
class CellPlan:
    """How planes of a panoptic network become cells, and cells of all orientations instances."""

    cells: CellRule | FlowRule
    """Of panoptic networks; of flow networks, whose planes are followed one by one."""
    things: tuple[int, ...]
    semantic: tuple[int, int]
    """First and end of the class logits among the blended channels."""
    divisor: int | None
    """Stored labels are class * divisor + cell; None where there is one class of things."""
    median_rule: MedianRule
    rule: Rule
    dtype: str
    """Of stored cells."""

    def need(self, need: Box, orientation: Orientation, working: Triple) -> Box:
        """Working voxels whose outputs the cells in the working voxels `need` depend on."""
        planes, (rows, columns) = orientation.spans(need)
        if isinstance(self.cells, FlowRule):
            halo = flow_halo(self.cells, once=True)
            by = [0 if axis == orientation.stack else halo for axis in range(3)]
            return grown(need, (by[0], by[1], by[2]), working)
        height, width = orientation.plane_shape(working)
        window = Window((height, width), rows, columns)
        spans = []
        for wanted, cells in zip(window.spans, cells_needed(window, self.cells), strict=True):
            first, last = cells[0] * self.cells.step, (cells[1] - 1) * self.cells.step
            spans.append((min(wanted[0], first), max(wanted[1], last + 1)))
        return orientation.box(planes, tuple(spans))

    def arrays(self, options: Options, names: tuple[str, ...]) -> list[ArraySpec]:
        """Arrays of cells and instances, without levels."""
        planes = [ArraySpec(f"{PLANES}/{name}", "labels", self.dtype, 0, ()) for name in names]
        return planes + label_arrays(options, names)


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """How outputs of a flow network become one field, and what ends in one place an object."""

    flow: FlowRule
    combination: Combination
    weights: tuple[float, ...]
    """Of each orientation, in the canonical order."""
    smoothing: tuple[float, float, float]
    """Sigma of the flow's Gaussian along z, y, x, working voxels."""
    semantic: tuple[int, int]
    """First and end of the foreground's logit among the blended channels."""
    rule: EndRule
    dtype: str
    """Of stored ends."""

    def need(self, need: Box, orientation: Orientation, working: Triple) -> Box:
        """Working voxels whose outputs the ends of the working voxels `need` depend on."""
        del orientation
        return self.field(self.followed(need, working), working)

    def followed(self, wanted: Box, working: Triple) -> Box:
        """Voxels whose flow those of `wanted` follow."""
        return grown(wanted, (self.flow.reach,) * 3, working)

    def field(self, followed: Box, working: Triple) -> Box:
        """Voxels from which the flow of `followed` is made."""
        z, y, x = map(smoothing_halo, self.smoothing)
        return grown(followed, (z, y, x), working)

    def arrays(self, options: Options, names: tuple[str, ...]) -> list[ArraySpec]:
        """Arrays of ends and objects, without levels."""
        del names
        return [ArraySpec(ENDS, "labels", self.dtype, 0, ()), *label_arrays(options, ())]


def grown(box: Box, by: Triple, shape: Triple) -> Box:
    """The box and `by` voxels around it along each axis, as far as a volume of `shape` goes."""
    start = tuple(max(0, a - n) for a, n in zip(box.start, by, strict=True))
    stop = tuple(min(s, b + n) for b, n, s in zip(box.stop, by, shape, strict=True))
    return Box(cast("Triple", start), cast("Triple", stop))


@dataclass(frozen=True, slots=True)
class MiddlePlan:
    """How outputs of a panoptic network of 3-D patches become cells, each of which is an object."""

    cells: CellRule
    semantic: tuple[int, int]
    """First and end of the class logits among the blended channels."""
    rule: EndRule
    dtype: str
    """Of stored centres."""

    def need(self, need: Box, orientation: Orientation, working: Triple) -> Box:
        """Working voxels whose outputs the centres of the working voxels `need` depend on."""
        del orientation
        assert self.cells.reach is not None
        return grown(need, (self.cells.reach + self.cells.center_distance // 2,) * 3, working)

    def arrays(self, options: Options, names: tuple[str, ...]) -> list[ArraySpec]:
        """Arrays of centres and objects, without levels."""
        del names
        return [ArraySpec(MIDDLES, "labels", self.dtype, 0, ()), *label_arrays(options, ())]


@dataclass(frozen=True, slots=True)
class SolidPlan:
    """How classes become objects; nothing but the vote on them is needed of a block."""

    rule: SolidRule

    def need(self, need: Box, orientation: Orientation, working: Triple) -> Box:
        """Working voxels whose outputs the classes in the working voxels `need` depend on."""
        del orientation, working
        return need

    def arrays(self, options: Options, names: tuple[str, ...]) -> list[ArraySpec]:
        """Arrays of classes and objects, without levels."""
        del names
        return [ArraySpec(CLASSES, "labels", "uint8", 0, ()), *label_arrays(options, ())]


ObjectPlan = CellPlan | FlowPlan | MiddlePlan | SolidPlan


def blended_channels(mode: Mode, kept: tuple[int, int], objects: ObjectPlan | None) -> int:
    """Channels that are blended: one foreground logit of a binary answer, else all."""
    return 1 if mode == "binary" and not has_heads(objects) else kept[1] - kept[0]


def has_heads(objects: ObjectPlan | None) -> TypeGuard[CellPlan | FlowPlan | MiddlePlan]:
    """Whether objects are made of all outputs, not of classes alone."""
    return isinstance(objects, CellPlan | FlowPlan | MiddlePlan)


def object_plan(
    facts: VolumeFacts,
    card: Card,
    options: Options,
    working: Triple,
    orientations: tuple[Orientation, ...],
) -> ObjectPlan | None:
    """How the network's outputs become objects; None where only classes are wanted.

    Raises
    ------
    BadInput
        If the options cannot be meant.
    """
    if of_classes(options):
        return SolidPlan(solid_rule_of(options, facts))
    task = task_of(card, options)
    if task == "semantic":
        return None
    if method_of(card, options, task) == "flows":
        return _flow_plan(facts, card, options, working, orientations)
    if task == "panoptic" and card.ndim == 3:
        return _middle_plan(facts, card, options, working)
    return _cell_plan(facts, card, options, working, orientations)


def _middle_plan(facts: VolumeFacts, card: Card, options: Options, working: Triple) -> MiddlePlan:
    """Numbers of the cells of 3-D patches."""
    return MiddlePlan(
        cells=_cell_rule(facts, card, options, working),
        semantic=(0, channels_of(card, SEMANTIC).stop),
        rule=end_rule_of(options, facts),
        dtype=_raster_dtype(working),
    )


def _cell_plan(
    facts: VolumeFacts,
    card: Card,
    options: Options,
    working: Triple,
    orientations: tuple[Orientation, ...],
) -> CellPlan:
    """Numbers of the cells of planes."""
    cells: CellRule | FlowRule
    if card.task == "flows":
        cells = _flow_rule(facts, card, options, working, axes=(1, 2))
        semantic = (card.outputs - 1, card.outputs)
    else:
        cells = _cell_rule(facts, card, options, working)
        semantic = (0, channels_of(card, SEMANTIC).stop)
    classes = class_count(card)
    pixels = max(math.prod(o.plane_shape(working)) for o in orientations) + 1 + _MOST_CLASSES
    divisor = pixels + 1 if classes > 2 else None
    largest = pixels if divisor is None else divisor * (classes + 1)
    if largest >= 2**63:
        raise BadInput(f"planes of {pixels:,} pixels are more than cells can be numbered in")
    method = method_of(card, options, card.task)
    return CellPlan(
        cells=cells,
        things=thing_classes(card),
        semantic=semantic,
        divisor=divisor,
        median_rule=cast("MedianRule", options.median_rule or _usual_median_rule(options)),
        rule=replace(
            rule_of(options, facts, views=len(orientations), method=method),
            by_class=options.label_divisor is not None and method != "planes",
        ),
        dtype="uint32" if largest < 2**32 else "uint64",
    )


def _cell_rule(facts: VolumeFacts, card: Card, options: Options, working: Triple) -> CellRule:
    step = _COARSE_STEP if options.fine_boundaries is False else 1
    return CellRule(
        center_threshold=options.center_threshold,
        center_distance=options.center_distance
        or (_FINE_DISTANCE if step == 1 else _COARSE_DISTANCE),
        reach=reach_of(facts, card, options, working, usual=_USUAL_THING),
        step=step,
        zoom=1,
    )


def _flow_rule(
    facts: VolumeFacts, card: Card, options: Options, working: Triple, *, axes: tuple[int, ...]
) -> FlowRule:
    return FlowRule(
        scale=1 / FLOW_SCALE,
        threshold=logit_of(options.threshold),
        steps=options.flow_steps,
        reach=reach_of(facts, card, options, working, usual=_USUAL_CELL),
        axes=axes,
    )


def _usual_median_rule(options: Options) -> MedianRule:
    return "recursive" if options.instances == "empanada" and options.median > 1 else "plain"


def _flow_plan(
    facts: VolumeFacts,
    card: Card,
    options: Options,
    working: Triple,
    orientations: tuple[Orientation, ...],
) -> FlowPlan:
    """Numbers of the field of a flow network."""
    z, y, x = triple("flow_smoothing", options.flow_smoothing)
    return FlowPlan(
        flow=_flow_rule(facts, card, options, working, axes=(0, 1, 2)),
        combination=cast("Combination", options.flow_combination),
        weights=options.plane_weights or (1.0,) * len(orientations),
        smoothing=(z, y, x),
        semantic=(card.outputs - 1, card.outputs),
        rule=end_rule_of(options, facts),
        dtype=_raster_dtype(working),
    )


def _raster_dtype(shape: Triple) -> str:
    """Of 1 + raster index of a voxel."""
    return "uint32" if math.prod(shape) < 2**32 - 1 else "uint64"


def reach_of(
    facts: VolumeFacts, card: Card, options: Options, working: Triple, *, usual: int
) -> int:
    """Working voxels from a voxel to the middle of its object, at most."""
    if options.max_diameter is not None:
        voxels = length_voxels("max_diameter", options.max_diameter, facts)
        if voxels < 1:
            raise BadInput(f"max_diameter {options.max_diameter!r} is nothing; use a voxel or more")
        ratio = max(w / n for w, n in zip(working, facts.shape, strict=True))
        return math.ceil(voxels / 2 * ratio)
    if card.diameter is not None:
        return math.ceil(card.diameter * _DIAMETERS / 2)
    return usual // 2


def check_median_rule(objects: CellPlan, options: Options, block: Triple, shape: Triple) -> None:
    """Refuse a recursive median over stacks that blocks, or the region, would cut."""
    if objects.median_rule == "recursive" and options.median > 1 and block != shape:
        whole = ",".join(map(str, shape))
        raise BadInput(
            f"median {options.median} with median_rule recursive (empanada's, in which a plane "
            f"depends on all before it) needs whole stacks in one block; use block {whole}, or "
            "median_rule plain"
        )
