"""The picture of planes under several settings: a row a setting, from the image to its objects."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orthoflow.geometry.box import Box
from orthoflow.show import colours
from orthoflow.show.colours import Picture
from orthoflow.show.cuts import Cut
from orthoflow.show.objects import (
    FLOW,
    LINE,
    PALETTE,
    choose_inks,
    flow_colours,
    with_contour,
    with_hits,
    with_objects,
)
from orthoflow.show.panels import Scale, Scene, Volume, make_scene
from orthoflow.show.png import require_writable, write_png
from orthoflow.show.sheet import POINT, Column, Key, Line, Row, draw

_BYTES_PER_ROW = 400_000
_PLACE, _TEXT, _FINE = 24, 20, 18
_ARROWS = ("\u2192", "\u2193", "\u2190", "\u2191")


@dataclass(frozen=True, slots=True)
class PlaneImage:
    """One plane of a volume; all arrays are boxes (z, y, x) of one voxel along the stack."""

    box: Box
    """Where it lies in the volume."""
    image: Volume
    truth: Volume | None = None
    """Its objects, by number."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of one attempt is right."""

    pieces: Volume
    """Objects found, by number, as a box (z, y, x)."""
    hit: npt.NDArray[np.int64]
    """Numbers of those that are right."""
    met: npt.NDArray[np.int64]
    """Numbers of the true ones that were found."""
    scores: tuple[str, ...]
    """In words."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one setting makes of a plane."""

    plane: PlaneImage
    words: tuple[tuple[str, str], ...]
    """Names and values of what differs between settings."""
    probability: Volume
    """Of the foreground."""
    heads: Volume
    """(1, z, y, x) heatmap of centres, or (2, z, y, x) flow along rows and columns."""
    labels: Volume
    """Objects (z, y, x) by number."""
    centers: npt.NDArray[np.float64]
    """(n, 2) row and column, in pixels of the plane, of the objects' centres or sinks."""
    objects: int
    adrift: int = 0
    """Pixels that found no centre."""
    verdict: Verdict | None = None
    best: bool = False


def draw_slices(
    path: str | os.PathLike[str],
    attempts: Sequence[Attempt],
    *,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    title: str | None = None,
) -> None:
    """Save attempts as a PNG: image, probability, centres or flow, objects, and what is right.

    Parameters
    ----------
    path
        Ends in .png, in a folder that exists; replaced in one step.
    attempts
        One row each; with truths for all of them or none.
    voxel_size
        Along (z, y, x), in `unit`; voxels are shown as cubes where it is None.
    unit
        A length such as "micrometer" or "nm"; the scale bar counts voxels where it is None.
    title
        A line above.

    Raises
    ------
    BadInput
        If the path's folder does not exist.
    StoreRefused
        If the file cannot be written.
    """
    path = require_writable(path)
    shown = _scenes(attempts, Scale(voxel_size, unit))
    rows = [_row(one, scene) for one, scene in shown]
    columns = [
        Column("image", tuple(scene.bases[0] for _, scene in shown)),
        _column(shown, "probability", _probability, (_ramp(), _line("border of objects"))),
        _heads_column(shown),
        _objects_column(shown),
    ]
    if attempts[0].verdict is not None:
        columns.append(_column(shown, "against the truth", _right, _right_keys()))
    write_png(path, draw(columns, rows, title=title), max_bytes=_BYTES_PER_ROW * (2 + len(rows)))


_Shown = list[tuple[Attempt, Scene]]


def _scenes(attempts: Sequence[Attempt], scale: Scale) -> _Shown:
    """Each attempt with the scene of its plane, which it shares with others."""
    known: dict[int, Scene] = {}
    for one in attempts:
        plane = one.plane
        if id(plane) not in known:
            guide = one.probability if plane.truth is None else plane.truth != 0
            known[id(plane)] = make_scene(plane.image, guide, scale, plane.box.start)
    return [(one, known[id(one.plane)]) for one in attempts]


