"""The run on one page."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from orthoflow import driver, graph
from orthoflow import job as jobs
from orthoflow.cluster import connect
from orthoflow.inputs import find_source
from orthoflow.models import ModelRef, ref_of
from orthoflow.options import Options, which_part
from orthoflow.plan import plan_run
from orthoflow.records import fingerprint_of, run_record, settings_of
from orthoflow.reduce.statistics import sample_boxes
from orthoflow.resume import assignment, begun, check_output, ended, finished_report
from orthoflow.stores.locks import hold
from orthoflow.stores.urls import probe_write
from orthoflow.versions import require_same_versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from orthoflow.inputs import Source
    from orthoflow.models import Model
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
    share = which_part(wishes, os.environ)
    source = find_source(input, wishes)
    reference = model_ref(model, wishes)
    check_output(output, source, wishes)
    finished = finished_report(output, source, reference, wishes)
    if finished is not None:
        return finished
    elsewhere = client is not None or wishes.scheduler is not None
    if not elsewhere:
        wishes = on_device(wishes, None)
    plan = plan_run(source.facts, reference.card, wishes)
    check_memory(plan)
    with connect(wishes, client) as workers:
        if elsewhere:
            plan = replace(plan, options=on_device(wishes, workers))
        settings = settings_of(plan, reference)
        probe_write(output, wishes.storage_option)
        if workers is not None:
            require_same_versions(workers)
        bare = jobs.Job(plan, reference, source.ref, None, str(output), fingerprint_of(settings))
        # Runs of one fingerprint may share a scheduler at the same time: keys tell them apart.
        keys = f"{bare.fingerprint[:8]}-{uuid.uuid4().hex[:8]}"
        node, grey = prepared(workers, bare, source, keys)
        diary = Diary(progress or _silent)
        with hold(output, _lock_name(share), **_hold_options(plan), facts=diary.facts) as lock:
            record = begun(output, plan, run_record(plan, reference, grey, settings))
            drive = driver.Drive(workers, str(output), record, plan.options, lock, diary.tell)
            mine = assignment(output, record, plan.options, share)
            outcome = driver.run_blocks(drive, plan, node, source.array, mine)
            return ended(drive, outcome, share, began)


def model_ref(model: str | Path | Model | ModelRef, options: Options) -> ModelRef:
    """A reference to whatever names a model."""
    if isinstance(model, ModelRef):
        return model
    # A model in memory has brought torch along; a name needs none to be looked up.
    return ref_of(model, options.trust) if isinstance(model, (str, PurePath)) else model.ref()


def on_device(options: Options, client: Client | None) -> Options:
    """Options with the device that the work will run on."""
    if client is None:
        return replace(options, device=device_name(options.device))
    found = client.submit(device_name, options.device, pure=False).result()
    return replace(options, device=found)


def device_name(wish: str) -> str:
    """Name of the device that work runs on here."""
    from orthoflow.models.load import resolve_device  # noqa: PLC0415 - imports torch

    return str(resolve_device(wish))


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
    loaded = maker.task("model", "load", graph.Step("load"), job)
    if client is None:
        return jobs.with_grey(job, grey), grey
    grey, _ = client.gather([grey, loaded])
    parcel = graph.Parcel.of(jobs.with_grey(job, grey))
    return parcel or maker.task("job", "shared", jobs.with_grey, job, grey), grey


class Diary:
    """Keeps the last progress, for the sign of life that `orthoflow status` reads."""

    def __init__(self, progress: Callable[[driver.Progress], None]) -> None:
        self._progress = progress
        self._now: dict[str, Any] = {}

    def facts(self) -> dict[str, Any]:
        """How far this driver is."""
        return self._now

    def tell(self, progress: driver.Progress) -> None:
        """Pass the progress on."""
        self._now = {n: getattr(progress, n) for n in progress.__slots__ if n != "dashboard"}
        self._progress(progress)


def _lock_name(share: tuple[int, int]) -> str:
    count, part = share
    return "run" if count == 1 else f"part-{part}-of-{count}"


def _hold_options(plan: Plan) -> dict[str, Any]:
    return {
        "storage_options": plan.options.storage_option,
        "take_over": plan.options.take_over,
    }


def _silent(progress: driver.Progress) -> None:
    del progress
