"""Tables of one block: everything about its fragments that other blocks or later steps need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple
from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import (
    FRAMES,
    ORIENTATION_NAMES,
    Fragments,
    Int,
    Runs,
    fragments,
    laid_out,
    meetings,
    runs_of,
    slabs,
)
from orthoflow.reduce.kinds import MOST_CLASSES, Kinds, cells_and_classes, count_kinds
from orthoflow.reduce.lines import count_lines, line_extents, line_places
from orthoflow.reduce.tables import Contacts, Nodes, Overlaps, Pairs, Rows, tally


@dataclass(frozen=True, slots=True)
class Faces(Rows):
    """Runs of fragments on the in-plane sides of a block, in coordinates of the volume.

    `side` is 0 or 1 on the first or last row, 2 or 3 on the first or last column of the block;
    `line` is that row or column, `start` and `stop` the run along it.
    """

    side: Int
    plane: Int
    line: Int
    start: Int
    stop: Int
    fragment: Int


@dataclass(frozen=True, slots=True)
class BlockTables:
    """Tables of the block `box` of a volume of `shape`.

    Fragments are numbered 1..n through all orientations, those of xy first. `ahead` are overlaps
    with the next block along the stack: `b` counts that block's fragments of the same orientation
    from 1. `lines` (see `reduce.lines`) is empty where crossings were not counted.
    """

    shape: Triple
    box: Box
    fragments: Nodes
    label: Int
    overlaps: Overlaps
    ahead: Pairs
    crossings: Pairs
    lines: Int
    contacts: Contacts
    faces: Faces
    kinds: Kinds


def block_tables(
    labels: Mapping[str, npt.NDArray[np.generic]],
    *,
    box: Box | None = None,
    shape: Triple | None = None,
    label_divisor: int | None = None,
    cells: bool = False,
    crossings: bool = True,
) -> BlockTables:
    """Tables of the block `box` of a volume of `shape`; of the whole volume unless they are given.

    Parameters
    ----------
    labels
        Labels (z, y, x) of the block by orientation. Unless the block ends with the volume, each
        array goes one plane further along its own stacking axis (xy: z, xz: y, yz: x).
    box, shape
        Where the block lies, and the shape of the volume.
    label_divisor
        Where given, a label's class is label // label_divisor; else there is one class, 1.
    cells
        Whether labels are the pixels' classes * label_divisor + cells: then components are those of
        cells, and have the class of most of their pixels (`orthoflow.reduce.kinds`).
    crossings
        Whether to count what fragments of two orientations share; the rule "empanada" needs none.

    Raises
    ------
    BadInput
        If the arrays are not labels of one block, or a class is not from 1 to 255.
    """
    given = [(o, labels[name]) for o, name in enumerate(ORIENTATION_NAMES) if name in labels]
    if not given or len(given) < len(labels):
        raise BadInput(f"labels of {sorted(labels)}; name them xy, xz, yz, one at least")
    if shape is None:
        shape = _volume(given[0][1])
    box = Box.whole(shape) if box is None else box
    sides, base, kinds = [], 0, []
    for o, array in given:
        divisor = label_divisor if cells else None
        own, classes = (array, None) if divisor is None else cells_and_classes(array, divisor)
        sides.append(_Side.of(own, o, base, box, shape))
        kinds.append(sides[-1].kinds(classes))
        base += sides[-1].own
    label = np.concatenate([side.found.label[: side.own] for side in sides])
    orientation, plane, first, area, extent = joined([side.nodes() for side in sides])
    overlaps, ahead = zip(*(side.followers() for side in sides), strict=True)
    klass = _classes(label, None if cells else label_divisor)
    nodes = Nodes(orientation, plane, first, area, extent, klass)
    return BlockTables(
        shape,
        box,
        nodes,
        label,
        Overlaps.summed(*joined(overlaps)),
        Pairs.summed(*joined(ahead)),
        Pairs.summed(*joined(_cross(sides if crossings else []))),
        _lines(nodes, sides if crossings else []),
        Contacts.summed(*joined([side.contacts() for side in sides])),
        Faces(*joined([face for side in sides for face in side.faces()])),
        Kinds(*joined(kinds)),
    )


def _volume(array: npt.NDArray[np.generic]) -> Triple:
    if array.ndim != 3:
        raise BadInput(f"labels have {array.ndim} axes; pass arrays with axes z, y, x")
    z, y, x = array.shape
    return (z, y, x)


def _classes(label: Int, divisor: int | None) -> npt.NDArray[np.uint8]:
    if divisor is None:
        return np.ones(len(label), np.uint8)
    klass = label // divisor
    if len(klass) and not 1 <= klass.min() <= klass.max() <= MOST_CLASSES:
        odd = label[(klass < 1) | (klass > MOST_CLASSES)][0]
        raise BadInput(
            f"label {odd} is of class {odd // divisor} with label_divisor {divisor}; classes are "
            f"1 to {MOST_CLASSES}: labels from {divisor + 1} on, or leave out label_divisor"
        )
    return klass.astype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Side:
    """Fragments of a block in one orientation, and where they lie.

    `planes`, `rows`, `columns` are the block's own spans in the volume; `found` may have one plane
    more; `own` fragments lie in the block, numbers in tables start behind `base`.
    """

    orientation: int
    base: int
    found: Fragments
    own: int
    spans: tuple[tuple[int, int], ...]
    size: tuple[int, ...]

    @classmethod
    def of(
        cls, array: npt.NDArray[np.generic], orientation: int, base: int, box: Box, shape: Triple
    ) -> _Side:
        frame = FRAMES[orientation]
        further = int(box.stop[frame.stack] < shape[frame.stack])
        due = tuple(n + (further if axis == frame.stack else 0) for axis, n in enumerate(box.shape))
        if array.shape != due:
            raise BadInput(
                f"labels {ORIENTATION_NAMES[orientation]} have shape {array.shape}, and the block "
                f"{box} of a volume of {shape} needs {due}"
            )
        found = fragments(array, orientation)
        spans = tuple((box.start[axis], box.stop[axis]) for axis in frame)
        stop = (spans[0][1] - spans[0][0]) * found.shape[1] * found.shape[2]
        end = int(np.searchsorted(found.start, stop))
        own = int(found.number[:end].max(initial=0))
        return cls(orientation, base, found, own, spans, tuple(shape[axis] for axis in frame))

    def kinds(self, classes: npt.NDArray[Any] | None) -> tuple[Int, Int, Int]:
        """Columns of `Kinds` from classes (z, y, x) of the pixels, where there are several."""
        if classes is None:
            return (np.zeros(0, np.int64),) * 3
        numbers = np.ascontiguousarray(self.painted())
        z, y, x = numbers.shape
        number, klass, pixels = count_kinds(numbers, np.ascontiguousarray(classes[:z, :y, :x]))
        return number + self.base, klass, pixels

    def inked(self) -> tuple[Runs, Int]:
        """Runs that are not background, and their fragments."""
        inside = np.flatnonzero(self.found.number)
        start = self.found.start[inside]
        return Runs(start, start + self.found.lengths[inside]), self.found.number[inside]

    def nodes(self) -> tuple[npt.NDArray[np.generic], ...]:
        """Columns of `Nodes` but the class, for the block's own fragments."""
        runs, number = self.inked()
        keep = number <= self.own
        start, length = runs.start[keep], (runs.stop - runs.start)[keep]
        at = number[keep] - 1
        _, rows, columns = self.found.shape
        line, column = np.divmod(start, columns)
        plane, row = np.divmod(line, rows)
        first, last = np.empty(self.own, np.int64), np.empty(self.own, np.int64)
        last[at] = np.arange(len(at))
        first[at[::-1]] = np.arange(len(at) - 1, -1, -1)
        left, right = np.full(self.own, columns), np.zeros(self.own, np.int64)
        np.minimum.at(left, at, column)
        np.maximum.at(right, at, column + length)
        area = np.bincount(at, length, self.own).astype(np.int64)
        (p0, _), (r0, _), (c0, _) = self.spans
        box = np.empty((self.own, 6), np.int64)
        lows = (plane[first] + p0, row[first] + r0, left + c0)
        highs = (plane[first] + p0 + 1, row[last] + r0 + 1, right + c0)
        for axis, low, high in zip(FRAMES[self.orientation], lows, highs, strict=True):
            box[:, axis], box[:, axis + 3] = low, high
        pixel = (row[first] + r0) * self.size[2] + column[first] + c0
        orientation = np.full(self.own, self.orientation, np.uint8)
        return orientation, lows[0], pixel, area, box

    def followers(self) -> tuple[list[Int], list[Int]]:
        """Fragments of planes that follow each other, and shared pixels: (a, b, count) twice.

        First inside the block, then of its last plane and the next block's first one.
        """
        runs, number = self.inked()
        size = self.found.shape[1] * self.found.shape[2]
        i, j, count = meetings(Runs(runs.start + size, runs.stop + size), runs)
        (a, b), count = tally([number[i], number[j]], count)
        inner = b <= self.own
        inside = [a[inner] + self.base, b[inner] + self.base, count[inner]]
        return inside, [a[~inner] + self.base, b[~inner] - self.own, count[~inner]]

    def contacts(self) -> tuple[Int, Int, Int]:
        """Fragments of one plane with neighbouring pixels."""
        a, b, count = self.found.touches
        low, high = np.minimum(a, b), np.maximum(a, b)
        own = high <= self.own
        return low[own] + self.base, high[own] + self.base, count[own]

    def faces(self) -> Iterator[tuple[Int, ...]]:
        """Columns of `Faces`, one block side after the other; none at the volume's border."""
        (p0, _), *spans = self.spans
        yield (np.zeros(0, np.int64),) * 6
        for axis in (0, 1):
            (low, high), (along, _) = spans[axis], spans[1 - axis]
            for side, line in ((0, low), (1, high - 1)):
                if line == (0, self.size[axis + 1] - 1)[side]:
                    continue
                cut = self._cut(axis, line - low)
                runs = runs_of(cut)
                number = cut.reshape(-1)[runs.start]
                keep = number > 0
                plane, place = np.divmod(runs.start[keep], cut.shape[1])
                stop = place + (runs.stop - runs.start)[keep]
                same = np.ones_like(plane)
                yield (
                    same * (2 * axis + side),
                    plane + p0,
                    same * line,
                    place + along,
                    stop + along,
                    number[keep] + self.base,
                )

    def on_lines(self, places: Int) -> tuple[Int, Int, Int]:
        """Place of the line of each run's row, of its first column, and its voxels."""
        runs, number = self.inked()
        keep = number <= self.own
        at = number[keep] - 1 + self.base
        _, rows, columns = self.found.shape
        line, column = np.divmod(runs.start[keep], columns)
        _, (r0, _), (c0, _) = self.spans
        frame = FRAMES[self.orientation]
        row_place = places[frame.row, at] + line % rows + r0
        column_place = places[frame.column, at] + column + c0
        return row_place, column_place, (runs.stop - runs.start)[keep]

    def _cut(self, axis: int, line: int) -> Int:
        """Fragments (plane, place) on the row (axis 0) or column (axis 1) `line` of all planes."""
        planes = self.spans[0][1] - self.spans[0][0]
        _, rows, columns = self.found.shape
        row, column = np.divmod(self.found.start, columns)
        number, length = self.found.number, self.found.lengths
        if axis == 0:
            here = (row % rows == line) & (row < planes * rows)
            return np.repeat(number[here], length[here]).reshape(planes, columns)
        here = (column <= line) & (line < column + length) & (row < planes * rows)
        return number[here].reshape(planes, rows)

    def painted(self) -> npt.NDArray[Any]:
        """Fragment numbers (z, y, x) of the block without the further plane."""
        return self.found.volume(planes=self.spans[0][1] - self.spans[0][0])


