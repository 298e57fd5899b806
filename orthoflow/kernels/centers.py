"""Panoptic outputs to cells: centres, each pixel's centre, classes of cells; plane by plane.

A cell is what votes for one centre; its label is a function of the centre's place in the whole
plane, so that blocks agree without asking each other. The rules are those of Panoptic-DeepLab
(Cheng et al. 2020, arXiv:1911.10194, section 3.3) as empanada runs them, with one restriction: a
pixel looks for its centre within `reach` only. So a box needs a halo, see `cells_needed`, and what
is inside does not depend on the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from orthoflow.geometry.cells import CellRule, Span, Window, cells_needed, cells_sought, no_center
from orthoflow.kernels.nearest import Centers, Votes, nearest_centers
from orthoflow.reduce.vote import logit_of

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Heads:
    """Heat and offsets of a box of planes, on their grid."""

    heat: torch.Tensor
    """(planes, rows, columns) float32, of cells."""
    offsets: torch.Tensor
    """(2, planes, rows, columns) float32: from a cell's first pixel to its centre, in pixels."""
    start: tuple[int, int]
    """Row and column of the first cell."""


def harden(values: torch.Tensor, *, threshold: float, probabilities: bool = False) -> torch.Tensor:
    """Classes (planes, rows, columns), uint8, of values (class, planes, rows, columns).

    One channel: 1 where the probability is at least `threshold` (empanada's rule; values are logits
    unless they are `probabilities`). More: the largest, the first of equals, 0 is the background.
    """
    if len(values) == 1:
        least = threshold if probabilities else logit_of(threshold)
        return (values[0] >= least).to(torch.uint8)
    best, classes = values[0], torch.zeros_like(values[0], dtype=torch.uint8)
    for number in range(1, len(values)):
        better = values[number] > best
        classes = classes.masked_fill_(better, number)
        best = torch.where(better, values[number], best)
    return classes


