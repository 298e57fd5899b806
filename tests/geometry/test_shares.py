"""Shares: inside a part every patch that is needed is computed by exactly one block."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.geometry.box import Box
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.shares import Share, extent, shares_of
from orthoflow.geometry.ways import TileRules, TileWishes, possible_tilings
from tests import oracles


@st.composite
def tilings_of(draw, shape):
    ndim = draw(st.sampled_from([2, 2, 2, 3]))
    free = draw(st.booleans())
    side = draw(st.sampled_from([8, 12, 24, 40]))
    rules = TileRules(ndim, None if free else (side,) * ndim, 4 if free else None, 4, 2)
    packing = draw(st.sampled_from(["auto", "none", "stripes"]))
    overlap = draw(st.sampled_from([0, 0.25, 0.5]))
    wishes = TileWishes(overlap, "even", packing, None, None, None, "balanced")
    name = draw(st.sampled_from(["xy", "xz", "yz"] if ndim == 2 else ["zyx"]))
    ways = possible_tilings(ORIENTATIONS[name], shape, rules, wishes)
    return draw(st.sampled_from(ways))


@st.composite
def cores_along(draw, size):
    """Consecutive spans, some of them empty: blocks of a part on a shrunken grid."""
    cuts = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=4)))
    return list(itertools.pairwise(cuts))


@st.composite
def parts(draw):
    shape = draw(st.tuples(*[st.integers(2, 40)] * 3))
    cores = [draw(cores_along(n)) for n in shape]
    start, stop = [], []
    for spans, n in zip(cores, shape, strict=True):
        start.append(draw(st.integers(0, min(spans[0][0], n - 1))))
        stop.append(draw(st.integers(max(spans[-1][1], start[-1] + 1), n)))
    return draw(tilings_of(shape)), Box(tuple(start), tuple(stop)), cores


def blocks(cores):
    return itertools.product(*(range(len(spans)) for spans in cores))


def groups(share):
    return [(share.position.pieces, g) for g in range(*share.groups)]


@settings(max_examples=300)
@given(parts())
def test_every_group_that_is_needed_is_computed_once(part):
    tiling, need, cores = part
    times = Counter(
        group
        for block in blocks(cores)
        for share in shares_of(tiling, need, cores, block)
        for group in groups(share)
    )
    assert set(times) == oracles.groups_in(tiling, need)
    assert set(times.values()) <= {1}


@given(parts())
def test_a_part_of_one_block_does_everything_itself(part):
    tiling, need, cores = part
    whole = [[(spans[0][0], spans[-1][1])] for spans in cores]
    mine = [g for share in shares_of(tiling, need, whole, (0, 0, 0)) for g in groups(share)]
    assert sorted(mine) == sorted(oracles.groups_in(tiling, need))


@given(parts())
def test_patches_start_in_the_block_that_computes_them(part):
    """Unless they cover whole blocks, and but for what starts in the halo."""
    tiling, need, cores = part
    _, plane = oracles.PLANES[tiling.orientation]
    for block in blocks(cores):
        for share in shares_of(tiling, need, cores, block):
            for axis, (lo, hi) in zip(plane, share.position.spans, strict=True):
                a, b = cores[axis][block[axis]]
                filled = [span for span in cores[axis] if span[0] < span[1]]
                if not filled:
                    continue
                first, last = filled[0], filled[-1]
                covers = lo <= a and b <= hi
                before, after = lo < first[0] and (a, b) == first, lo >= last[0] and (a, b) == last
                assert covers or a <= lo < b or before or after


@given(parts())
def test_extents_hold_the_patches_of_their_shares(part):
    tiling, need, cores = part
    for block in blocks(cores):
        shares = list(shares_of(tiling, need, cores, block))
        if not shares:
            continue
        boxes = [Box(*oracles.voxels_of_group(tiling, *g)) for s in shares for g in groups(s)]
        whole = boxes[0]
        for box in boxes:
            whole = whole.union(box)
        assert extent(tiling, shares) == whole


def test_large_rectangles_keep_all_blocks_busy():
    """Whole planes of 200 x 200: four blocks share them by runs of planes."""
    shape = (64, 200, 200)
    rules = TileRules(2, None, 8, 8, None)
    wishes = TileWishes(0.25, "even", "none", None, None, None, "balanced")
    tilings = possible_tilings(ORIENTATIONS["xy"], shape, rules, wishes)
    tiling = next(t for t in tilings if t.way == "rectangles")
    assert tiling.tiles == 64
    cores = [[(0, 64)], [(0, 100), (100, 200)], [(0, 100), (100, 200)]]
    need = Box.whole(shape)
    tiles = [sum(s.tiles for s in shares_of(tiling, need, cores, b)) for b in blocks(cores)]
    assert tiles == [16, 16, 16, 16]


def test_the_last_group_has_the_planes_that_are_left():
    rules = TileRules(2, (64, 64), None, 4, 2)
    wishes = TileWishes(0, "even", "stripes", 3, None, None, "balanced")
    (tiling,) = possible_tilings(ORIENTATIONS["xz"], (12, 10, 64), rules, wishes)
    position = next(tiling.positions())
    assert position.count == 3
    assert Share(position, (1, 4)).planes(10) == (3, 10)
    assert Share(position, (1, 4)).tiles == 3
