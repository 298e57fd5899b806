"""Cells of panoptic networks as whole numbers: how they are sought, and what a window needs.

A pixel looks for its centre within `reach` only. So a box of a plane needs a halo, and what is
inside does not depend on the cut. No torch: plans count with it.
"""

from __future__ import annotations

from dataclasses import dataclass

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CellRule:
    """How cells are found; lengths in pixels of the plane unless they say otherwise."""

    center_threshold: float
    """A centre's heat exceeds it."""
    center_distance: int
    """Side of the window in which a centre is a largest one, in cells of the (finer) grid."""
    reach: int | None
    """A pixel's centre lies at most so far from it along rows and columns.

    None: as empanada does, any centre of the plane, in its arithmetic; needs whole planes.
    """
    step: int
    """Pixels per cell of the grid on which heat and offsets are given."""
    zoom: int
    """1: cells have the heads' resolution ("coarse boundaries"); a divisor of `step`: the heads are
    interpolated by that factor first ("fine boundaries")."""

    def __post_init__(self) -> None:
        if self.center_threshold < 0:
            raise ValueError(f"center_threshold {self.center_threshold} is negative; use 0 to 1")
        if self.center_distance < 1 or self.step < 1:
            raise ValueError(
                f"center_distance {self.center_distance} and step {self.step} must be at least 1"
            )
        if self.zoom < 1 or self.step % self.zoom:
            raise ValueError(f"zoom {self.zoom} does not divide {self.step} pixels per cell")
        if self.reach is not None and self.reach < 0:
            raise ValueError(f"reach {self.reach} is negative")

    @property
    def pixels(self) -> int:
        """Pixels per cell of the grid on which centres are sought."""
        return self.step // self.zoom


@dataclass(frozen=True, slots=True)
class Window:
    """Where the wanted pixels lie in their planes."""

    plane: tuple[int, int]
    """Rows and columns of the whole plane; as empanada does: as the network padded it."""
    rows: Span
    """First and end row that are wanted."""
    columns: Span

    @property
    def spans(self) -> tuple[Span, Span]:
        """Rows and columns."""
        return self.rows, self.columns


def cells_needed(window: Window, rule: CellRule) -> tuple[Span, Span]:
    """Cells (first, end) of the heads' grid along rows and columns that the wanted pixels need.

    Along an axis, on the grid of p = step / zoom pixels per cell: the cells of the wanted pixels,
    reach // p more to either side for the centres, and center_distance // 2 more for the windows in
    which these are the largest; finer cells need one coarse cell more, from which they are
    interpolated. Never more than reach + (center_distance // 2 + 1) * p + 2 * step pixels, and
    never what is outside the plane.
    """
    return (
        _needed(window.rows, window.plane[0], rule),
        _needed(window.columns, window.plane[1], rule),
    )


def no_center(plane: tuple[int, int], klass: int) -> int:
    """Label of pixels of a class that have no centre: stuff, or things out of everything's reach.

    The first number behind those of centres, plus the class.

    >>> no_center((256, 256), 1)
    65538
    """
    return plane[0] * plane[1] + 1 + klass


def _needed(span: Span, size: int, rule: CellRule) -> Span:
    first, end = cells_sought(span, size, rule)
    if rule.zoom > 1:
        # Of an interpolated cell p: floor(p * (n - 1) / (zoom * n - 1)) and the one behind it.
        first, end = first // rule.zoom - 1, (end - 1) // rule.zoom + 2
    return max(first, 0), min(end, -(-size // rule.step))


def cells_sought(span: Span, size: int, rule: CellRule) -> Span:
    """Cells of the (finer) grid along one axis on which the heat must be known."""
    cells = -(-size // rule.pixels)
    if rule.reach is None:
        return 0, cells
    halo = rule.reach // rule.pixels + rule.center_distance // 2
    first, end = span[0] // rule.pixels - halo, -(-span[1] // rule.pixels) + halo
    return max(first, 0), min(end, cells)
