from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.show.cuts import (
    FLATTEST,
    TALLEST,
    fullest,
    fullest_window,
    orthogonal_cuts,
    require_same_shape,
    require_volume,
)

sides = st.integers(1, 40)
sizes = st.floats(0.1, 50.0)


def coordinates(shape):
    """Each voxel holds z * 10000 + y * 100 + x."""
    z, y, x = np.indices(shape)
    return z * 10000 + y * 100 + x


def test_cuts_are_the_planes_through_the_fullest_place():
    guide = np.zeros((20, 30, 40), bool)
    guide[7, 11, 13] = True
    volume = coordinates(guide.shape)
    xy, xz, yz = orthogonal_cuts(guide.shape, guide, None)
    assert [(c.orientation.name, c.stack_axis, c.index) for c in (xy, xz, yz)] == [
        ("xy", "z", 7),
        ("xz", "y", 11),
        ("yz", "x", 13),
    ]
    np.testing.assert_array_equal(xy.of(volume), volume[7])
    np.testing.assert_array_equal(xz.of(volume), volume[:, 11])
    np.testing.assert_array_equal(yz.of(volume), volume[:, :, 13])
    assert (xy.crossing, xz.crossing, yz.crossing) == ((11, 13), (7, 13), (7, 11))


def test_the_plane_with_most_foreground_wins():
    guide = np.zeros((9, 9, 9), np.uint8)
    guide[2, :3] = 1
    guide[6, :5] = 1
    assert fullest(guide)[0] == 6


def test_equal_planes_give_the_one_nearest_the_middle():
    assert fullest(np.zeros((9, 8, 1))) == (4, 4, 0)
    guide = np.zeros((9, 1, 1))
    guide[[0, 3, 8]] = 1
    assert fullest(guide)[0] == 3


def test_a_count_of_bytes_does_not_overflow():
    guide = np.zeros((3, 40, 40), np.uint8)
    guide[0], guide[2] = 255, 1
    assert fullest(guide)[0] == 0


@given(st.tuples(sides, sides, sides), st.tuples(sizes, sizes, sizes), st.integers(0, 99))
def test_windows_show_the_voxels_they_name_within_the_proportions(shape, voxel_size, seed):
    guide = np.random.default_rng(seed).random(shape) < 0.1
    volume = coordinates(shape)
    for cut in orthogonal_cuts(shape, guide, voxel_size):
        (top, bottom), (left, right) = cut.rows, cut.columns
        assert 0 <= top < bottom <= cut.shape[0]
        assert 0 <= left < right <= cut.shape[1]
        axis = "zyx".index(cut.stack_axis)
        plane = np.take(volume, cut.index, axis)[top:bottom, left:right]
        np.testing.assert_array_equal(cut.of(volume), plane)
        # One voxel more or less is all that a window may miss the proportions by.
        row, column = cut.spacing
        wide, high = (right - left) * column, (bottom - top) * row
        assert high <= TALLEST * wide + row or cut.rows == (0, 1)
        assert wide <= high / FLATTEST + column or cut.columns == (0, 1)


def test_a_thin_plane_is_cropped_to_where_the_guide_changes():
    guide = np.zeros((4, 5, 200), bool)
    guide[:, :, :100] = True
    guide[1:3, :, 150:155] = True
    xz = orthogonal_cuts(guide.shape, guide, None)[1]
    assert xz.rows == (0, 4)
    assert xz.columns[1] - xz.columns[0] == 20
    assert xz.columns[0] <= 149
    assert xz.columns[1] >= 155
    assert xz.hidden() == (("x", *xz.columns),)


def test_anisotropy_counts():
    """8 planes of 40 nm are as high as 80 rows of 4 nm: nothing has to be cropped."""
    cuts = orthogonal_cuts((8, 100, 100), None, (40.0, 4.0, 4.0))
    assert [c.aspect for c in cuts] == [1.0, 0.8, 0.8]
    assert all(c.hidden() == () for c in cuts)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 9, 9), ["xy"]),
        ((9, 1, 9), ["xz"]),
        ((9, 9, 1), ["yz"]),
        ((1, 1, 9), ["xy"]),
        ((1, 1, 1), ["xy"]),
        ((2, 2, 2), ["xy", "xz", "yz"]),
    ],
)
def test_cuts_that_would_be_lines_are_left_out(shape, names):
    assert [c.orientation.name for c in orthogonal_cuts(shape, None, None)] == names


def test_what_is_written_counts_from_the_origin_and_what_is_cut_does_not():
    plain = orthogonal_cuts((8, 50, 60), None, None)
    moved = orthogonal_cuts((8, 50, 60), None, None, origin=(100, 200, 300))
    for a, b in zip(plain, moved, strict=True):
        assert (a.index, a.rows, a.columns) == (b.index, b.rows, b.columns)
    assert [c.place for c in moved] == [104, 225, 330]
    assert moved[1].hidden() == (("x", 310, 350),)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 29))
def test_no_window_holds_more(held, length, middle):
    first, end = fullest_window(np.array(held), length, middle)
    length = min(length, len(held))
    assert end - first == length
    best = max(sum(held[i : i + length]) for i in range(len(held) - length + 1))
    assert sum(held[first:end]) == best


def test_refusals_name_shape_and_remedy():
    with pytest.raises(BadInput, match=r"image of shape \(2, 3, 4, 5\).*one channel at a time"):
        require_volume("image", np.zeros((2, 3, 4, 5)), None)
    with pytest.raises(BadInput, match="at least one voxel"):
        require_volume("image", np.zeros((0, 3, 4)), None)
    with pytest.raises(BadInput, match=r"truth has shape \(1, 2, 3\), the image \(3, 2, 1\)"):
        require_same_shape((3, 2, 1), {"labels": None, "truth": np.zeros((1, 2, 3))})
