"""Training networks that tell instances apart: panoptic heads, or flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional

from orthoflow.errors import BadInput
from orthoflow.training.loop import IGNORED, Lesson, Plane, Recipe, learn
from orthoflow.training.targets import flow_targets, panoptic_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt
    import torch

    from orthoflow.models.card import Normalization
    from orthoflow.models.contract import Model

CENTER_WEIGHT = 20.0
OFFSET_WEIGHT = 0.1
"""Weights of the heatmap's squared error and the offsets' absolute error, in pixels, beside 1.

Panoptic-DeepLab (Cheng et al., CVPR 2020, 3.2), and after it empanada, have 200 and 0.01. With
these, 300 steps from random weights learn the heatmap only: offsets stay 6 pixels wrong, as wrong
as zeros. Ten times nearer to each other, all three are learnt in one short training.
"""
FLOW_WEIGHT = 0.5
"""Of the flows' mean squared error beside the foreground's cross-entropy; as Cellpose trains."""


def train_instances(  # noqa: PLR0913 - a run by its settings
    images: Sequence[npt.NDArray[Any]],
    labels: Sequence[npt.NDArray[Any]],
    *,
    task: str = "panoptic",
    architecture: Mapping[str, Any] | None = None,
    normalization: str | Normalization = "percentile",
    steps: int = 400,
    patch: int = 128,
    batch: int = 8,
    seed: int = 0,
    orientations: tuple[Plane, ...] = ("xy", "xz", "yz"),
    lr: float = 3e-3,
    device: str = "cpu",
    name: str = "trained",
    progress: Callable[[int, float], None] | None = None,
) -> Model:
    """Train a 2-D U-Net to tell the instances of one class apart in planes.

    Parameters
    ----------
    images
        Volumes (z, y, x) of any real dtype.
    labels
        Instance of every voxel, 0 is background; whole numbers, shapes as the images. Touching
        objects have different numbers.
    task
        "panoptic": one semantic logit, centre heatmap, offsets; "flows": two flows and a logit.
    architecture, normalization, steps, patch, batch, seed, orientations, lr, device, name, progress
        As for `orthoflow.training.loop.train_semantic`. Objects should be narrower than a patch:
        answers are made from the labels up to half a patch around it.

    Raises
    ------
    BadInput
        For images and labels that do not fit each other, or settings that cannot work.
    """
    if task not in LESSONS:
        raise BadInput(f"training task {task!r} is unknown; use one of {', '.join(LESSONS)}")
    return learn(
        images,
        labels,
        LESSONS[task],
        Recipe(steps, patch, batch, seed, orientations, lr),
        architecture=architecture,
        normalization=normalization,
        device=device,
        name=name,
        progress=progress,
    )


def panoptic_loss(outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the foreground, squared error of the heatmap, absolute error of offsets.

    Parameters
    ----------
    outputs
        (n, 4, h, w): logit, heatmap, offsets.
    answers
        (n, 4, h, w), see `panoptic_targets`; the first is `IGNORED` where a pixel counts for
        nothing. Offsets count in the foreground only: the mean over its pixels of the sum of both.
    """
    known = answers[:, 0] != IGNORED
    inside = answers[:, 0] == 1
    heat = functional.mse_loss(outputs[:, 1][known], answers[:, 1][known])
    apart = (outputs[:, 2:] - answers[:, 2:]).abs().sum(dim=1)
    offsets = (apart * inside).sum() / inside.sum().clamp(min=1)
    return (
        _entropy(outputs[:, 0], answers[:, 0], known)
        + CENTER_WEIGHT * heat
        + OFFSET_WEIGHT * offsets
    )


def flow_loss(outputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Half the flows' mean squared error, in the background too, plus cross-entropy.

    Parameters
    ----------
    outputs
        (n, 3, h, w): two flows, logit.
    answers
        (n, 3, h, w), see `flow_targets`; the first is `IGNORED` where a pixel counts for nothing.
    """
    known = answers[:, 0] != IGNORED
    squares = (outputs[:, :2] - answers[:, 1:]).square().mean(dim=1)
    entropy = _entropy(outputs[:, 2], answers[:, 0], known)
    return FLOW_WEIGHT * squares[known].mean() + entropy


def _entropy(logits: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits[known], truth[known])


LESSONS = {
    "panoptic": Lesson(4, panoptic_loss, "panoptic", panoptic_targets, vector=2),
    "flows": Lesson(3, flow_loss, "flows", flow_targets, vector=1),
}
"""By task: outputs, loss, answers, and where in these the vector is."""
