"""The order of parts and what is left of one, against walking everything."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from orthoflow.geometry.box import Box
from orthoflow.plan.order import halves, ordered_boxes, ordered_cells, undone_boxes

sides = st.tuples(*[st.integers(1, 7)] * 3)


def cells_of(box):
    spans = zip(box.start, box.stop, strict=True)
    return set(itertools.product(*(range(a, b) for a, b in spans)))


@given(sides)
def test_every_cell_comes_once(grid):
    found = list(ordered_cells(grid))
    assert len(found) == len(set(found))
    assert set(found) == cells_of(Box.whole(grid))


@given(sides, st.data())
def test_a_stretch_is_cut_out_of_the_whole(grid, data):
    whole = list(ordered_cells(grid))
    first = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(first, len(whole)))
    assert list(ordered_cells(grid, first, end)) == whole[first:end]


@given(sides, st.data())
def test_a_stretch_is_made_of_few_boxes(grid, data):
    count = math.prod(grid)
    first = data.draw(st.integers(0, count))
    end = data.draw(st.integers(first, count))
    boxes = list(ordered_boxes(grid, first, end))
    found = [cells_of(box) for box in boxes]
    assert sum(map(len, found)) == end - first
    assert set().union(*found) == set(ordered_cells(grid, first, end))
    assert len(boxes) <= 2 * sum(side.bit_length() for side in grid)


def test_the_first_cell_and_a_far_stretch_cost_little():
    """A thousand million cells: nobody walks them."""
    grid = (1000, 1000, 1000)
    assert next(ordered_cells(grid)) == (0, 0, 0)
    far = list(ordered_cells(grid, 999_999_990, 10**9))
    assert len(set(far)) == 10
    assert far[-1] == (999, 999, 999)


def test_neighbours_stay_close():
    """Sixty-four cells in a row fill a cube of about four, not a row of sixty-four."""
    stretch = list(itertools.islice(ordered_cells((64, 64, 64)), 64))
    assert [max(axis) - min(axis) for axis in zip(*stretch, strict=True)] == [3, 3, 3]


@given(sides, st.data())
def test_what_is_left_is_covered_once_and_nothing_else(grid, data):
    start = data.draw(sides)
    box = Box(start, tuple(a + n for a, n in zip(start, grid, strict=True)))
    done = set(data.draw(st.lists(st.sampled_from(sorted(cells_of(box))))))
    found = [cells_of(part) for part in undone_boxes(box, done)]
    assert sum(map(len, found)) == len(set().union(*found))
    assert set().union(*found) == cells_of(box) - done
    if not done:
        assert found == [cells_of(box)]


@given(sides.filter(lambda grid: grid != (1, 1, 1)))
def test_halves_are_halves(grid):
    near, far = halves(Box.whole(grid))
    assert cells_of(near) | cells_of(far) == cells_of(Box.whole(grid))
    differ = [a - b for a, b in zip(near.shape, far.shape, strict=True)]
    assert sum(differ) in (0, 1)
