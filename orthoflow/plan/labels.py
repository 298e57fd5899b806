"""Per-plane labels made elsewhere, and options, to what a consensus of them writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, parse_roi
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec, most_copies, with_levels
from orthoflow.options import default_of
from orthoflow.plan import blocks as blocking
from orthoflow.reduce.ends import EndRule
from orthoflow.reduce.engine import Rule
from orthoflow.reduce.planewise import DIVISOR
from orthoflow.reduce.solidengine import SolidRule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.options import Options
    from orthoflow.reduce.engine import Instances

_MICROMETRES = {
    **dict.fromkeys(("um", "micrometer"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
}
_SIZE = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]*?)\s*(\^?3)?\s*", re.I)


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What a consensus of per-plane labels writes, and by which rule."""

    region: Box
    block: Triple
    output: OutputSpec
    rule: Rule


def plan_labels(facts: Mapping[str, VolumeFacts], options: Options) -> LabelPlan:
    """Decide what a consensus of these labels, by orientation, writes.

    Raises
    ------
    BadInput
        If the labels and the options do not go together; nothing was created.
    """
    first = next(iter(facts.values()))
    for name, one in facts.items():
        if one.shape != first.shape:
            raise BadInput(
                f"{name} labels {one.name} have shape {one.shape}, those of {first.name} "
                f"{first.shape}; all axes are z, y, x of the same volume"
            )
        if one.channels != 1:
            raise BadInput(f"{name} labels {one.name} have {one.channels} channels; pass --channel")
    region = Box.whole(first.shape)
    if options.roi is not None:
        region = parse_roi(options.roi, first.shape)
    arrays = label_arrays(options, tuple(facts))
    chunk, shard, block = blocking.choose(
        region.shape, options, patch=1, copies=most_copies(arrays)
    )
    levels = pyramid_levels(region.shape, first.voxel_size, chunk, shard, count=options.levels)
    voxel = first.voxel_size or (1.0, 1.0, 1.0)
    z, y, x = (t + a * v for t, a, v in zip(first.translation, region.start, voxel, strict=True))
    output = OutputSpec(
        arrays=tuple(with_levels(array, levels) for array in arrays),
        ome_version=cast("Literal['0.5', '0.4']", options.ome_version),
        voxel_size=first.voxel_size,
        unit=first.unit,
        translation=(z, y, x),
        compression=options.compression_level,
    )
    return LabelPlan(region, block, output, rule_of(options, first, views=len(facts)))


def label_arrays(options: Options, orientations: tuple[str, ...]) -> list[ArraySpec]:
    """Arrays of instances, without levels, which all have the same."""
    names = [f"labels/{options.name}"]
    if options.keep_stacks:
        names += [f"stacks/{name}" for name in orientations]
    return [ArraySpec(name, "labels", "uint32", 0, (), "labels") for name in names]


def rule_of(options: Options, facts: VolumeFacts, *, views: int, method: str | None = None) -> Rule:
    """How instances are found in so many orientations, every size in voxels."""
    usual = options.votes == default_of("votes")
    if options.votes > views and not usual:
        raise BadInput(
            f"votes {options.votes} cannot be reached with {views} orientations; use 1 to {views}"
        )
    instances = method or options.instances or "components"
    if instances in ("flows", "cc", "watershed"):
        raise BadInput(
            f"instances {instances} is not made of labels of planes; use components, empanada, "
            "stitch or planes"
        )
    if instances in ("stitch", "planes") and views > 1:
        raise BadInput(
            f"instances {instances} is for the planes of one orientation, {views} are given; use "
            "one, such as orientations xy"
        )
    min_extent = length_voxels("min_extent", options.min_extent, facts)
    if instances == "planes" and options.fill_holes:
        raise BadInput(
            "fill_holes fills holes of whole objects; leave it out with instances planes"
        )
    if instances == "planes" and min_extent > 1:
        raise BadInput(
            f"min_extent {options.min_extent}: objects of planes are one voxel thick, so none "
            "would be left; leave it out with instances planes, or use min_size"
        )
    return Rule(
        instances=cast("Instances", instances),
        votes=min(options.votes, views),
        min_size=size_voxels("min_size", options.min_size, facts),
        min_extent=min_extent,
        allow_one_view=options.allow_one_view,
        merge_iou=options.merge_iou,
        merge_ioa=options.merge_ioa,
        cluster_iou=options.cluster_iou,
        stitch_threshold=options.stitch_threshold,
        label_divisor=options.label_divisor or DIVISOR,
        fill_holes=options.fill_holes,
    )


