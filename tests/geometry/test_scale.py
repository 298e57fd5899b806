"""Resampling: the seed's order, exact averages, and the same numbers for any box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.scale import AxisScale, core_box, support_box, working_shape
from tests import oracles

sides = st.integers(1, 120)
triples = st.tuples(sides, sides, sides)


def resampled(values, target):
    """`values` along one axis as the taps say, in float64."""
    indices, weights = AxisScale(len(values), target).taps((0, target))
    return (np.asarray(values, np.float64)[indices] * weights).sum(0)


def test_the_seeds_stack_is_scaled_as_by_the_fork():
    assert working_shape((34, 1968, 1968), diameter=60, anisotropy=4) == (68, 984, 984)


def test_factors_multiply():
    assert working_shape((10, 20, 30), downsample=(1, 2, 3)) == (10, 10, 10)
    assert working_shape((10, 100, 100), diameter=60, downsample=(1, 2, 2)) == (5, 25, 25)
    assert working_shape((10, 100, 100), diameter=60, trained_diameter=120) == (20, 200, 200)
    assert working_shape((300, 300, 300), anisotropy=0.1) == (30, 300, 300)
    assert working_shape((7, 8, 9)) == (7, 8, 9)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"downsample": (20.0, 1.0, 1.0)}, "scale axis z by 0.05 to 0.5 voxels"),
        ({"anisotropy": 1e9}, "scale axis z by 1e.09 to"),
        ({"diameter": 1e-308}, "scale axis z"),
        ({"diameter": 1e9}, "scale axis z by 3e-08 to 3.01e-07 voxels"),
        ({"downsample": (1e-300, 1.0, 1.0)}, "scale axis z by 1e.300 to"),
    ],
)
def test_volumes_scaled_to_nothing_or_too_much_are_refused(wishes, said):
    with pytest.raises(BadInput, match=said) as refusal:
        working_shape((10, 10, 10), **wishes)
    assert len(str(refusal.value)) < 200


@given(sides, sides)
def test_weights_of_every_voxel_add_up_to_one(source, target):
    indices, weights = AxisScale(source, target).taps((0, target))
    assert indices.shape == weights.shape
    assert indices.shape[1] == target
    assert indices.min() >= 0
    assert indices.max() < source
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.astype(float).sum(0), 1, atol=3e-7)


@given(sides, sides, st.floats(0.001, 100))
def test_constants_stay_constant(source, target, value):
    np.testing.assert_allclose(resampled([value] * source, target), value, rtol=1e-6)


@given(sides)
def test_the_same_size_is_the_identity(size):
    values = np.random.default_rng(size).random(size)
    np.testing.assert_array_equal(resampled(values, size), values)
    assert AxisScale(size, size).support((0, size)) == (0, size)


@given(sides, sides)
def test_enlarging_is_linear_between_centres(source, target):
    if target <= source:
        return
    values = np.random.default_rng(source).random(source)
    np.testing.assert_allclose(resampled(values, target), oracles.linear(values, target), atol=1e-6)


def test_enlarging_is_what_torch_calls_align_corners_false():
    torch = pytest.importorskip("torch")

    values = np.random.default_rng(0).random(17, np.float32)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], 61, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(resampled(values, 61), wide[0, 0].numpy(), atol=1e-6)


@given(sides, sides)
@example(source=49, target=7)
@example(source=93, target=31)
def test_shrinking_is_the_mean_over_what_a_voxel_covers(source, target):
    if target >= source:
        return
    values = np.random.default_rng(source).random(source)
    expected = oracles.area_average(values, target)
    np.testing.assert_allclose(resampled(values, target), expected, atol=1e-6)


@given(sides, sides, st.data())
def test_a_span_alone_has_the_same_taps(source, target, data):
    lo = data.draw(st.integers(0, target - 1))
    hi = data.draw(st.integers(lo + 1, target))
    scale = AxisScale(source, target)
    for whole, part in zip(scale.taps((0, target)), scale.taps((lo, hi)), strict=True):
        np.testing.assert_array_equal(whole[:, lo:hi], part)


@given(sides, sides, st.data())
def test_support_is_exactly_what_the_taps_touch(source, target, data):
    lo = data.draw(st.integers(0, target - 1))
    hi = data.draw(st.integers(lo + 1, target))
    scale = AxisScale(source, target)
    indices, _ = scale.taps((lo, hi))
    assert scale.support((lo, hi)) == (indices.min(), indices.max() + 1)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
@example(source=259, target=252, data=None)
def test_shrinking_reads_no_voxel_that_it_does_not_cover(source, target, data):
    """A border that falls between two voxels must not drag in the one behind it."""
    if target >= source:
        return
    spans = [(i, i + 1) for i in range(target)] if data is None else []
    if data is not None:
        first = data.draw(st.integers(0, target - 1))
        spans = [(first, first + 1)]
    for first, end in spans:
        covered = oracles.area_support(source, target, first)
        assert AxisScale(source, target).support((first, end)) == covered


@given(triples, triples, st.tuples(*[st.integers(3, 50)] * 3))
def test_cores_of_blocks_partition_the_working_grid(source, target, block):
    cores = [core_box(box, source=source, target=target) for box in split(Box.whole(source), block)]
    seen = np.zeros(target, int)
    for core in cores:
        seen[core.slices] += 1
    assert (seen == 1).all()
    assert core_box(Box.whole(source), source=source, target=target) == Box.whole(target)


@given(triples, triples, st.data())
def test_boxes_are_supported_axis_by_axis(source, target, data):
    lo = [data.draw(st.integers(0, n - 1)) for n in target]
    hi = [data.draw(st.integers(a + 1, n)) for a, n in zip(lo, target, strict=True)]
    box = support_box(Box(tuple(lo), tuple(hi)), source=source, target=target)
    for axis, a, b in zip(itertools.count(), box.start, box.stop, strict=False):
        scale = AxisScale(source[axis], target[axis])
        assert scale.support((lo[axis], hi[axis])) == (a, b)
    assert Box.whole(source).contains(box)
