"""The bundled model: three orientations together beat each alone, as its card says."""

from __future__ import annotations

import numpy as np
import pytest

from orthoflow.models.load import load_model
from orthoflow.training.demo_models import (
    NAME,
    TRAINING_SEEDS,
    dice,
    orientation_logits,
)
from orthoflow.training.synthetic import make_volume


@pytest.fixture(scope="module")
def model():
    return load_model("demo:semantic")


def test_consensus_wins_on_a_volume_that_training_has_not_seen(model):
    seed = 401
    assert seed not in TRAINING_SEEDS
    volume = make_volume((48, 128, 128), seed=seed)
    truth = volume.labels > 0
    logits = {o: orientation_logits(model, volume.image, o) for o in ("xy", "xz", "yz")}
    alone = [dice(value.argmax(0) > 0, truth) for value in logits.values()]
    together = dice((sum(logits.values()) / 3).argmax(0) > 0, truth)
    assert min(alone) > 0.8
    assert together > max(alone) + 0.01


def test_the_card_says_how_it_was_made_and_how_good_it_is(model):
    card = model.card
    assert card.name == NAME
    assert (card.reach, card.stride, card.divisor) == (51, 8, 8)
    assert card.training is not None
    assert 0 not in card.training["training_seeds"]
    for scores in card.training["dice"].values():
        consensus = scores["consensus"]
        assert consensus > max(scores[o] for o in ("xy", "xz", "yz")) + 0.01


def test_logits_of_an_orientation_lie_where_their_voxels_are(model):
    """A transposed volume in the transposed orientation gives the same logits."""
    volume = make_volume((32, 48, 64), seed=5).image
    xz = orientation_logits(model, volume, "xz")
    assert xz.shape == (2, 32, 48, 64)
    swapped = orientation_logits(model, np.ascontiguousarray(volume.transpose(1, 0, 2)), "xy")
    np.testing.assert_array_equal(swapped.transpose(0, 2, 1, 3), xz)


def test_dice():
    a = np.array([True, True, False, False])
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0
    assert dice(a, np.array([True, False, False, False])) == pytest.approx(2 / 3)
    assert dice(~(a | True), ~(a | True)) == 1.0
