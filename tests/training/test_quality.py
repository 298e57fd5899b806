"""Scores: perfect answers score perfectly, and each error moves its own number."""

from __future__ import annotations

import numpy as np
import pytest

from orthoflow.training.quality import dice, flow_quality, heat_peaks, panoptic_quality
from orthoflow.training.synthetic import OBJECTS, make_volume
from orthoflow.training.targets import center_heatmap, flow_targets, panoptic_targets


@pytest.fixture(scope="module")
def labels():
    return make_volume((16, 96, 96), seed=6, look=OBJECTS).labels[4:12:2]


def test_dice():
    a = np.array([True, True, False, False])
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0
    assert dice(a, np.array([True, False, False, False])) == pytest.approx(2 / 3)
    assert dice(~(a | True), ~(a | True)) == 1.0


def test_peaks_are_the_highest_of_their_window():
    centres = np.array([[10.0, 12.0], [10.0, 20.0], [30.0, 7.0]])
    heat = center_heatmap((40, 40), centres, sigma=2.0)
    np.testing.assert_array_equal(heat_peaks(heat), centres)
    np.testing.assert_array_equal(heat_peaks(0.09 * heat), np.zeros((0, 2)))


def test_panoptic_scores(labels):
    right = np.stack([panoptic_targets(plane) for plane in labels])
    scores = panoptic_quality(right, labels)
    # Touching centres nearer than a window hide each other.
    assert scores["centers"] > 0.9
    assert scores["spurious"] < 0.05
    assert scores["offset_error"] == 0
    moved = right + np.array([0, 0, 3, 4], np.float32)[:, None, None]
    assert panoptic_quality(moved, labels)["offset_error"] == pytest.approx(5)
    blind = right.copy()
    blind[:, 1] = 0
    assert panoptic_quality(blind, labels)["centers"] == 0
    shifted = right.copy()
    shifted[:, 1] = np.roll(right[:, 1], 6, axis=-1)
    scores = panoptic_quality(shifted, labels)
    assert scores["centers"] < 0.4
    assert scores["spurious"] > 0.5


@pytest.mark.parametrize("degrees", [0, 30, 60, 180])
def test_flow_scores(labels, degrees):
    targets = np.stack([flow_targets(plane) for plane in labels])
    angle = np.radians(degrees)
    down, right = targets[:, 1], targets[:, 2]
    turned = np.stack(
        [
            np.cos(angle) * down + np.sin(angle) * right,
            np.cos(angle) * right - np.sin(angle) * down,
            targets[:, 0],
        ],
        axis=1,
    )
    scores = flow_quality(turned, labels)
    assert scores["flow_error"] == pytest.approx(degrees, abs=0.01)
    assert scores["flow_right"] == (degrees < 45)
