"""Components, watershed and holes: against oracles, and the same however the volume is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.reduce.basins import BasinTables, join_shallow
from orthoflow.reduce.distances import squared_distances
from orthoflow.reduce.holes import HoleTables, fill, hole_tables, merge_holes
from orthoflow.reduce.solidengine import SolidRule, solids_of
from orthoflow.reduce.solids import SolidTables, merge_solids, solid_tables
from orthoflow.reduce.tablefile import dump, load
from tests.reduce import solids_oracle as oracle
from tests.reduce.test_tables import assert_same

SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
CLASSES = arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 2))
CONNECTIVITIES = st.sampled_from([6, 26])
# Non-divisors, blocks of one voxel along an axis, and last blocks that are one voxel thin.
SHAPE = (9, 11, 13)
BLOCKS = [(4, 5, 6), (1, 11, 13), (9, 1, 13), (9, 11, 1), (2, 3, 4), (8, 10, 12), (5, 1, 2)]


def solid_classes(seed, shape=SHAPE, classes=2):
    """Smooth blobs of a few classes, that touch each other and the border, with pinholes."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), random.uniform(0.3, 2))
    share = random.uniform(0.3, 0.95)
    klass = 1 + ndimage.zoom(random.integers(classes, size=(3, 3, 3)), np.array(shape) / 3, order=0)
    inside = (smooth > np.quantile(smooth, 1 - share)) & (random.random(shape) > 0.01)
    return np.where(inside, klass, 0).astype(np.uint8)


def assert_cut_does_not_show(classes, rule, block):
    whole, cut = solids_of(classes, rule), solids_of(classes, rule, block=block)
    assert cut.labels.dtype == whole.labels.dtype == np.uint32
    np.testing.assert_array_equal(cut.labels, whole.labels)
    assert_same(cut.objects, whole.objects)


def assert_told(found, classes):
    """The table of objects says what their voxels do."""
    assert found.labels.max(initial=0) == len(found.objects)
    for row, where in enumerate(ndimage.find_objects(found.labels.astype(np.int64))):
        index = np.flatnonzero(found.labels == row + 1)
        assert found.objects.size[row] == len(index)
        assert found.objects.first[row] == index[0]
        assert found.objects.label[row] == classes.reshape(-1)[index[0]]
        box = [*(s.start for s in where), *(s.stop for s in where)]
        assert found.objects.box[row].tolist() == box


@given(CLASSES, CONNECTIVITIES, st.integers(0, 4), st.integers(0, 2))
def test_components_are_those_of_voxels(classes, connectivity, size, extent):
    rule = SolidRule(connectivity=connectivity, min_size=size, min_extent=extent)
    found = solids_of(classes, rule)
    expected = oracle.components(classes, connectivity, min_size=size, min_extent=extent)
    np.testing.assert_array_equal(found.labels, expected)
    assert_told(found, classes)


@given(CLASSES, CONNECTIVITIES, st.integers(1, 4), st.sampled_from([0.2, 0.5, 1.0, 9.0]))
def test_watershed_is_that_of_voxels(classes, connectivity, radius, depth):
    rule = SolidRule("watershed", connectivity, depth=depth, radius=radius)
    found = solids_of(classes, rule)
    expected = oracle.watershed(classes, radius, depth, connectivity)
    np.testing.assert_array_equal(found.labels, expected)
    assert_told(found, classes)


@pytest.mark.parametrize("depth", [0.3, 1.0])
def test_watershed_of_blobs_is_that_of_voxels(depth):
    many = 0
    for seed in range(6):
        classes = solid_classes(seed)
        found = solids_of(classes, SolidRule("watershed", radius=4, depth=depth), block=(4, 5, 6))
        expected = oracle.watershed(classes, 4, depth)
        np.testing.assert_array_equal(found.labels, expected)
        many += expected.max() - oracle.components(classes).max()
    assert many > 5


