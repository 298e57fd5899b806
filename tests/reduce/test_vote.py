"""Votes: the same labels as counting opinions voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.reduce.blend import BACKGROUND_LOGIT
from orthoflow.reduce.vote import (
    Ballot,
    consensus_labels,
    consensus_logits,
    decide,
    dissent,
    fill_unpredicted,
    logit_of,
)
from tests import oracles

BACKENDS = {"numpy": np.asarray, "torch": torch.as_tensor}
backends = pytest.mark.parametrize("backend", BACKENDS)


def ballot(mode="binary", rule="mean", votes=2, threshold=0.5, weights=(1.0, 1.0, 1.0)):
    return Ballot(mode, rule, votes, threshold, weights)


def opinions(seed, views, classes, scale=4.0):
    """Logits of every orientation, (class, 3, 4, 5); some exactly on round numbers."""
    random = np.random.default_rng(seed)
    return [
        (random.integers(-8, 9, (classes, 3, 4, 5)) * scale / 8).astype(np.float32)
        for _ in range(views)
    ]


def on(backend, arrays):
    return [None if a is None else BACKENDS[backend](a) for a in arrays]


@backends
@given(st.floats(0.01, 0.99))
def test_binary_labels_are_probabilities_above_the_threshold(backend, threshold):
    step = np.float32(logit_of(threshold))
    ladder = [np.nextafter(step, np.float32(s)) for s in (-99, 99)]
    logits = np.array([ladder[0], step, ladder[1], -20, 20], np.float32)[None]
    labels = np.asarray(decide(BACKENDS[backend](logits), ballot(threshold=threshold)))
    assert labels.dtype == np.uint8
    assert labels.tolist() == [0, 0, 1, 0, 1]
    wide = np.linspace(-9, 9, 400, dtype=np.float32)[None]
    found = np.asarray(decide(BACKENDS[backend](wide), ballot(threshold=threshold)))
    clear = np.abs(wide[0] - logit_of(threshold)) > 1e-6
    expected = 1 / (1 + np.exp(-wide[0].astype(float))) > threshold
    np.testing.assert_array_equal(found[clear], expected[clear])


@backends
def test_the_first_of_equal_classes_wins(backend):
    logits = np.array([[1, 0, 2, 5], [1, 3, 2, 6], [0, 3, 2, 6]], np.float32)
    labels = decide(BACKENDS[backend](logits), ballot(mode="multiclass"))
    assert np.asarray(labels).tolist() == [0, 1, 0, 1]


@backends
@given(seed=st.integers(0, 9999), views=st.integers(1, 3), data=st.data())
def test_votes_of_a_binary_answer_are_counted(backend, seed, views, data):
    votes = data.draw(st.integers(1, views))
    rule = ballot(rule="vote", votes=votes, threshold=data.draw(st.sampled_from([0.3, 0.5, 0.8])))
    logits = opinions(seed, views, 1)
    agreed = consensus_logits(on(backend, logits), [None] * views, rule)
    labels = np.asarray(consensus_labels(on(backend, logits), agreed, rule))
    yes = sum((view[0] > np.float32(logit_of(rule.threshold))).astype(int) for view in logits)
    np.testing.assert_array_equal(labels, yes >= votes)
    ordered = np.sort(np.stack(logits), axis=0)
    np.testing.assert_array_equal(np.asarray(agreed), ordered[views - votes])


@backends
@given(seed=st.integers(0, 9999), votes=st.integers(1, 3))
def test_votes_of_several_classes_are_counted(backend, seed, votes):
    rule = ballot("multiclass", "vote", votes)
    logits = opinions(seed, 3, 4)
    agreed = consensus_logits(on(backend, logits), [None] * 3, rule)
    labels = np.asarray(consensus_labels(on(backend, logits), agreed, rule))
    for place in itertools.product(range(3), range(4), range(5)):
        said = [int(np.argmax([c[place] for c in view])) for view in logits]
        assert labels[place] == oracles.majority(said, votes)
    np.testing.assert_allclose(np.asarray(agreed), np.mean(logits, axis=0), atol=1e-6)


@backends
@given(
    seed=st.integers(0, 9999),
    weights=st.tuples(*[st.floats(0, 5)] * 3).filter(lambda w: sum(w) > 0.1),
    masks=st.tuples(*[st.sampled_from(["none", "all", "some"])] * 3),
    classes=st.integers(1, 3),
)
def test_the_mean_is_over_the_views_that_predict(backend, seed, weights, masks, classes):
    random = np.random.default_rng(seed)
    logits = opinions(seed, 3, classes)
    kinds = {"none": lambda: None, "all": lambda: np.ones((3, 4, 5), bool)}
    covered = [kinds.get(m, lambda: random.random((3, 4, 5)) < 0.5)() for m in masks]
    mode = "binary" if classes == 1 else "multiclass"
    rule = ballot(mode, weights=weights)
    found = np.asarray(consensus_logits(on(backend, logits), on(backend, covered), rule))
    shares = [w * (1.0 if m is None else m) for w, m in zip(weights, covered, strict=True)]
    share = sum(np.broadcast_to(s, (3, 4, 5)) for s in shares)
    here = np.float32(share) > 0
    total = sum(s * view.astype(float) for s, view in zip(shares, logits, strict=True))
    expected = total[:, here] / share[here]
    np.testing.assert_allclose(found[:, here], expected, atol=2e-5)
    if (~here).any():
        assert (found[0][~here] == (BACKGROUND_LOGIT if classes == 1 else -BACKGROUND_LOGIT)).all()
        assert (np.asarray(decide(BACKENDS[backend](found), rule))[~here] == 0).all()


@backends
@given(
    seed=st.integers(0, 9999),
    weights=st.tuples(*[st.floats(0.01, 5)] * 3),
)
def test_masks_do_not_change_voxels_that_all_predict(backend, seed, weights):
    """A block with a skipped patch has a mask, its neighbour has none: the same bits in both."""
    logits = opinions(seed, 3, 1, scale=3.7)
    mask = np.ones((3, 4, 5), bool)
    mask[0] = False
    rule = ballot(weights=weights)
    plain = consensus_logits(on(backend, logits), [None] * 3, rule)
    masked = consensus_logits(on(backend, logits), on(backend, [mask, None, mask]), rule)
    np.testing.assert_array_equal(np.asarray(plain)[:, 1:], np.asarray(masked)[:, 1:])


@backends
def test_weights_of_orientations_weigh(backend):
    logits = [np.full((1, 1, 1, 1), v, np.float32) for v in (4, -2, 1)]
    rule = ballot(weights=(3.0, 1.0, 0.0))
    agreed = consensus_logits(on(backend, logits), [None] * 3, rule)
    assert float(agreed[0, 0, 0, 0]) == 2.5


@backends
def test_voxels_that_nobody_predicts_are_background(backend):
    logits = BACKENDS[backend](np.full((3, 1, 1, 2), 5, np.float32))
    covered = BACKENDS[backend](np.array([[[True, False]]]))
    filled = np.asarray(fill_unpredicted(logits, covered))
    assert filled[:, 0, 0].tolist() == [[5, 16], [5, 0], [5, 0]]
    assert fill_unpredicted(logits, None) is logits


@backends
@given(seed=st.integers(0, 9999), classes=st.sampled_from([1, 3]), masked=st.booleans())
def test_dissent_counts_who_decides_otherwise(backend, seed, classes, masked):
    random = np.random.default_rng(seed)
    rule = ballot("binary" if classes == 1 else "multiclass", "mean")
    logits = opinions(seed, 3, classes)
    covered = [random.random((3, 4, 5)) < 0.5 if masked else None, None, None]
    views = on(backend, logits)
    agreed = consensus_logits(views, on(backend, covered), rule)
    labels = consensus_labels(views, agreed, rule)
    found = np.asarray(dissent(views, on(backend, covered), labels, rule))
    expected = np.zeros((3, 4, 5), int)
    for view, mask in zip(logits, covered, strict=True):
        own = np.asarray(decide(view, rule))
        expected += (own != np.asarray(labels)) & (True if mask is None else mask)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
