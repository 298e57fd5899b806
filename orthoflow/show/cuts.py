"""Which planes of a volume are shown, and which window of each. Arrays and numbers only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Triple
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

FLATTEST = 1 / 5
"""Least height of a picture over its width: a flatter plane is cropped along its columns."""
TALLEST = 1.5
"""Greatest height of a picture over its width: a taller plane is cropped along its rows."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One plane of a volume and the window of it that is shown; rows first.

    Indices count voxels of the arrays that are cut.
    """

    orientation: Orientation
    index: int
    """Plane along the axis that is missing in the orientation's name."""
    rows: tuple[int, int]
    """Half-open window along the plane's rows."""
    columns: tuple[int, int]
    """Half-open window along the plane's columns."""
    spacing: tuple[float, float]
    """Physical height and width of a pixel."""
    shape: tuple[int, int]
    """Rows and columns of the whole plane."""
    crossing: tuple[int, int]
    """Row and column where the two other cuts pass."""
    origin: Triple = (0, 0, 0)
    """Where the arrays lie in their volume; what is written beside a picture counts from it."""

    @property
    def stack_axis(self) -> str:
        """Name of the axis along which `index` counts."""
        (missing,) = set(range(3)) - set(self.orientation.plane)
        return AXES[missing]

    @property
    def place(self) -> int:
        """`index`, counted in the whole volume."""
        return self.index + self.origin[AXES.index(self.stack_axis)]

    @property
    def aspect(self) -> float:
        """Height of the window over its width, in physical units."""
        high, wide = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        return high * self.spacing[0] / (wide * self.spacing[1])

    @property
    def outline(self) -> tuple[int, int]:
        """Pixels of an outline along rows and columns, so that a large plane's survives reduction.

        About as wide both ways; none along an axis whose pixels are too long for a line.
        """
        longest = max(self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])
        finest = min(self.spacing)
        down, across = (round(max(1, round(longest / 450)) * finest / s) for s in self.spacing)
        return (down, across)

    def of(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The window (rows, columns) out of a volume (z, y, x)."""
        axis = AXES.index(self.stack_axis)
        plane: npt.NDArray[Any] = np.moveaxis(volume, axis, 0)[self.index]
        return plane[slice(*self.rows), slice(*self.columns)]

    def hidden(self) -> tuple[tuple[str, int, int], ...]:
        """Axes that are shown in part: name, first voxel and end, counted in the whole volume."""
        windows = zip(self.orientation.plane, (self.rows, self.columns), self.shape, strict=True)
        return tuple(
            (AXES[axis], lo + self.origin[axis], hi + self.origin[axis])
            for axis, (lo, hi), size in windows
            if (lo, hi) != (0, size)
        )


def fullest(weight: npt.NDArray[Any]) -> Triple:
    """Index along (z, y, x) of the planes that hold most of `weight`; the middle of an empty one.

    Where several planes hold the same, the one nearest the middle is taken.

    >>> w = np.zeros((4, 5, 6)); w[1, 2, 3] = 1; w[1, 2, 5] = 1; w[3, 2, 5] = 1
    >>> fullest(w)
    (1, 2, 5)
    """
    z, y, x = (_fullest_along(weight, axis) for axis in range(3))
    return (z, y, x)


def _fullest_along(weight: npt.NDArray[Any], axis: int) -> int:
    others = tuple(other for other in range(3) if other != axis)
    held = weight.sum(axis=others, dtype=np.float64)
    from_middle = np.abs(np.arange(held.size) - held.size // 2)
    candidates = np.flatnonzero(held == held.max())
    return int(candidates[np.argmin(from_middle[candidates])])


def orthogonal_cuts(
    shape: Triple,
    guide: npt.NDArray[Any] | None,
    voxel_size: tuple[float, float, float] | None,
    origin: Triple = (0, 0, 0),
) -> tuple[Cut, ...]:
    """The xy, xz and yz cut where most is to be seen, in this order.

    `guide` (z, y, x) says where that is: cuts go through its fullest planes, or through the middle
    without one. A cut that would be a line of voxels is left out, but one is always given: a volume
    of one plane has its xy cut only. Planes flatter than `FLATTEST` or taller than `TALLEST` are
    cropped to where the guide changes most. Without a voxel size voxels are cubes.
    """
    z, y, x = shape
    centre = (z // 2, y // 2, x // 2) if guide is None else fullest(guide)
    size = (1.0, 1.0, 1.0) if voxel_size is None else voxel_size
    names = [name for name in ("xy", "xz", "yz") if min(_plane(ORIENTATIONS[name], shape)) > 1]
    whole = (_whole_cut(ORIENTATIONS[name], shape, centre, size) for name in names or ["xy"])
    return tuple(replace(_cropped(cut, guide), origin=origin) for cut in whole)


def _plane(orientation: Orientation, shape: Triple) -> tuple[int, int]:
    rows, columns = orientation.plane_shape(shape)
    return (rows, columns)


def _whole_cut(
    orientation: Orientation, shape: Triple, centre: Triple, size: tuple[float, float, float]
) -> Cut:
    high, wide = _plane(orientation, shape)
    row, column = (centre[axis] for axis in orientation.plane)
    pixel_high, pixel_wide = (size[axis] for axis in orientation.plane)
    assert orientation.stack is not None
    return Cut(
        orientation=orientation,
        index=centre[orientation.stack],
        rows=(0, high),
        columns=(0, wide),
        spacing=(pixel_high, pixel_wide),
        shape=(high, wide),
        crossing=(row, column),
    )


def _cropped(cut: Cut, guide: npt.NDArray[Any] | None) -> Cut:
    """The cut, its window neither too flat nor too tall; at most one side is cropped."""
    (high, wide), (pixel_high, pixel_wide) = cut.shape, cut.spacing
    if FLATTEST <= cut.aspect <= TALLEST:
        return cut
    plane = np.zeros(cut.shape) if guide is None else cut.of(guide)
    changes = _changes(plane.astype(np.float32))
    if cut.aspect < FLATTEST:
        most = math.ceil(high * pixel_high / FLATTEST / pixel_wide)
        return replace(cut, columns=fullest_window(changes.sum(0), most, cut.crossing[1]))
    most = math.ceil(wide * pixel_wide * TALLEST / pixel_high)
    return replace(cut, rows=fullest_window(changes.sum(1), most, cut.crossing[0]))


def _changes(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How much each pixel differs from the one above and the one to its left."""
    changes = np.zeros_like(plane)
    changes[1:] += np.abs(np.diff(plane, axis=0))
    changes[:, 1:] += np.abs(np.diff(plane, axis=1))
    return changes


def fullest_window(held: npt.NDArray[Any], length: int, middle: int) -> tuple[int, int]:
    """Half-open window of at most `length` places that holds most; of equals the nearest `middle`.

    >>> fullest_window(np.array([0, 1, 0, 0, 2, 1, 0]), 3, 0)
    (3, 6)
    >>> fullest_window(np.zeros(100), 20, 50), fullest_window(np.zeros(100), 20, 3)
    ((40, 60), (0, 20))
    """
    length = min(held.size, max(length, 1))
    sums = np.concatenate([[0.0], np.cumsum(held, dtype=np.float64)])
    inside = sums[length:] - sums[:-length]
    starts = np.flatnonzero(inside == inside.max())
    first = int(starts[np.argmin(np.abs(starts + length // 2 - middle))])
    return (first, first + length)


def require_volume(name: str, volume: npt.NDArray[Any], shape: tuple[int, ...] | None) -> None:
    """Refuse an array that is no volume (z, y, x), is empty, or does not have `shape`."""
    if volume.ndim != 3 or volume.size == 0:
        raise BadInput(
            f"{name} of shape {volume.shape} cannot be shown; "
            "give three axes (z, y, x) with at least one voxel, one channel at a time"
        )
    if shape is not None and volume.shape != shape:
        raise BadInput(f"{name} has shape {volume.shape}, the image {shape}; give equal shapes")


def require_same_shape(shape: tuple[int, ...], volumes: Mapping[str, Any]) -> None:
    """Refuse the first of `volumes` (by argument name, None is absent) that has another shape."""
    for name, volume in volumes.items():
        if volume is not None:
            require_volume(name, volume, shape)
