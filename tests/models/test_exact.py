"""One algorithm for float32 convolutions: the same function as torch's own, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from orthoflow.models.contract import Model
from orthoflow.models.exact import FixedAlgorithm
from orthoflow.models.load import load_model
from orthoflow.models.nets import UNet


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": (2, 0), "stride": (1, 2)},
        {"dilation": 2, "padding": [2, 2]},
        {"groups": 2, "padding": (1,)},
        {"padding": "same"},
    ],
)
@pytest.mark.parametrize("count", [1, 17])
def test_convolutions_are_the_same_function(options, count):
    generator = torch.Generator().manual_seed(0)
    tiles = torch.rand((count, 4, 12, 14), generator=generator)
    weight = torch.randn((6, 4 // options.get("groups", 1), 3, 3), generator=generator)
    bias = torch.randn(6, generator=generator)
    wanted = functional.conv2d(tiles, weight, bias, **options)
    with torch.no_grad(), FixedAlgorithm():
        torch.testing.assert_close(functional.conv2d(tiles, weight, bias, **options), wanted)
        torch.testing.assert_close(
            functional.conv2d(tiles, weight, **options) + bias[:, None, None], wanted
        )
        alone = functional.conv2d(tiles[0], weight, bias, **options)
    torch.testing.assert_close(alone, wanted[0])


def test_half_precision_and_other_functions_pass():
    tiles = torch.rand(1, 2, 8, 8)
    weight = torch.rand(2, 2, 3, 3)
    with torch.no_grad():
        wanted = functional.conv2d(tiles.bfloat16(), weight.bfloat16())
        double = functional.conv2d(tiles.double(), weight.double())
        with FixedAlgorithm():
            assert torch.equal(functional.conv2d(tiles.bfloat16(), weight.bfloat16()), wanted)
            assert torch.equal(functional.conv2d(tiles.double(), weight.double()), double)
            assert torch.equal(torch.relu(tiles - 0.5), (tiles - 0.5).clamp(min=0))
            with torch.autocast("cpu", torch.bfloat16):
                assert functional.conv2d(tiles, weight).dtype == torch.bfloat16


def test_torch_alone_does_not_keep_the_promise():
    """Why this exists; when this test fails, torch has changed and the module may go."""
    tiles = torch.rand((8, 2, 64, 48), generator=torch.Generator().manual_seed(0))
    weight = torch.randn((6, 2, 3, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = functional.conv2d(tiles, weight)[:1]
        assert not torch.equal(functional.conv2d(tiles[:1], weight), plain)
        with FixedAlgorithm():
            fixed = functional.conv2d(tiles, weight)[:1]
            assert torch.equal(functional.conv2d(tiles[:1], weight), fixed)


class Foreign(nn.Module):
    """A plain network of someone else's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(), nn.AvgPool2d(2)
        )
        self.second = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=2, dilation=2), nn.ReLU(), nn.Upsample(None, 2, "bilinear")
        )
        self.last = nn.Conv2d(7, 2, 1)

    def forward(self, tiles):
        raised = self.second(self.first(tiles))
        return self.last(torch.cat((tiles, raised * 0.5 + 1), 1))


class Transposed(Foreign):
    def __init__(self):
        super().__init__()
        self.second = nn.ConvTranspose2d(6, 6, 2, stride=2)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 128)

    def forward(self, tiles):
        return self.layer(tiles.flatten(1)).view(len(tiles), 2, 8, 8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("module", "facts", "shared"),
    [
        (Foreign, {"divisor": 2}, True),
        (Transposed, {"divisor": 2}, False),
        (Dense, {"tile": (8, 8)}, False),
        (lambda: UNet(outputs=2, base=4, depth=2), {}, True),
        (lambda: nn.Conv2d(1, 2, 3, padding="same"), {"divisor": 1}, None),
    ],
)
def test_foreign_modules_share_a_batch_only_where_it_cannot_show(module, facts, shared, precision):
    torch.manual_seed(0)
    model = load_model(Model.from_torch(module(), **facts), precision=precision)
    if shared is not None:
        assert model.shared == shared
    shapes = [(8, 8)] if "tile" in facts else [(8, 8), (24, 40), (96, 64)]
    for height, width in shapes:
        tiles = torch.rand(18, 1, height, width)
        alone = torch.cat([model(tile[None]) for tile in tiles])
        assert torch.equal(model(tiles), alone)
        assert torch.equal(torch.cat([model(tiles[:7]), model(tiles[7:])]), alone)
        if model.shared:
            assert torch.equal(model.raw(tiles).float(), alone)
