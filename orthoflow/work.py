"""What one task does: read, prepare, run the network, finish, write. No Dask."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orthoflow.blockio import is_constant, mark_block, read_voxels, write_block, write_ends
from orthoflow.cells import block_cells
from orthoflow.ends import block_ends
from orthoflow.errors import BlockFailed
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.geometry.output import ENDS, MIDDLES, PLANES
from orthoflow.job import Job, Tally, block_arrays, recipe_of, result_name, wanted_of
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.kernels.finish import View, results, view_of
from orthoflow.kernels.infer import Count, Planes, infer_shares, oriented
from orthoflow.kernels.prepare import resample, to_device
from orthoflow.middles import block_middles
from orthoflow.models import load_model
from orthoflow.plan.costs import chunk_bytes, total_work
from orthoflow.plan.objects import CellPlan, FlowPlan, MiddlePlan
from orthoflow.reduce.blend import Sums
from orthoflow.reduce.ends import no_ends
from orthoflow.reduce.vote import fill_unpredicted
from orthoflow.sums import class_sums, gather

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from orthoflow.geometry.shares import Share
    from orthoflow.models import Model
    from orthoflow.plan import Part, Plan
    from orthoflow.reduce.ends import EndTable

# Voxels that are voted on at once: a few megabytes of float32 for each orientation.
_SLAB_VOXELS = 2**18

# One block at a time computes on a GPU; others read ahead or write behind.
_GPU = threading.Lock()


Inferred = tuple[list[Sums], Tally]
"""Sums of the patches of one block, one per orientation that has any, and what was done."""


def load(job: Job) -> None:
    """Load the network in this process, or say why it cannot be."""
    with _compute(job.plan) as device:
        _loaded(job, device)


def _loaded(job: Job, device: torch.device) -> Model:
    """The network on its device; loaded once per process and kept by digest."""
    return load_model(job.model, device=str(device), precision=job.plan.precision)


def infer(
    job: Job, part: Part, block: Box, voxels: npt.NDArray[np.generic] | None = None
) -> Inferred:
    """Sums of the patches that belong to `block`.

    `voxels` (c, z, y, x) are given where they come from a Dask array.
    """
    plan, tally = job.plan, Tally()
    shares = plan.shares(part, block)
    working = plan.working_box(shares)
    if working is None:
        return [], tally
    read = plan.read_box(working)
    with tally.stage("read"):
        if voxels is None:
            voxels = read_voxels(job, read, tally)
    tally.bytes_read = chunk_bytes(plan, read)
    with _compute(plan) as device:
        with tally.stage("prepare"):
            prepared = _prepared(job, voxels, read, working, device)
        with tally.stage("model"):
            model = _loaded(job, device)
        sums = []
        for orientation in plan.orientations:
            mine = shares[orientation.name]
            target = plan.sums_box(part, orientation, mine)
            if target is None:
                continue
            planes = Planes(working, oriented(prepared, orientation.name), job.grey)
            with tally.stage("network"):
                found, count = infer_shares(
                    model,
                    plan.patches(orientation.name),
                    planes,
                    mine,
                    target=target,
                    recipe=recipe_of(plan),
                )
            _count(tally, count)
            # Until the neighbours are done sums wait on the host, where a part has room.
            sums.append(_on_host(found) if len(part.blocks) > 1 else found)
    return sums, tally


def finish(
    job: Job, block: Box, wanted: Sequence[str], own: Inferred, *rims: list[Sums]
) -> dict[str, npt.NDArray[np.generic]]:
    """Results of a block by name, from its own sums and its neighbours' rims.

    Slab by slab: what lies between sums and results stays in the processor's cache.
    """
    return _finished(job, block, wanted, own, *rims).results


@dataclass(slots=True)
class _Finished:
    """A block's results by name, and what else it leaves."""

    results: dict[str, npt.NDArray[np.generic]]
    adrift: int = 0
    """Voxels of objects that found no middle; see `Tally`."""
    ends: EndTable | None = None


