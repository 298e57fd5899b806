"""Objects from 2-D components of all orientations at once, and the object of each voxel.

Three steps on the tables of nodes, in integers, with ties broken by node numbers; so the answer is
a function of the tables, which do not depend on how the volume was cut (docs/decisions/0013):

1. *Join.* What two clusters have in common is summed over all pairs of their nodes that neighbour
   (consecutive planes of one orientation) or cross (two orientations). Each round, any two clusters
   that are each other's best partner join; never two that touch in a plane. In one orientation
   alone, small clusters that are left then join those that cover them. This is average linkage
   with constraints, as in Bailoni et al. 2022, arXiv:1906.11713 (GASP), with pooled counts for
   weights.
2. *Move.* A node goes to the cluster that covers most of it in the other orientations, unless it
   touches a node of that cluster.
3. *Name.* A node that its cluster does not cover is nameless: it says foreground, and no more.

Then a voxel is what most of its nodes name (`decide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from orthoflow.reduce.fragments import Int
from orthoflow.reduce.tables import Contacts, Crossings, Nodes, Overlaps, Rows, Tables, tally
from orthoflow.reduce.triples import Triples

_Table = TypeVar("_Table", Overlaps, Crossings)

# What is added to the union before the share is taken, in diameters of the smaller cluster (square
# roots of its pixels): little evidence must be good evidence, whatever the size of the objects.
_DIAMETERS = 3


class _Bond(NamedTuple):
    """Clusters join that have more than `part` / `whole` in common: of the union or the smaller."""

    part: int
    whole: int
    of_smaller: bool = False


# What joins clusters, one after the other, by the number of orientations: the fewer there are to
# confirm what is there, the less is asked for. In one alone the cap of a round object, a third of
# the next plane, has nothing else to hold on to, and the last pixels of it less than that.
_BONDS = {
    1: (_Bond(1, 4), _Bond(1, 2, of_smaller=True)),
    2: (_Bond(1, 3),),
    3: (_Bond(2, 5),),
}


class Clusters(NamedTuple):
    """What `agglomerate` finds.

    Attributes
    ----------
    number
        (n,) cluster of each node, 1..named in the order of their first nodes; above that, one
        number per class, nodes that are foreground and no cluster's.
    named
        Number of clusters.
    """

    number: Int
    named: int


@dataclass(frozen=True, slots=True)
class _Edges(Rows):
    """Pairs of clusters a < b, each once.

    Attributes
    ----------
    common, union
        Voxels in both and in either, over all pairs of their nodes that neighbour or cross.
    foes
        Pixel pairs in which they touch.
    """

    a: Int
    b: Int
    common: Int
    union: Int
    foes: Int

    @classmethod
    def pooled(cls, a: Int, b: Int, *counts: Int) -> _Edges:
        """Sums for each pair, in either order; pairs of a cluster with itself are left out."""
        apart = a != b
        a, b = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
        key = a * (1 + int(b.max(initial=0))) + b
        place = np.argsort(key, kind="stable")
        new = np.flatnonzero(np.diff(key[place], prepend=-1))
        a, b = a[place[new]], b[place[new]]
        return cls(a, b, *(_sums(count[apart][place], new) for count in counts))


def agglomerate(tables: Tables) -> Clusters:
    """Cluster of each node.

    Clusters never hold nodes of two classes, nor two nodes that touch in a plane. Any of the three
    orientations may be missing; with a single one nothing is moved, and every node has a name.
    """
    nodes = tables.nodes
    views = len(np.unique(nodes.orientation))
    bonds = _BONDS[max(views, 1)]
    crossings = _of_one_class(tables.crossings, nodes)
    joined = _joined(nodes.area, _edges(tables, crossings), bonds)
    cluster = _moved(joined, crossings, tables.contacts)
    covered = _covered(cluster, crossings)
    due = bonds[0].part * (views - 1) * nodes.area
    nameless = np.asarray(bonds[0].whole * covered < due)
    nameless[_beside(cluster, covered, nameless, tables.contacts)] = True
    return _numbered(cluster, nameless, nodes)


def decide(triples: Triples, *, votes: int, named: int) -> Int:
    """Instance (t,) of each triple of clusters: 1..named, or 0 for background.

    Foreground is where `votes` orientations have anything. There, the cluster that most of them
    name has the voxels. Between several the smaller one has them, for it needs them more; clusters
    are measured by the voxels that no other contests, and one without any gets none.

    Parameters
    ----------
    triples
        Triples of what `agglomerate` numbered: all of a volume.
    votes
        Orientations, 1 to 3.
    named
        Number of clusters; higher numbers are nameless.

    >>> empty = np.zeros((4, 6), np.int64)
    >>> objects = np.array([[1, 1, 2], [0, 1, 2], [2, 2, 9], [2, 0, 0]])
    >>> decide(Triples(objects, np.array([50, 1, 20, 7]), empty), votes=2, named=2).tolist()
    [1, 2, 2, 0]
    """
    objects = triples.objects
    foreground = np.count_nonzero(objects, axis=1) >= votes
    name = (objects > 0) & (objects <= named) & foreground[:, None]
    voices = np.where(name, (objects[:, :, None] == objects[:, None, :]).sum(axis=2), 0)
    name &= voices == voices.max(axis=1, keepdims=True)
    candidate = np.where(name, objects, 0)
    high = candidate.max(axis=1)
    contested = (name & (objects != high[:, None])).any(axis=1)
    size = np.zeros(named + 1, np.int64)
    np.add.at(size, high[~contested], triples.count[~contested])
    size[0] = 0
    rows = candidate[contested]
    # Larger than any cluster: what is no candidate, or has no voxels of its own.
    measure = np.where(size[rows] > 0, size[rows], np.iinfo(np.int64).max)
    best = np.lexsort((rows, measure), axis=1)[:, :1]
    winner = np.take_along_axis(rows, best, axis=1)[:, 0]
    instance: Int = high.copy()
    instance[contested] = np.where(size[winner] > 0, winner, 0)
    return instance


def _edges(tables: Tables, crossings: Crossings) -> _Edges:
    """Edges between nodes, numbered from 0."""
    nodes, overlaps, contacts = tables.nodes, tables.overlaps, tables.contacts
    overlaps = _of_one_class(overlaps, nodes)
    union = nodes.area[overlaps.a - 1] + nodes.area[overlaps.b - 1] - overlaps.count
    across = crossings.on_a + crossings.on_b - crossings.count
    none = np.zeros(len(overlaps) + len(crossings), np.int64)
    touch = np.zeros(len(contacts), np.int64)
    one = np.concatenate([overlaps.a, crossings.a, contacts.a]) - 1
    other = np.concatenate([overlaps.b, crossings.b, contacts.b]) - 1
    # No pair of nodes is in two tables, nor twice in one.
    return _Edges(
        np.minimum(one, other),
        np.maximum(one, other),
        np.concatenate([overlaps.count, crossings.count, touch]),
        np.concatenate([union, across, touch]),
        np.concatenate([none, contacts.count]),
    )


def _of_one_class(pairs: _Table, nodes: Nodes) -> _Table:
    """Pairs of nodes of the same class."""
    same = nodes.klass[pairs.a - 1] == nodes.klass[pairs.b - 1]
    return pairs if same.all() else pairs.take(same)


def _joined(area: Int, edges: _Edges, bonds: Sequence[_Bond]) -> Int:
    """Cluster of each node, named by its lowest node, from 0."""
    cluster, area = np.arange(len(area)), area.copy()
    for bond in bonds:
        while True:
            a, b = _couples(area, edges, bond)
            if not len(a):
                break
            area[a] += area[b]
            to = np.arange(len(area))
            to[b] = a
            cluster = to[cluster]
            edges = _renamed(edges, to, np.append(a, b))
    return cluster


def _renamed(edges: _Edges, to: Int, changed: Int) -> _Edges:
    """Edges of clusters that now have the names `to`, summed: only those `changed` need it."""
    some = np.zeros(len(to), np.bool_)
    some[changed] = True
    stale = some[edges.a] | some[edges.b]
    old, kept = edges.take(stale), edges.take(~stale)
    fresh = _Edges.pooled(to[old.a], to[old.b], old.common, old.union, old.foes)
    columns = zip(kept.columns().values(), fresh.columns().values(), strict=True)
    return _Edges(*(np.concatenate(pair) for pair in columns))


def _couples(area: Int, edges: _Edges, bond: _Bond) -> tuple[Int, Int]:
    """Clusters a < b that are each other's best partner."""
    smaller = np.minimum(area[edges.a], area[edges.b])
    # Exact below 2**52 pixels: the root is correctly rounded, and no integer lies in between.
    union = edges.union + _DIAMETERS * np.sqrt(smaller).astype(np.int64)
    of = smaller if bond.of_smaller else union
    good = np.flatnonzero((bond.whole * edges.common > bond.part * of) & (edges.foes == 0))
    # One rounding, of two integers below 2**53: the same number on any machine.
    share = edges.common[good] / of[good]
    one = np.concatenate([edges.a[good], edges.b[good]])
    other = np.concatenate([edges.b[good], edges.a[good]])
    share = np.concatenate([share, share])
    highest = np.zeros(len(area))
    np.maximum.at(highest, one, share)
    best = share == highest[one]
    partner = np.full(len(area), len(area))
    np.minimum.at(partner, one[best], other[best])
    a = np.flatnonzero(partner < len(area))
    a = a[(partner[partner[a]] == a) & (a < partner[a])]
    return a, partner[a]


