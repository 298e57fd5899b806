"""Blended outputs of a panoptic network to cells of planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from orthoflow.geometry.box import Box
from orthoflow.geometry.cells import CellRule, no_center
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.kernels.centers import Heads, harden, label_cells
from orthoflow.kernels.fields import plane_flows
from orthoflow.kernels.flows import flow_labels
from orthoflow.kernels.medians import median_along_stack, recursive_median
from orthoflow.reduce.vote import fill_unpredicted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.cells import Span, Window
    from orthoflow.geometry.following import FlowRule
    from orthoflow.plan.objects import CellPlan
    from orthoflow.reduce.blend import Sums


@torch.inference_mode()
def plane_classes(
    sums: Sums, planes: Span, count: int, *, median: int, recursive: bool, threshold: float
) -> torch.Tensor:
    """Classes (planes, rows, columns), uint8, of the wanted planes.

    Parameters
    ----------
    sums
        Of the class logits alone, with median // 2 planes more than are wanted, as far as the stack
        goes; the recursive median needs all of it.
    planes
        First and end of the wanted planes, of a stack of `count`.
    """
    logits, covered = sums.logits()
    logits = fill_unpredicted(logits, covered)
    held, _ = ORIENTATIONS[sums.orientation].spans(sums.box)
    if median > 1 and len(logits) > 1:
        # The median of logits is that of probabilities only where there is one.
        logits = torch.softmax(logits, 0)
    if median > 1 and recursive:
        logits = recursive_median(logits, median)
    elif median > 1:
        logits = median_along_stack(logits, held, count, median)
    return harden(logits[:, planes[0] - held[0] : planes[1] - held[0]], threshold=threshold)


@torch.inference_mode()
def plane_cells(
    classes: torch.Tensor,
    sums: Sums,
    window: Window,
    objects: CellPlan,
    factors: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells (planes, rows, columns), int64, of the things in the window, 0 elsewhere.

    Parameters
    ----------
    classes
        (planes, rows, columns) uint8 of the window.
    sums
        Of heat and offsets (3, planes, rows, columns), blended after a multiplication by `factors`,
        of the same planes and of at least the `cells_needed`.

    Returns
    -------
    cells, adrift
        `adrift` (bool) pixels are a thing's and have no centre in reach; all of a class in a plane
        carry one label.
    """
    assert isinstance(objects.cells, CellRule)
    maps, _ = sums.logits()
    maps = maps / maps.new_tensor(factors).reshape(-1, 1, 1, 1)
    _, spans = ORIENTATIONS[sums.orientation].spans(sums.box)
    # A cell is a square of `step` pixels, known by the outputs of its first one.
    step = objects.cells.step
    firsts = [-(-span[0] // step) for span in spans]
    skips = [first * step - span[0] for first, span in zip(firsts, spans, strict=True)]
    maps = maps[:, :, skips[0] :: step, skips[1] :: step]
    heads = Heads(maps[0], maps[1:], (firsts[0], firsts[1]))
    thing = torch.zeros_like(classes, dtype=torch.bool)
    for number in objects.things:
        thing |= classes == number
    classes = classes * thing
    cells = label_cells(classes, heads, window, objects.cells, things=objects.things)
    adrift = cells >= no_center(window.plane, 0)
    if objects.divisor is not None:
        cells = torch.where(thing, cells + classes.to(torch.int64) * objects.divisor, 0)
    return cells, adrift


@torch.inference_mode()
def plane_flow_cells(
    sums: Sums, planes: Span, window: Window, rule: FlowRule
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells (planes, rows, columns), int64, of a window: what ends in one place of its plane.

    Parameters
    ----------
    sums
        Of flows and logit (3, planes, rows, columns) of the same planes, with the `flow_halo` of
        one go around the window.

    Returns
    -------
    cells, adrift
        1 + place of the sink in its plane; `adrift` (bool) pixels left their reach.
    """
    outputs, covered = sums.logits()
    logit = fill_unpredicted(outputs[2:], covered)
    _, spans = ORIENTATIONS[sums.orientation].spans(sums.box)
    # Planes are counted from the first: none looks at another.
    count = planes[1] - planes[0]
    rows, columns = window.spans
    box = Box((0, spans[0][0], spans[1][0]), (count, spans[0][1], spans[1][1]))
    wanted = Box((0, rows[0], columns[0]), (count, rows[1], columns[1]))
    field = plane_flows(torch.cat([outputs[:2], logit]), box)
    labels, ends = flow_labels(field, wanted, (count, *window.plane), rule)
    adrift = torch.zeros_like(labels, dtype=torch.bool)
    adrift[ends.local(wanted, (count, *window.plane))] = ends.stopped
    return labels, adrift