@torch.inference_mode()
def label_cells(
    classes: torch.Tensor, heads: Heads, window: Window, rule: CellRule, *, things: Sequence[int]
) -> torch.Tensor:
    """Labels (planes, rows, columns), int64, of the wanted pixels; 0 is the background.

    Parameters
    ----------
    classes
        (planes, rows, columns) uint8 of the wanted pixels, from `harden`.
    heads
        At least the `cells_needed`, of the same planes.
    things
        Classes that consist of instances; all others but 0 are stuff.

    Returns
    -------
    labels
        Of a thing's pixel: 1 + row * columns of the plane + column of its centre, which is the one
        nearest to where the pixel votes (pixel + offset, in 256ths of a pixel) among those within
        `reach` of it, the first in raster order of equally near ones. Of a pixel of class c without
        one, and of stuff: `no_center(plane, c)`. As empanada does: things of a plane that has no
        centre at all vanish.

    Raises
    ------
    ValueError
        If the heads or classes do not cover what they must.

    Notes
    -----
    The class of a cell is the one most of its pixels have, and a cell may lie in many boxes:
    `orthoflow.reduce.kinds` counts them.
    """
    _require_cover(classes, heads, window, rule)
    heat, offsets, start = _on_grid(heads, window, rule)
    centers = _centers(heat, start, rule)
    own = tuple(
        (a // rule.pixels, -(-b // rule.pixels)) for a, b in window.spans
    )  # cells of the wanted pixels
    thing = torch.zeros_like(classes, dtype=torch.bool)
    for number in things:
        thing |= classes == number
    asking = _cells_with(thing, window, own, rule.pixels)
    plane, row, column = asking.nonzero().unbind(1)
    votes = Votes(
        plane,
        row + own[0][0],
        column + own[1][0],
        offsets[:, plane, row + (own[0][0] - start[0]), column + (own[1][0] - start[1])],
    )
    found = torch.zeros(asking.shape, dtype=torch.int64, device=asking.device)
    found[plane, row, column] = _cell_labels(votes, centers, window, rule)
    labels = _upsampled(found, window, own, rule.pixels).masked_fill_(~thing, 0)
    lost = (classes > 0) & (~thing if rule.reach is None else labels == 0)
    if bool(lost.any()):
        labels[lost] = classes[lost].to(torch.int64) + no_center(window.plane, 0)
    return labels


def _require_cover(classes: torch.Tensor, heads: Heads, window: Window, rule: CellRule) -> None:
    shape = (len(heads.heat), *(b - a for a, b in window.spans))
    if tuple(classes.shape) != shape or heads.offsets.shape[1:] != heads.heat.shape:
        raise ValueError(
            f"classes {tuple(classes.shape)}, heat {tuple(heads.heat.shape)} and offsets "
            f"{tuple(heads.offsets.shape)} do not belong to wanted pixels {shape}"
        )
    given = tuple((a, a + n) for a, n in zip(heads.start, heads.heat.shape[1:], strict=True))
    needed = cells_needed(window, rule)
    if any(g[0] > n[0] or g[1] < n[1] for g, n in zip(given, needed, strict=True)):
        raise ValueError(f"heads cover cells {given}, {needed} are needed; read a wider halo")


def _on_grid(
    heads: Heads, window: Window, rule: CellRule
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Heat and offsets of the cells on which centres are sought, and the first of these."""
    rows, columns = (
        cells_sought(span, size, rule)
        for span, size in zip(window.spans, window.plane, strict=True)
    )
    maps = torch.cat([heads.heat[None], heads.offsets]).float()
    if rule.zoom > 1 and rule.reach is None:
        # Plane by plane, as empanada does: the last bits depend on the shape.
        wide = [_zoomed(maps[:, k], rule.zoom) for k in range(maps.shape[1])]
        maps = torch.stack(wide, 1)[:, :, : rows[1], : columns[1]]
    else:
        for axis, span in ((2, rows), (3, columns)):
            cells = -(-window.plane[axis - 2] // rule.step)
            maps = _interpolated(maps, axis, span, heads.start[axis - 2], (cells, rule.zoom))
    return maps[0], maps[1:], (rows[0], columns[0])


def _zoomed(maps: torch.Tensor, zoom: int) -> torch.Tensor:
    """Heat and offsets (3, rows, columns) of a whole plane, interpolated by torch."""
    parts = [
        functional.interpolate(part[None], scale_factor=zoom, mode="bilinear", align_corners=True)
        for part in (maps[:1], maps[1:])
    ]
    return torch.cat([part[0] for part in parts])


def _interpolated(
    maps: torch.Tensor, axis: int, span: Span, start: int, grid: tuple[int, int]
) -> torch.Tensor:
    """Maps along one axis at the finer cells of `span`; the ends of both grids coincide.

    The numbers are those of the whole plane's interpolation wherever the maps start: taps and
    weights come from exact fractions of global places.
    """
    cells, zoom = grid
    if zoom == 1:
        return maps.narrow(axis, span[0] - start, span[1] - span[0])
    whole = max(zoom * cells - 1, 1)
    places = np.arange(*span, dtype=np.int64) * (cells - 1)
    low = places // whole
    shares = torch.from_numpy(((places - low * whole) / whole).astype(np.float32))
    high = np.minimum(low + 1, cells - 1)
    first, second = (
        maps.index_select(axis, torch.from_numpy(tap - start).to(maps.device))
        for tap in (low, high)
    )
    form = [1] * maps.ndim
    form[axis] = -1
    return first + (second - first) * shares.to(maps.device).reshape(form)


def _centers(heat: torch.Tensor, start: tuple[int, int], rule: CellRule) -> Centers:
    """Largest cells of their windows, above the threshold; plateaus give several."""
    plane, row, column = highest(heat, (1, 2), rule).nonzero().unbind(1)
    return Centers(plane, row + start[0], column + start[1], len(heat))


def highest(heat: torch.Tensor, axes: Sequence[int], rule: CellRule) -> torch.Tensor:
    """Which cells of three axes are the largest of their windows along `axes`, and large enough.

    An even window has one cell more before than behind.
    """
    lively = torch.where(heat > rule.center_threshold, heat, -1)
    peak = lively
    for axis in axes:
        peak = _window_max(peak, axis, rule.center_distance)
    return (lively == peak) & (lively > 0)


def _window_max(values: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Largest of the `size` values around each, along one of three axes."""
    pads = [0] * 6
    pads[4 - 2 * axis : 6 - 2 * axis] = size // 2, (size - 1) // 2
    values = functional.pad(values, pads, value=-math.inf)
    seen = 1
    while seen < size:
        step = min(seen, size - seen)
        rest = values.shape[axis] - step
        values = torch.maximum(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
        seen += step
    return values


def _cells_with(
    thing: torch.Tensor, window: Window, own: tuple[Span, ...], pixels: int
) -> torch.Tensor:
    """Which cells hold a pixel of a thing."""
    if pixels == 1:
        return thing
    pads = [
        (a - first * pixels, end * pixels - b)
        for (a, b), (first, end) in zip(window.spans, own, strict=True)
    ]
    padded = functional.pad(thing, (*pads[1], *pads[0]))
    rows = padded.reshape(len(thing), -1, pixels, padded.shape[2])
    some = rows[:, :, 0]
    for place in range(1, pixels):
        some = some | rows[:, :, place]
    columns = some.reshape(len(thing), some.shape[1], -1, pixels)
    some = columns[..., 0]
    for place in range(1, pixels):
        some = some | columns[..., place]
    return some


def _cell_labels(votes: Votes, centers: Centers, window: Window, rule: CellRule) -> torch.Tensor:
    """Label (n,) of each vote's centre, 0 where none is in reach."""
    if not len(votes.plane) or not len(centers.plane):
        return torch.zeros_like(votes.plane)
    choice = nearest_centers(centers, votes, pixels=rule.pixels, reach=rule.reach)
    label = 1 + (centers.row * window.plane[1] + centers.column) * rule.pixels
    return label[choice] * (choice >= 0)


def _upsampled(
    found: torch.Tensor, window: Window, own: tuple[Span, ...], pixels: int
) -> torch.Tensor:
    """Cells to pixels, each the same in all of its pixels."""
    if pixels == 1:
        return found
    (a, b), (c, d) = window.spans
    rows, columns = a - own[0][0] * pixels, c - own[1][0] * pixels
    wide = found.repeat_interleave(pixels, 2)[:, :, columns : columns + d - c]
    return wide.repeat_interleave(pixels, 1)[:, rows : rows + b - a]
