"""What a network is used for, which of its outputs, and which options go with that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from orthoflow.errors import BadInput
from orthoflow.models.heads import CELLPROB, SEMANTIC, Task, channels_of, class_count
from orthoflow.options import INSTANCES, wish_of

if TYPE_CHECKING:
    from orthoflow.models.card import Card
    from orthoflow.options import Options

Method = Literal["components", "empanada", "stitch", "planes", "flows", "cc", "watershed"]
"""How objects are found; see option `instances`."""

# Options that say nothing about what a network of that task gives, and those about planes.
_MEANINGLESS: dict[Task, frozenset[str]] = {
    "panoptic": frozenset({"flow_combination", "flow_smoothing", "flow_steps"}),
    "flows": frozenset({"center_threshold", "center_distance", "fine_boundaries", "median_rule"})
    | {"median"},
}
_OF_PATCHES = frozenset({"center_threshold", "center_distance", "max_diameter", "min_size"}) | {
    "min_extent",
    "fill_holes",
}
_SOLID = frozenset({"connectivity", "watershed_depth", "watershed_radius"})
_OF_CLASSES = frozenset({"instances", "min_size", "min_extent", "fill_holes", "connectivity"}) | {
    "watershed_depth",
    "watershed_radius",
}
_OF_PLANES = frozenset({"votes", "allow_one_view", "merge_iou", "merge_ioa", "cluster_iou"}) | {
    "stitch_threshold",
    "label_divisor",
    "keep_stacks",
}


def task_of(card: Card, options: Options) -> Task:
    """What the network is used for.

    `semantic_only`, and objects that are components of classes, leave its other heads alone.
    """
    return "semantic" if options.semantic_only or of_classes(options) else card.task


def of_classes(options: Options) -> bool:
    """Whether objects are made of classes."""
    return options.instances in ("cc", "watershed")


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


def check_objects(card: Card, options: Options, task: Task) -> None:
    """Refuse options for objects where none are made, and networks whose objects cannot be."""
    if options.semantic_only and card.task == "semantic":
        raise BadInput(f"semantic_only: {card.name!r} is a semantic network; leave it out")
    if options.semantic_only and options.instances is not None:
        raise BadInput(f"semantic_only and instances {options.instances} contradict each other")
    if task == "semantic":
        _check_classes(card, options)
        return
    if card.ndim == 3 and task == "panoptic":
        _check_patches(card, options)
        return
    method = method_of(card, options, task)
    if method == "flows":
        _check_field(card, options, task)
    elif task == "flows" and card.ndim == 3:
        raise BadInput(
            f"instances {method} joins objects of planes, and {card.name!r} takes 3-D patches; "
            "leave it out"
        )
    _check_meant(card, options, task, method)


def _check_patches(card: Card, options: Options) -> None:
    """Refuse what a panoptic network of 3-D patches cannot have, and options without a meaning."""
    if class_count(card) > 2:
        raise BadInput(
            f"model {card.name!r} takes 3-D patches and has {class_count(card)} classes; objects "
            "are made of one class of things and background alone: use semantic_only, or "
            "instances cc"
        )
    for name in options.changed():
        if name == "keep_stacks" or (wish_of(name).group == INSTANCES and name not in _OF_PATCHES):
            raise BadInput(f"{name} means nothing for 3-D patches of {card.name!r}; leave it out")


def _check_classes(card: Card, options: Options) -> None:
    """Refuse options for objects that are not made of classes."""
    method = options.instances
    for name in options.changed():
        if not of_classes(options):
            if wish_of(name).group == INSTANCES and name != "semantic_only":
                raise BadInput(
                    f"{name} is for instances, and {card.name!r} gives none here; leave it out, "
                    "use instances cc or watershed, or see orthoflow consensus"
                )
        elif name == "keep_stacks" or (
            wish_of(name).group == INSTANCES and name not in _OF_CLASSES
        ):
            raise BadInput(f"{name} means nothing with instances {method}; leave it out")


def _check_meant(card: Card, options: Options, task: Task, method: Method) -> None:
    """Refuse options that mean nothing here."""
    for name in options.changed():
        meaningless = _MEANINGLESS[task] | _SOLID
        if name in meaningless or (method == "flows" and name in _OF_PLANES):
            raise BadInput(
                f"{name} means nothing with {card.name!r}, a {task} network, and instances "
                f"{method}; leave it out"
            )


def method_of(card: Card, options: Options, task: Task) -> Method:
    """How objects are found: what was asked for, or what suits the network."""
    if options.instances is not None:
        return cast("Method", options.instances)
    if task == "panoptic":
        return "components"
    # One orientation says nothing about the flow along its stack.
    alone = options.orientations is not None and len(options.orientations) == 1
    return "stitch" if alone and card.ndim == 2 else "flows"


def _check_field(card: Card, options: Options, task: Task) -> None:
    if task != "flows":
        raise BadInput(
            f"instances flows is for flow networks, {card.name!r} is a {task} one; leave it out"
        )
    names = options.orientations
    if card.ndim == 2 and names is not None and len(names) < 2:
        raise BadInput(
            f"orientations {','.join(names)}: flows in three dimensions need two of xy, xz and yz; "
            "use instances stitch, or more orientations"
        )
