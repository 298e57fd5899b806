"""From voxels as read to what the network sees: resampling and normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from orthoflow.errors import BlockFailed
from orthoflow.geometry.scale import RESAMPLE_ORDER, scales

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.geometry.box import Box, Triple
    from orthoflow.models.card import Normalization
    from orthoflow.reduce.statistics import GreyScale

# Stored types that torch can cut and index on every device.
_KEPT = ("uint8", "int8", "int16")
# Smallest divisor, as in nnU-Net and vesuvius: a constant patch becomes zero, not infinite.
_LEAST_WIDTH = 1e-8


def to_device(
    voxels: npt.NDArray[np.generic], *, box: Box, nan_policy: str, device: torch.device
) -> torch.Tensor:
    """Voxels (c, z, y, x) on the device, in a dtype that holds them exactly.

    Small integers stay as they are, everything else becomes float32 (what a network sees).

    Raises
    ------
    BlockFailed
        If there are NaN or infinite values and `nan_policy` is "fail".
    """
    if voxels.dtype.kind == "f":
        finite = np.isfinite(voxels)
        if not finite.all():
            if nan_policy != "zero":
                raise BlockFailed(
                    f"input box {box} holds {int((~finite).sum())} values that are NaN or "
                    "infinite; clean the input, or pass nan_policy=zero"
                )
            voxels = np.where(finite, voxels, 0)
    dtype = voxels.dtype if voxels.dtype.name in _KEPT else np.dtype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(voxels, dtype)).to(device)


def resample(
    voxels: torch.Tensor, source: Triple, target: Triple, *, inside: Box, wanted: Box
) -> torch.Tensor:
    """Part of a volume on another grid.

    `voxels` (c, z, y, x) cover the box `inside` of the source grid, the result covers the
    box `wanted` of the target grid. y and x come before z, as in the seed. Equal voxels stay
    exactly equal, and each voxel's bits depend on its global place alone.
    """
    if source == target:
        return voxels[(slice(None), *wanted.within(inside))]
    voxels = voxels.float()
    for axis in RESAMPLE_ORDER:
        scale = scales(source, target)[axis]
        span = (wanted.start[axis], wanted.stop[axis])
        if scale.source == scale.target:
            voxels = voxels.narrow(axis + 1, span[0] - inside.start[axis], span[1] - span[0])
            continue
        indices, weights = scale.taps(span)
        places = torch.from_numpy(indices - inside.start[axis]).to(voxels.device)
        shares = torch.from_numpy(weights).to(voxels.device)
        form = [1, 1, 1, 1]
        form[axis + 1] = -1
        first = voxels.index_select(axis + 1, places[0])
        total = first.clone()
        # Differences to the first tap keep constant regions exactly constant.
        for tap in range(1, len(places)):
            step = voxels.index_select(axis + 1, places[tap]) - first
            total += step * shares[tap].reshape(form)
        voxels = total
    return voxels


def normalize_volume(patches: torch.Tensor, grey: GreyScale | None) -> torch.Tensor:
    """(x - shift) * factor per channel, with the volume's numbers; patches (n, c, ...) float32."""
    if grey is None:
        return patches
    form = (1, -1, *(1,) * (patches.ndim - 2))
    shift = torch.tensor(grey.shift, dtype=torch.float32, device=patches.device)
    factor = torch.tensor(grey.factor, dtype=torch.float32, device=patches.device)
    return (patches - shift.reshape(form)) * factor.reshape(form)


def normalize_patches(patches: torch.Tensor, normalization: Normalization) -> torch.Tensor:
    """Each patch (n, c, ...) by its own statistics, per channel, ddof 0 (vesuvius, nnU-Net).

    Sums run in float64, so that a patch's numbers do not depend on its batch.
    """
    wide = patches.flatten(2).double()
    if normalization.method == "zscore":
        shift = wide.mean(2)
        width = (wide - shift[..., None]).square().mean(2).sqrt()
    elif normalization.method == "minmax":
        shift = wide.amin(2)
        width = wide.amax(2) - shift
    else:
        quantiles = [normalization.low / 100, normalization.high / 100]
        shift, top = np.quantile(wide.cpu().numpy(), quantiles, axis=2)
        shift, width = (torch.from_numpy(v).to(patches.device) for v in (shift, top - shift))
    form = (*patches.shape[:2], *(1,) * (patches.ndim - 2))
    factor = 1 / width.clamp_min(_LEAST_WIDTH)
    return (patches - shift.float().reshape(form)) * factor.float().reshape(form)


def constant_planes(voxels: torch.Tensor) -> torch.Tensor:
    """Which planes of (c, planes, ...) hold one value per channel; bool (planes,).

    A sparse look settles nearly all planes of real data; only the rest is read whole.
    """
    first = voxels.flatten(2)[:, :, :1]
    sparse = voxels
    for axis in range(2, voxels.ndim):
        sparse = sparse.narrow(axis, 0, voxels.shape[axis]).unfold(axis, 1, 7).squeeze(-1)
    sparse = sparse.flatten(2)
    same = (sparse == first).all(2).all(0)
    doubtful = same.nonzero()[:, 0]
    if len(doubtful):
        whole = voxels[:, doubtful].flatten(2)
        same[doubtful] = (whole == whole[:, :, :1]).all(2).all(0)
    return same