def _finished(
    job: Job, block: Box, wanted: Sequence[str], own: Inferred, *rims: list[Sums]
) -> _Finished:
    plan = job.plan
    pieces = [*own[0], *(piece for rim in rims for piece in rim)]
    found: dict[str, npt.NDArray[np.generic]] = {}
    done = _Finished(found)
    voted = [name for name in wanted if not _is_of_objects(name)]
    depth = max(1, _SLAB_VOXELS // (block.shape[1] * block.shape[2]))
    with _compute(plan) as device:
        for slab in split(block, (depth, *block.shape[1:]), block.start) if voted else ():
            views = [
                _view(
                    plan,
                    slab,
                    gather(
                        plan,
                        plan.view(slab, orientation),
                        orientation,
                        pieces,
                        device,
                        channels=plan.semantic,
                    ),
                )
                for orientation in plan.orientations
            ]
            for name, values in results(views, plan.ballot, voted).items():
                if name not in found:
                    found[name] = np.empty((*values.shape[:-3], *block.shape), values.dtype)
                found[name][(..., *slab.within(block))] = values
        if len(voted) < len(wanted):
            objects = plan.objects
            if isinstance(objects, FlowPlan):
                more, done.ends, done.adrift = block_ends(plan, objects, block, pieces, device)
                found |= more
            elif isinstance(objects, MiddlePlan):
                more, done.ends, done.adrift = block_middles(plan, objects, block, pieces, device)
                found |= more
            elif isinstance(objects, CellPlan):
                more, done.adrift = block_cells(plan, objects, block, pieces, device)
                found |= more
    return done


def _is_of_objects(name: str) -> bool:
    """Whether a result is for the passes that make objects."""
    return name in (ENDS, MIDDLES) or name.startswith(f"{PLANES}/")


def finish_and_write(job: Job, block: Box, own: Inferred, *rims: list[Sums]) -> Tally:
    """Finish a block, write its own shards, then its marker."""
    tally = Tally(blocks=1, voxels=block.voxels)
    tally.add(own[1])
    with tally.stage("vote"):
        done = _finished(job, block, wanted_of(job.plan), own, *rims)
    tally.adrift = done.adrift
    with tally.stage("write"):
        objects = write_block(job, block, done.results, tally)
        if done.ends is not None:
            write_ends(job, block, done.ends)
    return mark_block(job, block, tally, objects)


def run_block(
    job: Job, part: Part, block: Box, voxels: npt.NDArray[np.generic] | None = None
) -> Tally:
    """A whole block that exchanges nothing: one task that may run any number of times."""
    plan, tally = job.plan, Tally()
    with _memory(plan, block):
        shares = plan.shares(part, block)
        working = plan.working_box(shares)
        if working is not None and leaves_nothing(plan):
            read = plan.read_box(working)
            if voxels is None:
                voxels = read_voxels(job, read, tally)
            if is_constant(voxels):
                tally.blocks, tally.voxels = 1, block.voxels
                tally.bytes_read = chunk_bytes(plan, read)
                tally.patches = tally.skipped = _planes_in(plan, shares)
                if plan.options.resumes:  # an earlier run may have left something torn there
                    write_block(job, block, _blank(plan, block), tally)
                    tally.bytes_written = 0
                if isinstance(plan.objects, FlowPlan | MiddlePlan):
                    write_ends(job, block, no_ends())
                return mark_block(job, block, tally, ())
        own = infer(job, part, block, voxels)
        own[1].add(tally)
        return finish_and_write(job, block, own)


def _blank(plan: Plan, block: Box) -> dict[str, npt.NDArray[np.generic]]:
    """The results of a block that nothing is predicted in."""
    return {
        result_name(array): np.zeros(
            (*((array.classes,) if array.classes else ()), *block.shape), array.dtype
        )
        for array in block_arrays(plan.output)
    }


def _planes_in(plan: Plan, shares: dict[str, list[Share]]) -> int:
    """Patches of these shares, of all orientations."""
    count = 0
    for name, mine in shares.items():
        planes = plan.patches(name).tiling.planes
        spans = [share.planes(planes) for share in mine]
        count += sum(end - first for first, end in spans)
    return count


@contextlib.contextmanager
def _memory(plan: Plan, block: Box) -> Iterator[None]:
    """Say what a block needs where the machine does not have it."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        need = total_work(plan).peak_bytes
        raise BlockFailed(
            f"out of memory on {plan.options.device}: block {block} needs about {need:,} bytes "
            f"({' '.join(str(error).split())[:120]}); use a smaller block or batch_size"
        ) from error


def _view(plan: Plan, block: Box, sums: Sums) -> View:
    return view_of(
        class_sums(sums, binary=plan.mode == "binary"),
        block,
        working=plan.working,
        shape=plan.facts.shape,
        median=plan.options.median,
    )


def finish_one(
    job: Job, block: Box, name: str, own: Inferred, *rims: list[Sums]
) -> npt.NDArray[np.generic]:
    """One result of a block."""
    return finish(job, block, [name], own, *rims)[name]


def rim(job: Job, inferred: Inferred, block: Box) -> list[Sums]:
    """What a neighbour `block` needs of these sums: a copy, as NumPy arrays."""
    pieces = []
    for piece in inferred[0]:
        need = job.plan.need(block, ORIENTATIONS[piece.orientation])
        common = piece.box.intersect(need)
        if common is None:
            continue
        cut = _on_host(piece.cut(common))
        missing = None if cut.missing is None else cut.missing.copy()
        pieces.append(Sums(cut.orientation, common, cut.total.copy(), missing))
    return pieces


def _on_host(sums: Sums) -> Sums:
    """The same sums as NumPy arrays; on a CPU without a copy."""
    missing = None if sums.missing is None else _numpy(sums.missing)
    return Sums(sums.orientation, sums.box, _numpy(sums.total), missing)


def _numpy(array: Any) -> npt.NDArray[np.generic]:
    found: npt.NDArray[np.generic] = array.cpu().numpy() if torch.is_tensor(array) else array
    return found


def leaves_nothing(plan: Plan) -> bool:
    """Whether a block of constant input gives nothing but fill values, which are not stored.

    Interpolation may round one value to several, so a resampled volume is looked at patch by patch.
    """
    if not plan.options.skip_empty or plan.working != plan.facts.shape:
        return False
    wanted = [name for name in wanted_of(plan) if not _is_of_objects(name)]
    if plan.objects is not None:
        # Objects are where classes are, which "labels" stands for.
        wanted.append("labels")
    covered = torch.zeros((1, 1, 1), dtype=torch.bool)
    count = 1 if plan.mode == "binary" else plan.semantic[1] - plan.semantic[0]
    logits = fill_unpredicted(torch.zeros((count, 1, 1, 1)), covered)
    views = [View(orientation.name, logits, covered) for orientation in plan.orientations]
    return not any(values.any() for values in results(views, plan.ballot, wanted).values())


def _prepared(
    job: Job, voxels: npt.NDArray[np.generic], read: Box, working: Box, device: torch.device
) -> torch.Tensor:
    """Voxels of the working grid on the device, (c, z, y, x), not yet normalised."""
    plan = job.plan
    raw = to_device(voxels, box=read, nan_policy=plan.options.nan_policy, device=device)
    return resample(raw, plan.facts.shape, plan.working, inside=read, wanted=working)


def _count(tally: Tally, count: Count) -> None:
    tally.patches += count.patches
    tally.skipped += count.skipped
    tally.tiles += count.tiles
    tally.network_pixels += count.pixels
    for size, times in count.halved.items():
        tally.halved[size] = tally.halved.get(size, 0) + times


@contextlib.contextmanager
def _compute(plan: Plan) -> Iterator[torch.device]:
    """The plan's device, taken; one torch thread on a CPU, whatever thread this task is on."""
    device = torch.device(plan.options.device)
    if device.type == "cpu":
        keep_freed_memory()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield device
        finally:
            torch.set_num_threads(threads)
        return
    with _GPU:
        yield device
