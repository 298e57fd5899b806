"""From sums of logits to what is stored: median, resampling, vote, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.kernels.medians import median_along_stack
from orthoflow.kernels.prepare import resample
from orthoflow.reduce.finalize import binary_bytes, softmax_bytes
from orthoflow.reduce.vote import (
    Ballot,
    consensus_labels,
    consensus_logits,
    decide,
    dissent,
    fill_unpredicted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.box import Box, Triple
    from orthoflow.reduce.blend import Sums


@dataclass(frozen=True, slots=True)
class View:
    """Blended logits of one orientation over an output box: (class, z, y, x) float32."""

    orientation: str
    logits: torch.Tensor
    covered: torch.Tensor | None


@torch.inference_mode()
def view_of(sums: Sums, box: Box, *, working: Triple, shape: Triple, median: int) -> View:
    """Logits of one orientation on the output's grid, from sums that hold the box's support."""
    logits, covered = sums.logits()
    logits = fill_unpredicted(logits, covered)
    orientation = ORIENTATIONS[sums.orientation]
    if median > 1 and orientation.stack is not None:
        planes, _ = orientation.spans(sums.box)
        logits = median_along_stack(logits, planes, working[orientation.stack], median)
    inverse = orientation.inverse
    logits = resample(
        logits.permute(inverse), working, shape, inside=sums.box, wanted=box
    ).contiguous()
    if covered is not None:
        grid = covered.permute([i - 1 for i in inverse[1:]])[None].float()
        covered = resample(grid, working, shape, inside=sums.box, wanted=box)[0] > 0.5
    return View(sums.orientation, logits, covered)


@torch.inference_mode()
def results(views: Sequence[View], ballot: Ballot, wanted: Sequence[str]) -> dict[str, Any]:
    """What is `wanted` of a block, by name; NumPy arrays.

    labels, disagreement : uint8 (z, y, x)
    probabilities : uint8, (z, y, x) of the foreground if binary, else (class, z, y, x)
    stacks/xy, ... : uint8 (z, y, x), one orientation's own labels
    logits/xy, ..., logits/consensus : float32 (class, z, y, x)
    """
    logits = [view.logits for view in views]
    covered = [view.covered for view in views]
    agreed = consensus_logits(logits, covered, ballot)
    labels = consensus_labels(logits, agreed, ballot)
    found: dict[str, Any] = {}
    for name in wanted:
        kind, _, orientation = name.partition("/")
        if kind == "labels":
            found[name] = labels
        elif kind == "disagreement":
            found[name] = dissent(logits, covered, labels, ballot)
        elif kind == "probabilities":
            binary = ballot.mode == "binary"
            found[name] = binary_bytes(agreed[0]) if binary else softmax_bytes(agreed)
        elif orientation == "consensus":
            found[name] = agreed
        else:
            view = next(v for v in views if v.orientation == orientation)
            found[name] = decide(view.logits, ballot) if kind == "stacks" else view.logits
    return {name: array.cpu().numpy() for name, array in found.items()}
