"""What a run asks of a store and of a scheduler, how long it takes, and what is full first."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.geometry.levels import relative_factors, slab_depth
from orthoflow.plan import costs
from orthoflow.plan.gets import count_gets, pieces_along
from orthoflow.plan.objects import CellPlan, FlowPlan, MiddlePlan, SolidPlan

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import ArraySpec, LevelSpec
    from orthoflow.plan.gets import Piece
    from orthoflow.plan.plan import Plan

# CPU milliseconds for one task, and memory, of a scheduler and of a driver:
# `python benchmarks/scale.py --only window`, on two shared cores.
SCHEDULER_MS = 1.0
DRIVER_MS = 0.9
SCHEDULER_BYTES = 115e6
DRIVER_BYTES = 83e6
# What one prefix of S3 serves in a second before it asks to slow down, and list prices of a
# request in dollars (us-east-1, S3 Standard): as its documentation states, not measured here.
PREFIX_GETS, PREFIX_PUTS = 5500, 3500
GET_DOLLARS, PUT_DOLLARS = 0.0004 / 1000, 0.005 / 1000
LIST_DOLLARS = PUT_DOLLARS
FULL = {
    "blocks": "some have no block",
    "prefix_gets": "one prefix serves no more GETs",
    "prefix_puts": "one prefix serves no more PUTs",
    "scheduler": "the scheduler has no time left",
    "driver": "the driver has no time left",
}
# Names in one page of a listing.
_PAGE = 1000
# Small objects of a run beside its arrays' documents, and of each job: records, locks, probes.
_RUN_PUTS, _JOB_PUTS = 4, 6


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests to the stores of input and output; shards of nothing but background are counted."""

    input_gets: int
    """Of each block, for what it reads; a chunk for each channel."""
    pyramid_gets: int
    passes_gets: int
    """Of the passes that make objects, where there are any: their input and tables; about."""
    marker_gets: int
    """Where several jobs share a run, the last one reads every marker."""
    block_puts: int
    """Shards of the full resolution, and a marker for each block."""
    pyramid_puts: int
    """Shards of the levels above, and a marker for each."""
    passes_puts: int
    """Tables of the passes that make objects, and the markers of labels."""
    other_puts: int
    lists: int

    @property
    def gets(self) -> int:
        """All GETs."""
        return self.input_gets + self.pyramid_gets + self.passes_gets + self.marker_gets

    @property
    def puts(self) -> int:
        """All PUTs."""
        return self.block_puts + self.pyramid_puts + self.passes_puts + self.other_puts

    @property
    def dollars(self) -> float:
        """Their price."""
        return self.gets * GET_DOLLARS + self.puts * PUT_DOLLARS + self.lists * LIST_DOLLARS


@dataclass(frozen=True, slots=True)
class Rates:
    """What all workers together ask for in a second, while the network runs without a pause."""

    gets: float
    puts: float
    tasks: float
    """Of one scheduler: jobs that share a run have one each."""


def requests_of(plan: Plan) -> Requests:
    """Requests of a whole run that is not interrupted."""
    jobs = plan.options.num_parts
    blocks = plan.block_count
    finest = coarser = pyramid = 0
    for array in plan.output.arrays:
        first, *others = array.levels
        finest += _shards(array, first)
        coarser += sum(_shards(array, level) for level in others)
        pyramid += sum(_level_gets(array, *pair) for pair in itertools.pairwise(array.levels))
    boxes = _boxes(plan)
    documents = 1 + sum(1 + len(array.levels) for array in plan.output.arrays)
    pages = math.ceil(boxes / _PAGE)
    if jobs > 1:
        # Each lists the markers when it begins and when it ends, the last one everything.
        pages += 2 * jobs * math.ceil(blocks / _PAGE) + math.ceil(finest / _PAGE)
    return Requests(
        input_gets=costs.total_work(plan).gets,
        pyramid_gets=pyramid,
        passes_gets=_passes_gets(plan),
        passes_puts=sum(_passes(plan)[1:]) * blocks,
        marker_gets=blocks if jobs > 1 else 0,
        block_puts=finest + blocks,
        pyramid_puts=coarser + boxes,
        other_puts=documents + _RUN_PUTS + _JOB_PUTS * jobs,
        lists=pages + 2 * jobs,
    )


