"""The ways to make tiles, and the figures that the seed's stack of 68 x 984 x 984 is known by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.ways import (
    TileRules,
    TileWishes,
    check_stripes_fit,
    possible_tilings,
    unpacked_tiling,
)

STACK = (68, 984, 984)
FIXED = TileRules(2, (256, 256), None, stride=16, reach=None)
WISHES = TileWishes(0.1, "even", "auto", None, None, None, "balanced")
SEED = replace(WISHES, packing="stripes", pack_k=3, guard=16, border=5, stripe_starts="seed")
XY, XZ, YZ = (ORIENTATIONS[name] for name in ("xy", "xz", "yz"))


def ways(orientation, shape, rules, wishes):
    return {t.way: t for t in possible_tilings(orientation, shape, rules, wishes)}


def cheapest(orientation, shape, rules, wishes):
    found = ways(orientation, shape, rules, wishes).values()
    return min(found, key=lambda t: (t.network_pixels, t.tiles))


def totals(shape, rules, wishes):
    chosen = [cheapest(o, shape, rules, wishes) for o in (XY, XZ, YZ)]
    return [t.tiles for t in chosen], sum(t.network_pixels for t in chosen)


def test_unpacked_tiles_are_those_of_cellpose_4():
    tiles = [unpacked_tiling(o, STACK, FIXED, WISHES).tiles for o in (XY, XZ, YZ)]
    assert tiles == [1700, 4920, 4920]
    assert totals(STACK, FIXED, replace(WISHES, packing="none"))[0] == tiles
    assert totals(STACK, FIXED, replace(WISHES, pack_k=1))[0] == tiles


def test_the_seeds_packing_is_reproduced():
    assert totals(STACK, FIXED, SEED)[0] == [1700, 1640, 1640]
    starts = cheapest(XZ, STACK, FIXED, SEED).layouts[0][0].starts
    assert starts == (5, 94, 183)
    starts = cheapest(XZ, STACK, FIXED, replace(SEED, border=0)).layouts[0][0].starts
    assert starts == (0, 94, 188)


def test_balanced_stripes_are_as_many_and_better_placed():
    tiling = cheapest(XZ, STACK, FIXED, replace(WISHES, packing="stripes"))
    assert tiling.tiles == 1640
    assert tiling.layouts[0][0].starts == (14, 94, 174)
    assert tiling.is_exact(stride=16, reach=12)


def test_our_choice_for_a_fixed_tile_needs_at_most_4400():
    tiles, pixels = totals(STACK, FIXED, WISHES)
    assert sum(tiles) <= 4400
    assert pixels == sum(tiles) * 256 * 256


@pytest.mark.parametrize(("divisor", "gain"), [(16, 3.3), (8, 3.6)])
def test_free_rectangles_need_far_fewer_pixels(divisor, gain):
    rules = TileRules(2, None, divisor, stride=divisor, reach=None)
    plain = sum(unpacked_tiling(o, STACK, FIXED, WISHES).network_pixels for o in (XY, XZ, YZ))
    assert plain == 11540 * 256 * 256
    _, pixels = totals(STACK, rules, WISHES)
    assert plain / pixels >= gain
    assert {cheapest(o, STACK, rules, WISHES).way for o in (XY, XZ, YZ)} == {"rectangles"}
    assert sum(unpacked_tiling(o, STACK, rules, WISHES).tiles for o in (XY, XZ, YZ)) == 11540


def test_packing_says_which_ways_there_are():
    rules = TileRules(2, None, 16, stride=16, reach=4)
    assert set(ways(XZ, STACK, rules, WISHES)) == {"tiles", "rectangles", "stripes", "shared"}
    assert set(ways(XZ, STACK, FIXED, WISHES)) == {"tiles", "stripes", "shared"}
    assert set(ways(XZ, STACK, FIXED, replace(WISHES, packing="none"))) == {"tiles"}
    assert set(ways(XZ, STACK, FIXED, replace(WISHES, pack_k=1))) == {"tiles"}
    assert set(ways(XZ, STACK, FIXED, replace(WISHES, packing="stripes"))) == {"stripes"}
    assert set(ways(XY, STACK, FIXED, replace(WISHES, packing="stripes"))) == {"tiles"}
    assert set(ways(XZ, STACK, FIXED, replace(WISHES, grid="step"))) == {"tiles", "stripes"}


def test_networks_in_three_dimensions_have_tiles_or_rectangles():
    volume = ORIENTATIONS["zyx"]
    fixed = TileRules(3, (64, 64, 64), None, stride=16, reach=None)
    assert set(ways(volume, (68, 200, 300), fixed, WISHES)) == {"tiles"}
    free = TileRules(3, None, 8, stride=8, reach=None)
    found = ways(volume, (68, 200, 300), free, WISHES)
    assert set(found) == {"tiles", "rectangles"}
    tile = next(found["rectangles"].positions()).tile
    assert all(side % 8 == 0 and side <= 160 for side in tile)


def test_planes_smaller_than_the_tile_are_one_patch():
    (tiling,) = possible_tilings(XY, (5, 40, 300), FIXED, replace(WISHES, packing="none"))
    assert tiling.tiles == 5 * 2
    position = next(tiling.positions())
    assert position.spans[0] == (0, 40)
    assert position.layouts[0].starts == (108,)


def test_a_volume_of_one_plane_has_stripes_of_one_row():
    tiling = cheapest(XZ, (1, 300, 256), FIXED, WISHES)
    assert tiling.layouts[0][0].length == 1
    assert tiling.layouts[0][0].count > 8
    assert tiling.tiles == -(-300 // tiling.layouts[0][0].count)


@pytest.mark.parametrize("depth", [125, 126, 241, 256, 257])
def test_thick_stacks_are_packed_only_while_two_stripes_fit(depth):
    """Two stripes with 8 zero rows around each need 2 * depth + 24 <= 256 rows."""
    found = ways(XZ, (depth, 256, 256), FIXED, WISHES)
    assert ("stripes" in found) == (2 * depth + 24 <= 256)


@given(
    shape=st.tuples(*[st.integers(1, 500)] * 3),
    overlap=st.sampled_from([0, 0.1, 0.25, 0.5]),
    divisor=st.none() | st.sampled_from([8, 16]),
)
def test_the_cheapest_way_is_never_dearer_than_plain_tiles(shape, overlap, divisor):
    rules = TileRules(2, None if divisor else (64, 64), divisor, stride=8, reach=None)
    wishes = replace(WISHES, overlap=overlap)
    for orientation in (XY, XZ, YZ):
        plain = unpacked_tiling(orientation, shape, rules, wishes)
        chosen = cheapest(orientation, shape, rules, wishes)
        assert chosen.network_pixels <= plain.network_pixels
        assert chosen.planes == plain.planes


def test_a_guard_makes_room():
    """Rows between stripes and at the tile's edge are at least what is asked."""
    for guard, border in ((0, 0), (20, 4), (4, 20), (30, 30)):
        wishes = replace(WISHES, packing="stripes", guard=guard, border=border)
        layout = cheapest(XZ, STACK, FIXED, wishes).layouts[0][0]
        assert layout.gap >= guard
        assert layout.margin >= border
    reach = TileRules(2, (256, 256), None, stride=2, reach=12)
    assert cheapest(XZ, STACK, reach, WISHES).is_exact(stride=2, reach=12)


