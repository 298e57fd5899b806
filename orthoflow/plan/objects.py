"""How the outputs of a network become objects: numbers of the cells, their halo, what is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.cells import CellRule, Window, cells_needed
from orthoflow.geometry.output import PLANES, ArraySpec
from orthoflow.models.heads import CELLPROB, SEMANTIC, channels_of, class_count, thing_classes
from orthoflow.options import INSTANCES, wish_of
from orthoflow.plan.labels import label_arrays, length_voxels, rule_of

if TYPE_CHECKING:
    from orthoflow.geometry.box import Box, Triple
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.geometry.orientations import Orientation
    from orthoflow.models.card import Card
    from orthoflow.models.heads import Task
    from orthoflow.options import Options
    from orthoflow.reduce.engine import Rule
    from orthoflow.reduce.vote import Mode

MedianRule = Literal["plain", "recursive"]

# Of the grid on which centres are sought: with heads of full resolution, and of a quarter.
_FINE_DISTANCE, _COARSE_DISTANCE = 7, 3
_COARSE_STEP = 4
# Voxels across the largest object, where neither the user nor the card says.
_USUAL_DIAMETER = 256
_DIAMETERS = 4
# Labels of a plane beyond its centres: one for each class (`geometry.cells.no_center`).
_MOST_CLASSES = 256


@dataclass(frozen=True, slots=True)
class CellPlan:
    """How planes of a panoptic network become cells, and cells of all orientations instances."""

    cells: CellRule
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


def task_of(card: Card, options: Options) -> Task:
    """What the network is used for; `semantic_only` leaves its other heads alone."""
    return "semantic" if options.semantic_only else card.task


def kept_channels(card: Card, task: Task) -> tuple[int, int]:
    """First and end of the network's outputs that are used."""
    if task != "semantic" or card.task == "semantic":
        return 0, card.outputs
    head = channels_of(card, SEMANTIC if card.task == "panoptic" else CELLPROB)
    return head.start, head.stop


def semantic_logits(card: Card, task: Task) -> int:
    """Logits of the classes."""
    if task == "semantic":
        first, end = kept_channels(card, task)
        return end - first
    head = channels_of(card, SEMANTIC if task == "panoptic" else CELLPROB)
    return int(head.stop - head.start)


def blended_channels(mode: Mode, kept: tuple[int, int], objects: CellPlan | None) -> int:
    """Channels that are blended: one foreground logit of a binary answer, else all."""
    return 1 if mode == "binary" and objects is None else kept[1] - kept[0]


def check_objects(card: Card, options: Options, task: Task) -> None:
    """Refuse options for objects where none are made, and networks whose objects cannot be."""
    if options.semantic_only and card.task == "semantic":
        raise BadInput(f"semantic_only: {card.name!r} is a semantic network; leave it out")
    if task == "semantic":
        for name in options.changed():
            if wish_of(name).group == INSTANCES and name != "semantic_only":
                raise BadInput(
                    f"{name} is for instances, and {card.name!r} gives none here; leave it out, "
                    "or see orthoflow consensus"
                )
        return
    if task == "flows":
        raise BadInput(
            f"model {card.name!r} is a flows network, and a run cannot make objects of flows yet; "
            "use a panoptic one"
        )
    if card.ndim == 3:
        raise BadInput(
            f"model {card.name!r} takes 3-D patches, and cells are found in planes; use "
            "semantic_only, or a 2-D panoptic network"
        )


def cell_plan(
    facts: VolumeFacts,
    card: Card,
    options: Options,
    working: Triple,
    orientations: tuple[Orientation, ...],
) -> CellPlan:
    """Numbers of the cells of a panoptic network.

    Raises
    ------
    BadInput
        If the options cannot be meant.
    """
    step = _COARSE_STEP if options.fine_boundaries is False else 1
    distance = options.center_distance or (_FINE_DISTANCE if step == 1 else _COARSE_DISTANCE)
    cells = CellRule(
        center_threshold=options.center_threshold,
        center_distance=distance,
        reach=reach_of(facts, card, options, working),
        step=step,
        zoom=1,
    )
    things = thing_classes(card)
    pixels = max(math.prod(o.plane_shape(working)) for o in orientations) + 1 + _MOST_CLASSES
    divisor = pixels + 1 if class_count(card) > 2 else None
    largest = pixels if divisor is None else divisor * (class_count(card) + 1)
    if largest >= 2**63:
        raise BadInput(f"planes of {pixels:,} pixels are more than cells can be numbered in")
    return CellPlan(
        cells=cells,
        things=things,
        semantic=(0, channels_of(card, SEMANTIC).stop),
        divisor=divisor,
        median_rule=cast("MedianRule", options.median_rule or _usual_median_rule(options)),
        rule=rule_of(options, facts, views=len(orientations)),
        dtype="uint32" if largest < 2**32 else "uint64",
    )


def _usual_median_rule(options: Options) -> MedianRule:
    return "recursive" if options.instances == "empanada" and options.median > 1 else "plain"


def reach_of(facts: VolumeFacts, card: Card, options: Options, working: Triple) -> int:
    """Working voxels from a voxel to the middle of its object, at most."""
    if options.max_diameter is not None:
        voxels = length_voxels("max_diameter", options.max_diameter, facts)
        if voxels < 1:
            raise BadInput(f"max_diameter {options.max_diameter!r} is nothing; use a voxel or more")
        ratio = max(w / n for w, n in zip(working, facts.shape, strict=True))
        return math.ceil(voxels / 2 * ratio)
    if card.diameter is not None:
        return math.ceil(card.diameter * _DIAMETERS / 2)
    return _USUAL_DIAMETER // 2


def check_median_rule(objects: CellPlan, options: Options, region: Box, block: Triple) -> None:
    """Refuse a recursive median over stacks that blocks would cut."""
    if objects.median_rule == "recursive" and options.median > 1 and block != region.shape:
        whole = ",".join(map(str, region.shape))
        raise BadInput(
            f"median {options.median} with median_rule recursive (empanada's, in which a plane "
            f"depends on all before it) needs whole stacks in one block; use block {whole}, or "
            "median_rule plain"
        )
