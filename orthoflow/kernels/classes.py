"""The class of a cell, which may lie in many boxes: counts that add up, then one decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Pixels of each class in each cell; rows sorted by (plane, label, klass), int64."""

    plane: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    klass: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]


def count_classes(labels: torch.Tensor, classes: torch.Tensor, first_plane: int) -> ClassCounts:
    """Pixels per (plane, label, class) of one box, without the background; counts add up.

    `labels` and `classes` (planes, rows, columns) are those of `label_cells`.
    """
    flat, kinds = labels.flatten(), classes.flatten()
    plane_size = labels[0].numel()
    # Runs of equal pixels are few; a plane's end is also a run's end.
    change = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    change[1:] = (flat[1:] != flat[:-1]) | (kinds[1:] != kinds[:-1])
    change[::plane_size] = True
    first = change.nonzero()[:, 0]
    length = torch.diff(first, append=first.new_tensor([len(flat)]))
    first, length = (part[flat[first] > 0] for part in (first, length))
    rows = (first // plane_size + first_plane, flat[first], kinds[first], length)
    return merge_classes([ClassCounts(*(row.cpu().numpy().astype(np.int64) for row in rows))])


def merge_classes(parts: Sequence[ClassCounts]) -> ClassCounts:
    """Sum of the counts of several boxes."""
    names = ("plane", "label", "klass", "count")
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    order = np.lexsort(columns[2::-1])
    plane, label, klass, count = (column[order] for column in columns)
    if not len(plane):
        return ClassCounts(plane, label, klass, count)
    new = np.ones(len(plane), bool)
    new[1:] = (np.diff(plane) != 0) | (np.diff(label) != 0) | (np.diff(klass) != 0)
    first = new.nonzero()[0]
    return ClassCounts(plane[first], label[first], klass[first], np.add.reduceat(count, first))


def settle_classes(counts: ClassCounts, *, things: Sequence[int], stuff_area: int) -> ClassCounts:
    """The class of each (plane, label) from the counts of whole planes; `count` is its area.

    A cell has the class most of its pixels have, the smallest of equals. Stuff of less than
    `stuff_area` pixels in its plane gets class 0: it is to be dropped.
    """
    order = np.lexsort((counts.klass, -counts.count, counts.label, counts.plane))
    plane, label, klass = (c[order] for c in (counts.plane, counts.label, counts.klass))
    new = np.ones(len(plane), bool)
    new[1:] = (np.diff(plane) != 0) | (np.diff(label) != 0)
    first = new.nonzero()[0]
    area = np.add.reduceat(counts.count[order], first) if len(first) else counts.count
    small = ~np.isin(klass[first], things) & (area < stuff_area)
    return ClassCounts(plane[first], label[first], np.where(small, 0, klass[first]), area)
