"""Label volumes side by side: objects found, and whether two say the same.

NumPy only: it also runs inside the peers' environments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]


def hits(found: Labels, truth: Labels, limit: float) -> int:
    """Pairs of an object found and a true one with an IoU above `limit`, 0.5 at least."""
    span = int(found.max()) + 1
    pair, shared = np.unique(truth.astype(np.int64) * span + found, return_counts=True)
    a, b = np.divmod(pair, span)
    size_a, size_b = np.bincount(truth.ravel()), np.bincount(found.ravel(), minlength=span)
    iou = shared / (size_a[a] + size_b[b] - shared)
    return int(np.count_nonzero((iou > limit) & (a > 0) & (b > 0)))


def objects(labels: Labels) -> int:
    """Number of labels that are not 0."""
    return int(np.count_nonzero(np.bincount(labels.ravel())[1:]))


def f1(found: Labels, truth: Labels, limit: float) -> float:
    """F1 of instances with an IoU above `limit`, 0.5 at least."""
    count = objects(found) + objects(truth)
    return 2 * hits(found, truth, limit) / count if count else 1.0


def same_partition(one: Labels, other: Labels) -> bool:
    """Whether both have the same background and the same objects, whatever their numbers."""
    if one.shape != other.shape or not np.array_equal(one == 0, other == 0):
        return False
    span = int(other.max()) + 1
    pairs = np.unique(one.astype(np.int64) * span + other)
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


def same_planes(one: Labels, other: Labels) -> bool:
    """The same for stacks (planes, rows, columns) whose numbers count from plane to plane anew."""
    return all(same_partition(a, b) for a, b in zip(one, other, strict=True))
