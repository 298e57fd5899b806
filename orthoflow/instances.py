"""Instances of an output: three passes over its blocks, and between them a process with tables.

A pass over a block is done where its table lies in the output, the last one where its marker does;
so whoever comes later goes on where another stopped.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from orthoflow import driver, passes
from orthoflow.errors import BadInput, BlockFailed
from orthoflow.job import Tally
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.passes import LabelJob
from orthoflow.records import fingerprint_of
from orthoflow.reduce.engine import Rule, id_dtype, object_lookups
from orthoflow.reduce.fragments import ORIENTATION_NAMES
from orthoflow.reduce.lookups import Ids, Lookups
from orthoflow.reduce.matching import Objects
from orthoflow.reduce.merging import merge
from orthoflow.reduce.tablefile import dump, load
from orthoflow.reduce.triples import apply, merged
from orthoflow.stores.ledger import Outline
from orthoflow.stores.markers import block_number_of, list_marker_names
from orthoflow.stores.tables import create_table, list_tables, read_table
from orthoflow.stores.volumes import find_volume
from orthoflow.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from orthoflow.geometry.box import Triple
    from orthoflow.graph import Maker, Node
    from orthoflow.reduce.blocktables import BlockTables

# Table of the instances: one for the whole output, where those of blocks lie.
INSTANCES = "instances"
_WHOLE = (0, 0, 0)


def label_job(drive: driver.Drive) -> tuple[LabelJob, Rule]:
    """What the passes over an output are told, and the rule, from its record.

    Raises
    ------
    BadInput
        If the record, which comes from the output, names no labels that can be read.
    """
    outline, storage = Outline.of(drive.record), drive.options.storage_option
    try:
        facts = drive.record["labels"]
        rule = Rule(**facts["rule"])
        divisor = facts["label_divisor"]
        sources = tuple(
            (name, find_volume(**facts["sources"][name], storage_options=storage, labels=True))
            for name in ORIENTATION_NAMES
            if name in facts["sources"]
        )
    except (KeyError, TypeError) as error:
        raise BadInput(f"the record of output {drive.output} names no labels: {error}") from error
    crossings = rule.crossings(views=len(sources))
    planes = {
        "sources": facts["sources"],
        "label_divisor": divisor,
        "region": str(outline.region),
        "crossings": crossings,
    }
    job = LabelJob(
        sources=sources,
        region=outline.region,
        block=outline.block,
        label_divisor=divisor,
        crossings=crossings,
        output=outline.output,
        target=drive.output,
        fingerprint=drive.fingerprint,
        planes_key=_key(drive, planes),
        rule_key=_key(drive, {**planes, "rule": facts["rule"]}),
        storage_options=storage,
        patience=drive.options.patience,
    )
    return job, rule


def instance_counts(drive: driver.Drive, job: LabelJob) -> dict[str, Any]:
    """How many instances were found, for the report."""
    stored = read_table(drive.output, job.rule_key, INSTANCES, _WHOLE, job.storage_options)
    try:
        return {"instances": len(load(stored, Objects))}
    except ValueError as error:
        raise BadInput(f"the table of instances of {drive.output}: {error}") from error


def _key(drive: driver.Drive, facts: dict[str, Any]) -> str:
    return fingerprint_of({"run": drive.fingerprint, **facts})[:16]


def make_instances(drive: driver.Drive, job: LabelJob, rule: Rule) -> Tally:
    """Find the instances and paint them, as far as it was not done; what was done is counted.

    Raises
    ------
    BlockFailed
        When a pass fails over a block.
    """
    keep_freed_memory()
    tally = Tally()
    depth, height, width = map(range, _grid(job))
    numbers = list(itertools.product(depth, height, width))
    storage = drive.options.storage_option
    markers = list_marker_names(drive.output, drive.fingerprint, storage, kind="labels")
    painted = {number for name in markers if (number := block_number_of(name, "labels"))}
    if not list_tables(drive.output, job.rule_key, INSTANCES, storage):
        _decide(drive, job, rule, numbers, tally)
    if len(painted) < len(numbers):
        tally.add(_over_blocks(drive, job, "labels", passes.paint, numbers, painted))
    return tally


def _decide(
    drive: driver.Drive, job: LabelJob, rule: Rule, numbers: list[Triple], tally: Tally
) -> None:
    """From tables of all blocks to the label of every triple; a last table says that it is done."""
    storage = drive.options.storage_option

    def keep(step: str, number: Triple, table: object) -> None:
        drive.require_lock()
        create_table(drive.output, job.rule_key, step, number, dump(table), storage)

    def there(key: str, step: str) -> Set[Triple]:
        return list_tables(drive.output, key, step, storage)

    done = there(job.planes_key, passes.PLANES)
    tally.add(_over_blocks(drive, job, "tables", passes.look, numbers, done))
    with tally.stage("objects"):
        joined = merge(_Tables(job, numbers))
        number, objects = rule.objects(joined.tables)
        known = there(job.rule_key, passes.OBJECTS)
        for index, block in enumerate(numbers):
            if block not in known:
                lookups = object_lookups(joined, number, index)
                wide = {name: array.astype("int64") for name, array in lookups.items()}
                keep(passes.OBJECTS, block, Lookups(**wide, named=np.array([len(objects)])))
        del joined
    done = there(job.rule_key, passes.TRIPLES)
    tally.add(_over_blocks(drive, job, "triples", passes.count, numbers, done))
    with tally.stage("instances"):
        table = merged(passes.triples_at(job, block) for block in numbers)
        verdict = rule.verdict(table, objects, views=len(job.sources))
        ids = verdict.label.astype(id_dtype(verdict.label))
        known = there(job.rule_key, passes.IDS)
        for block in numbers:
            if block not in known:
                here = passes.triples_at(job, block).objects
                columns = [here[:, i].reshape(1, 1, -1) for i in range(3)]
                label = apply(columns, table, ids).ravel().astype(ids.dtype)
                keep(passes.IDS, block, Ids(label))
        keep(INSTANCES, _WHOLE, verdict.instances)


class _Tables(Sequence["BlockTables"]):
    """Tables of blocks as they lie in the store: read when asked for, one at a time."""

    def __init__(self, job: LabelJob, numbers: list[Triple]) -> None:
        self._job = job
        self._numbers = numbers

    @overload
    def __getitem__(self, index: int) -> BlockTables: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BlockTables]: ...
    def __getitem__(self, index: int | slice) -> BlockTables | Sequence[BlockTables]:
        if isinstance(index, slice):
            return _Tables(self._job, self._numbers[index])
        return passes.tables_at(self._job, self._numbers[index])

    def __len__(self) -> int:
        return len(self._numbers)


def _over_blocks(
    drive: driver.Drive,
    job: LabelJob,
    stage: str,
    step: Callable[[LabelJob, Triple], Tally],
    numbers: list[Triple],
    done: Iterable[Triple],
) -> Tally:
    """Take one step for every block that it was not taken for; what they did."""

    def task(number: Triple) -> Callable[[Maker], dict[Any, Node]]:
        return lambda maker: {
            number: maker.task(stage, "-".join(map(str, number)), step, job, number)
        }

    done = set(done)
    left = [number for number in numbers if number not in done]
    tally, began, ready = Tally(), time.monotonic(), len(numbers) - len(left)
    pool = drive.pool()
    window, dashboard = Window(pool, task, retries=drive.options.retries), pool.dashboard()
    for ended in window.run((task(number), 1) for number in left):
        drive.require_lock()
        if ended is None:
            continue
        if ended.reason is not None:
            box = job.box_of(ended.key).shifted(job.region.start)
            raise BlockFailed(f"{stage} of block {box}: {ended.reason}; run with --resume")
        tally.add(ended.result)
        ready += 1
        seconds = time.monotonic() - began
        drive.report(
            driver.Progress(
                stage,
                ready,
                len(numbers),
                tally.voxels,
                seconds,
                dashboard,
                0,
                len(window.under_way),
            )
        )
    # Blocks are counted once, by those who paint them.
    if stage != "labels":
        tally.blocks = 0
    return tally


def _grid(job: LabelJob) -> Triple:
    z, y, x = (-(-n // side) for n, side in zip(job.region.shape, job.block, strict=True))
    return (z, y, x)