@given(CLASSES, st.data())
def test_any_cut_gives_the_same_bytes(classes, data):
    block = data.draw(st.tuples(*(st.integers(1, n) for n in classes.shape)))
    rule = data.draw(
        st.builds(
            SolidRule,
            st.sampled_from(["cc", "watershed"]),
            CONNECTIVITIES,
            st.integers(0, 3),
            depth=st.sampled_from([0.2, 1.0]),
            radius=st.integers(1, 4),
            fill_holes=st.booleans(),
        )
    )
    assert_cut_does_not_show(classes, rule, block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", ["cc", "watershed"])
@settings(max_examples=5)
@given(st.integers(0, 10**6), CONNECTIVITIES, st.integers(1, 5), st.booleans())
def test_blobs_do_not_depend_on_blocks(block, kind, seed, connectivity, radius, fill_holes):
    rule = SolidRule(
        kind, connectivity, min_size=5, depth=0.5, radius=radius, fill_holes=fill_holes
    )
    assert_cut_does_not_show(solid_classes(seed), rule, block)


@given(CLASSES, st.integers(1, 9))
def test_squared_distances_are_those_of_voxels(classes, radius):
    np.testing.assert_array_equal(
        squared_distances(classes, radius), oracle.relief(classes, radius)
    )


def test_squared_distances_agree_with_an_independent_transform_and_depend_on_the_radius_only():
    mask = (solid_classes(3, (30, 20, 25)) > 0).astype(np.uint8)
    whole = squared_distances(mask, 5)
    apart = np.rint(ndimage.distance_transform_edt(mask) ** 2)
    np.testing.assert_array_equal(whole, np.minimum(apart, 25))
    part = squared_distances(np.ascontiguousarray(mask[5:25, :15]), 5)
    np.testing.assert_array_equal(part[5:-5, :-5], whole[10:20, :10])


def test_a_voxel_meets_the_corner_of_eight_blocks():
    classes = np.zeros((4, 4, 4), np.uint8)
    for one, other in (((1, 1, 1), (2, 2, 2)), ((1, 2, 1), (2, 1, 2)), ((1, 1, 2), (2, 2, 1))):
        classes[:] = 0
        classes[one] = classes[other] = 1
        for rule in (SolidRule(), SolidRule("watershed", radius=1)):
            found = solids_of(classes, rule, block=(2, 2, 2))
            assert len(found.objects) == 1
        assert len(solids_of(classes, SolidRule(connectivity=6), block=(2, 2, 2)).objects) == 2
        classes[other] = 2
        assert len(solids_of(classes, SolidRule(), block=(2, 2, 2)).objects) == 2


@given(arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 3)), st.data())
def test_holes_are_those_of_voxels(labels, data):
    block = data.draw(st.tuples(*(st.integers(1, n) for n in labels.shape)))
    np.testing.assert_array_equal(filled(labels, block), oracle.filled(labels))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(BLOCKS))
def test_holes_of_one_label_are_what_scipy_fills(seed, block):
    mask = solid_classes(seed) > 0
    expected = ndimage.binary_fill_holes(mask)
    assume((expected != mask).any())
    np.testing.assert_array_equal(filled(mask.astype(np.uint32) * 7, block), expected * 7)


def filled(labels, block):
    boxes = list(split(Box.whole(labels.shape), block))
    parts = [np.ascontiguousarray(labels[box.slices]) for box in boxes]
    tables = [
        hole_tables(part, box=box, shape=labels.shape)
        for part, box in zip(parts, boxes, strict=True)
    ]
    merged = merge_holes(tables)
    answer = np.empty_like(labels)
    for index, (part, box) in enumerate(zip(parts, boxes, strict=True)):
        answer[box.slices] = fill(part, merged.lookup(index))
    gained = {
        int(k): int(n)
        for k, n in zip(*np.unique(answer[answer != labels], return_counts=True), strict=True)
    }
    table = merged.filled
    assert dict(zip(table.label.tolist(), table.size.tolist(), strict=True)) == gained
    return answer


