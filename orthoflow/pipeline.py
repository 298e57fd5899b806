"""The run on one page."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orthoflow
from orthoflow import driver, graph, work
from orthoflow import job as jobs
from orthoflow.cluster import connect
from orthoflow.errors import BadInput
from orthoflow.inputs import find_source
from orthoflow.models import Model, ModelRef, ref_of
from orthoflow.options import WORK, Options, wish_of
from orthoflow.plan import plan_run
from orthoflow.plan.costs import sampled_bytes
from orthoflow.reduce.statistics import sample_boxes
from orthoflow.stores.ome import create_output, write_record
from orthoflow.stores.urls import display_url, exists, is_inside, probe_write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from orthoflow.inputs import Source
    from orthoflow.plan import Plan


def run(
    input: Any,  # noqa: A002 - the name of the argument on the command line too
    output: str | Path,
    /,
    *,
    model: str | Path | Model | ModelRef,
    client: Client | None = None,
    progress: Callable[[driver.Progress], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment a volume with a network in all orientations and write OME-Zarr.

    Parameters
    ----------
    input : path, URL, xarray.DataArray, NumPy or Dask array
        Volume (z, y, x) or (c, z, y, x).
    output : path or URL
        OME-Zarr group to be made; must not exist unless `overwrite`.
    model : str, path, Model or ModelRef
        The network: "demo:semantic", a model folder, `Model.from_torch(module)`.
    client : distributed.Client, optional
        Where the work runs; by default threads of this process (option `cluster`).
    progress : callable, optional
        Called with a `driver.Progress` after every block.
    **options
        Everything in `Options`: overlap, orientations, packing, votes, block, ...

    Returns
    -------
    dict
        The report: what was done, in how many seconds, and the blocks that failed.

    Raises
    ------
    BadInput
        If something cannot work; nothing was created.
    StoreRefused
        If the output's store says no.
    """
    wishes = Options.from_mapping(options)
    began = time.monotonic()
    source = find_source(input, wishes)
    reference = model_ref(model, wishes)
    check_output(output, source, wishes)
    elsewhere = client is not None or wishes.scheduler is not None
    if not elsewhere:
        wishes = on_device(wishes, None)
    plan = plan_run(source.facts, reference.card, wishes)
    check_memory(plan)
    probe_write(output, wishes.storage_option)
    with connect(wishes, client) as workers:
        if elsewhere:
            plan = replace(plan, options=on_device(wishes, workers))
        job = jobs.Job(plan, reference, source.ref, None, str(output))
        token = fingerprint(plan, reference)
        # Runs of one fingerprint may share a scheduler at the same time: keys tell them apart.
        keys = f"{token[:8]}-{uuid.uuid4().hex[:8]}"
        job, grey = prepared(workers, job, source, keys)
        record = run_record(plan, reference, grey, token)
        create_output(
            output,
            plan.output,
            record,
            overwrite=wishes.overwrite,
            storage_options=wishes.storage_option,
        )
        tell = progress or _silent
        outcome = driver.run_blocks(workers, plan, job, source.array, run=keys, report=tell)
        if not outcome.failed:
            outcome.tally.bytes_written += driver.build_pyramid(
                workers, plan, str(output), run=keys, report=tell
            )
    report = run_report(plan, outcome, str(output), time.monotonic() - began)
    write_record(output, "report", report, wishes.storage_option)
    return report


def check_output(output: str | Path, source: Source, options: Options) -> None:
    """Refuse an output that is there already, or is the input."""
    shown = display_url(str(output))
    if source.ref is not None and (
        is_inside(output, source.ref.url) or is_inside(source.ref.url, output)
    ):
        raise BadInput(f"output {shown} and input {source.facts.name} overlap; write elsewhere")
    if exists(output, dict(options.storage_option)) and not options.overwrite:
        raise BadInput(f"output {shown} exists; choose another name, or pass overwrite")


def model_ref(model: str | Path | Model | ModelRef, options: Options) -> ModelRef:
    """A reference to whatever names a model."""
    if isinstance(model, ModelRef):
        return model
    return model.ref() if isinstance(model, Model) else ref_of(model, options.trust)


def on_device(options: Options, client: Client | None) -> Options:
    """Options with the device that the work will run on."""
    from orthoflow.models.load import resolve_device  # noqa: PLC0415 - imports torch

    if client is None:
        return replace(options, device=str(resolve_device(options.device)))
    found = client.submit(resolve_device, options.device, pure=False).result()
    return replace(options, device=str(found))


def check_memory(plan: Plan) -> None:
    """Refuse a plan that needs more memory than a worker may use."""
    from orthoflow.plan.costs import require_memory  # noqa: PLC0415

    if plan.options.memory_limit is not None:
        require_memory(plan, plan.options.memory_limit)


def prepared(
    client: Client | None, job: jobs.Job, source: Source, token: str
) -> tuple[graph.Node, Any]:
    """The job as tasks get it, and the volume's grey scale.

    Loads the network where the work will run, and looks at voxels if it has to: what fails here
    fails before anything is created.
    """
    maker = graph.Direct() if client is None else graph.Submit(client, token)
    samples = None
    if source.array is not None and job.plan.needs_statistics:
        boxes = sample_boxes(job.plan.facts.shape)
        samples = [maker.voxels(source.array, box) for box in boxes]
    grey = maker.task("statistics", "volume", jobs.measure, job, samples)
    loaded = maker.task("model", "load", work.load, job)
    if client is not None:
        grey, _ = client.gather([grey, loaded])
    return maker.task("job", "shared", jobs.with_grey, job, grey), grey


def fingerprint(plan: Plan, model: ModelRef) -> str:
    """Digest of everything that the answer depends on."""
    facts = {"plan": plan.to_dict()["orientations"], "model": model.digest}
    facts["options"] = {
        name: value
        for name, value in plan.options.to_dict().items()
        if wish_of(name).group != WORK and name not in ("overwrite", "storage_option")
    }
    facts["input"] = [plan.facts.name, plan.facts.shape, plan.facts.dtype]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def run_record(plan: Plan, model: ModelRef, grey: Any, token: str) -> dict[str, Any]:
    """What `orthoflow/run.json` keeps of a run: enough to do it again."""
    return {
        "orthoflow": orthoflow.__version__,
        "fingerprint": token,
        "input": {
            "name": plan.facts.name,
            "shape": plan.facts.shape,
            "dtype": plan.facts.dtype,
            "channels": plan.facts.channels,
        },
        "model": {"source": model.source, "digest": model.digest, "card": model.card.to_dict()},
        "grey": None if grey is None else {"shift": grey.shift, "factor": grey.factor},
        "plan": plan.to_dict(),
        "options": plan.options.to_dict(),
    }


def run_report(plan: Plan, outcome: driver.Outcome, output: str, seconds: float) -> dict[str, Any]:
    """What was done: counts, bytes and seconds per stage, summed over workers."""
    tally = outcome.tally
    return {
        "output": output,
        "blocks": tally.blocks,
        "blocks_planned": plan.block_count,
        "failed": outcome.failed,
        "voxels": tally.voxels,
        "patches": tally.patches,
        "patches_skipped": tally.skipped,
        "tiles": tally.tiles,
        "network_pixels": tally.network_pixels,
        "bytes_read": sampled_bytes(plan) + tally.bytes_read,
        "bytes_written": tally.bytes_written,
        "seconds": round(seconds, 3),
        "seconds_by_stage": {k: round(v, 3) for k, v in sorted(tally.seconds.items())},
        "device": plan.options.device,
        "precision": plan.precision,
    }


def _silent(progress: driver.Progress) -> None:
    del progress