def _lines(nodes: Nodes, sides: list[_Side]) -> Int:
    """Voxels of the fragments on the lines in which planes of other orientations meet theirs."""
    if not sides:
        return np.zeros(0, np.int64)
    places = line_places(nodes)
    row, column, length = joined([side.on_lines(places) for side in sides])
    return count_lines(row, column, length, total=int(line_extents(nodes).sum()))


def _cross(sides: list[_Side]) -> Iterator[tuple[Int, ...]]:
    """Voxels in fragments of two orientations: columns of `Pairs`, by pair of these and by slab.

    Two planes meet in one line, so that no pair of fragments is in two slabs.
    """
    yield (np.zeros(0, np.int64),) * 3
    volumes = [side.painted() for side in sides] if len(sides) > 1 else []
    for (p, volume_p), (q, volume_q) in combinations(zip(sides, volumes, strict=False), 2):
        frame, other = FRAMES[p.orientation], FRAMES[q.orientation].stack
        order = frame.stack, other, 3 - frame.stack - other
        depth, *plane = (volume_p.shape[axis] for axis in order)
        for part in slabs(depth, plane[0] * plane[1]):
            along = [laid_out(volume[frame.slab(part)], order) for volume in (volume_p, volume_q)]
            runs = runs_of(*along)
            a, b = (array.reshape(-1)[runs.start].astype(np.int64) for array in along)
            both = (a > 0) & (b > 0)
            (a, b), count = tally([a[both], b[both]], (runs.stop - runs.start)[both])
            yield a + p.base, b + q.base, count
