"""Tables of nodes: against counting voxels, and the same however the volume is cut."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.reduce.blocktables import BlockTables, block_tables
from orthoflow.reduce.engine import Rule, consensus_of
from orthoflow.reduce.fragments import FRAMES, ORIENTATION_NAMES, fragments
from orthoflow.reduce.merging import merge
from orthoflow.reduce.tablefile import dump, load
from orthoflow.reduce.tables import Overlaps, Tables, tables_of, tally
from orthoflow.reduce.triples import Triples
from tests.reduce import instances_oracle as oracle

SHAPE = (5, 7, 9)
# Non-divisors, blocks of one voxel along an axis, and last blocks that are one voxel thin.
BLOCKS = [(2, 3, 4), (1, 2, 1), (5, 6, 8), (4, 7, 2), (1, 7, 9), (5, 1, 9), (5, 7, 1), (3, 2, 5)]


def labels_from(seed, shape=SHAPE, top=3):
    random = np.random.default_rng(seed)
    return {name: random.integers(0, top, shape) for name in ORIENTATION_NAMES}


def cut(labels, box, further=1):
    parts = {}
    for frame, name in zip(FRAMES, ORIENTATION_NAMES, strict=True):
        stop = [n + further * (axis == frame.stack) for axis, n in enumerate(box.stop)]
        parts[name] = labels[name][tuple(map(slice, box.start, stop))]
    return parts


def tables_in_blocks(labels, block, **more):
    shape = labels["xy"].shape
    boxes = list(split(Box.whole(shape), block))
    return boxes, merge([block_tables(cut(labels, b), box=b, shape=shape, **more) for b in boxes])


def assert_same(a, b):
    """Equal tables, column by column, types included."""
    for entry in dataclasses.fields(a):
        one, two = getattr(a, entry.name), getattr(b, entry.name)
        if dataclasses.is_dataclass(one) and not isinstance(one, Box):
            assert_same(one, two)
        elif isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, entry.name
            np.testing.assert_array_equal(one, two, entry.name)
        else:
            assert one == two, entry.name


def by_voxels(labels):
    """Rows of all tables, as dicts, from sets of voxels."""
    nodes = []
    for o, name in enumerate(ORIENTATION_NAMES):
        width = labels[name].shape[FRAMES[o].column]
        for k, plane in enumerate(oracle.node_planes(labels[name], name)):
            for pixels in plane:
                voxels = {(*p[:o], k, *p[o:]) for p in pixels}
                row, column = min(pixels)
                nodes.append((o, k, row * width + column, frozenset(voxels)))
    overlaps, crossings, contacts = {}, {}, {}
    steps = np.eye(3, dtype=int)
    for (i, a), (j, b) in itertools.combinations(enumerate(nodes, 1), 2):
        if a[0] != b[0] and a[3] & b[3]:
            on_a = sum(v[b[0]] == b[1] for v in a[3])
            on_b = sum(v[a[0]] == a[1] for v in b[3])
            crossings[i, j] = (len(a[3] & b[3]), on_a, on_b)
        elif a[:2] == b[:2]:
            around = [*np.delete(steps, a[0], axis=0), *np.delete(-steps, a[0], axis=0)]
            contacts[i, j] = (pairs(a[3], b[3], around),)
        elif a[0] == b[0]:
            overlaps[i, j] = (pairs(a[3], b[3], [steps[a[0]]]),)
    return nodes, found(overlaps), crossings, found(contacts)


def pairs(a, b, steps):
    return sum(tuple(np.add(v, step)) in b for v in a for step in steps)


def found(table):
    return {key: row for key, row in table.items() if row[0]}


def rows(table):
    columns = list(table.columns().values())
    return {(int(r[0]), int(r[1])): tuple(map(int, r[2:])) for r in zip(*columns, strict=True)}


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 5]))
def test_tables_are_what_voxels_say(seed, top):
    labels = labels_from(seed, (3, 4, 5), top)
    tables = tables_of(labels)
    nodes, overlaps, crossings, contacts = by_voxels(labels)
    assert len(tables.nodes) == len(nodes)
    for row, (o, plane, first, voxels) in enumerate(nodes):
        points = np.array(sorted(voxels))
        assert tables.nodes.orientation[row] == o
        assert tables.nodes.plane[row] == plane
        assert tables.nodes.first[row] == first
        assert tables.nodes.area[row] == len(voxels)
        box = [*points.min(axis=0), *(points.max(axis=0) + 1)]
        np.testing.assert_array_equal(tables.nodes.box[row], box)
    assert rows(tables.overlaps) == overlaps
    assert rows(tables.crossings) == crossings
    assert rows(tables.contacts) == contacts
    for table in (tables.overlaps, tables.crossings, tables.contacts):
        assert list(rows(table)) == sorted(rows(table))


@pytest.mark.parametrize("block", BLOCKS)
@settings(max_examples=6)
@given(st.integers(0, 10**6), st.booleans())
def test_tables_do_not_depend_on_blocks(block, seed, coarse):
    labels = oracle.volumes(seed, SHAPE) if coarse else labels_from(seed)
    whole = merge([block_tables(labels)])
    boxes, joined = tables_in_blocks(labels, block)
    assert len(boxes) > 1
    assert_same(joined.tables, whole.tables)
    for o, name in enumerate(ORIENTATION_NAMES):
        expected = fragments(labels[name], o).volume(whole.nodes_of(0, o))
        found = np.zeros_like(expected)
        for index, box in enumerate(boxes):
            own = fragments(cut(labels, box, 0)[name], o)
            found[box.slices] = own.volume(joined.nodes_of(index, o))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("waiting", [0, 500])
def test_when_tables_are_summed_does_not_show(monkeypatch, waiting):
    monkeypatch.setattr("orthoflow.reduce.columns._PENDING", waiting)
    labels = oracle.volumes(2, SHAPE)
    for block in BLOCKS:
        assert_same(tables_in_blocks(labels, block)[1].tables, tables_of(labels))


def test_components_join_across_the_corner_of_four_blocks():
    plane = np.zeros((1, 4, 4), int)
    plane[0, 1, 1] = plane[0, 2, 2] = 7
    labels = {"xy": plane}
    boxes = list(split(Box.whole(plane.shape), (1, 2, 2)))
    blocks = [
        block_tables({"xy": plane[b.slices]}, box=b, shape=plane.shape) for b in boxes
    ]  # fmt: skip
    found = merge(blocks).tables
    assert len(found.nodes) == 1
    assert len(found.contacts) == 0
    assert_same(found, tables_of(labels))
    plane[0, 2, 2] = 8
    assert len(tables_of(labels).nodes) == 2


def test_an_orientation_may_be_missing_and_a_volume_empty():
    labels = labels_from(3)
    whole, alone = tables_of(labels), tables_of({"xz": labels["xz"]})
    assert len(alone.crossings) == 0
    assert len(alone.nodes) == (whole.nodes.orientation == 1).sum()
    empty = {name: np.zeros(SHAPE, np.uint8) for name in ORIENTATION_NAMES}
    for block in BLOCKS[2:]:
        assert_same(tables_in_blocks(empty, block)[1].tables, tables_of(empty))


def test_classes_come_from_the_label_divisor():
    labels = {name: array * 100 + array for name, array in labels_from(1).items()}
    nodes = tables_of(labels, label_divisor=100).nodes
    assert set(nodes.klass) == {1, 2}
    assert nodes.klass.dtype == np.uint8
    with pytest.raises(BadInput, match=r"label 101 is of class 0 with label_divisor 200"):
        tables_of(labels, label_divisor=200)


def test_what_does_not_fit_is_refused():
    labels = labels_from(1)
    with pytest.raises(BadInput, match=r"labels of \['zx'\]; name them"):
        tables_of({"zx": labels["xy"]})
    with pytest.raises(BadInput, match=r"labels xz have shape \(2, 7, 9\)"):
        tables_of({**labels, "xz": labels["xz"][:2]})
    box = Box((0, 0, 0), (2, 7, 9))
    with pytest.raises(BadInput, match=r"labels xy have shape \(2, 7, 9\).*needs \(3, 7, 9\)"):
        block_tables(cut(labels, box, 0), box=box, shape=SHAPE)
    with pytest.raises(ValueError, match="1 blocks of 126 voxels do not fill"):
        merge([block_tables(cut(labels, box), box=box, shape=SHAPE)])


def test_tables_survive_a_store():
    labels = labels_from(5)
    boxes = list(split(Box.whole(SHAPE), (2, 3, 4)))
    blocks = [block_tables(cut(labels, b), box=b, shape=SHAPE) for b in boxes]
    stored = [load(dump(block), BlockTables) for block in blocks]
    for one, two in zip(blocks, stored, strict=True):
        assert_same(one, two)
        assert dump(one) == dump(two)
    tables = merge(stored).tables
    assert_same(load(dump(tables), Tables), tables_of(labels))


def test_damaged_tables_are_found_before_anything_is_read():
    data = dump(tables_of(labels_from(5)))
    for broken in (data[:-1], data + b"x", data[:40], b"", b"PK" + data, data[1:]):
        with pytest.raises(ValueError, match=r"bytes|header|not a file"):
            load(broken, Tables)
    three = np.arange(3)
    overlaps = dump(Overlaps(three, three, three))
    huge = overlaps.replace(b'"int64", [3]', b'"int64", [900000000000]', 1)
    with pytest.raises(ValueError, match="column a needs 900000000000 bytes"):
        load(huge, Overlaps)
    for old, new, message in (
        (b'["a", "uint8"', b'["a", "object"', "column a is object"),
        (b'["a", ', b'["q", ', "Overlaps lacks a"),
        (b"[3]", b"[-3]", "negative sizes"),
        (b'"kind": "Overlaps"', b'"kind": "Contacts"', "holds Contacts, not Overlaps"),
    ):
        with pytest.raises(ValueError, match=message):
            load(overlaps.replace(old, new, 1), Overlaps)
    with pytest.raises(ValueError, match="differ in length"):
        load(dump(Overlaps(three, three, three[:2])), Overlaps)
    with pytest.raises(ValueError, match="holds Tables, not Triples"):
        load(data, Triples)


def test_keys_too_wide_to_pack_are_tallied_all_the_same():
    wide = np.array([2**62, 5, 2**62, 5])
    keys, count = tally([wide, wide, np.array([1, 0, 1, 2])], np.arange(4))
    assert [key.tolist() for key in keys] == [[5, 5, 2**62], [5, 5, 2**62], [0, 2, 1]]
    assert count.tolist() == [1, 3, 2]


def two_classes(seed=3):
    """Cells of a lattice in all orientations, each of one class with pixels of the other in it."""
    dice = np.random.default_rng(seed)
    shape = (9, 14, 13)
    z, y, x = np.indices(shape)
    cell = 1 + (z // 5) * 9 + (y // 5) * 3 + x // 5
    truth = 1 + cell % 2
    labels = {}
    for name in ("xy", "xz", "yz"):
        noisy = np.where(dice.random(shape) < 0.15, 3 - truth, truth)
        labels[name] = (noisy * 1000 + cell).astype(np.uint32)
    return labels, truth, cell


@pytest.mark.parametrize("block", [None, (4, 5, 6), (1, 14, 13), (9, 3, 12)])
def test_a_cell_has_the_class_of_most_of_its_pixels(block):
    labels, truth, cell = two_classes()
    rule = Rule("empanada", votes=2)
    found = consensus_of(labels, rule, block=block, label_divisor=1000, cells=True)
    assert set(found.instances.klass.tolist()) == {1, 2}
    for number, klass in enumerate(found.instances.klass, 1):
        here = found.labels == number
        assert (truth[here] == klass).all()
        # Cells of one class and orientation that touch nothing of their own stay apart.
        assert len(np.unique(cell[here])) == 1
    whole = consensus_of(labels, rule, label_divisor=1000, cells=True)
    np.testing.assert_array_equal(found.labels, whole.labels)
    tables = block_tables(labels, label_divisor=1000, cells=True)
    assert load(dump(tables), BlockTables).kinds.count.sum() == sum(
        np.count_nonzero(array) for array in labels.values()
    )


def test_a_class_that_is_none_is_refused():
    labels = {"xy": np.full((2, 3, 3), 300 * 1000 + 5)}
    with pytest.raises(BadInput, match="class 300"):
        block_tables(labels, label_divisor=1000, cells=True)
