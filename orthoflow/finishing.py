"""The end of a run: pyramid and report, by whoever finds that every block is done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orthoflow import driver
from orthoflow.cluster import connect
from orthoflow.errors import BadInput, BlockFailed
from orthoflow.instances import instance_counts, label_job, make_instances
from orthoflow.job import Tally
from orthoflow.levels import LevelJob
from orthoflow.options import Options
from orthoflow.records import Done, run_report
from orthoflow.relabel import change_rule
from orthoflow.stores.ledger import Outline
from orthoflow.stores.locks import hold
from orthoflow.stores.markers import (
    list_failures,
    list_marker_names,
    read_markers,
    remove_marker,
)
from orthoflow.stores.ome import has_record, read_record, write_record
from orthoflow.stores.urls import display_url, locate
from orthoflow.stores.verify import check_listing, sweep_partials

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from orthoflow.stores.stamps import Marker


def finalize(
    output: str | Path,
    *,
    client: Client | None = None,
    progress: Callable[[driver.Progress], None] | None = None,
    despite_failed: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Build the pyramid and write the report of an output whose blocks are all done.

    A run does this by itself; so does the job that ends last where several share a run. By hand it
    is needed where that job was killed, or where failed blocks are to stay holes. With other
    options for instances it makes the labels of an output again, without a network.

    Parameters
    ----------
    output : path or URL
        What `run` wrote.
    client : distributed.Client, optional
        Where the work runs; by default threads of this process (option `cluster`).
    progress : callable, optional
        Called with a `driver.Progress` after every box.
    despite_failed : bool
        Leave the blocks that failed as holes, background on every level.
    **options
        Those of `run` that say where work runs, and `storage_option`; and of those for instances
        instances, votes, min_size, min_extent, allow_one_view, merge_iou, merge_ioa, cluster_iou
        and stitch_threshold: what is not given stays as it was.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    BadInput
        If blocks are missing, with their number.
    BlockFailed
        If objects of blocks that are done are not there.
    """
    wishes = Options.from_mapping(options)
    record = read_record(output, "run", wishes.storage_option)
    done = done_blocks(output, record, wishes)
    failed = failed_blocks(output, record, wishes)
    left = done.total - done.count
    if Outline.of(record).output.stages[0] == "labels":
        left = 0  # painting is what finishes such an output
    if left > (len(failed) if despite_failed else 0):
        remedy = "run the same command with --resume"
        if failed:
            remedy += f" ({len(failed)} failed: --retry-failed, or finalize --despite-failed)"
        shown = display_url(str(output))
        raise BadInput(f"output {shown}: {left} of {done.total} blocks are not done; {remedy}")
    began = time.monotonic()
    with (
        hold(output, "finalize", storage_options=wishes.storage_option) as lock,
        connect(wishes, client) as workers,
    ):
        drive = driver.Drive(workers, str(output), record, wishes, lock, progress or _silent)
        change_rule(drive, options)
        report = complete(drive)
        report |= {"failed": failed, "seconds": round(time.monotonic() - began, 3)}
        write_record(output, "report", report, wishes.storage_option)
    return report


def complete(drive: driver.Drive, own: driver.Outcome | None = None) -> dict[str, Any]:
    """Check what others wrote, build the levels that are missing, sum up; the report is returned.

    `own` is given where one driver made all blocks just now: then its sums are the report's.
    """
    storage, fingerprint = drive.options.storage_option, drive.fingerprint
    tally = Tally()
    spec = Outline.of(drive.record).output
    if own is not None and own.skipped == 0:
        tally.add(own.tally)
    elif "blocks" in spec.stages:
        tally = _tally_of_markers(drive.output, fingerprint, storage)
    found: dict[str, Any] = {}
    if "labels" in spec.stages:
        job, rule = label_job(drive)
        painted = make_instances(drive, job, rule)
        if "blocks" in spec.stages:  # where a block is one already
            painted.blocks = painted.voxels = 0
        tally.add(painted)
        found = instance_counts(drive, job)
    pyramid = LevelJob(drive.output, fingerprint, spec, storage, drive.options.patience)
    built = list_marker_names(drive.output, fingerprint, storage, kind="levels")
    if built and _over_holes(drive):
        for name in built:
            remove_marker(drive.output, fingerprint, name, storage)
        built = set()
    written, stored = driver.build_pyramid(drive, pyramid, built)
    tally.bytes_written += written
    tally.stored += stored
    for name, marker in read_markers(
        drive.output, fingerprint, storage, kind="levels", names=sorted(built)
    ):
        tally.add(Tally.from_dict(_sound(name, marker).facts))
    sweep_partials(locate(drive.output, storage))
    return run_report(drive.record, tally, {}, drive.output, complete=True, **found)


def _over_holes(drive: driver.Drive) -> bool:
    """Whether the levels were built despite blocks that had failed, and may be done by now."""
    storage = drive.options.storage_option
    if not has_record(drive.output, "report", storage):
        return False
    return bool(read_record(drive.output, "report", storage).get("failed"))


def _silent(progress: driver.Progress) -> None:
    del progress


def _tally_of_markers(output: str | Path, fingerprint: str, storage: Any) -> Tally:
    """What all blocks took, from their markers, after a look whether their objects are there."""
    tally, markers = Tally(), []
    for name, marker in read_markers(output, fingerprint, storage):
        sound = _sound(name, marker)
        tally.add(Tally.from_dict(sound.facts))
        markers.append(sound)
    findings = check_listing(output, markers, storage)
    if findings:
        raise BlockFailed(
            f"{len(findings)} stored objects are missing or cut, the first: {findings[0].text}; "
            "run orthoflow verify --requeue, then --resume"
        )
    return tally


def _sound(name: str, marker: Marker | BadInput) -> Marker:
    """The marker, if nothing is wrong with it."""
    if isinstance(marker, BadInput):
        raise BlockFailed(f"marker {name}: {marker}; run orthoflow verify --requeue")
    return marker


def done_blocks(output: str | Path, record: dict[str, Any], options: Options) -> Done:
    """Blocks that have a marker."""
    try:
        outline = Outline.of(record)
    except BadInput as error:
        shown = display_url(str(output))
        raise BadInput(
            f"{shown} is not the output of a run that can be gone on with: {error}"
        ) from error
    stage = outline.output.stages[0]
    names = list_marker_names(output, outline.fingerprint, options.storage_option, stage)
    return Done.of(outline, names, stage)


def failed_blocks(output: str | Path, record: dict[str, Any], options: Options) -> dict[str, str]:
    """Blocks that failed and were not done later, with the reason."""
    failures = list_failures(output, record["fingerprint"], options.storage_option)
    return {str(f["block"]): str(f["reason"]) for f in failures.values()}