def tasks_of(plan: Plan) -> int:
    """Tasks of a whole run: one a block where a part is a block, else also rims between blocks."""
    part = next(plan.parts())
    tasks = len(part.blocks)
    if tasks > 1:
        tasks = 2 * tasks + sum(len(plan.neighbours(part, block)) for block in part.blocks)
    once = round(plan.block_count * tasks / len(part.blocks)) + _boxes(plan)
    return once + _passes(plan)[0] * plan.block_count


def workers_of(plan: Plan) -> int:
    """Workers that the options ask for, of all jobs together."""
    return (plan.options.workers or 1) * plan.options.num_parts


def rates_of(plan: Plan) -> Rates | None:
    """Requests and tasks in a second; None where the card states no speed."""
    seconds = costs.seconds(plan)
    if not seconds:
        return None
    asked, workers = requests_of(plan), workers_of(plan)
    return Rates(
        gets=asked.input_gets / seconds * workers,
        puts=asked.block_puts / seconds * workers,
        tasks=(tasks_of(plan) - _boxes(plan)) / seconds * workers / plan.options.num_parts,
    )


def limits_of(plan: Plan) -> dict[str, float]:
    """Workers beyond which something is full, the fewest first; by name (see `FULL`)."""
    found: dict[str, float] = {"blocks": plan.block_count}
    rates, workers = rates_of(plan), workers_of(plan)
    if rates is not None:
        found |= {
            "prefix_gets": workers * PREFIX_GETS / rates.gets,
            "prefix_puts": workers * PREFIX_PUTS / rates.puts,
            "scheduler": workers * 1000 / (SCHEDULER_MS * rates.tasks),
            "driver": workers * 1000 / (DRIVER_MS * rates.tasks),
        }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def scale_numbers(plan: Plan) -> dict[str, Any]:
    """All of it, JSON-able."""
    asked, tasks, rates = requests_of(plan), tasks_of(plan), rates_of(plan)
    workers, seconds, work = workers_of(plan), costs.seconds(plan), costs.total_work(plan)
    return {
        "workers": workers,
        "hours": None if seconds is None else seconds / workers / 3600,
        "gets": asked.gets,
        "puts": asked.puts,
        "lists": asked.lists,
        "lists_to_resume": math.ceil(plan.block_count / _PAGE),
        "dollars_for_requests": asked.dollars,
        "tasks": tasks,
        "scheduler_seconds": tasks * SCHEDULER_MS / 1000,
        "driver_seconds": tasks * DRIVER_MS / 1000,
        "scheduler_bytes": int(SCHEDULER_BYTES),
        "driver_bytes": int(DRIVER_BYTES) + plan.block_count,
        "gets_per_second": None if rates is None else rates.gets,
        "puts_per_second": None if rates is None else rates.puts,
        "bytes_per_second_and_worker": None if not seconds else work.bytes_read / seconds,
        "pyramid_gets": asked.pyramid_gets,
        "scheduler_share": None if rates is None else rates.tasks * SCHEDULER_MS / 1000,
        "workers_at_limit": {name: int(count) for name, count in limits_of(plan).items()},
    }


