"""The training loop: it learns, it repeats itself, and it refuses what cannot work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orthoflow.errors import BadInput
from orthoflow.models.card import Normalization
from orthoflow.models.load import load_model, save_model
from orthoflow.training.loop import (
    IGNORED,
    PatchSampler,
    Recipe,
    normalized,
    semantic_loss,
    train_semantic,
)

TINY = {"kind": "unet", "base": 4, "depth": 1}


@pytest.fixture(scope="module")
def boxes():
    """Bright boxes in noise: easy."""
    rng = np.random.default_rng(0)
    truth = np.zeros((24, 40, 48), np.uint8)
    for corner in rng.integers(0, (16, 32, 40), size=(12, 3)):
        z, y, x = corner
        truth[z : z + 8, y : y + 8, x : x + 8] = 1
    image = (60 + 90 * truth + rng.normal(0, 10, truth.shape)).astype(np.uint8)
    return image, truth


def test_it_learns_and_the_model_can_be_kept(boxes, tmp_path):
    image, truth = boxes
    losses = []
    model = train_semantic(
        [image],
        [truth > 0],
        architecture=TINY,
        steps=40,
        patch=32,
        batch=4,
        lr=1e-2,
        progress=lambda _step, loss: losses.append(loss),
    )
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    planes = torch.from_numpy(normalized(image, model.card.normalization))[:, None]
    found = model(planes).argmax(1).numpy()
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
    save_model(tmp_path / "boxes", model.module, model.card)
    assert torch.equal(load_model(tmp_path / "boxes")(planes), model(planes))


def test_the_same_seed_gives_the_same_weights(boxes):
    image, truth = boxes
    before = torch.random.get_rng_state()
    made = [
        train_semantic(
            [image, image[::-1]], [truth, truth[::-1]], architecture=TINY, steps=3, patch=16, seed=s
        ).digest
        for s in (5, 5, 6)
    ]
    assert made[0] == made[1] != made[2]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_three_classes(boxes):
    image, truth = boxes
    truth = truth.copy()
    truth[:, :, :20] *= 2
    model = train_semantic([image], [truth], architecture=TINY, steps=2, patch=16)
    assert model.card.outputs == 3


def test_patches_are_cut_where_image_and_truth_agree():
    """The image holds its own class: any wrong cut or flip would show."""
    truth = np.random.default_rng(1).integers(0, 3, (9, 20, 33))
    recipe = Recipe(patch=16, batch=6, seed=2)
    sampler = PatchSampler([truth.astype(np.float32) * 10], [truth], recipe)
    for _ in range(8):
        tiles, classes = sampler.batch()
        assert tiles.shape == (6, 1, 16, 16)
        for tile, cls in zip(tiles[:, 0], classes, strict=True):
            inside = cls != IGNORED
            assert int(inside.sum()) in {9 * 16, 16 * 16}
            means = [tile[cls == value].mean() for value in range(3)]
            assert means[0] + 5 < means[1]
            assert means[1] + 5 < means[2]
            assert (torch.round((tile - means[0]) / (means[1] - means[0])) == cls)[inside].all()


def test_padding_counts_for_nothing():
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    classes = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    classes[:, :, 4:] = IGNORED
    wild = logits.clone()
    wild[..., 4:] = 1e3 * torch.randn(2, 3, 8, 4)
    assert torch.equal(semantic_loss(logits, classes), semantic_loss(wild, classes))
    right = torch.nn.functional.one_hot(classes.clamp(min=0), 3).movedim(-1, 1) * 50.0
    assert float(semantic_loss(right, classes)) < 1e-3


@pytest.mark.parametrize(
    ("scheme", "wanted"),
    [
        ("none", [0, 50, 100]),
        ("minmax", [0, 0.5, 1]),
        ("zscore", [-1.2247449, 0, 1.2247449]),
        (Normalization("percentile", low=0, high=50), [0, 1, 2]),
        (Normalization("fixed", mean=50, std=25), [-2, 0, 2]),
    ],
)
def test_normalisations(scheme, wanted):
    volume = np.array([0, 50, 100], np.uint8).reshape(1, 1, 3)
    got = normalized(volume, Normalization.of(scheme))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.ravel(), wanted, rtol=1e-6)
    if scheme != "none":
        assert np.isfinite(normalized(np.full((2, 2, 2), 7), Normalization.of(scheme))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "0 images and 1 masks"),
        ({"masks": [np.zeros((4, 4, 4), bool)]}, "its mask"),
        ({"masks": [np.zeros((8, 16, 16), bool)]}, "class 0 only"),
        ({"masks": [np.full((8, 16, 16), -1)]}, "whole numbers from 0"),
        ({"masks": [np.full((8, 16, 16), 0.5)]}, "whole numbers from 0"),
        ({"patch": 15}, "patch=15 must be a multiple of the divisor 2"),
        ({"orientations": ("xy", "yx")}, "must be some of"),
        ({"orientations": ()}, "must be some of"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"device": "cuda:9"}, "'cuda:9' is not on this machine"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    rng = np.random.default_rng(0)
    settings = {
        "images": [rng.random((8, 16, 16), np.float32)],
        "masks": [rng.integers(0, 2, (8, 16, 16))],
        "architecture": TINY,
        "patch": 16,
        **change,
    }
    with pytest.raises(BadInput, match=message):
        train_semantic(settings.pop("images"), settings.pop("masks"), **settings)
