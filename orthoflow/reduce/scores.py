"""Objects that were found beside true ones: which are the same, and F1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orthoflow.reduce.fragments import Int


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of an object found and a true one that share voxels.

    Attributes
    ----------
    found, true
        (n,) labels.
    iou
        (n,) voxels in both over voxels in one or both.
    count_found, count_true
        Objects there are.
    """

    found: Int
    true: Int
    iou: npt.NDArray[np.float64]
    count_found: int
    count_true: int

    def hits(self, limit: float) -> int:
        """Pairs with an IoU above `limit`, 0.5 at least: no object is in two of them."""
        if limit < 0.5:
            raise ValueError(f"limit {limit}: below 0.5 an object may have several partners")
        return int(np.count_nonzero(self.iou > limit))


def matches_of(found: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> Matches:
    """Compare two arrays of labels of one shape; 0 is background.

    Raises
    ------
    ValueError
        If the shapes differ.

    >>> m = matches_of(np.array([0, 1, 1, 2]), np.array([5, 5, 5, 0]))
    >>> m.found, m.true, m.iou.round(2), m.count_found, m.count_true
    (array([1]), array([5]), array([0.67]), 2, 1)
    """
    if found.shape != truth.shape:
        raise ValueError(f"labels have shapes {found.shape} and {truth.shape}")
    names_found, one = np.unique(found, return_inverse=True)
    names_true, other = np.unique(truth, return_inverse=True)
    one, other = one.reshape(-1), other.reshape(-1)
    pair, shared = np.unique(one * len(names_true) + other, return_counts=True)
    a, b = np.divmod(pair, len(names_true))
    size_a, size_b = np.bincount(one), np.bincount(other)
    some = (names_found[a] != 0) & (names_true[b] != 0)
    iou = shared / (size_a[a] + size_b[b] - shared)
    return Matches(
        names_found[a[some]].astype(np.int64),
        names_true[b[some]].astype(np.int64),
        iou[some],
        int(np.count_nonzero(names_found)),
        int(np.count_nonzero(names_true)),
    )


def f1(parts: Iterable[Matches], limit: float) -> float:
    """2 hits / (objects found + true objects) of several pictures together; 1 of nothing at all."""
    parts = list(parts)
    count = sum(one.count_found + one.count_true for one in parts)
    return 2 * sum(one.hits(limit) for one in parts) / count if count else 1.0
