"""The order in which parts are made, and what is left of one: boxes, halved again and again.

Cells that are close in this order are close in space, so that drivers and caches meet the same
chunks; and any stretch of it is found without walking what lies before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orthoflow.geometry.box import Box, Triple

if TYPE_CHECKING:
    from collections.abc import Container, Iterator


def halves(box: Box) -> tuple[Box, Box]:
    """The two halves along the longest axis, the first of equals; the first half is the larger.

    >>> [str(half) for half in halves(Box((0, 0, 0), (2, 5, 5)))]
    ['0:2,0:3,0:5', '0:2,3:5,0:5']
    """
    axis = max(range(3), key=lambda a: (box.shape[a], -a))
    cut = box.start[axis] + (box.shape[axis] + 1) // 2
    stop, start = list(box.stop), list(box.start)
    stop[axis] = start[axis] = cut
    return (
        Box(box.start, (stop[0], stop[1], stop[2])),
        Box((start[0], start[1], start[2]), box.stop),
    )


def ordered_boxes(grid: Triple, first: int = 0, end: int | None = None) -> Iterator[Box]:
    """Few boxes that cells `first` to `end` of the order make up, in order.

    >>> [str(box) for box in ordered_boxes((1, 2, 3), 2, 6)]
    ['0:1,1:2,0:2', '0:1,0:2,2:3']
    """
    waiting = [(0, Box.whole(grid))]
    while waiting:
        rank, box = waiting.pop()
        after = rank + box.voxels
        if after <= first or (end is not None and rank >= end):
            continue
        if first <= rank and (end is None or after <= end):
            yield box
            continue
        near, far = halves(box)
        waiting += [(rank + near.voxels, far), (rank, near)]


def ordered_cells(grid: Triple, first: int = 0, end: int | None = None) -> Iterator[Triple]:
    """Cells `first` to `end` of the order, one at a time.

    >>> list(ordered_cells((1, 2, 3)))
    [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 2), (0, 1, 2)]
    """
    for whole in ordered_boxes(grid, first, end):
        waiting = [whole]
        while waiting:
            box = waiting.pop()
            if box.voxels == 1:
                yield box.start
            else:
                near, far = halves(box)
                waiting += [far, near]


def undone_boxes(cells: Box, done: Container[Triple]) -> Iterator[Box]:
    """Few boxes that hold the cells which are not in `done`, and no others, in order."""
    flags = {number: number in done for number in _cells(cells)}
    waiting = [cells]
    while waiting:
        box = waiting.pop()
        count = sum(flags[number] for number in _cells(box))
        if count == 0:
            yield box
        elif count < box.voxels:
            near, far = halves(box)
            waiting += [far, near]


def _cells(box: Box) -> Iterator[Triple]:
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    for z in range(z0, z1):
        for y in range(y0, y1):
            for x in range(x0, x1):
                yield (z, y, x)
