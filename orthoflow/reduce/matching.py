"""2-D components followed from plane to plane: the objects of each orientation's stack.

The rule is empanada's: components of neighbouring planes are assigned by the Hungarian method on
their IoU, what is left over joins the object that covers it, first from the first plane to the
last one, then back. All of it needs areas and overlaps only (reference: empanada-napari 1.2.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int, groups
from orthoflow.reduce.tables import Nodes, Overlaps, Rows, Tables, tally


@dataclass(frozen=True, slots=True)
class Objects(Rows):
    """What the nodes were joined to, object i + 1 in row i.

    Attributes
    ----------
    klass
        (n,) class of thing.
    size, box
        (n,) pixels of its nodes, (n, 6) box around them: z0, y0, x0, z1, y1, x1, half-open.
    """

    klass: npt.NDArray[np.uint8]
    size: Int
    box: Int


def objects_of(nodes: Nodes, number: Int) -> Objects:
    """Classes, sizes and boxes of the objects 1..n that `number` gives the nodes, 0 = none.

    >>> zero = np.zeros(1, np.int64)
    >>> nodes = Nodes(zero.astype(np.uint8), zero, zero, zero + 4, np.arange(6)[None], zero)
    >>> objects_of(nodes, np.array([1])).size.tolist()
    [4]
    """
    order = np.argsort(number, kind="stable")
    order = order[np.searchsorted(number[order], 1) :]
    begin = np.flatnonzero(np.diff(number[order], prepend=0))
    some = nodes.take(order)
    if not len(begin):
        return Objects(some.klass, some.area, some.box)
    low = np.minimum.reduceat(some.box[:, :3], begin)
    high = np.maximum.reduceat(some.box[:, 3:], begin)
    size = np.add.reduceat(some.area, begin)
    return Objects(some.klass[begin], size, np.concatenate([low, high], axis=1))


def large(size: Int, box: Int, *, min_size: int, min_extent: int) -> npt.NDArray[np.bool_]:
    """Which objects have `min_size` voxels and `min_extent` voxels along every axis."""
    extent = (box[:, 3:] - box[:, :3]).min(axis=1, initial=np.iinfo(np.int64).max)
    return np.asarray((size >= min_size) & (extent >= min_extent))


def match_stacks(
    tables: Tables,
    *,
    merge_iou: float = 0.25,
    merge_ioa: float = 0.25,
    min_size: int = 0,
    min_extent: int = 0,
) -> tuple[Int, Objects]:
    """Object of each node, 0 where it was dropped, and the objects.

    Objects are numbered by class, orientation, and within a stack in the order in which the way
    back meets them: from the last plane to the first one, in raster order of first pixels.

    Parameters
    ----------
    tables
        Tables of the volume.
    merge_iou
        IoU from which on two components of neighbouring planes are one object.
    merge_ioa
        Covered fraction from which on a component without a partner joins an object.
    min_size, min_extent
        Smallest object that is kept: its voxels, and the sides of its box, in this stack.
    """
    nodes, pairs = tables.nodes, tables.overlaps
    number = np.zeros(len(nodes), np.int64)
    found = [Objects(nodes.klass[:0], nodes.area[:0], nodes.box[:0])]
    count = 0
    for klass in np.unique(nodes.klass).tolist():
        for orientation in range(3):
            mine = (nodes.klass == klass) & (nodes.orientation == orientation)
            rows = np.flatnonzero(mine)
            place = np.cumsum(mine) - 1
            inner = pairs.take(mine[pairs.a - 1] & mine[pairs.b - 1])
            some = nodes.take(rows)
            linked = Overlaps(place[inner.a - 1], place[inner.b - 1], inner.count)
            here = match_stack(some, linked, merge_iou=merge_iou, merge_ioa=merge_ioa)
            objects = objects_of(some, here)
            keep = large(objects.size, objects.box, min_size=min_size, min_extent=min_extent)
            renumbered = np.where(keep, np.cumsum(keep) + count, 0)
            number[rows] = np.concatenate([np.zeros(1, np.int64), renumbered])[here]
            found.append(objects.take(keep))
            count += int(keep.sum())
    return number, Objects(*joined(table.columns().values() for table in found))


def match_stack(nodes: Nodes, overlaps: Overlaps, *, merge_iou: float, merge_ioa: float) -> Int:
    """Object 1..n of each of one stack's nodes; here `overlaps` counts nodes from 0."""
    planes = np.unique(nodes.plane)
    stack = _Stack(nodes, overlaps, planes, merge_iou, merge_ioa)
    label = np.arange(len(nodes))
    for forward in (True, False):
        steps = planes if forward else planes[::-1]
        for before, plane in zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True):
            if abs(plane - before) == 1:
                stack.follow(label, before, plane)
    # The way back meets planes in falling order, components of a plane in raster order.
    met = np.lexsort((nodes.first, -nodes.plane))
    first = np.unique(label[met], return_index=True)
    rank = np.empty(len(first[1]), np.int64)
    rank[np.argsort(first[1])] = np.arange(1, len(rank) + 1)
    return rank[np.searchsorted(first[0], label)]


