"""Blending weights of one axis, divided beforehand so that they add up to one.

On a full grid the sum of separable weights at a voxel is a product of per-axis sums, so each axis
can be divided by its own sum: g / sum(g). Nothing is left to divide in the volume, no epsilon is
needed, and the corners are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from orthoflow.geometry.grid import Grid
    from orthoflow.geometry.tiling import Tiling

Weighting = Literal["gaussian", "taper", "border", "uniform"]
"""To add a weighting: name it here and give its profile in `_profile`."""

_FRAME_WEIGHT = 0.1  # of the border profile; qlty's default in 3-D


def profile(
    weighting: Weighting, length: int, *, sigma_scale: float = 8.0
) -> npt.NDArray[np.float64]:
    """Weight of each of `length` voxels of a patch, not yet divided; shape (length,).

    gaussian : exp(-(i - (n - 1) / 2)^2 / (2 sigma^2)), sigma = n / sigma_scale, no floor (vesuvius,
        nnU-Net and MONAI use the same width, off-centre or clamped)
    taper : 1 / (1 + exp((|i - (n - 1) / 2| - (n / 2 - 20)) / 7.5)) (Cellpose's average_tiles)
    border : 1, and 0.1 in a frame of an eighth of the patch (qlty)
    uniform : 1
    """
    if weighting not in get_args(Weighting):
        raise BadInput(
            f"weighting {weighting!r} is unknown; choose from {', '.join(get_args(Weighting))}"
        )
    if not 0 < sigma_scale <= 64:
        raise BadInput(
            f"sigma_scale {sigma_scale} gives weights of zero at a patch's corners or no peak; "
            "use 0 < sigma_scale <= 64 (8 is usual: sigma = patch / 8)"
        )
    return _profile(weighting, length, sigma_scale)


def _profile(weighting: Weighting, length: int, sigma_scale: float) -> npt.NDArray[np.float64]:
    distance = np.abs(np.arange(length) - (length - 1) / 2)
    if weighting == "gaussian":
        gaussian: npt.NDArray[np.float64] = np.exp(-0.5 * (distance * sigma_scale / length) ** 2)
        return gaussian
    if weighting == "taper":
        taper: npt.NDArray[np.float64] = 1 / (1 + np.exp((distance - (length / 2 - 20)) / 7.5))
        return taper
    if weighting == "border":
        return np.where(distance < length / 2 - length // 8, 1.0, _FRAME_WEIGHT)
    return np.ones(length)


def partition_of_unity(
    grid: Grid, weighting: Weighting, *, sigma_scale: float = 8.0
) -> tuple[npt.NDArray[np.float32], ...]:
    """Weights of every patch of `grid`, one array per patch; at each voxel they add up to one."""
    profiles = [profile(weighting, n, sigma_scale=sigma_scale) for n in grid.lengths]
    total = np.zeros(grid.size)
    for start, values in zip(grid.starts, profiles, strict=True):
        total[start : start + len(values)] += values
    return tuple(
        (values / total[start : start + len(values)]).astype(np.float32)
        for start, values in zip(grid.starts, profiles, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Patches:
    """The patches of one orientation and their weights, per plane axis and patch number."""

    tiling: Tiling
    weights: tuple[tuple[npt.NDArray[np.float32], ...], ...]


@lru_cache(maxsize=64)
def weighted(tiling: Tiling, weighting: Weighting, sigma_scale: float) -> Patches:
    """Patches with partition-of-unity weights along every axis of the plane."""
    return Patches(
        tiling,
        tuple(
            partition_of_unity(grid, weighting, sigma_scale=sigma_scale) for grid in tiling.grids
        ),
    )
