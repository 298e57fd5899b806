"""Measured reach, stride and memory against what can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from orthoflow.models.contract import Model
from orthoflow.models.nets import UNet
from orthoflow.models.reach import activation_bytes, measure_reach


def unet_reach(depth):
    """Receptive field of our U-Net, worst phase, counted level by level.

    A level pools by two and runs two 3-wide convolutions each way: a pixel acts 2 outputs far on
    its own level. Going down halves an interval outward, going up doubles it.
    """
    worst = 0
    for at in range(2**depth):
        first = last = at
        spans = []
        for _ in range(depth):
            first, last = first - 2, last + 2
            spans.append((first, last))
            first, last = first // 2, last // 2
        first, last = first - 2, last + 2
        for skip_first, skip_last in reversed(spans):
            first, last = min(2 * first, skip_first) - 2, max(2 * last + 1, skip_last) + 2
        worst = max(worst, at - first, last - at)
    return worst


class Swallows(nn.Module):
    """A box blur of a threshold: NaN does not come through."""

    def forward(self, tiles):
        bright = (tiles > 0.9).float()
        sums = functional.avg_pool2d(bright, 7, stride=1, padding=3)
        return torch.cat((-sums, sums), 1)


class Normalizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.InstanceNorm2d(2))

    def forward(self, tiles):
        return self.layer(tiles)


class Positioned(nn.Module):
    """A code with a period of 8 pixels added to the input, as patches of a transformer do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 5, padding=2)

    def forward(self, tiles):
        height, width = tiles.shape[2:]
        code = torch.arange(8.0).repeat(width // 8) / 8
        rows = torch.arange(8.0).repeat(height // 8)[:, None] / 8
        return self.layer(tiles + code + rows)


class Lopsided(nn.Module):
    """Sees 5 pixels behind and none ahead, along x only."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, (1, 6))

    def forward(self, tiles):
        return self.layer(functional.pad(tiles, (5, 0)))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_reach_of_a_unet_is_its_receptive_field(depth):
    torch.manual_seed(depth)
    model = Model.from_torch(UNet(outputs=2, base=4, depth=depth))
    assert measure_reach(model) == (unet_reach(depth), 2**depth)


def test_reach_in_three_dimensions():
    torch.manual_seed(0)
    model = Model.from_torch(UNet(outputs=2, base=2, depth=1, ndim=3), ndim=3)
    assert measure_reach(model) == (unet_reach(1), 2)


@pytest.mark.parametrize(
    ("module", "facts", "wanted"),
    [
        (nn.Conv2d(1, 2, 7, padding=3), {"divisor": 1}, (3, 1)),
        (nn.Conv2d(1, 2, 7, padding=3), {"divisor": 16}, (3, 1)),
        (nn.Conv2d(1, 2, 3, padding=4, dilation=4), {"tile": (64, 64)}, (4, 1)),
        (nn.Conv2d(1, 2, 1), {"divisor": 4}, (0, 1)),
        (Swallows(), {"divisor": 1}, (3, 1)),
        (Lopsided(), {"divisor": 1}, (5, 1)),
        (Positioned(), {"divisor": 8}, (2, 8)),
        (Positioned(), {"divisor": 8, "stride": 4}, (2, 8)),
        (Normalizes(), {"divisor": 8}, (None, 8)),
        (nn.Conv2d(1, 2, 63, padding=31), {"tile": (32, 32)}, (None, 16)),
    ],
)
def test_reach_and_stride_of_small_modules(module, facts, wanted):
    torch.manual_seed(0)
    assert measure_reach(Model.from_torch(module, **facts)) == wanted


class Counted(nn.Module):
    """Tensors of 1, 3, 3 and 2 channels; at the addition the input, both threes are alive."""

    def __init__(self, free):
        super().__init__()
        self.widen = nn.Conv2d(1, 3, 1)
        self.narrow = nn.Conv2d(3, 2, 1)
        self.free = free

    def forward(self, tiles):
        first = self.widen(tiles)
        second = torch.relu(first)
        if self.free:
            first = second.add_(1.0)
        return self.narrow(second)


@pytest.mark.parametrize(("free", "numbers"), [(False, 1 + 3 + 3 + 2), (True, 1 + 3 + 3)])
def test_memory_can_be_counted_by_hand(free, numbers):
    """Alive at the last layer: input, both threes and the output, unless the first is freed."""
    model = Model.from_torch(Counted(free), divisor=1)
    assert activation_bytes(model, (32, 16)) == 4 * numbers


def test_memory_of_a_unet_scales_with_the_tile_and_is_a_known_count():
    model = Model.from_torch(UNet(outputs=2, base=4, depth=1))
    # At the last level: input 1, skip 4, raised 4, both joined 8, its convolution 4; below, the
    # narrowed 4 at a quarter of the pixels are gone by then.
    wanted = 4 * (1 + 4 + 4 + 8 + 4)
    for shape in ((32, 32), (64, 128)):
        assert math.isclose(activation_bytes(model, shape), wanted, rel_tol=0.15)
    small, large = activation_bytes(model, (32, 32)), activation_bytes(model, (64, 128))
    assert small == large
