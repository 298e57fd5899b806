"""What one task of each pass over labels does: tables, triples, painted labels. No torch.

The steps are those of `reduce.engine`; here each reads its block from a store, and leaves what it
found in a table there, so that it can be done again, anywhere, or not at all.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.job import Tally
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.reduce.blocktables import BlockTables, block_tables
from orthoflow.reduce.engine import block_objects
from orthoflow.reduce.fragments import FRAMES, ORIENTATION_NAMES
from orthoflow.reduce.lookups import Ids, Lookups
from orthoflow.reduce.tablefile import dump, load
from orthoflow.reduce.triples import Triples, apply, triples
from orthoflow.stores.markers import Marker, block_marker_name, create_marker
from orthoflow.stores.ome import write_box
from orthoflow.stores.patience import patiently
from orthoflow.stores.tables import create_table, read_table
from orthoflow.stores.volumes import read_box

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import OutputSpec
    from orthoflow.stores.stamps import Stamp
    from orthoflow.stores.urls import Options
    from orthoflow.stores.volumes import VolumeRef

T = TypeVar("T")

PLANES, OBJECTS, TRIPLES, IDS = "planes", "objects", "triples", "ids"
"""Tables: of a block's fragments, the object of each, a block's triples, the label of each."""


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What all tasks of the passes share."""

    sources: tuple[tuple[str, VolumeRef], ...]
    """Per-plane labels by orientation."""
    region: Box
    """Voxels of the sources that are looked at; the output covers them."""
    block: Triple
    label_divisor: int | None
    crossings: bool
    """Whether what fragments of two orientations share is counted; the rule may need none."""
    output: OutputSpec
    target: str
    fingerprint: str
    """Of the run; markers carry it."""
    planes_key: str
    """Folder of the tables that follow from the sources alone, with or without crossings."""
    rule_key: str
    """Folder of the tables that depend on the rule too."""
    storage_options: Options
    patience: float

    def box_of(self, number: Triple) -> Box:
        """Block of this number, in voxels of the output."""
        start = tuple(n * side for n, side in zip(number, self.block, strict=True))
        stop = (min(a + b, n) for a, b, n in zip(start, self.block, self.region.shape, strict=True))
        return Box(start, tuple(stop))  # type: ignore[arg-type]


def look(job: LabelJob, number: Triple) -> Tally:
    """Tables of the fragments of a block."""
    box, tally = _started(job, number)
    with tally.stage("read labels"):
        labels = _labels(job, box, tally, further=1)
    with tally.stage("tables"):
        found = block_tables(
            labels,
            box=box,
            shape=job.region.shape,
            label_divisor=job.label_divisor,
            crossings=job.crossings,
        )
        _keep(job, job.planes_key, PLANES, number, found)
    return tally


def count(job: LabelJob, number: Triple) -> Tally:
    """Triples of objects in a block."""
    box, tally = _started(job, number)
    objects = _objects(job, number, _lookups(job, number), tally)
    with tally.stage("triples"):
        found = triples(objects, box.start)
        _keep(job, job.rule_key, TRIPLES, number, found)
    return tally


def paint(job: LabelJob, number: Triple) -> Tally:
    """Labels of a block: written, then marked."""
    box, tally = _started(job, number)
    tally.voxels = box.voxels
    lookups = _lookups(job, number)
    objects = _objects(job, number, lookups, tally)
    known = triples_at(job, number)
    ids = _kept(job, job.rule_key, IDS, number, Ids).label
    written: list[Stamp] = []
    for array in job.output.arrays:
        if array.stage != "labels":
            continue
        with tally.stage("paint"):
            kind, _, name = array.path.partition("/")
            if kind == "stacks":
                own = objects[ORIENTATION_NAMES.index(name)]
                values = np.where(own <= lookups.named, own, 0).astype(array.dtype)
            else:
                values = apply(objects, known, ids.astype(array.dtype))
        with tally.stage("write"):
            written += _write(job, array.path, box, values, tally)
    tally.stored = sum(stamp.size for stamp in written)
    shown = box.shifted(job.region.start)
    name = block_marker_name(number, "labels")
    marker = Marker(name, job.fingerprint, str(shown), tuple(written), asdict(tally))
    new = _patiently(
        job,
        lambda: create_marker(job.target, marker, job.storage_options),
        f"mark labels {shown}",
    )
    tally.duplicates = int(not new)
    return tally


def tables_at(job: LabelJob, number: Triple) -> BlockTables:
    """What `look` found of a block."""
    return _kept(job, job.planes_key, PLANES, number, BlockTables)


def triples_at(job: LabelJob, number: Triple) -> Triples:
    """What `count` found of a block."""
    return _kept(job, job.rule_key, TRIPLES, number, Triples)


def _started(job: LabelJob, number: Triple) -> tuple[Box, Tally]:
    """Voxels of a block, and a tally for what is done to it."""
    keep_freed_memory()
    return job.box_of(number), Tally(blocks=1)


def _write(
    job: LabelJob, path: str, box: Box, values: npt.NDArray[Any], tally: Tally
) -> tuple[Stamp, ...]:
    written = _patiently(
        job,
        lambda: write_box(job.target, job.output, path, 0, box, values, job.storage_options),
        f"write labels {box}",
    )
    tally.bytes_written += written.nbytes
    return written.objects


def _labels(
    job: LabelJob, box: Box, tally: Tally, *, further: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Labels of a block, each orientation with `further` planes behind it where there are any."""
    found = {}
    for name, ref in job.sources:
        stack = FRAMES[ORIENTATION_NAMES.index(name)].stack
        stop = list(box.stop)
        stop[stack] = min(stop[stack] + further, job.region.shape[stack])
        z, y, x = stop
        here = Box(box.start, (z, y, x)).shifted(job.region.start)
        voxels = _patiently(job, functools.partial(read_box, ref, here), f"read {ref} {here}")
        tally.bytes_read += voxels.nbytes
        found[name] = voxels[0]
    return found


def _lookups(job: LabelJob, number: Triple) -> Lookups:
    return _kept(job, job.rule_key, OBJECTS, number, Lookups)


def _objects(
    job: LabelJob, number: Triple, lookups: Lookups, tally: Tally
) -> list[npt.NDArray[np.integer[Any]]]:
    """Object of each voxel of a block in every orientation."""
    with tally.stage("read labels"):
        labels = _labels(job, job.box_of(number), tally, further=0)
    with tally.stage("objects"):
        return block_objects(labels, lookups.by_name())


def _keep(job: LabelJob, key: str, step: str, number: Triple, table: object) -> None:
    _patiently(
        job,
        lambda: create_table(job.target, key, step, number, dump(table), job.storage_options),
        f"write table {step} {number}",
    )


def _kept(job: LabelJob, key: str, step: str, number: Triple, kind: type[T]) -> T:
    stored = _patiently(
        job,
        lambda: read_table(job.target, key, step, number, job.storage_options),
        f"read table {step} {number}",
    )
    try:
        return load(stored, kind)
    except ValueError as error:
        raise BadInput(f"table {step} {number} of {job.target}: {error}") from error


def _patiently(job: LabelJob, deed: Callable[[], T], doing: str) -> T:
    return patiently(deed, seconds=job.patience, doing=doing)
