"""Parts in, tallies out: what is done is in the output's markers, nothing is kept here."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orthoflow import graph, levels
from orthoflow.errors import BlockFailed, RunInterrupted
from orthoflow.job import Tally
from orthoflow.levels import LevelBox
from orthoflow.pools import pool_for
from orthoflow.stores.markers import (
    Marker,
    block_marker_name,
    read_markers,
    remove_failure,
    write_failure,
)
from orthoflow.stores.patience import patiently
from orthoflow.stores.pyramid import level_boxes
from orthoflow.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterator

    import dask.array as da
    from distributed import Client

    from orthoflow.geometry.box import Box, Triple
    from orthoflow.geometry.output import OutputSpec
    from orthoflow.graph import Maker, Node
    from orthoflow.levels import LevelJob
    from orthoflow.options import Options
    from orthoflow.plan import Part, Plan
    from orthoflow.stores.locks import Lock
    from orthoflow.window import Ended, Pool


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
    failed: int = 0
    under_way: int = 0


@dataclass(slots=True)
class Outcome:
    """What a driver's blocks gave."""

    tally: Tally = field(default_factory=Tally)
    failed: dict[str, str] = field(default_factory=dict)
    """Blocks that could not be done, with the reason."""
    skipped: int = 0
    """Blocks that an earlier run had done."""
    retries: int = 0
    doubles: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which blocks of a plan a driver sees to."""

    share: tuple[int, int] = (1, 0)
    """Number of jobs that share the parts, and which of them this is."""
    done: Container[Triple] = frozenset()
    """Numbers of the blocks that have a marker."""
    failed: dict[Triple, str] = field(default_factory=dict)
    """Blocks that failed before and are not tried again, with the reason."""
    tried: Container[str] = frozenset()
    """Names of the blocks that failed before and are tried again."""

    def __contains__(self, number: object) -> bool:
        """Whether nothing is to be done for the block of this number."""
        return number in self.done or number in self.failed


@dataclass(frozen=True, slots=True)
class Drive:
    """What one driver works with."""

    client: Client | None
    """None where the work runs in this thread."""
    output: str
    record: dict[str, Any]
    """The output's run record."""
    options: Options
    lock: Lock
    report: Callable[[Progress], None]

    @property
    def fingerprint(self) -> str:
        """Of the run's settings."""
        return str(self.record["fingerprint"])

    def pool(self) -> Pool:
        """Where tasks run; drivers of one fingerprint on one scheduler get keys of their own."""
        return pool_for(self.client, f"{self.fingerprint[:8]}-{uuid.uuid4().hex[:8]}")

    def require_lock(self) -> None:
        """Stop where another driver took over."""
        if self.lock.lost:
            raise RunInterrupted(
                "another driver took over this output, so this one stopped; what is done is kept"
            )


def run_blocks(
    drive: Drive, plan: Plan, node: Node, array: da.Array | None, mine: Assignment
) -> Outcome:
    """Make, write, mark and count every block; a block that fails leaves the others alone.

    Parameters
    ----------
    node
        The job as tasks get it.
    array
        The volume (c, z, y, x) where tasks do not read it themselves.
    """
    outcome, began = Outcome(), time.monotonic()
    total = plan.share_blocks(mine.share)

    def alone(block: Box) -> Callable[[Maker], dict[Any, Node]]:
        return _blocks_of(plan, plan.part_alone(block), node, array)

    pool = drive.pool()
    window, dashboard = Window(pool, alone, retries=plan.options.retries), pool.dashboard()

    def tell() -> None:
        done, failed = outcome.tally.blocks + outcome.skipped, len(outcome.failed)
        seconds, under_way = time.monotonic() - began, len(window.under_way)
        drive.report(
            Progress(
                "blocks", done, total, outcome.tally.voxels, seconds, dashboard, failed, under_way
            )
        )

    # Something to look at while the first blocks are under way.
    tell()
    pieces = (
        piece for part in plan.parts(mine.share) for piece in _left(plan, part, mine, outcome)
    )
    groups = ((_blocks_of(plan, one, node, array), len(one.blocks)) for one in pieces)
    for ended in window.run(groups):
        drive.require_lock()
        if ended is not None:
            _note(drive, plan, mine, outcome, ended)
            tell()
    outcome.retries, outcome.doubles = window.retried, window.doubled
    if outcome.skipped:  # nothing may have ended here
        tell()
    return outcome


