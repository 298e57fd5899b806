"""A block's voxels in and its results out: read, written and marked with patience. No torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from orthoflow.job import block_arrays, result_name
from orthoflow.reduce.tablefile import dump
from orthoflow.stores.markers import block_marker_name, create_marker
from orthoflow.stores.ome import write_box
from orthoflow.stores.patience import patiently
from orthoflow.stores.stamps import Marker, Stamp
from orthoflow.stores.tables import ENDS_STEP, create_table, ends_key
from orthoflow.stores.volumes import read_box

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.geometry.box import Box
    from orthoflow.job import Job, Tally
    from orthoflow.reduce.ends import EndTable


def read_voxels(job: Job, box: Box, tally: Tally) -> npt.NDArray[np.generic]:
    """Voxels of the input; a store that does not answer is asked again."""
    source = job.source
    if source is None:
        raise TypeError(f"voxels {box}: neither an array nor a source was given")
    filled: list[str] = []

    def read() -> npt.NDArray[np.generic]:
        filled.clear()
        return read_box(source, box, filled=filled)

    voxels = patiently(read, seconds=job.plan.options.patience, doing=f"read voxels {box}")
    tally.filled = len(filled)
    return voxels


def is_constant(voxels: npt.NDArray[np.generic]) -> bool:
    """Whether each channel (c, z, y, x) has one value, and a finite one."""
    firsts = voxels[:, 0, 0, 0]
    return bool(np.isfinite(firsts).all()) and all(
        bool((channel == first).all()) for channel, first in zip(voxels, firsts, strict=True)
    )


def write_block(
    job: Job, block: Box, found: dict[str, npt.NDArray[np.generic]], tally: Tally
) -> tuple[Stamp, ...]:
    """Write a block's own shards, each object once and as a whole."""
    plan, options, target = job.plan, job.plan.options, _target(job)
    place = block.shifted(plan.region.start)
    objects: list[Stamp] = []
    for array in block_arrays(plan.output):
        values = found[result_name(array)]
        written = patiently(
            lambda path=array.path, values=values: write_box(  # type: ignore[misc]
                target, plan.output, path, 0, place, values, options.storage_option
            ),
            seconds=options.patience,
            doing=f"write block {block}",
        )
        tally.bytes_written += written.nbytes
        objects += written.objects
    tally.stored = sum(stamp.size for stamp in objects)
    return tuple(objects)


def write_ends(job: Job, block: Box, table: EndTable) -> None:
    """Keep a block's table of ends, from which a later pass finds objects."""
    target, options, number = _target(job), job.plan.options, job.plan.block_number(block)
    patiently(
        lambda: create_table(
            target,
            ends_key(job.fingerprint),
            ENDS_STEP,
            number,
            dump(table),
            options.storage_option,
        ),
        seconds=options.patience,
        doing=f"write the ends of block {block}",
    )


def mark_block(job: Job, block: Box, tally: Tally, objects: tuple[Stamp, ...]) -> Tally:
    """Say in the output that the block is done; its objects are stored by now."""
    target, options = _target(job), job.plan.options
    marker = Marker(
        block_marker_name(job.plan.block_number(block)),
        job.fingerprint,
        str(block),
        objects,
        asdict(tally),
    )
    new = patiently(
        lambda: create_marker(target, marker, options.storage_option),
        seconds=options.patience,
        doing=f"mark block {block}",
    )
    tally.duplicates = int(not new)
    return tally


def _target(job: Job) -> str:
    if job.target is None:
        raise TypeError("the job has no output to be written to")
    return job.target
