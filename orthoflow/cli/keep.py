"""Commands for outputs that are there, and for what a run depends on."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from orthoflow.cli.exits import EXIT_BAD_INPUT, EXIT_BLOCKS_FAILED, EXIT_STORE, printable
from orthoflow.cli.reports import failure_lines, progress, report_lines
from orthoflow.cli.wishes import AS_JSON, STORAGE_OPTION, Grouped, given, with_wishes
from orthoflow.options import RULE_OPTIONS, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orthoflow.stores.verify import Verdict

# Seconds between two looks of `status --watch`.
_PAUSE = 2.0
# A driver that has been silent for so long is not waited for when nothing is left to do.
_GONE = 120.0


@click.command()
@click.argument("url")
@click.option("--watch", is_flag=True, help="Look again every two seconds until it is finished.")
@AS_JSON
@STORAGE_OPTION
def status(url: str, watch: bool, as_json: bool, storage_option: tuple[str, ...]) -> None:
    """Show how far the run of the output at URL is, and who is at work on it.

    Asks the store alone, so it works from any machine that can read it.
    """
    from orthoflow.status import status as look  # noqa: PLC0415 - imports zarr

    def now() -> dict[str, Any]:
        return look(url, storage_option)

    if watch:
        facts = _watch(now, as_json=as_json)
    else:
        facts = now()
        click.echo(
            json.dumps(facts, indent=2) if as_json else printable("\n".join(_status_lines(facts)))
        )
    if facts["failed"]:
        sys.exit(EXIT_BLOCKS_FAILED)


def _watch(now: Callable[[], dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    """Show each change until there will be no more; the last facts."""
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live  # noqa: PLC0415 - not needed for --help
        from rich.text import Text  # noqa: PLC0415

        facts = now()
        with Live(Text("\n".join(_status_lines(facts))), auto_refresh=False) as live:
            while not _ended(facts):
                time.sleep(_PAUSE)
                facts = now()
                live.update(Text("\n".join(_status_lines(facts))), refresh=True)
        return facts
    shown = None
    while True:
        facts = now()
        counts = {name: facts[name] for name in ("blocks", "failed", "under_way", "finished")}
        if counts != shown:
            click.echo(json.dumps(facts) if as_json else printable("; ".join(_summary(facts))))
            shown = counts
        if _ended(facts):
            return facts
        time.sleep(_PAUSE)


def _ended(facts: dict[str, Any]) -> bool:
    """Whether nothing more will happen: finished, or nobody is there to do the rest."""
    if facts["finished"]:
        return True
    left = facts["blocks_planned"] - facts["blocks"] - len(facts["failed"])
    return left <= 0 and all(driver["silent"] > _GONE for driver in facts["drivers"])


def _status_lines(facts: dict[str, Any]) -> list[str]:
    drivers = [
        f"driver {one['name']}: process {one['pid']} on {one['host']}, "
        f"last sign of life {one['silent']:.0f} s ago{_stage(one)}"
        for one in facts["drivers"]
    ]
    idle = not drivers and not facts["finished"]
    return [
        *_summary(facts),
        *(["nobody is at work on it; run the same command with --resume"] if idle else drivers),
        *failure_lines(facts["failed"]),
    ]


def _stage(driver: dict[str, Any]) -> str:
    return f", {driver['stage']}" if driver["stage"] else ""


def _summary(facts: dict[str, Any]) -> Iterator[str]:
    counts = [f"{facts['blocks']:,} of {facts['blocks_planned']:,} blocks done"]
    counts += [f"{facts['under_way']:,} under way"] if facts["under_way"] else []
    counts += [f"{len(facts['failed']):,} failed"] if facts["failed"] else []
    counts += ["finished"] if facts["finished"] else []
    yield f"{facts['output']}: {', '.join(counts)}"
    if facts["voxels_per_second"]:
        rate = f"{facts['voxels_per_second'] / 1e6:.2f} Mvoxel/s"
        left = facts["seconds_left"]
        yield rate if left is None else f"{rate}, about {_span(left)} left"


def _span(seconds: float) -> str:
    """A time in words.

    >>> _span(41), _span(754), _span(123456)
    ('41 seconds', '12.6 minutes', '34.3 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


@click.command()
@click.argument("url")
@click.option(
    "--requeue", is_flag=True, help="Forget blocks whose objects are damaged: --resume redoes them."
)
@AS_JSON
@click.option("--quiet", is_flag=True, help="No progress.")
@STORAGE_OPTION
def verify(
    url: str, requeue: bool, as_json: bool, quiet: bool, storage_option: tuple[str, ...]
) -> None:
    """Read every object of the output at URL and compare it with what was written."""
    storage = Options.from_mapping({"storage_option": storage_option}).storage_option

    from orthoflow.driver import Progress  # noqa: PLC0415 - imports Dask
    from orthoflow.stores import verify as checks  # noqa: PLC0415

    began = time.monotonic()
    with progress(quiet=quiet) as show:
        verdict = checks.verify(
            url,
            storage,
            report=lambda done, total: show(
                Progress("objects", done, total, 0, time.monotonic() - began)
            ),
        )
    again = checks.requeue(url, verdict, storage) if requeue and not verdict.intact else []
    if as_json:
        facts = {"complete": verdict.complete, **asdict(verdict), "requeued": again}
        click.echo(json.dumps(facts, indent=2))
    else:
        lines = [*_verdict_lines(verdict), *_remedies(verdict, again, requeue=requeue)]
        click.echo(printable("\n".join(lines)))
    if not verdict.complete:
        sys.exit(EXIT_BLOCKS_FAILED)


def _verdict_lines(verdict: Verdict) -> list[str]:
    done, left = verdict.blocks, len(verdict.not_done)
    lines = [
        f"{verdict.objects:,} objects ({verdict.nbytes:,} bytes) compared, "
        f"{done:,} of {done + left:,} blocks are done",
        *(f"{one.kind}: {one.text}" for one in verdict.findings),
    ]
    if verdict.not_built and not left:
        lines.append(f"{len(verdict.not_built):,} shards of the pyramid are not built")
    return [*lines, "all is well"] if verdict.complete else lines


def _remedies(verdict: Verdict, again: list[str], *, requeue: bool) -> Iterator[str]:
    """What to do next."""
    damaged = any(one.kind != "foreign" or one.block for one in verdict.findings)
    if again:
        blocks = sum(name.startswith("blocks/") for name in again)
        yield (
            f"{blocks:,} blocks and {len(again) - blocks:,} shards of the pyramid will be made "
            "again: run the same command with --resume"
        )
    elif damaged and requeue:
        yield "no block has to be made again; look again with orthoflow verify"
    elif damaged:
        yield "to make again what is damaged: orthoflow verify --requeue, then run with --resume"
    elif not verdict.intact:
        yield "what is foreign does no harm; remove it by hand if it is not wanted"
    if not damaged and verdict.not_done:
        yield "to do the rest: run the same command with --resume"
    elif not damaged and verdict.not_built:
        yield "to build the rest: orthoflow finalize"


@with_wishes(
    only=RULE_OPTIONS
    | {"storage_option", "cluster", "scheduler", "workers", "retries", "patience"},
)
@click.command(cls=Grouped)
@click.argument("url")
@click.option("--despite-failed", is_flag=True, help="Leave blocks that failed as holes.")
@AS_JSON
@click.option("--quiet", is_flag=True, help="No progress.")
def finalize(url: str, despite_failed: bool, as_json: bool, quiet: bool, **wishes: Any) -> None:
    """Build the pyramid and write the report of the output at URL, whose blocks are all done.

    A run does this itself. It is needed where the last job was killed before it could, or where
    failed blocks are to stay holes. With other options for instances it makes the labels again,
    without a network; what is not given stays as it was:

    \b
    orthoflow finalize out.zarr --votes 1 --min-size 800
    """
    options = given(wishes)
    checked = Options.from_mapping(options)

    from orthoflow.finishing import finalize as finish  # noqa: PLC0415 - imports Dask

    if checked.cluster == "auto":
        # No network runs, so a GPU would be of no use.
        options["cluster"] = "processes"
    with progress(quiet=quiet) as show:
        report = finish(url, progress=show, despite_failed=despite_failed, **options)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(report_lines(report)))
    for line in failure_lines(report["failed"]):
        click.echo(printable(line), err=True)


@click.command()
@click.argument("url", required=False)
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler to look at as well.")
@AS_JSON
@STORAGE_OPTION
def doctor(
    url: str | None, scheduler: str | None, as_json: bool, storage_option: tuple[str, ...]
) -> None:
    """Look at what a run depends on: software, this machine, a scheduler, the store at URL.

    URL is a volume, or the folder, bucket or prefix that outputs go to. Small objects are written
    there and removed again; where a volume lies, nothing is written.
    """
    options = Options.from_mapping({"storage_option": storage_option})

    from orthoflow.doctor import examine, report  # noqa: PLC0415 - imports Dask

    checks = examine(url, scheduler=scheduler, storage_options=dict(options.storage_option))
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}, indent=2))
    else:
        click.echo("\n".join(report(checks)))
    failing = {check.topic for check in checks if check.verdict == "fails"}
    if "store" in failing:
        sys.exit(EXIT_STORE)
    if failing:
        sys.exit(EXIT_BAD_INPUT)
