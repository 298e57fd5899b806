"""One field of flow and foreground from the outputs of a flow network's orientations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from orthoflow.geometry.box import Box, Triple
from orthoflow.geometry.following import smoothing_halo
from orthoflow.geometry.orientations import ORIENTATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Field:
    """Flow and foreground over a box."""

    box: Box
    flow: torch.Tensor
    """(3, z, y, x) float32: towards larger z, y, x."""
    logit: torch.Tensor
    """(z, y, x) float32 of the foreground."""


def combine_flows(
    views: Mapping[str, torch.Tensor], weights: Mapping[str, float], box: Box, *, rule: str
) -> Field:
    """One field from the outputs of the orientations.

    Parameters
    ----------
    views
        By orientation (3, z, y, x) float32: flow along the planes' rows, along their columns, and
        the logit, all over `box`.
    weights
        Of each orientation, not negative.
    rule
        "mean": of each axis over the orientations whose planes span it, and of the logits;
        "sum": Cellpose's, without weights.

    Raises
    ------
    ValueError
        If no orientation with a weight spans an axis.
    """
    parts: list[list[tuple[torch.Tensor, float]]] = [[], [], [], []]
    for name in (name for name in ORIENTATIONS if name in views):
        rows, columns = ORIENTATIONS[name].plane
        for place, channel in ((rows, 0), (columns, 1), (3, 2)):
            parts[place].append((views[name][channel], 1.0 if rule == "sum" else weights[name]))
    totals = []
    for axis, found in zip(("z", "y", "x", "logit"), parts, strict=True):
        whole = 1.0 if rule == "sum" else sum(weight for _, weight in found)
        if not found or whole <= 0:
            raise ValueError(
                f"no orientation among {', '.join(views)} with a weight gives {axis}; "
                "three-dimensional flows need two of xy, xz, yz"
            )
        total = found[0][0] * (found[0][1] / whole)
        for values, weight in found[1:]:
            total = total + values * (weight / whole)
        totals.append(total)
    return Field(box, torch.stack(totals[:3]), totals[3])


def plane_flows(view: torch.Tensor, box: Box) -> Field:
    """Field of one orientation's outputs (3, planes, rows, columns), plane by plane.

    `box` counts planes, rows and columns; all that follows does too.
    """
    return Field(box, torch.cat([torch.zeros_like(view[:1]), view[:2]]), view[2])


@torch.inference_mode()
def smooth_flows(field: Field, sigma: Sequence[float], wanted: Box, shape: Triple) -> Field:
    """The field over a smaller box, its flow smoothed with sigmas (z, y, x), its logit as it is.

    `field` holds `smoothing_halo` voxels more than `wanted` along each axis, as far as the volume
    of `shape` goes; its outermost voxels are repeated.
    """
    flow, start = field.flow, list(field.box.start)
    for axis, width in enumerate(sigma):
        span = (wanted.start[axis], wanted.stop[axis])
        if width <= 0:
            flow = flow.narrow(axis + 1, span[0] - start[axis], span[1] - span[0])
            continue
        reach = smoothing_halo(width)
        taps = np.exp(-0.5 * (np.arange(reach + 1) / width) ** 2)
        taps /= taps[0] + 2 * taps[1:].sum()
        total = None
        for step, share in enumerate(taps.astype(np.float32)):
            both = [
                flow.index_select(axis + 1, _places(span, by, shape[axis], start[axis], flow))
                for by in ({-step, step})
            ]
            part = (both[0] if len(both) == 1 else both[0] + both[1]) * float(share)
            total = part if total is None else total + part
        assert total is not None
        flow = total
    return Field(wanted, flow, field.logit[wanted.within(field.box)])


def _places(
    span: tuple[int, int], by: int, size: int, start: int, like: torch.Tensor
) -> torch.Tensor:
    """Where the voxels of a span, shifted by some, lie in an array from `start`; repeated ends."""
    return (torch.arange(*span, device=like.device) + by).clamp(0, size - 1) - start
