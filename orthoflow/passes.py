"""What one task of each pass over labels does: tables, triples, painted labels. No torch.

The steps are those of `reduce.engine`; here each reads its block from a store, and leaves what it
found in a table there, so that it can be done again, anywhere, or not at all.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.geometry.box import Box
from orthoflow.geometry.output import CLASSES
from orthoflow.job import Tally
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.labeljob import (
    FILLS,
    HOLES,
    IDS,
    OBJECTS,
    PIECES,
    PLANES,
    TRIPLES,
    LabelJob,
    ends_at,
    triples_at,
)
from orthoflow.reduce.blocktables import block_tables
from orthoflow.reduce.ends import labels_of_ends
from orthoflow.reduce.engine import block_objects
from orthoflow.reduce.fragments import FRAMES, ORIENTATION_NAMES
from orthoflow.reduce.holes import fill, hole_tables
from orthoflow.reduce.lookups import Fills, Ids, Lookups
from orthoflow.reduce.triples import apply, triples
from orthoflow.stores.markers import Marker, block_marker_name, create_marker
from orthoflow.stores.ome import write_box
from orthoflow.stores.tables import ENDS_STEP
from orthoflow.stores.volumes import read_box

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from orthoflow.geometry.box import Triple
    from orthoflow.stores.stamps import Stamp


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
            cells=job.cells,
            crossings=job.crossings,
        )
        job.keep(job.planes_key, PLANES, number, found)
    return tally


def count(job: LabelJob, number: Triple) -> Tally:
    """Triples of objects in a block."""
    box, tally = _started(job, number)
    objects = _objects(job, number, _lookups(job, number), tally)
    with tally.stage("triples"):
        found = triples(objects, box.start)
        job.keep(job.rule_key, TRIPLES, number, found)
    return tally


def divide(job: LabelJob, number: Triple) -> Tally:
    """Tables of the pieces of classes in a block."""
    box, tally = job.box_of(number), Tally(blocks=1)
    classes = _classes(job, number, tally)
    with tally.stage("tables"):
        found = job.solid.tables(classes, box=box, shape=job.region.shape)
        job.keep(job.planes_key, PIECES, number, found)
    return tally


def gaps(job: LabelJob, number: Triple) -> Tally:
    """Tables of the background between the objects of a block, in which there may be holes."""
    box, tally = job.box_of(number), Tally(blocks=1)
    labels = _MAKERS[job.kind](job, number, tally)("")
    with tally.stage("holes"):
        found = hole_tables(labels, box=box, shape=job.region.shape)
        job.keep(job.rule_key, HOLES, number, found)
    return tally


def paint(job: LabelJob, number: Triple) -> Tally:
    """Labels of a block: written, then marked."""
    box, tally = _started(job, number)
    tally.voxels = box.voxels
    painted = _MAKERS[job.kind](job, number, tally)
    written: list[Stamp] = []
    for array in job.output.arrays:
        if array.stage == "labels":
            with tally.stage("paint"):
                kind, _, name = array.path.partition("/")
                values = painted(name if kind == "stacks" else "")
                if kind != "stacks" and job.rule.fill_holes:
                    values = fill(
                        values,
                        job.kept(job.rule_key, FILLS, number, Fills).label.astype(np.int64),
                    )
                values = values.astype(array.dtype)
            with tally.stage("write"):
                written += _write(job, array.path, box, values, tally)
    tally.stored = sum(stamp.size for stamp in written)
    shown = box.moved(job.region.start)
    name = block_marker_name(number, "labels")
    marker = Marker(name, job.fingerprint, str(shown), tuple(written), asdict(tally))
    new = job.patiently(
        lambda: create_marker(job.target, marker, job.storage_options),
        f"mark labels {shown}",
    )
    tally.duplicates = int(not new)
    return tally


def _of_planes(
    job: LabelJob, number: Triple, tally: Tally
) -> Callable[[str], npt.NDArray[np.generic]]:
    """What gives the labels of a block, and with a name the objects of that orientation."""
    lookups = _lookups(job, number)
    objects = _objects(job, number, lookups, tally)
    known, ids = triples_at(job, number), _ids(job, number)

    def painted(orientation: str) -> npt.NDArray[np.generic]:
        if not orientation:
            return apply(objects, known, ids)
        own = objects[ORIENTATION_NAMES.index(orientation)]
        return np.where(own <= lookups.named, own, 0)

    return painted


def _of_ends(
    job: LabelJob, number: Triple, tally: Tally
) -> Callable[[str], npt.NDArray[np.generic]]:
    """What gives the labels of a block from where its voxels end."""
    with tally.stage("read labels"):
        ends = _labels(job, job.box_of(number), tally, further=0)[ENDS_STEP]
    index, ids = ends_at(job, number).index, _ids(job, number)
    return lambda _: labels_of_ends(ends, index, ids)


def _of_classes(
    job: LabelJob, number: Triple, tally: Tally
) -> Callable[[str], npt.NDArray[np.generic]]:
    """What gives the labels of a block from its classes."""
    classes, box = _classes(job, number, tally), job.box_of(number)
    with tally.stage("objects"):
        pieces = job.solid.pieces(classes, box=box, shape=job.region.shape)
    ids = _ids(job, number)
    return lambda _: pieces.volume(ids)


_MAKERS = {"planes": _of_planes, "ends": _of_ends, "classes": _of_classes}


def _classes(job: LabelJob, number: Triple, tally: Tally) -> npt.NDArray[np.generic]:
    """Classes of a block, and around it as far as the rule looks."""
    around = job.solid.surroundings(job.box_of(number), job.region.shape)
    with tally.stage("read labels"):
        return _labels(job, around, tally, further=0)[CLASSES]


def _ids(job: LabelJob, number: Triple) -> npt.NDArray[np.unsignedinteger[Any]]:
    return job.kept(job.rule_key, IDS, number, Ids).label


def _started(job: LabelJob, number: Triple) -> tuple[Box, Tally]:
    """Voxels of a block, and a tally for what is done to it."""
    keep_freed_memory()
    return job.box_of(number), Tally(blocks=1)


def _write(
    job: LabelJob, path: str, box: Box, values: npt.NDArray[Any], tally: Tally
) -> tuple[Stamp, ...]:
    written = job.patiently(
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
        stop = list(box.stop)
        if further:
            stack = FRAMES[ORIENTATION_NAMES.index(name)].stack
            stop[stack] = min(stop[stack] + further, job.region.shape[stack])
        z, y, x = stop
        here = Box(box.start, (z, y, x)).moved(job.start)
        voxels = job.patiently(functools.partial(read_box, ref, here), f"read {ref} {here}")
        tally.bytes_read += voxels.nbytes
        found[name] = voxels[0]
    return found


def _lookups(job: LabelJob, number: Triple) -> Lookups:
    return job.kept(job.rule_key, OBJECTS, number, Lookups)


def _objects(
    job: LabelJob, number: Triple, lookups: Lookups, tally: Tally
) -> list[npt.NDArray[np.integer[Any]]]:
    """Object of each voxel of a block in every orientation."""
    with tally.stage("read labels"):
        labels = _labels(job, job.box_of(number), tally, further=0)
    with tally.stage("objects"):
        divisor = job.label_divisor if job.cells else None
        return block_objects(labels, lookups.by_name(), divisor)