def _moved(cluster: Int, crossings: Crossings, contacts: Contacts) -> Int:
    """Clusters after each node went to the one that covers most of it.

    Of equal ones it stays in its own if it can, else takes the lowest. It stays as well if it
    touches a node of the other one: else two clusters, each of which holds planes of one
    orientation that belong to the other, might change places.
    """
    a, b = crossings.a - 1, crossings.b - 1
    keys = [np.concatenate([a, b]), np.concatenate([cluster[b], cluster[a]])]
    (node, to), count = tally(keys, np.concatenate([crossings.count, crossings.count]))
    order = np.lexsort((to, cluster[node] != to, -count, node))
    node, to = node[order], to[order]
    first = np.flatnonzero(np.diff(node, prepend=-1))
    moved = cluster.copy()
    moved[node[first]] = to[first]
    touching = np.concatenate([contacts.a, contacts.b]) - 1
    touched = np.concatenate([contacts.b, contacts.a]) - 1
    barred = touching[moved[touching] == cluster[touched]]
    moved[barred] = cluster[barred]
    return moved


def _covered(cluster: Int, crossings: Crossings) -> Int:
    """Voxels of each node in nodes of its cluster of the other orientations."""
    a, b = crossings.a - 1, crossings.b - 1
    same = cluster[a] == cluster[b]
    covered = np.zeros(len(cluster), np.int64)
    for node in (a, b):
        np.add.at(covered, node[same], crossings.count[same])
    return covered


