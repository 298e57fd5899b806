"""Clusters of 2-D components: as a slow and plain version finds them, for any order of the rows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from orthoflow.reduce.agglomerate import agglomerate, decide
from orthoflow.reduce.tables import Contacts, Crossings, Nodes, Overlaps, Tables, tables_of
from orthoflow.reduce.triples import Triples

VIEWS = ("xy", "xz", "yz")


def plain_evidence(tables):
    """Common and all voxels of pairs of nodes (from 1) of one class; pairs that touch."""
    area, klass = ([0, *values.tolist()] for values in (tables.nodes.area, tables.nodes.klass))
    pairs = {
        (a, b): (n, area[a] + area[b] - n)
        for a, b, n in zip(*columns(tables.overlaps), strict=True)
        if klass[a] == klass[b]
    } | {
        (a, b): (n, on_a + on_b - n)
        for a, b, n, on_a, on_b in zip(*columns(tables.crossings), strict=True)
        if klass[a] == klass[b]
    }
    a, b, _ = columns(tables.contacts)
    return pairs, {*zip(a, b, strict=True), *zip(b, a, strict=True)}


def columns(table):
    return [column.tolist() for column in table.columns().values()]


def least_share(tables):
    views = len(set(tables.nodes.orientation.tolist()))
    return {1: Fraction(1, 4), 2: Fraction(1, 3), 3: Fraction(2, 5)}[views]


def plain_join(tables):
    """Rounds of couples, with sets and fractions; a cluster is a set of nodes (from 1)."""
    area = [0, *tables.nodes.area.tolist()]
    pairs, foes = plain_evidence(tables)

    def share(one, two, of_smaller):
        found = [pairs[p] for a in one for b in two for p in ((a, b), (b, a)) if p in pairs]
        if not found or any((a, b) in foes for a in one for b in two):
            return Fraction(0)
        smaller = min(sum(area[n] for n in cluster) for cluster in (one, two))
        common, union = map(sum, zip(*found, strict=True))
        return Fraction(common, smaller if of_smaller else union + 3 * isqrt(smaller))

    clusters = [frozenset([node]) for node in range(1, len(area))]
    clusters = plain_rounds(clusters, lambda x, y: share(x, y, False), least_share(tables))
    if len(set(tables.nodes.orientation.tolist())) == 1:
        clusters = plain_rounds(clusters, lambda x, y: share(x, y, True), Fraction(1, 2))
    return clusters


def plain_rounds(clusters, share, least):
    while True:
        best = {}
        for x in clusters:
            found = [(-share(x, y), min(y), y) for y in clusters if x != y]
            nearest = min(found, key=lambda f: f[:2])
            if -nearest[0] > least:
                best[x] = nearest[2]
        couples = [(x, y) for x, y in best.items() if best.get(y) == x and min(x) < min(y)]
        if not couples:
            return clusters
        gone = {x for couple in couples for x in couple}
        clusters = [x for x in clusters if x not in gone] + [x | y for x, y in couples]


def plain_agglomerate(tables):
    cluster = {n: min(c) for c in plain_join(tables) for n in c}
    klass = tables.nodes.klass
    crossings = [
        (a, b, n)
        for a, b, n in zip(
            tables.crossings.a, tables.crossings.b, tables.crossings.count, strict=True
        )
        if klass[a - 1] == klass[b - 1]
    ]
    _, foes = plain_evidence(tables)
    moved = dict(cluster)
    for node in cluster:
        cover = {}
        for a, b, n in crossings:
            if node in (a, b):
                other = cluster[b if node == a else a]
                cover[other] = cover.get(other, 0) + n
        if cover:
            best = min(cover, key=lambda c: (-cover[c], c != cluster[node], c))
            if best not in {cluster[m] for n, m in foes if n == node}:
                moved[node] = best
    covered = {
        node: sum(n for a, b, n in crossings if node in (a, b) and moved[a] == moved[b])
        for node in moved
    }
    others = len(set(tables.nodes.orientation.tolist())) - 1
    least = least_share(tables) * others
    names = {n for n in moved if covered[n] >= least * int(tables.nodes.area[n - 1])}
    lost = set()
    for a, b in zip(tables.contacts.a, tables.contacts.b, strict=True):
        if moved[a] == moved[b] and {a, b} <= names:
            lost.add(b if covered[a] >= covered[b] else a)
    names -= lost
    order = list(dict.fromkeys(moved[n] for n in sorted(names)))
    kinds = sorted({klass[n - 1] for n in moved if n not in names})
    number = {n: 1 + order.index(moved[n]) for n in names}
    number |= {n: 1 + len(order) + kinds.index(klass[n - 1]) for n in moved if n not in names}
    return [number[n] for n in sorted(number)], len(order)


def random_labels(seed, shape=(7, 8, 9), classes=1):
    """Balls that touch, seen with errors: other labels in every plane, holes, welds."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    centers = rng.uniform(0, shape, (5, 3))
    far = np.linalg.norm(grid[..., None, :] - centers, axis=-1)
    truth = np.where(far.min(-1) < 3.2, far.argmin(-1) + 1, 0)
    views = {}
    for name in VIEWS:
        seen = np.where(rng.random(shape) < 0.05, 0, truth)
        views[name] = np.where(seen > 0, seen + 100 * (seen % classes + 1), 0)
    return views


