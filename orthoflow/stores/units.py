"""Units of length as OME-Zarr names them."""

from __future__ import annotations

import math

from orthoflow.errors import BadInput

METRES = {
    "angstrom": 1e-10,
    "picometer": 1e-12,
    "nanometer": 1e-9,
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "decimeter": 1e-1,
    "meter": 1.0,
    "inch": 0.0254,
    "foot": 0.3048,
}
"""Accepted UDUNITS names and their length in metres."""

_SHORT = {
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "\u00b5m": "micrometer",
    "\u03bcm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "\u00e5": "angstrom",
    "\u212b": "angstrom",
    "in": "inch",
}


def length_unit(text: str | None) -> str | None:
    """UDUNITS name for `text`, or None where it names no length ("pixel").

    >>> length_unit("um"), length_unit("Nanometre"), length_unit("pixel")
    ('micrometer', 'nanometer', None)
    """
    name = (text or "").strip().lower()
    name = _SHORT.get(name, name)
    for candidate in (name, name.removesuffix("s"), name.replace("metre", "meter")):
        if candidate in METRES:
            return candidate
    return None


def require_length_unit(text: str) -> str:
    """UDUNITS name for a unit that a user gave."""
    unit = length_unit(text)
    if unit is None:
        raise BadInput(f"unit {text!r} is not a length; use one of {', '.join(METRES)}, nm, um, mm")
    return unit


def require_voxel_size(size: tuple[float, ...], said_by: str) -> tuple[float, float, float]:
    """Three positive, finite lengths (z, y, x), or a refusal that says who stated them."""
    if len(size) != 3 or not all(math.isfinite(side) and side > 0 for side in size):
        raise BadInput(
            f"{said_by} voxel size {tuple(size)} is not three positive numbers (z, y, x); "
            "give --voxel-size, as in 40,4,4"
        )
    z, y, x = (float(side) for side in size)
    return (z, y, x)
