"""Labels of every plane by itself: numbers that count anew from plane to plane."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.reduce.consensus import Verdict
from orthoflow.reduce.fragments import FRAMES, Int
from orthoflow.reduce.matching import Objects
from orthoflow.reduce.triples import Triples

DIVISOR = 10_000
"""Of the labels unless another one is given: empanada's preset."""

_MOST = 2**32 - 1


def numbered_in_planes(table: Triples, verdict: Verdict, divisor: int) -> Verdict:
    """The verdict with other labels: class * divisor + 1, 2, ... in each plane.

    Parameters
    ----------
    table
        Of one orientation alone.
    verdict
        Its instances are components of planes, in the raster order of their first pixels.
    divisor
        Class of a label is label // divisor, as long as there are fewer objects of it in a plane.

    Raises
    ------
    BadInput
        If labels of one class would run into those of the next, or are too large for 32 bits.
    """
    column = np.flatnonzero(table.objects.any(axis=0))
    if len(column) > 1:
        raise ValueError(f"{len(column)} orientations name objects of planes; there must be one")
    if not len(column):
        return verdict
    plane = verdict.instances.box[:, FRAMES[int(column[0])].stack]
    index = _within(plane, verdict.instances)
    classes = np.unique(verdict.instances.klass)
    if len(classes) > 1 and index.max(initial=0) >= divisor:
        worst = int(plane[index.argmax()])
        raise BadInput(
            f"plane {worst} has {int(index.max()):,} objects of one class, and with label_divisor "
            f"{divisor} their labels run into the next class's; use a larger one"
        )
    label = verdict.instances.klass.astype(np.int64) * divisor + index
    _require_room(label, divisor, classes)
    return Verdict(np.concatenate([np.zeros(1, np.int64), label])[verdict.label], verdict.instances)


def numbered_by_class(objects: Objects, divisor: int) -> Int:
    """Label of each object, class * divisor + 1, 2, ...; objects are given class by class.

    Raises
    ------
    BadInput
        If labels of one class would run into those of the next, or are too large for 32 bits.

    >>> objects = Objects(np.array([1, 1, 3], np.uint8), np.ones(3, int), np.zeros((3, 6), int))
    >>> numbered_by_class(objects, 100).tolist()
    [101, 102, 301]
    """
    klass = objects.klass.astype(np.int64)
    classes, first, count = np.unique(klass, return_index=True, return_counts=True)
    if len(classes) > 1 and count.max() >= divisor:
        raise BadInput(
            f"class {classes[count.argmax()]} has {count.max():,} objects, and with label_divisor "
            f"{divisor} their labels run into the next class's; use a larger one"
        )
    label = klass * divisor + np.arange(len(klass)) - np.repeat(first, count) + 1
    _require_room(label, divisor, classes)
    return label


def _require_room(label: Int, divisor: int, classes: npt.NDArray[np.integer]) -> None:
    if label.max(initial=0) > _MOST:
        raise BadInput(
            f"label_divisor {divisor} makes labels up to {int(label.max()):,}, and they are stored "
            f"in 32 bits; use {_MOST // (int(classes.max()) + 1):,} at most"
        )


def _within(plane: Int, objects: Objects) -> Int:
    """Number 1, 2, ... of each object among those of its class and plane."""
    order = np.lexsort((np.arange(len(plane)), objects.klass, plane))
    same = (np.diff(plane[order]) == 0) & (np.diff(objects.klass[order].astype(np.int64)) == 0)
    place = np.arange(len(order))
    begin = np.maximum.accumulate(np.where(np.concatenate([[False], same])[: len(order)], 0, place))
    index = np.empty(len(order), np.int64)
    index[order] = place - begin + 1
    return index