def test_stripes_that_do_not_fit_are_refused_with_the_thickest_that_would():
    wishes = replace(WISHES, packing="stripes", guard=16, border=8)
    tilings = [cheapest(o, (130, 984, 984), FIXED, wishes) for o in (XY, XZ, YZ)]
    with pytest.raises(BadInput, match=r"packing stripes: .* 130 rows, .* guard of 16 .* 112 rows"):
        check_stripes_fit(tilings, FIXED, wishes)
    fits = [cheapest(o, (112, 984, 984), FIXED, wishes) for o in (XY, XZ, YZ)]
    check_stripes_fit(fits, FIXED, wishes)
    assert {t.way for t in fits[1:]} == {"stripes"}


def test_stripes_of_the_forks_layout_that_do_not_fit_are_refused():
    tilings = [cheapest(o, (130, 984, 984), FIXED, SEED) for o in (XY, XZ, YZ)]
    with pytest.raises(BadInput, match="packing stripes"):
        check_stripes_fit(tilings, FIXED, SEED)


@pytest.mark.parametrize(
    ("rules", "orientation", "pack_k", "said"),
    [
        (FIXED, "xz", 1, "pack_k 1 .* use 2 or more"),
        (TileRules(3, (64, 64, 64), None, 16, None), "zyx", None, "3-D network has no planes"),
    ],
)
def test_stripes_that_nothing_could_make_are_refused(rules, orientation, pack_k, said):
    wishes = replace(WISHES, packing="stripes", pack_k=pack_k)
    tilings = list(possible_tilings(ORIENTATIONS[orientation], STACK, rules, wishes))
    with pytest.raises(BadInput, match=said):
        check_stripes_fit(tilings, rules, wishes)
