"""What one task does: read, prepare, run the network, finish, write. No Dask."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orthoflow.errors import BlockFailed
from orthoflow.geometry.orientations import ORIENTATIONS, Orientation
from orthoflow.kernels.finish import View, results, view_of
from orthoflow.kernels.infer import Count, Planes, Recipe, infer_shares, oriented
from orthoflow.kernels.prepare import normalize_volume, resample, to_device
from orthoflow.models import load_model
from orthoflow.plan.costs import chunk_bytes
from orthoflow.reduce.blend import Sums
from orthoflow.reduce.statistics import GreyScale, grey_scale, sample_boxes
from orthoflow.stores.ome import write_box
from orthoflow.stores.volumes import read_box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.output import ArraySpec
    from orthoflow.models import ModelRef
    from orthoflow.plan import Part, Plan
    from orthoflow.stores.volumes import VolumeRef

# One block at a time computes on a GPU; others read ahead or write behind.
_GPU = threading.Lock()


@dataclass(frozen=True, slots=True)
class Job:
    """What all tasks of a run share; shipped to each worker once."""

    plan: Plan
    model: ModelRef
    source: VolumeRef | None
    """None where the voxels come from a Dask array of the user's."""
    grey: GreyScale | None
    """Normalisation of the whole volume, if there is one."""
    target: str | None = None
    """URL of the output group; None where results are returned."""


@dataclass(slots=True)
class Tally:
    """What one task did; sums up over tasks."""

    blocks: int = 0
    voxels: int = 0
    patches: int = 0
    skipped: int = 0
    tiles: int = 0
    network_pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add another task's numbers."""
        for name in self.__slots__:
            if name == "seconds":
                for stage, value in other.seconds.items():
                    self.seconds[stage] = self.seconds.get(stage, 0.0) + value
            else:
                setattr(self, name, getattr(self, name) + getattr(other, name))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def measure(job: Job, samples: Sequence[npt.NDArray[np.generic]] | None = None) -> GreyScale | None:
    """The numbers of the whole volume that grey values are normalised with, if there are any.

    `samples` (c, z, y, x) are the `sample_boxes` of a Dask array; tasks read those of files.
    """
    plan, normalization = job.plan, job.plan.normalization
    if normalization.method == "fixed":
        assert normalization.mean is not None
        assert normalization.std is not None
        channels = plan.facts.channels
        return GreyScale((normalization.mean,) * channels, (1 / normalization.std,) * channels)
    if not needs_statistics(plan):
        return None
    if job.source is not None:
        samples = [read_box(job.source, box) for box in sample_boxes(plan.facts.shape)]
    if samples is None:
        raise TypeError("statistics need a source or samples")
    if plan.options.nan_policy == "zero":
        samples = [np.nan_to_num(s, nan=0, posinf=0, neginf=0) for s in samples]
    return grey_scale(samples, normalization, name=plan.facts.name)


def needs_statistics(plan: Plan) -> bool:
    """Whether voxels have to be looked at before the first block."""
    return plan.normalization.scope == "volume" and plan.normalization.method in (
        "zscore",
        "minmax",
        "percentile",
    )


def with_grey(job: Job, grey: GreyScale | None) -> Job:
    """The job with its normalisation."""
    return replace(job, grey=grey)


Inferred = tuple[list[Sums], Tally]
"""Sums of the patches of one block, one per orientation that has any, and what was done."""


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
            if job.source is None:
                raise TypeError(f"block {block}: neither voxels nor a source were given")
            voxels = read_box(job.source, read)
    tally.bytes_read = chunk_bytes(plan, read)
    with _compute(plan) as device:
        with tally.stage("prepare"):
            raw, grey = _prepared(job, voxels, read, working, device)
        with tally.stage("model"):
            model = load_model(job.model, device=str(device), precision=plan.precision)
        sums = []
        for orientation in plan.orientations:
            mine = shares[orientation.name]
            target = plan.sums_box(part, orientation, mine)
            if target is None:
                continue
            planes = Planes(
                working, oriented(raw, orientation.name), oriented(grey, orientation.name)
            )
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
            sums.append(found)
    return sums, tally


def finish(
    job: Job, block: Box, wanted: Sequence[str], own: Inferred, *rims: list[Sums]
) -> dict[str, npt.NDArray[np.generic]]:
    """Results of a block by name, from its own sums and its neighbours' rims."""
    plan = job.plan
    pieces = [*own[0], *(piece for rim in rims for piece in rim)]
    with _compute(plan) as device:
        views = []
        for orientation in plan.orientations:
            mine = [s for s in pieces if s.orientation == orientation.name]
            views.append(_view(plan, block, gather(plan, block, orientation, mine, device)))
        return results(views, plan.ballot, wanted)


def finish_and_write(job: Job, block: Box, own: Inferred, *rims: list[Sums]) -> Tally:
    """Finish a block and write its own shards."""
    tally = Tally(blocks=1, voxels=block.voxels)
    tally.add(own[1])
    with tally.stage("vote"):
        found = finish(job, block, wanted_of(job.plan), own, *rims)
    with tally.stage("write"):
        tally.bytes_written = write_block(job, block, found)
    return tally


