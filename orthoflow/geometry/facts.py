"""What the plan needs to know of a volume; no voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orthoflow.geometry.box import Triple


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """Metadata of one input volume, axes always (c, z, y, x).

    `chunks` are the boxes that are read as a whole (an inner chunk of a shard, a page of a TIFF).
    `voxel_size` is None where the file states none: never a silent 1.0.
    """

    name: str
    """Where it came from, without credentials: a path, a URL, or "memory"."""
    shape: Triple
    dtype: str
    channels: int = 1
    chunks: Triple | None = None
    """Voxels read at once (z, y, x); None for memory."""
    shards: Triple | None = None
    """Voxels of the objects that hold several chunks and an index of them; None where none do."""
    voxel_size: tuple[float, float, float] | None = None
    """Physical size of a voxel along (z, y, x), in `unit`."""
    unit: str | None = None
    """A UDUNITS name, as in OME-Zarr: "micrometer", "nanometer"."""
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of the first voxel in `unit`, (z, y, x)."""
    checksum: bool = True
    """Whether damage to what is stored is always noticed when it is read; True for memory."""

    def with_voxel_size(self, size: tuple[float, float, float], unit: str | None) -> VolumeFacts:
        """The same voxels, of another size: what was stated is wrong, and the translation with it.

        Where no size was stated, the translation was in voxels.
        """
        stated = self.voxel_size or (1.0, 1.0, 1.0)
        moved = zip(self.translation, stated, size, strict=True)
        z, y, x = (place / was * now for place, was, now in moved)
        return replace(self, voxel_size=size, unit=unit, translation=(z, y, x))
