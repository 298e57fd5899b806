"""Instances on voxels, slow and by the book: what the tables must reproduce.

Written from a description of empanada's stack matching and consensus (empanada-napari 1.2.4),
with sets of voxels for objects and networkx for graphs, whose order settles ties there.
"""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

AXES = {"xy": 0, "xz": 1, "yz": 2}


class Tie(Exception):  # noqa: N818
    """Two assignments are equally good, and the peer's choice is an accident."""


def components(plane):
    """Sets of (row, column) in raster order of their first pixel: 8 neighbours, equal label."""
    found = []
    for label in np.unique(plane[plane > 0]):
        pieces, count = ndimage.label(plane == label, np.ones((3, 3)))
        found += [set(zip(*np.nonzero(pieces == k), strict=True)) for k in range(1, count + 1)]
    return sorted(found, key=min)


def node_planes(labels, name):
    """Components of each plane of an array (z, y, x)."""
    return [components(plane) for plane in np.moveaxis(labels, AXES[name], 0)]


def iou(a, b):
    return len(a & b) / len(a | b)


def follow(targets, things, keep, limit=0.25):
    """Things {label: pixels} of a plane with the labels of `targets`; `keep(label)` of the rest."""
    names, own = list(targets), list(things)
    matrix = np.array([[iou(targets[t], things[o]) for o in own] for t in names])
    matched = {}
    if names and own:
        refuse_ties(matrix)
        for r, c in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
            if matrix[r, c] >= limit:
                matched[own[c]] = names[r]
    out = {}
    for label, pixels in things.items():
        covered = [np.float32(len(targets[t] & pixels) / len(pixels)) for t in names]
        if label in matched:
            new = matched[label]
        elif covered and max(covered) >= limit:
            new = names[covered.index(max(covered))]
        else:
            new = keep(label)
        out[new] = out.get(new, set()) | pixels
    return out


def refuse_ties(matrix):
    """Raise where leaving out a pair that was assigned costs nothing."""
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    best = matrix[rows, columns].sum()
    for r, c in zip(rows, columns, strict=True):
        if matrix[r, c] > 0:
            without = matrix.copy()
            without[r, c] = 0
            again = linear_sum_assignment(without, maximize=True)
            if without[again].sum() > best - 1e-9:
                raise Tie


def stack(labels, name):
    """Objects of one orientation as sets of voxels (z, y, x), in order of the way back."""
    fresh = itertools.count(1)
    forward, target = [], None
    for plane in node_planes(labels, name):
        things = {("new", k): pixels for k, pixels in enumerate(plane)}
        target = follow(target or {}, things, lambda _: next(fresh))
        forward.append(target)
    objects, target = {}, {}
    for place in reversed(range(len(forward))):
        target = follow(target, forward[place], lambda label: label)
        for label, pixels in target.items():
            voxels = {(*p[: AXES[name]], place, *p[AXES[name] :]) for p in pixels}
            objects[label] = objects.get(label, set()) | voxels
    return list(objects.values())


def extent(voxels):
    """Shortest side of the box around sets of voxels."""
    points = np.array(sorted(set().union(*voxels)))
    return (np.ptp(points, axis=0) + 1).min()


def consensus(stacks, *, votes, one_view=False, limit=0.75, min_size=0, min_extent=0):
    """Instances as sets of voxels from lists of objects, the later one wins where two meet."""
    nodes = [(view, voxels) for view, found in enumerate(stacks) for voxels in found]
    least = 1 if one_view else len(stacks) // 2 + 1
    limit = 0 if votes < least else limit
    graph = nx.Graph()
    graph.add_nodes_from(range(len(nodes)))
    for a, b in itertools.combinations(range(len(nodes)), 2):
        if nodes[a][0] != nodes[b][0] and nodes[a][1] & nodes[b][1]:
            shared = len(nodes[a][1] & nodes[b][1])
            graph.add_edge(a, b, iou=iou(nodes[a][1], nodes[b][1]), shared=shared)
    instances = []
    for component in nx.connected_components(graph):
        if len(component) >= least:
            part = graph.subgraph(component)
            found = [elect(nodes, cluster, votes) for cluster in clusters(part, limit, least)]
            instances += unite([pair for pair in found if pair[0]])
    return [
        voxels for voxels, parts in instances
        if len(voxels) >= min_size and extent(parts) >= min_extent
    ]  # fmt: skip


