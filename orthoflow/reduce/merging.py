"""Tables of blocks to tables of the volume: fragments become nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Triple
from orthoflow.reduce.blocktables import BlockTables, Faces
from orthoflow.reduce.columns import joined, sort_order
from orthoflow.reduce.fragments import FRAMES, Int, Runs, groups, meetings
from orthoflow.reduce.kinds import settle_kinds
from orthoflow.reduce.lines import add_lines, line_extents, line_places
from orthoflow.reduce.tables import Contacts, Crossings, Nodes, Overlaps, Tables, key_sums


@dataclass(frozen=True, slots=True)
class Merged:
    """Tables of the volume, and the node of every fragment.

    Attributes
    ----------
    tables
        Tables of nodes.
    node
        Node of each fragment, those of all blocks in order.
    bounds
        (blocks, 4): where a block's fragments of xy, xz and yz begin in `node`, and where they end.
    """

    tables: Tables
    node: Int
    bounds: Int

    def nodes_of(self, block: int, orientation: int) -> Int:
        """Node of fragment 0 (none), 1, 2, ... of a block in one orientation."""
        low, high = self.bounds[block, orientation : orientation + 2]
        return np.concatenate([np.zeros(1, np.int64), self.node[low:high]])


def merge(blocks: Sequence[BlockTables]) -> Merged:
    """Merge the tables of all blocks of a volume; the answer does not depend on the blocks.

    `blocks` is read twice from front to back and may take its items from a store, so that beside
    the tables that come out there is only one in memory at a time.

    Raises
    ------
    ValueError
        If the blocks do not fill a volume.
    """
    shape = blocks[0].shape
    fragments, label, faces, bounds, starts = _collect(blocks)
    a, b, shared = _across(faces, fragments.orientation, shape)
    alike = label[a] == label[b]
    node, nodes = _join(fragments, groups(len(label), a[alike], b[alike]))
    overlaps, contacts, crossings, kinds = (key_sums(2) for _ in range(4))
    lines, places = np.zeros(int(line_extents(nodes).sum()), np.int64), line_places(nodes)
    sides = ~alike & (shared > 0)
    contacts.add([*np.sort([node[a[sides]], node[b[sides]]], axis=0), shared[sides]])
    for index, block in enumerate(blocks):
        here = np.concatenate([np.zeros(1, np.int64), node[bounds[index, 0] : bounds[index, 3]]])
        near, kind = block.contacts, block.kinds
        kinds.add([here[kind.fragment], kind.klass, kind.count])
        contacts.add([*np.sort([here[near.a], here[near.b]], axis=0), near.count])
        for table, total in ((block.overlaps, overlaps), (block.crossings, crossings)):
            total.add([here[table.a], here[table.b], table.count])
        for orientation, frame in enumerate(FRAMES):
            of = block.fragments.orientation[block.ahead.a - 1] == orientation
            if of.any():
                ahead = block.ahead.take(of)
                start = list(block.box.start)
                start[frame.stack] = block.box.stop[frame.stack]
                behind = starts[tuple(start)]
                there = node[bounds[behind, orientation] + ahead.b - 1]
                overlaps.add([here[ahead.a], there, ahead.count])
        if len(block.lines):
            add_lines(lines, places, block.fragments, here[1:] - 1, block.lines)
    own, klass, count = kinds.total()
    if len(own):
        nodes = replace(nodes, klass=settle_kinds(own, klass, count, len(nodes)))
    tables = Tables(
        shape,
        nodes,
        Overlaps(*overlaps.total()),
        _crossings(nodes, places, lines, *crossings.total()),
        Contacts(*contacts.total()),
    )
    return Merged(tables, node, bounds)


def _collect(
    blocks: Sequence[BlockTables],
) -> tuple[Nodes, Int, Faces, Int, dict[tuple[int, ...], int]]:
    """Fragments, labels and faces of all blocks, where each one's begin, and blocks by start."""
    nodes, label, faces, starts = [], [], [], {}
    bounds = np.zeros((len(blocks), 4), np.int64)
    base = voxels = 0
    for index, block in enumerate(blocks):
        count = np.bincount(block.fragments.orientation, minlength=3)
        bounds[index] = base + np.cumsum([0, *count])
        nodes.append(tuple(block.fragments.columns().values()))
        label.append(block.label)
        columns = block.faces.columns()
        faces.append((*list(columns.values())[:-1], block.faces.fragment + base - 1))
        starts[tuple(block.box.start)] = index
        base += len(block.label)
        voxels += block.box.voxels
    shape = blocks[0].shape
    if voxels != shape[0] * shape[1] * shape[2] or len(starts) != len(blocks):
        raise ValueError(f"{len(blocks)} blocks of {voxels} voxels do not fill a volume of {shape}")
    return Nodes(*joined(nodes)), np.concatenate(label), Faces(*joined(faces)), bounds, starts


def _across(
    faces: Faces, orientation: npt.NDArray[np.uint8], shape: Triple
) -> tuple[Int, Int, Int]:
    """Fragments on both sides of the faces between blocks that are neighbours, and pixel pairs.

    Corners count as neighbours with no pair; they may belong to blocks that share only an edge.
    """
    found = [(np.zeros(0, np.int64),) * 3]
    for o, frame in enumerate(FRAMES):
        mine = orientation[faces.fragment] == o
        for axis in (0, 1):
            lines, length = shape[frame[1 + axis]], shape[frame[2 - axis]]
            sides = []
            for side in (1, 0):  # the end of one block, then the beginning of the next
                face = faces.take(mine & (faces.side == 2 * axis + side))
                row = face.plane * lines + face.line + side
                begin = row * (length + 2) + face.start
                order = np.argsort(begin)
                stop = begin + face.stop - face.start
                sides.append((begin[order], stop[order], face.fragment[order]))
            (start_a, stop_a, a), (start_b, stop_b, b) = sides
            i, j, _ = meetings(Runs(start_a - 1, stop_a + 1), Runs(start_b, stop_b))
            shared = np.minimum(stop_a[i], stop_b[j]) - np.maximum(start_a[i], start_b[j])
            found.append((a[i], b[j], shared))
    a, b, shared = joined(found)
    return a, b, shared


def _join(fragments: Nodes, group: Int) -> tuple[Int, Nodes]:
    """Node of each fragment, and the nodes that groups of fragments make."""
    order = np.argsort(group, kind="stable")
    begin = np.flatnonzero(np.diff(group[order], prepend=-1))
    some = fragments.take(order[begin])
    first, area, box = fragments.first[order], fragments.area[order], fragments.box[order]
    if not len(begin):
        return group, some
    first = np.minimum.reduceat(first, begin)
    low, high = np.minimum.reduceat(box[:, :3], begin), np.maximum.reduceat(box[:, 3:], begin)
    rank = sort_order([some.orientation.astype(np.int64), some.plane, first])
    nodes = Nodes(
        some.orientation,
        some.plane,
        first,
        np.add.reduceat(area, begin),
        np.concatenate([low, high], axis=1),
        some.klass,
    ).take(rank)
    number = np.empty(len(rank), np.int64)
    number[rank] = np.arange(1, len(rank) + 1)
    return number[group], nodes


def _crossings(nodes: Nodes, places: Int, lines: Int, a: Int, b: Int, count: Int) -> Crossings:
    """Crossings from voxels in both nodes, and voxels of each node on its lines."""

    def on(node: Int, other: Int) -> Int:
        orientation, plane = nodes.orientation[other - 1], nodes.plane[other - 1]
        counts: Int = lines[places[orientation, node - 1] + plane]
        return counts

    return Crossings(a, b, count, on(a, b), on(b, a))
