"""What a panoptic or a flow network should answer in a plane, from its instance labels.

All functions take one plane of labels, (h, w) whole numbers, 0 is background. The instances of a
plane are its 8-connected components of equal label: an object that the plane cuts twice is two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from orthoflow.models.heads import FLOW_SCALE

if TYPE_CHECKING:
    import numpy.typing as npt

CENTER_SIGMA = 6.0
"""Pixels of the centre's Gaussian; MitoNet was trained with 6."""
CENTER_REACH = 3
"""Standard deviations after which the Gaussian is cut off."""
_LATER = ((0, 1), (1, -1), (1, 0), (1, 1))
_AROUND = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1))


@dataclass(frozen=True, slots=True)
class Components:
    """The instances of one plane, numbered from 1 in raster order of their first pixels."""

    numbers: npt.NDArray[np.intp]
    """(h, w); 0 is background."""
    centroids: npt.NDArray[np.float64]
    """(n, 2): mean row and column of each."""
    areas: npt.NDArray[np.intp]
    """(n,) pixels."""


def plane_components(labels: npt.NDArray[np.integer[Any]]) -> Components:
    """8-connected components of equal label, with their centroids.

    >>> plane_components(np.array([[5, 5, 0], [0, 7, 5]])).numbers
    array([[1, 1, 0],
           [0, 2, 1]])
    """
    where = np.full((labels.shape[0] + 2, labels.shape[1] + 2), -1)
    inside = labels != 0
    rows, columns = np.nonzero(inside)
    where[1:-1, 1:-1][inside] = np.arange(rows.size)
    pairs = []
    for down, right in _LATER:
        other = where[rows + 1 + down, columns + 1 + right]
        here = np.flatnonzero(other >= 0)
        there = other[here]
        same = labels[rows[here], columns[here]] == labels[rows[there], columns[there]]
        pairs.append((here[same], there[same]))
    ends = [np.concatenate(side) for side in zip(*pairs, strict=True)]
    graph = sparse.coo_array((np.ones(ends[0].size, bool), ends), shape=(rows.size, rows.size))
    _, found = connected_components(graph, directed=False)
    # By first pixel, whatever order the library numbers them in.
    _, first, found = np.unique(found, return_index=True, return_inverse=True)
    member = np.argsort(np.argsort(first))[found]
    numbers = np.zeros(labels.shape, np.intp)
    numbers[inside] = member + 1
    areas = np.bincount(member, minlength=first.size)
    sums = [np.bincount(member, weights=axis, minlength=first.size) for axis in (rows, columns)]
    return Components(numbers, np.stack(sums, axis=1) / areas[:, None], areas)


def center_heatmap(
    shape: tuple[int, int], centroids: npt.NDArray[np.float64], sigma: float = CENTER_SIGMA
) -> npt.NDArray[np.float32]:
    """exp(-d^2 / (2 sigma^2)) with the distance d to the nearest centroid; 0 beyond 3 sigma.

    Parameters
    ----------
    shape
        (h, w) of the plane.
    centroids
        (n, 2) rows and columns, anywhere between pixels.
    """
    heat = np.zeros(shape, np.float32)
    reach = int(np.ceil(CENTER_REACH * sigma))
    window = np.arange(-reach, reach + 1)
    nearest = np.rint(centroids).astype(np.intp)
    rows, columns = nearest[:, :1] + window, nearest[:, 1:] + window
    down, right = np.square(rows - centroids[:, :1]), np.square(columns - centroids[:, 1:])
    distance = down[:, :, None] + right[:, None]
    known = (rows >= 0) & (rows < shape[0])
    known = known[:, :, None] & ((columns >= 0) & (columns < shape[1]))[:, None]
    known &= distance <= (CENTER_REACH * sigma) ** 2
    places = np.broadcast_to(rows[:, :, None] * shape[1] + columns[:, None], known.shape)[known]
    np.maximum.at(heat.reshape(-1), places, np.exp(-distance[known] / (2 * sigma**2)))
    return heat


