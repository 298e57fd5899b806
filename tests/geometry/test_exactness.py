"""The contract of packing, proved on networks: where `is_exact` says so, nobody can tell.

The networks are plain CNNs with random weights and biases: convolutions with zero padding, ReLU,
pooling and nearest upsampling with skips. What a stripe gets in a packed tile is compared, bit for
bit, with what it gets alone in the middle of a tile.

Weights and voxels are small whole numbers in float64, so no sum is ever rounded: a difference is a
neighbour that was seen, never the order in which a convolution adds up its terms. That order may
depend on the place in a narrow tile (1e-7 of the logits, in float32); on tiles of 256 pixels it
does not, which the last tests hold on to with our own U-Net in float32.
"""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orthoflow.geometry.stripes import Layout, balanced_layout, seed_layout, single_layout
from orthoflow.models.nets import UNet


class Plain(torch.nn.Module):
    """A U-Net of `depth` poolings; its stride is 2**depth."""

    def __init__(self, depth, seed, pool="max"):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = 3
        self.first = _conv(1, width, generator)
        self.down = torch.nn.ModuleList(_conv(width, width, generator) for _ in range(depth))
        self.up = torch.nn.ModuleList(_conv(2 * width, width, generator) for _ in range(depth))
        self.last = _conv(width, 2, generator, kernel=1)
        self.pool = getattr(torch.nn.functional, f"{pool}_pool2d")

    def forward(self, tiles):
        features = [torch.relu(self.first(tiles))]
        for layer in self.down:
            features.append(torch.relu(layer(self.pool(features[-1], 2))))
        found = features.pop()
        for layer in self.up:
            found = torch.nn.functional.interpolate(found, scale_factor=2, mode="nearest")
            found = torch.relu(layer(torch.cat((found, features.pop()), 1)))
        return self.last(found)