class _Stack:
    """Components of one stack by plane, and their overlaps by plane pair."""

    def __init__(
        self, nodes: Nodes, overlaps: Overlaps, planes: Int, merge_iou: float, merge_ioa: float
    ) -> None:
        self._area = nodes.area
        ends = (np.searchsorted(nodes.plane, planes, side) for side in ("left", "right"))
        self._low, self._high = (
            dict(zip(planes.tolist(), end.tolist(), strict=True)) for end in ends
        )
        self._pairs = overlaps
        self._merge_iou, self._merge_ioa = merge_iou, np.float32(merge_ioa)

    def follow(self, label: Int, before: int, plane: int) -> None:
        """Give the components of `plane` the labels of those of `before` that they continue.

        Components of one label are one thing. Things are in the order of their first component;
        what continues nothing keeps its label.
        """
        target, target_label, target_area = self._things(label, before)
        thing, thing_label, thing_area = self._things(label, plane)
        a, b, count = self._between(min(before, plane))
        old, new = (a, b) if before < plane else (b, a)
        old, new = target[old - self._low[before]], thing[new - self._low[plane]]
        (old, new), count = tally([old, new], count)
        if not len(count):
            return
        partner = _assign(
            old,
            new,
            count / (target_area[old] + thing_area[new] - count),
            self._merge_iou,
            len(thing_area),
        )
        covered = (count / thing_area[new]).astype(np.float32)
        # Most covered first; where two cover as much, the first of them.
        order = np.lexsort((old, -covered, new))
        best = order[np.flatnonzero(np.diff(new[order], prepend=-1))]
        best = best[(covered[best] >= self._merge_ioa) & (partner[new[best]] < 0)]
        partner[new[best]] = old[best]
        labels = np.where(partner < 0, thing_label, target_label[partner])
        label[self._low[plane] : self._high[plane]] = labels[thing]

    def _things(self, label: Int, plane: int) -> tuple[Int, Int, Int]:
        """Thing of each component of a plane; label and area of each thing."""
        part = slice(self._low[plane], self._high[plane])
        labels, first, thing = np.unique(label[part], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        thing = rank[thing]
        area = np.bincount(thing, self._area[part]).astype(np.int64)
        return thing, labels[order], area

    def _between(self, plane: int) -> tuple[Int, Int, Int]:
        """Overlaps of the components of `plane` with those of the next one."""
        low, high = np.searchsorted(self._pairs.a, [self._low[plane], self._high[plane]])
        return self._pairs.a[low:high], self._pairs.b[low:high], self._pairs.count[low:high]


def _assign(old: Int, new: Int, iou: npt.NDArray[np.float64], merge_iou: float, count: int) -> Int:
    """Partner among `old` of each of `count` new things, or -1: most IoU in sum, each at least so.

    The Hungarian method falls apart into connected blocks of overlaps, since no overlap is no IoU;
    in a block with one thing on a side the pair of highest IoU is the answer.
    """
    partner = np.full(count, -1)
    many = int(old.max()) + 1
    block = groups(many + count, old, new + many)[old]
    olds = np.bincount(block[np.unique(old, return_index=True)[1]])
    news = np.bincount(block[np.unique(new, return_index=True)[1]])
    order = np.lexsort((new, old, -iou, block))
    begin = np.flatnonzero(np.diff(block[order], prepend=-1))
    end = np.append(begin[1:], len(order))
    here = block[order[begin]]
    simple = (olds[here] == 1) | (news[here] == 1)
    chosen = [order[begin[simple]]]
    for low, high in zip(begin[~simple].tolist(), end[~simple].tolist(), strict=True):
        chosen.append(_hungarian(order[low:high], old, new, iou))
    best = np.concatenate(chosen)
    best = best[iou[best] >= merge_iou]
    partner[new[best]] = old[best]
    return partner


def _hungarian(edges: Int, old: Int, new: Int, iou: npt.NDArray[np.float64]) -> Int:
    """Those of the `edges` of one block that the assignment of highest total IoU uses."""
    rows, columns = old[edges].tolist(), new[edges].tolist()
    row = {name: place for place, name in enumerate(sorted(set(rows)))}
    column = {name: place for place, name in enumerate(sorted(set(columns)))}
    matrix = np.zeros((len(row), len(column)))
    at = [row[name] for name in rows], [column[name] for name in columns]
    matrix[at] = iou[edges]
    taken = np.zeros(matrix.shape, np.bool_)
    taken[linear_sum_assignment(matrix, maximize=True)] = True
    return edges[taken[at]]
