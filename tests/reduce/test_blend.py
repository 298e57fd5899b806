"""Sums in fixed point against float64, patch by patch; the order of adding cannot show."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.geometry.box import Box, split
from orthoflow.geometry.grid import even_grid, shared_grid, step_grid, stride_of
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.weights import partition_of_unity
from orthoflow.reduce.blend import FIXED_POINT_SCALE, LEAST_COVERAGE, LOGIT_LIMIT, Sums
from tests import oracles

GRIDS = {"even": even_grid, "step": step_grid, "shared": shared_grid}
PROFILES = ("gaussian", "taper", "border", "uniform")
BACKENDS = {"numpy": np.asarray, "torch": torch.as_tensor}


def weighted_patches(shape, patch, overlap, rule, weighting, seed=0, limit=20.0):
    """(place, logits, float32 weights) of every patch of a plane or a volume of `shape`."""
    random = np.random.default_rng(seed)
    axes = []
    for size in shape:
        grid = GRIDS[rule](size, patch=patch, stride=stride_of(patch, overlap))
        weights = partition_of_unity(grid, weighting)
        axes.append(list(zip(grid.starts, weights, strict=True)))
    for along in itertools.product(*axes):
        weight = np.ones((), np.float32)
        for _, values in along:
            weight = np.multiply.outer(weight, values)
        logits = random.uniform(-limit, limit, weight.shape).astype(np.float32)
        place = tuple(slice(a, a + len(w)) for a, w in along)
        yield place, logits, weight


def fixed(logits, weight):
    """One contribution as the kernels make it: rounded once."""
    return np.rint(logits * (weight * np.float32(FIXED_POINT_SCALE))).astype(np.int32)


def empty(orientation, box, dtype=np.int32, channels=1, backend="numpy"):
    stack, plane = oracles.PLANES[orientation]
    shape = [box.shape[a] for a in ((stack,) if stack is not None else ()) + plane]
    total = BACKENDS[backend](np.zeros((channels, *shape), dtype))
    return Sums(orientation, box, total, None)


@pytest.mark.parametrize("shape", [(70, 50), (30, 26, 22)])
@pytest.mark.parametrize("rule", GRIDS)
@pytest.mark.parametrize("weighting", PROFILES)
def test_fixed_point_agrees_with_float64_corners_included(shape, rule, weighting):
    patch = 24 if len(shape) == 2 else 12
    patches = list(weighted_patches(shape, patch, 0.4, rule, weighting))
    pieces = [([s.start for s in place], logits.astype(float)) for place, logits, _ in patches]
    expected, _ = oracles.blended(shape, pieces, weighting)
    total = np.zeros(shape, np.int32)
    for place, logits, weight in patches:
        total[place] += fixed(logits, weight)
    three = (1, *shape) if len(shape) == 2 else shape
    orientation = "xy" if len(shape) == 2 else "zyx"
    sums = Sums(orientation, Box.whole(three), total.reshape(1, *three), None)
    found, covered = sums.logits()
    assert covered is None
    assert found.dtype == np.float32
    error = np.abs(found.reshape(shape) - expected)
    assert error.max() < 1e-5
    corners = itertools.product(*((0, -1) for _ in shape))
    assert max(error[corner] for corner in corners) < 1e-5


def test_the_largest_logits_do_not_overflow():
    total = np.zeros((40, 40), np.int64)
    for place, logits, weight in weighted_patches((40, 40), 16, 0.75, "even", "gaussian"):
        largest = np.full_like(logits, LOGIT_LIMIT)
        total[place] += fixed(largest, weight)
    assert np.abs(total).max() <= 2**30 + 2**10
    assert np.abs(total - LOGIT_LIMIT * FIXED_POINT_SCALE).max() / FIXED_POINT_SCALE < 2e-5


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_adding_does_not_show(backend, seed):
    """Patches one by one in any order, or collected in blocks first: the same integers."""
    random = np.random.default_rng(seed)
    box = Box.whole((1, 40, 30))
    pieces = []
    for place, logits, weight in weighted_patches((40, 30), 16, 0.5, "even", "gaussian"):
        part = Box((0, place[0].start, place[1].start), (1, place[0].stop, place[1].stop))
        total = BACKENDS[backend](fixed(logits, weight)[None, None])
        missing = BACKENDS[backend](fixed(np.ones_like(weight), weight)[None])
        empty_patch = random.random() < 0.2
        pieces.append(
            Sums("xy", part, 0 * total, missing) if empty_patch else Sums("xy", part, total, None)
        )
    straight, shuffled = empty("xy", box, backend=backend), empty("xy", box, backend=backend)
    for piece in pieces:
        straight.add(piece)
    halves = [empty("xy", b, backend=backend) for b in split(box, (1, 17, 30))]
    for i in random.permutation(len(pieces)):
        for half in halves:
            common = half.box.intersect(pieces[i].box)
            if common:
                half.add(pieces[i].cut(common))
    for half in reversed(halves):
        shuffled.add(half)
    np.testing.assert_array_equal(np.asarray(straight.total), np.asarray(shuffled.total))
    if straight.missing is None:
        assert shuffled.missing is None
    else:
        np.testing.assert_array_equal(np.asarray(straight.missing), np.asarray(shuffled.missing))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_cutting_gives_the_voxels_of_the_box(orientation, backend):
    outer, inner = Box((2, 3, 4), (8, 10, 12)), Box((3, 5, 5), (7, 6, 11))
    volume = np.arange(np.prod(outer.shape), dtype=np.int32).reshape(1, *outer.shape)
    turned = BACKENDS[backend](volume.transpose(ORIENTATIONS[orientation].order))
    sums = Sums(orientation, outer, turned, 7 * turned[0])
    cut = sums.cut(inner)
    expected = volume[(slice(None), *inner.within(outer))]
    back = np.asarray(cut.total).transpose(ORIENTATIONS[orientation].inverse)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(np.asarray(cut.missing), 7 * np.asarray(cut.total)[0])
    assert sums.cut(outer).total.shape == turned.shape
    # And adding puts them back where they were.
    grown = empty(orientation, outer, backend=backend)
    grown.add(cut)
    found = np.asarray(grown.total).transpose(ORIENTATIONS[orientation].inverse)
    np.testing.assert_array_equal(found[(slice(None), *inner.within(outer))], expected)
    assert found.sum() == expected.sum()


def test_adding_to_a_cut_adds_to_the_whole():
    sums = empty("xz", Box.whole((4, 5, 6)))
    sums.cut(Box((1, 1, 1), (2, 3, 4))).total[...] = 1
    assert sums.total.sum() == 1 * 2 * 3


def with_and_without(shape, patches, skipped):
    """Sums with some patches skipped, sums of all, and in float64 what is left and its weights."""
    box = Box.whole((1, *shape))
    some, every = empty("xy", box), empty("xy", box)
    total, weights = np.zeros(shape), np.zeros(shape)
    for (place, logits, weight), gone in zip(patches, skipped, strict=True):
        patch = Box((0, place[0].start, place[1].start), (1, place[0].stop, place[1].stop))
        whole = Sums("xy", patch, fixed(logits, weight)[None, None], None)
        every.add(whole)
        if gone:
            some.add(Sums("xy", patch, 0 * whole.total, fixed(np.ones_like(weight), weight)[None]))
        else:
            some.add(whole)
            total[place] += weight.astype(float) * logits
            weights[place] += weight
    return some, every, total, weights


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30)
@given(seed=st.integers(0, 999), chance=st.floats(0, 1), weighting=st.sampled_from(PROFILES))
def test_skipped_patches_leave_the_others_their_weight(backend, seed, chance, weighting):
    """Against float64 with the weights that are left, where a sixteenth or more is left."""
    shape = (50, 40)
    patches = list(weighted_patches(shape, 20, 0.5, "even", weighting, seed=seed))
    skipped = np.random.default_rng(seed).random(len(patches)) < chance
    some, every, total, weights = with_and_without(shape, patches, skipped)
    touched = np.zeros(shape, bool)
    for (place, _, _), gone in zip(patches, skipped, strict=True):
        touched[place] |= gone
    turn = BACKENDS[backend]
    missing = None if some.missing is None else turn(some.missing)
    logits, covered = Sums("xy", some.box, turn(some.total), missing).logits()
    found = np.asarray(logits)[0, 0]
    covered = np.ones(shape, bool) if covered is None else np.asarray(covered)[0]
    # Voxels that no skipped patch touches do not know that there is a mask.
    np.testing.assert_array_equal(found[~touched], every.logits()[0][0, 0][~touched])
    clear = np.abs(weights - LEAST_COVERAGE) > 1e-6
    np.testing.assert_array_equal(covered[clear], (weights >= LEAST_COVERAGE)[clear])
    assert (found[~covered] == 0).all()
    # Up to sixteen times the sums' own rounding: little weight is left of it.
    np.testing.assert_allclose(found[covered], total[covered] / weights[covered], atol=3e-4)


def test_a_mask_appears_with_the_first_skipped_patch():
    box = Box.whole((1, 4, 4))
    sums = empty("xy", box)
    sums.add(empty("xy", box))
    assert sums.missing is None
    left = Box((0, 0, 0), (1, 4, 2))
    gone = np.full((1, 4, 2), FIXED_POINT_SCALE, np.int32)
    sums.add(Sums("xy", left, np.zeros((1, 1, 4, 2), np.int32), gone))
    _, covered = sums.logits()
    assert not covered[:, :, :2].any()
    assert covered[:, :, 2:].all()


@pytest.mark.parametrize("weighting", PROFILES)
def test_float_sums_agree_with_fixed_point(weighting):
    box = Box.whole((1, 60, 44))
    exact, floating = empty("xy", box), empty("xy", box, np.float32)
    for place, logits, weight in weighted_patches((60, 44), 20, 0.5, "even", weighting):
        patch = Box((0, place[0].start, place[1].start), (1, place[0].stop, place[1].stop))
        exact.add(Sums("xy", patch, fixed(logits, weight)[None, None], None))
        floating.add(Sums("xy", patch, (logits * weight)[None, None], None))
    np.testing.assert_allclose(exact.logits()[0], floating.logits()[0], atol=1e-5)
