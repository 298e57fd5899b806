"""What the three orientations say at a voxel, counted; and labels of what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Triple
from orthoflow.reduce.columns import joined, sort_order
from orthoflow.reduce.fragments import Int, Runs, runs_of
from orthoflow.reduce.tables import Rows


@dataclass(frozen=True, slots=True)
class Triples(Rows):
    """Triples of objects (xy, xz, yz; 0 = none) that voxels have, sorted; all 0 is left out.

    Attributes
    ----------
    objects
        (t, 3) object of each orientation.
    count
        (t,) voxels.
    box
        (t, 6) z0, y0, x0, z1, y1, x1 around them, half-open.
    """

    objects: Int
    count: Int
    box: Int


def triples(objects: Sequence[npt.NDArray[np.integer]], start: Triple = (0, 0, 0)) -> Triples:
    """Triples of a block that begins at `start`.

    `objects` are the object numbers (z, y, x) of xy, xz and yz, C-contiguous and of one shape.

    >>> one = np.ones((1, 1, 2), np.int64)
    >>> triples([one, one, one * 0]).count.tolist()
    [2]
    """
    runs, named = _named(objects)
    _, rows, width = objects[0].shape
    line, x = np.divmod(runs.start, width)
    z, y = np.divmod(line, rows)
    count = runs.stop - runs.start
    low = np.stack([z, y, x], axis=1) + start
    high = low + 1
    high[:, 2] += count - 1
    return _summed(Triples(named, count, np.concatenate([low, high], axis=1)))


def merged(tables: Iterable[Triples]) -> Triples:
    """Triples of several blocks together, in any order."""
    parts = [tuple(table.columns().values()) for table in tables]
    return _summed(Triples(*joined(parts)))


def apply(
    objects: Sequence[npt.NDArray[np.integer]],
    known: Triples,
    label: npt.NDArray[np.generic],
) -> npt.NDArray[np.generic]:
    """Labels (z, y, x) of a block: those that `label` (t,) gives the `known` triples, else 0.

    `objects` are as in `triples`. No neighbour is looked at.

    Raises
    ------
    ValueError
        If the block has a triple that is not known.
    """
    runs, named = _named(objects, keep_none=True)
    span = 1 + max(int(named.max(initial=0)), int(known.objects.max(initial=0)))
    pair = known.objects[:, 0] * span + known.objects[:, 1]
    pairs, place = np.unique(pair, return_inverse=True)
    rows = place * span + known.objects[:, 2]
    here = np.searchsorted(pairs, named[:, 0] * span + named[:, 1])
    row = np.searchsorted(rows, here * span + named[:, 2])
    inside = named.any(axis=1)
    row = np.where(inside, row, 0)
    if inside.any() and (
        row.max() >= len(rows) or (known.objects[row[inside]] != named[inside]).any()
    ):
        raise ValueError("the block holds triples that were never counted; count it again")
    inks = np.zeros(len(row), label.dtype)
    inks[inside] = label[row[inside]]
    return np.repeat(inks, runs.stop - runs.start).reshape(objects[0].shape)


def _named(
    objects: Sequence[npt.NDArray[np.integer]], *, keep_none: bool = False
) -> tuple[Runs, Int]:
    """Runs along x in which no orientation changes, and the triple (n, 3) of each."""
    runs = runs_of(*objects)
    named = np.stack([array.reshape(-1)[runs.start] for array in objects], axis=1)
    named = named.astype(np.int64, copy=False)
    if keep_none:
        return runs, named
    some = named.any(axis=1)
    return Runs(runs.start[some], runs.stop[some]), named[some]


def _summed(table: Triples) -> Triples:
    """The same with one row per triple, sorted."""
    if not len(table):
        return table
    order = sort_order([table.objects[:, i] for i in range(3)])
    table = table.take(order)
    new = (table.objects[1:] != table.objects[:-1]).any(axis=1)
    begin = np.concatenate([np.zeros(1, np.int64), 1 + np.flatnonzero(new)])
    low = np.minimum.reduceat(table.box[:, :3], begin)
    high = np.maximum.reduceat(table.box[:, 3:], begin)
    return Triples(
        table.objects[begin],
        np.add.reduceat(table.count, begin),
        np.concatenate([low, high], axis=1),
    )
