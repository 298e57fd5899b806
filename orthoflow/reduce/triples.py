"""What the three orientations say at a voxel, counted; and labels of what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Triple
from orthoflow.reduce.columns import Columns, Sums, grouped
from orthoflow.reduce.fragments import Int, Runs, runs_of, slabs
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


_NONE = Triples(np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros((0, 6), np.int64))


def triples(objects: Sequence[npt.NDArray[np.integer]], start: Triple = (0, 0, 0)) -> Triples:
    """Triples of a block that begins at `start`.

    `objects` are the object numbers (z, y, x) of xy, xz and yz, C-contiguous and of one shape.

    >>> one = np.ones((1, 1, 2), np.int64)
    >>> triples([one, one, one * 0]).count.tolist()
    [2]
    """
    depth, rows, width = objects[0].shape
    return merged(
        _slab([array[part] for array in objects], (start[0] + part.start, start[1], start[2]))
        for part in slabs(depth, rows * width)
    )


def _slab(objects: Sequence[npt.NDArray[np.integer]], start: Triple) -> Triples:
    """Triples of some planes, of which the first voxel is at `start`."""
    runs, named = _named(objects)
    some = np.flatnonzero(np.bitwise_or.reduce(named))
    if not len(some):
        return _NONE
    named = named[:, some]
    order, begin = grouped(list(named))
    inked = some[order]
    count = (runs.stop - runs.start)[inked]
    _, rows, width = objects[0].shape
    line, x = np.divmod(runs.start[inked], width)
    z, y = np.divmod(line, rows)
    low = [np.minimum.reduceat(place, begin) for place in (z, y, x)]
    high = [np.maximum.reduceat(place, begin) for place in (z + 1, y + 1, x + count)]
    box = np.stack(low + high, axis=1) + np.array([*start, *start])
    return Triples(named[:, order[begin]].T, np.add.reduceat(count, begin), box)


def merged(tables: Iterable[Triples]) -> Triples:
    """Triples of several blocks together, in any order; `tables` may come from a store."""
    sums = Sums(_columns(_NONE), lambda columns: _columns(_summed(Triples(*columns))))
    for table in tables:
        sums.add(_columns(table))
    return Triples(*sums.total())


def _columns(table: Triples) -> Columns:
    return [table.objects, table.count, table.box]


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
    span = 1 + max(int(array.max(initial=0)) for array in (known.objects, *objects))
    # Voxels of no object are looked up as all others are.
    first, second, third = np.insert(known.objects, 0, 0, axis=0).T
    inks = np.insert(label, 0, 0)
    pairs, place = np.unique(first * span + second, return_inverse=True)
    rows = place * span + third
    out = np.empty(objects[0].shape, label.dtype)
    for part in slabs(out.shape[0], out.shape[1] * out.shape[2]):
        runs, named = _named([array[part] for array in objects])
        row = _places(rows, _places(pairs, named[0] * span + named[1]) * span + named[2])
        out[part] = np.repeat(inks[row], runs.stop - runs.start).reshape(out[part].shape)
    return out


def _places(known: Int, wanted: Int) -> Int:
    """Where the sorted `known` numbers are what is `wanted`."""
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    if (known[place] != wanted).any():
        raise ValueError("the block holds triples that were never counted; count it again")
    return place


def _named(objects: Sequence[npt.NDArray[np.integer]]) -> tuple[Runs, Int]:
    """Runs along x in which no orientation changes, and the triple (3, n) of each."""
    runs = runs_of(*objects)
    return runs, np.stack([array.reshape(-1)[runs.start].astype(np.int64) for array in objects])


def _summed(table: Triples) -> Triples:
    """The same with one row per triple, sorted."""
    if not len(table):
        return table
    order, begin = grouped(list(table.objects.T))
    count, box = table.count[order], table.box[order]
    low = np.minimum.reduceat(box[:, :3], begin)
    high = np.maximum.reduceat(box[:, 3:], begin)
    return Triples(
        table.objects[order[begin]],
        np.add.reduceat(count, begin),
        np.concatenate([low, high], axis=1),
    )
