"""What a run says of itself: progress while it lasts, its report at the end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from orthoflow.cli.exits import EXIT_BLOCKS_FAILED, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def progress(*, quiet: bool) -> Any:
    """A function that shows progress on stderr, for a `with` block."""
    from orthoflow.progress import shown  # noqa: PLC0415 - imports rich

    return shown(quiet=quiet)


def tell(report: dict[str, Any], *, as_json: bool) -> None:
    """Print a report; blocks that failed are named on stderr and end the program."""
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(report_lines(report)))
    if report["failed"]:
        for line in failure_lines(report["failed"]):
            click.echo(printable(line), err=True)
        sys.exit(EXIT_BLOCKS_FAILED)


def failure_lines(failed: Mapping[str, str]) -> list[str]:
    """A line for each block that failed."""
    return [f"failed block {block}: {reason}" for block, reason in failed.items()]


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report in words."""
    stages = ", ".join(f"{k} {v:.1f}" for k, v in report["seconds_by_stage"].items())
    return [
        *_state(report),
        f"{report['blocks']:,} of {report['blocks_planned']:,} blocks, {report['voxels']:,} voxels "
        f"in {report['seconds']:.1f} s{_rate(report)} on {report['device']}",
        f"{report['tiles']:,} tiles, {report['network_pixels'] / 1e6:,.1f} Mpixel, "
        f"{report['patches_skipped']:,} of {report['patches']:,} patches empty",
        *_objects(report),
        f"seconds of all workers: {stages}",
        ", ".join(_counts(report)),
    ]


def _state(report: dict[str, Any]) -> Iterator[str]:
    if report["complete"]:
        yield f"wrote {report['output']}"
        return
    yield f"{report['output']} is incomplete"
    failed = len(report["failed"])
    if failed:
        yield f"{failed:,} failed blocks: run the same command with --retry-failed"
    if "part" in report:
        count, part = report["part"]
        others = report["blocks_left"] - failed
        own = f"its {report['blocks'] + report['blocks_resumed']:,} blocks are done"
        if failed:
            own += f", {failed:,} more failed"
        yield (
            f"part {part} of {count} (counted from 0): {own}; {others:,} blocks of other parts "
            "are not; whichever job ends last finishes the output"
        )


def _objects(report: dict[str, Any]) -> Iterator[str]:
    """What was found, of an output with instances."""
    if "instances" in report:
        yield f"{report['instances']:,} instances"
    if report.get("adrift"):
        yield (
            f"{report['adrift']:,} voxels are farther from the middle of their object than half "
            "of max_diameter: raise it, if that is many"
        )


def _rate(report: dict[str, Any]) -> str:
    """Voxels per second, where all voxels of the report were made in its seconds."""
    if report.get("blocks_resumed") or "part" in report or not report["seconds"]:
        return ""
    return f" ({report['voxels'] / report['seconds'] / 1e6:.2f} Mvoxel/s)"


def _counts(report: dict[str, Any]) -> Iterator[str]:
    """Counts that say something where they are not zero."""
    yield f"{report['bytes_stored']:,} bytes stored"
    halved = sum(report["batches_halved"].values())
    for count, one, several in (
        (report.get("blocks_resumed", 0), "block was done before", "blocks were done before"),
        (report.get("retries", 0), "retry", "retries"),
        (report.get("doubles", 0), "lagging block doubled", "lagging blocks doubled"),
        (report["blocks_done_twice"], "block done twice", "blocks done twice"),
        (halved, "batch halved", "batches halved"),
        (
            report["chunks_filled"],
            "absent chunk of the input read as its fill value",
            "absent chunks of the input read as their fill value",
        ),
    ):
        if count:
            yield f"{count:,} {one if count == 1 else several}"
