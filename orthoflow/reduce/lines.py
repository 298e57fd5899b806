"""How many voxels of a 2-D component lie on each line in which another plane meets its own.

A component is connected: every row and every column of its box has a voxel of it. So the lines of a
component are the rows and columns of its box, without gaps, and a table holds their counts alone:
axis by axis of the volume, there component by component, there from the first line on. Planes of
orientation o stand across axis o; across its own axis a component has no lines.
"""

from __future__ import annotations

import numpy as np

from orthoflow.reduce.fragments import Int
from orthoflow.reduce.tables import Nodes


def line_extents(nodes: Nodes) -> Int:
    """(3, n) lines of each component across z, y and x."""
    extent = np.ascontiguousarray((nodes.box[:, 3:] - nodes.box[:, :3]).T)
    extent[nodes.orientation, np.arange(len(nodes))] = 0
    return extent


def line_places(nodes: Nodes) -> Int:
    """(3, n) what the number of a plane is added to for the place of its line on a component."""
    extent = line_extents(nodes)
    ends = np.cumsum(extent).reshape(extent.shape)
    return np.asarray(ends - extent - nodes.box[:, :3].T)


def count_lines(row: Int, column: Int, length: Int, *, total: int) -> Int:
    """Voxels on each of `total` lines, from runs of `length` voxels (r,) in rows of components.

    `row` is the place of a run's row among the lines, `column` that of its first column.

    >>> count_lines(np.array([0, 1]), np.array([2, 3]), np.array([2, 1]), total=4).tolist()
    [2, 1, 1, 2]
    """
    rows = np.bincount(row, length, total).astype(np.int64)
    # One more where a run begins, one less behind its end: the sums of these steps are back at 0
    # where the lines of another component begin.
    steps = np.bincount(column, minlength=total + 1)
    steps -= np.bincount(column + length, minlength=total + 1)
    return rows + np.cumsum(steps[:total])


def add_lines(total: Int, places: Int, nodes: Nodes, node: Int, lines: Int) -> None:
    """Add the `lines` of pieces (rows of `nodes`) to those of the components they are part of.

    `node` (n,) numbers each piece's component from 0; `places` are the components'.
    """
    shift = places[:, node] - line_places(nodes)
    extent = line_extents(nodes)
    np.add.at(total, np.repeat(shift.ravel(), extent.ravel()) + np.arange(len(lines)), lines)
