"""Instances from per-plane labels, stage by stage; here in memory, elsewhere block by block.

Three passes visit the voxels of a block alone; between them a process works on tables::

    planes   block_tables          -> merge           -> objects (a rule)
    triples  block_objects+triples -> merged, settle
    labels   block_objects+apply   -> labels of the block

The answer is the same, byte by byte, for every way to cut the volume into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple, split
from orthoflow.reduce.agglomerate import agglomerate, decide
from orthoflow.reduce.blocktables import block_tables
from orthoflow.reduce.consensus import (
    Claims,
    Decision,
    Verdict,
    decide_by_clusters,
    decide_by_number,
    settle,
)
from orthoflow.reduce.fragments import FRAMES, ORIENTATION_NAMES, Int, fragments
from orthoflow.reduce.kinds import cells_and_classes
from orthoflow.reduce.matching import Objects, match_stacks, objects_of
from orthoflow.reduce.merging import Merged, merge
from orthoflow.reduce.planewise import DIVISOR, numbered_in_planes
from orthoflow.reduce.stitching import stitch
from orthoflow.reduce.tables import Tables
from orthoflow.reduce.triples import Triples, apply, merged, triples

Instances = Literal["components", "empanada", "stitch", "planes"]
Labels = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Rule:
    """How instances are found.

    Attributes
    ----------
    instances
        "components": 2-D components of all orientations joined at once; "empanada": stacks matched
        plane by plane, then a consensus between them; "stitch": the planes of one orientation, as
        Cellpose stitches them; "planes": those of one orientation, each by itself.
    votes
        Orientations that must agree on a voxel.
    min_size, min_extent
        Smallest instance: voxels, and voxels along every side of its box; for "empanada" also
        of the objects of a stack.
    allow_one_view, merge_iou, merge_ioa, cluster_iou
        For "empanada": see `decide_by_clusters` and `match_stacks`.
    stitch_threshold
        For "stitch": see `orthoflow.reduce.stitching.stitch`.
    label_divisor, by_class
        Whether labels are class * label_divisor + 1, 2, ... instead of 1..n. For "planes": see
        `orthoflow.reduce.planewise.numbered_in_planes`.
    fill_holes
        Whether instances get the holes that they alone enclose (`orthoflow.reduce.holes`).
    """

    instances: Instances = "components"
    votes: int = 2
    min_size: int = 0
    min_extent: int = 0
    allow_one_view: bool = False
    merge_iou: float = 0.25
    merge_ioa: float = 0.25
    cluster_iou: float = 0.75
    stitch_threshold: float = 0.25
    label_divisor: int = DIVISOR
    by_class: bool = False
    fill_holes: bool = False

    def __post_init__(self) -> None:
        if self.instances not in get_args(Instances):
            raise BadInput(
                f"instances {self.instances!r}; use one of {', '.join(get_args(Instances))}"
            )
        if not 1 <= self.votes <= len(ORIENTATION_NAMES):
            raise BadInput(f"votes {self.votes} out of three orientations; use 1, 2 or 3")

    def crossings(self, *, views: int) -> bool:
        """Whether objects depend on what nodes of two orientations, of `views`, have in common."""
        return self.instances == "components" and views > 1

    def objects(self, tables: Tables) -> tuple[Int, Objects]:
        """Object of each node, 0 where it is dropped, and the objects.

        Higher numbers than there are objects say foreground, and no more ("components").
        """
        if self.instances == "components":
            clusters = agglomerate(tables)
            named = np.where(clusters.number <= clusters.named, clusters.number, 0)
            return clusters.number, objects_of(tables.nodes, named)
        if self.instances == "stitch":
            return stitch(tables, self.stitch_threshold)
        if self.instances == "planes":
            number = np.arange(1, len(tables.nodes) + 1)
            return number, objects_of(tables.nodes, number)
        return match_stacks(
            tables,
            merge_iou=self.merge_iou,
            merge_ioa=self.merge_ioa,
            min_size=self.min_size,
            min_extent=self.min_extent,
        )

    def verdict(self, table: Triples, objects: Objects, *, views: int) -> Verdict:
        """Label of each triple, from as many orientations as there are `views`."""
        votes = min(self.votes, views)
        if self.instances == "components":
            instance = decide(table, votes=votes, named=len(objects))
            row = np.flatnonzero(instance)
            decision = Decision(Claims(row, instance[row]), objects.klass)
        elif views == 1:
            decision = decide_by_number(table, objects.klass, votes=votes)
        else:
            decision = decide_by_clusters(
                table,
                objects,
                votes=votes,
                cluster_iou=self.cluster_iou,
                allow_one_view=self.allow_one_view,
                views=views,
            )
        verdict = settle(table, decision, min_size=self.min_size, min_extent=self.min_extent)
        if self.instances == "planes":
            return numbered_in_planes(table, verdict, self.label_divisor)
        return verdict


@dataclass(frozen=True, slots=True)
class Consensus:
    """Labels (z, y, x), the instances that they name, and each orientation's own objects."""

    labels: npt.NDArray[np.unsignedinteger]
    instances: Objects
    stacks: dict[str, npt.NDArray[np.unsignedinteger]]