def scale_lines(plan: Plan) -> list[str]:
    """The same in a few lines of text."""
    found = scale_numbers(plan)
    lines = [
        f"requests   {found['gets']:,} GET, {found['puts']:,} PUT, {found['lists']:,} LIST: "
        f"${found['dollars_for_requests']:,.2f} in a bucket, at list prices",
        f"tasks      {found['tasks']:,}: {duration(found['scheduler_seconds'])} of a scheduler's "
        f"core, {duration(found['driver_seconds'])} of the driver's",
    ]
    if found["hours"] is None:
        return lines
    name, most = next(iter(found["workers_at_limit"].items()))
    gets, puts = found["gets_per_second"], found["puts_per_second"]
    return [
        *lines,
        f"workers    {found['workers']:,}: {duration(found['hours'] * 3600)} of the network alone; "
        f"{_rate(gets)} GET/s and {_rate(puts)} PUT/s",
        f"           {_share(gets / PREFIX_GETS)} and {_share(puts / PREFIX_PUTS)} of what one "
        f"prefix serves, {_share(found['scheduler_share'])} of a scheduler",
        f"limit      beyond {most:,} workers {FULL[name]}",
    ]


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _passes(plan: Plan) -> tuple[int, int, int]:
    """Passes over labels, tables that they and what lies between them leave of a block, markers."""
    objects = plan.objects
    if objects is None:
        return 0, 0, 0
    passes, tables = {
        CellPlan: (3, 4),
        FlowPlan: (1, 2),
        MiddlePlan: (1, 2),
        SolidPlan: (2, 2),
    }[type(objects)]
    return (passes + 1, tables + 2, 1) if objects.rule.fill_holes else (passes, tables, 1)


def _passes_gets(plan: Plan) -> int:
    """GETs of the passes over labels, without those for the planes next to a block."""
    passes, tables, _ = _passes(plan)
    arrays = [a for a in plan.output.arrays if a.stage == "blocks" and not a.pyramid]
    voxels = sum(_block_gets(array.levels[0], plan.block) for array in arrays)
    # Tables are read when they are summed up, twice, and by the passes that follow.
    return passes * voxels + 3 * tables * plan.block_count


def _block_gets(level: LevelSpec, block: Triple) -> int:
    """GETs for which every block of a level is read once."""
    along = []
    for axis, side in enumerate(block):
        size = level.shape[axis]
        counts: Counter[Piece] = Counter()
        for start in range(0, size, side):
            span = (start, min(start + side, size))
            pieces = pieces_along(span, size, chunk=level.chunk[axis], shard=level.shard[axis])
            counts.update(pieces)
        along.append(counts)
    return count_gets(along)


def _shards(array: ArraySpec, level: LevelSpec) -> int:
    """Objects of one level."""
    return math.prod(level.grid) * max(1, array.classes)


def _level_gets(array: ArraySpec, fine: LevelSpec, coarse: LevelSpec) -> int:
    """GETs for which a level is built from the finer one, slab by slab."""
    factors, classes = relative_factors(fine, coarse), max(1, array.classes)
    plane = math.prod(coarse.shard[1:]) * math.prod(factors) * classes
    depth = slab_depth(plane * np.dtype(array.dtype).itemsize, coarse.chunk[0])
    slab = (depth, *coarse.shard[1:])
    along = []
    for axis, factor in enumerate(factors):
        size, side = fine.shape[axis], coarse.shard[axis]
        counts: Counter[Piece] = Counter()
        for first in range(0, coarse.shape[axis], side):
            end = min(first + side, coarse.shape[axis])
            for start in range(first, end, slab[axis]):
                stop = min(start + slab[axis], end)
                span = (start * factor, min(stop * factor, size))
                chunk, shard = fine.chunk[axis], fine.shard[axis]
                counts.update(pieces_along(span, size, chunk=chunk, shard=shard))
        along.append(counts)
    return count_gets(along) * classes


def _boxes(plan: Plan) -> int:
    """Tasks of the pyramid, a marker each."""
    levels = [level for array in plan.output.arrays for level in array.levels[1:]]
    return sum(math.prod(level.grid) for level in levels)


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _share(fraction: float) -> str:
    return f"{fraction:.0%}" if fraction >= 0.01 else "< 1%"
