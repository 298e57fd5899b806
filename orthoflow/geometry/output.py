"""Every array of an output, level by level: decided in the plan, carried out by the stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orthoflow.geometry.box import Triple


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """One level of a pyramid; shapes in voxels (z, y, x)."""

    shape: Triple
    factors: Triple
    """Voxels of level 0 along (z, y, x) that make one voxel of this level."""
    chunk: Triple
    shard: Triple
    """A whole number of chunks; equal to `chunk` where there are no shards (OME-Zarr 0.4)."""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One multiscale image or label image inside the output group."""

    path: str
    """Inside the group: "labels/segmentation", "probabilities", "disagreement", "stacks/xy"."""
    kind: Literal["labels", "image"]
    """Labels are reduced by mode and stored with `image-label`; images by mean."""
    dtype: str
    classes: int
    """0: axes (z, y, x); otherwise axes (c, z, y, x) with that many channels."""
    levels: tuple[LevelSpec, ...]


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The whole output group."""

    arrays: tuple[ArraySpec, ...]
    ome_version: Literal["0.5", "0.4"]
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    translation: tuple[float, float, float]
    """Centre of the first voxel of level 0, (z, y, x), in `unit` (voxels if unknown)."""
    compression: int
    """zstd level; a crc32c follows in Zarr v3."""
