"""One instance per voxel from the objects of three stacks, decided on triples of objects.

The rule is empanada's ortho-plane consensus (reference: empanada-napari 1.2.4): objects that
overlap form clusters, and a voxel belongs to the cluster that enough of its objects are in. It
needs nothing but the number of voxels of every triple of objects.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

from orthoflow.reduce.columns import joined
from orthoflow.reduce.fragments import Int, groups
from orthoflow.reduce.matching import Objects, large
from orthoflow.reduce.tables import Rows, tally
from orthoflow.reduce.triples import Triples

# What the peer calls more than a trivial overlap: of two instances in one cluster graph.
_SMALL_IOU, _SMALL_OVERLAP = 1e-2, 100


@dataclass(frozen=True, slots=True)
class Claims(Rows):
    """Instances that want the voxels of a triple: one row for each such pair.

    Where several do, the one of the highest number gets them.
    """

    row: Int
    instance: Int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule makes of triples: instances 1..n, and which triples each one claims.

    Attributes
    ----------
    claims
        Rows of the triples (from 0) and instances.
    klass
        (n,) class of each instance.
    box
        (n, 6) box by which an instance's extent is measured, or None: that of its voxels.
    """

    claims: Claims
    klass: npt.NDArray[np.uint8]
    box: Int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Label of every triple, and the instances: label i + 1 in row i."""

    label: Int
    instances: Objects


def settle(triples: Triples, decision: Decision, *, min_size: int, min_extent: int) -> Verdict:
    """Final labels 1..n of triples: instances that are large enough, class by class.

    Within a class they are in the rule's own order. An instance counts all voxels that it claims.
    Where two claim the same voxels the later one has them; a label without voxels of its own is not
    given.
    """
    claims, count = decision.claims, len(decision.klass)
    size = np.zeros(count + 1, np.int64)
    np.add.at(size, claims.instance, triples.count[claims.row])
    box = boxes_around(claims.instance, triples.box[claims.row], count)
    extent = box if decision.box is None else decision.box
    keep = np.zeros(count + 1, np.bool_)
    keep[1:] = large(size[1:], extent, min_size=min_size, min_extent=min_extent)
    kept = claims.take(keep[claims.instance])
    label = np.zeros(len(triples), np.int64)
    np.maximum.at(label, kept.row, kept.instance)
    given = np.unique(np.append(0, label))
    given[1:] = given[1:][np.argsort(decision.klass[given[1:] - 1], kind="stable")]
    rank = np.zeros(count + 1, np.int64)
    rank[given] = np.arange(len(given))
    label = rank[label]
    of = np.flatnonzero(label)
    size = np.zeros(len(given), np.int64)
    np.add.at(size, label[of], triples.count[of])
    box = boxes_around(label[of], triples.box[of], len(given) - 1)
    return Verdict(label, Objects(decision.klass[given[1:] - 1], size[1:], box))


def boxes_around(number: Int, box: Int, count: int) -> Int:
    """Box around all boxes of each number 1..count."""
    low = np.full((count + 1, 3), np.iinfo(np.int64).max)
    high = np.zeros((count + 1, 3), np.int64)
    np.minimum.at(low, number, box[:, :3])
    np.maximum.at(high, number, box[:, 3:])
    return np.concatenate([low, high], axis=1)[1:]


def decide_by_number(triples: Triples, klass: npt.NDArray[np.uint8], *, votes: int) -> Decision:
    """Instances that are objects: a triple's voxels go to the number that `votes` of it name.

    `klass` (n,) has the class of each number; with fewer votes than a majority several numbers may
    claim a triple. This is what one orientation alone needs.
    """
    row, column = np.nonzero(triples.objects)
    (row, number), named = tally([row, triples.objects[row, column]], np.ones_like(row))
    enough = named >= votes
    return Decision(Claims(row[enough], number[enough]), klass)


def decide_by_clusters(
    triples: Triples,
    objects: Objects,
    *,
    votes: int = 2,
    cluster_iou: float = 0.75,
    allow_one_view: bool = False,
    views: int = 3,
) -> Decision:
    """Instances as empanada's consensus finds them; objects of two classes never meet.

    Parameters
    ----------
    triples
        Triples of the objects that `match_stacks` numbered.
    objects
        These objects.
    votes
        Objects of an instance that a voxel must lie in.
    cluster_iou
        Objects of higher IoU are one cluster. Where `votes` is below the smallest cluster that
        counts (2 objects, or 1 with `allow_one_view`), it is 0: all that overlaps is one.
    allow_one_view
        Whether objects found in one orientation only may be instances.
    views
        Number of orientations.
    """
    least = 1 if allow_one_view else views // 2 + 1
    limit = 0.0 if votes < least else cluster_iou
    cluster, node = _clusters(triples, objects, limit, least)
    # Which clusters the objects are in; most are in one.
    order = np.lexsort((cluster, node))
    cluster, node = cluster[order], node[order]
    low, high = (np.searchsorted(node, triples.objects, side) for side in ("left", "right"))
    many = (high - low).ravel()
    row = np.repeat(np.arange(len(triples)).repeat(3), many)
    ahead = np.repeat(low.ravel() - (np.cumsum(many) - many), many)
    named = cluster[np.arange(len(row)) + ahead]
    (row, named), backing = tally([row, named], np.ones_like(row))
    enough = backing >= votes
    row, named = row[enough], named[enough]
    kind = np.zeros(int(cluster.max(initial=0)) + 1, np.uint8)
    kind[cluster] = objects.klass[node - 1]
    instance = _united(row, named, triples.count, kind)
    claimed, place = np.unique(instance[named], return_inverse=True)
    (row, number), _ = tally([row, place + 1], np.ones_like(row))
    # The peer measures an instance by the boxes of its objects, voted for or not.
    alive = np.zeros(len(instance), np.bool_)
    alive[named] = True
    node, cluster = node[alive[cluster]], cluster[alive[cluster]]
    rank = np.searchsorted(claimed, instance[cluster]) + 1
    box = boxes_around(rank, objects.box[node - 1], len(claimed))
    klass = np.zeros(len(claimed), np.uint8)
    klass[rank - 1] = objects.klass[node - 1]
    return Decision(Claims(row, number), klass, box)


def _united(row: Int, cluster: Int, count: Int, kind: npt.NDArray[np.uint8]) -> Int:
    """Instance (from 0) of each cluster: those of a class that share more than trifles are united.

    Cluster `cluster[i]`, of class `kind[cluster[i]]`, has the voxels of triple `row[i]`, sorted;
    `count` are voxels of triples.
    """
    size = np.zeros(len(kind), np.int64)
    np.add.at(size, cluster, count[row])
    # Pairs of claims on one triple: each with those behind it.
    behind = np.searchsorted(row, row, "right") - np.arange(len(row)) - 1
    first = np.repeat(np.arange(len(row)), behind)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(behind) - behind, behind)
    (a, b), shared = tally([cluster[first], cluster[second]], count[row[first]])
    much = (shared / (size[a] + size[b] - shared) > _SMALL_IOU) | (shared > _SMALL_OVERLAP)
    much &= kind[a] == kind[b]
    return groups(len(kind), a[much], b[much])


def _clusters(triples: Triples, objects: Objects, limit: float, least: int) -> tuple[Int, Int]:
    """Clusters of at least `least` objects: (cluster from 0, object from 1), sorted.

    They are numbered in the order in which the peer meets them.
    """
    a, b, shared = _overlaps(triples, objects)
    size = np.zeros(len(objects) + 1, np.int64)
    for column in triples.objects.T:
        np.add.at(size, column, triples.count)
    iou = shared / (size[a] + size[b] - shared)
    a, b = a - 1, b - 1
    high = iou > limit
    cluster = groups(len(objects), a[high], b[high])
    rank = _ranks(objects.klass, a, b)
    # Number clusters by the first of their objects in that order.
    first = np.full(int(cluster.max(initial=-1)) + 1, len(rank))
    np.minimum.at(first, cluster, rank)
    cluster = np.argsort(np.argsort(first))[cluster]
    members: list[set[int]] = [set() for _ in first]
    for node, place in enumerate(cluster.tolist(), 1):
        members[place].add(node)
    _absorb(members, *_cluster_edges(cluster, a, b, iou, shared))
    left = [nodes for nodes in members if len(nodes) >= least]
    found = [(place, node) for place, nodes in enumerate(left) for node in sorted(nodes)]
    rows = np.array(found, np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _ranks(klass: npt.NDArray[np.uint8], a: Int, b: Int) -> Int:
    """Place of each object in the order in which the peer takes them.

    Overlap components follow each other by their first object. Inside one the peer goes by a
    Python set of numbers (of this class, from 0), unless that is half of all: it is the order of
    a hash table, and ties between clusters depend on it.
    """
    count = len(klass)
    component = groups(count, a, b)
    links = coo_array((np.ones(2 * len(a)), (np.append(a, b), np.append(b, a))), (count, count))
    near = links.tocsr()
    near.sort_indices()
    nodes = np.argsort(component, kind="stable")
    ends = np.cumsum(np.bincount(component))
    first, total = np.searchsorted(klass, klass), np.bincount(klass)
    for low, high in itertools.pairwise([0, *ends.tolist()]):
        some = nodes[low:high]
        base = int(first[some[0]])
        if high - low > 2 and 2 * (high - low) < total[klass[some[0]]]:
            met = _reached(int(some[0]), near, base)
            nodes[low:high] = [base + k for k in set(iter(met))]
    rank = np.empty(count, np.int64)
    rank[nodes] = np.arange(count)
    return rank


def _reached(start: int, near: csr_array, base: int) -> set[int]:
    """What is linked with `start`, less `base`, in a set that was filled breadth first."""
    seen = {start - base}
    level = [start]
    while level:
        further = []
        for node in level:
            for other in near.indices[near.indptr[node] : near.indptr[node + 1]].tolist():
                if other - base not in seen:
                    seen.add(other - base)
                    further.append(other)
        level = further
    return seen


def _overlaps(triples: Triples, objects: Objects) -> tuple[Int, Int, Int]:
    """Pairs a < b of objects of one class in two orientations, and their voxels in common."""
    klass = np.concatenate([np.zeros(1, np.uint8), objects.klass])
    parts = []
    for p, q in itertools.combinations(triples.objects.T, 2):
        both = (p > 0) & (q > 0) & (klass[p] == klass[q])
        parts.append((p[both], q[both], triples.count[both]))
    a, b, count = joined(parts)
    (a, b), count = tally([np.minimum(a, b), np.maximum(a, b)], count)
    return a, b, count


def _cluster_edges(
    cluster: Int, a: Int, b: Int, iou: npt.NDArray[np.float64], shared: Int
) -> tuple[Int, Int]:
    """Pairs of clusters whose objects overlap on average, of all pairs of an object of each."""
    ends = np.sort([cluster[a], cluster[b]], axis=0)
    order = np.lexsort((b, a, *ends[::-1]))
    order = order[ends[0][order] != ends[1][order]]
    one, two = ends[:, order]
    begin = np.flatnonzero((np.diff(one, prepend=-1) != 0) | (np.diff(two, prepend=-1) != 0))
    if not len(begin):
        return one, two
    size = np.bincount(cluster)
    one, two = one[begin], two[begin]
    pairs = size[one] * size[two]
    mean_iou = np.add.reduceat(iou[order], begin) / pairs
    mean_shared = np.add.reduceat(shared[order], begin) / pairs
    linked = (mean_iou > _SMALL_IOU) | (mean_shared > _SMALL_OVERLAP)
    return one[linked], two[linked]


def _absorb(members: list[set[int]], a: Int, b: Int) -> None:
    """Settle neighbouring clusters until none are left; a cluster that is gone has no members.

    The cluster with most neighbours is next, the first of several: where one of its neighbours has
    more members, it is divided up, all of it to every neighbour; else it swallows them all.
    """
    near: dict[int, set[int]] = {}
    for one, two in zip(a.tolist(), b.tolist(), strict=True):
        near.setdefault(one, set()).add(two)
        near.setdefault(two, set()).add(one)
    waiting = [(-len(others), k) for k, others in near.items()]
    heapq.heapify(waiting)
    while waiting:
        degree, hub = heapq.heappop(waiting)
        others = near[hub]
        if len(others) == -degree:
            near[hub] = set()
            most = max(len(members[k]) for k in others)
            (_divide if most > len(members[hub]) else _swallow)(members, near, hub, others)
        elif others:
            heapq.heappush(waiting, (-len(others), hub))


def _divide(members: list[set[int]], near: dict[int, set[int]], hub: int, others: set[int]) -> None:
    for k in others:
        members[k] |= members[hub]
        near[k].discard(hub)
    members[hub] = set()


def _swallow(
    members: list[set[int]], near: dict[int, set[int]], hub: int, others: set[int]
) -> None:
    for k in others:
        members[hub] |= members[k]
        members[k] = set()
        for further in near[k]:
            near[further].discard(k)
        near[k] = set()
