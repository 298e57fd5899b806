from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.show import colours


def base(shape=(2, 3), value=0.5):
    return np.full((*shape, 3), value, np.float32)


TRUTH = np.array([[0, 1, 0], [1, 2, 2]])
SAID = np.array([[0, 1, 1], [0, 2, 1]])


def test_errors_are_told_apart():
    masks = colours.errors(SAID, TRUTH)
    assert {name: np.argwhere(mask).tolist() for name, mask in masks.items()} == {
        "correct": [[0, 1], [1, 1]],
        "false positive": [[0, 2]],
        "false negative": [[1, 0]],
        "wrong class": [[1, 2]],
    }


def test_errors_have_their_colours_and_background_stays_dim():
    out = colours.with_errors(base(), SAID, TRUTH)
    dim = 0.5 * 0.45
    np.testing.assert_allclose(out[0, 0], dim, rtol=1e-6)
    expected = {
        (0, 1): (colours.CORRECT, 0.45),
        (0, 2): (colours.FALSE_POSITIVE, 0.95),
        (1, 0): (colours.FALSE_NEGATIVE, 0.95),
        (1, 2): (colours.WRONG_CLASS, 0.95),
    }
    for pixel, (colour, opacity) in expected.items():
        wanted = dim * (1 - opacity) + opacity * np.array(colour)
        np.testing.assert_allclose(out[pixel], wanted, rtol=1e-5)


@given(st.integers(0, 2**31))
def test_every_pixel_is_background_or_in_one_mask(seed):
    said, truth = np.random.default_rng(seed).integers(0, 3, (2, 5, 5))
    masks = colours.errors(said, truth)
    total = sum(mask.astype(int) for mask in masks.values())
    np.testing.assert_array_equal(total, ((said != 0) | (truth != 0)).astype(int))
    wrong = masks["false positive"] | masks["false negative"] | masks["wrong class"]
    np.testing.assert_array_equal(wrong, said != truth)


@pytest.mark.parametrize("palette", ["ERRORS", "DISSENT"])
def test_colours_differ_in_lightness_or_strongly_in_blue(palette):
    """Red-green deficiency leaves lightness and blue-yellow: two colours must differ there."""
    chosen = {
        "ERRORS": (
            colours.CORRECT,
            colours.FALSE_POSITIVE,
            colours.FALSE_NEGATIVE,
            colours.WRONG_CLASS,
        ),
        "DISSENT": colours.DISSENT,
    }[palette]
    for a, b in itertools.combinations(np.array(chosen), 2):
        lightness = abs((a - b) @ (0.2126, 0.7152, 0.0722))
        assert max(lightness, abs(a[2] - b[2]) / 2) > 0.1


def test_dissent_is_coloured_by_count():
    out = colours.with_dissent(base((1, 5), 0.0), np.array([[0, 1, 2, 3, 9]], np.uint8))
    np.testing.assert_allclose(out[0, 0], 0)
    for pixel, level in [(1, 0), (2, 1), (3, 2), (4, 2)]:
        np.testing.assert_allclose(out[0, pixel], 0.95 * np.array(colours.DISSENT[level]), 1e-5)


def test_labels_keep_background_and_repeat_the_palette():
    n = len(colours.CLASSES)
    labels = np.array([[0, 1, 1, 1, n + 1]], np.uint16)
    out = colours.with_classes(base((1, 5), 0.0), labels)
    np.testing.assert_allclose(out[0, 0], 0)
    np.testing.assert_allclose(out[0, 2], 0.32 * np.array(colours.CLASSES[0]), rtol=1e-5)
    np.testing.assert_allclose(out[0, 1], 0.95 * np.array(colours.CLASSES[0]), rtol=1e-5)
    np.testing.assert_allclose(out[0, 4], out[0, 1])


def test_outline_per_axis_and_not_at_the_border_of_the_picture():
    labels = np.zeros((5, 6), int)
    labels[1:4, :4] = 7
    assert colours.outline(labels, (0, 1)).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert colours.outline(labels, (1, 0)).sum(axis=1).tolist() == [0, 4, 0, 4, 0]
    assert colours.outline(labels, (0, 99)).sum() == 12


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float32", "float64"])
def test_contrast_spans_the_values_of_any_dtype(dtype):
    image = np.tile(np.arange(2, dtype=dtype), 500).reshape(10, 10, 10)
    assert colours.contrast(image) == (0.0, 1.0)


def test_contrast_does_not_follow_outliers_or_infinity():
    image = np.linspace(0, 1, 100_000, dtype=np.float32).reshape(100, 100, 10)
    image[0, 0, :3] = (1e6, np.inf, np.nan)
    low, high = colours.contrast(image)
    assert 0 < low < 0.01
    assert 0.99 < high < 1


def test_contrast_of_nothing_to_see_is_a_window_of_one():
    assert colours.contrast(np.full((3, 3, 3), 7)) == (6.5, 7.5)
    assert colours.contrast(np.full((3, 3, 3), np.nan)) == (0.0, 1.0)
    sparse = np.zeros((20, 20, 20), np.uint8)
    sparse[0, 0, 0] = 9
    assert colours.contrast(sparse) == (0.0, 9.0)


def test_grey_stretches_and_clips_and_nan_is_black():
    plane = np.array([[-5.0, 10.0, 15.0, 20.0, 99.0, np.nan, np.inf]])
    shown = colours.grey(plane, (10.0, 20.0))
    np.testing.assert_allclose(shown[0, :, 0], [0, 0, 0.5, 1, 1, 0, 1])
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


def test_heat_grows_lighter_and_reads_integers_as_shares():
    lightness = colours.heat(np.linspace(0, 1, 101)[None])[0] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > 0).all()
    np.testing.assert_allclose(
        colours.heat(np.array([[0, 51, 255]], np.uint8)), colours.heat(np.array([[0, 0.2, 1.0]]))
    )
    np.testing.assert_allclose(colours.heat(np.array([[np.nan, 3.0]]))[0, 1], colours.RAMP[-1])


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 4), st.integers(1, 4))
)
def test_shrink_is_the_mean_of_each_group(shape, factors):
    picture = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    small = colours.shrink(picture, factors)
    a, b = factors
    assert small.shape == (-(-shape[0] // a), -(-shape[1] // b), 3)
    for i, j in np.ndindex(small.shape[:2]):
        group = picture[a * i : a * i + a, b * j : b * j + b]
        np.testing.assert_allclose(small[i, j], group.mean(axis=(0, 1)), rtol=1e-5)