def _row(one: Attempt, scene: Scene) -> Row:
    cut, fits = scene.cuts[0], one.verdict
    where = f"{cut.orientation.name}, {cut.stack_axis} = {cut.place}"
    lines = [Line(where, _PLACE, bold=True)]
    lines += [Line(f"{axis} {lo}\u2013{hi}", _FINE) for axis, lo, hi in cut.hidden()]
    lines += [Line(f"{name.replace('_', ' ')} {value}", _TEXT) for name, value in one.words]
    lines.append(Line(f"{one.objects:,} object{'s' * (one.objects != 1)}", _TEXT))
    if one.adrift:
        lines.append(Line(f"{one.adrift:,} pixels without centre", _FINE))
    if fits is not None:
        lines += [Line(score, _TEXT) for score in fits.scores]
    if one.best:
        lines.append(Line("best setting", _TEXT, bold=True))
    return Row(cut.aspect, tuple(lines), scene.bars[0], tinted=one.best)


def _column(
    shown: _Shown,
    heading: str,
    paint: Callable[[Attempt, Scene], Picture],
    keys: tuple[Key, ...],
) -> Column:
    return Column(heading, tuple(paint(one, scene) for one, scene in shown), keys=keys)


def _probability(one: Attempt, scene: Scene) -> Picture:
    cut = scene.cuts[0]
    inside = cut.of(one.labels) != 0
    return with_contour(colours.heat(cut.of(one.probability)), inside, cut.outline)


def _heads_column(shown: _Shown) -> Column:
    flows = len(shown[0][0].heads) == 2
    pictures = tuple(_heads(one, scene) for one, scene in shown)
    points = tuple(_points(one, scene.cuts[0]) for one, scene in shown)
    dot = Key("sinks" if flows else "centres", (POINT,))
    if flows:
        arrows = (Key(arrow, (ink,)) for arrow, ink in zip(_ARROWS, FLOW, strict=True))
        return Column("flow", pictures, keys=(*arrows, dot), points=points)
    return Column("centres", pictures, keys=(_ramp(), dot), points=points)


def _heads(one: Attempt, scene: Scene) -> Picture:
    planes = [scene.cuts[0].of(head) for head in one.heads]
    return flow_colours(np.stack(planes)) if len(planes) == 2 else colours.heat(planes[0])


def _points(one: Attempt, cut: Cut) -> npt.NDArray[np.float64]:
    """Centres in the shown window, as shares of it."""
    windows = np.array([cut.rows, cut.columns], np.float64)
    shares = (one.centers + 0.5 - windows[:, 0]) / (windows[:, 1] - windows[:, 0])
    inside: npt.NDArray[np.float64] = shares[((shares >= 0) & (shares < 1)).all(axis=1)]
    return inside


def _objects_column(shown: _Shown) -> Column:
    """Objects in colour; in all rows of a plane an object has the same one."""
    pictures: list[Picture] = []
    inks = {
        id(scene): choose_inks([s.cuts[0].of(one.labels) for one, s in shown if s is scene])
        for _, scene in shown
    }
    for one, scene in shown:
        cut = scene.cuts[0]
        labels = cut.of(one.labels)
        pictures.append(with_objects(scene.bases[0], labels, inks[id(scene)], cut.outline))
    return Column("objects", tuple(pictures), keys=(Key("one colour each", PALETTE),))


def _right(one: Attempt, scene: Scene) -> Picture:
    cut, verdict = scene.cuts[0], one.verdict
    assert verdict is not None
    assert one.plane.truth is not None
    return with_hits(
        scene.bases[0],
        cut.of(verdict.pieces),
        cut.of(one.plane.truth),
        hit=verdict.hit,
        met=verdict.met,
        thickness=cut.outline,
    )


def _right_keys() -> tuple[Key, ...]:
    return (
        Key("right", (colours.CORRECT,)),
        Key("wrong", (colours.FALSE_POSITIVE,)),
        Key("missed", (colours.FALSE_NEGATIVE,)),
        _line("true objects"),
    )


def _ramp() -> Key:
    return Key("0 to 1", colours.RAMP)


def _line(text: str) -> Key:
    return Key(text, (LINE,))
