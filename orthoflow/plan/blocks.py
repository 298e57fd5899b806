"""Sizes of chunks, shards, blocks and parts: how the work is cut; never shows in the answer."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, cast

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Triple
from orthoflow.options import Options, triple

if TYPE_CHECKING:
    from orthoflow.models.card import Card

# A block's side unless the user says otherwise, by the voxels of the volume up to which it holds:
# small ones take little memory, large ones keep a scheduler's tasks few.
_BLOCK_SIDES = ((2**36, 256), (2**42, 512), (math.inf, 1024))
# As many blocks as keep a laptop's cores busy, where the volume has room for them.
_ENOUGH_BLOCKS = 8
# Bytes of sums that the blocks of a part may hold until their neighbours are done (a cube of
# 1024 voxels), and how many blocks at most: a part is what is lost when a worker dies.
_PART_BYTES = 12 * 2**30
_PART_BLOCKS = 64
# Objects that a block stores at most: its marker names each with its digest, and markers are small.
MOST_OBJECTS = 500
# Volume voxels per second and GPU above which computing a rim twice beats sending it.
_FAST_NETWORK = 60e6
# Network pixels of one batch: more does not help a CPU's cache and a GPU is full with it.
_BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**22}


def cells(shape: Triple, size: Triple) -> Triple:
    """Cells of `size` that cover `shape`, per axis."""
    z, y, x = (math.ceil(n / s) for n, s in zip(shape, size, strict=True))
    return (z, y, x)


def batch_size(pixels: int, device: str) -> int:
    """Tiles of `pixels` that are run at once."""
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return max(1, _BATCH_PIXELS[kind] // pixels)


def choose(
    shape: Triple, options: Options, *, patch: int, copies: int
) -> tuple[Triple, Triple, Triple]:
    """Chunk, shard and block, in voxels; refuse what would let two tasks write one object.

    Parameters
    ----------
    shape
        Of the region.
    patch
        The longest side of any patch, in input voxels.
    copies
        Objects that are stored of every shard: of all arrays and classes.
    """
    chunk = _clip(triple("chunk", options.chunk), shape)
    shard = None
    if options.shard is not None:
        # Clipped to whole chunks: the last chunk may reach beyond the volume.
        shard = _clip(triple("shard", options.shard), _default_shard(shape, chunk))
    if options.ome_version == "0.4":
        if shard is not None and shard != chunk:
            raise BadInput(
                f"shard {_text(shard)}: OME-Zarr 0.4 has no shards; leave it out or use 0.5"
            )
        shard = chunk
    if shard is not None:
        _check_multiple("shard", shard, "chunk", chunk, shape)
    if options.block is None:
        # Without shards of a given size a block is one, however large.
        most = MOST_OBJECTS // copies if shard else None
        block = _default_block(shape, shard or chunk, patch, most=most)
    else:
        block = _clip(triple("block", options.block), shape)
        _check_multiple("block", block, "shard" if shard else "chunk", shard or chunk, shape)
    _check_objects(block, shard or block, copies)
    return chunk, shard or _default_shard(block, chunk), block


def choose_part(shape: Triple, block: Triple, options: Options, card: Card, sums: int) -> Triple:
    """Blocks per part along each axis: many where the network is slow, one where it is fast.

    `sums` are the bytes of sums over one block. Where several jobs share the parts there is one for
    each job at least, if there are blocks.
    """
    grid = cells(shape, block)
    if options.part is not None:
        z, y, x = (min(n, g) for n, g in zip(triple("part", options.part), grid, strict=True))
        return (z, y, x)
    if card.speed is not None and card.speed / 3 >= _FAST_NETWORK:
        return (1, 1, 1)
    # On a small machine a local run must not fill the memory with sums; nothing but speed depends
    # on the size of a part.
    room = min(_PART_BYTES, physical_memory() * 3 // 5)
    shared = math.prod(grid) // options.num_parts
    most = max(1, min(_PART_BLOCKS, room // sums, shared))
    sides = [1, 1, 1]
    while True:
        # The shortest side grows first: a cube has the fewest rims.
        growing = [
            axis
            for axis in range(3)
            if sides[axis] < grid[axis]
            and math.prod(sides) // sides[axis] * min(2 * sides[axis], grid[axis]) <= most
        ]
        if not growing:
            return (sides[0], sides[1], sides[2])
        axis = min(growing, key=lambda a: sides[a] * block[a])
        sides[axis] = min(2 * sides[axis], grid[axis])


def physical_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sums_bytes(block: Triple, ndim: int, channels: int) -> int:
    """Bytes of the sums over one block: int32 for each orientation and blended channel."""
    orientations = 3 if ndim == 2 else 1
    return orientations * 4 * channels * math.prod(block)


def _default_block(shape: Triple, unit: Triple, patch: int, *, most: int | None) -> Triple:
    """Whole units, `most` of them: no shorter than half a patch, short enough for several blocks.

    Blocks much shorter than the patches would each read and hold most of their neighbours.
    """
    usual = next(side for most, side in _BLOCK_SIDES if math.prod(shape) <= most)
    longest = [math.ceil(max(usual, patch / 2) / u) for u in unit]
    least = [max(1, math.ceil(patch / 2 / u)) for u in unit]
    whole = [math.ceil(n / u) for n, u in zip(shape, unit, strict=True)]
    sides = [min(n, most) for n, most in zip(whole, longest, strict=True)]
    while math.prod(math.ceil(n / s) for n, s in zip(whole, sides, strict=True)) < _ENOUGH_BLOCKS:
        halves = [math.ceil(s / 2) for s in sides]
        may = [a for a in range(3) if halves[a] < sides[a] and halves[a] >= least[a]]
        if not may:
            break
        axis = max(may, key=lambda a: (sides[a] * unit[a], -a))
        sides[axis] = halves[axis]
    while most is not None and math.prod(sides) > max(1, most):
        axis = max(range(3), key=lambda a: (sides[a] > 1, sides[a] * unit[a], -a))
        sides[axis] = math.ceil(sides[axis] / 2)
    return _clip(cast("Triple", tuple(s * u for s, u in zip(sides, unit, strict=True))), shape)


def _default_shard(block: Triple, chunk: Triple) -> Triple:
    """The block itself (or any box), in whole chunks: one object per array and block."""
    z, y, x = (math.ceil(b / c) * c for b, c in zip(block, chunk, strict=True))
    return (z, y, x)


def _clip(size: Triple, shape: Triple) -> Triple:
    z, y, x = (min(s, n) for s, n in zip(size, shape, strict=True))
    return (z, y, x)


def _check_multiple(name: str, size: Triple, unit_name: str, unit: Triple, shape: Triple) -> None:
    """Refuse a size that cuts units, unless it covers the whole axis."""
    for axis, side, step, full in zip(AXES, size, unit, shape, strict=True):
        if side % step and side < full:
            below = max(step, side // step * step)
            raise BadInput(
                f"{name} {_text(size)} is no whole number of {unit_name}s of {_text(unit)} on axis "
                f"{axis}, so two tasks would write one object; use {below} or {below + step} there"
            )


def _check_objects(block: Triple, shard: Triple, copies: int) -> None:
    """Refuse blocks whose markers would have too much to name."""
    count = math.prod(cells(block, shard)) * copies
    if count > MOST_OBJECTS:
        raise BadInput(
            f"block {_text(block)} would be {count:,} objects (shards of {_text(shard)} of "
            f"{copies} arrays and classes), and its marker names {MOST_OBJECTS} at most; use a "
            "smaller block, or a larger shard (chunk with OME-Zarr 0.4)"
        )


def _text(size: Triple) -> str:
    return ",".join(map(str, size))