def panoptic_targets(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
    """Foreground, centre heatmap and offsets of a plane.

    Returns
    -------
    array
        (4, h, w): 1 in instances; the heatmap; rows and columns from a pixel to the centroid of its
        component, 0 in the background.
    """
    found = plane_components(labels)
    targets = np.zeros((4, *labels.shape), np.float32)
    inside = found.numbers > 0
    targets[0] = inside
    targets[1] = center_heatmap(targets[0].shape, found.centroids)
    pixels = np.stack(np.nonzero(inside))
    targets[2:, inside] = found.centroids[found.numbers[inside] - 1].T - pixels
    return targets


def flow_targets(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
    """Foreground and flows of a plane, by the heat diffusion of Cellpose.

    Stringer et al., Cellpose, Nature Methods 18 (2021), "Creation of flow fields": heat 1 enters
    at a component's centre (its pixel nearest to the centroid, the first of equals) in each step;
    then every pixel takes the mean of the 3 x 3 pixels around it, where what is outside the
    component counts as 0; after twice the height and width of the largest box together, the flow is
    the direction of the central difference of the heat.

    Returns
    -------
    array
        (3, h, w): 1 in instances; rows and columns of the flow, of length `FLOW_SCALE`, 0 in the
        background and where a component is a single pixel.
    """
    found = plane_components(labels)
    targets = np.zeros((3, *labels.shape), np.float32)
    inside = found.numbers > 0
    targets[0] = inside
    if not inside.any():
        return targets
    heat = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2))
    heat[1:-1, 1:-1][inside] = _diffused(found)
    numbers = np.pad(found.numbers, 1)

    def beside(down: int, right: int) -> npt.NDArray[np.float64]:
        """Heat of the neighbours that belong to the same component, 0 elsewhere."""
        same = np.roll(numbers, (-down, -right), (0, 1)) == numbers
        there: npt.NDArray[np.float64] = np.roll(heat, (-down, -right), (0, 1)) * same
        return there[1:-1, 1:-1][inside]

    slope = np.stack([beside(1, 0) - beside(-1, 0), beside(0, 1) - beside(0, -1)])
    length = np.sqrt(np.square(slope).sum(axis=0))
    targets[1:, inside] = FLOW_SCALE * slope / np.where(length > 0, length, 1)
    return targets


def flipped(answers: npt.NDArray[Any], axis: int, vector: int | None) -> npt.NDArray[Any]:
    """Answers (k, h, w) of a plane that is flipped along its rows (0) or its columns (1).

    `vector` is the channel of a vector's rows, which comes before that of its columns; None: there
    is no vector.
    """
    turned = np.flip(answers, 1 + axis)
    if vector is not None:
        turned = turned.copy()
        turned[vector + axis] *= -1
    return turned


def transposed(answers: npt.NDArray[Any], vector: int | None) -> npt.NDArray[Any]:
    """Answers (k, h, w) of a plane whose rows became its columns; `vector` as for `flipped`."""
    turned = answers.swapaxes(1, 2)
    if vector is not None:
        turned = turned.copy()
        turned[[vector, vector + 1]] = turned[[vector + 1, vector]]
    return turned


def _diffused(found: Components) -> npt.NDArray[np.float64]:
    """Heat of every pixel of a component, in raster order."""
    rows, columns = np.nonzero(found.numbers)
    member = found.numbers[rows, columns] - 1
    # The pixels of each component by their distance from its centroid, then in raster order.
    apart = np.square(rows - found.centroids[member, 0])
    apart += np.square(columns - found.centroids[member, 1])
    order = np.lexsort((apart, member))
    sources = order[np.concatenate([[0], np.cumsum(found.areas)[:-1]])]
    places = np.full((found.numbers.shape[0] + 2, found.numbers.shape[1] + 2), -1)
    places[rows + 1, columns + 1] = np.arange(rows.size)
    numbers = np.pad(found.numbers, 1)
    ends = []
    for down, right in _AROUND:
        same = numbers[rows + 1 + down, columns + 1 + right] == member + 1
        here = np.flatnonzero(same)
        ends.append((here, places[rows[here] + 1 + down, columns[here] + 1 + right]))
    into, out = (np.concatenate(side) for side in zip(*ends, strict=True))
    mean = sparse.csr_array((np.full(into.size, 1 / 9), (into, out)), shape=(rows.size,) * 2)
    boxes = ndimage.find_objects(found.numbers)
    steps = 2 * max(sum(side.stop - side.start for side in box) for box in boxes)
    heat = np.zeros(rows.size)
    for _ in range(steps):
        heat[sources] += 1
        heat = mean @ heat
    return heat
