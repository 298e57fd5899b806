"""Answers of a plane against slow, obvious ways of finding them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from orthoflow.models.heads import FLOW_SCALE
from orthoflow.training.synthetic import OBJECTS, make_volume
from orthoflow.training.targets import (
    CENTER_SIGMA,
    center_heatmap,
    flipped,
    flow_targets,
    panoptic_targets,
    plane_components,
    transposed,
)

PLANES = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(
        0, 3, np.random.default_rng(seed).integers(1, 14, 2)
    )
)


@pytest.fixture(scope="module")
def plane():
    return make_volume((16, 96, 80), seed=2, look=OBJECTS).labels[8]


@given(PLANES)
def test_components_are_those_of_skimage(labels):
    found = plane_components(labels)
    wanted = label(labels, connectivity=2)
    np.testing.assert_array_equal(found.numbers, wanted)
    for number in range(1, wanted.max() + 1):
        pixels = np.argwhere(wanted == number)
        assert found.areas[number - 1] == len(pixels)
        np.testing.assert_allclose(found.centroids[number - 1], pixels.mean(0))
    assert len(found.areas) == len(found.centroids) == wanted.max()


def test_the_heatmap_is_a_gaussian_of_the_nearest_centre():
    centroids = np.array([[3.25, 4.0], [9.5, 30.75], [-1.0, 60.0]])
    heat = center_heatmap((20, 64), centroids)
    for row in range(20):
        for column in range(64):
            apart = min(math.dist((row, column), centre) for centre in centroids)
            wanted = math.exp(-(apart**2) / 72) if apart <= 18 else 0.0
            assert heat[row, column] == pytest.approx(wanted, abs=1e-6)
    assert CENTER_SIGMA == 6
    assert heat.max() > math.exp(-0.5 / 72) - 1e-6
    assert not center_heatmap((5, 5), np.zeros((0, 2))).any()


@given(PLANES)
def test_offsets_lead_to_the_centroid(labels):
    targets = panoptic_targets(labels)
    assert targets.shape == (4, *labels.shape)
    assert targets.dtype == np.float32
    numbers = label(labels, connectivity=2)
    np.testing.assert_array_equal(targets[0], numbers > 0)
    for row, column in np.ndindex(labels.shape):
        wanted = (0.0, 0.0)
        if labels[row, column]:
            middle = np.argwhere(numbers == numbers[row, column]).mean(0)
            wanted = middle - (row, column)
        np.testing.assert_allclose(targets[2:, row, column], wanted, atol=1e-5)


def slow_flows(labels):
    """Cellpose's scheme, pixel by pixel."""
    numbers = label(labels, connectivity=2)
    flows = np.zeros((2, *labels.shape))
    members = [np.argwhere(numbers == number) for number in range(1, numbers.max() + 1)]
    if not members:
        return flows
    steps = 2 * max(int((np.ptp(pixels, axis=0) + 1).sum()) for pixels in members)
    for pixels in members:
        apart = [((pixel - pixels.mean(0)) ** 2).sum() for pixel in pixels]
        source = tuple(pixels[int(np.argmin(apart))])
        heat = {tuple(pixel): 0.0 for pixel in pixels}
        for _ in range(steps):
            heat[source] += 1
            heat = {
                (r, c): sum(heat.get((r + i, c + j), 0) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
                for r, c in heat
            }
        for r, c in heat:
            way = np.array(
                [
                    heat.get((r + 1, c), 0) - heat.get((r - 1, c), 0),
                    heat.get((r, c + 1), 0) - heat.get((r, c - 1), 0),
                ]
            )
            length = np.linalg.norm(way)
            flows[:, r, c] = 5 * way / length if length > 1e-12 * heat[r, c] else 0
    return flows


@settings(max_examples=25, deadline=None)
@given(PLANES)
def test_flows_are_the_direction_of_diffused_heat(labels):
    targets = flow_targets(labels)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets[0], labels > 0)
    wanted = slow_flows(labels)
    # Where heat is even on both sides, rounding alone decides.
    clear = np.linalg.norm(wanted, axis=0) > 0
    np.testing.assert_allclose(targets[1:, clear], wanted[:, clear], atol=1e-3)


def test_flows_of_a_plane_lead_to_the_centres(plane):
    """Following true flows, nearly every pixel ends within 2 pixels of its component's centre."""
    targets = flow_targets(plane)
    inside = targets[0] > 0
    lengths = np.linalg.norm(targets[1:, inside], axis=0)
    assert ((np.abs(lengths - FLOW_SCALE) < 1e-4) | (lengths == 0)).all()
    assert (lengths == 0).mean() < 0.01
    assert not targets[1:, ~inside].any()
    found = plane_components(plane)
    at = np.argwhere(inside).astype(float)
    for _ in range(200):
        row, column = np.rint(at).astype(int).T
        at += 0.2 * targets[1:, row, column].T / FLOW_SCALE
    ends = found.centroids[found.numbers[inside] - 1]
    # A bent tube's nearest pixel to its centroid may lie further away.
    assert (np.linalg.norm(at - ends, axis=1) < 2).mean() > 0.9


def test_a_plane_without_instances_is_all_zero():
    empty = np.zeros((8, 9), int)
    assert not panoptic_targets(empty).any()
    assert not flow_targets(empty).any()
    assert plane_components(empty).centroids.shape == (0, 2)


@pytest.mark.parametrize(("make", "vector"), [(panoptic_targets, 2), (flow_targets, 1)])
def test_answers_turn_with_the_plane(plane, make, vector):
    answers = make(plane)
    for axis in (0, 1):
        close(flipped(answers, axis, vector), make(np.flip(plane, axis)))
    close(transposed(answers, vector), make(plane.T))


def close(first, second):
    """Equal but where a tie for the nearest pixel to a centroid falls the other way."""
    wrong = np.abs(first - second).max(axis=0) > 1e-3
    assert wrong.mean() < 0.002


def test_classes_turn_without_a_vector():
    classes = np.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(flipped(classes, 1, None)[0], [[2, 1, 0], [5, 4, 3]])
    np.testing.assert_array_equal(transposed(classes, None)[0], [[0, 3], [1, 4], [2, 5]])
