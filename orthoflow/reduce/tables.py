"""Tables of 2-D components: what instances are decided on, in place of voxels.

A *node* is a component of equal labels (8 neighbours) of a whole plane. Its numbers, and those of
pairs of nodes, are sums over blocks, so that they do not depend on how the volume was cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Triple
from orthoflow.reduce.columns import Columns, Sums, grouped
from orthoflow.reduce.fragments import Int


def tally(keys: Sequence[Int], count: Int, *, by: np.ufunc = np.add) -> tuple[list[Int], Int]:
    """Different rows of the columns `keys`, sorted, and the sum of `count` for each.

    Where `by` is another ufunc, as np.maximum, that takes the place of the sum.

    >>> rows, total = tally([np.array([2, 1, 2])], np.array([5, 1, 4]))
    >>> rows[0].tolist(), total.tolist()
    ([1, 2], [1, 9])
    """
    if not len(count):
        return [key[:0] for key in keys], count[:0]
    order, begin = grouped(keys)
    first = order[begin]
    return [key[first] for key in keys], by.reduceat(count[order], begin)


def key_sums(keys: int, *, by: np.ufunc = np.add) -> Sums:
    """Sums by `keys` columns over tables that come one after the other; `by` may be another ufunc.

    >>> sums = key_sums(1, by=np.maximum)
    >>> sums.add([np.array([7, 7]), np.array([2, 5])])
    >>> [column.tolist() for column in sums.total()]
    [[7], [5]]
    """

    def summed(columns: Columns) -> Columns:
        *own, count = columns
        own, count = tally(own, count, by=by)
        return [*own, count]

    return Sums([np.zeros(0, np.int64)] * (keys + 1), summed)


class Rows:
    """A table: columns of one length, in a dataclass."""

    __slots__ = ()

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Columns by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(next(iter(self.columns().values())))

    def take(self, rows: npt.NDArray[np.generic]) -> Self:
        """Only `rows`, a mask or numbers from 0."""
        places = np.arange(len(self))[rows]
        columns = self.columns().items()
        return type(self)(**{name: column.take(places, axis=0) for name, column in columns})


@dataclass(frozen=True, slots=True)
class Nodes(Rows):
    """2-D components, node i + 1 in row i, sorted by orientation, plane, first.

    Attributes
    ----------
    orientation
        (n,) uint8: 0 = xy, 1 = xz, 2 = yz.
    plane
        (n,) place of the plane along the axis that is missing in the orientation's name.
    first
        (n,) row * width + column of the first pixel in raster order of the whole plane.
    area
        (n,) pixels.
    box
        (n, 6) z0, y0, x0, z1, y1, x1, half-open.
    klass
        (n,) uint8, class of thing; 1 where there is one.
    """

    orientation: npt.NDArray[np.uint8]
    plane: Int
    first: Int
    area: Int
    box: Int
    klass: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pairs(Rows):
    """Pairs of nodes a, b (1..n) with a count, sorted by (a, b)."""

    a: Int
    b: Int
    count: Int

    @classmethod
    def summed(cls, a: Int, b: Int, count: Int) -> Self:
        """Sorted pairs from rows in which they may repeat."""
        (a, b), count = tally([a, b], count)
        return cls(a, b, count)


class Overlaps(Pairs):
    """Nodes of plane k and of plane k + 1 of one orientation: pixels in common."""

    __slots__ = ()


class Contacts(Pairs):
    """Nodes a < b of one plane: pairs of 4-neighbours."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Crossings(Rows):
    """Nodes of two orientations, orientation[a] < orientation[b], sorted by (a, b).

    Their planes meet in a line: `count` voxels of it are in both, `on_a` in a, `on_b` in b.
    """

    a: Int
    b: Int
    count: Int
    on_a: Int
    on_b: Int


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of a volume of `shape` (z, y, x)."""

    shape: Triple
    nodes: Nodes
    overlaps: Overlaps
    crossings: Crossings
    contacts: Contacts


def tables_of(
    labels: Mapping[str, npt.NDArray[np.generic]], *, label_divisor: int | None = None
) -> Tables:
    """Tables of whole per-plane labels in memory.

    Parameters
    ----------
    labels
        Arrays (z, y, x) of one shape by orientation ("xy", "xz", "yz"; some may be missing).
    label_divisor
        Where given, a label's class is label // label_divisor; else there is one class, 1.

    Raises
    ------
    BadInput
        If the arrays are not labels of one volume.
    """
    from orthoflow.reduce.blocktables import block_tables  # noqa: PLC0415 - they import this module
    from orthoflow.reduce.merging import merge  # noqa: PLC0415

    return merge([block_tables(labels, label_divisor=label_divisor)]).tables
