"""Volume facts, card and options to a `Plan`; the one place where wishes become numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple, parse_roi
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation, named_orientations
from orthoflow.geometry.output import ArraySpec, OutputSpec, most_copies, with_levels
from orthoflow.geometry.scale import working_shape
from orthoflow.geometry.ways import (
    TileRules,
    TileWishes,
    check_stripes_fit,
    possible_tilings,
    unpacked_tiling,
)
from orthoflow.models.card import Normalization, check_channels
from orthoflow.options import Options, triple
from orthoflow.plan import blocks as blocking
from orthoflow.plan.objects import (
    CellPlan,
    ObjectPlan,
    blended_channels,
    check_median_rule,
    object_plan,
)
from orthoflow.plan.plan import Plan, Way
from orthoflow.plan.tasks import check_objects, kept_channels, semantic_logits, task_of

if TYPE_CHECKING:
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.models.card import Card
    from orthoflow.reduce.vote import Mode


def plan_run(facts: VolumeFacts, card: Card, options: Options) -> Plan:
    """Decide every number of a run.

    Raises
    ------
    BadInput
        If the volume, the network and the options do not go together; nothing was created.
    """
    task = task_of(card, options)
    check_objects(card, options, task)
    check_channels(card, facts.channels)
    kept = kept_channels(card, task)
    logits = semantic_logits(card, task)
    mode = _mode(card, options, logits)
    oriented = _oriented(card, options)
    _check_votes(options, len(oriented))
    _check_tta(card, options)
    _check_median(card, options)
    working = working_shape(
        facts.shape,
        downsample=triple("downsample", options.downsample),
        diameter=options.diameter,
        anisotropy=options.anisotropy,
        trained_diameter=card.diameter,
    )
    ways = _ways(oriented, working, card, options)
    roi = options.roi
    region = Box.whole(facts.shape) if roi is None else parse_roi(roi, facts.shape)
    objects = object_plan(facts, card, options, working, oriented)
    arrays = _arrays(options, oriented, objects, classes=0 if mode == "binary" else logits)
    chunk, shard, block = blocking.choose(
        region.shape,
        options,
        patch=_longest_patch(ways, facts.shape, working),
        copies=most_copies(arrays),
    )
    if isinstance(objects, CellPlan):
        check_median_rule(objects, options, block, facts.shape)
    levels = pyramid_levels(region.shape, facts.voxel_size, chunk, shard, count=options.levels)
    sums = blocking.sums_bytes(block, card.ndim, blended_channels(mode, kept, objects))
    return Plan(
        facts=facts,
        card=card,
        options=options,
        working=working,
        ways=ways,
        mode=mode,
        normalization=_normalization(card, options),
        region=region,
        block=block,
        part_blocks=blocking.choose_part(region.shape, block, options, card, sums),
        output=_output(
            facts, options, region, tuple(with_levels(array, levels) for array in arrays)
        ),
        kept=kept,
        objects=objects,
    )


def _mode(card: Card, options: Options, logits: int) -> Mode:
    mode = options.mode or ("binary" if logits <= 2 else "multiclass")
    if mode == "binary" and logits > 2:
        raise BadInput(
            f"mode binary needs a network of 1 or 2 outputs, {card.name} has {logits}; "
            "use mode multiclass"
        )
    if mode == "multiclass" and logits == 1:
        raise BadInput(f"mode multiclass needs 2 outputs or more, {card.name} has 1; use binary")
    if mode == "multiclass" and logits > 255:
        raise BadInput(f"{card.name} has {logits} outputs; labels are bytes, at most 255")
    if mode == "multiclass" and options.threshold != Options().threshold:
        raise BadInput(
            f"threshold {options.threshold} applies to mode binary only; a multiclass label is the "
            "largest logit"
        )
    return cast("Mode", mode)


def _check_votes(options: Options, count: int) -> None:
    if options.consensus == "vote" and options.votes > count:
        raise BadInput(
            f"votes {options.votes} cannot be reached with {count} orientations; use 1 to {count}"
        )
    weights = options.plane_weights
    if weights is None:
        return
    if len(weights) != count:
        raise BadInput(
            f"plane_weights has {len(weights)} numbers for {count} orientations; give one for each"
        )
    if sum(weights) == 0:
        raise BadInput("plane_weights are all zero; at least one orientation must count")
    if options.consensus == "vote":
        raise BadInput("plane_weights weigh the mean; with consensus vote leave them out")


def _oriented(card: Card, options: Options) -> tuple[Orientation, ...]:
    """Orientations in our order; weights given for another order would be mixed up."""
    names = options.orientations
    if names is None:
        names = ("xy", "xz", "yz") if card.ndim == 2 else ("zyx",)
    oriented = named_orientations(names, ndim=card.ndim)
    given = tuple(named_orientations((name,), ndim=card.ndim)[0] for name in names)
    if options.plane_weights is not None and given != oriented:
        raise BadInput(
            f"plane_weights are in the order {','.join(o.name for o in oriented)}; "
            f"name the orientations in this order too, not {','.join(names)}"
        )
    return oriented


def _check_median(card: Card, options: Options) -> None:
    if card.ndim == 3 and options.median > 1:
        raise BadInput(
            f"median {options.median} filters along a stack of planes, and {card.name} takes 3-D "
            "patches; leave it out"
        )


def _check_tta(card: Card, options: Options) -> None:
    if options.tta == "rotation" and card.tile is not None and len(set(card.tile)) > 1:
        raise BadInput(
            f"tta rotation transposes tiles, {card.name} takes {','.join(map(str, card.tile))} "
            "only; use tta mirroring, or a network with equal sides"
        )


def _ways(
    oriented: tuple[Orientation, ...], working: Triple, card: Card, options: Options
) -> tuple[Way, ...]:
    rules = tile_rules(card, options)
    wishes = TileWishes(
        overlap=options.overlap,
        grid=cast("Literal['even', 'step']", options.grid),
        packing=cast("Literal['auto', 'none', 'stripes']", options.packing),
        pack_k=options.pack_k,
        guard=options.guard,
        border=options.border,
        stripe_starts=cast("Literal['balanced', 'seed']", options.stripe_starts),
    )
    ways = []
    for orientation in oriented:
        possible = possible_tilings(orientation, working, rules, wishes)
        # The fewest network pixels; among equals fewer tiles, then the plainer way.
        chosen = min(possible, key=lambda t: (t.network_pixels, t.tiles))
        ways.append(Way(chosen, possible, unpacked_tiling(orientation, working, rules, wishes)))
    check_stripes_fit([way.chosen for way in ways], rules, wishes)
    return tuple(ways)


def tile_rules(card: Card, options: Options) -> TileRules:
    """What the network takes, with the user's tile checked against it."""
    tile = options.tile
    if tile is None:
        return TileRules(card.ndim, card.tile, card.divisor, card.stride, card.reach)
    sides = tile * card.ndim if len(tile) == 1 else tile
    if len(sides) != card.ndim:
        raise BadInput(
            f"tile {','.join(map(str, tile))} has {len(tile)} numbers; a {card.ndim}-D network "
            f"takes one, or {card.ndim}"
        )
    if card.tile is not None and sides != card.tile:
        fixed = ",".join(map(str, card.tile))
        raise BadInput(f"tile {','.join(map(str, sides))}: {card.name} takes tiles of {fixed} only")
    divisor = card.divisor or 1
    for side in sides:
        if side % divisor:
            below = max(divisor, side // divisor * divisor)
            raise BadInput(
                f"tile {side} is no multiple of {card.name}'s divisor {divisor}; "
                f"use {below} or {below + divisor}"
            )
    return TileRules(card.ndim, sides, card.divisor, card.stride, card.reach)


def _longest_patch(ways: tuple[Way, ...], shape: Triple, working: Triple) -> int:
    """Longest side of any patch, in input voxels."""
    sides = [
        max(grid.lengths) * shape[axis] / working[axis]
        for way in ways
        for axis, grid in zip(
            ORIENTATIONS[way.chosen.orientation].plane, way.chosen.grids, strict=True
        )
    ]
    return math.ceil(max(sides))


def _normalization(card: Card, options: Options) -> Normalization:
    own = card.normalization
    if options.normalization != "model":
        own = Normalization.of(options.normalization)
    if options.normalization_scope is None or own.method in ("none", "fixed"):
        return own
    return Normalization.of({**_fields(own), "scope": options.normalization_scope})


def _fields(normalization: Normalization) -> dict[str, Any]:
    return {name: getattr(normalization, name) for name in normalization.__slots__}


def _arrays(
    options: Options,
    oriented: tuple[Orientation, ...],
    objects: ObjectPlan | None,
    *,
    classes: int,
) -> tuple[ArraySpec, ...]:
    """What is written, without levels."""
    arrays = []
    if objects is not None:
        arrays += objects.arrays(options, tuple(o.name for o in oriented))
    elif options.output in ("labels", "both"):
        arrays.append(ArraySpec(f"labels/{options.name}", "labels", "uint8", 0, ()))
    if options.output in ("probabilities", "both"):
        arrays.append(ArraySpec("probabilities", "image", "uint8", classes, ()))
    if options.disagreement:
        arrays.append(ArraySpec("disagreement", "image", "uint8", 0, ()))
    if options.keep_stacks and objects is None:
        arrays += [ArraySpec(f"stacks/{o.name}", "labels", "uint8", 0, ()) for o in oriented]
    return tuple(arrays)


def _output(
    facts: VolumeFacts, options: Options, region: Box, arrays: tuple[ArraySpec, ...]
) -> OutputSpec:
    """The output group; a region keeps its place in the volume."""
    voxel = facts.voxel_size or (1.0, 1.0, 1.0)
    z, y, x = (t + a * v for t, a, v in zip(facts.translation, region.start, voxel, strict=True))
    return OutputSpec(
        arrays=arrays,
        ome_version=cast("Literal['0.5', '0.4']", options.ome_version),
        voxel_size=facts.voxel_size,
        unit=facts.unit,
        translation=(z, y, x),
        compression=options.compression_level,
    )
