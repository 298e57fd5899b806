"""Volumes of touching bright cells with known truth. NumPy and SciPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.geometry.box import Triple

VOXEL_SIZE = (0.5, 0.5, 0.5)
"""Micrometres (z, y, x); sampling is equal, only the blur is worse along z."""
LEAST_SIDE = 16


@dataclass(frozen=True, slots=True)
class Look:
    """What makes a synthetic volume hard; lengths in voxels, brightness as a share of a cell's."""

    cells_per_megavoxel: float = 42.0
    radius: tuple[float, float] = (7.0, 13.0)
    """Least and largest mean radius of a cell."""
    dim_share: float = 0.25
    """Share of cells that are barely brighter than the background."""
    blur: Triple | tuple[float, float, float] = (2.2, 1.0, 1.0)
    """Standard deviation of the optics along (z, y, x)."""
    photons: float = 14.0
    """Photons of a full-bright cell in one voxel: shot noise."""
    read_noise: float = 0.09
    speckles_per_megavoxel: float = 260.0
    """Small bright debris."""
    streaks_per_megavoxel: float = 60.0
    """Bright sheets one to three voxels thin, each in a plane of one of the three orientations."""
    membrane: float = 0.25
    """How much darker a cell is on its surface than inside, as a share."""
    membrane_slope: float = 1.6
    """How fast it brightens inwards: full brightness at 1 - 1 / slope of the radius."""
    overlap: float = 1.0
    """A cell of which others hold more than this share of the place is left out."""
    tube_share: float = 0.0
    """Share of cells that are bent tubes and not ellipsoids."""
    tube_radius: tuple[float, float] = (4.0, 6.5)
    tube_length: tuple[float, float] = (24.0, 44.0)
    """Least and largest length of a tube's middle line."""
    least_voxels: int = 0
    """Smaller visible pieces of a cell are left out, and of the others all but the largest piece.

    0 leaves everything as it falls: a cell may be cut in two by the one before it.
    """


OBJECTS = Look(
    cells_per_megavoxel=90.0,
    dim_share=0.15,
    blur=(2.0, 0.8, 0.8),
    photons=40.0,
    read_noise=0.05,
    streaks_per_megavoxel=45.0,
    membrane=0.9,
    membrane_slope=2.5,
    overlap=0.12,
    tube_share=0.4,
    least_voxels=250,
)
"""Cells and short tubes whose membranes show where they touch: to tell instances apart."""


@dataclass(frozen=True, slots=True)
class SyntheticVolume:
    """An image and its truth, axes (z, y, x)."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    """Instances from 1; 0 is background. Cells: ``labels > 0``."""
    voxel_size: tuple[float, float, float] = VOXEL_SIZE
    """Micrometres (z, y, x)."""


def make_volume(
    shape: Triple = (96, 256, 256), seed: int = 0, look: Look | None = None
) -> SyntheticVolume:
    """Touching bright cells under noise, uneven light and blur that is worst along z.

    A thin sheet of debris looks like a cell to the planes it lies in, and like a line, which it
    is, to the planes of the two other orientations: so a 2-D network errs in each orientation
    alone, elsewhere in each, and the three together do better.

    Parameters
    ----------
    shape
        Voxels (z, y, x), at least 16 each.
    seed
        The same seed gives the same bytes.
    look
        What makes it hard; `Look()` unless given. `OBJECTS` is for telling instances apart.

    Raises
    ------
    BadInput
        For a side under 16 voxels.
    """
    if len(shape) != 3 or min(shape) < LEAST_SIDE:
        raise BadInput(f"shape {shape} must have three sides of at least {LEAST_SIDE} voxels")
    look = Look() if look is None else look
    rng = np.random.default_rng(seed)
    labels, light = _place_cells(shape, look, rng)
    if look.least_voxels:
        _leave_whole(labels, light, look.least_voxels)
    _add_speckles(light, look, rng)
    _add_streaks(light, look, rng)
    light = ndimage.gaussian_filter(light, look.blur, mode="nearest")
    light = light * _illumination(shape, rng) + _background(shape, rng)
    return SyntheticVolume(_expose(light, look, rng), labels)


def _place_cells(
    shape: Triple, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Ellipsoids and tubes in clumps; where two overlap, a voxel belongs to the nearer one."""
    labels = np.zeros(shape, np.int32)
    light = np.zeros(shape, np.float32)
    depth = np.full(shape, 1.0, np.float32)
    count = max(2, round(look.cells_per_megavoxel * np.prod(shape) / 1e6))
    centre = rng.uniform(0, shape)
    for number in range(1, count + 1):
        radius = rng.uniform(*look.radius)
        # Two of three cells touch the one before, the third starts a clump elsewhere.
        if rng.random() < 1 / 3:
            centre = rng.uniform(0, shape)
        else:
            way = rng.normal(size=3)
            centre = np.clip(centre + 1.7 * radius * way / np.linalg.norm(way), 0, shape)
        if look.tube_share and rng.random() < look.tube_share:
            where, distance = _tube(shape, centre, look, rng)
        else:
            where, distance = _ellipsoid(shape, centre, radius, rng)
        taken = np.count_nonzero(labels[where][distance < 1])
        if taken > look.overlap * np.count_nonzero(distance < 1):
            continue
        inside = distance < depth[where]
        labels[where][inside] = number
        depth[where][inside] = distance[inside]
        dim = rng.random() < look.dim_share
        light[where][inside] = rng.uniform(0.28, 0.4) if dim else rng.uniform(0.6, 1.1)
    # Membranes between touching cells are a little darker.
    light *= (1 - look.membrane) + look.membrane * np.clip(
        look.membrane_slope * (1.0 - depth), 0.0, 1.0
    )
    return labels, light


