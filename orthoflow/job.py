"""What the tasks of a run share, and what they count."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput, BlockImpossible
from orthoflow.models.heads import vector_channels
from orthoflow.reduce.statistics import GreyScale, grey_scale, sample_boxes
from orthoflow.stores.patience import patiently
from orthoflow.stores.volumes import read_box

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.output import ArraySpec, OutputSpec
    from orthoflow.kernels.infer import Recipe
    from orthoflow.models import ModelRef
    from orthoflow.plan import Plan
    from orthoflow.stores.volumes import VolumeRef


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
    fingerprint: str = ""
    """Of the run's settings: markers carry it."""


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
    stored: int = 0
    """Bytes of the objects written, after compression."""
    filled: int = 0
    """Chunks of the input that are not stored and were read as fill values."""
    adrift: int = 0
    """Pixels of planes, all orientations, that are an object's and found no middle of one."""
    duplicates: int = 0
    """Blocks that another task had marked in the meantime."""
    halved: dict[str, int] = field(default_factory=dict)
    """Times that a batch did not fit and was run as batches of so many tiles."""
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add another task's numbers."""
        for name in self.__slots__:
            mine, more = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                for key, value in more.items():
                    mine[key] = mine.get(key, 0) + value
            else:
                setattr(self, name, mine + more)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Tally:
        """A tally as a marker keeps it (`dataclasses.asdict`).

        Raises
        ------
        BadInput
            If these are no counts.
        """
        tally = cls()
        for name, value in facts.items():
            mine = getattr(tally, name, None)
            numbers = value.values() if isinstance(value, dict) else [value]
            if type(value) is not type(mine) or any(type(n) not in (int, float) for n in numbers):
                raise BadInput(f"count {name!r} {value!r} is none that a block has")
            setattr(tally, name, value)
        return tally

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
    if normalization.method == "fixed" and not plan.needs_statistics:
        assert normalization.mean is not None
        assert normalization.std is not None
        channels = plan.facts.channels
        return GreyScale((normalization.mean,) * channels, (1 / normalization.std,) * channels)
    if not plan.needs_statistics:
        return None
    if job.source is not None:
        samples = [_sample(job.source, box, plan) for box in sample_boxes(plan.facts.shape)]
    if samples is None:
        raise TypeError("statistics need a source or samples")
    if plan.options.nan_policy == "zero":
        samples = [np.nan_to_num(s, nan=0, posinf=0, neginf=0) for s in samples]
    return grey_scale(samples, normalization, name=plan.facts.name)


def _sample(source: VolumeRef, box: Box, plan: Plan) -> npt.NDArray[np.generic]:
    """Voxels of a box; what is missing is bad input here, since no block was begun."""
    try:
        return patiently(
            lambda: read_box(source, box), seconds=plan.options.patience, doing=f"read {source}"
        )
    except BlockImpossible as error:
        raise BadInput(str(error)) from error


def with_grey(job: Job, grey: GreyScale | None) -> Job:
    """The job with its normalisation."""
    return replace(job, grey=grey)


def result_name(array: ArraySpec) -> str:
    """Name of the result that an output array holds; see `kernels.finish.results`."""
    return "labels" if array.path.startswith("labels/") else array.path


def wanted_of(plan: Plan) -> list[str]:
    """Names of the results that the tasks of the network write."""
    return [result_name(array) for array in block_arrays(plan.output)]


def block_arrays(output: OutputSpec) -> tuple[ArraySpec, ...]:
    """Arrays that the tasks of the network write; those of later passes are not among them."""
    return tuple(array for array in output.arrays if array.stage == "blocks")


def recipe_of(plan: Plan) -> Recipe:
    """How the kernels run patches under this plan."""
    from orthoflow.kernels.infer import Recipe  # noqa: PLC0415 - imports torch

    by_patch = plan.normalization.scope == "patch" and plan.normalization.method not in (
        "none",
        "fixed",
    )
    vectors = vector_channels(plan.card)
    return Recipe(
        kept=plan.kept,
        foreground_only=plan.channels == 1 and plan.kept[1] - plan.kept[0] == 2,
        channels=plan.channels,
        vectors=(vectors.start, vectors.stop),
        factors=plan.factors,
        tta=plan.options.tta,
        skip_empty=plan.options.skip_empty,
        batch=plan.batch,
        fixed_point=plan.options.accumulation == "fixed",
        patch_normalization=plan.normalization if by_patch else None,
    )
