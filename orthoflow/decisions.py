"""From tables of all blocks to the label of everything in them: what one process decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from orthoflow import driver, labeljob, passes
from orthoflow.errors import BlockFailed
from orthoflow.job import Tally
from orthoflow.reduce.ends import EndRule, settle_ends, settle_middles, sum_ends
from orthoflow.reduce.engine import Rule, id_dtype, object_lookups
from orthoflow.reduce.holes import merge_holes
from orthoflow.reduce.lookups import Fills, Ids, Lookups
from orthoflow.reduce.matching import Objects
from orthoflow.reduce.merging import merge
from orthoflow.reduce.planewise import numbered_by_class
from orthoflow.reduce.solidengine import SolidRule
from orthoflow.reduce.tablefile import dump
from orthoflow.reduce.triples import apply, merged
from orthoflow.stores.tables import create_table, list_tables
from orthoflow.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from orthoflow.geometry.box import Triple
    from orthoflow.graph import Maker, Node
    from orthoflow.labeljob import AnyRule, LabelJob
    from orthoflow.reduce.fragments import Int

T = TypeVar("T")

# Table of the instances: one for the whole output, where those of blocks lie.
INSTANCES = "instances"
WHOLE = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the process that decides works with."""

    drive: driver.Drive
    job: LabelJob
    numbers: list[Triple]
    """Of the blocks, in raster order."""
    tally: Tally
    """What was done so far."""

    def keep(self, step: str, number: Triple, table: object) -> None:
        """Store a table that depends on the rule."""
        self.drive.require_lock()
        storage = self.drive.options.storage_option
        create_table(self.drive.output, self.job.rule_key, step, number, dump(table), storage)

    def there(self, step: str, key: str | None = None) -> Set[Triple]:
        """Numbers of the blocks whose table is there."""
        storage = self.drive.options.storage_option
        return list_tables(self.drive.output, key or self.job.rule_key, step, storage)

    def over(
        self, stage: str, step: Callable[[LabelJob, Triple], Tally], done: Iterable[Triple]
    ) -> None:
        """Take one step for every block that it was not taken for, and count what they did."""
        self.tally.add(over_blocks(self.drive, self.job, stage, step, self.numbers, done))

    def read(self, at: Callable[[LabelJob, Triple], T]) -> Sequence[T]:
        """Tables of all blocks as they lie in the store: read when asked for, one at a time."""
        return _Tables(self.job, self.numbers, at)

    def give_ids(self, of_block: Callable[[int, Triple], Any]) -> None:
        """Keep the labels of everything in each block, where that was not done."""
        known = self.there(labeljob.IDS)
        for index, block in enumerate(self.numbers):
            if block not in known:
                self.keep(labeljob.IDS, block, Ids(of_block(index, block)))


def decide(desk: Desk) -> None:
    """The label of everything, as far as it was not decided; a last table says that it is done."""
    rule = desk.job.rule
    if isinstance(rule, EndRule):
        objects = _decide_ends(desk, rule)
    elif isinstance(rule, SolidRule):
        objects = _decide_classes(desk, rule)
    else:
        objects = _decide_planes(desk, rule)
    if rule.fill_holes:
        objects = _fill(desk, objects)
    desk.keep(INSTANCES, WHOLE, objects)


def _decide_ends(desk: Desk, rule: EndRule) -> Objects:
    facts = desk.drive.record["labels"]
    with desk.tally.stage("instances"):
        table = sum_ends(desk.read(labeljob.ends_at))
        if facts["shape"] is None:
            label, objects = settle_middles(table, rule)
        else:
            z, y, x = facts["shape"]
            label, objects = settle_ends(table, (z, y, x), facts["axes"], rule)
        ids = label.astype(id_dtype(label))

        def of_block(_: int, block: Triple) -> Any:
            return ids[np.searchsorted(table.index, labeljob.ends_at(desk.job, block).index)]

        desk.give_ids(of_block)
    return objects


def _decide_classes(desk: Desk, rule: SolidRule) -> Objects:
    job = desk.job
    desk.over("pieces", passes.divide, desk.there(labeljob.PIECES, job.planes_key))
    with desk.tally.stage("instances"):
        found = rule.merge(desk.read(labeljob.pieces_at))
        wide = id_dtype(np.array([len(found.solids)]))
        desk.give_ids(lambda index, _: found.lookup(index).astype(wide))
    solids = found.solids
    return Objects(solids.label.astype(np.uint8), solids.size, solids.box)


def _decide_planes(desk: Desk, rule: Rule) -> Objects:
    job = desk.job
    desk.over("tables", passes.look, desk.there(labeljob.PLANES, job.planes_key))
    with desk.tally.stage("objects"):
        joined = merge(desk.read(labeljob.tables_at))
        number, objects = rule.objects(joined.tables)
        known = desk.there(labeljob.OBJECTS)
        for index, block in enumerate(desk.numbers):
            if block not in known:
                lookups = object_lookups(joined, number, index)
                wide = {name: array.astype("int64") for name, array in lookups.items()}
                named = np.array([len(objects)])
                desk.keep(labeljob.OBJECTS, block, Lookups(**wide, named=named))
        del joined
    desk.over("triples", passes.count, desk.there(labeljob.TRIPLES))
    with desk.tally.stage("instances"):
        table = merged(iter(desk.read(labeljob.triples_at)))
        verdict = rule.verdict(table, objects, views=len(job.sources))
        label = verdict.label
        if rule.by_class:
            label = np.append(0, _numbers(rule, verdict.instances))[label]
        ids = label.astype(id_dtype(label))

        def of_block(_: int, block: Triple) -> Any:
            here = labeljob.triples_at(job, block).objects
            columns = [here[:, i].reshape(1, 1, -1) for i in range(3)]
            return apply(columns, table, ids).ravel().astype(ids.dtype)

        desk.give_ids(of_block)
    return verdict.instances


def _numbers(rule: AnyRule, objects: Objects) -> Int:
    """Final label of each object, ascending."""
    if isinstance(rule, Rule) and rule.by_class:
        return numbered_by_class(objects, rule.label_divisor)
    return np.arange(1, len(objects) + 1)


def _fill(desk: Desk, objects: Objects) -> Objects:
    """Objects with the holes that they alone enclose."""
    desk.over("holes", passes.gaps, desk.there(labeljob.HOLES))
    with desk.tally.stage("holes"):
        found = merge_holes(desk.read(labeljob.gaps_at))
        known = desk.there(labeljob.FILLS)
        for index, block in enumerate(desk.numbers):
            if block not in known:
                desk.keep(labeljob.FILLS, block, Fills(found.lookup(index)))
        size = objects.size.copy()
        row = np.searchsorted(_numbers(desk.job.rule, objects), found.filled.label)
        size[row] += found.filled.size
    return replace(objects, size=size)


class _Tables(Sequence[T], Generic[T]):
    """Tables of blocks as they lie in the store: read when asked for, one at a time."""

    def __init__(
        self, job: LabelJob, numbers: list[Triple], at: Callable[[LabelJob, Triple], T]
    ) -> None:
        self._job = job
        self._numbers = numbers
        self._at = at

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return _Tables(self._job, self._numbers[index], self._at)
        return self._at(self._job, self._numbers[index])

    def __len__(self) -> int:
        return len(self._numbers)


def over_blocks(
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
            box = job.box_of(ended.key).moved(job.region.start)
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
