from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.show.cuts import FLATTEST, TALLEST, orthogonal_cuts
from orthoflow.show.scale import ScaleBar, scale_bar
from orthoflow.show.sheet import (
    PICTURES_HEIGHT,
    POINT,
    ROW_HEIGHT,
    SHEET_WIDTH,
    TINT,
    Column,
    Key,
    Line,
    Row,
    cut_rows,
    draw,
    lay_out,
    text_width,
)

BAR = ScaleBar(0.2, "10 voxels")


def rows_of(aspects, lines=()):
    return [Row(aspect, tuple(lines), BAR) for aspect in aspects]


@given(
    st.lists(st.floats(FLATTEST, TALLEST), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 9),
)
def test_pictures_fit_keep_their_proportions_and_do_not_touch(aspects, columns, a, b, lines, texts):
    rows = rows_of(aspects, [Line("center threshold 0.05", 20)] * texts)
    layout = lay_out(rows, columns, titled=a, noted=b, key_lines=lines)
    assert layout.width <= SHEET_WIDTH
    rects = [rect for row in layout.pictures for rect in row]
    assert len(rects) == len(aspects) * columns
    for row, aspect in zip(layout.pictures, aspects, strict=True):
        for rect in row:
            assert rect.height / rect.width == pytest.approx(aspect, abs=1 / rect.width)
    most = max(PICTURES_HEIGHT, ROW_HEIGHT * len(aspects))
    assert sum(row[0].height for row in layout.pictures) <= most + len(aspects)
    for row, below in itertools.pairwise(layout.pictures):
        assert below[0].top - row[0].top >= texts * 20
    covered = np.zeros((layout.height, layout.width), np.uint8)
    for rect in rects:
        covered[rect.top : rect.top + rect.height, rect.left : rect.left + rect.width] += 1
    assert covered.max() == 1
    assert covered.sum() == sum(rect.width * rect.height for rect in rects)
    assert layout.heading_top < rects[0].top
    assert layout.keys_top <= layout.height


def test_five_columns_use_the_whole_width():
    layout = lay_out(rows_of([1.0, 0.375, 0.375]), 5, titled=True, noted=True, key_lines=1)
    assert layout.width >= SHEET_WIDTH - 5


def drawn(shape, columns, title=None):
    cuts = orthogonal_cuts(shape, None, None)
    bars = [scale_bar(cut, None) for cut in cuts]
    return draw(columns, cut_rows(cuts, bars), title=title), cuts


def uniform(cuts, colour):
    return tuple(np.full((*cut.shape, 3), colour, np.float32) for cut in cuts)


def test_each_picture_lands_in_its_place():
    shape = (30, 60, 60)
    cuts = orthogonal_cuts(shape, None, None)
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    columns = [Column("a", uniform(cuts, red)), Column("b", uniform(cuts, blue))]
    pixels, _ = drawn(shape, columns)
    layout = lay_out(rows_of([1, 0.5, 0.5]), 2, titled=False, noted=False, key_lines=0)
    assert pixels.shape == (layout.height, layout.width, 3)
    for row in layout.pictures:
        for rect, colour in zip(row, (red, blue), strict=True):
            inside = pixels[rect.top + 20 : rect.top + 40, rect.left + 20 : rect.left + 40]
            assert (inside == 255 * np.array(colour)).all()
    second = layout.pictures[0][1]
    edges = pixels[second.top + 50, second.left - 1 : second.left + 1]
    assert edges.tolist() == [[255, 255, 255], [0, 0, 255]]


def test_legend_and_title_take_room_and_show_their_colours():
    shape = (1, 20, 20)
    cuts = orthogonal_cuts(shape, None, None)
    grey = uniform(cuts, 0.5)
    plain, _ = drawn(shape, [Column("a", grey)])
    keys = (Key("what", ((0.0, 1.0, 0.0),)), Key("ramp", ((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))))
    full, _ = drawn(shape, [Column("a", grey, "note", keys=keys)], title="Title")
    assert full.shape[0] > plain.shape[0]
    assert (full == (0, 255, 0)).all(axis=2).sum() == 20 * 20
    assert not (plain == (0, 255, 0)).all(axis=2).any()


def test_text_is_measured():
    assert text_width("", 20) == 0
    assert 0 < text_width("iii", 20) < text_width("mmm", 20) < text_width("mmm", 20, bold=True)
    assert text_width("mmm", 40) == pytest.approx(2 * text_width("mmm", 20), abs=2)


def test_rows_are_tinted_and_points_are_marked_where_they_are():
    dark = np.zeros((40, 40, 3), np.float32)
    points = np.array([[0.25, 0.75], [0.5, 0.5]])
    columns = [Column("a", (dark, dark)), Column("b", (dark, dark), points=(points[:0], points))]
    rows = rows_of([1.0, 1.0], [Line("words", 20)])
    rows[0] = Row(1.0, rows[0].lines, BAR, tinted=True)
    pixels = draw(columns, rows)
    layout = lay_out(rows, 2, titled=False, noted=False, key_lines=0)
    first, second = (row[1] for row in layout.pictures)
    gap = pixels[first.top + 50, first.left - 6]
    np.testing.assert_allclose(gap, 255 * np.array(TINT), atol=1)
    assert (pixels[second.top + 50, second.left - 6] == 255).all()

    def marked(rect):
        inside = pixels[rect.top : rect.top + rect.height, rect.left : rect.left + rect.width]
        return np.argwhere((inside == np.round(255 * np.array(POINT))).all(axis=2))

    assert not len(marked(first))
    found = marked(second) / second.height
    assert len(found) > 50
    nearest = np.abs(found[:, None] - points).max(axis=2).min(axis=1)
    assert nearest.max() < 0.02
