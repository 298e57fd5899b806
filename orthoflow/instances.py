"""Instances of an output: three passes over its blocks, and between them a process with tables.

A pass over a block is done where its table lies in the output, the last one where its marker does;
so whoever comes later goes on where another stopped.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow import driver, passes
from orthoflow.decisions import INSTANCES, WHOLE, Desk, decide
from orthoflow.errors import BadInput
from orthoflow.geometry.output import CLASSES, PLANES
from orthoflow.job import Tally
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.labeljob import LabelJob
from orthoflow.records import fingerprint_of
from orthoflow.reduce.engine import Rule
from orthoflow.reduce.fragments import ORIENTATION_NAMES
from orthoflow.reduce.matching import Objects
from orthoflow.reduce.solidengine import SolidRule
from orthoflow.reduce.tablefile import load
from orthoflow.relabel import rule_in_force
from orthoflow.stores.ledger import Outline
from orthoflow.stores.markers import block_number_of, list_marker_names
from orthoflow.stores.tables import ENDS_STEP, ends_key, read_table
from orthoflow.stores.volumes import find_volume

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.stores.volumes import VolumeRef


def label_job(drive: driver.Drive) -> LabelJob:
    """What the passes over an output are told, from its record.

    Raises
    ------
    BadInput
        If the record, which comes from the output, names no labels that can be read.
    """
    outline, storage = Outline.of(drive.record), drive.options.storage_option
    try:
        facts = drive.record["labels"]
        kind = facts["kind"]
        rule = rule_in_force(drive)
        divisor, known, crossings, planes_key = None, None, False, ends_key(drive.fingerprint)
        sources: tuple[tuple[str, VolumeRef], ...]
        if kind == "ends":
            sources = ((ENDS_STEP, _own(drive, facts["array"])),)
        elif isinstance(rule, SolidRule):
            sources = ((CLASSES, _own(drive, CLASSES)),)
            radius = rule.radius if rule.kind == "watershed" else 0
            planes_key = _key(drive, {"radius": radius, "connectivity": rule.connectivity})
        else:
            known, divisor = facts["sources"], facts["label_divisor"]
            sources = tuple(
                (name, _found(drive, name, known))
                for name in ORIENTATION_NAMES
                if name in facts["orientations"]
            )
            crossings = isinstance(rule, Rule) and rule.crossings(views=len(sources))
            looked = {"sources": known, "label_divisor": divisor, "crossings": crossings}
            planes_key = _key(drive, {**looked, "region": str(outline.region)})
    except (KeyError, TypeError) as error:
        raise BadInput(f"the record of output {drive.output} names no labels: {error}") from error
    return LabelJob(
        kind=kind,
        rule=rule,
        sources=sources,
        # What lies in the output begins where it does.
        start=(0, 0, 0) if known is None else outline.region.start,
        region=outline.region,
        block=outline.block,
        label_divisor=divisor,
        cells=known is None and divisor is not None,
        crossings=crossings,
        output=outline.output,
        target=drive.output,
        fingerprint=drive.fingerprint,
        planes_key=planes_key,
        rule_key=_key(drive, {"planes": planes_key, "rule": asdict(rule)}),
        storage_options=storage,
        patience=drive.options.patience,
    )


def _found(drive: driver.Drive, name: str, known: dict[str, Any] | None) -> VolumeRef:
    """Labels of one orientation: where they were found before, or the output's own planes."""
    if known is None:
        return _own(drive, f"{PLANES}/{name}")
    storage = drive.options.storage_option
    return find_volume(**known[name], storage_options=storage, labels=True)


def _own(drive: driver.Drive, path: str) -> VolumeRef:
    """An array of the output.

    Shards of nothing but background are not stored; that no other is missing has been looked at.
    """
    storage = drive.options.storage_option
    return find_volume(
        drive.output, array=path, storage_options=storage, labels=True, missing="fill"
    )


def instance_counts(drive: driver.Drive, job: LabelJob) -> dict[str, Any]:
    """How many instances were found, of each class, for the report."""
    stored = read_table(drive.output, job.rule_key, INSTANCES, WHOLE, job.storage_options)
    try:
        objects = load(stored, Objects)
    except ValueError as error:
        raise BadInput(f"the table of instances of {drive.output}: {error}") from error
    classes, counts = np.unique(objects.klass, return_counts=True)
    of_classes = {str(one): int(n) for one, n in zip(classes, counts, strict=True)}
    return {"instances": len(objects), "instances_of_classes": of_classes}


def _key(drive: driver.Drive, facts: dict[str, Any]) -> str:
    return fingerprint_of({"run": drive.fingerprint, **facts})[:16]


def make_instances(drive: driver.Drive, job: LabelJob) -> Tally:
    """Find the instances and paint them, as far as it was not done; what was done is counted.

    Raises
    ------
    BlockFailed
        When a pass fails over a block.
    """
    keep_freed_memory()
    depth, height, width = map(range, _grid(job))
    desk = Desk(drive, job, list(itertools.product(depth, height, width)), Tally())
    storage = drive.options.storage_option
    if not desk.there(INSTANCES):
        decide(desk)
    markers = list_marker_names(drive.output, drive.fingerprint, storage, kind="labels")
    painted = {number for name in markers if (number := block_number_of(name, "labels"))}
    if len(painted) < len(desk.numbers):
        desk.over("labels", passes.paint, painted)
    return desk.tally


def _grid(job: LabelJob) -> Triple:
    z, y, x = (-(-n // side) for n, side in zip(job.region.shape, job.block, strict=True))
    return (z, y, x)
