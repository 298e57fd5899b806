"""Blended outputs of a panoptic network to cells of planes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from orthoflow.geometry.cells import no_center
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.kernels.centers import Heads, harden, label_cells
from orthoflow.kernels.medians import median_along_stack, recursive_median
from orthoflow.reduce.vote import fill_unpredicted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.cells import Span, Window
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
) -> tuple[torch.Tensor, int]:
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
        `adrift` pixels are a thing's and have no centre in reach; all of a class in a plane carry
        one label.
    """
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
    adrift = int((cells >= no_center(window.plane, 0)).sum())
    if objects.divisor is not None:
        cells = torch.where(thing, cells + classes.to(torch.int64) * objects.divisor, 0)
    return cells, adrift
