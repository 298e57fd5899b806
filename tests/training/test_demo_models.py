"""The bundled models: three orientations together beat each alone, as their cards say."""

from __future__ import annotations

import numpy as np
import pytest

from orthoflow.models.card import read_card
from orthoflow.models.heads import channels_of
from orthoflow.models.load import load_model
from orthoflow.models.source import BUNDLED
from orthoflow.training.demo_models import DEMOS, SEED, TRAINING_SEEDS, train_demo
from orthoflow.training.quality import (
    dice,
    flow_quality,
    orientation_outputs,
    panoptic_quality,
)
from orthoflow.training.synthetic import OBJECTS, make_volume

ORIENTATIONS = ("xy", "xz", "yz")
FRESH = 401


@pytest.fixture(scope="module")
def model():
    return load_model("demo:semantic")


@pytest.fixture(scope="module")
def objects():
    assert FRESH not in TRAINING_SEEDS
    return make_volume((48, 128, 128), seed=FRESH, look=OBJECTS)


def test_consensus_wins_on_a_volume_that_training_has_not_seen(model):
    assert FRESH not in TRAINING_SEEDS
    volume = make_volume((48, 128, 128), seed=FRESH)
    truth = volume.labels > 0
    logits = {o: orientation_outputs(model, volume.image, o) for o in ORIENTATIONS}
    alone = [dice(value.argmax(0) > 0, truth) for value in logits.values()]
    together = dice((sum(logits.values()) / 3).argmax(0) > 0, truth)
    assert min(alone) > 0.8
    assert together > max(alone) + 0.01


@pytest.mark.parametrize(("task", "head"), [("panoptic", "semantic"), ("flows", "cellprob")])
def test_instance_models_know_fresh_objects(objects, task, head):
    """Foreground, and by orientation the centres and offsets, or the flows."""
    model = load_model(f"demo:{task}")
    truth = objects.labels > 0
    logits = []
    for axis, name in enumerate(ORIENTATIONS):
        outputs = orientation_outputs(model, objects.image, name)
        logits.append(outputs[channels_of(model.card, head)][0])
        planes = np.moveaxis(outputs, 1 + axis, 0)[4:-4:8]
        labels = np.moveaxis(objects.labels, axis, 0)[4:-4:8]
        if task == "panoptic":
            scores = panoptic_quality(planes, labels)
            assert scores["centers"] > 0.75
            assert scores["spurious"] < 0.2
            assert scores["offset_error"] < 4
        else:
            scores = flow_quality(planes, labels)
            assert scores["flow_error"] < 40
            assert scores["flow_right"] > 0.7
    alone = [dice(logit > 0, truth) for logit in logits]
    assert min(alone) > 0.75
    assert dice(sum(logits) > 0, truth) > max(alone)


@pytest.mark.parametrize("task", DEMOS)
def test_the_card_says_how_it_was_made_and_how_good_it_is(task):
    demo = DEMOS[task]
    card = load_model(f"demo:{task}").card
    assert (card.name, card.task) == (demo.name, task)
    assert (card.reach, card.stride, card.divisor) == (51, 8, 8)
    assert card.training is not None
    assert card.training["steps"] == demo.steps
    assert card.training["seed"] == SEED
    assert card.architecture is not None
    assert card.architecture["base"] == demo.architecture["base"]
    seeds = set(card.training["training_seeds"])
    assert 0 not in seeds
    scores = card.training["dice" if task == "semantic" else "quality"]
    assert not {f"seed {seed}" for seed in seeds} & set(scores)
    for found in scores.values():
        values = found if task == "semantic" else found["dice"]
        assert values["consensus"] > max(values[name] for name in ORIENTATIONS) + 0.005


def test_the_bundled_weights_stay_small():
    sizes = [path.stat().st_size for path in BUNDLED.rglob("*.safetensors")]
    assert len(sizes) == len(DEMOS)
    assert sum(sizes) <= 3_000_000


def test_the_command_makes_a_model_of_its_card(monkeypatch):
    """Two steps, small volumes: the same task, heads and network as the bundled one."""
    small = make_volume((16, 32, 32), seed=1, look=OBJECTS)
    monkeypatch.setattr("orthoflow.training.demo_models.make_volume", lambda **_: small)
    monkeypatch.setattr("orthoflow.training.demo_models.BATCH", 1)
    for task, demo in DEMOS.items():
        made = train_demo(demo, steps=1).card
        kept = read_card(BUNDLED / demo.name / "card.yaml")
        assert (made.task, made.heads, made.outputs) == (kept.task, kept.heads, kept.outputs), task
        assert made.architecture == kept.architecture
        assert made.normalization == kept.normalization


def test_logits_of_an_orientation_lie_where_their_voxels_are(model):
    """A transposed volume in the transposed orientation gives the same logits."""
    volume = make_volume((32, 48, 64), seed=5).image
    xz = orientation_outputs(model, volume, "xz")
    assert xz.shape == (2, 32, 48, 64)
    swapped = orientation_outputs(model, np.ascontiguousarray(volume.transpose(1, 0, 2)), "xy")
    np.testing.assert_array_equal(swapped.transpose(0, 2, 1, 3), xz)