def _note(drive: Drive, plan: Plan, mine: Assignment, outcome: Outcome, ended: Ended) -> None:
    """Count a block, or remember that it failed."""
    name = block_marker_name(plan.block_number(ended.key))
    storage = drive.options.storage_option
    if ended.reason is None:
        outcome.tally.add(ended.result)
        if name in mine.tried:
            remove_failure(drive.output, drive.fingerprint, name, storage)
        return
    for _, marker in read_markers(drive.output, drive.fingerprint, storage, names=[name]):
        if isinstance(marker, Marker):
            # It was done, and its result was lost with the worker that held it.
            outcome.tally.add(Tally.from_dict(marker.facts))
            return
    outcome.failed[str(ended.key)] = ended.reason
    facts = {"block": str(ended.key), "reason": ended.reason, "tries": ended.tries}
    patiently(
        lambda: write_failure(drive.output, drive.fingerprint, name, facts, storage),
        seconds=drive.options.patience,
        doing=f"note the failure of block {ended.key}",
    )


def _left(plan: Plan, part: Part, mine: Assignment, outcome: Outcome) -> Iterator[Part]:
    """What is to be done of a part; notes what is not."""
    for block in part.blocks:
        number = plan.block_number(block)
        if number in mine.done:
            outcome.skipped += 1
        elif number in mine.failed:
            outcome.failed[str(block)] = mine.failed[number]
    yield from plan.unfinished(part, mine)


def _blocks_of(
    plan: Plan, part: Part, node: Node, array: da.Array | None
) -> Callable[[Maker], dict[Any, Node]]:
    return lambda maker: graph.written(maker, plan, part, node, array)


def build_pyramid(drive: Drive, job: LevelJob, done: Collection[str]) -> tuple[int, int]:
    """Build the levels above the first, each from the one below; bytes written and stored.

    `done` are the names of the markers of boxes that are built already.

    Raises
    ------
    BlockFailed
        When a box cannot be built.
    """
    began, written, stored, ready = time.monotonic(), 0, 0, 0
    total = sum(len(boxes) for _, boxes in level_grid(job.output))
    # A level needs the whole one below it, so levels follow each other.
    for _, boxes in level_grid(job.output):
        left = [box for box in boxes if box.marker not in done]
        ready += len(boxes) - len(left)
        window = Window(
            drive.pool(), lambda box: _level_task(job, box), retries=drive.options.retries
        )
        for ended in window.run((_level_task(job, box), 1) for box in left):
            drive.require_lock()
            if ended is None:
                continue
            if ended.reason is not None:
                raise BlockFailed(f"pyramid {ended.key}: {ended.reason}; run with --resume")
            written, stored = written + ended.result[0], stored + ended.result[1]
            ready += 1
            drive.report(Progress("pyramid", ready, total, 0, time.monotonic() - began))
    return written, stored


def _level_task(job: LevelJob, box: LevelBox) -> Callable[[Maker], dict[Any, Node]]:
    return lambda maker: {box: maker.task("pyramid", str(box), levels.build, job, box)}


def level_grid(output: OutputSpec) -> Iterator[tuple[int, list[LevelBox]]]:
    """Boxes of every level above the first, level by level."""
    depth = max((len(array.levels) for array in output.arrays), default=1)
    for level in range(1, depth):
        boxes = []
        for array in output.arrays:
            if level < len(array.levels):
                shard = array.levels[level].shard
                for box in level_boxes(array.levels[level]):
                    z, y, x = (a // s for a, s in zip(box.start, shard, strict=True))
                    boxes.append(LevelBox(level, array.path, (z, y, x), box))
        yield level, boxes
