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
"""Least height of a picture, as a share of its width: a flatter plane is cropped along its columns."""
TALLEST = 1.5
"""Greatest height of a picture, as a share of its width: a taller plane is cropped along its rows."""


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
    """Where the arrays lie in their volume; only what is written beside a picture counts from it."""

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

    def of(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The window (rows, columns) out of a volume (z, y, x)."""
        plane = np.moveaxis(volume, AXES.index(self.stack_axis), 0)[self.index]
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
    centre: Triple,
    voxel_size: tuple[float, float, float] | None,
    origin: Triple = (0, 0, 0),
) -> tuple[Cut, ...]:
    """The xy, xz and yz cut through `centre`, in this order.

    A cut that would be a line of voxels is left out, but one is always given: a volume of one plane
    has its xy cut only. Planes flatter than `FLATTEST` or taller than `TALLEST` are cropped around
    the centre. Without a voxel size voxels are cubes.
    """
    size = (1.0, 1.0, 1.0) if voxel_size is None else voxel_size
    names = [name for name in ("xy", "xz", "yz") if min(_plane(ORIENTATIONS[name], shape)) > 1]
    cuts = (_cut(ORIENTATIONS[name], shape, centre, size) for name in names or ["xy"])
    return tuple(replace(cut, origin=origin) for cut in cuts)


def _plane(orientation: Orientation, shape: Triple) -> tuple[int, int]:
    rows, columns = orientation.plane_shape(shape)
    return (rows, columns)


def _cut(
    orientation: Orientation, shape: Triple, centre: Triple, sizes: tuple[float, float, float]
) -> Cut:
    high, wide = _plane(orientation, shape)
    row, column = (centre[axis] for axis in orientation.plane)
    pixel_high, pixel_wide = (sizes[axis] for axis in orientation.plane)
    most_columns = math.ceil(high * pixel_high / FLATTEST / pixel_wide)
    most_rows = math.ceil(wide * pixel_wide * TALLEST / pixel_high)
    assert orientation.stack is not None
    return Cut(
        orientation=orientation,
        index=centre[orientation.stack],
        rows=window(high, most_rows, row),
        columns=window(wide, most_columns, column),
        spacing=(pixel_high, pixel_wide),
        shape=(high, wide),
        crossing=(row, column),
    )


def window(size: int, length: int, middle: int) -> tuple[int, int]:
    """Half-open window of at most `length` voxels of an axis, around `middle` where it can be.

    >>> window(100, 20, 50), window(100, 20, 3), window(100, 20, 99), window(10, 20, 5)
    ((40, 60), (0, 20), (80, 100), (0, 10))
    """
    length = min(size, max(length, 1))
    first = min(max(middle - length // 2, 0), size - length)
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
