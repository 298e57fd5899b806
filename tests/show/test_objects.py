from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.show import colours
from orthoflow.show.objects import (
    FLOW,
    LINE,
    PALETTE,
    choose_inks,
    flow_colours,
    with_contour,
    with_hits,
    with_objects,
)


def base(shape, value=0.5):
    return np.full((*shape, 3), value, np.float32)


def stripes(count, width=4):
    return np.repeat(np.arange(1, count + 1), width)[None].repeat(3, axis=0)


def test_neighbours_get_different_colours_though_there_are_more_than_colours():
    inks = choose_inks([stripes(40)])
    assert (np.diff(inks.place) != 0).all()
    # All colours are used, none much more than others.
    counts = np.bincount(inks.place, minlength=len(PALETTE))
    assert counts.min() >= counts.max() - 2


def test_an_object_has_one_colour_in_all_planes_and_neighbours_of_any_plane_count():
    one = np.array([[5, 5, 0, 0, 0, 0, 0, 9]])
    other = np.array([[9, 5, 0, 0, 0, 0, 0, 2**40]])
    inks = choose_inks([one, other])
    assert inks.labels.tolist() == [5, 9, 2**40]
    assert inks.place[0] != inks.place[1]
    colour = inks.of(one)
    np.testing.assert_array_equal(colour[0, 0], np.float32(PALETTE[inks.place[0]]))
    np.testing.assert_array_equal(inks.of(other)[0, 1], colour[0, 0])


@given(st.integers(0, 2**31))
def test_touching_objects_differ_while_colours_suffice(seed):
    dice = np.random.default_rng(seed)
    plane = dice.integers(0, 4, (6, 6))  # at most three labels, and seven colours
    inks = choose_inks([plane])
    assert len(set(inks.place.tolist())) == len(inks.place)


def test_no_objects_need_no_colours():
    nothing = np.zeros((4, 5), np.uint32)
    inks = choose_inks([nothing])
    np.testing.assert_array_equal(with_objects(base((4, 5)), nothing, inks), base((4, 5)))


def test_a_contour_is_the_inner_border():
    inside = np.zeros((5, 5), bool)
    inside[1:4, 1:4] = True
    out = with_contour(base((5, 5)), inside)
    white = (out == LINE).all(axis=2)
    assert white.sum() == 8
    assert not white[2, 2]


@pytest.mark.parametrize(
    ("flow", "place"), [((0, 1), 0), ((1, 0), 1), ((0, -1), 2), ((-1, 0), 3), ((0, 5), 0)]
)
def test_flows_are_coloured_by_direction(flow, place):
    found = flow_colours(np.array(flow, np.float32).reshape(2, 1, 1))[0, 0]
    np.testing.assert_allclose(found, FLOW[place], atol=1e-6)


def test_short_flows_are_dark():
    np.testing.assert_allclose(flow_colours(np.zeros((2, 1, 1)))[0, 0], 0)
    half = flow_colours(np.array([0, 0.5]).reshape(2, 1, 1))[0, 0]
    np.testing.assert_allclose(half, np.array(FLOW[0]) / 2, atol=1e-6)


def test_right_wrong_and_missed_objects_have_their_colours():
    found, truth = np.zeros((2, 9, 30), np.int64)
    found[2:7, 2:7], truth[2:7, 2:7] = 1, 4
    found[2:7, 12:17] = 2
    truth[2:7, 22:27] = 5
    out = with_hits(base((9, 30)), found, truth, hit=np.array([1]), met=np.array([4]))
    dim = 0.5 * 0.45
    expected = {
        (4, 4): (colours.CORRECT, 0.5),
        (4, 14): (colours.FALSE_POSITIVE, 0.8),
        (4, 24): (colours.FALSE_NEGATIVE, 0.8),
    }
    for pixel, (colour, cover) in expected.items():
        wanted = dim * (1 - cover) + cover * np.array(colour)
        np.testing.assert_allclose(out[pixel], wanted, rtol=1e-5)
    np.testing.assert_allclose(out[0, 0], dim, rtol=1e-6)
    assert (out[2, 4] == 1).all()
    assert (out[2, 24] == 1).all()
    assert not (out[2, 14] == 1).all()
