"""Columns of tables: put together, and put in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.reduce.fragments import Int


def joined(tables: Iterable[Iterable[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Columns of several tables, one below the other."""
    return [np.concatenate(column) for column in zip(*tables, strict=True)]


def sort_order(keys: Sequence[Int]) -> Int:
    """Order that sorts rows of non-negative `keys`, the first column foremost."""
    spans = [int(key.max()) + 1 for key in keys]
    packed, room = keys[0], spans[0]
    for key, span in zip(keys[1:], spans[1:], strict=True):
        if room * span >= 2**63:
            return np.lexsort(tuple(reversed(keys)))
        packed, room = packed * span + key, room * span
    return np.argsort(packed)
