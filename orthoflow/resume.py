"""What of a run is there already, what is left of it, and how it ends."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orthoflow import driver
from orthoflow.errors import BadInput
from orthoflow.finishing import complete, done_blocks
from orthoflow.plan import plan_run
from orthoflow.records import require_same, run_report, settings_of
from orthoflow.stores.locks import hold
from orthoflow.stores.markers import block_number_of, list_failures
from orthoflow.stores.ome import create_output, has_record, read_record, write_record
from orthoflow.stores.urls import display_url, exists, is_inside

if TYPE_CHECKING:
    from pathlib import Path

    from orthoflow.inputs import Source
    from orthoflow.models import ModelRef
    from orthoflow.options import Options
    from orthoflow.plan import Plan


def check_output(output: str | Path, source: Source, options: Options) -> None:
    """Refuse an output that is the input, or is there already and not to be resumed."""
    check_place(output, None if source.ref is None else source.ref.url, source.facts.name, options)


def check_place(output: str | Path, url: str | None, name: str, options: Options) -> None:
    """Refuse an output that meets the input at `url`, or is there and not to be resumed."""
    shown = display_url(str(output))
    if url is not None and (is_inside(output, url) or is_inside(url, output)):
        raise BadInput(f"output {shown} and input {name} overlap; write elsewhere")
    if options.overwrite or options.resumes or not exists(output, dict(options.storage_option)):
        return
    state = ""
    if has_record(output, "run", options.storage_option):
        record = read_record(output, "run", options.storage_option)
        done = done_blocks(output, record, options)
        state = f" ({done.count} of {done.total} blocks of {record['region']} done)"
    raise BadInput(
        f"output {shown} exists{state}; pass resume to go on with it, overwrite to replace it, or "
        "choose another name"
    )


def finished_report(
    output: str | Path, source: Source, model: ModelRef, options: Options
) -> dict[str, Any] | None:
    """The report of an output that is to be resumed and needs nothing more.

    Raises
    ------
    BadInput
        If the output was begun with other settings.
    """
    storage = options.storage_option
    if not options.resumes or not has_record(output, "run", storage):
        return None
    record = read_record(output, "run", storage)
    if not has_record(output, "report", storage):
        return None
    report = read_record(output, "report", storage)
    done = done_blocks(output, record, options)
    if not report.get("complete") or done.count < done.total:
        return None
    if options.device == "auto":
        # Nothing is computed, so no device has to be found, which would import torch.
        options = replace(options, device=str(report["device"]))
    require_same(record, settings_of(plan_run(source.facts, model.card, options), model), output)
    return report | {"blocks_resumed": done.total}


def begun(output: str | Path, plan: Plan, record: dict[str, Any]) -> dict[str, Any]:
    """Create the output, or join it; the record that it holds.

    Raises
    ------
    BadInput
        If it was begun with other settings, or the voxels that were measured have changed since.
    """
    options = plan.options
    stored = create_output(
        output,
        plan.output,
        record,
        overwrite=options.overwrite,
        join=options.resumes,
        storage_options=options.storage_option,
    )
    require_same(stored, record["settings"], output)
    same = json.loads(json.dumps(record["grey"]))
    if stored.get("grey") != same:
        raise BadInput(
            f"input {plan.facts.name} has other grey values than when the output was begun "
            f"({stored.get('grey')} then, {same} now); write another output"
        )
    return stored


def assignment(
    output: str | Path, record: dict[str, Any], options: Options, share: tuple[int, int]
) -> driver.Assignment:
    """What is left for this driver."""
    failures = list_failures(output, record["fingerprint"], options.storage_option)
    numbers = {name: block_number_of(name) for name in failures}
    reasons = {
        number: str(failures[name]["reason"])
        for name, number in numbers.items()
        if number is not None
    }
    retry = options.retry_failed
    return driver.Assignment(
        share=share,
        done=done_blocks(output, record, options),
        failed={} if retry else reasons,
        tried=frozenset(failures) if retry else frozenset(),
    )


def ended(
    drive: driver.Drive, outcome: driver.Outcome, share: tuple[int, int], began: float
) -> dict[str, Any]:
    """Finish the output if this driver is its last; write and return the report."""
    output, storage = drive.output, drive.options.storage_option
    facts: dict[str, Any] = {
        "retries": outcome.retries,
        "doubles": outcome.doubles,
        "blocks_resumed": outcome.skipped,
    }
    alone, last = share[0] == 1, not outcome.failed
    report = run_report(drive.record, outcome.tally, outcome.failed, output, complete=False)
    with contextlib.ExitStack() as stack:
        if not alone:
            done = done_blocks(output, drive.record, drive.options)
            facts |= {"part": list(share), "blocks_left": done.total - done.count}
            last = last and done.count == done.total
        if last and not alone:
            try:
                stack.enter_context(hold(output, "finalize", storage_options=storage))
            except BadInput:  # another job came to the same end, and finishes the output
                last = False
        if last:
            report = complete(drive, outcome if alone else None)
        report |= facts | {"seconds": round(time.monotonic() - began, 3)}
        if last or alone:
            write_record(output, "report", report, storage)
    return report
