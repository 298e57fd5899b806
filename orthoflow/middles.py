"""Cells of a block in three dimensions: what a panoptic network of 3-D patches leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.output import MIDDLES
from orthoflow.geometry.scale import nearest_box, nearest_of
from orthoflow.kernels.centers import harden
from orthoflow.kernels.middles import middles_of
from orthoflow.reduce.ends import end_table
from orthoflow.reduce.vote import fill_unpredicted
from orthoflow.sums import class_sums, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    from orthoflow.geometry.box import Box
    from orthoflow.plan import Plan
    from orthoflow.plan.objects import MiddlePlan
    from orthoflow.reduce.blend import Sums
    from orthoflow.reduce.ends import EndTable

_WHOLE = ORIENTATIONS["zyx"]


def block_middles(
    plan: Plan, objects: MiddlePlan, block: Box, pieces: Sequence[Sums], device: torch.device
) -> tuple[dict[str, npt.NDArray[np.generic]], EndTable, int]:
    """Centres (z, y, x) by result, the block's table of them, and voxels that found none."""
    shape, working = plan.facts.shape, plan.working
    wanted = nearest_box(block, source=working, target=shape)
    held = objects.need(wanted, _WHOLE, working)
    semantic = objects.semantic
    logits, covered = class_sums(
        gather(plan, wanted, _WHOLE, pieces, device, channels=semantic),
        binary=plan.mode == "binary",
    ).logits()
    classes = harden(fill_unpredicted(logits, covered), threshold=plan.options.threshold)
    heads = (semantic[1], plan.channels)
    maps, _ = gather(plan, held, _WHOLE, pieces, device, channels=heads).logits()
    maps = maps / maps.new_tensor(plan.factors[slice(*heads)]).reshape(-1, 1, 1, 1)
    thing = classes > 0
    middles = middles_of(thing, maps, held, wanted, working, objects.cells)
    adrift = (thing & (middles == 0)).cpu().numpy()
    adrift, found = (
        nearest_of(array, wanted, block, source=working, target=shape)
        for array in (adrift, middles.cpu().numpy())
    )
    none = np.zeros(0, np.int64)
    table = end_table(found, block.shifted(plan.region.start), none, none)
    return {MIDDLES: found.astype(objects.dtype)}, table, int(adrift.sum())
