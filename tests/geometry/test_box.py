"""Boxes: slices, splitting and regions, against sets of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, parse_roi, split

triples = st.tuples(*[st.integers(-6, 8)] * 3)
sizes = st.tuples(*[st.integers(0, 7)] * 3)
boxes = st.builds(
    lambda start, size: Box(start, tuple(a + n for a, n in zip(start, size, strict=True))),
    triples,
    sizes,
)


def voxels(box):
    return set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(boxes, boxes)
def test_intersection_and_containment_are_those_of_voxels(one, other):
    common = voxels(one) & voxels(other)
    found = one.intersect(other)
    assert (voxels(found) if found else set()) == common
    if common:
        assert one.contains(found)
        assert one.contains(other) == (voxels(other) <= voxels(one))
    assert voxels(one) | voxels(other) <= voxels(one.union(other))
    assert one.voxels == len(voxels(one))


@given(boxes, st.tuples(*[st.integers(1, 4)] * 3), triples)
def test_split_cuts_along_the_grid_and_loses_nothing(box, size, origin):
    pieces = [piece for piece in split(box, size, origin) if piece.voxels]
    assert sorted(itertools.chain(*map(voxels, pieces))) == sorted(voxels(box))
    for piece in pieces:
        cells = zip(piece.start, piece.stop, size, origin, strict=True)
        assert all((a - o) // n == (b - 1 - o) // n for a, b, n, o in cells)
    assert pieces == sorted(pieces)


@given(boxes, st.tuples(*[st.integers(1, 4)] * 3))
def test_rounding_out_gives_the_smallest_box_of_whole_cells(box, grid):
    inside = box.intersect(Box.whole((7, 7, 7)))
    if inside is None:
        return
    found = inside.rounded_out(grid, (7, 7, 7))
    assert found.contains(inside)
    for a, b, lo, hi, n in zip(
        found.start, found.stop, inside.start, inside.stop, grid, strict=True
    ):
        assert a % n == 0
        assert a > lo - n
        assert b == 7 or (b % n == 0 and b < hi + n)


def test_slices_cut_the_same_voxels_from_any_array():
    volume = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    outer, inner = Box((1, 2, 3), (6, 7, 8)), Box((2, 3, 4), (4, 5, 8))
    np.testing.assert_array_equal(volume[outer.slices][inner.within(outer)], volume[inner.slices])
    assert inner.shifted(outer.start) == Box((1, 1, 1), (3, 3, 5))


def test_boxes_that_end_before_they_start_do_not_exist():
    with pytest.raises(ValueError, match="ends before it starts"):
        Box((0, 5, 0), (1, 4, 1))
    with pytest.raises(ValueError, match="three axes"):
        Box((0, 5), (1, 6))  # type: ignore[arg-type]


@given(st.tuples(*[st.integers(1, 50)] * 3), st.data())
def test_regions_read_what_boxes_print(shape, data):
    bounds = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape]
    box = Box(tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))
    assert parse_roi(str(box), shape) == box
    assert parse_roi(" : ,:,:", shape) == Box.whole(shape)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0:4,0:4", "not of the form"),
        ("", "not of the form"),
        ("0:4,0:4,a:b", "not of the form"),
        ("0:4:2,:,:", "not of the form"),
        ("0:4,0:4,5", "not of the form"),
        ("4:4,:,:", "roi 4:4 on axis z .* 0 <= start < stop <= 8"),
        (":,5:3,:", "roi 5:3 on axis y .* <= 9"),
        (":,:,0:11", "roi 0:11 on axis x .* <= 10"),
        ("-2:4,:,:", "roi -2:4 on axis z"),
    ],
)
def test_regions_outside_reversed_or_malformed_are_refused(text, said):
    with pytest.raises(BadInput, match=said) as refusal:
        parse_roi(text, (8, 9, 10))
    assert "\n" not in str(refusal.value)
