"""Labels that count anew in each plane, against SciPy plane by plane."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from orthoflow.errors import BadInput
from orthoflow.reduce.engine import Rule, consensus_labels, consensus_of

AXIS = {"xy": 0, "xz": 1, "yz": 2}
EIGHT = np.ones((3, 3))


def by_hand(labels, axis, divisor, *, given=None):
    """Each plane by itself: components of each label, numbered by their first pixels."""
    out = np.zeros(labels.shape, np.int64)
    for plane, target in zip(np.moveaxis(labels, axis, 0), np.moveaxis(out, axis, 0), strict=True):
        pieces = []
        for name in np.unique(plane[plane > 0]):
            found, count = ndimage.label(plane == name, EIGHT)
            klass = 1 if given is None else name // given
            pieces += [(np.flatnonzero(found == n + 1), klass) for n in range(count)]
        pieces.sort(key=lambda piece: piece[0][0])
        counts = {}
        for pixels, klass in pieces:
            counts[klass] = counts.get(klass, 0) + 1
            target[np.unravel_index(pixels, target.shape)] = klass * divisor + counts[klass]
    return out


@given(
    st.integers(0, 2**31),
    st.sampled_from(sorted(AXIS)),
    st.tuples(st.integers(1, 7), st.integers(1, 8), st.integers(1, 9)),
    st.sampled_from([None, 100]),
)
def test_planes_are_numbered_as_by_hand_however_the_volume_is_cut(seed, name, block, given):
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 4, (5, 6, 7)) * (dice.random((5, 6, 7)) < 0.7)
    if given is not None:
        labels = np.where(labels > 0, labels + 100 * dice.integers(1, 3, labels.shape), 0)
    found = consensus_labels(
        {name: labels}, block=block, label_divisor=given, instances="planes", votes=1
    )
    np.testing.assert_array_equal(found, by_hand(labels, AXIS[name], 10_000, given=given))


def test_small_objects_of_planes_are_left_out_and_leave_no_gaps():
    labels = np.zeros((2, 4, 9), np.uint8)
    labels[:, 1:3, 1:4] = 1
    labels[0, 0, 0] = 2
    labels[1, 1:3, 6:8] = 3
    found = consensus_labels({"xy": labels}, instances="planes", votes=1, min_size=2)
    assert np.unique(found[0]).tolist() == [0, 10_001]
    assert np.unique(found[1]).tolist() == [0, 10_001, 10_002]


def test_the_objects_of_all_planes_are_counted():
    labels = np.zeros((3, 4, 4), np.uint8)
    labels[:, 1:3, 1:3] = 1
    rule = Rule(instances="planes", votes=1, label_divisor=7)
    found = consensus_of({"xy": labels}, rule)
    assert len(found.instances) == 3
    assert np.unique(found.labels).tolist() == [0, 8]


def test_an_empty_volume_has_no_labels():
    found = consensus_labels({"xz": np.zeros((2, 3, 4), int)}, instances="planes", votes=1)
    assert not found.any()


def test_classes_that_would_run_into_each_other_are_refused():
    labels = np.zeros((2, 3, 12), int)
    labels[1, 1, ::2] = 11 + np.arange(6) % 2 * 10
    rule = {"instances": "planes", "votes": 1}
    with pytest.raises(BadInput, match=r"plane 1 has 3 objects of one class.*label_divisor 3"):
        consensus_of({"xy": labels}, Rule(**rule, label_divisor=3), label_divisor=10)
    assert consensus_of({"xy": labels}, Rule(**rule, label_divisor=4), label_divisor=10)
    with pytest.raises(BadInput, match="32 bits; use"):
        consensus_of({"xy": labels}, Rule(**rule, label_divisor=2**31), label_divisor=10)


def test_several_orientations_are_none_of_its_business():
    labels = np.ones((2, 2, 2), int)
    with pytest.raises(ValueError, match="there must be one"):
        consensus_labels({"xy": labels, "xz": labels}, instances="planes", votes=1)
