"""Where a block's voxels end that follow the flow: what the network leaves for later passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from orthoflow.geometry.box import split
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.output import ENDS
from orthoflow.geometry.scale import core_box, nearest_box, nearest_of
from orthoflow.kernels.fields import Field, combine_flows, smooth_flows
from orthoflow.kernels.flows import FlowTable, count_ends, flow_table, follow_table, only_inside
from orthoflow.reduce.ends import end_table
from orthoflow.reduce.vote import fill_unpredicted
from orthoflow.sums import gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from orthoflow.geometry.box import Box
    from orthoflow.plan import Plan
    from orthoflow.plan.objects import FlowPlan
    from orthoflow.reduce.blend import Sums
    from orthoflow.reduce.ends import EndTable

# Voxels whose outputs are floats at once.
_SLAB = 2**19
# Side of the boxes whose voxels are on their way at once.
_SIDE = 96


def block_ends(
    plan: Plan, objects: FlowPlan, block: Box, pieces: Sequence[Sums], device: torch.device
) -> tuple[dict[str, npt.NDArray[np.generic]], EndTable, int]:
    """Ends (z, y, x) by result, the block's table, and voxels that left their reach.

    Flows are followed on the network's grid, and each voxel of the output ends where the nearest
    one of that grid does.
    """
    shape, working = plan.facts.shape, plan.working
    held = nearest_box(block, source=working, target=shape)
    core = core_box(block, source=shape, target=working)
    whole = held.union(core) if core.voxels else held
    ends = np.zeros(whole.shape, objects.dtype)
    index, seeds, adrift = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    table = _table(plan, objects, whole, pieces, device)
    for box in split(whole, (_SIDE,) * 3, whole.start):
        found = follow_table(table, box, working, objects.flow)
        place = found.start.cpu().numpy()
        where = np.unravel_index(place, working)
        local = tuple(axis - low for axis, low in zip(where, whole.start, strict=True))
        ends[local] = found.end.cpu().numpy() + 1
        common = box.intersect(core) if core.voxels else None
        if common is not None:
            own = only_inside(found, common, working)
            here, many = count_ends(own)
            index.append(here)
            seeds.append(many)
            adrift += int(own.stopped.sum())
    ends = nearest_of(ends[held.within(whole)], held, block, source=working, target=shape)
    region = block.shifted(plan.region.start)
    known = end_table(ends, region, np.concatenate(index), np.concatenate(seeds))
    return {ENDS: ends}, known, adrift


def _table(
    plan: Plan, objects: FlowPlan, wanted: Box, pieces: Sequence[Sums], device: torch.device
) -> FlowTable:
    """Flow around a box of working voxels, as far as its voxels may go; made slab by slab."""
    followed = objects.followed(wanted, plan.working)
    depth = max(1, _SLAB // (followed.shape[1] * followed.shape[2]))
    slabs = split(followed, (depth, *followed.shape[1:]), followed.start)
    fields = (_field(plan, objects, slab, pieces, device) for slab in slabs)
    return flow_table(fields, followed, objects.flow)


def _field(
    plan: Plan, objects: FlowPlan, box: Box, pieces: Sequence[Sums], device: torch.device
) -> Field:
    """Flow and foreground of a box of working voxels."""
    need = objects.field(box, plan.working)
    views, weights = {}, {}
    for orientation, weight in zip(plan.orientations, objects.weights, strict=True):
        sums = gather(plan, need, orientation, pieces, device)
        outputs, covered = sums.logits()
        logit = fill_unpredicted(outputs[-1:], covered)
        outputs = torch.cat([outputs[:-1], logit])
        views[orientation.name] = outputs.permute(ORIENTATIONS[orientation.name].inverse)
        weights[orientation.name] = weight
    if "zyx" in views:
        field = Field(need, views["zyx"][:3], views["zyx"][3])
    else:
        field = combine_flows(views, weights, need, rule=objects.combination)
    return smooth_flows(field, objects.smoothing, box, plan.working)