def _leave_whole(labels: npt.NDArray[np.int32], light: npt.NDArray[np.float32], least: int) -> None:
    """Keep the largest piece (6-connected) of each cell, and renumber those of `least` voxels."""
    count = 0
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        if where is None:
            continue
        pieces, _ = ndimage.label(labels[where] == number)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        largest = int(sizes.argmax())
        keeps = bool(sizes[largest] >= least)
        count += keeps
        gone = (pieces > 0) & ((pieces != largest) | (not keeps))
        labels[where][gone] = 0
        light[where][gone] = 0
        labels[where][(pieces == largest) & keeps] = count


def _ellipsoid(
    shape: Triple, centre: npt.NDArray[np.float64], radius: float, rng: np.random.Generator
) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """Slices around an ellipsoid of any direction, and the distance there: 1 on its surface."""
    axes = radius * rng.uniform(0.72, 1.35, size=3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    reach = int(np.ceil(axes.max())) + 1
    where = tuple(
        slice(max(0, int(c) - reach), min(n, int(c) + reach + 1))
        for c, n in zip(centre, shape, strict=True)
    )
    grid = np.meshgrid(
        *(np.arange(s.start, s.stop) - c for s, c in zip(where, centre, strict=True)),
        indexing="ij",
    )
    turned = np.tensordot(turn / axes[:, None], np.stack(grid), axes=1)
    return where, np.sqrt(np.square(turned).sum(axis=0)).astype(np.float32)


def _tube(
    shape: Triple, centre: npt.NDArray[np.float64], look: Look, rng: np.random.Generator
) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """Slices around a tube bent about `centre`, and the distance there: 1 on its surface.

    Its middle line is a parabola; the distance is that to the nearest of its points, a third of a
    radius apart at most.
    """
    radius, length = rng.uniform(*look.tube_radius), rng.uniform(*look.tube_length)
    along, across = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
    steps = np.linspace(-1, 1, 1 + int(np.ceil(3 * length / radius)))[:, None]
    bend = rng.uniform(0, 0.35) * length
    points = centre + 0.5 * length * steps * along + bend * (0.5 - steps**2) * across
    where = tuple(
        slice(max(0, int(lo - radius) - 1), max(0, min(n, int(hi + radius) + 2)))
        for lo, hi, n in zip(points.min(0), points.max(0), shape, strict=True)
    )
    lines = [np.arange(s.start, s.stop) for s in where]
    nearest = np.full([len(line) for line in lines], np.inf)
    for point in points:
        z, y, x = (np.square(line - at) for line, at in zip(lines, point, strict=True))
        np.minimum(nearest, z[:, None, None] + y[:, None] + x, out=nearest)
    return where, (np.sqrt(nearest) / radius).astype(np.float32)


def _add_speckles(light: npt.NDArray[np.float32], look: Look, rng: np.random.Generator) -> None:
    count = round(look.speckles_per_megavoxel * light.size / 1e6)
    for corner in rng.integers(0, np.array(light.shape) - 3, size=(count, 3)):
        side = rng.integers(1, 4, size=3)
        where = tuple(slice(a, a + n) for a, n in zip(corner, side, strict=True))
        light[where] += rng.uniform(0.5, 1.6)


def _add_streaks(light: npt.NDArray[np.float32], look: Look, rng: np.random.Generator) -> None:
    count = round(look.streaks_per_megavoxel * light.size / 1e6)
    for _ in range(count):
        side = rng.integers(12, 30, size=3)
        side[rng.integers(3)] = rng.integers(1, 4)
        side = np.minimum(side, light.shape)
        corner = rng.integers(0, np.array(light.shape) - side + 1)
        where = tuple(slice(a, a + n) for a, n in zip(corner, side, strict=True))
        patch = light[where]
        radius = np.sqrt(sum(np.square(g) for g in _unit_grid(patch.shape)))
        patch[radius < 1.0] += rng.uniform(0.35, 0.8)


def _unit_grid(shape: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
    """Coordinates from -1 to 1 along each axis; 0 along an axis of one to three voxels."""
    lines = [np.linspace(-1, 1, n) if n > 3 else np.zeros(n) for n in shape]
    return list(np.meshgrid(*lines, indexing="ij"))


def _illumination(shape: Triple, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Brightness from about 0.6 to 1.2, smooth over the volume."""
    return 0.9 + 0.3 * _smooth(shape, rng)


def _background(shape: Triple, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Haze from about 0.04 to 0.26, smooth over the volume."""
    return 0.15 + 0.11 * _smooth(shape, rng)


def _smooth(shape: Triple, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth field from -1 to 1 with a few hills."""
    coarse = rng.normal(size=(4, 6, 6)).astype(np.float32)
    zoom = [n / m for n, m in zip(shape, coarse.shape, strict=True)]
    field = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    scaled: npt.NDArray[np.float32] = field / np.abs(field).max()
    return scaled


def _expose(
    light: npt.NDArray[np.float32], look: Look, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Shot noise, read noise, 8 bits."""
    shot = rng.standard_normal(light.shape, np.float32)
    shot *= np.sqrt(np.maximum(light, 0.0) / look.photons)
    read = rng.standard_normal(light.shape, np.float32) * np.float32(look.read_noise)
    exposed: npt.NDArray[np.uint8] = np.clip(35 + 130 * (light + shot + read), 0, 255).astype("u1")
    return exposed
