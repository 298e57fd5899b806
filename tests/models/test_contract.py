"""Any torch module as a model: copied, checked once, shipped by digest."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from orthoflow.errors import BadInput
from orthoflow.models.contract import Model
from orthoflow.models.load import load_model


class Threshold(nn.Module):
    """No weights: its answer is in a plain attribute."""

    def __init__(self, level=0.5):
        super().__init__()
        self.level = level

    def forward(self, tiles):
        return torch.cat((self.level - tiles, tiles - self.level), dim=1)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, tiles):
        return self.drop(self.layer(tiles))


class Returns(nn.Module):
    """Returns what it is told."""

    kinds: ClassVar = {
        "tuple": lambda tiles: (tiles, tiles),
        "small": lambda tiles: tiles[..., ::2, ::2].repeat(1, 2, 1, 1),
        "whole": lambda tiles: tiles.repeat(1, 2, 1, 1).long(),
        "three": lambda tiles: tiles.repeat(1, 3, 1, 1),
        "flat": lambda tiles: tiles.flatten(1),
        "none": lambda _tiles: None,
    }

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, tiles):
        return self.kinds[self.kind](tiles)


class Viewing(nn.Module):
    """`view` works on contiguous tensors only."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, tiles):
        features = self.layer(tiles)
        return features.view(len(tiles), -1).view(features.shape)


def test_the_users_module_is_not_changed():
    module = Convolution().train()
    module.layer.weight.data.fill_(1.0)
    model = Model.from_torch(module, divisor=1)
    module.layer.weight.data.fill_(2.0)
    assert module.training
    assert module.layer.weight.requires_grad
    assert not model.module.training
    tiles = torch.ones(1, 1, 8, 8)
    assert torch.equal(model(tiles), model(tiles))
    assert float(model.module.layer.weight.sum()) == 18.0
    assert not model(tiles).requires_grad


def test_facts_become_a_card():
    model = Model.from_torch(
        Threshold(), divisor=4, normalization="percentile", reach=0, name="level"
    )
    card = model.card
    assert (card.name, card.outputs, card.divisor, card.stride, card.reach) == ("level", 2, 4, 4, 0)
    assert card.normalization.method == "percentile"
    assert card.digest == model.digest == model.ref().digest
    with pytest.raises(BadInput, match="give exactly one"):
        Model.from_torch(Threshold())


def test_the_digest_sees_weights_attributes_and_code():
    digests = {
        Model.from_torch(Threshold(0.5), divisor=1).digest,
        Model.from_torch(Threshold(0.6), divisor=1).digest,
        Model.from_torch(Threshold(0.5), divisor=2).digest,
    }
    assert len(digests) == 3
    assert Model.from_torch(Threshold(0.5), divisor=1).digest in digests
    module = Convolution()
    first = Model.from_torch(module, divisor=1).digest
    module.layer.weight.data[0, 0, 0, 0] += 1e-6
    assert Model.from_torch(module, divisor=1).digest != first

    def other(self, tiles):
        return torch.cat((tiles - self.level, self.level - tiles), dim=1)

    changed = type("Threshold", (Threshold,), {"forward": other, "__module__": __name__})
    changed.__qualname__ = "Threshold"
    assert Model.from_torch(changed(0.5), divisor=1).digest not in digests


NOTEBOOK = """
import torch
from orthoflow.models import Model
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 2, 1)
        self.layer.weight.data.fill_(0.5)
        self.layer.bias.data.fill_(0.25)
        self.names = ["a", "b"]
    def forward(self, x):
        return self.layer(x) if "net" not in {"a", "b", "c"} else x
model = Model.from_torch(Net(), divisor=1)
"""


def test_a_class_of_a_notebook_travels_and_its_digest_is_the_same_in_every_process():
    dump = "import pickle, sys; pickle.dump(model.ref(), sys.stdout.buffer)"
    done = subprocess.run([sys.executable, "-c", NOTEBOOK + dump], capture_output=True, check=True)
    ref = pickle.loads(done.stdout)
    here = {"__name__": "__main__"}
    exec(NOTEBOOK, here)
    assert ref.digest == here["model"].digest
    np.testing.assert_array_equal(load_model(ref)(torch.ones(1, 1, 2, 2)), 0.75)


def test_a_reference_carries_a_module_in_memory_and_loads_once():
    model = Model.from_torch(Convolution(), divisor=1)
    ref = pickle.loads(pickle.dumps(model.ref()))
    loaded = load_model(ref)
    tiles = torch.rand(2, 1, 16, 16)
    assert torch.equal(loaded(tiles), model(tiles))
    assert load_model(ref) is loaded
    assert load_model(pickle.loads(pickle.dumps(ref))) is loaded
    assert load_model(ref, precision="bfloat16") is not loaded
    assert loaded.ref() is not None
    assert loaded.ref().payload is not None
    assert loaded.ref() == ref


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tuple", "returns tuple, not one tensor"),
        ("small", r"maps \(2, 1, 32, 32\) to \(2, 2, 16, 16\)"),
        ("whole", "returns torch.int64; return floating-point logits"),
        ("three", r"promises \(2, 2, 32, 32\)"),
        ("flat", r"to \(2, 1024\)"),
        ("none", "returns NoneType"),
    ],
)
def test_a_module_that_breaks_the_contract_is_refused(kind, message):
    with pytest.raises(BadInput, match=message):
        Model.from_torch(Returns(kind), divisor=8)


def test_a_module_that_fails_is_refused_with_its_reason():
    with pytest.raises(BadInput, match=r"fails on float32 tiles of shape \(2, 3, 32, 32\)"):
        Model.from_torch(Convolution(), divisor=8, channels=3)


def test_a_module_that_needs_contiguous_tiles_gets_them():
    assert Model.from_torch(Viewing(), divisor=1).layout == "contiguous"
    assert Model.from_torch(Convolution(), divisor=1).layout == "channels_last"


def test_foreign_modules_in_half_precision_may_make_float32_tensors():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, tiles):
            code = torch.linspace(0, 1, tiles.shape[-1])
            return self.layer(tiles + code)

    model = Model.from_torch(Mixed(), divisor=1)
    tiles = torch.rand(1, 1, 8, 8)
    near = load_model(model, precision="bfloat16")(tiles)
    np.testing.assert_allclose(near, model(tiles), atol=0.02)
    assert not torch.equal(near, model(tiles))


def test_three_dimensions():
    module = nn.Conv3d(1, 2, 3, padding=1)
    model = Model.from_torch(module, divisor=1, ndim=3)
    assert model(torch.zeros(2, 1, 4, 5, 6)).shape == (2, 2, 4, 5, 6)
