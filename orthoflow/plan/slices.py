"""Single planes and settings to compare on them: what is looked at, and with which plans."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box
from orthoflow.geometry.cells import CellRule
from orthoflow.geometry.following import FlowRule
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation
from orthoflow.options import SLICE_OPTIONS, Options, default_of, option_names, wish_of
from orthoflow.plan.objects import CellPlan
from orthoflow.plan.planner import plan_run
from orthoflow.plan.tasks import task_of

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.models.card import Card
    from orthoflow.plan.plan import Plan

MOST_SETTINGS = 24
"""Settings that are compared at once."""
MOST_ATTEMPTS = 96
"""Settings times slices."""

Setting = Mapping[str, Any]
"""Options that differ from setting to setting, by name."""

_NETWORK = ("downsample", "diameter")
# What says how objects of several planes are joined, judged or written.
_OF_SEVERAL_PLANES = frozenset(
    {"votes", "consensus", "plane_weights", "allow_one_view", "merge_iou", "merge_ioa"}
    | {"cluster_iou", "stitch_threshold", "min_size", "min_extent", "label_divisor"}
    | {"flow_combination", "flow_smoothing", "keep_stacks", "disagreement"}
)


@dataclass(frozen=True, slots=True)
class Slice:
    """A plane of a volume, or a window of one."""

    orientation: Orientation
    plane: int
    box: Box

    def __str__(self) -> str:
        return f"{self.orientation.name}:{self.plane}"


def find_slices(
    texts: Sequence[str], shape: Triple, window: Box | None = None
) -> tuple[Slice, ...]:
    """Slices from texts such as "xy:30", or several "xy:30,xz:12".

    Parameters
    ----------
    texts
        Orientation and number of the plane along the axis that is missing in its name.
    shape
        Of the volume (z, y, x).
    window
        What is shown of each plane; all of it where not given.

    Raises
    ------
    BadInput
        If there is no such plane, or one is named twice.
    """
    found: list[Slice] = []
    for text in (part.strip() for one in texts for part in one.split(",")):
        name, _, number = text.partition(":")
        if not number.strip().isdecimal():
            raise BadInput(f"slice {text!r} is not of the form ORIENTATION:PLANE, as in xy:30")
        if name.strip() not in ORIENTATIONS or ORIENTATIONS[name.strip()].stack is None:
            raise BadInput(f"slice {text!r}: {name!r} is no orientation; use xy, xz or yz")
        orientation, plane = ORIENTATIONS[name.strip()], int(number)
        stack = orientation.stack
        assert stack is not None
        if plane >= shape[stack]:
            raise BadInput(
                f"slice {text} lies outside the volume; {AXES[stack]} has planes 0 to "
                f"{shape[stack] - 1}"
            )
        if min(orientation.plane_shape(shape)) == 1:
            sides = " x ".join(map(str, shape))
            raise BadInput(f"slice {text} of a volume of {sides} voxels is a line; use another one")
        _, spans = orientation.spans(window or Box.whole(shape))
        found.append(Slice(orientation, plane, orientation.box((plane, plane + 1), spans)))
    names = [str(one) for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not found:
        raise BadInput(f"slice {twice} is named twice; name it once" if found else "slice is empty")
    return tuple(found)


def settings_of(sweep: Mapping[str, Sequence[Any]], slices: int) -> tuple[Setting, ...]:
    """Every combination of the values of some options; the last option varies fastest.

    Parameters
    ----------
    sweep
        Values to try by the name of the option; one setting without any.
    slices
        On how many slices they are tried.

    Raises
    ------
    BadInput
        If an option does not change objects of a plane, a value cannot be, or they are too many.

    >>> settings_of({"median": [1, 3], "threshold": ["0.4"]}, 1)
    ({'threshold': 0.4, 'median': 1}, {'threshold': 0.4, 'median': 3})
    """
    known = option_names()
    named = {known.get(name.replace("_", "-"), name): values for name, values in sweep.items()}
    for name in named:
        if name not in SLICE_OPTIONS:
            raise BadInput(
                f"{name} cannot be compared on slices, as it does not change the objects of a "
                f"plane; try several values of {', '.join(SLICE_OPTIONS)}"
            )
    values = {name: _values(name, named[name]) for name in SLICE_OPTIONS if name in named}
    settings = tuple(
        dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())
    )
    many = " x ".join(f"{len(tried)} of {name}" for name, tried in values.items())
    if len(settings) > MOST_SETTINGS:
        raise BadInput(
            f"{many} make {len(settings)} settings; use {MOST_SETTINGS} at most, such as fewer "
            "values of one option at a time"
        )
    if len(settings) * slices > MOST_ATTEMPTS:
        raise BadInput(
            f"{len(settings)} settings on {slices} slices are {len(settings) * slices} attempts; "
            f"use {MOST_ATTEMPTS} at most"
        )
    return settings


def _values(name: str, given: Sequence[Any]) -> list[Any]:
    found = [getattr(Options.from_mapping({name: value}), name) for value in given]
    twice = [one for place, one in enumerate(found) if one in found[:place]]
    if not found or twice:
        said = f"has the value {_text(name, twice[0])} twice" if twice else "has no value"
        raise BadInput(f"{name} {said}; give each value once")
    return found


def command_of(setting: Setting) -> str:
    """A setting as options of the command line, to be pasted.

    >>> command_of({"center_threshold": 0.05, "fine_boundaries": False})
    '--center-threshold 0.05 --no-fine-boundaries'
    """
    words = []
    for name, value in setting.items():
        plain = name.replace("_", "-")
        if wish_of(name).kind == "flag":
            words.append(f"--{plain}" if value else f"--no-{plain}")
        else:
            words.append(f"--{plain} {_text(name, value)}")
    return " ".join(words)


def in_words(setting: Setting) -> tuple[tuple[str, str], ...]:
    """Names and values of a setting, to be read."""
    return tuple((name, _text(name, value)) for name, value in setting.items())


def _text(name: str, value: Any) -> str:
    if wish_of(name).kind == "flag" and value is not None:
        return "on" if value else "off"
    values = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{one:g}" if isinstance(one, (int, float)) else str(one) for one in values)


def plan_slice(facts: VolumeFacts, card: Card, options: Options, one: Slice) -> Plan:
    """The plan of a run over one slice, in its orientation alone.

    Raises
    ------
    BadInput
        If the network or the options give no objects of planes.
    """
    _check(card, options)
    changed = replace(options, orientations=(one.orientation.name,), roi=str(one.box))
    return plan_run(facts, card, changed)


def _check(card: Card, options: Options) -> None:
    if task_of(card, options) == "semantic":
        why = "semantic_only" if options.semantic_only else "a semantic network"
        raise BadInput(
            f"slice shows objects of planes, and {card.name!r} gives none ({why}); preview a "
            "region, without slice: at and size may be those of a plane, as in size 1,512,512"
        )
    if card.ndim != 2:
        raise BadInput(
            f"slice shows objects of planes, and {card.name!r} takes 3-D patches; preview a "
            "region, without slice"
        )
    for name in options.changed():
        if name in ("orientations", "roi"):
            raise BadInput(f"{name}: slices say themselves what is looked at; leave it out")
        if name in _OF_SEVERAL_PLANES:
            raise BadInput(
                f"{name} is about objects of several planes, and a slice shows those of one; leave "
                "it out, or preview a region, without slice"
            )
    rule = options.median_rule or ("recursive" if options.instances == "empanada" else "plain")
    if options.median > 1 and rule == "recursive":
        raise BadInput(
            f"median {options.median} with median_rule recursive (that of instances empanada) "
            "depends on all planes before a slice; use median_rule plain, or median 1"
        )


def needs_network(setting: Setting) -> tuple[Any, ...]:
    """What of a setting the network has to run for again: equal where it need not."""
    return tuple(setting.get(name, default_of(name)) for name in _NETWORK)


def widest(plans: Sequence[Plan]) -> Plan:
    """A plan whose sums hold what each of these plans needs, which see the same working volume."""
    first, objects = plans[0], cells_of(plans[0])
    reach = max(_halo(cells_of(plan).cells, plan.working) for plan in plans)
    rule = replace(objects.cells, reach=reach)
    if isinstance(rule, CellRule):
        rule = replace(rule, step=1, zoom=1)
    median = max(plan.options.median for plan in plans)
    return replace(
        first,
        options=replace(first.options, median=median),
        objects=replace(objects, cells=rule),
    )


def cells_of(plan: Plan) -> CellPlan:
    """How a slice's plan finds objects: always as cells of planes."""
    assert isinstance(plan.objects, CellPlan)
    return plan.objects


def _halo(rule: CellRule | FlowRule, working: Triple) -> int:
    """Pixels beyond a window that its cells look at, at most."""
    if isinstance(rule, FlowRule):
        return rule.reach
    # The bound of `cells_needed`.
    reach = max(working) if rule.reach is None else rule.reach
    return reach + (rule.center_distance // 2 + 1) * rule.pixels + 2 * rule.step