def test_a_cavity_with_something_in_it_stays():
    shell = np.zeros((7, 7, 7), np.uint32)
    shell[1:6, 1:6, 1:6] = 3
    shell[2:5, 2:5, 2:5] = 0
    assert (filled(shell, (3, 3, 3))[2:5, 2:5, 2:5] == 3).all()
    for change in ({(3, 3, 3): 9}, {(1, 3, 3): 9}, {(1, 3, 3): 0}):
        odd = shell.copy()
        for place, label in change.items():
            odd[place] = label
        np.testing.assert_array_equal(filled(odd, (3, 3, 3)), odd)


def test_filled_holes_count_in_sizes_but_not_for_the_smallest():
    ball = np.zeros((6, 6, 6), np.uint8)
    ball[1:5, 1:5, 1:5] = 1
    ball[2:4, 2:4, 2:4] = 0
    found = solids_of(ball, SolidRule(fill_holes=True), block=(3, 3, 3))
    assert found.objects.size.tolist() == [64]
    assert np.count_nonzero(found.labels) == 64
    assert len(solids_of(ball, SolidRule(fill_holes=True, min_size=57)).objects) == 0


def test_necks_divide_and_the_depth_says_which():
    mask = np.zeros((11, 11, 21), np.uint8)
    grid = np.indices(mask.shape)
    for x in (5, 15):
        mask[sum((g - c) ** 2 for g, c in zip(grid, (5, 5, x), strict=True)) <= 30] = 1
    counts = [
        len(solids_of(mask, SolidRule("watershed", depth=depth, radius=radius)).objects)
        for depth, radius in ((1.0, 16), (4.0, 16), (1.0, 3))
    ]
    assert counts == [2, 1, 1]


def test_a_flat_top_is_one_piece_of_a_block():
    classes, box = np.ones((9, 7, 8), np.uint8), Box((3, 3, 0), (8, 7, 8))
    rule = SolidRule("watershed", radius=2)
    around = rule.surroundings(box, classes.shape)
    assert around == Box((1, 1, 0), (9, 7, 8))
    tables = rule.tables(classes[around.slices], box=box, shape=classes.shape)
    assert tables.pieces.size.tolist() == [5 * 4 * 8]


def test_basins_join_from_the_highest_saddle_down():
    # 1 joins 0 over the higher saddle; so high is the peak of both that 2 does not join them.
    peak, a, b = np.array([64, 36, 49]), np.array([0, 1]), np.array([1, 2])
    np.testing.assert_array_equal(join_shallow(peak, a, b, np.array([25, 16]), depth=2), [0, 0, 1])
    # With equal saddles the first pair comes first, and 1 takes the height of 0.
    np.testing.assert_array_equal(
        join_shallow(peak, a, b, np.array([16, 16]), depth=2.5), [0, 0, 1]
    )
    np.testing.assert_array_equal(
        join_shallow(peak, a, b, np.array([16, 16]), depth=3.5), [0, 0, 0]
    )
    assert len(join_shallow(peak[:0], a[:0], b[:0], a[:0], depth=1)) == 0


class Stored(Sequence):
    """Tables as they lie in a store: read when asked for; remembers what was asked."""

    def __init__(self, tables):
        self._files, self._kind = [dump(table) for table in tables], type(tables[0])
        self.asked = []

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        file = self._files[index]
        self.asked.append(index)
        return load(file, self._kind)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [(SolidRule(), SolidTables), (SolidRule("watershed", radius=3, depth=0.4), BasinTables)],
)
def test_tables_survive_a_store_and_are_read_front_to_back(rule, kind):
    assert rule.table is kind
    classes = solid_classes(4)
    boxes = list(split(Box.whole(SHAPE), (4, 5, 6)))
    tables = [
        rule.tables(classes[rule.surroundings(box, SHAPE).slices], box=box, shape=SHAPE)
        for box in boxes
    ]
    stored = Stored(tables)
    for index, one in enumerate(tables):
        assert_same(stored[index], one)
        assert dump(stored[index]) == dump(one)
    stored.asked.clear()
    assert_same(rule.merge(stored), rule.merge(tables))
    assert stored.asked == [*range(len(boxes))] * 2


