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
        What makes it hard; `Look()` unless given.

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
    _add_speckles(light, look, rng)
    _add_streaks(light, look, rng)
    light = ndimage.gaussian_filter(light, look.blur, mode="nearest")
    light = light * _illumination(shape, rng) + _background(shape, rng)
    return SyntheticVolume(_expose(light, look, rng), labels)


def _place_cells(
    shape: Triple, look: Look, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Ellipsoids in clumps; where two overlap, a voxel belongs to the nearer one."""
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
        where, distance = _ellipsoid(shape, centre, radius, rng)
        inside = distance < depth[where]
        labels[where][inside] = number
        depth[where][inside] = distance[inside]
        dim = rng.random() < look.dim_share
        light[where][inside] = rng.uniform(0.28, 0.4) if dim else rng.uniform(0.6, 1.1)
    # Membranes between touching cells are a little darker.
    light *= 0.75 + 0.25 * np.clip(1.6 * (1.0 - depth), 0.0, 1.0)
    return labels, light


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
