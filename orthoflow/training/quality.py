"""How good a network's answers are, plane by plane, beside the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree

from orthoflow.training.loop import NORMAL_AXIS, normalized
from orthoflow.training.targets import flow_targets, panoptic_targets, plane_components

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.models.contract import Model

PLANES_AT_ONCE = 4
CENTER_THRESHOLD = 0.1
"""Least height of a peak that counts as a centre; empanada's default."""
CENTER_WINDOW = 7
"""Pixels of the square in which a centre is the highest."""
CENTER_DISTANCE = 3.0
"""Pixels between a true centre and a found one."""
LEAST_AREA = 30
"""Smaller components of a plane do not count: they are the last slices of an object."""


def orientation_outputs(
    model: Model, volume: npt.NDArray[Any], orientation: str
) -> npt.NDArray[np.float32]:
    """Outputs (c, z, y, x) of one orientation, each plane in one pass; the slow, plain way.

    `volume` is (z, y, x) with sides that the model's divisor divides.
    """
    axis = NORMAL_AXIS[orientation]
    planes = np.moveaxis(normalized(volume, model.card.normalization), axis, 0)
    batches = [
        model(torch.from_numpy(planes[at : at + PLANES_AT_ONCE, None].copy())).numpy()
        for at in range(0, len(planes), PLANES_AT_ONCE)
    ]
    return np.moveaxis(np.moveaxis(np.concatenate(batches), 1, 0), 1, 1 + axis)


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Twice the shared voxels over the sum of both; 1.0 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def heat_peaks(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Centres (n, 2) of a heatmap (h, w): highest in their window, above the threshold."""
    highest = ndimage.maximum_filter(heat, CENTER_WINDOW, mode="constant")
    return np.argwhere((heat == highest) & (heat > CENTER_THRESHOLD))


def panoptic_quality(
    outputs: npt.NDArray[np.float32], labels: npt.NDArray[np.integer[Any]]
) -> dict[str, float]:
    """Scores of a panoptic network over planes.

    Parameters
    ----------
    outputs
        (n, 4, h, w) of n planes: logit, heatmap, offsets.
    labels
        (n, h, w) true instances.

    Returns
    -------
    dict
        centers: share of true centres with a found one within 3 pixels; spurious: share of found
        centres in the true foreground without a true one within 3 pixels; offset_error: mean length
        of the error in pixels, in the true foreground. Components under 30 pixels do not count.
    """
    hits = truths = wrong = peaks = 0
    errors = []
    for answer, plane in zip(outputs, labels, strict=True):
        components = plane_components(plane)
        targets = panoptic_targets(plane)
        found = heat_peaks(answer[1])
        centers = components.centroids[components.areas >= LEAST_AREA]
        truths += len(centers)
        hits += _near(centers, found)
        numbers = components.numbers[found[:, 0], found[:, 1]]
        counted = found[numbers > 0][components.areas[numbers[numbers > 0] - 1] >= LEAST_AREA]
        peaks += len(counted)
        wrong += len(counted) - _near(counted, components.centroids)
        apart = np.square(answer[2:] - targets[2:]).sum(axis=0)
        errors.append(np.sqrt(apart[targets[0] > 0]))
    return {
        "centers": hits / max(1, truths),
        "spurious": wrong / max(1, peaks),
        "offset_error": float(np.concatenate(errors).mean()),
    }


def flow_quality(
    outputs: npt.NDArray[np.float32], labels: npt.NDArray[np.integer[Any]]
) -> dict[str, float]:
    """Scores of a flow network over planes; parameters as for `panoptic_quality`, 3 channels.

    Returns
    -------
    dict
        flow_error: mean angle in degrees between found and true flow, in the true foreground;
        flow_right: share of its pixels where the angle is under 45 degrees.
    """
    angles = []
    for answer, plane in zip(outputs, labels, strict=True):
        targets = flow_targets(plane)
        inside = np.square(targets[1:]).sum(axis=0) > 0
        (down, right), (up, left) = targets[1:, inside], answer[:2, inside]
        angles.append(np.arctan2(down * left - right * up, down * up + right * left))
    degrees = np.degrees(np.abs(np.concatenate(angles)))
    return {"flow_error": float(degrees.mean()), "flow_right": float((degrees < 45).mean())}


def _near(points: npt.NDArray[Any], others: npt.NDArray[Any]) -> int:
    """How many points have another one within the distance."""
    if not len(points) or not len(others):
        return 0
    distance, _ = KDTree(others).query(points)
    return int((distance <= CENTER_DISTANCE).sum())
