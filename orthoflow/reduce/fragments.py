"""In-plane components of per-plane labels, found on runs of equal voxels.

Everything is counted on *runs* (stretches of one row with one label), of which a volume has far
fewer than voxels; the voxels are looked at once, to find where the runs begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Triple

Int = npt.NDArray[np.int64]

ORIENTATION_NAMES = ("xy", "xz", "yz")


class Frame(NamedTuple):
    """Axes of the volume that a plane's place, rows and columns are."""

    stack: int
    row: int
    column: int

    @property
    def back(self) -> Triple:
        """Axes of a stack of planes that z, y and x of the volume are."""
        return self.index(0), self.index(1), self.index(2)

    def slab(self, planes: slice) -> tuple[slice, slice, slice]:
        """What cuts some planes out of the volume."""
        z, y, x = (planes if axis == self.stack else slice(None) for axis in range(3))
        return z, y, x


FRAMES = (Frame(0, 1, 2), Frame(1, 0, 2), Frame(2, 0, 1))


# Voxels that are worked on at a time. What is made of so many stays near the processor, and in
# memory that the process has already; arrays of a whole block are new memory each time.
_SLAB = 2**20


def slabs(depth: int, voxels: int) -> Iterator[slice]:
    """Ranges of planes that cover `depth` of them, about a million voxels each.

    `voxels` are those of one plane.

    >>> list(slabs(5, 2**19))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, _SLAB // max(1, voxels))
    for low in range(0, depth, step):
        yield slice(low, min(low + step, depth))


def laid_out(
    array: npt.NDArray[Any], order: tuple[int, ...], *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """array.transpose(order) of three axes, C-contiguous; or `out` with that in it.

    Where the last axis does not stay the last one, it is turned with another plane by plane, which
    fit a cache: a third of the time of one copy.
    """
    if out is None and order[2] == 2:
        return np.ascontiguousarray(array.transpose(order))
    out = np.empty([array.shape[axis] for axis in order], array.dtype) if out is None else out
    if order[2] == 2:
        out[...] = array.transpose(order)
        return out
    middle = 1 - order[2]
    into = out.swapaxes(0, order.index(middle))
    for turned, plane in zip(into, array.swapaxes(0, middle), strict=True):
        turned[...] = plane.T
    return out


class Runs(NamedTuple):
    """Stretches of equal voxels in rows; `start` and `stop` index the flattened array."""

    start: Int
    stop: Int


def runs_of(*arrays: npt.NDArray[np.generic]) -> Runs:
    """Longest stretches of the last axis in which no array changes, in raster order.

    Every voxel lies in exactly one run; the arrays have one shape and are C-contiguous.

    >>> runs_of(np.array([[7, 7, 0], [0, 0, 5]]))
    Runs(start=array([0, 2, 3, 5]), stop=array([2, 3, 5, 6]))
    """
    flat = [array.reshape(-1) for array in arrays]
    size = flat[0].size
    if not size:
        return Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    change = np.empty(size, np.bool_)
    np.not_equal(flat[0][1:], flat[0][:-1], out=change[1:])
    for other in flat[1:]:
        change[1:] |= other[1:] != other[:-1]
    change.reshape(-1, arrays[0].shape[-1])[:, 0] = True
    start = np.flatnonzero(change).astype(np.int64, copy=False)
    return Runs(start, np.append(start[1:], size))


def meetings(a: Runs, b: Runs) -> tuple[Int, Int, Int]:
    """Pairs (i, j) of intervals a[i] and b[j] that share positions, and how many they share.

    The intervals of `b` are sorted and disjoint; those of `a` may touch each other.
    """
    low = np.searchsorted(b.stop, a.start, "right")
    many = np.searchsorted(b.start, a.stop, "left") - low
    i = np.repeat(np.arange(len(many)), many)
    j = np.arange(len(i)) + np.repeat(low - (np.cumsum(many) - many), many)
    shared = np.minimum(a.stop[i], b.stop[j]) - np.maximum(a.start[i], b.start[j])
    return i, j, shared


def touching(
    runs: Runs, shape: tuple[int, ...], step: tuple[int, int], *, corners: bool = True
) -> tuple[Int, Int, Int]:
    """Runs and the runs that they touch in the row that lies `step` = (planes, rows) further on.

    `runs` are some of those of an array of `shape`, in raster order. A step goes one plane or one
    row at most. The third array counts the voxels that face each other, 0 where only `corners`
    touch.
    """
    width = shape[2]
    row, column = np.divmod(runs.start, width)
    # Two empty columns per row and an empty row per plane keep strangers apart.
    pitch = width + 2
    start = (row + row // shape[1]) * pitch + column
    stop = start + (runs.stop - runs.start)
    shift, reach = (step[0] * (shape[1] + 1) + step[1]) * pitch, int(corners)
    there = Runs(start + shift - reach, stop + shift + reach)
    i, j, _ = meetings(there, Runs(start, stop))
    shared = np.minimum(stop[i] + shift, stop[j]) - np.maximum(start[i] + shift, start[j])
    return i, j, shared


def groups(count: int, a: Int, b: Int) -> Int:
    """Number 0..n-1 of each of `count` items' group, where a[i] and b[i] are in one group.

    Groups are numbered by their first item.
    """
    links = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(count, count))
    found, group = connected_components(links, directed=False)
    first = np.empty(found, np.int64)
    first[group[::-1]] = np.arange(count - 1, -1, -1)
    rank = np.empty(found, np.int64)
    rank[np.argsort(first)] = np.arange(found)
    numbers: Int = rank[group]
    return numbers


@dataclass(frozen=True, slots=True)
class Fragments:
    """In-plane components (8 neighbours, equal label) of one block in one orientation.

    They are numbered 1..count in raster order of their first pixel: plane, row, column.

    Attributes
    ----------
    orientation, shape
        0 = xy, 1 = xz, 2 = yz; (planes, rows, columns) of the block.
    lengths, number
        Run lengths that cover the block in raster order, and each one's fragment, 0 = background.
    start
        Flat index of the first voxel of each run.
    label
        Label of each fragment, (count,).
    touches
        Pairs of fragments of one plane with 4-neighbours of different labels, and how many: (3, n),
        where a pair may repeat.
    """

    orientation: int
    shape: Triple
    start: Int
    lengths: Int
    number: Int
    label: Int
    touches: Int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.label)

    def volume(
        self, values: npt.NDArray[np.generic] | None = None, *, planes: int | None = None
    ) -> npt.NDArray[Any]:
        """Array (z, y, x), C-contiguous, of fragment numbers, or of values[number].

        `values` has an entry for each number from 0 to `count`; only the first `planes` planes
        are in the array where they are given.
        """
        if values is None:
            values = np.arange(self.count + 1, dtype=np.min_scalar_type(self.count))
        _, rows, columns = self.shape
        shape = (self.shape[0] if planes is None else planes), rows, columns
        frame = FRAMES[self.orientation]
        out = np.empty([shape[axis] for axis in frame.back], values.dtype)
        for part in slabs(shape[0], rows * columns):
            ends = np.searchsorted(self.start, np.array([part.start, part.stop]) * rows * columns)
            here = slice(*ends.tolist())
            painted = np.repeat(values[self.number[here]], self.lengths[here])
            laid_out(painted.reshape(-1, rows, columns), frame.back, out=out[frame.slab(part)])
        return out


def fragments(labels: npt.NDArray[np.generic], orientation: int) -> Fragments:
    """Fragments of a block of labels (z, y, x) whose planes lie as `orientation` says.

    Parameters
    ----------
    labels
        Whole numbers of any type, (z, y, x), unique within a plane or not; 0 = background.
    orientation
        0 = xy, 1 = xz, 2 = yz.

    Raises
    ------
    BadInput
        If the labels are not whole numbers, or negative, or beyond 2**63 - 1.
    """
    name = ORIENTATION_NAMES[orientation]
    if labels.ndim != 3 or labels.dtype.kind not in "bui":
        raise BadInput(
            f"labels {name} are a {labels.ndim}-dimensional array of {labels.dtype}; "
            "pass whole numbers with axes z, y, x"
        )
    frame = FRAMES[orientation]
    depth, rows, columns = (labels.shape[axis] for axis in frame)
    none = np.zeros(0, np.int64)
    found: list[tuple[Int, ...]] = [(none, none, none, none, np.zeros((3, 0), np.int64))]
    count = 0
    for part in slabs(depth, rows * columns):
        planes = laid_out(labels[frame.slab(part)], frame)
        runs = runs_of(planes)
        raw = planes.reshape(-1)[runs.start]
        if raw.size and (raw.min() < 0 or raw.max() > np.iinfo(np.int64).max):
            raise BadInput(
                f"labels {name} hold {raw.min() if raw.min() < 0 else raw.max()}; "
                "labels are from 0 (background) to 2**63 - 1"
            )
        label = raw.astype(np.int64)
        number, first, touches = _number(runs, label, planes.shape)
        start = runs.start + part.start * rows * columns
        inked = np.where(number > 0, number + count, 0)
        touches[:2] += count
        found.append((start, runs.stop - runs.start, inked, label[first], touches))
        count += len(first)
    start, lengths, number, label, touches = (
        np.concatenate(column, axis=-1) for column in zip(*found, strict=True)
    )
    return Fragments(orientation, (depth, rows, columns), start, lengths, number, label, touches)


def _number(runs: Runs, label: Int, shape: tuple[int, ...]) -> tuple[Int, Int, Int]:
    """Fragment of each run, first run of each fragment, and touching fragments of unlike labels."""
    inside = np.flatnonzero(label)
    ink = label[inside]
    near, far, shared = touching(Runs(runs.start[inside], runs.stop[inside]), shape, (0, 1))
    alike = ink[near] == ink[far]
    group = groups(len(inside), near[alike], far[alike]) + 1
    number = np.zeros(len(label), np.int64)
    number[inside] = group
    first = np.empty(int(group.max(initial=0)), np.int64)
    first[group[::-1] - 1] = inside[::-1]
    unlike = ~alike & (shared > 0)
    # Neighbours in a row: two runs that follow each other without background between them.
    aside = np.flatnonzero((np.diff(inside) == 1) & (runs.start[inside[1:]] % shape[2] > 0))
    ends = np.append(near[unlike], aside), np.append(far[unlike], aside + 1)
    touches = [group[ends[0]], group[ends[1]], np.append(shared[unlike], np.ones_like(aside))]
    return number, first, np.stack(touches)