def run_block(
    job: Job, part: Part, block: Box, voxels: npt.NDArray[np.generic] | None = None
) -> Tally:
    """A whole block that exchanges nothing: one task that may run any number of times."""
    return finish_and_write(job, block, infer(job, part, block, voxels))


def _view(plan: Plan, block: Box, sums: Sums) -> View:
    return view_of(
        sums, block, working=plan.working, shape=plan.facts.shape, median=plan.options.median
    )


def gather(
    plan: Plan,
    block: Box,
    orientation: Orientation,
    pieces: Sequence[Sums],
    device: torch.device,
) -> Sums:
    """One block's sums of one orientation, all pieces added up."""
    need = plan.need(block, orientation)
    if len(pieces) == 1 and pieces[0].box.contains(need):
        return on_device(pieces[0].cut(need), device)
    planes, spans = orientation.spans(need)
    shape = [b - a for a, b in ([planes] if orientation.stack is not None else []) + list(spans)]
    dtype = torch.int32 if plan.options.accumulation == "fixed" else torch.float32
    total = torch.zeros((plan.channels, *shape), dtype=dtype, device=device)
    sums = Sums(orientation.name, need, total, None)
    for piece in pieces:
        common = piece.box.intersect(need)
        if common is not None:
            sums.add(on_device(piece.cut(common), device))
    return sums


def on_device(sums: Sums, device: torch.device) -> Sums:
    """The same sums as tensors on `device`; they travel between workers as NumPy arrays."""
    total, missing = (
        torch.as_tensor(a).to(device) if a is not None else None for a in (sums.total, sums.missing)
    )
    return Sums(sums.orientation, sums.box, total, missing)


def pick(found: dict[str, npt.NDArray[np.generic]], name: str) -> npt.NDArray[np.generic]:
    """One of a block's results."""
    return found[name]


def rim(job: Job, inferred: Inferred, block: Box) -> list[Sums]:
    """What a neighbour `block` needs of these sums: a copy, as NumPy arrays."""
    pieces = []
    for piece in inferred[0]:
        need = job.plan.need(block, ORIENTATIONS[piece.orientation])
        common = piece.box.intersect(need)
        if common is None:
            continue
        cut = piece.cut(common)
        total = np.array(_numpy(cut.total))
        missing = None if cut.missing is None else np.array(_numpy(cut.missing))
        pieces.append(Sums(cut.orientation, common, total, missing))
    return pieces


def _numpy(array: Any) -> npt.NDArray[np.generic]:
    found: npt.NDArray[np.generic] = array.cpu().numpy() if torch.is_tensor(array) else array
    return found


def write_block(job: Job, block: Box, found: dict[str, npt.NDArray[np.generic]]) -> int:
    """Write a block's own shards, each object once and as a whole; bytes before compression."""
    plan = job.plan
    if job.target is None:
        raise TypeError(f"block {block} has no output to be written to")
    place = block.shifted(plan.region.start)
    return sum(
        write_box(
            job.target,
            array.path,
            0,
            place,
            found[result_name(array)],
            storage_options=plan.options.storage_option,
        )
        for array in plan.output.arrays
    )


def result_name(array: ArraySpec) -> str:
    """Name of the result that an output array holds; see `kernels.finish.results`."""
    return "labels" if array.path.startswith("labels/") else array.path


def wanted_of(plan: Plan) -> list[str]:
    """Names of the results that the output's arrays hold."""
    return [result_name(array) for array in plan.output.arrays]


def recipe_of(plan: Plan) -> Recipe:
    """How the kernels run patches under this plan."""
    by_patch = plan.normalization.scope == "patch" and plan.normalization.method not in (
        "none",
        "fixed",
    )
    return Recipe(
        foreground_only=plan.mode == "binary" and plan.card.outputs == 2,
        channels=plan.channels,
        tta=plan.options.tta,
        skip_empty=plan.options.skip_empty,
        batch=plan.batch,
        fixed_point=plan.options.accumulation == "fixed",
        patch_normalization=plan.normalization if by_patch else None,
    )


def _prepared(
    job: Job, voxels: npt.NDArray[np.generic], read: Box, working: Box, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Working voxels before and after normalisation, (c, z, y, x)."""
    plan = job.plan
    raw = to_device(voxels, box=read, nan_policy=plan.options.nan_policy, device=device)
    raw = resample(raw, plan.facts.shape, plan.working, inside=read, wanted=working)
    return raw, normalize_volume(raw, job.grey)


def _count(tally: Tally, count: Count) -> None:
    tally.patches += count.patches
    tally.skipped += count.skipped
    tally.tiles += count.tiles
    tally.network_pixels += count.pixels


@contextlib.contextmanager
def _compute(plan: Plan) -> Iterator[torch.device]:
    """The plan's device, taken; one torch thread on a CPU, whatever thread this task is on."""
    device = torch.device(plan.options.device)
    if device.type == "cpu":
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
        yield device
        return
    with _GPU:
        try:
            yield device
        except torch.OutOfMemoryError as error:
            raise BlockFailed(
                f"out of memory on {device} with batches of {plan.batch} tiles; "
                "use a smaller batch_size or block"
            ) from error
