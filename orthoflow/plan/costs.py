"""What a plan costs: tiles, bytes, memory, seconds. Counts are exact; memory is an estimate."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.scale import RESAMPLE_ORDER
from orthoflow.models.card import CPU_BATCH_PIXELS
from orthoflow.plan.blocks import sums_bytes
from orthoflow.plan.census import census
from orthoflow.plan.objects import CellPlan, FlowPlan, MiddlePlan
from orthoflow.reduce.statistics import sample_boxes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orthoflow.geometry.box import Box, Triple
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.plan.census import Extent
    from orthoflow.plan.plan import Plan

# Interpreter, torch and zarr, with one tiny block done: 330 MiB in a calling process, 278 in a
# worker process of Dask's (Linux, torch 2.13; tests/test_promises_plan.py does it again).
PROCESS_BYTES = 320 * 2**20
# What does not grow with the block: the slab that is voted on, buffers of the writer, scratch
# memory of convolutions. Measured runs less all other terms leave -8 to 45 MiB, most with 3-D nets.
_SCRATCH_BYTES = 24 * 2**20
# Outputs of some planes as floats, and what finds their cells; slabs of a flow field, and voxels on
# their way. Measured runs of blocks of 64 and 128 voxels less all other terms.
_CELL_BYTES, _FLOW_BYTES = 72 * 2**20, 160 * 2**20
# Bytes of activations per network pixel where no card says: a U-Net of 32 channels in float32.
_USUAL_ACTIVATION = 1024.0


@dataclass(frozen=True, slots=True)
class Work:
    """What all tasks of a run do together; patches between parts count as often as they run."""

    patches: int = 0
    tiles: int = 0
    network_pixels: int = 0
    bytes_read: int = 0
    gets: int = 0
    """Requests for these, were the input in a bucket."""
    peak_bytes: int = 0


@functools.lru_cache(maxsize=16)
def total_work(plan: Plan) -> Work:
    """Work of the whole run."""
    patches = tiles = pixels = voxels = gets = peak = 0
    fixed = fixed_bytes(plan)
    for alike in census(plan):
        for way in alike.ways:
            patches += alike.blocks * way.patches
            tiles += alike.blocks * way.tiles
            pixels += alike.blocks * way.pixels
        voxels += alike.decoded
        gets += alike.gets * plan.facts.channels
        largest = itertools.product(*map(_largest, alike.along))
        peak = max(peak, *(fixed + _held_bytes(plan, extents) for extents in largest))
    read = voxels * _voxel_bytes(plan.facts) + sampled_bytes(plan)
    return Work(patches, tiles, pixels, read, gets, peak)


def _largest(extents: Iterable[Extent]) -> list[Extent]:
    """Those that no other one exceeds in everything."""
    found: list[Extent] = []
    for extent in sorted(extents, reverse=True):
        if not any(_covers(other, extent) for other in found):
            found.append(extent)
    return found


def _covers(large: Extent, small: Extent) -> bool:
    others = zip(large.sums, small.sums, strict=True)
    sizes = [(getattr(large, n), getattr(small, n)) for n in ("working", "read", "side")]
    return all(a >= b for a, b in (*others, *sizes))


def _voxel_bytes(facts: VolumeFacts) -> int:
    """Bytes of one voxel, all channels."""
    return facts.channels * np.dtype(facts.dtype).itemsize


def sampled_bytes(plan: Plan) -> int:
    """Decoded bytes of the chunks that are looked at for the volume's statistics, if need be."""
    if not plan.needs_statistics:
        return 0
    return sum(chunk_bytes(plan, box) for box in sample_boxes(plan.facts.shape))


def chunk_bytes(plan: Plan, box: Box) -> int:
    """Decoded bytes of the input chunks that a box touches."""
    facts = plan.facts
    if facts.chunks is not None:
        box = box.rounded_out(facts.chunks, facts.shape)
    return box.voxels * _voxel_bytes(facts)


def bytes_written(plan: Plan) -> int:
    """Bytes of all levels of all arrays, before compression."""
    return sum(
        math.prod(level.shape) * max(1, array.classes) * np.dtype(array.dtype).itemsize
        for array in plan.output.arrays
        for level in array.levels
    )