def clusters(part, limit, least):
    """Sets of nodes of one overlap component, neighbours settled."""
    close = part.copy()
    close.remove_edges_from([(a, b) for a, b, w in part.edges(data="iou") if w <= limit])
    members = [set(c) for c in nx.connected_components(close)]
    near = {k: set() for k in range(len(members))}
    for i, j in itertools.combinations(near, 2):
        pairs = [part.get_edge_data(a, b) for a in members[i] for b in members[j]]
        for key, least_mean in (("iou", 0.01), ("shared", 100)):
            if sum(pair[key] for pair in pairs if pair) / len(pairs) > least_mean:
                near[i].add(j)
                near[j].add(i)
    while any(near.values()):
        hub = max(near, key=lambda k: len(near[k]))  # the first of several
        others = near[hub]
        if max(len(members[k]) for k in others) > len(members[hub]):
            gone = {hub}
            for k in others:
                members[k] |= members[hub]
        else:
            gone = set(others)
            members[hub] = members[hub].union(*(members[k] for k in others))
        near = {k: near[k] - gone for k in near if k not in gone}
    return [members[k] for k in near if len(members[k]) >= least]


def elect(nodes, cluster, votes):
    """Voxels in at least `votes` objects of a cluster, and the objects."""
    objects = [nodes[k][1] for k in cluster]
    everything = set().union(*objects)
    return {v for v in everything if sum(v in voxels for voxels in objects) >= votes}, objects


def unite(found):
    """Instances of one component that share more than trifles, put together."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(found)))
    for (i, (a, _)), (j, (b, _)) in itertools.combinations(enumerate(found), 2):
        if iou(a, b) > 0.01 or len(a & b) > 100:
            graph.add_edge(i, j)
    return [
        (set().union(*(found[k][0] for k in group)), [o for k in group for o in found[k][1]])
        for group in nx.connected_components(graph)
    ]


def painted(shape, instances):
    """Labels 1..n in the order of `instances`."""
    labels = np.zeros(shape, np.int64)
    for number, voxels in enumerate(instances, 1):
        labels[tuple(np.array(sorted(voxels)).T)] = number
    return labels


def partition(labels):
    """Labels renamed by their first voxel, so that equal partitions are equal arrays."""
    names, first, place = np.unique(np.append(0, labels), return_index=True, return_inverse=True)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(first)] = np.arange(len(names))
    return rank[place][1:].reshape(labels.shape)


def volumes(seed, shape, classes=1, noise=0.06, divisor=100):
    """Three label volumes that show the same blobs with faults of each orientation's own."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    seeds = random.uniform(0, shape, (max(2, int(np.prod(shape)) // 60), 3))
    distance = np.linalg.norm(grid[..., None, :] - seeds, axis=-1)
    nearest = distance.argmin(-1) + 1
    truth = np.where(distance.min(-1) < random.uniform(2, 3), nearest, 0)
    klass = 1 + random.integers(classes, size=len(seeds) + 1)
    found = {}
    for name in AXES:
        seen = np.where(random.random(shape) < noise, 0, truth)
        for fault in range(2):  # a plane that is empty, one that is welded
            place = [slice(None)] * 3
            place[AXES[name]] = random.integers(shape[AXES[name]])
            plane = seen[tuple(place)]
            seen[tuple(place)] = 0 if fault else np.where(plane > 0, plane.max(), 0)
        found[name] = np.where(seen > 0, klass[seen] * divisor + seen, 0).astype(np.uint16)
    return found
