"""Training for instances: what the losses count, that it learns, repeats itself and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orthoflow.errors import BadInput
from orthoflow.models.heads import channels_of
from orthoflow.models.load import load_model, save_model
from orthoflow.training.instances import (
    CENTER_WEIGHT,
    LESSONS,
    OFFSET_WEIGHT,
    flow_loss,
    panoptic_loss,
    train_instances,
)
from orthoflow.training.loop import IGNORED, PatchSampler, Recipe
from orthoflow.training.quality import flow_quality, orientation_outputs, panoptic_quality

TINY = {"kind": "unet", "base": 6, "depth": 2}
LOSSES = {"panoptic": panoptic_loss, "flows": flow_loss}


@pytest.fixture(scope="module")
def balls():
    """Bright balls in noise, apart from each other: easy."""
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 48, 64), np.int32)
    grid = np.stack(np.meshgrid(*map(np.arange, labels.shape), indexing="ij"), -1)
    for number in range(1, 40):
        centre = rng.uniform(4, np.array(labels.shape) - 4)
        apart = np.linalg.norm(grid - centre, axis=-1)
        if not labels[apart < 7].any():
            labels[apart < 5.5] = number
    image = (60 + 90 * (labels > 0) + rng.normal(0, 6, labels.shape)).clip(0, 255)
    return image.astype(np.uint8), labels


def rough(task, seed=0):
    """Answers of a patch with padding, and outputs that are right."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (4, 4)), np.ones((8, 8), int))
    answers = torch.from_numpy(LESSONS[task].answers(labels))[None]
    outputs = answers.clone()
    if task == "panoptic":
        outputs[:, 0] = 40 * answers[:, 0] - 20
    else:
        outputs = torch.cat([answers[:, 1:], 40 * answers[:, :1] - 20], dim=1)
    answers[..., 24:] = IGNORED
    return outputs, answers


@pytest.mark.parametrize("task", LESSONS)
def test_padding_counts_for_nothing_and_right_is_nearly_zero(task):
    outputs, answers = rough(task)
    loss = LOSSES[task](outputs, answers)
    assert 0 <= float(loss) < 1e-6
    outputs[..., 24:] = 1e3
    assert torch.equal(LOSSES[task](outputs, answers), loss)


def test_the_panoptic_loss_is_the_sum_that_it_says():
    outputs, answers = rough("panoptic", seed=1)
    outputs = outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    known = answers[0, 0] != IGNORED
    inside = answers[0, 0] == 1
    o, a = outputs[0].double().numpy(), answers[0].double().numpy()
    chance = 1 / (1 + np.exp(-o[0]))
    entropy = -np.where(a[0] == 1, np.log(chance), np.log1p(-chance))[known].mean()
    heat = np.square(o[1] - a[1])[known].mean()
    offsets = (np.abs(o[2] - a[2]) + np.abs(o[3] - a[3]))[inside].mean()
    wanted = entropy + CENTER_WEIGHT * heat + OFFSET_WEIGHT * offsets
    assert float(panoptic_loss(outputs, answers)) == pytest.approx(wanted, rel=1e-5)


def test_the_flow_loss_is_the_sum_that_it_says():
    outputs, answers = rough("flows", seed=1)
    outputs = outputs + torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    known = answers[0, 0] != IGNORED
    o, a = outputs[0].double().numpy(), answers[0].double().numpy()
    chance = 1 / (1 + np.exp(-o[2]))
    entropy = -np.where(a[0] == 1, np.log(chance), np.log1p(-chance))[known].mean()
    wanted = entropy + 0.5 * np.square(o[:2] - a[1:])[:, known].mean()
    assert float(flow_loss(outputs, answers)) == pytest.approx(wanted, rel=1e-5)


def test_a_patch_without_foreground_has_a_loss():
    outputs = torch.zeros(1, 4, 8, 8)
    assert torch.isfinite(panoptic_loss(outputs, torch.zeros(1, 4, 8, 8)))
    assert torch.isfinite(flow_loss(outputs[:, :3], torch.zeros(1, 3, 8, 8)))


@pytest.mark.parametrize("task", LESSONS)
def test_patches_are_cut_where_image_and_answers_agree(balls, task):
    """The image is the answer: any wrong cut, flip or sign would show."""
    _, labels = balls
    lesson = LESSONS[task]
    recipe = Recipe(patch=32, batch=4, seed=2, orientations=("xy",))
    for channel in range(1, lesson.outputs):
        planes = np.stack([lesson.answers(plane)[channel] for plane in labels])
        tiles, answers = PatchSampler([planes], [labels], recipe, lesson).batch()
        assert answers.shape == (4, lesson.outputs, 32, 32)
        vector = lesson.vector is not None and channel >= lesson.vector
        for tile, answer in zip(tiles[:, 0], answers, strict=True):
            # A transpose puts the other number of a vector here; a flip changes its sign.
            others = range(lesson.vector, lesson.outputs) if vector else [channel]
            found = [abs(corrcoef(tile, answer[other])) for other in others]
            assert max(found) > 0.9


def corrcoef(tile, answer):
    return float(np.corrcoef(tile.ravel(), answer.ravel())[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("task", LESSONS)
def test_it_learns_and_the_model_can_be_kept(balls, tmp_path, task):
    image, labels = balls
    losses = []
    model = train_instances(
        [image],
        [labels],
        task=task,
        architecture=TINY,
        steps=120,
        patch=48,
        batch=4,
        lr=1e-2,
        progress=lambda _step, loss: losses.append(loss),
    )
    assert (model.card.task, model.card.outputs) == (task, LESSONS[task].outputs)
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    outputs = orientation_outputs(model, image, "xy")
    planes = np.moveaxis(outputs, 1, 0)
    if task == "panoptic":
        scores = panoptic_quality(planes, labels)
        assert scores["centers"] > 0.8
        assert scores["offset_error"] < 0.85 * panoptic_quality(0 * planes, labels)["offset_error"]
    else:
        assert flow_quality(planes, labels)["flow_right"] > 0.8
    logit = outputs[channels_of(model.card, "semantic" if task == "panoptic" else "cellprob")]
    found = logit[0] > 0
    assert 2 * (found & (labels > 0)).sum() / (found.sum() + (labels > 0).sum()) > 0.65
    save_model(tmp_path / "balls", model.module, model.card)
    again = load_model(tmp_path / "balls")
    assert again.card.heads == model.card.heads
    np.testing.assert_array_equal(orientation_outputs(again, image, "xy"), outputs)


def test_the_same_seed_gives_the_same_weights(balls):
    image, labels = balls
    made = [
        train_instances(
            [image], [labels], task="flows", architecture=TINY, steps=2, patch=16, seed=s
        ).digest
        for s in (5, 5, 6)
    ]
    assert made[0] == made[1] != made[2]


def test_what_cannot_work_is_refused(balls):
    image, labels = balls
    with pytest.raises(BadInput, match="task 'semantic' is unknown; use one of panoptic, flows"):
        train_instances([image], [labels], task="semantic")
    with pytest.raises(BadInput, match="whole numbers from 0"):
        train_instances([image], [labels.astype(float)])
    with pytest.raises(BadInput, match="nothing to learn"):
        train_instances([image], [0 * labels])
