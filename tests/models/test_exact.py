"""One algorithm for float32 convolutions: the same function as torch's own, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from orthoflow.models.exact import FixedAlgorithm


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
