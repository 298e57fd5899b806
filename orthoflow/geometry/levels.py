"""Which resolutions a pyramid has: shapes, factors, chunks and shards of every level."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES
from orthoflow.geometry.output import LevelSpec

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple

SLAB_BYTES = 256 * 2**20
"""Fine voxels that are held at once while a coarse shard is built."""

ISOTROPY = 1.5
"""An axis is halved while its voxel is at most this many times as long as the shortest one."""


def pyramid_levels(
    shape: Triple,
    voxel_size: tuple[float, float, float] | None,
    chunk: Triple,
    shard: Triple,
    count: int | None = None,
) -> tuple[LevelSpec, ...]:
    """Level 0 and coarser levels, each half as fine where voxels are short.

    Long axes wait until the others have caught up, so voxels become as cubic as halving allows;
    an axis of one voxel is never halved. Factors count from level 0, shapes are rounded up.

    Parameters
    ----------
    shape
        Voxels of level 0 along (z, y, x).
    voxel_size
        Physical size along (z, y, x); None is taken as cubic.
    chunk, shard
        Wished for level 0; on every level cut to what the array fills, the shard always a whole
        number of chunks.
    count
        Number of levels, level 0 included; None adds levels until one chunk holds everything.

    >>> levels = pyramid_levels((30, 512, 512), (40, 8, 8), (64, 64, 64), (64, 64, 64))
    >>> [level.factors for level in levels]
    [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    """
    _check(chunk, shard, count)
    factors = (1, 1, 1)
    levels = [_level(shape, factors, chunk, shard)]
    while _wants_more(levels, chunk, count):
        factors = _coarser(levels[-1], voxel_size or (1.0, 1.0, 1.0))
        if factors == levels[-1].factors:
            break
        levels.append(_level(shape, factors, chunk, shard))
    return tuple(levels)


def relative_factors(fine: LevelSpec, coarse: LevelSpec) -> Triple:
    """Voxels of `fine` along (z, y, x) that make one voxel of `coarse`."""
    pairs = zip(coarse.factors, fine.factors, strict=True)
    return cast("Triple", tuple(c // f for c, f in pairs))


def slab_depth(plane_bytes: int, chunk: int) -> int:
    """Planes of a coarse level that are built at once: whole chunks, as memory allows.

    `plane_bytes` are those of the fine voxels under one coarse plane.
    """
    return max(SLAB_BYTES // max(plane_bytes * chunk, 1), 1) * chunk


def _wants_more(levels: list[LevelSpec], chunk: Triple, count: int | None) -> bool:
    if count is not None:
        return len(levels) < count
    return any(n > c for n, c in zip(levels[-1].shape, chunk, strict=True))


def _coarser(level: LevelSpec, voxel_size: tuple[float, float, float]) -> Triple:
    sides = [v * f for v, f in zip(voxel_size, level.factors, strict=True)]
    divisible = [side for side, n in zip(sides, level.shape, strict=True) if n > 1]
    longest = min(divisible, default=0.0) * ISOTROPY
    triples = zip(level.factors, sides, level.shape, strict=True)
    return cast("Triple", tuple(f * 2 if n > 1 and s <= longest else f for f, s, n in triples))


def _level(shape: Triple, factors: Triple, chunk: Triple, shard: Triple) -> LevelSpec:
    size = [-(-n // f) for n, f in zip(shape, factors, strict=True)]
    chunks = [min(c, n) for c, n in zip(chunk, size, strict=True)]
    # A wished shard is a number of wished chunks; keep that number, or what the array fills.
    shards = [
        min(s // wished, -(-n // c)) * c
        for s, wished, c, n in zip(shard, chunk, chunks, size, strict=True)
    ]
    triples = [cast("Triple", tuple(values)) for values in (size, chunks, shards)]
    return LevelSpec(shape=triples[0], factors=factors, chunk=triples[1], shard=triples[2])


def _check(chunk: Triple, shard: Triple, count: int | None) -> None:
    for axis, inner, outer in zip(AXES, chunk, shard, strict=True):
        if inner < 1 or outer < inner or outer % inner:
            raise BadInput(
                f"shard {outer} on axis {axis} is not a whole number of chunks of {inner}; "
                f"use a multiple of {max(inner, 1)}"
            )
    if count is not None and count < 1:
        raise BadInput(f"levels {count} is not possible; use 1 for full resolution only, or more")
