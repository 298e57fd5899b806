"""Components of planes, found on runs, against another implementation's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import label as components

from orthoflow.errors import BadInput
from orthoflow.reduce.fragments import FRAMES, Runs, fragments, groups, laid_out, meetings

SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
LABELS = arrays.arrays(np.uint16, SHAPES, elements=st.integers(0, 3))


@given(LABELS, st.sampled_from(range(3)))
def test_fragments_are_the_components_of_planes_in_raster_order(labels, orientation):
    found = fragments(labels, orientation)
    planes = labels.transpose(FRAMES[orientation])
    expected, count = [], 0
    for plane in planes:
        pieces = components(plane, connectivity=2, background=0)
        expected.append(np.where(pieces, pieces + count, 0))
        count += pieces.max()
    np.testing.assert_array_equal(found.volume().transpose(FRAMES[orientation]), expected)
    assert found.count == count
    first = [planes[np.asarray(expected) == k][0] for k in range(1, count + 1)]
    np.testing.assert_array_equal(found.label, first)
    own = np.arange(count + 1)
    np.testing.assert_array_equal(found.volume(own).transpose(FRAMES[orientation]), expected)


@given(LABELS, st.sampled_from(list(itertools.permutations(range(3)))))
def test_laid_out_is_a_transposed_copy(array, order):
    for source in (array, np.asfortranarray(array)):
        turned = laid_out(source, order)
        assert turned.flags.c_contiguous
        np.testing.assert_array_equal(turned, source.transpose(order))


def test_diagonal_pixels_are_one_component_and_rows_do_not_wrap():
    plane = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 2], [2, 0, 0]]])
    np.testing.assert_array_equal(
        fragments(plane, 0).volume(), [[[1, 0, 0], [0, 1, 0], [0, 0, 2], [3, 0, 0]]]
    )


def intervals(bounds):
    cuts = np.unique(bounds)
    cuts = cuts[: len(cuts) // 2 * 2].reshape(-1, 2)
    return Runs(cuts[:, 0], cuts[:, 1])


@given(*[st.lists(st.integers(0, 30)).map(lambda v: intervals(np.array(v, np.int64)))] * 2)
def test_meetings_are_all_pairs_that_share_positions(a, b):
    expected = []
    for (i, x), (j, y) in itertools.product(
        enumerate(zip(*a, strict=True)), enumerate(zip(*b, strict=True))
    ):
        shared = min(x[1], y[1]) - max(x[0], y[0])
        if shared > 0:
            expected.append((i, j, shared))
    assert list(zip(*(m.tolist() for m in meetings(a, b)), strict=True)) == expected


def test_groups_are_numbered_by_their_first_item():
    assert groups(6, np.array([5, 4]), np.array([1, 2])).tolist() == [0, 1, 2, 3, 2, 1]


def test_labels_that_are_none_are_refused():
    for odd, message in (
        (np.zeros((2, 2, 2)), "array of float64"),
        (np.zeros((2, 2), int), "2-dimensional"),
        (np.full((1, 1, 1), -4), "hold -4"),
        (np.full((1, 1, 1), 2**63, np.uint64), str(2**63)),
    ):
        with pytest.raises(BadInput, match=message):
            fragments(odd, 0)
