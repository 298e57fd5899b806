"""Two objects that touch stay two where a plane of 21 is empty, or shows both as one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orthoflow.reduce.engine import consensus_labels

VIEWS = ("xy", "xz", "yz")
PAIRS = list(itertools.combinations(VIEWS, 2))
LENGTH = 21
AXES = [(0, 1, 2), (2, 0, 1), (1, 2, 0)]  # which turn the axis along which they lie, from x on


def balls():
    z, y, x = np.indices((LENGTH, LENGTH, 2 * LENGTH)) - LENGTH // 2
    near = [z**2 + y**2 + (x - 1 - k * (LENGTH - 2)) ** 2 < (LENGTH / 2) ** 2 for k in (0, 1)]
    side = x < LENGTH - LENGTH // 2
    return np.where(near[0] & side, 1, np.where(near[1] & ~side, 2, 0))


def boxes():
    """Flat where they touch: planes along x go on from one to the other as if they were one."""
    truth = np.ones((LENGTH, LENGTH, 2 * LENGTH), np.int64)
    truth[:, :, LENGTH:] = 2
    return truth


def bars():
    """As thin as objects of some 800 voxels are."""
    truth = np.zeros((LENGTH, LENGTH, LENGTH), np.int64)
    truth[:, 6:14, 5:10], truth[:, 6:14, 10:15] = 1, 2
    return truth


SHAPES = {shape.__name__: shape() for shape in (balls, boxes, bars)}


def damaged(views, name, place, damage):
    """Views of which one has a plane that is empty or welded; none where that changes nothing."""
    found = {view: array.copy() for view, array in views.items()}
    plane = np.moveaxis(found[name], VIEWS.index(name), 0)[place]
    if not ({1, 2} <= set(plane.flat) if damage == "welded" else plane.any()):
        return {}
    plane[plane > 0] = 0 if damage == "empty" else 1
    return found


def worst_iou(found, truth):
    """IoU of the worse of two objects with the instance that has most of it; 0 unless two are."""
    if len(np.unique(found[found > 0])) != 2:
        return 0
    best = [np.bincount(found[truth == k]).argmax() for k in (1, 2)]
    if 0 in best or best[0] == best[1]:
        return 0
    pairs = [(truth == k, found == label) for k, label in zip((1, 2), best, strict=True)]
    return min(np.count_nonzero(a & b) / np.count_nonzero(a | b) for a, b in pairs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turn", AXES)
@pytest.mark.parametrize("damage", ["empty", "welded"])
@pytest.mark.parametrize("name", VIEWS)
def test_two_objects_stay_two(shape, turn, damage, name):
    truth = np.ascontiguousarray(SHAPES[shape].transpose(turn))
    depth = truth.shape[VIEWS.index(name)]
    seen = 0
    for place in (0, 1, 2, 6, 7, depth // 2, depth - 8, depth - 7, depth - 3, depth - 2, depth - 1):
        views = damaged(dict.fromkeys(VIEWS, truth), name, place, damage)
        if views:
            seen += 1
            assert worst_iou(consensus_labels(views), truth) > 0.95, place
    # Planes across the pair show one at a time: nothing to weld.
    assert (seen > 0) == (damage == "empty" or turn.index(2) != VIEWS.index(name))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", PAIRS)
@pytest.mark.parametrize("damage", ["empty", "welded"])
def test_two_objects_stay_two_in_two_orientations(shape, given, damage):
    for turn, name, place in itertools.product(AXES, given, (0, 7, 12, 20)):
        truth = np.ascontiguousarray(SHAPES[shape].transpose(turn))
        views = damaged(dict.fromkeys(given, truth), name, place, damage)
        if views:
            # An empty plane is background, for both must see a voxel: a fifth of a thin bar.
            assert worst_iou(consensus_labels(views), truth) > 0.75, (turn, name, place)


@pytest.mark.parametrize("shape", SHAPES)
def test_bad_planes_in_every_stack_at_once(shape):
    truth = SHAPES[shape]
    for damage in ("empty", "welded"):
        views = dict.fromkeys(VIEWS, truth)
        for name in ("xy", "xz"):
            views = damaged(views, name, 9, damage)
        views["yz"] = views["yz"].copy()
        views["yz"][:, :, 7] *= damage == "welded"
        assert worst_iou(consensus_labels(views), truth) > 0.9
