"""Layouts of stripes: inside the tile, apart, in phase, and as many as fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orthoflow.geometry.stripes import balanced_layout, seed_layout, single_layout
from tests import oracles

asked = {
    "length": st.integers(1, 40),
    "tile": st.integers(8, 96),
    "stride": st.sampled_from([1, 2, 3, 4, 8, 16]),
    "guard": st.integers(0, 12),
    "border": st.integers(0, 12),
    "most": st.integers(1, 6),
}


def occupied(layout):
    rows = [0] * layout.tile
    for start in layout.starts:
        assert start >= 0
        assert start + layout.length <= layout.tile
        for row in range(start, start + layout.length):
            rows[row] += 1
    return rows


@given(**asked)
def test_balanced_layouts_keep_what_is_asked(length, tile, stride, guard, border, most):
    assume(length <= tile)
    layout = balanced_layout(
        length, tile=tile, stride=stride, guard=guard, border=border, most=most
    )
    if layout is None:
        return
    assert set(occupied(layout)) <= {0, 1}, "no row is used twice"
    assert 2 <= layout.count <= most
    gaps = [b - a - length for a, b in itertools.pairwise(layout.starts)]
    assert min(gaps) >= guard
    assert min(layout.starts[0], tile - layout.starts[-1] - length) >= border
    assert (layout.gap, layout.margin) == (
        min(gaps),
        min(layout.starts[0], tile - layout.starts[-1] - length),
    )
    alone = single_layout(length, tile).starts[0]
    assert all((start - alone) % stride == 0 for start in layout.starts)


@given(**asked)
def test_balanced_layouts_hold_as_many_as_fit(length, tile, stride, guard, border, most):
    assume(length <= tile)
    layout = balanced_layout(
        length, tile=tile, stride=stride, guard=guard, border=border, most=most
    )
    best = oracles.most_stripes(
        length, tile=tile, stride=stride, guard=guard, border=border, most=most
    )
    assert (1 if layout is None else layout.count) == best


@given(**asked)
def test_balanced_layouts_share_spare_rows(length, tile, stride, guard, border, most):
    """No other layout of as many stripes keeps every zero stripe wider."""
    assume(length <= tile)
    layout = balanced_layout(
        length, tile=tile, stride=stride, guard=guard, border=border, most=most
    )
    if layout is None:
        return
    narrowest = min(layout.gap, layout.margin)
    alone = single_layout(length, tile).starts[0]
    for start, step in itertools.product(range(tile), range(length, tile, 1)):
        margin = min(start, tile - start - (layout.count - 1) * step - length)
        if step % stride == 0 and (start - alone) % stride == 0 and step - length >= guard:
            assert margin < border or min(margin, step - length) <= narrowest


def test_the_seeds_stack_is_in_phase_with_spare_rows_shared():
    for stride in (1, 2, 4, 8, 16):
        layout = balanced_layout(68, tile=256, stride=stride, guard=8, border=8, most=9)
        assert layout.count == 3
        assert (layout.starts[0] - 94) % stride == 0
        assert min(layout.gap, layout.margin) >= 12
    assert balanced_layout(68, tile=256, stride=16, guard=8, border=8, most=9).starts == (
        14, 94, 174,
    )  # fmt: skip
    assert balanced_layout(68, tile=256, stride=16, guard=20, border=8, most=9).count == 2


def test_pieces_that_fit_once_are_not_packed():
    assert balanced_layout(130, tile=256, stride=16, guard=0, border=0, most=9) is None
    assert balanced_layout(68, tile=256, stride=16, guard=8, border=8, most=1) is None


@given(length=st.integers(1, 99), spare=st.integers(0, 99))
def test_a_piece_alone_lies_in_the_middle_the_odd_row_behind(length, spare):
    (start,) = single_layout(length, length + spare).starts
    assert start == spare // 2


@pytest.mark.parametrize(
    ("length", "pack_k", "border", "starts"),
    [
        (68, 3, 5, (5, 94, 183)),  # slot 78, guard 11
        (68, 3, 0, (0, 94, 188)),  # guard 26
        (68, 2, 5, (5, 183)),
        (100, 3, 5, (5, 115)),  # three slots do not fit: guard 0, though rows are free
        (34, 6, 0, (0, 44, 88, 132, 176, 220)),  # guard 10
        (128, 3, 0, (0, 128)),
        (129, 3, 0, None),
        (200, 3, 0, None),
        (68, 1, 0, None),
    ],
)
def test_the_forks_own_layouts(length, pack_k, border, starts):
    layout = seed_layout(length, tile=256, pack_k=pack_k, border=border)
    assert (None if layout is None else layout.starts) == starts


@given(st.integers(1, 130), st.integers(2, 9), st.integers(0, 8))
def test_the_forks_layouts_lie_in_the_tile(length, pack_k, border):
    layout = seed_layout(length, tile=256, pack_k=pack_k, border=border)
    if layout is not None:
        assert set(occupied(layout)) <= {0, 1}
        assert layout.count <= pack_k
        assert layout.gap >= 2 * border


def test_the_forks_starts_are_never_called_exact_for_a_network_with_a_stride():
    seed = seed_layout(68, tile=256, pack_k=3, border=5)
    assert seed.is_exact(stride=1, reach=5)
    assert not seed.is_exact(stride=1, reach=6), "the margin is 5"
    assert not seed.is_exact(stride=2, reach=2), "5 and 94 differ by an odd number"


def test_exactness_needs_a_known_reach_and_room_for_it():
    layout = balanced_layout(68, tile=256, stride=2, guard=8, border=8, most=9)
    assert layout.is_exact(stride=2, reach=12)
    assert not layout.is_exact(stride=2, reach=14)
    assert not layout.is_exact(stride=2, reach=None)
    assert single_layout(68, 256).is_exact(stride=16, reach=None)
