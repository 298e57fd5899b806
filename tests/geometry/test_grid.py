"""Patch positions: everything is covered, by the rules of the peers, with the fewest patches."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.grid import even_grid, rectangle_side, shared_grid, step_grid, stride_of
from tests import oracles

RULES = {"even": even_grid, "step": step_grid, "shared": shared_grid}
# Fractions as people write them: the exact number is known, the float is not quite it.
percents = st.integers(0, 90)


@pytest.mark.parametrize("rule", RULES)
@given(size=st.integers(1, 700), patch=st.integers(1, 128), percent=percents)
def test_every_voxel_is_covered_and_nothing_lies_outside(rule, size, patch, percent):
    grid = RULES[rule](size, patch=patch, stride=stride_of(patch, percent / 100))
    seen = np.zeros(size, int)
    for start, length in zip(grid.starts, grid.lengths, strict=True):
        assert start >= 0
        assert start + length <= size
        assert length >= 1
        seen[start : start + length] += 1
    assert seen.min() >= 1
    assert grid.stops == tuple(a + n for a, n in zip(grid.starts, grid.lengths, strict=True))
    # Tilings search both by bisection.
    for values in (grid.starts, grid.stops):
        assert all(a < b for a, b in itertools.pairwise(values))


@given(size=st.integers(1, 5000), patch=st.integers(1, 300), percent=percents)
@example(size=27, patch=10, percent=30)
@example(size=984, patch=256, percent=10)
def test_even_grids_are_rounded_half_to_even(size, patch, percent):
    stride = max(Fraction(1), (1 - Fraction(percent, 100)) * patch)
    grid = even_grid(size, patch=patch, stride=stride_of(patch, percent / 100))
    assert list(grid.starts) == oracles.even_starts(size, patch, stride)
    assert set(grid.lengths) == {min(patch, size)}
    if size > patch:
        assert (grid.starts[0], grid.stops[-1]) == (0, size)


@given(size=st.integers(1, 5000), patch=st.integers(1, 300), percent=percents)
@example(size=400, patch=100, percent=30)
def test_step_grids_are_those_of_monai_and_qlty(size, patch, percent):
    stride = max(Fraction(1), (1 - Fraction(percent, 100)) * patch)
    grid = step_grid(size, patch=patch, stride=stride_of(patch, percent / 100))
    assert list(grid.starts) == oracles.step_starts(size, patch, stride)
    assert set(grid.lengths) == {min(patch, size)}


@given(size=st.integers(1, 5000), patch=st.integers(1, 300), percent=percents)
def test_shared_grids_have_full_patches_and_one_rest(size, patch, percent):
    stride = stride_of(patch, percent / 100)
    step = max(1, math.floor(stride + 1e-9))
    grid = shared_grid(size, patch=patch, stride=stride)
    assert all(b - a == step for a, b in itertools.pairwise(grid.starts))
    assert grid.stops[-1] == size
    assert set(grid.lengths[:-1]) <= {patch}
    # The rest reaches over what the full patches leave by the overlap, no further.
    assert grid.lengths[-1] == size - grid.starts[-1] <= patch
    assert len(grid.starts) == len(step_grid(size, patch=patch, stride=stride).starts)


def test_the_seeds_planes_have_four_full_patches_and_a_rest():
    grid = shared_grid(984, patch=256, stride=stride_of(256, 0.1))
    assert grid.starts == (0, 230, 460, 690, 920)
    assert grid.lengths == (256, 256, 256, 256, 64)


@pytest.mark.parametrize("rule", RULES)
def test_a_side_shorter_than_the_patch_is_one_patch(rule):
    grid = RULES[rule](68, patch=256, stride=230.4)
    assert (grid.starts, grid.lengths, grid.size) == ((0,), (68,), 68)


@pytest.mark.parametrize("overlap", [-0.1, 0.91, 1, 64, float("nan")])
def test_overlaps_that_are_no_shareable_fraction_are_refused(overlap):
    with pytest.raises(BadInput, match=r"overlap .* 0 <= overlap <= 0\.9"):
        stride_of(64, overlap)


def test_overlap_is_what_is_shared():
    assert stride_of(100, 0) == 100
    assert stride_of(100, 0.25) == 75
    assert stride_of(3, 0.9) == 1, "a patch always moves on"


@given(
    size=st.integers(1, 6000),
    usual=st.sampled_from([64, 96, 256]),
    divisor=st.sampled_from([1, 4, 8, 16, 100]),
    percent=st.sampled_from([0, 5, 10, 25, 30, 50, 70]),
)
@example(size=984, usual=256, divisor=16, percent=10)
@example(size=1024, usual=256, divisor=16, percent=10)
@example(size=1025, usual=256, divisor=16, percent=10)
def test_rectangles_cover_a_side_with_the_fewest_pixels(size, usual, divisor, percent):
    side = rectangle_side(
        size, limit=4 * usual, usual=usual, divisor=divisor, overlap=percent / 100
    )
    assert side % divisor == 0
    if -(-size // divisor) * divisor <= 4 * usual:
        assert side - divisor < size <= side, "one patch, padded by less than the divisor"
        return
    assert side == oracles.cheapest_side(size, usual, divisor, percent)
    assert side >= usual
