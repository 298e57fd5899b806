"""The class of a component whose pixels may be of several: counts that add up, then one decision.

Panoptic networks name the class of each pixel; an object has the one that most of its pixels have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.reduce.fragments import Int, runs_of
from orthoflow.reduce.tables import Rows, tally

MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class Kinds(Rows):
    """Pixels of each class in each fragment of a block; empty where there is one class."""

    fragment: Int
    klass: Int
    count: Int


def cells_and_classes(
    labels: npt.NDArray[Any], divisor: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Cells, and classes, of labels that are class * divisor + cell; both 0 in the background.

    >>> cells_and_classes(np.array([0, 107, 207]), 100)
    (array([0, 7, 7]), array([0, 1, 2]))
    """
    classes, cells = np.divmod(labels, np.asarray(divisor, labels.dtype))
    return cells, classes


def count_kinds(numbers: npt.NDArray[Any], classes: npt.NDArray[Any]) -> tuple[Int, Int, Int]:
    """Different pairs of a fragment's number and a class, and how many pixels have them.

    Both arrays have one shape and are C-contiguous; number 0 is background.

    Raises
    ------
    BadInput
        If a class is not from 1 to 255.
    """
    runs = runs_of(numbers, classes)
    number = numbers.reshape(-1)[runs.start].astype(np.int64)
    klass = classes.reshape(-1)[runs.start].astype(np.int64)
    inked = number > 0
    number, klass, length = number[inked], klass[inked], (runs.stop - runs.start)[inked]
    if len(klass) and not 1 <= klass.min() <= klass.max() <= MOST_CLASSES:
        odd = klass[(klass < 1) | (klass > MOST_CLASSES)][0]
        raise BadInput(f"a cell has class {odd}; classes are 1 to {MOST_CLASSES}")
    (number, klass), count = tally([number, klass], length)
    return number, klass, count


def settle_kinds(node: Int, klass: Int, count: Int, nodes: int) -> npt.NDArray[np.uint8]:
    """The class that most pixels of each node 1..nodes have; of equals the smallest, of none 1.

    Each pair of a node and a class stands in one row.

    >>> settle_kinds(np.array([1, 1, 2]), np.array([1, 3, 2]), np.array([4, 9, 5]), 2).tolist()
    [3, 2]
    """
    found = np.ones(nodes + 1, np.uint8)
    # The last to be written stays.
    order = np.lexsort((-klass, count, node))
    found[node[order]] = klass[order]
    return found[1:]
