"""Scale bars of round length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orthoflow.show.cuts import Cut
from orthoflow.stores.units import METRES, require_length_unit

LONGEST = 0.3
"""Greatest length of a bar, as a share of the picture's width."""

_STEPS = ((1e-9, "nm"), (1e-6, "\u00b5m"), (1e-3, "mm"), (1.0, "m"))


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """A bar and what it says."""

    share: float
    """Length as a share of the picture's width."""
    text: str


def scale_bar(cut: Cut, unit: str | None) -> ScaleBar:
    """The longest bar of 1, 2 or 5 times a power of ten that takes at most `LONGEST` of the width.

    Where `unit` is None the bar counts voxels along the picture's columns.
    """
    voxels = cut.columns[1] - cut.columns[0]
    if unit is None:
        count = max(1, round_length(LONGEST * voxels))
        return ScaleBar(count / voxels, f"{count:g} voxel{'s' if count > 1 else ''}")
    metres = voxels * cut.spacing[1] * METRES[require_length_unit(unit)]
    length = round_length(LONGEST * metres)
    size, name = max((step for step in _STEPS if step[0] <= length * (1 + 1e-9)), default=_STEPS[0])
    return ScaleBar(length / metres, f"{length / size:g} {name}")


def round_length(most: float) -> float:
    """Greatest of 1, 2 and 5 times a power of ten that is at most `most`.

    >>> round_length(76.8), round_length(0.3), round_length(20)
    (50.0, 0.2, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(most) + 1e-9)
    best = max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))
    return best * power
