"""Parts in, tallies out: a bounded number at a time."""

from __future__ import annotations

import itertools
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orthoflow import graph
from orthoflow.errors import BlockFailed
from orthoflow.job import Tally
from orthoflow.stores.pyramid import build_level_box, level_boxes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import dask.array as da
    from distributed import Client

    from orthoflow.plan import Plan

# Blocks under way per thread: enough to keep it busy, few enough to forget.
_WINDOW = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    stage: str
    """"blocks" or "pyramid"."""
    done: int
    total: int
    voxels: int
    """Voxels of the blocks done."""
    seconds: float
    dashboard: str | None = None


@dataclass(slots=True)
class Outcome:
    """What a run's blocks gave."""

    tally: Tally = field(default_factory=Tally)
    failed: dict[str, str] = field(default_factory=dict)
    """Blocks that could not be done, with the reason."""


def run_blocks(
    client: Client | None,
    plan: Plan,
    job: graph.Node,
    array: da.Array | None,
    *,
    run: str,
    report: Callable[[Progress], None],
) -> Outcome:
    """Make, write and count every block; a block that fails leaves the others alone."""
    maker = graph.Direct(BlockFailed) if client is None else graph.Submit(client, run)
    parts = (graph.written(maker, plan, part, job, array) for part in plan.parts())
    outcome, began = Outcome(), time.monotonic()
    dashboard = None if client is None else dashboard_of(client)
    # Something to look at while the first blocks are under way.
    report(Progress("blocks", 0, plan.block_count, 0, 0.0, dashboard))
    for block, result in stream(client, parts):
        if isinstance(result, BlockFailed):
            outcome.failed[str(block)] = str(result)
        else:
            outcome.tally.add(result)
        report(
            Progress(
                "blocks",
                outcome.tally.blocks + len(outcome.failed),
                plan.block_count,
                outcome.tally.voxels,
                time.monotonic() - began,
                dashboard,
            )
        )
    return outcome


def dashboard_of(client: Client) -> str:
    """Address of the client's dashboard, as it can be reached from here."""
    link = str(client.dashboard_link)
    scheduler = client.scheduler
    if scheduler is not None and str(scheduler.address).startswith("inproc://"):
        # The cluster of this process listens on the loopback address alone; Dask names another.
        parts = urllib.parse.urlsplit(link)
        return parts._replace(netloc=f"127.0.0.1:{parts.port}").geturl()
    return link


def build_pyramid(
    client: Client | None,
    plan: Plan,
    target: str,
    *,
    run: str,
    report: Callable[[Progress], None],
) -> int:
    """Build every level above the first from the one below; bytes written, before compression."""
    maker = graph.Direct(BlockFailed) if client is None else graph.Submit(client, run)
    began = time.monotonic()
    arrays = plan.output.arrays
    depth = max((len(array.levels) for array in arrays), default=1)
    jobs = [
        (array.path, level, list(level_boxes(array.levels[level])))
        for level in range(1, depth)
        for array in arrays
        if level < len(array.levels)
    ]
    total, done, written = sum(len(boxes) for *_, boxes in jobs), 0, 0
    options = plan.options.storage_option
    # A level needs the whole one below it, so levels follow each other.
    for _, group in itertools.groupby(jobs, key=lambda job: job[1]):
        tasks = (
            {
                (path, level, box): maker.task(
                    "pyramid",
                    f"{path} {level} {box}",
                    build_level_box,
                    target,
                    path,
                    level,
                    box,
                    options,
                )
            }
            for path, level, boxes in group
            for box in boxes
        )
        for _, result in stream(client, tasks):
            if isinstance(result, BlockFailed):
                raise result
            written += result
            done += 1
            report(Progress("pyramid", done, total, 0, time.monotonic() - began))
    return written


def stream(
    client: Client | None, groups: Iterable[dict[Any, graph.Node]]
) -> Iterator[tuple[Any, Any]]:
    """Results of groups of tasks as they come; groups are made while few tasks are under way.

    Yields
    ------
    key, result
        The result is a `BlockFailed` where the task failed for a reason of its own.
    """
    if client is None:
        for group in groups:
            yield from group.items()
        return
    from distributed import as_completed  # noqa: PLC0415 - slow to import

    window = _WINDOW * max(1, sum(client.nthreads().values()))
    waiting, exhausted = iter(groups), False
    names: dict[str, Any] = {}
    pending = as_completed()
    while True:
        while not exhausted and len(names) < window:
            made: dict[Any, Any] = next(waiting, {})
            exhausted = not made
            names.update({future.key: key for key, future in made.items()})
            pending.update(made.values())
        if not names:
            return
        future = next(pending)
        yield names.pop(future.key), _result(future)


def _result(future: Any) -> Any:
    """The task's result, or the failure that is the block's own; anything else is raised."""
    from distributed.scheduler import KilledWorker  # noqa: PLC0415 - slow to import

    error = future.exception() if future.status == "error" else None
    if error is None:
        return future.result()
    if isinstance(error, BlockFailed):
        return error
    if isinstance(error, KilledWorker):
        return BlockFailed(f"its workers died {error.allowed_failures + 1} times: {error.task}")
    raise error
