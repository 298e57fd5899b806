"""Our U-Nets: shapes, folding, and the bitwise promises that the sums rely on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orthoflow.errors import BadInput
from orthoflow.models.contract import Model
from orthoflow.models.load import load_model
from orthoflow.models.nets import UNet, build_net, folded


def trained_looking(net):
    """Batch norms with statistics unlike those of a new network."""
    generator = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            for tensor in (part.running_mean, part.weight.data, part.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.1)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return trained_looking(UNet(outputs=3, channels=2, base=6, depth=3))


@pytest.mark.parametrize(("ndim", "shape"), [(2, (16, 40)), (3, (8, 16, 4))])
def test_any_multiple_of_the_divisor_keeps_its_shape(ndim, shape):
    net = UNet(outputs=3, channels=2, base=4, depth=2, ndim=ndim).eval()
    assert net.divisor == 4
    assert net(torch.zeros(2, 2, *shape)).shape == (2, 3, *shape)


@pytest.mark.parametrize("ndim", [2, 3])
def test_folding_changes_rounding_only(ndim):
    torch.manual_seed(0)
    net = trained_looking(UNet(outputs=2, base=4, depth=2, ndim=ndim))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = folded(net)
    tiles = torch.rand(2, 1, *(16,) * ndim)
    wanted = net(tiles).detach()
    assert float(wanted.std()) > 0.1
    np.testing.assert_allclose(plain(tiles).detach(), wanted, atol=1e-5 * float(wanted.abs().max()))
    assert not any("norm" in name for name in plain.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_net_is_rebuilt_from_its_architecture(net):
    again = build_net(net.architecture, outputs=3, channels=2, ndim=2)
    again.load_state_dict(net.state_dict())
    tiles = torch.rand(1, 2, 16, 16)
    assert torch.equal(again.eval()(tiles), net(tiles))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"kind": "vit"}, "kind 'vit'"),
        ({}, "kind None"),
        ({"kind": "unet", "width": 3}, "'width'"),
        ({"kind": "unet", "base": 100_000}, "base 100000 must be a whole number from 1 to 512"),
        ({"kind": "unet", "depth": 0}, "depth 0"),
        ({"kind": "unet", "norm": "group"}, "norm 'group'"),
    ],
)
def test_wrong_architectures_are_refused(architecture, message):
    with pytest.raises(BadInput, match=message):
        build_net(architecture, outputs=2, channels=1, ndim=2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (64, 48), (72, 256)])
def test_an_answer_depends_neither_on_batch_nor_on_position(net, precision, layout, height, width):
    """Bitwise: the fixed-point sums are only as equal as the logits that go in.

    Without a fixed algorithm torch fails this at 8 x 8 and 64 x 48: one tile against many.
    """
    model = load_model(Model.from_torch(net, channels=2), precision=precision)
    generator = torch.Generator().manual_seed(2)
    tiles = torch.rand((18, 2, height, width), generator=generator).to(memory_format=layout)
    alone = torch.cat([model(tile[None]) for tile in tiles])
    order = torch.randperm(18, generator=generator)
    assert torch.equal(model(tiles), alone)
    assert torch.equal(model(tiles[order]), alone[order])
    assert torch.equal(torch.cat([model(tiles[:3]), model(tiles[3:11])]), alone[:11])
    padded = torch.cat([tiles[:3], torch.zeros_like(tiles[:5])])
    assert torch.equal(model(padded)[:3], alone[:3])
    assert torch.equal(model(tiles.contiguous()), alone)
    # The module itself keeps the promise in any batch, so splitting one is free to change.
    assert torch.equal(model.raw(tiles).float(), alone)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_answer_depends_neither_on_threads_nor_on_the_tile_around_it(net, precision):
    model = load_model(Model.from_torch(net, channels=2), precision=precision)
    tiles = torch.zeros(1, 2, 256, 240)
    tiles[..., 104:144, 104:136] = torch.rand(2, 40, 32)
    whole = model(tiles)
    torch.set_num_threads(2)
    assert torch.equal(model(tiles), whole)
    torch.set_num_threads(1)
    cut = model(tiles[..., 40:208, 40:200])
    # Reach 51: 13 pixels inside the smaller tile nothing of its edge is left.
    assert torch.equal(cut[..., 51:-51, 51:-51], whole[..., 91:157, 91:149])


def test_three_dimensions_keep_the_promise_too():
    torch.manual_seed(0)
    model = Model.from_torch(UNet(outputs=2, base=4, depth=2, ndim=3), ndim=3)
    tiles = torch.rand(17, 1, 8, 16, 12)
    alone = torch.cat([model(tile[None]) for tile in tiles])
    assert torch.equal(model.raw(tiles), alone)


def test_half_precision_is_near(net):
    model = Model.from_torch(net, outputs=3, channels=2)
    tiles = torch.rand(2, 2, 32, 32)
    exact, near = model(tiles), load_model(model, precision="bfloat16")(tiles)
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert float((near - exact).abs().mean()) < 0.02 * float(exact.std())


def test_shifting_by_the_stride_shifts_the_logits_bit_for_bit(net):
    """What packing relies on: the phase repeats with the divisor."""
    model = Model.from_torch(net, outputs=3, channels=2)
    tiles = torch.zeros(1, 2, 144, 144)
    tiles[..., 60:80, 60:80] = torch.rand(2, 20, 20)
    inside = slice(56, 88)
    first = model(tiles)[..., inside, inside]
    moved = model(tiles.roll((8, 8), dims=(2, 3)))[..., 64:96, 64:96]
    assert torch.equal(first, moved)
    off = model(tiles.roll((1, 1), dims=(2, 3)))[..., 57:89, 57:89]
    assert not torch.equal(first, off)