def test_hole_tables_survive_a_store_and_are_read_front_to_back():
    labels = solids_of(solid_classes(4), SolidRule()).labels
    boxes = list(split(Box.whole(SHAPE), (4, 5, 6)))
    tables = [hole_tables(labels[box.slices], box=box, shape=SHAPE) for box in boxes]
    stored = Stored(tables)
    for index, one in enumerate(tables):
        assert isinstance(stored[index], HoleTables)
        assert dump(stored[index]) == dump(one)
    stored.asked.clear()
    assert_same(merge_holes(stored), merge_holes(tables))
    assert stored.asked == [*range(len(boxes))] * 2


def test_blocks_that_do_not_fit_together_are_refused():
    classes = solid_classes(1)
    boxes = list(split(Box.whole(SHAPE), (4, 5, 6)))
    tables = [solid_tables(classes[box.slices], box=box, shape=SHAPE) for box in boxes]
    with pytest.raises(ValueError, match=r"block 8:9,10:11,6:12 comes late"):
        merge_solids(tables[::-1])
    with pytest.raises(ValueError, match="do not fill a volume"):
        merge_solids(tables[:-1])
    ragged = [Box((0, 0, 0), (9, 11, 6)), Box((0, 0, 6), (4, 11, 13)), Box((4, 0, 6), (9, 11, 13))]
    holes = [hole_tables(classes[box.slices], box=box, shape=SHAPE) for box in ragged]
    with pytest.raises(ValueError, match="3 blocks of 1287 voxels do not fill"):
        merge_holes(holes)


def test_what_does_not_fit_is_refused():
    mask = np.ones((2, 3, 4), np.uint8)
    for odd, message in (
        (mask.astype(float), "classes are float64"),
        (mask[0], "array of 2 axes"),
        (mask.astype(int) - 4, "classes hold -3"),
        (mask * np.uint64(2**63), str(2**63)),
    ):
        for rule in (SolidRule(), SolidRule("watershed")):
            with pytest.raises(BadInput, match=message):
                solids_of(odd, rule)
    with pytest.raises(BadInput, match=r"shape \(2, 3, 4\), and the block needs \(1, 3, 4\)"):
        solid_tables(mask, box=Box((0, 0, 0), (1, 3, 4)), shape=mask.shape)
    for wrong, message in (
        ({"kind": "blobs"}, "kind 'blobs'; use cc or watershed"),
        ({"connectivity": 18}, "connectivity 18; use 6 or 26"),
        ({"depth": 0.0}, "depth 0.0"),
        ({"depth": float("nan")}, "depth nan"),
        ({"radius": 182}, "radius 182; use 1 to 181"),
    ):
        with pytest.raises(BadInput, match=message):
            SolidRule(**wrong)
    with pytest.raises(BadInput, match="radius 0; use 1 to 181"):
        squared_distances(mask, 0)


def test_a_mask_is_a_class_and_nothing_is_no_object():
    mask = solid_classes(2) > 0
    assert set(solids_of(mask, SolidRule()).objects.label) == {1}
    empty = np.zeros((3, 4, 5), np.uint8)
    for rule in (SolidRule(fill_holes=True), SolidRule("watershed", fill_holes=True)):
        for block in (None, (2, 3, 1)):
            found = solids_of(empty, rule, block=block)
            assert found.labels.dtype == np.uint32
            assert not found.labels.any()
            assert len(found.objects) == 0
        full = solids_of(empty + 1, rule, block=(2, 3, 1))
        assert (full.labels == 1).all()


def test_fortran_order_and_wide_labels_do_not_show():
    classes = solid_classes(5)
    wide = np.asfortranarray(classes.astype(np.int64) * 10**12)
    for rule in (SolidRule(), SolidRule("watershed", radius=3)):
        narrow = solids_of(classes, rule)
        found = solids_of(wide, rule, block=(4, 5, 6))
        np.testing.assert_array_equal(found.labels, narrow.labels)
        np.testing.assert_array_equal(found.objects.label, narrow.objects.label * 10**12)