def block_objects(
    labels: Labels, lookups: Mapping[str, npt.NDArray[np.integer]], divisor: int | None = None
) -> list[npt.NDArray[np.integer]]:
    """Objects (z, y, x) of xy, xz and yz in a block; 0 where an orientation is missing.

    `labels` are those of the block alone, without further planes; a lookup has the object of each
    fragment of the block, from fragment 0 (none) on. With a `divisor` labels are class * divisor +
    cell, and fragments those of cells.
    """
    some = next(iter(labels.values()))
    found = []
    for orientation, name in enumerate(ORIENTATION_NAMES):
        if name in labels:
            # A byte less per voxel is a byte less to fetch, for whoever looks at the voxels.
            inks = lookups[name].astype(np.min_scalar_type(int(lookups[name].max(initial=0))))
            own = labels[name] if divisor is None else cells_and_classes(labels[name], divisor)[0]
            found.append(fragments(own, orientation).volume(inks))
        else:
            found.append(np.zeros(some.shape, np.uint8))
    return found


def object_lookups(joined: Merged, number: Int, block: int) -> dict[str, npt.NDArray[np.integer]]:
    """Object of each fragment of a block by orientation, from the object of each node."""
    known = np.concatenate([np.zeros(1, np.int64), number])
    return {
        name: known[joined.nodes_of(block, orientation)]
        for orientation, name in enumerate(ORIENTATION_NAMES)
    }


def id_dtype(number: npt.NDArray[np.integer]) -> type[np.unsignedinteger[Any]]:
    """Narrower type of 32 and 64 bits that holds all of `number`."""
    return np.uint32 if number.max(initial=0) <= np.iinfo(np.uint32).max else np.uint64


def consensus_of(
    labels: Labels,
    rule: Rule,
    *,
    block: Triple | None = None,
    label_divisor: int | None = None,
    cells: bool = False,
) -> Consensus:
    """Consensus of whole arrays in memory, worked out in blocks of `block` voxels where given.

    Parameters
    ----------
    labels
        Per-plane labels (z, y, x) by orientation, ids unique within a plane, 0 = background.
    rule
        How instances are found.
    block
        Voxels of a block along z, y, x; it does not show in the answer.
    label_divisor
        Where given, a label's class is label // label_divisor; else there is one class.
    cells
        Whether that is the class of a pixel, and label % label_divisor its cell, whatever class its
        other pixels have; a component of a cell has the class of most of its pixels.

    Raises
    ------
    BadInput
        If the labels do not fit.
    """
    shape = _shape(labels)
    boxes = list(split(Box.whole(shape), block or shape))
    joined = merge(
        [
            block_tables(
                _cut(labels, box, 1),
                box=box,
                shape=shape,
                label_divisor=label_divisor,
                cells=cells,
                crossings=rule.crossings(views=len(labels)),
            )
            for box in boxes
        ]
    )
    number, objects = rule.objects(joined.tables)
    divisor = label_divisor if cells else None
    volumes = [
        block_objects(_cut(labels, box, 0), object_lookups(joined, number, index), divisor)
        for index, box in enumerate(boxes)
    ]
    table = merged(triples(v, box.start) for v, box in zip(volumes, boxes, strict=True))
    verdict = rule.verdict(table, objects, views=len(labels))
    inks = verdict.label.astype(id_dtype(verdict.label))
    answer: npt.NDArray[Any] = np.empty(shape, inks.dtype)
    stacks = {name: np.empty(shape, id_dtype(number)) for name in labels}
    for volume, box in zip(volumes, boxes, strict=True):
        answer[box.slices] = apply(volume, table, inks)
        for name, own in zip(ORIENTATION_NAMES, volume, strict=True):
            if name in stacks:
                stacks[name][box.slices] = np.where(own <= len(objects), own, 0)
    return Consensus(answer, verdict.instances, stacks)


def consensus_labels(
    labels: Labels,
    *,
    block: Triple | None = None,
    label_divisor: int | None = None,
    **rule: Any,
) -> npt.NDArray[np.unsignedinteger]:
    """Instance labels 1..n (z, y, x), uint32 while they fit; see `consensus_of` and `Rule`.

    >>> plane = np.zeros((2, 4, 4), np.uint8)
    >>> plane[:, 1:3, 1:3] = 7
    >>> views = {"xy": plane, "xz": plane, "yz": plane}
    >>> consensus_labels(views, instances="empanada", block=(1, 3, 4)).sum()
    np.uint64(8)
    """
    return consensus_of(labels, Rule(**rule), block=block, label_divisor=label_divisor).labels


def _shape(labels: Labels) -> Triple:
    shapes = {name: array.shape for name, array in labels.items()}
    if not shapes or len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 3:
        raise BadInput(f"labels have shapes {shapes}; pass arrays z, y, x of one shape")
    z, y, x = next(iter(shapes.values()))
    return (z, y, x)


def _cut(labels: Labels, box: Box, further: int) -> dict[str, npt.NDArray[np.generic]]:
    """The block, each orientation with `further` planes behind it where there are any."""
    parts = {}
    for frame, name in zip(FRAMES, ORIENTATION_NAMES, strict=True):
        if name in labels:
            stop = list(box.stop)
            stop[frame.stack] += further
            parts[name] = labels[name][
                tuple(slice(a, b) for a, b in zip(box.start, stop, strict=True))
            ]
    return parts
