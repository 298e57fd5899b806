"""Resampling and normalisation against slow and obvious ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BlockFailed
from orthoflow.geometry.box import Box
from orthoflow.geometry.scale import support_box
from orthoflow.kernels.prepare import (
    constant_planes,
    normalize_patches,
    normalize_volume,
    resample,
    to_device,
)
from orthoflow.models.card import Normalization
from orthoflow.reduce.statistics import GreyScale, grey_scale
from tests import oracles

CPU = torch.device("cpu")
sides = st.integers(1, 12)
shapes = st.tuples(sides, sides, sides)


def boxes_in(data, shape):
    bounds = [
        sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n)))) for n in shape
    ]
    bounds = [(lo, hi) if lo < hi else (lo, lo + 1) for lo, hi in bounds]
    return Box(tuple(lo for lo, _ in bounds), tuple(hi for _, hi in bounds))


# -------------------------------------------------------------------------------------- resample


@given(shapes, shapes, st.data())
def test_a_box_is_resampled_as_the_crop_of_the_whole(source, target, data):
    voxels = torch.from_numpy(np.random.default_rng(0).random((2, *source), np.float32))
    whole = resample(voxels, source, target, inside=Box.whole(source), wanted=Box.whole(target))
    wanted = boxes_in(data, target)
    inside = support_box(wanted, source=source, target=target)
    part = resample(
        voxels[(slice(None), *inside.slices)], source, target, inside=inside, wanted=wanted
    )
    assert torch.equal(part, whole[(slice(None), *wanted.slices)])


@given(shapes, shapes, st.sampled_from([0.1, 7.3, -1e6, 3e-9]))
def test_constant_volumes_stay_exactly_constant(source, target, value):
    voxels = torch.full((1, *source), value)
    found = resample(voxels, source, target, inside=Box.whole(source), wanted=Box.whole(target))
    assert found.shape == (1, *target)
    assert (found == voxels[0, 0, 0, 0]).all()


@given(shapes, shapes)
def test_resampling_is_linear_one_way_and_a_mean_the_other(source, target):
    voxels = np.random.default_rng(1).random((1, *source))
    expected = voxels
    for axis, n in enumerate(target):
        if n != source[axis]:
            line = oracles.linear if n > source[axis] else oracles.area_average
            expected = np.apply_along_axis(line, axis + 1, expected, n)
    found = resample(
        torch.from_numpy(voxels.astype(np.float32)),
        source,
        target,
        inside=Box.whole(source),
        wanted=Box.whole(target),
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_the_same_grid_copies_nothing():
    voxels = torch.arange(24).reshape(1, 2, 3, 4).to(torch.uint8)
    box = Box((0, 1, 1), (2, 3, 3))
    found = resample(voxels, (2, 3, 4), (2, 3, 4), inside=Box.whole((2, 3, 4)), wanted=box)
    assert torch.equal(found, voxels[:, :, 1:3, 1:3])
    assert found.untyped_storage().data_ptr() == voxels.untyped_storage().data_ptr()


# --------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f2", "f4", "f8"])
def test_voxels_keep_their_values_on_the_device(dtype):
    voxels = np.arange(24).reshape(1, 2, 3, 4).astype(dtype)[..., ::-1]
    found = to_device(voxels, box=Box.whole((2, 3, 4)), nan_policy="fail", device=CPU)
    np.testing.assert_array_equal(found.double().numpy(), voxels.astype(float))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_or_is_zero(bad):
    voxels = np.ones((1, 2, 3, 4), np.float32)
    voxels[0, 1, 1, 1:3] = bad
    box = Box((5, 0, 0), (7, 3, 4))
    with pytest.raises(BlockFailed, match=r"5:7,0:3,0:4 holds 2 values .* nan_policy=zero"):
        to_device(voxels, box=box, nan_policy="fail", device=CPU)
    found = to_device(voxels, box=box, nan_policy="zero", device=CPU)
    assert (found == 0).sum() == 2
    assert (found == 1).sum() == 22
    assert not np.isfinite(voxels).all()  # the caller's array is not touched


# --------------------------------------------------------------------------------- normalisation


def samples(seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).gamma(2, 30, (2, 6, 7, 8))
    values[1] = values[1] * 5 + 100
    return values.astype(dtype)


SCHEMES = {
    "zscore": lambda x, _: (x - x.mean()) / x.std(),
    "minmax": lambda x, _: (x - x.min()) / (x.max() - x.min()),
    "percentile": lambda x, n: (
        (x - np.percentile(x, n.low)) / (np.percentile(x, n.high) - np.percentile(x, n.low))
    ),
}
NORMALIZATIONS = [
    Normalization("zscore"),
    Normalization("minmax"),
    Normalization("percentile"),
    Normalization("percentile", low=10, high=60),
]


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=str)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_the_whole_volumes_statistics_are_numpys_per_channel(normalization, dtype):
    values = (
        samples(dtype=np.dtype(dtype)) if dtype != "u1" else samples().clip(0, 255).astype("u1")
    )
    pieces = [values[:, :2], values[:, 2:]]
    grey = grey_scale(pieces, normalization, name="test")
    found = normalize_volume(torch.from_numpy(values.astype(np.float32))[None], grey)[0]
    for channel in range(2):
        expected = SCHEMES[normalization.method](values[channel].astype(float), normalization)
        np.testing.assert_allclose(found[channel].numpy(), expected, atol=2e-5)


def test_nothing_is_done_where_there_is_no_grey_scale():
    patches = torch.rand(2, 1, 4, 4)
    assert normalize_volume(patches, None) is patches
    halves = normalize_volume(patches, GreyScale((0.5,), (2.0,)))
    assert torch.equal(halves, (patches - 0.5) * 2)


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=str)
@pytest.mark.parametrize("ndim", [2, 3])
def test_each_patch_is_normalised_by_itself_and_per_channel(normalization, ndim):
    patches = samples(2).reshape(6, 2, 7, 8) if ndim == 2 else samples(2).reshape(3, 2, 2, 7, 8)
    found = normalize_patches(torch.from_numpy(patches), normalization).numpy()
    for one, expected in zip(found, patches, strict=True):
        for channel in range(2):
            wide = expected[channel].astype(float)
            expected_channel = SCHEMES[normalization.method](wide, normalization)
            np.testing.assert_allclose(one[channel], expected_channel, atol=2e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=str)
def test_a_patch_is_the_same_in_any_batch_and_memory_order(normalization):
    patches = torch.from_numpy(np.random.default_rng(3).random((16, 1, 24, 40), np.float32))
    together = normalize_patches(patches, normalization)
    turned = patches.permute(2, 1, 3, 0).contiguous().permute(3, 1, 0, 2)
    assert torch.equal(normalize_patches(turned, normalization), together)
    for i, one in enumerate(patches):
        assert torch.equal(normalize_patches(one[None], normalization)[0], together[i])


@pytest.mark.parametrize("normalization", NORMALIZATIONS, ids=str)
def test_a_constant_patch_becomes_zero(normalization):
    patches = torch.full((2, 1, 8, 8), 77.0)
    assert (normalize_patches(patches, normalization) == 0).all()
    grey = grey_scale([np.full((1, 4, 4, 4), 77, np.uint8)], normalization, name="constant")
    assert (normalize_volume(patches, grey) == 0).all()


# ----------------------------------------------------------------------------------------- empty


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.data())
def test_constant_planes_by_looking_at_every_voxel(channels, planes, rows, columns, data):
    voxels = torch.zeros((channels, planes, rows, columns), dtype=torch.uint8)
    voxels += torch.arange(planes)[:, None, None].to(torch.uint8)
    for _ in range(data.draw(st.integers(0, 3))):
        place = [data.draw(st.integers(0, n - 1)) for n in voxels.shape]
        voxels[tuple(place)] += 1
    expected = [
        all(len(np.unique(voxels[c, p].numpy())) == 1 for c in range(channels))
        for p in range(planes)
    ]
    assert constant_planes(voxels).tolist() == expected


def test_constant_boxes_of_three_axes():
    voxels = torch.zeros((1, 1, 9, 9, 9))
    assert constant_planes(voxels).tolist() == [True]
    voxels[0, 0, 8, 8, 8] = 1
    assert constant_planes(voxels).tolist() == [False]
