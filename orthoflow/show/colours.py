"""Planes to colours: pure functions from arrays to RGB, float32 (rows, columns, 3) in 0..1.

Every colour here stays apart from its neighbours under the usual colour-vision deficiencies, by
lightness as well as by hue.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Colour = tuple[float, float, float]
Picture: TypeAlias = npt.NDArray[np.float32]
Plane: TypeAlias = npt.NDArray[Any]

CORRECT: Colour = (0.80, 0.80, 0.76)
FALSE_POSITIVE: Colour = (1.00, 0.42, 0.10)
FALSE_NEGATIVE: Colour = (0.22, 0.66, 1.00)
WRONG_CLASS: Colour = (0.95, 0.90, 0.25)

CLASSES: tuple[Colour, ...] = (
    (0.10, 0.78, 0.60),
    (0.95, 0.70, 0.10),
    (0.85, 0.50, 0.75),
    (0.40, 0.75, 0.98),
    (0.98, 0.92, 0.40),
    (0.35, 0.45, 0.95),
    (0.95, 0.45, 0.25),
    (0.85, 0.85, 0.85),
)
"""Colour of label 1, 2, ...; then from the start again."""

DISSENT: tuple[Colour, ...] = ((1.00, 0.76, 0.16), (0.93, 0.30, 0.45), (0.62, 0.35, 0.95))
"""Colour of one, two, three or more dissenting orientations."""

RAMP: tuple[Colour, ...] = (
    (0.00, 0.00, 0.04),
    (0.26, 0.06, 0.42),
    (0.66, 0.16, 0.38),
    (0.95, 0.46, 0.16),
    (0.98, 0.93, 0.60),
)
"""From 0 to 1, evenly spaced; lightness grows throughout."""

_SAMPLES = 2_000_000
_DIM = 0.45


def contrast(image: Plane) -> tuple[float, float]:
    """Values to show as black and white: percentiles 0.3 and 99.7 of the finite values.

    A volume of more than two million voxels is sampled evenly. An image of one value, or without a
    finite one, gets a window of width 1 around it.
    """
    step = max(1, round((image.size / _SAMPLES) ** (1 / image.ndim)))
    some = image[(slice(None, None, step),) * image.ndim].astype(np.float32)
    some = some[np.isfinite(some)]
    if some.size == 0:
        return (0.0, 1.0)
    low, high = (float(v) for v in np.percentile(some, (0.3, 99.7)))
    if low == high:
        low, high = float(some.min()), float(some.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def grey(plane: Plane, window: tuple[float, float]) -> Picture:
    """The plane in grey, `window` stretched from black to white; NaN is black."""
    low, high = window
    value = (np.nan_to_num(plane.astype(np.float32), nan=low) - low) / (high - low)
    return np.repeat(np.clip(value, 0, 1).astype(np.float32)[..., None], 3, axis=2)


def _dimmed(base: Picture) -> Picture:
    """A darker base, before which colours stand out."""
    return base * np.float32(_DIM)


def _paint(base: Picture, mask: npt.NDArray[np.bool_], colour: Colour, opacity: float) -> Picture:
    """`base` with `colour` laid over the pixels of `mask`."""
    out = base.copy()
    out[mask] = out[mask] * np.float32(1 - opacity) + np.float32(opacity) * np.array(colour, "f4")
    return out


def outline(labels: Plane, thickness: tuple[int, int] = (1, 1)) -> npt.NDArray[np.bool_]:
    """Pixels of a label with another label or background within `thickness` rows or columns.

    The picture's own edge is no outline.

    >>> outline(np.array([[0, 1, 1, 1, 2]])).astype(int)
    array([[0, 1, 0, 1, 1]])
    """
    edge = np.zeros(labels.shape, bool)
    for axis, most in enumerate(thickness):
        values, marks = np.moveaxis(labels, axis, 0), np.moveaxis(edge, axis, 0)
        for shift in range(1, min(most, len(values) - 1) + 1):
            differs = values[:-shift] != values[shift:]
            marks[:-shift] |= differs
            marks[shift:] |= differs
    edge &= labels != 0
    return edge


def with_classes(base: Picture, labels: Plane, thickness: tuple[int, int] = (1, 1)) -> Picture:
    """Labels as translucent colours with a firm outline over `base`; 0 is left as it is."""
    palette = np.array(CLASSES, np.float32)
    return with_colours(
        base, labels, palette[(labels.astype(np.int64) - 1) % len(palette)], thickness
    )


def with_colours(
    base: Picture, labels: Plane, colours: Picture, thickness: tuple[int, int] = (1, 1)
) -> Picture:
    """Colours (rows, columns, 3) where there are labels, translucent with firm outlines."""
    opacity = np.where(outline(labels, thickness), 0.95, 0.32).astype(np.float32)
    opacity[labels == 0] = 0
    return base * (1 - opacity[..., None]) + colours * opacity[..., None]


def errors(labels: Plane, truth: Plane) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of what is "correct", a "false positive", a "false negative" and a "wrong class".

    Disjoint; a pixel that is background in both is in none.
    """
    said, true = labels != 0, truth != 0
    return {
        "correct": said & (labels == truth),
        "false positive": said & ~true,
        "false negative": ~said & true,
        "wrong class": said & true & (labels != truth),
    }


def with_errors(base: Picture, labels: Plane, truth: Plane) -> Picture:
    """What `labels` has right, too much, too little and mistaken, over a dimmed `base`."""
    masks = errors(labels, truth)
    out = _paint(_dimmed(base), masks["correct"], CORRECT, 0.45)
    out = _paint(out, masks["false positive"], FALSE_POSITIVE, 0.95)
    out = _paint(out, masks["false negative"], FALSE_NEGATIVE, 0.95)
    return _paint(out, masks["wrong class"], WRONG_CLASS, 0.95)


def with_dissent(base: Picture, dissenting: Plane) -> Picture:
    """Where one, two, three orientations dissent, over a dimmed `base`."""
    out = _dimmed(base)
    for count, colour in enumerate(DISSENT, start=1):
        mask = dissenting == count if count < len(DISSENT) else dissenting >= count
        out = _paint(out, mask, colour, 0.95)
    return out


def heat(probability: Plane) -> Picture:
    """Probability as a colour of the ramp; integers count in shares of their dtype's maximum."""
    value = probability.astype(np.float32)
    if np.issubdtype(probability.dtype, np.integer):
        value /= np.float32(np.iinfo(probability.dtype).max)
    value = np.clip(np.nan_to_num(value), 0, 1)
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(value, places, [colour[i] for colour in RAMP]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def shrink(picture: Picture, factors: tuple[int, int]) -> Picture:
    """Mean of every `factors` (rows, columns) pixels; an incomplete last group is its own mean."""
    for axis, factor in enumerate(factors):
        starts = np.arange(0, picture.shape[axis], factor)
        counts = np.diff(np.append(starts, picture.shape[axis])).astype(np.float32)
        sums = np.add.reduceat(picture, starts, axis=axis)
        sums /= counts.reshape([-1 if i == axis else 1 for i in range(3)])
        picture = sums
    return picture
