"""Pictures in rows and columns on one sheet: where everything goes, in pixels, and the drawing.

The figure is drawn without pyplot, so nothing of the caller's is touched.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

from orthoflow.show.colours import Colour, Picture, shrink
from orthoflow.show.cuts import Cut
from orthoflow.show.scale import ScaleBar

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    Points = npt.NDArray[np.float64]

SHEET_WIDTH = 2000
"""Pixels; sheets of few columns are narrower, so that pictures stay below `PICTURE_WIDTH`."""
PICTURE_WIDTH = 760
PICTURES_HEIGHT = 1500
"""Most pixels that all rows may take together, or `ROW_HEIGHT` for each where they are many."""
ROW_HEIGHT = 380
MARK: Colour = (0.45, 0.95, 1.0)
"""Marks that show where the other cuts pass."""
POINT: Colour = (1.0, 1.0, 1.0)
"""Points in pictures; their rims are black."""
TINT: Colour = (0.86, 0.95, 0.87)
"""Behind a row that is better than the others."""

_WHITE: Colour = (1.0, 1.0, 1.0)
_RIM: Colour = (0.0, 0.0, 0.0)
_MARGIN, _GAP, _GUTTER = 16, 12, 122
_TITLE, _HEADING, _NOTE, _LABEL, _SMALL, _FINE = 34, 28, 23, 22, 20, 18
_LONGEST_LINE = 330
_CAPTIONED = 100  # a caption would hide much of a flatter picture
_DPI = 100
_FAMILY = "DejaVu Sans"


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a legend: a swatch, or a bar where there are several colours."""

    text: str
    colours: tuple[Colour, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """Pictures of one kind, one for each cut."""

    heading: str
    pictures: tuple[Picture, ...]
    note: str = ""
    captions: tuple[str, ...] = ()
    """Short text in the corner of each picture."""
    points: tuple[Points, ...] = ()
    """Marked in each picture: (n, 2) shares of its height and width."""
    keys: tuple[Key, ...] = ()
    keys_span: int = 1
    """How many columns the legend may take, this one included."""


@dataclass(frozen=True, slots=True)
class Line:
    """Text beside a row."""

    text: str
    size: int
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What a row of pictures shares."""

    aspect: float
    """Height over width of its pictures."""
    lines: tuple[Line, ...]
    bar: ScaleBar
    """In the first picture."""
    crossing: tuple[float | None, float | None] = (None, None)
    """Share of the height and of the width at which the first picture is marked at its borders."""
    tinted: bool = False


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of the sheet in pixels, from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes, in pixels."""

    width: int
    height: int
    pictures: tuple[tuple[Rect, ...], ...]
    """By row, then column."""
    heading_top: int
    keys_top: int


def lay_out(
    rows: Sequence[Row], columns: int, *, titled: bool, noted: bool, key_lines: int
) -> Layout:
    """Place rows of pictures, all of one width.

    Parameters
    ----------
    rows
        Of pictures; text beside them takes the height that it needs.
    columns
        Pictures in a row.
    titled, noted
        Whether room is made for a title, and for a second line under the headings.
    key_lines
        Lines of legend below.
    """
    gutter = max(_GUTTER, *(_lines_width(row) + _GAP for row in rows))
    room = SHEET_WIDTH - 2 * _MARGIN - gutter - (columns - 1) * _GAP
    most = max(PICTURES_HEIGHT, ROW_HEIGHT * len(rows))
    wide = int(min(room / columns, PICTURE_WIDTH, most / sum(row.aspect for row in rows)))
    heading_top = _MARGIN + (round(1.5 * _TITLE) if titled else 0)
    top = heading_top + round(1.35 * _HEADING) + (round(1.35 * _NOTE) if noted else 0)
    placed = []
    for row in rows:
        high = max(1, round(wide * row.aspect))
        lefts = (_MARGIN + gutter + i * (wide + _GAP) for i in range(columns))
        placed.append(tuple(Rect(left, top, wide, high) for left in lefts))
        top += max(high, _lines_height(row)) + _GAP
    height = top - _GAP + _MARGIN + key_lines * _line() + (_GAP // 2 if key_lines else 0)
    width = placed[0][-1].left + wide + _MARGIN
    return Layout(width, height, tuple(placed), heading_top, top)


def cut_rows(cuts: Sequence[Cut], bars: Sequence[ScaleBar]) -> tuple[Row, ...]:
    """A row for each cut of a volume: which plane it is, and where the other cuts pass."""
    rows = []
    for cut, bar in zip(cuts, bars, strict=True):
        passing = zip(cut.crossing, (cut.rows, cut.columns), strict=True)
        down, right = (_share(place, window) for place, window in passing)
        crossing = (down, right) if len(cuts) > 1 else (None, None)
        rows.append(Row(cut.aspect, _cut_lines(cut), bar, crossing))
    return tuple(rows)


def _cut_lines(cut: Cut) -> tuple[Line, ...]:
    """Orientation, plane, and the window where the plane is shown in part."""
    hidden = (Line(f"{axis} {lo}\u2013{hi}", _FINE) for axis, lo, hi in cut.hidden())
    return (
        Line(cut.orientation.name, _HEADING, bold=True),
        Line(f"{cut.stack_axis} = {cut.place}", _LABEL),
        *hidden,
    )


def draw(
    columns: Sequence[Column], rows: Sequence[Row], *, title: str | None = None
) -> npt.NDArray[np.uint8]:
    """The sheet as RGB (rows, columns, 3): of each column a picture in each row."""
    plain = _lay_out(columns, rows, title, key_lines=0)
    lines = max(len(_key_lines(c, plain.pictures[0][0].width)) for c in columns)
    layout = _lay_out(columns, rows, title, key_lines=lines)
    sheet = _Sheet(layout)
    if title:
        sheet.text(_MARGIN, _MARGIN, title, _TITLE, bold=True, room=layout.width - 2 * _MARGIN)
    for number, (row, rects) in enumerate(zip(rows, layout.pictures, strict=True)):
        _label_row(sheet, row, rects[0])
        for column, rect in zip(columns, rects, strict=True):
            axes = sheet.picture(rect, column.pictures[number])
            if column is columns[0]:
                _mark_crossing(axes, row, rect)
                _scale_bar(axes, row.bar, rect)
            if column.points:
                _mark_points(axes, column.points[number], rect)
            if column.captions and rect.height >= _CAPTIONED:
                _caption(axes, column.captions[number], rect)
    for column, rect in zip(columns, layout.pictures[0], strict=True):
        _head(sheet, column, rect)
        _keys(sheet, column, rect)
    return sheet.pixels()


def _lay_out(
    columns: Sequence[Column], rows: Sequence[Row], title: str | None, key_lines: int
) -> Layout:
    noted = any(column.note for column in columns)
    return lay_out(rows, len(columns), titled=bool(title), noted=noted, key_lines=key_lines)


class _Sheet:
    """A figure that is addressed in pixels from the upper left corner."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        size = (layout.width / _DPI, layout.height / _DPI)
        self._figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def picture(self, rect: Rect, picture: Picture) -> Axes:
        """Fill `rect` with a picture; the axes count its pixels from the upper left corner."""
        axes = self._axes(rect)
        rows, columns = picture.shape[:2]
        # Beyond twofold the mean is taken here: a thin error fades, but does not fall between.
        factors = (max(1, rows // rect.height), max(1, columns // rect.width))
        axes.imshow(
            np.clip(shrink(picture, factors), 0, 1),
            extent=(0, rect.width, rect.height, 0),
            aspect="auto",
            interpolation="auto",
        )
        return axes

    def text(
        self, left: int, top: int, text: str, size: int, *, bold: bool = False, room: int
    ) -> None:
        """Write one line, smaller where it would take more than `room` pixels."""
        size = min(size, int(size * room / max(1, text_width(text, size, bold=bold))))
        self._figure.text(
            left / self.layout.width,
            1 - top / self.layout.height,
            text,
            fontproperties=_font(size, bold=bold),
            va="top",
            color="black",
            parse_math=False,
        )

    def swatch(self, rect: Rect, colours: tuple[Colour, ...]) -> None:
        """A square of one colour, or a bar of several."""
        strip = np.array(colours, np.float32)[None]
        self._axes(rect).imshow(
            strip,
            extent=(0, rect.width, rect.height, 0),
            aspect="auto",
            interpolation="bilinear" if len(colours) > 1 else "nearest",
        )

    def tint(self, rect: Rect) -> None:
        """Colour a rectangle, behind everything else."""
        wide, high = self.layout.width, self.layout.height
        place = (rect.left / wide, 1 - (rect.top + rect.height) / high)
        share = (rect.width / wide, rect.height / high)
        patch = Rectangle(place, *share, facecolor=TINT, transform=self._figure.transFigure)
        patch.set_zorder(-1)  # pictures lie at 0
        self._figure.patches.append(patch)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """What was drawn, RGB."""
        self._canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(self._canvas.buffer_rgba(), np.uint8)  # type: ignore[no-untyped-call]
        return drawn[..., :3].copy()

    def _axes(self, rect: Rect) -> Axes:
        wide, high = self.layout.width, self.layout.height
        bottom = high - rect.top - rect.height
        place = (rect.left / wide, bottom / high, rect.width / wide, rect.height / high)
        axes = self._figure.add_axes(place)
        axes.set_axis_off()
        return axes


def _font(size: int, *, bold: bool = False) -> FontProperties:
    return FontProperties(
        family=_FAMILY, weight="bold" if bold else "normal", size=size * 72 / _DPI
    )


@functools.lru_cache(maxsize=1024)
def text_width(text: str, size: int, *, bold: bool = False) -> int:
    """Pixels that a line of text takes."""
    if not text:
        return 0
    path = TextPath((0, 0), text, size=size, prop=_font(size, bold=bold))
    width: float = path.get_extents().x1
    return math.ceil(width)


def _head(sheet: _Sheet, column: Column, rect: Rect) -> None:
    top = sheet.layout.heading_top
    sheet.text(rect.left, top, column.heading, _HEADING, bold=True, room=rect.width)
    top += round(1.35 * _HEADING)
    if column.note:
        sheet.text(rect.left, top, column.note, _NOTE, room=rect.width)


def _step(line: Line) -> int:
    return round(1.15 * line.size)


def _lines_height(row: Row) -> int:
    return sum(map(_step, row.lines))


def _lines_width(row: Row) -> int:
    """Pixels that the text beside a row takes, no more than it is given."""
    widths = (text_width(line.text, line.size, bold=line.bold) for line in row.lines)
    return min(_LONGEST_LINE, max(widths, default=0))


def _label_row(sheet: _Sheet, row: Row, rect: Rect) -> None:
    """The text beside the pictures of a row, of which `rect` is the first."""
    if row.tinted:
        high = max(rect.height, _lines_height(row)) + _GAP
        sheet.tint(Rect(0, rect.top - _GAP // 2, sheet.layout.width, high))
    top, room = rect.top - 4, rect.left - _MARGIN - _GAP  # -4: capitals level with the picture
    for line in row.lines:
        sheet.text(_MARGIN, top, line.text, line.size, bold=line.bold, room=room)
        top += _step(line)


def _mark_crossing(axes: Axes, row: Row, rect: Rect) -> None:
    """Short marks at the border where the two other cuts pass, if they pass the window."""
    length = min(16, rect.height // 5)
    down, right = row.crossing
    marks: list[tuple[tuple[float, float], tuple[float, float]]] = []
    if right is not None:
        ends = ((0, length), (rect.height - length, rect.height))
        marks += [((right * rect.width,) * 2, end) for end in ends]
    if down is not None:
        ends = ((0, length), (rect.width - length, rect.width))
        marks += [(end, (down * rect.height,) * 2) for end in ends]
    for across, along in marks:
        axes.plot(across, along, color="black", linewidth=3.6, solid_capstyle="butt")
        axes.plot(across, along, color=MARK, linewidth=2.0, solid_capstyle="butt")
    _keep_limits(axes, rect)


def _share(place: int, window: tuple[int, int]) -> float | None:
    """Where the middle of a voxel lies in a window, as a share of it; None outside."""
    first, end = window
    return (place - first + 0.5) / (end - first) if first <= place < end else None


def _mark_points(axes: Axes, points: Points, rect: Rect) -> None:
    down, right = points[:, 0] * rect.height, points[:, 1] * rect.width
    size = max(4.0, min(rect.height, rect.width) / 42)
    axes.plot(
        right,
        down,
        linestyle="none",
        marker="o",
        markersize=size,
        markerfacecolor=POINT,
        markeredgecolor="black",
        markeredgewidth=1.3,
    )
    _keep_limits(axes, rect)


def _keep_limits(axes: Axes, rect: Rect) -> None:
    axes.set_xlim(0, rect.width)
    axes.set_ylim(rect.height, 0)


def _scale_bar(axes: Axes, bar: ScaleBar, rect: Rect) -> None:
    long, thick, inset = bar.share * rect.width, 6, 12
    left, top = rect.width - inset - long, rect.height - inset - thick
    white_bar = Rectangle((left, top), long, thick, facecolor="white", edgecolor="black")
    white_bar.set(linewidth=0.8, zorder=3)  # above the marks
    axes.add_patch(white_bar)
    axes.text(
        left + long,
        top - 5,
        bar.text,
        fontproperties=_font(_SMALL),
        color="white",
        ha="right",
        va="bottom",
        path_effects=[withStroke(linewidth=3, foreground="black")],
    )


def _caption(axes: Axes, text: str, rect: Rect) -> None:
    axes.text(
        10,
        rect.height - 9,
        text,
        fontproperties=_font(_SMALL),
        color="white",
        ha="left",
        va="bottom",
        path_effects=[withStroke(linewidth=3, foreground="black")],
    )


def _line() -> int:
    return round(1.6 * _SMALL)


def _swatch_width(key: Key) -> int:
    return _SMALL if len(key.colours) == 1 else 5 * _SMALL


def _key_width(key: Key) -> int:
    return _swatch_width(key) + 8 + text_width(key.text, _SMALL)


def _key_lines(column: Column, wide: int) -> list[list[Key]]:
    """Entries of a column's legend, broken into lines of at most its room."""
    room = column.keys_span * (wide + _GAP) - _GAP
    lines: list[list[Key]] = []
    used = room + 1
    for key in column.keys:
        need = _key_width(key)
        if used + need > room:
            lines.append([])
            used = 0
        lines[-1].append(key)
        used += need + _SMALL
    return lines


def _keys(sheet: _Sheet, column: Column, rect: Rect) -> None:
    top = sheet.layout.keys_top
    for line in _key_lines(column, rect.width):
        left = rect.left
        for key in line:
            wide = _swatch_width(key)
            if key.colours == (_WHITE,):
                sheet.swatch(Rect(left - 1, top - 1, wide + 2, _SMALL + 2), (_RIM,))
            sheet.swatch(Rect(left, top, wide, _SMALL), key.colours)
            room = text_width(key.text, _SMALL)
            sheet.text(left + wide + 8, top, key.text, _SMALL, room=room)
            left += _key_width(key) + _SMALL
        top += _line()
