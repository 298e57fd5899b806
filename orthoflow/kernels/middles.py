"""Panoptic outputs of 3-D patches to cells: each voxel's centre, in one volume instead of planes.

The rules are those of `orthoflow.kernels.centers` with one axis more: a centre is the highest of a
cube of the heatmap, and a voxel belongs to the one nearest to where its offset points, among those
within `reach` of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from orthoflow.geometry.box import Box, split
from orthoflow.kernels.centers import highest
from orthoflow.kernels.nearest import FRACTION, LONGEST

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.cells import CellRule

# Side of the boxes whose voxels look among the same centres.
_SIDE = 32
# Distances that are held at once.
_AT_ONCE = 2**22


@torch.inference_mode()
def middles_of(
    thing: torch.Tensor, maps: torch.Tensor, held: Box, wanted: Box, shape: Triple, rule: CellRule
) -> torch.Tensor:
    """1 + raster index of each voxel's centre (z, y, x), int64; 0 where there is none.

    Parameters
    ----------
    thing
        (z, y, x) bool of the box `wanted`.
    maps
        (4, z, y, x) float32 of the box `held`: heat, and offsets along z, y, x in voxels. It holds
        reach + center_distance // 2 voxels more than is wanted, as far as the volume of `shape`
        goes.
    """
    assert rule.reach is not None
    peaks = highest(maps[0], (0, 1, 2), rule).nonzero()
    centers = peaks + peaks.new_tensor(held.start)
    found = torch.zeros(wanted.shape, dtype=torch.int64, device=maps.device)
    offsets = maps[(slice(1, None), *wanted.within(held))]
    for box in split(wanted, (_SIDE,) * 3, wanted.start):
        here = box.within(wanted)
        place = thing[here].nonzero()
        near = _within(centers, box, rule.reach)
        if not len(place) or not len(near):
            continue
        own = offsets[(slice(None), *here)][(slice(None), *place.T)].T
        start = place + place.new_tensor(box.start)
        labels = _nearest(start, own, near, rule.reach, shape)
        found[here][tuple(place.T)] = labels
    return found


def _within(centers: torch.Tensor, box: Box, reach: int) -> torch.Tensor:
    low, high = (centers.new_tensor(corner) for corner in (box.start, box.stop))
    return centers[((centers >= low - reach) & (centers < high + reach)).all(1)]


def _nearest(
    start: torch.Tensor, offsets: torch.Tensor, centers: torch.Tensor, reach: int, shape: Triple
) -> torch.Tensor:
    """Label (n,) of each voxel's centre; whole numbers in 256ths of a voxel, exact in float64."""
    short = offsets.double().clamp(-LONGEST, LONGEST)
    votes = start.double() * FRACTION + (short * FRACTION).round()
    label = 1 + (centers[:, 0] * shape[1] + centers[:, 1]) * shape[2] + centers[:, 2]
    found = []
    step = max(1, _AT_ONCE // len(centers))
    for first in range(0, len(start), step):
        rows = slice(first, first + step)
        far = votes.new_zeros((len(start[rows]), len(centers)))
        out = torch.zeros_like(far, dtype=torch.bool)
        for axis in range(3):
            gap = votes[rows, axis, None] - centers[:, axis].double() * FRACTION
            far += gap * gap
            out |= (start[rows, axis, None] - centers[:, axis]).abs() > reach
        far.masked_fill_(out, torch.inf)
        # Of equally near ones the first, in raster order.
        least, choice = far.min(1).values, far.argmin(1)
        found.append(label[choice] * torch.isfinite(least))
    return torch.cat(found)
