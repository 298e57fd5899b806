"""Pyramid levels: cubic as soon as halving allows, complete, and whole numbers of chunks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.levels import pyramid_levels, relative_factors

triples = st.tuples(*[st.integers(1, 300)] * 3)


def test_long_axes_wait_until_voxels_are_cubic():
    levels = pyramid_levels((64, 4096, 4096), (40, 4, 4), (64,) * 3, (64,) * 3)
    assert [level.factors for level in levels] == [
        (1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32), (8, 64, 64),
    ]  # fmt: skip


def test_an_unknown_voxel_size_is_taken_as_cubic():
    levels = pyramid_levels((100, 100, 100), None, (50, 50, 50), (50, 50, 50))
    assert [level.factors for level in levels] == [(1, 1, 1), (2, 2, 2)]


def test_axes_of_one_voxel_are_not_halved():
    levels = pyramid_levels((1, 100, 100), (0.1, 1, 1), (16,) * 3, (16,) * 3)
    assert levels[-1].factors == (1, 8, 8)
    assert levels[-1].shape == (1, 13, 13)


def test_a_wished_number_of_levels_ends_when_nothing_is_left():
    assert len(pyramid_levels((9, 9, 9), None, (64,) * 3, (64,) * 3, count=3)) == 3
    assert pyramid_levels((3, 3, 3), None, (4,) * 3, (4,) * 3, count=9)[-1].shape == (1, 1, 1)


@given(
    shape=triples,
    voxel=st.none() | st.tuples(*[st.floats(0.1, 50)] * 3),
    chunk=st.tuples(*[st.integers(1, 64)] * 3),
    many=st.integers(1, 4),
    count=st.none() | st.integers(1, 5),
)
def test_levels_fit_together(shape, voxel, chunk, many, count):
    shard = tuple(c * many for c in chunk)
    levels = pyramid_levels(shape, voxel, chunk, shard, count)
    assert levels[0].shape == shape
    assert levels[0].factors == (1, 1, 1)
    if count is None:
        assert all(n <= c for n, c in zip(levels[-1].shape, chunk, strict=True))
    else:
        assert len(levels) <= count
    for level in levels:
        assert level.shape == tuple(-(-n // f) for n, f in zip(shape, level.factors, strict=True))
        for n, c, s, wished in zip(level.shape, level.chunk, level.shard, shard, strict=True):
            assert 1 <= c <= n
            assert s % c == 0
            assert s <= wished
            assert s - c < n, "a shard has no chunk outside the array"
    for fine, coarse in itertools.pairwise(levels):
        steps = relative_factors(fine, coarse)
        assert set(steps) <= {1, 2}
        assert 2 in steps
        halved = zip(fine.shape, coarse.shape, steps, strict=True)
        assert all(b == -(-a // s) for a, b, s in halved)


@pytest.mark.parametrize(("chunk", "shard"), [(64, 100), (64, 32), (0, 64)])
def test_shards_that_are_not_whole_chunks_are_refused(chunk, shard):
    with pytest.raises(BadInput, match=f"shard {shard} on axis z"):
        pyramid_levels((99, 99, 99), None, (chunk,) * 3, (shard,) * 3)


def test_zero_levels_are_refused():
    with pytest.raises(BadInput, match="levels 0"):
        pyramid_levels((9, 9, 9), None, (4,) * 3, (4,) * 3, count=0)
