"""Weights: the stated formulas, and at every voxel they add up to one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.grid import even_grid, shared_grid, step_grid, stride_of
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.ways import TileRules, TileWishes, possible_tilings
from orthoflow.geometry.weights import partition_of_unity, profile, weighted
from tests import oracles

PROFILES = ("gaussian", "taper", "border", "uniform")
GRIDS = {"even": even_grid, "step": step_grid, "shared": shared_grid}


@pytest.mark.parametrize("rule", GRIDS)
@pytest.mark.parametrize("weighting", PROFILES)
@given(
    size=st.integers(1, 400),
    patch=st.integers(1, 96),
    percent=st.integers(0, 90),
    sigma_scale=st.sampled_from([0.5, 4.0, 8.0, 64.0]),
)
def test_weights_of_an_axis_add_up_to_one(rule, weighting, size, patch, percent, sigma_scale):
    grid = GRIDS[rule](size, patch=patch, stride=stride_of(patch, percent / 100))
    weights = partition_of_unity(grid, weighting, sigma_scale=sigma_scale)
    total, times = np.zeros(size), np.zeros(size)
    for start, values in zip(grid.starts, weights, strict=True):
        assert values.dtype == np.float32
        assert (values >= 0).all()
        total[start : start + len(values)] += values
        times[start : start + len(values)] += 1
    # Each weight is rounded once: half a unit in the last place of a number of at most one.
    assert (np.abs(total - 1) <= times * 2.0**-25 + 1e-15).all()
    assert (total[times == 1] == 1).all()


@pytest.mark.parametrize("weighting", PROFILES)
@given(size=st.integers(1, 300), patch=st.integers(1, 96), percent=st.integers(0, 90))
def test_weights_are_profiles_divided_by_their_sum(weighting, size, patch, percent):
    grid = even_grid(size, patch=patch, stride=stride_of(patch, percent / 100))
    plain = [oracles.profile(weighting, n) for n in grid.lengths]
    total = np.zeros(size)
    for start, values in zip(grid.starts, plain, strict=True):
        total[start : start + len(values)] += values
    found = partition_of_unity(grid, weighting)
    for start, values, weights in zip(grid.starts, plain, found, strict=True):
        np.testing.assert_allclose(weights, values / total[start : start + len(values)], rtol=1e-6)


@pytest.mark.parametrize("weighting", PROFILES)
def test_planes_have_a_partition_of_unity_too_corners_included(weighting):
    rules = TileRules(2, (48, 32), None, stride=1, reach=None)
    wishes = TileWishes(0.4, "even", "none", None, None, None, "balanced")
    (tiling,) = possible_tilings(ORIENTATIONS["xz"], (70, 5, 90), rules, wishes)
    patches = weighted(tiling, weighting, 8.0)
    total = np.zeros((70, 90))
    for position in tiling.positions():
        rows, columns = (patches.weights[a][i] for a, i in enumerate(position.pieces))
        place = tuple(slice(a, b) for a, b in position.spans)
        total[place] += np.outer(rows.astype(float), columns.astype(float))
    np.testing.assert_allclose(total, 1, atol=1e-6)
    corners = [total[y, x] for y, x in itertools.product((0, -1), (0, -1))]
    np.testing.assert_allclose(corners, 1, atol=1e-7)


@pytest.mark.parametrize("weighting", PROFILES)
@given(length=st.integers(1, 300), sigma_scale=st.floats(0.1, 64))
def test_profiles_follow_their_formulas(weighting, length, sigma_scale):
    found = profile(weighting, length, sigma_scale=sigma_scale)
    np.testing.assert_allclose(found, oracles.profile(weighting, length, sigma_scale), rtol=1e-9)
    np.testing.assert_array_equal(found, found[::-1])
    assert (found > 0).all(), "no voxel of a patch is thrown away"
    assert found.argmax() in {(length - 1) // 2, length // 2} or weighting != "gaussian"


def test_the_gaussian_is_that_of_the_peers_at_an_eighth():
    middle, edge = profile("gaussian", 65)[32], profile("gaussian", 65)[0]
    assert middle == 1
    assert edge == pytest.approx(np.exp(-0.5 * (32 / (65 / 8)) ** 2))


def test_the_taper_is_that_of_cellpose():
    """Figures of Cellpose's own tile of 256: weight at distances from the edge."""
    taper = profile("taper", 256)
    given = {0: 0.069, 10: 0.22, 20: 0.52, 32: 0.84, 42: 0.95}
    for distance, weight in given.items():
        assert taper[distance] == pytest.approx(weight, abs=0.011)


@pytest.mark.parametrize("sigma_scale", [0, -8, 65, float("inf"), float("nan")])
def test_gaussians_without_a_peak_or_a_corner_are_refused(sigma_scale):
    with pytest.raises(BadInput, match=r"sigma_scale .* 0 < sigma_scale <= 64"):
        profile("gaussian", 64, sigma_scale=sigma_scale)


def test_the_widest_and_the_narrowest_gaussian_are_numbers():
    for length in (1, 2, 3, 1024):
        assert (profile("gaussian", length, sigma_scale=64) > 0).all()


def test_unknown_weightings_are_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="'cosine' is unknown; choose from gaussian, taper, border"):
        profile("cosine", 64)  # type: ignore[arg-type]
