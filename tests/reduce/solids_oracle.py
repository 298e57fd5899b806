"""Objects on voxels, slow and by the book: what tables of pieces must reproduce."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import ndimage


def neighbours(connectivity):
    """Steps to the neighbours of a voxel."""
    steps = itertools.product((-1, 0, 1), repeat=3)
    return [s for s in steps if any(s) and (connectivity == 26 or sum(map(abs, s)) == 1)]


def around(place, shape, connectivity):
    """Neighbours of a voxel inside the volume."""
    for step in neighbours(connectivity):
        there = tuple(a + b for a, b in zip(place, step, strict=True))
        if all(0 <= a < n for a, n in zip(there, shape, strict=True)):
            yield there


def numbered(sets, shape, *, min_size=0, min_extent=0):
    """Labels of sets of voxels that are large enough, in the order of their first voxels."""
    labels, count = np.zeros(shape, np.int64), 0
    for voxels in sorted(sets, key=min):
        points = np.array(sorted(voxels))
        extent = (points.max(axis=0) - points.min(axis=0) + 1).min()
        if len(points) >= min_size and extent >= min_extent:
            count += 1
            labels[tuple(points.T)] = count
    return labels


def components(classes, connectivity=26, **least):
    """Labels of the connected components of each class."""
    structure = ndimage.generate_binary_structure(3, 3 if connectivity == 26 else 1)
    found = []
    for klass in set(np.unique(classes)) - {0}:
        pieces, count = ndimage.label(classes == klass, structure)
        found += [set(zip(*np.nonzero(pieces == k), strict=True)) for k in range(1, count + 1)]
    return numbered(found, classes.shape, **least)


def filled(labels):
    """Labels with those holes filled that one object alone encloses."""
    gaps, count = ndimage.label(labels == 0)
    result = labels.copy()
    for k in range(1, count + 1):
        voxels = set(zip(*np.nonzero(gaps == k), strict=True))
        border = any(a in (0, n - 1) for v in voxels for a, n in zip(v, labels.shape, strict=True))
        walls = {labels[u] for v in voxels for u in around(v, labels.shape, 6)} - {0}
        if not border and len(walls) == 1:
            result[gaps == k] = walls.pop()
    return result


def relief(classes, radius):
    """Squared distance of each voxel to the nearest of another class, cut off."""
    places = np.array(list(np.ndindex(classes.shape)))
    squares = np.zeros(classes.shape, np.int64)
    for place in places[classes.reshape(-1) > 0]:
        others = places[classes.reshape(-1) != classes[tuple(place)]]
        far = np.square(others - place).sum(axis=1).min(initial=radius**2)
        squares[tuple(place)] = far
    return squares


def watershed(classes, radius, depth, connectivity=26, **least):
    """Labels by hill climbing, voxel by voxel; basins join one after the other."""
    height, shape = relief(classes, radius), classes.shape
    beside = {
        v: [u for u in around(v, shape, connectivity) if classes[u] == classes[v]]
        for v in np.ndindex(shape)
        if classes[v]
    }
    way = {v: min([v, *near], key=lambda u: (-height[u], u)) for v, near in beside.items()}
    tops = components(np.where(height == radius**2, classes, 0), connectivity)
    first = {tops[v]: v for v in reversed(list(beside))}
    way.update({v: first[tops[v]] for v in beside if tops[v]})
    basins = {}
    for v in beside:
        peak = v
        while way[peak] != peak:
            peak = way[peak]
        basins.setdefault(peak, set()).add(v)
    of = {v: peak for peak, voxels in basins.items() for v in voxels}
    saddles = {}
    for v, u in [(one, other) for one in beside for other in beside[one] if of[one] != of[other]]:
        # Sets are ordered by their first voxels.
        pair = tuple(sorted((of[v], of[u]), key=lambda peak: min(basins[peak])))
        saddles[pair] = max(saddles.get(pair, 0), min(height[v], height[u]))
    found = clusters(basins, saddles, height, depth)
    objects = [frozenset().union(*(basins[peak] for peak in peaks)) for peaks in found]
    return numbered(set(objects), shape, **least)


def clusters(basins, saddles, height, depth):
    """Set of peaks that each peak is in after shallow saddles have joined them."""
    first = {peak: min(voxels) for peak, voxels in basins.items()}
    cluster = {peak: {peak} for peak in basins}
    order = sorted(saddles, key=lambda pair: (-saddles[pair], first[pair[0]], first[pair[1]]))
    for a, b in order:
        lower = min(max(height[peak] for peak in cluster[one]) for one in (a, b))
        shallow = math.sqrt(lower) - math.sqrt(saddles[a, b]) < depth
        if cluster[a] is not cluster[b] and shallow:
            both = cluster[a] | cluster[b]
            cluster.update(dict.fromkeys(both, both))
    return cluster.values()
