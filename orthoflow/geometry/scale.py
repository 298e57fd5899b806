"""Resampling between the input's voxels and the working grid that the network sees.

Every output voxel is a fixed sum over input voxels, given by global coordinates alone, so a box
resampled by itself equals the crop of the volume resampled as a whole, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box, Triple

# Cellpose's networks were trained on cells of this diameter, in pixels.
_TRAINED_DIAMETER = 30.0
# The seed's order: the planes first, then the stack.
RESAMPLE_ORDER = (1, 2, 0)


def working_shape(
    shape: Triple,
    *,
    downsample: tuple[float, float, float] = (1.0, 1.0, 1.0),
    diameter: float | None = None,
    anisotropy: float | None = None,
    trained_diameter: float | None = None,
) -> Triple:
    """Shape that the network sees, in the packed Cellpose fork's order.

    y and x shrink by s = 30 / diameter, z becomes int(z * anisotropy * s); `downsample` divides
    each axis as well. `trained_diameter` takes the place of 30 where a card states it.

    >>> working_shape((34, 1968, 1968), diameter=60, anisotropy=4)
    (68, 984, 984)
    """
    scale = 1.0 if diameter is None else (trained_diameter or _TRAINED_DIAMETER) / diameter
    factors = [scale / d for d in downsample]
    factors[0] *= 1.0 if anisotropy is None else anisotropy
    # The tiny number forgives products such as 30 * 0.1 that are not quite whole in binary.
    sizes = [n * f + 1e-9 for n, f in zip(shape, factors, strict=True)]
    for axis, size, factor in zip(AXES, sizes, factors, strict=True):
        if not 1 <= size < 2**31:
            raise BadInput(
                f"downsample, diameter and anisotropy scale axis {axis} by {factor:.4g} "
                f"to {size:.4g} voxels; it must keep between 1 and 2^31"
            )
    z, y, x = (int(size) for size in sizes)
    return (z, y, x)


@dataclass(frozen=True, slots=True)
class AxisScale:
    """Resampling of one axis from `source` to `target` voxels.

    Enlarging is linear between voxel centres (the ends are held), shrinking averages the source
    voxels that a target voxel covers. Both keep the physical extent.
    """

    source: int
    target: int

    def support(self, span: tuple[int, int]) -> tuple[int, int]:
        """Source voxels (first, end) that the target voxels `span` depend on."""
        if self.source == self.target:
            return span
        indices, _ = self.taps((span[0], span[0] + 1))
        last, _ = self.taps((span[1] - 1, span[1]))
        return int(indices.min()), int(last.max()) + 1

    def taps(self, span: tuple[int, int]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Source indices and weights of the target voxels `span`, both (taps, voxels)."""
        target = np.arange(*span)
        ratio = self.source / self.target
        if self.target > self.source:
            centre = np.clip((target + 0.5) * ratio - 0.5, 0, self.source - 1)
            first = np.minimum(np.floor(centre).astype(np.intp), max(self.source - 2, 0))
            share = centre - first
            indices = np.stack([first, np.minimum(first + 1, self.source - 1)])
            return indices, np.stack([1 - share, share]).astype(np.float32)
        # Divided last, so that a border between two source voxels is met exactly.
        begin, end = target * self.source / self.target, (target + 1) * self.source / self.target
        steps = np.arange(int(np.ceil(ratio)) + 1)[:, None]
        indices = np.floor(begin).astype(np.intp) + steps
        covered = np.minimum(indices + 1, end) - np.maximum(indices, begin)
        weights = np.clip(covered, 0, None) / ratio
        # Taps that cover nothing repeat the last voxel, which their zero weight switches off.
        indices = np.where(weights > 0, indices, np.floor(begin).astype(np.intp))
        return np.minimum(indices, self.source - 1), weights.astype(np.float32)


def scales(source: Triple, target: Triple) -> tuple[AxisScale, AxisScale, AxisScale]:
    """One `AxisScale` per axis."""
    z, y, x = (AxisScale(a, b) for a, b in zip(source, target, strict=True))
    return (z, y, x)


def support_box(box: Box, *, source: Triple, target: Triple) -> Box:
    """Box of the source grid that a `box` of the target grid depends on."""
    spans = [
        scale.support(span)
        for scale, span in zip(
            scales(source, target), zip(box.start, box.stop, strict=True), strict=True
        )
    ]
    return Box((spans[0][0], spans[1][0], spans[2][0]), (spans[0][1], spans[1][1], spans[2][1]))


def nearest_places(span: tuple[int, int], *, source: int, target: int) -> npt.NDArray[np.int64]:
    """Source voxel whose centre is nearest to that of each target voxel of a span.

    >>> nearest_places((0, 6), source=3, target=6)
    array([0, 0, 1, 1, 2, 2])
    """
    places = np.arange(*span, dtype=np.int64)
    return (2 * places + 1) * source // (2 * target)


def nearest_box(box: Box, *, source: Triple, target: Triple) -> Box:
    """Box of the source grid that the voxels nearest to a `box` of the target grid lie in."""
    spans = []
    for axis in range(3):
        ends = (box.start[axis], box.stop[axis] - 1)
        first, last = (
            int(nearest_places((end, end + 1), source=source[axis], target=target[axis])[0])
            for end in ends
        )
        spans.append((first, last + 1))
    return Box((spans[0][0], spans[1][0], spans[2][0]), (spans[0][1], spans[1][1], spans[2][1]))


def nearest_of(
    array: npt.NDArray[Any], held: Box, box: Box, *, source: Triple, target: Triple
) -> npt.NDArray[Any]:
    """Nearest value for each voxel of the target's `box`, from those of the source's `held`."""
    for axis in range(3):
        if source[axis] != target[axis]:
            span = (box.start[axis], box.stop[axis])
            places = nearest_places(span, source=source[axis], target=target[axis])
            array = np.take(array, places - held.start[axis], axis=axis)
    return array


def core_box(box: Box, *, source: Triple, target: Triple) -> Box:
    """The part of the target grid that belongs to a `box` of the source grid.

    Boxes that partition the source get cores that partition the target.
    """
    bounds = [
        tuple(v * n // m for v, m, n in zip(corner, source, target, strict=True))
        for corner in (box.start, box.stop)
    ]
    return Box(bounds[0], bounds[1])  # type: ignore[arg-type]
