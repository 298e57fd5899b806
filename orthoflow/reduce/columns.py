"""Columns of tables: put together, and put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.reduce.fragments import Int

Columns = Sequence[npt.NDArray[Any]]

# Bytes of tables that may wait before they are summed up.
_PENDING = 2**25


class Sums:
    """Sum of tables that come one after the other.

    Beside the sum no more is held than tables of its size, or of 32 MB, and the last one.

    Parameters
    ----------
    none
        Columns of a table without rows.
    summed
        Gives columns with one row per key, from columns in which keys repeat.
    """

    def __init__(self, none: Columns, summed: Callable[[Columns], Columns]) -> None:
        self._sum = none
        self._summed = summed
        self._waiting: list[Columns] = []
        self._bytes = 0

    def add(self, table: Columns) -> None:
        """Add a table."""
        self._waiting.append(table)
        self._bytes += _bytes(table)
        if self._bytes > max(_PENDING, _bytes(self._sum)):
            self.total()

    def total(self) -> Columns:
        """Columns of the sum of all tables so far."""
        if self._waiting:
            self._sum = self._summed(joined([self._sum, *self._waiting]))
            self._waiting, self._bytes = [], 0
        return self._sum


def _bytes(table: Columns) -> int:
    return sum(column.nbytes for column in table)


def joined(tables: Iterable[Iterable[npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Columns of several tables, one below the other."""
    return [np.concatenate(column) for column in zip(*tables, strict=True)]


def sort_order(keys: Sequence[Int]) -> Int:
    """Order that sorts rows of non-negative `keys`, the first column foremost.

    Equal rows keep their order. Rows that come in a few sorted pieces, as those of blocks do, take
    a look each and no sorting.
    """
    return np.argsort(packed(keys), kind="stable")


def grouped(keys: Sequence[Int]) -> tuple[Int, Int]:
    """Order that sorts rows of `keys`, and where in it each different row begins.

    >>> order, begin = grouped([np.array([7, 0, 7])])
    >>> order.tolist(), begin.tolist()
    ([1, 0, 2], [0, 1])
    """
    code = packed(keys)
    order = np.argsort(code, kind="stable")
    return order, np.flatnonzero(np.diff(code[order], prepend=-1))


def packed(keys: Sequence[Int]) -> Int:
    """One number (n,) per row of the columns `keys`, in the order of the rows.

    >>> packed([np.array([1, 0, 1]), np.array([0, 2, 2])]).tolist()
    [3, 2, 5]
    """
    code, room = keys[0], _span(keys[0])
    for key in keys[1:]:
        column, span = key, _span(key)
        if room * span >= 2**63:
            (code, room), (column, span) = _ranked(code), _ranked(column)
        code, room = code * span + column, room * span
    return code


def _span(key: Int) -> int:
    return 1 + int(key.max(initial=0))


def _ranked(key: Int) -> tuple[Int, int]:
    """Rank of each value among the different ones, and how many those are."""
    different, rank = np.unique(key, return_inverse=True)
    return rank, len(different)