def _held_bytes(plan: Plan, along: tuple[Extent, ...]) -> int:
    """Most bytes of voxels, sums and results that the task of a block holds at once.

    All of them are added up. Voxels are let go before the results are made, but the process keeps
    memory that was let go, in pieces (`kernels.allocator`): so are measured peaks.
    """
    z, y, x = along
    if z.working == 0:
        return 0
    sums = sum(map(math.prod, zip(z.sums, y.sums, x.sums, strict=True))) * plan.channels * 4
    voxels = z.side * y.side * x.side
    results = sum(
        voxels * max(1, array.classes) * np.dtype(array.dtype).itemsize
        for array in plan.output.arrays
    )
    held = input_bytes(plan, (z.read, y.read, x.read), (z.working, y.working, x.working))
    return held + sums + results + _object_bytes(plan, z, y, x)


def _object_bytes(plan: Plan, z: Extent, y: Extent, x: Extent) -> int:
    """Bytes that a task needs to find the cells, or the ends, of its block (measured)."""
    if isinstance(plan.objects, CellPlan | MiddlePlan):
        return _CELL_BYTES
    if isinstance(plan.objects, FlowPlan):
        field = max(map(math.prod, zip(z.sums, y.sums, x.sums, strict=True)))
        return _FLOW_BYTES + 8 * field
    return 0


def input_bytes(plan: Plan, read: Triple, working: Triple) -> int:
    """Bytes of a task's voxels: as read, and as float32 where they are resampled or converted.

    `read` and `working` are the shapes of what is read and of what the patches are cut from.
    """
    held = math.prod(read) * np.dtype(plan.facts.dtype).itemsize
    kept = plan.facts.dtype in ("uint8", "int8", "int16", "float32")
    if plan.working != plan.facts.shape:
        held += 4 * _resampling_voxels(plan, read, working)
    elif not kept:
        held += 4 * math.prod(read)
    return held * plan.facts.channels


def _resampling_voxels(plan: Plan, read: Triple, working: Triple) -> int:
    """Most voxels held while one axis after the other is resampled (`kernels.prepare.resample`).

    Each axis needs the voxels before it and three times those after it: the first tap, the sum and
    the tap that is being added.
    """
    shape, most = list(read), 0
    for axis in RESAMPLE_ORDER:
        if plan.facts.shape[axis] != plan.working[axis]:
            before = math.prod(shape)
            shape[axis] = working[axis]
            most = max(most, before + 3 * math.prod(shape))
    return most


def require_memory(plan: Plan, limit: int) -> None:
    """Refuse a plan whose tasks need more than `limit` bytes."""
    need, fixed = total_work(plan).peak_bytes, fixed_bytes(plan)
    if need > limit:
        smaller = ",".join(str(max(1, side // 2)) for side in plan.block)
        remedy = f"use a smaller block, such as {smaller} with a shard of it, or batch_size 1"
        if fixed > limit:
            remedy = "no block is small enough: allow more, or use batch_size 1 or a smaller tile"
        raise BadInput(
            f"memory_limit {limit:,} bytes: a block of {','.join(map(str, plan.block))} needs "
            f"{need:,}, of which the process, the network and a batch take {fixed:,}; {remedy}"
        )


def part_bytes(plan: Plan) -> int:
    """Bytes of sums that a part of several blocks holds at most between its tasks."""
    blocks = math.prod(plan.part_blocks)
    return 0 if blocks == 1 else blocks * sums_bytes(plan.block, plan.card.ndim, plan.channels)


def fixed_bytes(plan: Plan) -> int:
    """Bytes that a worker needs whatever its block: the process, the network and its batch."""
    tile = max(math.prod(next(way.chosen.positions()).tile) for way in plan.ways)
    pixels = tile * plan.batch
    # A CPU runs a batch a few tiles at a time.
    on_gpu = plan.options.device.startswith("cuda")
    together = pixels if on_gpu else min(pixels, max(tile, CPU_BATCH_PIXELS))
    width = 0.5 if plan.precision == "bfloat16" else 1.0
    activations = (plan.card.activation_bytes or _USUAL_ACTIVATION) * width * together
    # Logits lie in pieces and as one; those that are blended as they are, weighted and rounded.
    values = plan.card.channels + 2 * plan.card.outputs + 3 * plan.channels
    return PROCESS_BYTES + _SCRATCH_BYTES + int(activations) + 4 * pixels * values


def seconds(plan: Plan) -> float | None:
    """Seconds of one worker, if the card states the network's speed."""
    if plan.card.speed is None:
        return None
    return total_work(plan).network_pixels / plan.card.speed
