"""Objects of one stack of planes: what overlaps best from plane to plane, as Cellpose stitches."""

from __future__ import annotations

import numpy as np

from orthoflow.reduce.fragments import Int, groups
from orthoflow.reduce.matching import Objects, objects_of
from orthoflow.reduce.tables import Tables


def stitch(tables: Tables, threshold: float) -> tuple[Int, Objects]:
    """Object 1..n of each node of one orientation, and the objects.

    A node of plane k goes on in the node of plane k + 1 with which its IoU is largest, if it is at
    least `threshold`; of several that would go on in one node the one with the largest IoU does, of
    equals the first. (Cellpose's `stitch3D`; here the nodes are components of a plane.) Objects are
    numbered by their first nodes.
    """
    overlaps, area = tables.overlaps, tables.nodes.area
    a, b = overlaps.a - 1, overlaps.b - 1
    iou = overlaps.count / (area[a] + area[b] - overlaps.count)
    near = iou >= threshold
    a, b, iou = a[near], b[near], iou[near]
    best = np.zeros(len(area))
    np.maximum.at(best, a, iou)
    first = iou == best[a]
    a, b, iou = a[first], b[first], iou[first]
    # The last to be written stays: the largest, and of equals the first.
    order = np.lexsort((-a, iou))
    before = np.full(len(area), -1)
    before[b[order]] = a[order]
    joined = before >= 0
    number = groups(len(area), before[joined], np.flatnonzero(joined)) + 1
    return number, objects_of(tables.nodes, number)