@pytest.mark.parametrize("seen", [VIEWS, ("xy", "yz"), ("xz", "yz"), ("xz",)])
@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_clusters_are_those_of_the_plain_version(seed, classes, seen):
    views = random_labels(seed, classes=classes)
    tables = tables_of({name: views[name] for name in seen}, label_divisor=100)
    assert len(set(tables.nodes.klass.tolist())) == classes
    assert len(tables.contacts)
    number, named = plain_agglomerate(tables)
    found = agglomerate(tables)
    assert found.named == named > 1
    np.testing.assert_array_equal(found.number, number)


@pytest.mark.parametrize("seen", [("xz", "yz"), ("xy", "yz"), VIEWS])
def test_clusters_of_flat_faces_are_those_of_the_plain_version(seen):
    """Where nodes would change places with others, if they might touch those they come to."""
    truth = np.ones((5, 6, 9), np.int64)
    truth[:, :, 4:] = 2
    for place in range(5):
        views = {name: truth.copy() for name in seen}
        np.moveaxis(views[seen[0]], VIEWS.index(seen[0]), 0)[place] = 1
        tables = tables_of(views)
        number, named = plain_agglomerate(tables)
        found = agglomerate(tables)
        assert found.named == named == 2
        np.testing.assert_array_equal(found.number, number)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_does_not_show(seed):
    tables = tables_of(random_labels(seed))
    rng = np.random.default_rng(seed)
    names = ("overlaps", "crossings", "contacts")
    rows = {name: getattr(tables, name) for name in names}
    shuffled = replace(
        tables, **{name: table.take(rng.permutation(len(table))) for name, table in rows.items()}
    )
    expected = agglomerate(tables)
    assert expected.named > 1
    np.testing.assert_array_equal(agglomerate(shuffled).number, expected.number)


def two_objects(length=21):
    """Two balls that touch, as every orientation should see them."""
    z, y, x = np.indices((length, length, 2 * length))
    half = length // 2
    centers = (half, half, half + 1), (half, half, length + half - 1)
    truth = np.zeros((length, length, 2 * length), np.int64)
    for label, (cz, cy, cx) in enumerate(centers, 1):
        near = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < (half + 0.5) ** 2
        truth[near & (truth == 0) & ((x < length) == (label == 1))] = label
    return truth


def instances(views, votes=2):
    """Labels of the rule, from the functions that make it."""
    tables = tables_of(views)
    number, named = agglomerate(tables)
    shape = next(iter(views.values())).shape
    volumes = np.zeros((3, *shape), np.int64)
    for orientation, name in enumerate(VIEWS):
        if name in views:
            planes = np.moveaxis(volumes[orientation], orientation, 0)
            seen = np.moveaxis(views[name], orientation, 0)
            rows = np.flatnonzero(tables.nodes.orientation == orientation)
            for row in rows:
                k, first = tables.nodes.plane[row], tables.nodes.first[row]
                # In these volumes a label of a plane is one component.
                planes[k][seen[k] == seen[k].flat[first]] = number[row]
    flat = volumes.reshape(3, -1).T
    objects, place, count = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    table = Triples(objects, count, np.zeros((len(objects), 6), np.int64))
    return decide(table, votes=votes, named=named)[place.ravel()].reshape(shape)


def renamed(labels):
    """1, 2 by first appearance."""
    found, first = np.unique(labels[labels > 0], return_index=True)
    order = found[np.argsort(first)]
    return sum((labels == label) * (i + 1) for i, label in enumerate(order))


