"""Weighted logits summed in fixed point, so that the order of adding cannot show.

A contribution weight * logit is rounded once to a multiple of 2^-24. Integer addition is
associative: the sum is the same for any block, part, worker, retry or exchange. The weights of a
voxel add up to one, so with |logit| <= 64 a sum stays below 2^30, and with n patches over a voxel
its error is at most n * 2^-25, plus float32's own rounding of each product (2^-24 of its value).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orthoflow.geometry.box import Box
from orthoflow.geometry.orientations import ORIENTATIONS

# NumPy arrays and torch tensors; the array API has no type for "either".
Array = Any

FIXED_POINT_SCALE = 2**24
LOGIT_LIMIT = 64.0
"""Logits are clipped to this before blending; a probability of exp(-64) is zero in any output."""
LEAST_COVERAGE = 1 / 16
"""A voxel whose patches were nearly all skipped as empty counts as not predicted."""
BACKGROUND_LOGIT = -16.0
"""Foreground logit of a voxel that no patch predicts."""


@dataclass(slots=True)
class Sums:
    """Sums of weighted logits of one orientation over one box of the working grid.

    `total` is plane-major: (channels, planes, rows, columns), int32 in fixed point or float32.
    `missing` (planes, rows, columns) holds the weights of skipped patches, int32 in fixed point;
    None where nothing was skipped.
    """

    orientation: str
    box: Box
    total: Array
    missing: Array | None

    def cut(self, box: Box) -> Sums:
        """The sums over `box`, which lies inside; a view."""
        index = _plane_major(self.orientation, box.within(self.box))
        missing = None if self.missing is None else self.missing[index]
        return Sums(self.orientation, box, self.total[(slice(None), *index)], missing)

    def add(self, other: Sums) -> None:
        """Add sums over a box inside this one."""
        index = _plane_major(self.orientation, other.box.within(self.box))
        self.total[(slice(None), *index)] += other.total
        if other.missing is not None:
            if self.missing is None:
                self.missing = _int32(0 * self.total[0])
            self.missing[index] += other.missing

    def logits(self) -> tuple[Array, Array | None]:
        """Blended logits (channels, planes, rows, columns) float32, and where they are predicted.

        A skipped patch contributes nothing: the others' weights are divided by their own sum. A
        voxel left with less than a sixteenth of its weight gets no logits (zero) and False.
        """
        values = _float32(self.total)
        if _is_integer(self.total):
            values = values * (1.0 / FIXED_POINT_SCALE)
        if self.missing is None:
            return values, None
        covered = self.missing <= int(FIXED_POINT_SCALE * (1 - LEAST_COVERAGE))
        rest = _float32(FIXED_POINT_SCALE - self.missing) * (1.0 / FIXED_POINT_SCALE)
        # Voxels that no skipped patch touches are multiplied by exactly one.
        values = values / (rest * _float32(covered) + _float32(~covered)) * _float32(covered)
        return values, covered


def _plane_major(orientation: str, index: tuple[slice, slice, slice]) -> tuple[slice, ...]:
    order = ORIENTATIONS[orientation].order[1:]
    return tuple(index[axis - 1] for axis in order)


def _is_integer(array: Array) -> bool:
    return "int" in str(array.dtype)


def _int32(array: Array) -> Array:
    return array.astype("int32") if hasattr(array, "astype") else array.int()


def _float32(array: Array) -> Array:
    """As float32, for NumPy and torch alike."""
    if hasattr(array, "astype"):
        return array.astype("float32")
    return array.float()