def _conv(channels, out, generator, kernel=3):
    layer = torch.nn.Conv2d(channels, out, kernel, padding=kernel // 2)
    for tensor in (layer.weight, layer.bias):
        tensor.data.copy_(torch.randint(-3, 4, tensor.shape, generator=generator))
    return layer.double().eval()


@functools.cache
def network(depth, pool="max"):
    return Plain(depth, seed=7 + depth, pool=pool)


@functools.cache
@torch.inference_mode()
def reach(depth, pool="max"):
    """Rows to each side that a voxel can change: one voxel of every phase is set to NaN."""
    side, middle = 96, 48
    found = 0
    for phase in range(2**depth):
        tile = torch.zeros(1, 1, side, side, dtype=torch.float64)
        tile[0, 0, middle + phase, middle + phase] = float("nan")
        rows = network(depth, pool)(tile).isnan().any(dim=(0, 1, 3)).nonzero()
        found = max(found, *(int((row - middle - phase).abs()) for row in rows))
    assert 0 < found < middle, "the probe must not touch the edge"
    return found


@torch.inference_mode()
def packed_and_alone(net, layout, width=24, seed=0):
    """Outputs of every stripe in one packed tile, and of every stripe alone."""
    generator = torch.Generator().manual_seed(seed)
    stripes = torch.randint(-9, 10, (layout.count, 1, layout.length, width), generator=generator)
    stripes = stripes.to(next(net.parameters()).dtype)
    together = stripes.new_zeros(1, 1, layout.tile, width)
    for stripe, start in zip(stripes, layout.starts, strict=True):
        together[0, :, start : start + layout.length] = stripe
    middle = single_layout(layout.length, layout.tile).starts[0]
    alone = stripes.new_zeros(layout.count, 1, layout.tile, width)
    alone[:, :, middle : middle + layout.length] = stripes
    out = net(together)[0]
    packed = torch.stack([out[:, s : s + layout.length] for s in layout.starts])
    return packed, net(alone)[:, :, middle : middle + layout.length]


@pytest.mark.parametrize(("depth", "pool"), [(0, "max"), (1, "max"), (2, "max"), (2, "avg")])
@settings(max_examples=40)
@given(length=st.integers(1, 40), cells=st.integers(4, 24), seed=st.integers(0, 99))
def test_balanced_stripes_cannot_be_seen(depth, pool, length, cells, seed):
    far = reach(depth, pool)
    layout = balanced_layout(
        length, tile=8 * cells, stride=2**depth, guard=far, border=far, most=6
    ) if length <= 8 * cells else None  # fmt: skip
    assume(layout is not None)
    assert layout.is_exact(stride=2**depth, reach=far)
    packed, alone = packed_and_alone(network(depth, pool), layout, seed=seed)
    assert torch.equal(packed, alone)


@pytest.mark.parametrize("depth", [0, 1, 2])
@settings(max_examples=60)
@given(
    length=st.integers(1, 12),
    starts=st.lists(st.integers(0, 84), min_size=2, max_size=3, unique=True).map(sorted),
)
def test_any_layout_that_is_exact_cannot_be_seen(depth, length, starts):
    layout = Layout(length, 96, tuple(starts))
    assume(layout.gap >= 0)
    if layout.is_exact(stride=2**depth, reach=reach(depth)):
        packed, alone = packed_and_alone(network(depth), layout)
        assert torch.equal(packed, alone)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_forks_starts_are_seen_and_ours_are_not(depth):
    """5, 94, 183 are out of phase; 14, 94, 174 hold as many stripes. Not a question of rounding."""
    net = network(depth)
    seed = seed_layout(68, tile=256, pack_k=3, border=5)
    packed, alone = packed_and_alone(net, seed)
    assert (packed - alone).abs().mean() > 0.05 * alone.abs().mean()
    assert not seed.is_exact(stride=2**depth, reach=reach(depth))
    ours = balanced_layout(68, tile=256, stride=16, guard=8, border=8, most=9)
    assert ours.starts == (14, 94, 174)
    packed, alone = packed_and_alone(net, ours)
    assert torch.equal(packed, alone) == ours.is_exact(stride=2**depth, reach=reach(depth))
    if depth == 1:
        assert ours.is_exact(stride=2, reach=reach(1)), "reach 9 fits the gap of 12"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_narrower_gaps_are_seen(depth):
    """The contract asks for no more than it needs: a period of the stride less, and it shows."""
    net, stride, far = network(depth), 2**depth, reach(depth)
    room = -(-far // stride) * stride
    tight = (far - stride) // stride * stride
    layout = Layout(8, 2 * room + 16 + tight, (room, room + 8 + tight))
    # Out of phase with a piece alone or not: both pieces are compared in phase with themselves.
    wide = Layout(8, 4 * room + 16, (room, 2 * room + 8))
    assert not layout.is_exact(stride=stride, reach=far)
    here, _ = packed_and_alone(net, layout)
    there, _ = packed_and_alone(net, wide)
    assert not torch.equal(here, there)


@torch.inference_mode()
def test_pieces_side_by_side_and_on_top_of_each_other_cannot_be_seen():
    """Shared last pieces: four corners in one tile, packed along both axes."""
    net, far = network(1), reach(1)
    rows = balanced_layout(21, tile=96, stride=2, guard=far, border=far, most=2)
    columns = balanced_layout(18, tile=80, stride=2, guard=far, border=far, most=2)
    generator = torch.Generator().manual_seed(3)
    pieces = torch.randint(-9, 10, (4, 1, 21, 18), generator=generator).double()
    tile = pieces.new_zeros(1, 1, 96, 80)
    places = [(y, x) for y in rows.starts for x in columns.starts]
    for piece, (y, x) in zip(pieces, places, strict=True):
        tile[0, :, y : y + 21, x : x + 18] = piece
    y0, x0 = single_layout(21, 96).starts[0], single_layout(18, 80).starts[0]
    alone = pieces.new_zeros(4, 1, 96, 80)
    alone[:, :, y0 : y0 + 21, x0 : x0 + 18] = pieces
    out = net(tile)[0]
    packed = torch.stack([out[:, y : y + 21, x : x + 18] for y, x in places])
    assert rows.is_exact(stride=2, reach=far)
    assert columns.is_exact(stride=2, reach=far)
    assert torch.equal(packed, net(alone)[:, :, y0 : y0 + 21, x0 : x0 + 18])


@pytest.mark.parametrize(("depth", "length"), [(1, 68), (2, 40), (3, 16)])
def test_our_unet_gives_the_same_float32_bits_in_packed_tiles(depth, length):
    torch.manual_seed(depth)
    net = UNet(outputs=2, channels=1, base=8, depth=depth).eval()
    probe = torch.zeros(1, 1, 256, 32)
    probe[0, 0, 128] = float("nan")
    with torch.inference_mode():
        rows = net(probe).isnan().any(dim=(0, 1, 3)).nonzero().flatten()
    far = int((rows - 128).abs().max()) + 2**depth
    layout = balanced_layout(
        length, tile=256, stride=2**depth, guard=min(far, 80), border=min(far, 80), most=3
    )
    assert layout.is_exact(stride=2**depth, reach=far)
    packed, alone = packed_and_alone(net, layout, width=256)
    assert torch.equal(packed, alone)
