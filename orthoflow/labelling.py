"""A consensus of labels that any 2-D segmenter gave the planes of a volume in its orientations."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orthoflow
from orthoflow import driver
from orthoflow.cluster import connect
from orthoflow.errors import BadInput
from orthoflow.finalize import complete, done_blocks
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.options import CONSENSUS_OPTIONS, WORK, Options, wish_of
from orthoflow.plan.labels import LabelPlan, plan_labels
from orthoflow.records import fingerprint_of, machine_facts, require_same
from orthoflow.resume import check_place
from orthoflow.stores.locks import hold
from orthoflow.stores.ome import create_output, has_record, read_record, write_record
from orthoflow.stores.urls import probe_write
from orthoflow.stores.volumes import VolumeRef, describe, find_volume
from orthoflow.versions import require_same_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from distributed import Client

    from orthoflow.geometry.facts import VolumeFacts


def write_consensus(
    planes: Mapping[str, str | Path],
    output: str | Path,
    /,
    *,
    client: Client | None = None,
    progress: Callable[[driver.Progress], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Instances from per-plane labels that are stored, written as OME-Zarr.

    Parameters
    ----------
    planes : dict
        Path or URL of labels (z, y, x) by orientation ("xy", "xz", "yz", one at least); ids are
        unique within a plane, 0 is background.
    output : path or URL
        OME-Zarr group to be made.
    client : distributed.Client, optional
        Where the work runs; by default threads of this process (option `cluster`).
    progress : callable, optional
        Called with a `driver.Progress` after every block of every pass.
    **options
        Those of `run` for instances, output and work.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    BadInput
        If something cannot work; nothing was created.
    BlockFailed
        If a block of labels cannot be read or written; what is done is kept.
    """
    wishes = Options.from_mapping(options)
    began = time.monotonic()
    sources = {name: _source(planes[name], wishes) for name in ORIENTATIONS if name in planes}
    if not sources or len(sources) < len(planes):
        raise BadInput(f"labels of {', '.join(map(str, planes)) or 'nothing'}; use xy, xz and yz")
    for ref, facts in sources.values():
        check_place(output, ref.url, facts.name, wishes)
    plan = plan_labels({name: facts for name, (_, facts) in sources.items()}, wishes)
    record = _record(plan, sources, wishes)
    storage = wishes.storage_option
    finished = _finished(output, record, wishes)
    if finished is not None:
        return finished
    with connect(wishes, client) as workers:
        probe_write(output, storage)
        if workers is not None:
            require_same_versions(workers)
        taken = {"storage_options": storage, "take_over": wishes.take_over}
        with hold(output, "run", **taken) as lock:  # type: ignore[arg-type]
            stored = create_output(
                output,
                plan.output,
                record,
                overwrite=wishes.overwrite,
                join=wishes.resumes,
                storage_options=storage,
            )
            require_same(stored, record["settings"], output)
            tell = progress or _silent
            drive = driver.Drive(workers, str(output), stored, wishes, lock, tell)
            report = complete(drive) | {"seconds": round(time.monotonic() - began, 3)}
            write_record(output, "report", report, storage)
    return report


def _source(url: str | Path, options: Options) -> tuple[VolumeRef, VolumeFacts]:
    ref = find_volume(
        str(url),
        axes=options.axes,
        channel=options.channel,
        storage_options=options.storage_option,
        labels=True,
        missing=options.missing_input,
    )
    return ref, describe(ref, voxel_size=options.voxel_size, unit=_unit(options))


def _unit(options: Options) -> str | None:
    return None if options.voxel_size is None else "micrometer"


def _record(
    plan: LabelPlan, sources: Mapping[str, tuple[VolumeRef, VolumeFacts]], options: Options
) -> dict[str, Any]:
    """What `orthoflow/run.json` keeps of a consensus."""
    numbers = {
        "orthoflow": orthoflow.__version__,
        **{f"{name} labels": facts.name for name, (_, facts) in sources.items()},
        "input_shape": list(next(iter(sources.values()))[1].shape),
        **{
            name: value
            for name, value in options.to_dict().items()
            if name in CONSENSUS_OPTIONS
            and wish_of(name).group != WORK
            and name not in ("overwrite", "storage_option")
        },
        **asdict(plan.rule),
        "label_divisor": options.label_divisor,
        "block": list(plan.block),
        "output_arrays": plan.output.to_dict(),
        "device": "cpu",
        "precision": "integers",
    }
    settings = json.loads(json.dumps(numbers))
    blocks = -(-plan.region.shape[0] // plan.block[0])
    for axis in (1, 2):
        blocks *= -(-plan.region.shape[axis] // plan.block[axis])
    return {
        "orthoflow": orthoflow.__version__,
        "fingerprint": fingerprint_of(settings),
        "settings": settings,
        "region": str(plan.region),
        "block": list(plan.block),
        "output": plan.output.to_dict(),
        "labels": {
            "sources": {name: _kept(ref) for name, (ref, _) in sources.items()},
            "label_divisor": options.label_divisor,
            "rule": asdict(plan.rule),
        },
        "sampled_bytes": 0,
        "plan": {"blocks": blocks},
        "machine": machine_facts(),
    }


def _kept(ref: VolumeRef) -> dict[str, Any]:
    """What finds the labels again; without options of the store, which each job is told itself."""
    names = ("url", "array", "axes", "time", "channel", "missing")
    return {name: getattr(ref, name) for name in names}


def _finished(
    output: str | Path, record: dict[str, Any], options: Options
) -> dict[str, Any] | None:
    """The report of an output that is to be resumed and needs nothing more."""
    storage = options.storage_option
    if not options.resumes or not has_record(output, "report", storage):
        return None
    stored = read_record(output, "run", storage)
    require_same(stored, record["settings"], output)
    report = read_record(output, "report", storage)
    done = done_blocks(output, stored, options)
    return report if report.get("complete") and done.count == done.total else None


def _silent(progress: driver.Progress) -> None:
    del progress
