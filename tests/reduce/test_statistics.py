"""Grey values: a sample that anybody finds again, and numbers as NumPy has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.models.card import Normalization
from orthoflow.reduce.statistics import GreyScale, grey_scale, sample_boxes

sides = st.integers(1, 30000)


@given(st.tuples(*[st.integers(1, 256)] * 3))
def test_small_volumes_are_looked_at_as_a_whole(shape):
    assert sample_boxes(shape) == [Box.whole(shape)]


@given(st.tuples(sides, sides, sides))
@example((34, 20000, 20000))
@example((1, 100_000, 100_000))
@example((2, 3, 2**26))
@example((257, 256, 256))
def test_large_volumes_are_sampled_evenly(shape):
    boxes = sample_boxes(shape)
    volume = Box.whole(shape)
    assert boxes == sample_boxes(shape)
    assert all(volume.contains(box) for box in boxes)
    if volume.voxels <= 2**24:
        return
    side = tuple(min(32, n) for n in shape)
    assert {box.shape for box in boxes} == {side}
    room = np.prod([n // s for n, s in zip(shape, side, strict=True)])
    assert min(300, room // 4) <= len(boxes) <= 800, "about 512, wherever there is room"
    # Every eighth of the volume along its longest axis is looked at.
    axis = int(np.argmax(shape))
    middles = [(box.start[axis] + box.stop[axis]) / 2 / shape[axis] for box in boxes]
    assert set(np.floor(np.array(middles) * 4).clip(0, 3)) == {0, 1, 2, 3}


def test_other_shapes_have_other_samples():
    assert sample_boxes((600, 600, 600)) != sample_boxes((600, 600, 601))


def volume(dtype, channels=1):
    values = np.random.default_rng(0).normal(1000, 300, (channels, 20, 30, 40)).clip(0, 60000)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", ">u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_are_those_of_numpy(dtype, channels):
    image = volume(dtype, channels)
    wide = image.astype(float).reshape(channels, -1)
    expected = {
        "zscore": (wide.mean(1), wide.std(1)),
        "minmax": (wide.min(1), wide.max(1) - wide.min(1)),
        "percentile": (
            np.percentile(wide, 1, axis=1),
            np.percentile(wide, 99, axis=1) - np.percentile(wide, 1, axis=1),
        ),
    }
    for method, (shift, width) in expected.items():
        pieces = [image[:, :7], image[:, 7:]]
        grey = grey_scale(pieces, Normalization.of(method), name="v")
        np.testing.assert_allclose(grey.shift, shift, rtol=1e-12)
        np.testing.assert_allclose(grey.factor, 1 / width, rtol=1e-9)


def test_percentiles_are_those_of_the_card():
    image = np.arange(1001, dtype=np.float32).reshape(1, 1, 1, -1)
    wanted = Normalization("percentile", low=10, high=60)
    grey = grey_scale([image], wanted, name="v")
    assert grey.shift == (100.0,)
    assert grey.factor == pytest.approx((1 / 500,))


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_constant_volumes_are_not_divided_by_zero(method):
    grey = grey_scale([np.full((1, 4, 4, 4), 7, np.uint8)], Normalization.of(method), name="v")
    assert grey.shift == (7.0,)
    assert np.isfinite(grey.factor).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused_with_their_count(bad):
    image = volume("float32")
    image[0, 3, 4, :5] = bad
    with pytest.raises(BadInput, match=r"input cells.zarr has 5 values .* nan_policy=zero"):
        grey_scale([image], Normalization.of("zscore"), name="cells.zarr")


def test_methods_without_statistics_are_a_slip_of_ours():
    with pytest.raises(ValueError, match="needs no statistics"):
        grey_scale([volume("uint8")], Normalization.of("none"), name="v")


EIGHT_BITS = Normalization("fixed", mean=146.8, std=32.6)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "fits"),
    [
        (20, 230, "uint16", True),
        (20.0, 230.0, "float32", True),
        (-1000.0, 1500.0, "float32", True),
        # Poor contrast, and an empty volume, are still images.
        (150.0, 153.0, "float32", True),
        (0.0, 0.0, "float32", True),
        (0.0, 1.0, "float32", False),
        (-1.0, 1.0, "float64", False),
        (800, 60000, "uint16", False),
    ],
)
def test_values_on_another_scale_than_the_cards_are_refused(low, high, dtype, fits):
    image = np.linspace(low, high, 4000).astype(dtype).reshape(1, 10, 20, 20)
    if fits:
        assert grey_scale([image], EIGHT_BITS, name="v") == GreyScale((146.8,), (1 / 32.6,))
        return
    with pytest.raises(BadInput, match=r"input v has values .* expects about 49 to 24[45].*zscore"):
        grey_scale([image], EIGHT_BITS, name="v")


def test_a_few_outliers_are_no_other_scale():
    image = np.linspace(20, 230, 4000).astype(np.float32).reshape(1, 10, 20, 20)
    image[0, 0, 0, :5] = 1e6
    assert grey_scale([image], EIGHT_BITS, name="v").shift == (146.8,)


def test_each_channel_is_looked_at():
    fine = np.linspace(20, 230, 4000).astype(np.float32).reshape(1, 10, 20, 20)
    with pytest.raises(BadInput, match="expects about"):
        grey_scale([np.concatenate([fine, fine / 255])], EIGHT_BITS, name="v")
