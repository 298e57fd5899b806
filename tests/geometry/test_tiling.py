"""Tilings: what they count is what a walk over all positions and groups finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.geometry.orientations import ORIENTATIONS, named_orientations
from orthoflow.geometry.ways import TileRules, TileWishes, possible_tilings
from tests import oracles

shapes = st.tuples(*[st.integers(1, 90)] * 3)


@st.composite
def tilings(draw, ndims=(2, 3)):
    """A tiling of any way that rules and wishes allow."""
    ndim = draw(st.sampled_from(ndims))
    divisor = draw(st.none() | st.sampled_from([1, 4, 8]))
    side = st.integers(1, 5).map(lambda n: n * (divisor or 8))
    tile = draw(st.tuples(*[side] * ndim)) if divisor is None or draw(st.booleans()) else None
    rules = TileRules(
        ndim,
        tile,
        divisor,
        stride=draw(st.sampled_from([1, 2, 4])),
        reach=draw(st.none() | st.integers(0, 6)),
    )
    wishes = TileWishes(
        overlap=draw(st.sampled_from([0, 0.1, 0.25, 0.5])),
        grid=draw(st.sampled_from(["even", "step"])),
        packing=draw(st.sampled_from(["auto", "none", "stripes"])),
        pack_k=draw(st.none() | st.integers(1, 4)),
        guard=draw(st.none() | st.integers(0, 5)),
        border=draw(st.none() | st.integers(0, 5)),
        stripe_starts=draw(st.sampled_from(["balanced", "seed"])),
    )
    names = ("xy", "xz", "yz") if ndim == 2 else ("zyx",)
    orientation = ORIENTATIONS[draw(st.sampled_from(names))]
    possible = possible_tilings(orientation, draw(shapes), rules, wishes)
    return draw(st.sampled_from(possible))


@given(tilings())
def test_tiles_and_pixels_are_those_of_a_walk(tiling):
    assert (tiling.tiles, tiling.network_pixels) == oracles.count_tiles(tiling)
    assert tiling.patches == sum(tiling.planes for _ in tiling.positions())


@given(tilings())
def test_slots_hold_patches_and_do_not_meet(tiling):
    for position in tiling.positions():
        used = np.zeros(position.tile, int)
        assert len(position.slots) == position.count
        for slot in position.slots:
            used[slot] += 1
            sides = tuple(b - a for a, b in position.spans)
            assert used[slot].shape == sides, "a slot is as large as the patch"
        assert used.max() <= 1
        assert used.sum() == position.count * np.prod([b - a for a, b in position.spans])
        assert position.groups(tiling.planes) == -(-tiling.planes // position.count)


@given(tilings(), st.data())
def test_positions_in_a_region_are_those_that_meet_it(tiling, data):
    spans = []
    for grid in tiling.grids:
        lo = data.draw(st.integers(0, grid.size - 1))
        spans.append((lo, data.draw(st.integers(lo + 1, grid.size))))
    wanted = [
        position
        for position in tiling.positions()
        if all(a < hi and lo < b for (a, b), (lo, hi) in zip(position.spans, spans, strict=True))
    ]
    assert list(tiling.positions(tuple(spans))) == wanted


@given(tilings())
def test_every_pixel_of_a_plane_lies_in_a_patch(tiling):
    seen = np.zeros([grid.size for grid in tiling.grids], int)
    for position in tiling.positions():
        seen[tuple(slice(a, b) for a, b in position.spans)] += 1
    assert seen.min() >= 1


@given(tilings())
def test_unpacked_tilings_have_the_same_patches_one_per_tile(tiling):
    plain = tiling.unpacked()
    assert plain.grids == tiling.grids
    assert plain.patches == plain.tiles == tiling.patches
    assert plain.is_exact(stride=16, reach=None)
    if tiling.tiles == tiling.patches:
        assert tiling.network_pixels == plain.network_pixels


@given(tilings(ndims=(2,)), st.sampled_from([1, 2, 4]), st.none() | st.integers(0, 9))
def test_a_tiling_is_exact_if_all_its_layouts_are(tiling, stride, reach):
    layouts = [p for position in tiling.positions() for p in position.layouts]
    assert tiling.is_exact(stride=stride, reach=reach) == all(
        layout.is_exact(stride=stride, reach=reach) for layout in layouts
    )


@given(tilings(ndims=(3,)))
def test_volumes_of_a_3d_network_are_one_plane_and_share_no_tiles(tiling):
    assert tiling.planes == 1
    assert tiling.tiles == tiling.patches
    assert len(tiling.grids) == 3


@given(shapes)
def test_orientations_name_axes_rows_first(shape):
    voxels = np.arange(np.prod(shape)).reshape(1, *shape)
    for name, (stack, plane) in oracles.PLANES.items():
        orientation = ORIENTATIONS[name]
        turned = voxels.transpose(orientation.order)
        np.testing.assert_array_equal(turned.transpose(orientation.inverse), voxels)
        assert orientation.plane_shape(shape) == tuple(shape[a] for a in plane)
        assert orientation.planes(shape) == (1 if stack is None else shape[stack])
        if stack is not None:
            cut = np.take(voxels[0], 0, axis=stack)
            np.testing.assert_array_equal(turned[0, 0], cut)


@given(st.sampled_from(list(ORIENTATIONS)), st.data())
def test_boxes_and_spans_are_each_others_inverse(name, data):
    orientation = ORIENTATIONS[name]
    spans = [sorted((data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9)))) for _ in range(3)]
    planes = tuple(spans[0]) if orientation.stack is not None else (0, 1)
    chosen = tuple(tuple(s) for s in spans[3 - len(orientation.plane) :])
    assert orientation.spans(orientation.box(planes, chosen)) == (planes, chosen)


def test_names_come_in_one_order_and_aliases_are_known():
    names = [o.name for o in named_orientations(("ZY", "xy", "zx"), ndim=2)]
    assert names == ["xy", "xz", "yz"]
    assert [o.name for o in named_orientations(("3d",), ndim=3)] == ["zyx"]


@pytest.mark.parametrize(
    ("names", "ndim", "said"),
    [
        ((), 2, "orientations is empty; choose from xy, xz, yz"),
        (("xw",), 2, "'xw' does not fit a 2-D network; choose from xy, xz, yz"),
        (("xy",), 3, "'xy' does not fit a 3-D network; choose from zyx"),
        (("zyx",), 2, "'zyx' does not fit a 2-D network"),
        (("xz", "zx"), 2, "names one orientation twice"),
    ],
)
def test_orientations_that_do_not_fit_are_refused(names, ndim, said):
    from orthoflow.errors import BadInput

    with pytest.raises(BadInput, match=said):
        named_orientations(names, ndim=ndim)