def _beside(cluster: Int, covered: Int, nameless: npt.NDArray[np.bool_], contacts: Contacts) -> Int:
    """Nodes that touch a node of their cluster which is covered more, or as much and is lower."""
    a, b = contacts.a - 1, contacts.b - 1
    both = (cluster[a] == cluster[b]) & ~nameless[a] & ~nameless[b]
    a, b = a[both], b[both]
    return np.asarray(np.where(covered[a] >= covered[b], b, a))


def _numbered(cluster: Int, nameless: npt.NDArray[np.bool_], nodes: Nodes) -> Clusters:
    """Clusters numbered by their first named node; nameless nodes after them, by class."""
    has = np.flatnonzero(~nameless)
    known, first, place = np.unique(cluster[has], return_index=True, return_inverse=True)
    rank = np.empty(len(known), np.int64)
    rank[np.argsort(first)] = np.arange(1, len(known) + 1)
    number = np.empty(len(cluster), np.int64)
    number[has] = rank[place]
    _, kind = np.unique(nodes.klass[nameless], return_inverse=True)
    number[nameless] = len(known) + 1 + kind
    return Clusters(number, len(known))


def _sums(count: Int, begin: Int) -> Int:
    """Sums of `count` from each of `begin` to the next."""
    return np.add.reduceat(count, begin) if len(begin) else count[:0]