def iou_of_best(found, inside):
    """IoU of an object of the truth with the instance that has most of it."""
    best = np.bincount(found[inside]).argmax()
    assert best > 0
    return np.count_nonzero(inside & (found == best)) / np.count_nonzero(inside | (found == best))


@pytest.mark.parametrize("seen", [VIEWS, ("xy", "xz"), ("xz", "yz"), ("xy", "yz")])
def test_clean_planes_give_the_truth(seen):
    truth = two_objects()
    found = instances(dict.fromkeys(seen, truth))
    np.testing.assert_array_equal(renamed(found), renamed(truth))


@pytest.mark.parametrize("name", VIEWS)
def test_one_orientation_follows_objects_to_their_last_pixels(name):
    truth = two_objects()
    for turn in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        turned = np.ascontiguousarray(truth.transpose(turn))
        found = renamed(instances({name: turned}, votes=1))
        # Planes that show one object after the other cannot tell where it ends.
        behind = turn.index(2) == VIEWS.index(name)
        np.testing.assert_array_equal(found, turned > 0 if behind else renamed(turned))
    for radius, shift in itertools.product((2, 3.5, 6, 9.5), (0, 0.25, 0.5)):
        grid = np.indices((21, 21, 21)) - 10 + shift
        ball = ((grid**2).sum(axis=0) < radius**2).astype(np.int64)
        np.testing.assert_array_equal(instances({name: ball}, votes=1), ball)


@pytest.mark.parametrize("seed", range(4))
def test_touching_nodes_never_bear_one_name(seed):
    tables = tables_of(random_labels(seed))
    number, named = agglomerate(tables)
    a, b = (number[side - 1] for side in (tables.contacts.a, tables.contacts.b))
    assert len(a)
    assert not ((a == b) & (a <= named)).any()


def test_halves_of_an_object_with_two_centers_do_not_split_it():
    truth = (two_objects() == 1).astype(np.int64)
    views = {name: truth.copy() for name in VIEWS}
    half = views["xy"][10]
    half[:, 11:] *= 2
    np.testing.assert_array_equal(instances(views), truth)


def test_numbering_of_nodes_does_not_show():
    tables = tables_of({name: two_objects() for name in VIEWS})
    n = len(tables.nodes)
    new = np.random.default_rng(0).permutation(n) + 1  # of node i + 1
    back = np.argsort(new)
    pairs = {
        name: replace(table, a=new[table.a - 1], b=new[table.b - 1])
        for name in ("overlaps", "crossings", "contacts")
        for table in [getattr(tables, name)]
    }
    found = agglomerate(replace(tables, nodes=tables.nodes.take(back), **pairs))
    expected = agglomerate(tables)
    assert found.named == expected.named == 2
    np.testing.assert_array_equal(renamed(found.number[new - 1]), renamed(expected.number))


def test_no_nodes():
    none = np.zeros(0, np.int64)
    kinds = none.astype(np.uint8)
    nodes = Nodes(kinds, none, none, none, np.zeros((0, 6), np.int64), kinds)
    three = Overlaps(none, none, none), Crossings(none, none, none, none, none)
    found = agglomerate(Tables((2, 3, 4), nodes, *three, Contacts(none, none, none)))
    assert found.named == 0
    assert found.number.shape == (0,)
    table = Triples(np.zeros((0, 3), np.int64), none, np.zeros((0, 6), np.int64))
    assert decide(table, votes=2, named=0).shape == (0,)


@pytest.mark.parametrize("votes", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_decisions_are_those_of_counting(seed, votes):
    rng = np.random.default_rng(seed)
    objects = np.unique(rng.integers(0, 6, (60, 3)), axis=0)
    objects = objects[objects.any(axis=1)]
    count = rng.integers(1, 9, len(objects))
    named = 4
    winners = []
    for row in objects.tolist():
        names = [n for n in row if 0 < n <= named]
        enough = sum(n > 0 for n in row) >= votes
        most = max(map(names.count, names), default=0)
        winners.append({n for n in names if names.count(n) == most} if enough else set())
    size = dict.fromkeys(range(named + 1), 0)
    for found, n in zip(winners, count, strict=True):
        if len(found) == 1:
            size[min(found)] += n
    expected = [
        min(found, key=lambda n: (size[n], n))
        if len(found := one if len(one) < 2 else {n for n in one if size[n]})
        else 0
        for one in winners
    ]
    table = Triples(objects, count, np.zeros((len(objects), 6), np.int64))
    assert any(len(found) > 1 for found in winners)
    np.testing.assert_array_equal(decide(table, votes=votes, named=named), expected)
