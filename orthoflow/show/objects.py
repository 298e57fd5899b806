"""Objects in colour: neighbours apart, one object alike in every picture; flows; right and wrong.

Pure functions from arrays to RGB, as in `orthoflow.show.colours`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orthoflow.show import colours
from orthoflow.show.colours import Colour, Picture, Plane, outline

# The last class is grey, as the image is.
PALETTE: tuple[Colour, ...] = colours.CLASSES[:-1]
"""Colours of objects."""

FLOW: tuple[Colour, ...] = (
    (0.98, 0.80, 0.25),
    (0.93, 0.30, 0.42),
    (0.36, 0.36, 0.95),
    (0.16, 0.78, 0.66),
)
"""Flow to the right, down, to the left and up; in between they are mixed."""

LINE: Colour = (1.0, 1.0, 1.0)
"""Borders of what is not coloured itself."""

# Objects that come so near to each other, in pixels, get different colours.
_NEAR = 3


@dataclass(frozen=True, slots=True)
class Inks:
    """Colour of each label: places in `PALETTE`."""

    labels: npt.NDArray[np.int64]
    """Ascending."""
    place: npt.NDArray[np.int64]

    def of(self, labels: Plane) -> npt.NDArray[np.float32]:
        """Colours (rows, columns, 3) of labels, all of them known; those of 0 mean nothing."""
        palette = np.array(PALETTE, np.float32)
        if not len(self.labels):
            return np.zeros((*labels.shape, 3), np.float32)
        where = np.searchsorted(self.labels, labels.astype(np.int64)).clip(max=len(self.labels) - 1)
        found: npt.NDArray[np.float32] = palette[self.place[where]]
        return found


def choose_inks(planes: Sequence[Plane]) -> Inks:
    """Colours for the labels of some planes, as far as possible others for those that are near.

    A label has one colour in all planes. Each takes, in ascending order, the colour that fewest of
    its neighbours have; of equals the one that is used least.

    >>> choose_inks([np.array([[1, 1, 2, 2, 0, 7]])]).place.tolist()
    [0, 1, 2]
    """
    names = np.unique(np.concatenate([np.unique(plane.astype(np.int64)) for plane in planes]))
    names = names[names != 0]
    pairs = np.concatenate([_near(plane.astype(np.int64)) for plane in planes])
    pairs = np.unique(np.searchsorted(names, pairs), axis=0)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    begin = np.searchsorted(both[:, 0], np.arange(len(names) + 1))
    place = np.full(len(names), -1)
    used = np.zeros(len(PALETTE), np.int64)
    for one in range(len(names)):
        around = place[both[begin[one] : begin[one + 1], 1]]
        taken = np.bincount(around[around >= 0], minlength=len(PALETTE))
        best = int(np.lexsort((used, taken))[0])
        place[one] = best
        used[best] += 1
    return Inks(names, place)


def _near(plane: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs (n, 2) of labels, the smaller first, that come within `_NEAR` pixels of each other."""
    found = [np.zeros((0, 2), np.int64)]
    for axis in (0, 1):
        values = np.moveaxis(plane, axis, 0)
        for shift in range(1, min(_NEAR, len(values) - 1) + 1):
            one, other = values[:-shift].ravel(), values[shift:].ravel()
            some = (one != other) & (one != 0) & (other != 0)
            pairs = np.stack([one[some], other[some]], axis=1)
            found.append(np.unique(np.sort(pairs, axis=1), axis=0))
    return np.concatenate(found)


def with_objects(
    base: Picture, labels: Plane, inks: Inks, thickness: tuple[int, int] = (1, 1)
) -> Picture:
    """Objects as translucent colours with a firm outline over `base`; 0 is left as it is."""
    return colours.with_colours(base, labels, inks.of(labels), thickness)


def with_contour(base: Picture, inside: Plane, thickness: tuple[int, int] = (1, 1)) -> Picture:
    """A white line along the inner border of a mask."""
    out = base.copy()
    out[outline(inside.astype(np.uint8), thickness)] = LINE
    return out


def flow_colours(flow: npt.NDArray[np.floating]) -> Picture:
    """Direction as a colour, length as brightness, full at 1 and more.

    Parameters
    ----------
    flow
        (2, rows, columns): down and to the right.
    """
    down, right = np.nan_to_num(flow.astype(np.float32))
    turn = (np.arctan2(down, right) / (2 * np.pi)) % 1 * len(FLOW)
    places = np.arange(len(FLOW) + 1)
    ring = np.array((*FLOW, FLOW[0]))
    mixed = np.stack([np.interp(turn, places, ring[:, i]) for i in range(3)], axis=-1)
    length = np.minimum(np.hypot(down, right), 1)[..., None]
    found: Picture = (mixed * length).astype(np.float32)
    return found


def with_hits(
    base: Picture,
    found: Plane,
    truth: Plane,
    *,
    hit: npt.NDArray[np.int64],
    met: npt.NDArray[np.int64],
    thickness: tuple[int, int] = (1, 1),
) -> Picture:
    """Objects found that are right and wrong, and what was missed, over a dimmed `base`.

    Parameters
    ----------
    found, truth
        Labels; the true objects are outlined.
    hit, met
        Labels found that are right, and true ones that were found.
    """
    dim = base * np.float32(0.45)
    right = np.isin(found, hit) & (found != 0)
    wrong = (found != 0) & ~right
    missed = (truth != 0) & ~np.isin(truth, met) & (found == 0)
    inks = np.zeros((*found.shape, 3), np.float32)
    opacity = np.zeros((*found.shape, 1), np.float32)
    for mask, colour, cover in (
        (right, colours.CORRECT, 0.5),
        (wrong, colours.FALSE_POSITIVE, 0.8),
        (missed, colours.FALSE_NEGATIVE, 0.8),
    ):
        inks[mask], opacity[mask] = colour, cover
    out: Picture = dim * (1 - opacity) + inks * opacity
    out[outline(truth, thickness)] = LINE
    return out
