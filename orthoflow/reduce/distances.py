"""How deep voxels lie in what they belong to: squared distances, exact up to a radius."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.reduce.fragments import runs_of

# Two squares of it together are the most that 16 bits hold.
LARGEST_RADIUS = 181


def squared_distances(classes: npt.NDArray[np.integer[Any]], radius: int) -> npt.NDArray[np.uint16]:
    """Squared distance, in voxels, from each voxel to the nearest one of another class.

    It is cut off at `radius` squared, and 0 on background. What lies beyond the array says
    nothing: voxels at its border are not near anything for that. So the value of a voxel depends
    on the voxels within `radius` of it, no more.

    Parameters
    ----------
    classes
        Whole numbers (z, y, x), 0 = background, C-contiguous.
    radius
        1 to 181 voxels.

    Raises
    ------
    BadInput
        For another radius.

    >>> squared_distances(np.array([[[0, 1, 1, 1, 1, 1]]]), 3)
    array([[[0, 1, 4, 9, 9, 9]]], dtype=uint16)
    """
    if not 1 <= radius <= LARGEST_RADIUS:
        raise BadInput(f"radius {radius}; use 1 to {LARGEST_RADIUS} voxels")
    squares = np.zeros(classes.shape, np.uint16)
    runs = runs_of(classes)
    for klass in np.unique(classes.reshape(-1)[runs.start]).tolist():
        if klass:
            mine = classes == klass
            squares[mine] = _inside(mine, radius)[mine]
    return squares


def _inside(mask: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.uint16]:
    """Squared distances to what is not in the mask: the least sums of squares, axis by axis."""
    least = np.where(mask, np.uint16(radius**2), np.uint16(0))
    room = np.empty_like(least)
    for axis in (2, 1, 0):
        before = least.copy()
        for far in range(1, min(radius, mask.shape[axis])):
            if far**2 >= least.max():
                break
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -far), slice(far, None)
            here, there = tuple(low), tuple(high)
            further = np.add(before, np.uint16(far**2), out=room)
            np.minimum(least[here], further[there], out=least[here])
            np.minimum(least[there], further[here], out=least[there])
    return least