def end_rule_of(options: Options, facts: VolumeFacts) -> EndRule:
    """Which objects of a flow field are kept, every size in voxels."""
    return EndRule(
        min_size=size_voxels("min_size", options.min_size, facts),
        min_extent=length_voxels("min_extent", options.min_extent, facts),
        fill_holes=options.fill_holes,
    )


def solid_rule_of(options: Options, facts: VolumeFacts) -> SolidRule:
    """How objects are found in classes, every size in voxels."""
    if options.connectivity not in (6, 26):
        raise BadInput(f"connectivity {options.connectivity} is neither 6 nor 26; use one of them")
    return SolidRule(
        kind=cast("Literal['cc', 'watershed']", options.instances),
        connectivity=cast("Literal[6, 26]", options.connectivity),
        min_size=size_voxels("min_size", options.min_size, facts),
        min_extent=length_voxels("min_extent", options.min_extent, facts),
        depth=options.watershed_depth,
        radius=options.watershed_radius,
        fill_holes=options.fill_holes,
    )


def size_voxels(name: str, text: str, facts: VolumeFacts) -> int:
    """A volume in voxels; see `_voxels`."""
    return _voxels(name, text, facts, axes=3)


def length_voxels(name: str, text: str, facts: VolumeFacts) -> int:
    """A length in voxels; see `_voxels`."""
    return _voxels(name, text, facts, axes=1)


def _voxels(name: str, text: str, facts: VolumeFacts, *, axes: int) -> int:
    """A size in voxels: the least whole number that is not smaller than what was given.

    A length is taken along the axis of the largest voxels.
    """
    found = _SIZE.fullmatch(text)
    unit = found[2].lower() if found else ""
    if found is None or (unit and unit not in _MICROMETRES):
        shown = "0.5um3" if axes == 3 else "0.3um"
        raise BadInput(f"{name} {text!r} is no size; use voxels, as in 500, or {shown}")
    try:
        number = float(found[1])
    except ValueError as error:
        raise BadInput(f"{name} {text!r} is no number; use voxels, as in 500") from error
    if bool(found[3]) != (axes == 3 and bool(unit)):
        wanted = "a volume, as in 0.5um3" if axes == 3 else "a length, as in 0.3um"
        raise BadInput(f"{name} {text!r} is no size of its kind; use {wanted}")
    if not unit:
        if number != int(number):
            raise BadInput(f"{name} {text!r} is no whole number of voxels; use one")
        return int(number)
    own = _MICROMETRES.get(facts.unit or "")
    if facts.voxel_size is None or own is None:
        raise BadInput(
            f"{name} {text!r} has a unit and the volume states no voxel size; pass --voxel-size, "
            "or give voxels"
        )
    sides = [side * own for side in facts.voxel_size]
    if axes == 1:
        return _ceil(number * _MICROMETRES[unit] / max(sides))
    return _ceil(number * _MICROMETRES[unit] ** 3 / (sides[0] * sides[1] * sides[2]))


def _ceil(number: float) -> int:
    """The next whole number; what is within rounding of one is that."""
    nearest = round(number)
    return nearest if abs(number - nearest) < 1e-9 * max(1.0, number) else int(number) + 1
