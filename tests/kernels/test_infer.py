"""Running patches: packing, skipping, batching and augmentation change nothing they should not."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import orthoflow as of
from orthoflow.errors import BlockFailed, BlockImpossible
from orthoflow.geometry.box import Box
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.shares import Share
from orthoflow.geometry.ways import TileRules, TileWishes, possible_tilings
from orthoflow.geometry.weights import weighted
from orthoflow.kernels.infer import Planes, Recipe, as_index, infer_shares, oriented
from orthoflow.models.card import Normalization
from orthoflow.models.nets import UNet
from orthoflow.reduce.blend import FIXED_POINT_SCALE
from tests import nets, oracles

RECIPE = Recipe(
    kept=(0, 2),
    foreground_only=False,
    channels=2,
    vectors=(0, 0),
    factors=(),
    tta="none",
    skip_empty=False,
    batch=4,
    fixed_point=True,
    patch_normalization=None,
)


def tilings(orientation, shape, *, ndim=2, tile=None, divisor=None, stride=1, reach=2, **wishes):
    """The ways of one orientation by name."""
    default = {"overlap": 0.25, "grid": "even", "packing": "auto", "pack_k": None, "guard": None}
    default |= {"border": None, "stripe_starts": "balanced"}
    rules = TileRules(ndim, tile, divisor, stride, reach)
    wishes = TileWishes(**{**default, **wishes})
    found = possible_tilings(ORIENTATIONS[orientation], shape, rules, wishes)
    return {tiling.way: tiling for tiling in found}


def shares(tiling, step=None):
    """All groups of all positions, or runs of `step` groups in a scrambled order."""
    found = []
    for position in tiling.positions():
        count = position.groups(tiling.planes)
        cuts = [*range(0, count, step or count), count]
        found += [Share(position, span) for span in itertools.pairwise(cuts)]
    return found if step is None else found[1::2] + found[::2]


def infer(model, tiling, voxels, recipe=RECIPE, *, step=None, target=None, **changes):
    """Sums over the whole volume (or `target`) from all patches, and what was counted."""
    voxels = torch.from_numpy(voxels if voxels.ndim == 4 else voxels[None])
    box = Box.whole(tuple(voxels.shape[1:]))
    return infer_shares(
        model,
        weighted(tiling, "gaussian", 8.0),
        Planes(box, oriented(voxels, tiling.orientation)),
        shares(tiling, step),
        target=target or box,
        recipe=dataclasses.replace(recipe, **changes),
    )


# --------------------------------------------------------------------------------------- packing


@given(
    st.sampled_from(["xy", "xz", "yz"]),
    st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([24, 32, 48, 64]),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(0, 2),
)
@settings(max_examples=80)
def test_packed_equals_unpacked_bit_for_bit(orientation, shape, tile, overlap, seed):
    """Any shape: a last short group, stripes thinner than the guard, planes smaller than tiles."""
    model = of.Model.from_torch(nets.Whole(seed=seed), tile=(tile, tile), reach=6, stride=2)
    voxels = nets.blobs(shape, seed, top=8)
    ways = tilings(orientation, shape, tile=(tile, tile), stride=2, reach=6, overlap=overlap)
    assume(len(ways) > 1)
    for way in set(ways) - {"tiles"}:
        tiling = ways[way]
        assert tiling.is_exact(stride=2, reach=6)
        packed, count = infer(model, tiling, voxels)
        plain, plain_count = infer(model, tiling.unpacked(), voxels)
        assert count.tiles <= plain_count.tiles
        assert count.patches == plain_count.patches == tiling.patches
        assert torch.equal(packed.total, plain.total)
        if way == "stripes":
            whole, _ = infer(model, ways["tiles"], voxels)
            assert torch.equal(packed.total, whole.total)


@pytest.mark.parametrize("orientation", ["xy", "xz", "yz"])
def test_packed_equals_unpacked_with_our_own_network(orientation):
    """Random weights in float32 on tiles of a usual size."""
    net = UNet(outputs=2, base=4, depth=2)
    model = of.Model.from_torch(net.eval(), tile=(256, 256), reach=20, stride=4)
    voxels = nets.blobs((20, 40, 44)).astype(np.float32) / 255
    ways = tilings(orientation, (20, 40, 44), tile=(256, 256), stride=4, reach=20)
    packed, count = infer(model, ways["stripes"], voxels)
    plain, _ = infer(model, ways["tiles"], voxels)
    assert count.tiles <= plain.total.shape[1] / 3
    assert torch.equal(packed.total, plain.total)


def test_a_network_that_reaches_too_far_is_seen_by_this_test():
    """The comparison would notice: with the guard too small, packing does show."""
    model = of.Model.from_torch(nets.Whole(), tile=(48, 48), reach=6, stride=2)
    tiling = tilings("xz", (10, 9, 40), tile=(48, 48), stride=2, reach=1)["stripes"]
    assert not tiling.is_exact(stride=2, reach=6)
    voxels = nets.blobs((10, 9, 40), top=8)
    packed, _ = infer(model, tiling, voxels)
    plain, _ = infer(model, tiling.unpacked(), voxels)
    assert not torch.equal(packed.total, plain.total)


@pytest.mark.parametrize("size", [{"divisor": 4}, {"tile": (32, 32)}], ids=str)
@pytest.mark.parametrize("orientation", ["xy", "xz", "yz"])
def test_counts_are_those_of_the_tiling(size, orientation):
    shape = (11, 40, 37)
    model = of.Model.from_torch(nets.Plain(), **size)
    found = tilings(orientation, shape, **size)
    assert len(found) > 1
    for tiling in found.values():
        _, count = infer(model, tiling, nets.blobs(shape))
        assert (count.tiles, count.pixels) == oracles.count_tiles(tiling)
        assert count.patches == tiling.patches
        assert count.skipped == 0


# --------------------------------------------------------------------------- batches and targets

SHAPE = (9, 26, 30)


def cases():
    """A model, its tiling and a volume per kind of tile."""
    fixed = nets.plain(tile=(40, 40))
    yield "stripes", fixed, tilings("xz", SHAPE, tile=(40, 40))["stripes"]
    small = nets.plain(tile=(24, 24))
    yield "shared", small, tilings("xy", SHAPE, tile=(24, 24))["shared"]
    yield "tiles", nets.plain(tile=(16, 16)), tilings("yz", SHAPE, tile=(16, 16))["tiles"]
    free = nets.plain(ndim=3, divisor=4)
    yield "3-D", free, tilings("zyx", SHAPE, ndim=3, divisor=4, packing="none")["rectangles"]


CASES = {name: rest for name, *rest in cases()}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
@pytest.mark.parametrize("step", [None, 1, 3])
def test_batches_run_across_positions_and_do_not_show(case, batch, step):
    model, tiling = CASES[case]
    voxels = nets.with_holes(nets.blobs(SHAPE))
    expected, once = infer(model, tiling, voxels, batch=4, skip_empty=True)
    found, count = infer(model, tiling, voxels, batch=batch, step=step, skip_empty=True)
    assert torch.equal(found.total, expected.total)
    assert (found.missing is None) == (expected.missing is None)
    if found.missing is not None:
        assert torch.equal(found.missing, expected.missing)
    assert count == once


class _Widths:
    """A model that notes how many tiles it is given at once."""

    def __init__(self, model):
        self.model, self.widths = model, []

    def __call__(self, tiles):
        self.widths.append(len(tiles))
        return self.model(tiles)


@every_case
def test_batches_are_full_but_for_the_last(case):
    model, tiling = CASES[case]
    watched = _Widths(model)
    infer(watched, tiling, nets.blobs(SHAPE), batch=4)
    assert set(watched.widths[:-1]) <= {4}
    assert 1 <= watched.widths[-1] <= 4
    assert sum(watched.widths) == tiling.tiles


class _Crowded(_Widths):
    """A network on a device that has room for `most` tiles."""

    def __init__(self, model, most):
        super().__init__(model)
        self.most = most

    def __call__(self, tiles):
        logits = super().__call__(tiles)
        if len(tiles) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return logits


@every_case
@pytest.mark.parametrize("tta", ["none", "mirroring"])
@pytest.mark.parametrize(
    ("batch", "most", "halved"),
    [(4, 4, {}), (4, 3, {"2": 1}), (5, 1, {"2": 1, "1": 1}), (1000, 2, None)],
)
def test_batches_that_do_not_fit_are_halved_and_do_not_show(case, tta, batch, most, halved):
    model, tiling = CASES[case]
    voxels = nets.with_holes(nets.blobs(SHAPE))
    expected, once = infer(model, tiling, voxels, batch=4, tta=tta, skip_empty=True)
    crowded = _Crowded(model, most)
    found, count = infer(crowded, tiling, voxels, batch=batch, tta=tta, skip_empty=True)
    assert torch.equal(found.total, expected.total)
    assert (found.missing is None) == (expected.missing is None)
    assert dataclasses.replace(count, halved={}) == once
    if halved is not None and once.tiles >= batch:
        assert count.halved == halved
    # What did not fit once is not tried again.
    assert sum(width > most for width in crowded.widths) == sum(count.halved.values())


def test_smaller_batches_are_full_again():
    """After the first one was halved the others are made so, not cut in two each."""
    model, tiling = CASES["tiles"]
    crowded = _Crowded(model, 3)
    infer(crowded, tiling, nets.blobs(SHAPE), batch=5)
    assert crowded.widths[:4] == [5, 2, 2, 1]
    assert set(crowded.widths[4:-1]) == {2}


def test_a_tile_that_does_not_fit_alone_fails_its_block():
    model, tiling = CASES["tiles"]
    with pytest.raises(BlockFailed, match=ALONE) as caught:
        infer(_Crowded(model, 0), tiling, nets.blobs(SHAPE))
    assert not isinstance(caught.value, BlockImpossible)


ALONE = (
    r"^out of memory on cpu: the network cannot run a single tile of 1 x 16 x 16 \(CUDA out of "
    r"memory. Tried .*\); free the device's memory, or use a smaller tile, precision bfloat16"
)


def test_a_machine_without_memory_says_so():
    """Torch has no error of its own for that."""
    model = of.Model.from_torch(nets.Plain(), tile=(16, 16))
    model.module.forward = lambda _: torch.empty(2**50)
    with pytest.raises(MemoryError, match="you tried to allocate"):
        infer(model, CASES["tiles"][1], nets.blobs(SHAPE))


@every_case
@pytest.mark.parametrize(
    "box", [Box((2, 3, 4), (7, 20, 29)), Box((8, 25, 29), (9, 26, 30))], ids=str
)
def test_sums_over_a_box_are_the_crop(case, box):
    model, tiling = CASES[case]
    voxels = nets.with_holes(nets.blobs(SHAPE))
    whole, _ = infer(model, tiling, voxels, skip_empty=True)
    part, _ = infer(model, tiling, voxels, skip_empty=True, target=box)
    expected = whole.cut(box)
    assert part.box == box
    assert torch.equal(part.total, expected.total)
    if part.missing is None:
        assert expected.missing is None or not expected.missing.any()
    else:
        assert torch.equal(part.missing, expected.missing)


@given(st.lists(st.integers(0, 30), unique=True).map(sorted))
def test_an_index_finds_its_places_as_a_view_where_they_are_even(places):
    values = torch.arange(40)
    index = as_index(np.array(places, dtype=np.intp), torch.device("cpu"))
    assert values[index].tolist() == places
    even = len({b - a for a, b in itertools.pairwise(places)}) <= 1
    assert isinstance(index, slice) == even


# ----------------------------------------------------------------------------------------- empty


def empty_patches(tiling, voxels):
    """(piece numbers, plane) of the patches whose voxels are all one value, by looking."""
    planes = np.moveaxis(voxels, ORIENTATIONS[tiling.orientation].stack, 0)
    found = set()
    for position in tiling.positions():
        index = tuple(slice(a, b) for a, b in position.spans)
        for plane in range(len(planes)):
            patch = planes[(plane, *index)]
            if (patch == patch.flat[0]).all():
                found.add((position.pieces, plane))
    return found


@pytest.mark.parametrize("case", ["stripes", "shared", "tiles"])
def test_empty_patches_contribute_nothing(case):
    """What remains is the weighted mean of the patches that were run, voxel by voxel."""
    model, tiling = CASES[case]
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:6, 3:20, 10:28] = nets.blobs((4, 17, 18), top=9)
    voxels[7, 24, 2] = 5
    found, count = infer(model, tiling, voxels, skip_empty=True)
    empty = empty_patches(tiling, voxels)
    assert count.skipped == len(empty) > 0
    assert count.patches == tiling.patches
    expected, covered = blended_without(model, tiling, voxels, empty)
    logits, mask = found.logits()
    assert mask is not None
    # Well inside empty input nothing is predicted; where patches hold a sixteenth of the weight
    # or more, they are right, and they are never taken for less than they hold.
    np.testing.assert_array_equal(mask.numpy(), covered >= 1 / 16)
    np.testing.assert_allclose(
        logits.numpy()[:, mask.numpy()], expected[:, mask.numpy()], atol=2e-5
    )
    assert (logits[:, ~mask] == 0).all()


def test_an_empty_stripe_of_a_tile_that_runs_contributes_nothing():
    """Constant rows of one plane, whose neighbour in the tile is not empty and makes it run."""
    model, tiling = CASES["shared"]
    voxels = nets.blobs(SHAPE, top=9)
    voxels[1, 18:] = 3
    empty = empty_patches(tiling, voxels)
    assert empty == {((1, 0), 1), ((1, 1), 1)}
    found, count = infer(model, tiling, voxels, skip_empty=True)
    assert (count.tiles, count.skipped) == (tiling.tiles, len(empty))
    expected, covered = blended_without(model, tiling, voxels, empty)
    logits, mask = found.logits()
    np.testing.assert_array_equal(mask.numpy(), covered >= 1 / 16)
    np.testing.assert_allclose(
        logits.numpy()[:, mask.numpy()], expected[:, mask.numpy()], atol=2e-5
    )


def blended_without(model, tiling, voxels, empty):
    """Float64 blend of the patches that are not empty, and the share of weight they have."""
    planes = np.moveaxis(voxels, ORIENTATIONS[tiling.orientation].stack, 0)
    total = np.zeros((2, *planes.shape))
    weight_sum, full = np.zeros(planes.shape), np.zeros(planes.shape)
    for position in tiling.unpacked().positions():
        index = tuple(slice(a, b) for a, b in position.spans)
        weight = np.outer(*(oracles.profile("gaussian", b - a) for a, b in position.spans))
        (slot,) = position.slots
        for plane in range(len(planes)):
            full[(plane, *index)] += weight
            if (position.pieces, plane) in empty:
                continue
            tile = torch.zeros((1, 1, *position.tile))
            tile[(0, 0, *slot)] = torch.from_numpy(planes[(plane, *index)].astype(np.float32))
            logits = model(tile)[0].double().numpy()[(slice(None), *slot)]
            total[(slice(None), plane, *index)] += weight * logits
            weight_sum[(plane, *index)] += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / weight_sum, weight_sum / full


def test_nothing_is_skipped_unless_asked_for_and_nothing_is_missing_then():
    model, tiling = CASES["tiles"]
    voxels = np.zeros(SHAPE, np.uint8)
    found, count = infer(model, tiling, voxels, skip_empty=False)
    assert (count.skipped, found.missing) == (0, None)
    assert count.tiles == tiling.tiles
    found, count = infer(model, tiling, voxels, skip_empty=True)
    assert (count.tiles, count.skipped) == (0, tiling.patches)
    assert (found.total == 0).all()
    np.testing.assert_allclose(found.missing / FIXED_POINT_SCALE, 1, atol=1e-6)
    assert not found.logits()[1].any()


def test_a_packed_tile_with_one_empty_stripe_still_runs_the_others():
    model, tiling = CASES["stripes"]
    count = next(tiling.positions()).count
    assert count > 1
    voxels = nets.blobs(SHAPE)
    voxels[:, 1] = 3  # the second plane of the first group
    plain = nets.blobs(SHAPE)
    found, done = infer(model, tiling, voxels, skip_empty=True)
    expected, _ = infer(model, tiling, plain)
    assert (done.skipped, done.tiles) == (1, tiling.tiles)
    # Within the reach contract an empty neighbour is as invisible as a full one.
    others = [i for i in range(SHAPE[1]) if i != 1]
    assert torch.equal(found.total[:, others], expected.total[:, others])


def test_an_empty_channel_alone_does_not_make_a_patch_empty():
    model = nets.plain(tile=(16, 16), channels=2)
    tiling = CASES["tiles"][1]
    voxels = nets.blobs((2, *SHAPE))
    voxels[0] = 7
    _, count = infer(model, tiling, voxels, skip_empty=True)
    assert count.skipped == 0


# ---------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("tta", ["mirroring", "rotation"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_views_undo_themselves(tta, ndim):
    """A network that commutes with every flip and transpose gives the very same logits."""
    model = of.Model.from_torch(nets.Pointwise(ndim), tile=(12,) * ndim, ndim=ndim)
    shape = (13, 14, 15)
    voxels = nets.blobs(shape, top=7)
    for orientation in ("xy", "xz", "yz") if ndim == 2 else ("zyx",):
        tiling = tilings(orientation, shape, ndim=ndim, tile=(12,) * ndim, packing="none")["tiles"]
        plain, _ = infer(model, tiling, voxels)
        found, count = infer(model, tiling, voxels, tta=tta)
        assert torch.equal(found.total, plain.total)
        assert count.tiles == tiling.tiles


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("tta", ["mirroring", "rotation"])
def test_augmentation_is_the_mean_over_the_views(tta, ndim):
    side = (8,) * ndim
    model = nets.plain(ndim=ndim, tile=side)
    voxels = nets.blobs((8, 8, 8)).astype(np.float32)
    tiling = tilings("xy" if ndim == 2 else "zyx", (8, 8, 8), ndim=ndim, tile=side)["tiles"]
    found, _ = infer(model, tiling, voxels / 255, tta=tta)
    axes = [2, 3, 4][:ndim]
    tiles = torch.from_numpy(voxels / 255)
    tiles = tiles[:, None] if ndim == 2 else tiles[None, None]
    if tta == "mirroring":
        views = [c for n in range(ndim + 1) for c in itertools.combinations(axes, n)]
        outputs = [model(tiles.flip(v)).flip(v) for v in views]
    else:
        # As in vesuvius, the first axis (z) is exchanged with every other one.
        views = [(axes[0], axis) for axis in axes[1:]]
        outputs = [model(tiles)]
        outputs += [model(tiles.transpose(*v)).transpose(*v) for v in views]
    expected = torch.stack(outputs).double().mean(0)
    expected = expected.transpose(0, 1) if ndim == 2 else expected[0]
    logits, _ = found.logits()
    np.testing.assert_allclose(logits.numpy(), expected.numpy(), atol=1e-6)


# --------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_patches_normalised_by_themselves_equal_numpys(method):
    model, tiling = CASES["stripes"]
    voxels = nets.blobs(SHAPE, dtype=np.uint16, top=4000)
    normalization = Normalization(method, scope="patch")
    found, _ = infer(model, tiling, voxels, patch_normalization=normalization)
    planes = voxels.astype(float).transpose(1, 0, 2)
    low, high = np.percentile(planes, [1, 99], axis=(1, 2), keepdims=True)
    if method == "zscore":
        low, high = planes.mean((1, 2), keepdims=True), planes.std((1, 2), keepdims=True)
        high = high + low
    elif method == "minmax":
        low, high = planes.min((1, 2), keepdims=True), planes.max((1, 2), keepdims=True)
    # One patch is one whole plane here, so normalising planes beforehand is the same.
    assert {len(grid.starts) for grid in tiling.grids} == {1}
    grey = ((planes - low) / (high - low)).astype(np.float32).transpose(1, 0, 2)
    expected, _ = infer(model, tiling, np.ascontiguousarray(grey))
    np.testing.assert_allclose(found.logits()[0], expected.logits()[0], atol=2e-5)


# ---------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("value", [251, 253])
@pytest.mark.parametrize("case", ["tiles", "stripes", "shared"])
def test_logits_that_are_no_numbers_fail_and_say_where(case, value):
    """Trying again is useless; the patch that is named holds the voxel that spoilt it."""
    whole, tiling = CASES[case]
    model = of.Model.from_torch(nets.Spoilt(), tile=whole.card.tile)
    voxels = nets.blobs(SHAPE, top=200)
    voxels[4, 20, 17] = value
    with pytest.raises(BlockImpossible, match=r"\d+ logits that are NaN or infinite") as caught:
        infer(model, tiling, voxels, skip_empty=True)
    spans = re.search(r"patch (\d+):(\d+),(\d+):(\d+),(\d+):(\d+) ", str(caught.value)).groups()
    z0, z1, y0, y1, x0, x1 = map(int, spans)
    assert Box((z0, y0, x0), (z1, y1, x1)).contains(Box((4, 20, 17), (5, 21, 18)))


def test_sums_of_large_logits_that_overflow_are_no_failure():
    """Each of them is a number: they are clipped like any large logit."""
    model = of.Model.from_torch(Huge(), tile=(16, 16))
    found, _ = infer(model, CASES["tiles"][1], nets.blobs(SHAPE))
    np.testing.assert_allclose(found.logits()[0].numpy(), 64, atol=1e-5)


class Huge(torch.nn.Module):
    """The largest logits that are numbers."""

    def forward(self, tiles):
        return torch.full_like(tiles, torch.finfo(torch.float32).max).repeat(1, 2, 1, 1)


def test_large_logits_are_clipped_before_blending():
    model = of.Model.from_torch(nets.Pointwise(), tile=(16, 16))
    tiling = CASES["tiles"][1]
    voxels = np.full(SHAPE, 250, np.uint8)
    found, _ = infer(model, tiling, voxels)
    np.testing.assert_allclose(found.logits()[0].numpy(), 64, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_fixed_and_floating_point_agree(case):
    model, tiling = CASES[case]
    voxels = nets.blobs(SHAPE).astype(np.float32) / 100
    fixed, _ = infer(model, tiling, voxels)
    floating, _ = infer(model, tiling, voxels, fixed_point=False)
    assert floating.total.dtype == torch.float32
    np.testing.assert_allclose(fixed.logits()[0], floating.logits()[0], atol=1e-5)
