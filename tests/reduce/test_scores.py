"""Objects found beside true ones, against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.reduce.scores import f1, matches_of


def by_hand(found, truth, limit):
    """Hits, objects found, true objects: every pair of masks is compared."""
    names = [[n for n in np.unique(one) if n] for one in (found, truth)]
    hits = 0
    for a in names[0]:
        for b in names[1]:
            both = np.sum((found == a) & (truth == b))
            hits += both / np.sum((found == a) | (truth == b)) > limit
    return hits, len(names[0]), len(names[1])


@given(st.integers(0, 2**31), st.sampled_from([0.5, 0.6, 0.75]), st.integers(1, 6))
def test_matches_are_those_of_all_pairs(seed, limit, most):
    dice = np.random.default_rng(seed)
    truth = dice.integers(0, most + 1, (5, 6)) * 7
    found = np.where(dice.random((5, 6)) < 0.3, dice.integers(0, most + 1, (5, 6)), truth)
    matches = matches_of(found, truth)
    hits, some, true = by_hand(found, truth, limit)
    assert (matches.hits(limit), matches.count_found, matches.count_true) == (hits, some, true)
    for a, b, iou in zip(matches.found, matches.true, matches.iou, strict=True):
        both = np.sum((found == a) & (truth == b))
        assert iou == pytest.approx(both / np.sum((found == a) | (truth == b)))


def test_scores_of_several_pictures_add_up_their_objects():
    one = matches_of(np.array([1, 1, 0, 2]), np.array([3, 3, 0, 0]))
    other = matches_of(np.array([0, 0, 0]), np.array([1, 0, 2]))
    assert f1([one], 0.5) == pytest.approx(2 / 3)
    assert f1([one, other], 0.5) == pytest.approx(2 / 5)
    assert f1([], 0.5) == 1
    assert f1([matches_of(np.zeros(3, int), np.zeros(3, int))], 0.5) == 1


def test_half_is_not_enough_and_names_may_be_large():
    found = np.array([2**62, 2**62, 0, 0])
    assert matches_of(found, np.array([0, 5, 0, 0])).hits(0.5) == 0
    assert matches_of(found, np.array([5, 5, 5, 0])).hits(0.5) == 1


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="shapes"):
        matches_of(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"below 0\.5"):
        matches_of(np.zeros(2, int), np.zeros(2, int)).hits(0.3)
