"""Grey-value statistics of a whole volume from a reproducible sample."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orthoflow.models.card import Normalization

# Volumes up to this many voxels are looked at as a whole.
_WHOLE = 2**24
_SIDE = 32
_BOXES = 512
# In standard deviations of the images that a model was trained on.
_FARTHEST, _NARROWEST = 50.0, 0.07


@dataclass(frozen=True, slots=True)
class GreyScale:
    """Normalisation with fixed numbers: (x - shift) * factor, one pair per channel."""

    shift: tuple[float, ...]
    factor: tuple[float, ...]


def sample_boxes(shape: Triple) -> list[Box]:
    """Boxes to look at: everything up to 2^24 voxels, else about 512 cubes of 32 voxels.

    The cubes lie on an even lattice with a jitter from a seed that is the shape, so the sample
    depends on the volume alone.
    """
    if shape[0] * shape[1] * shape[2] <= _WHOLE:
        return [Box.whole(shape)]
    side: list[int] = [min(_SIDE, n) for n in shape]
    counts = _lattice([n // s for n, s in zip(shape, side, strict=True)])
    random = np.random.default_rng(list(shape))
    boxes = []
    for cell in itertools.product(*(range(n) for n in counts)):
        start = [
            int((i + random.random()) / n * (size - s))
            for i, n, size, s in zip(cell, counts, shape, side, strict=True)
        ]
        stop = [a + s for a, s in zip(start, side, strict=True)]
        boxes.append(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    return boxes


def _lattice(room: list[int]) -> list[int]:
    """Boxes along each axis, about 512 together, in proportion to the `room` that each has.

    Axes with little room come first: what they cannot take, the others do.
    """
    counts = [1] * len(room)
    boxes = float(_BOXES)
    order = sorted(range(len(room)), key=lambda axis: room[axis])
    for place, axis in enumerate(order):
        left = [room[other] for other in order[place:]]
        share = (boxes / math.prod(left)) ** (1 / len(left))
        counts[axis] = min(room[axis], max(1, round(room[axis] * share)))
        boxes /= counts[axis]
    return counts


def grey_scale(
    samples: Iterable[npt.NDArray[np.generic]], normalization: Normalization, *, name: str
) -> GreyScale:
    """Shift and factor from `samples` (channel, z, y, x) of the volume `name`."""
    values = np.concatenate([s.reshape(len(s), -1) for s in samples], axis=1)
    if values.dtype.kind == "f":
        bad = int(np.size(values) - np.isfinite(values).sum())
        if bad:
            raise BadInput(
                f"input {name} has {bad} values that are NaN or infinite among the "
                f"{values.size} sampled; clean it, or pass nan_policy=zero"
            )
    shifts, factors = [], []
    for channel in values:
        if normalization.method == "fixed":
            _require_fit(channel, normalization, name)
        shift, width = _shift_and_width(channel, normalization)
        shifts.append(shift)
        factors.append(1.0 / max(width, 1e-8))
    return GreyScale(tuple(shifts), tuple(factors))


def _require_fit(values: npt.NDArray[np.generic], normalization: Normalization, name: str) -> None:
    """Refuse values on another scale than the numbers of the model's card are for.

    Such are values from 0 to 1 for a network of 8-bit images, or the reverse. Constant samples
    say nothing, and contrast may well be poor: only what no image can be is refused.
    """
    mean, std = normalization.mean, normalization.std
    assert mean is not None
    assert std is not None
    low, high = (float(v) for v in np.percentile(values.astype(np.float64, copy=False), [1, 99]))
    far = max(abs(low - mean), abs(high - mean)) / std
    if low == high or (far <= _FARTHEST and (high - low) / std >= _NARROWEST):
        return
    raise BadInput(
        f"input {name} has values of {low:g} to {high:g} (1st and 99th percentile of a sample), "
        f"and the model expects about {mean - 3 * std:g} to {mean + 3 * std:g}; choose "
        "normalization zscore, minmax or percentile, or rescale the input"
    )


def _shift_and_width(
    values: npt.NDArray[np.generic], normalization: Normalization
) -> tuple[float, float]:
    if normalization.method == "fixed":
        assert normalization.mean is not None
        assert normalization.std is not None
        return normalization.mean, normalization.std
    if normalization.method == "zscore":
        return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if normalization.method == "minmax":
        low = float(values.min())
        return low, float(values.max()) - low
    if normalization.method == "percentile":
        low, high = np.percentile(
            values.astype(np.float64, copy=False), [normalization.low, normalization.high]
        )
        return float(low), float(high) - float(low)
    raise ValueError(f"normalization {normalization.method!r} needs no statistics")
