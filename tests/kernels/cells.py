"""Touching synthetic cells, and perfect flows towards their middles."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def touching_cells(shape, count, *, radius, seed=0):
    """Labels 1.. of `count` balls that are cut where they meet: a jittered lattice."""
    rng = np.random.default_rng(seed)
    pitch = 1.7 * radius
    grid = np.stack(
        np.meshgrid(*(np.arange(radius, n - radius, pitch) for n in shape), indexing="ij"), -1
    ).reshape(-1, len(shape))
    if len(grid) < count:
        raise ValueError(f"{count} cells of radius {radius} do not fit into {shape}")
    middle = rng.permutation(grid)[:count] + rng.uniform(-1, 1, (count, len(shape)))
    size = rng.uniform(0.9, 1.1, count) * radius
    labels = np.zeros(shape, np.int32)
    best = np.full(shape, 1.0, np.float32)
    for number, (at, r) in enumerate(zip(middle, size, strict=True), 1):
        box = tuple(slice(max(int(a - r) - 1, 0), int(a + r) + 2) for a in at)
        spans = [slice(b.start, min(b.stop, n)) for b, n in zip(box, shape, strict=True)]
        axes = np.ogrid[tuple(spans)]
        far = sum((axis - a) ** 2 for axis, a in zip(axes, at, strict=True)) / r**2
        mine = far < best[box]
        labels[box][mine] = number
        best[box][mine] = far[mine]
    return labels


def middles(labels):
    """Of each cell: its voxel nearest to the centre of mass."""
    numbers = np.arange(1, labels.max() + 1)
    return np.array(ndimage.center_of_mass(labels > 0, labels, numbers))


def pointing(labels):
    """Unit vectors (axes, ...) to the centre of mass of each voxel's cell, zero elsewhere."""
    at = np.indices(labels.shape).astype(np.float32)
    target = np.vstack([np.zeros(labels.ndim), middles(labels)])[labels]
    vector = np.moveaxis(target, -1, 0).astype(np.float32) - at
    length = np.sqrt((vector**2).sum(0))
    return np.where(labels > 0, vector / np.maximum(length, 1e-6), 0).astype(np.float32)


def diffused(labels, *, steps=None):
    """Unit vectors up the heat that spreads from each cell's middle, as Cellpose trains on.

    Heat does not cross the border of a cell; what is uphill of its logarithm is the way.
    """
    ndim = labels.ndim
    padded = np.pad(labels, 1)
    at = np.rint(middles(labels)).astype(int)
    source = np.zeros(padded.shape, bool)
    for number, place in enumerate(at, 1):
        inside = np.argwhere(labels == number)
        nearest = inside[((inside - place) ** 2).sum(1).argmin()]
        source[tuple(nearest + 1)] = True
    heat = np.zeros(padded.shape, np.float64)
    shifts = [(axis, way) for axis in range(ndim) for way in (1, -1)]
    same = [padded == np.roll(padded, way, axis) for axis, way in shifts]
    box = max(b.stop - b.start for found in ndimage.find_objects(labels) for b in found)
    for _ in range(steps or 4 * box):
        heat[source] += 1
        total = heat.copy()
        for (axis, way), stay in zip(shifts, same, strict=True):
            total += np.where(stay, np.roll(heat, way, axis), heat)
        heat = np.where(padded > 0, total / (2 * ndim + 1), 0)
    slope = []
    level = np.log(heat + 1e-60)
    for axis in range(ndim):
        ahead = np.where(padded == np.roll(padded, -1, axis), np.roll(level, -1, axis), level)
        behind = np.where(padded == np.roll(padded, 1, axis), np.roll(level, 1, axis), level)
        slope.append((ahead - behind)[(slice(1, -1),) * ndim])
    vector = np.stack(slope)
    length = np.sqrt((vector**2).sum(0))
    return np.where(labels > 0, vector / np.maximum(length, 1e-12), 0).astype(np.float32)


def found_at(truth, labels, iou=0.5):
    """How many true cells have a label with more than that intersection over union."""
    pairs, both = np.unique(np.stack([truth.ravel(), labels.ravel()]), axis=1, return_counts=True)
    counts = [np.unique(array, return_counts=True) for array in (truth, labels)]
    areas = [dict(zip(*count, strict=True)) for count in counts]
    return len(
        {
            int(a)
            for (a, b), n in zip(pairs.T, both, strict=True)
            if a and b and n > iou * (areas[0][a] + areas[1][b] - n)
        }
    )
