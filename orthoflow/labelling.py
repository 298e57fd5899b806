"""A consensus of labels that any 2-D segmenter gave the planes of a volume in its orientations."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

import orthoflow
from orthoflow import driver
from orthoflow.cluster import connect
from orthoflow.errors import BadInput
from orthoflow.finishing import complete, done_blocks
from orthoflow.geometry.box import Box
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.options import CONSENSUS_OPTIONS, WORK, Options, triple, wish_of
from orthoflow.plan.labels import LabelPlan, plan_labels
from orthoflow.records import fingerprint_of, machine_facts, require_same
from orthoflow.reduce.engine import consensus_of
from orthoflow.reduce.fragments import ORIENTATION_NAMES
from orthoflow.resume import check_place
from orthoflow.stores.locks import hold
from orthoflow.stores.ome import create_output, has_record, read_record, write_record
from orthoflow.stores.urls import probe_write
from orthoflow.stores.volumes import VolumeRef, describe, find_volume, read_box
from orthoflow.versions import require_same_versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt
    from distributed import Client


def consensus(
    planes: Mapping[str, Any],
    /,
    *,
    chunks: int | tuple[int, int, int] | None = None,
    **options: Any,
) -> Any:
    """Instances (z, y, x) from labels of the planes of a volume, made by any 2-D segmenter.

    Parameters
    ----------
    planes : dict
        Labels (z, y, x) by orientation ("xy", "xz", "yz", one at least): NumPy, Dask or Zarr
        arrays, xarray.DataArray, paths or URLs. Ids are unique within a plane, 0 is background.
    chunks : int or (z, y, x), optional
        Voxels of a block that is worked on at a time, for arrays that are larger than the memory;
        it does not show in the answer.
    **options
        instances ("components" or "empanada"), votes, min_size, min_extent, label_divisor,
        allow_one_view, merge_iou, merge_ioa, cluster_iou; axes, channel, voxel_size and
        storage_option for what is stored.

    Returns
    -------
    numpy.ndarray or xarray.DataArray
        Labels 1..n, uint32 while they fit; a DataArray where DataArrays were given.

    Raises
    ------
    BadInput
        If the labels or the options do not fit.

    See Also
    --------
    write_consensus : From a store into a store, on a cluster, for volumes of any size.
    """
    wishes = Options.from_mapping(options)
    given = {name: planes[name] for name in ORIENTATION_NAMES if name in planes}
    if not given or len(given) < len(planes):
        raise BadInput(f"labels of {', '.join(map(str, planes)) or 'nothing'}; use xy, xz and yz")
    facts, arrays = {}, {}
    for name, one in given.items():
        facts[name], arrays[name] = open_labels(name, one, wishes)
    plan = plan_labels(facts, wishes)
    block = None if chunks is None else triple("chunks", _three(chunks))
    keep_freed_memory()
    found = consensus_of(arrays, plan.rule, block=block, label_divisor=wishes.label_divisor).labels
    first = next(iter(given.values()))
    return first.copy(data=found) if hasattr(first, "coords") else found


@dataclass(frozen=True)
class _Sliced:
    """An array of which only what is asked for is read."""

    shape: tuple[int, int, int]
    read: Callable[[tuple[slice, ...]], Any]

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        return np.asarray(self.read(index))


def open_labels(name: str, labels: Any, options: Options) -> tuple[VolumeFacts, Any]:
    """What is known of labels (z, y, x), and the labels, of which only what is cut is read.

    Parameters
    ----------
    name
        What they are, for messages: "xy", "truth".
    labels
        Path or URL, or an array of whole numbers: NumPy, Dask, Zarr, DataArray.

    Raises
    ------
    BadInput
        If they are no labels.
    """
    if isinstance(labels, (str, PurePath)):
        ref, facts = _source(labels, options)

        def read(index: tuple[slice, ...]) -> Any:
            stop = (min(one.stop, n) for one, n in zip(index, facts.shape, strict=True))
            spans = [(one.start, end) for one, end in zip(index, stop, strict=True)]
            (z0, z1), (y0, y1), (x0, x1) = spans
            box = Box((z0, y0, x0), (z1, y1, x1))
            return read_box(ref, box)[0]

        return facts, _Sliced(facts.shape, read)
    shape, dtype = getattr(labels, "shape", ()), np.dtype(getattr(labels, "dtype", object))
    if len(shape) != 3 or dtype.kind not in "iub":
        raise BadInput(
            f"{name} labels are {type(labels).__name__} of shape {tuple(shape)}, {dtype}; give "
            "whole numbers (z, y, x), or a path"
        )
    z, y, x = (int(n) for n in shape)
    facts = VolumeFacts(name, (z, y, x), dtype.name)
    if options.voxel_size is not None:
        facts = replace(
            facts, voxel_size=triple("voxel_size", options.voxel_size), unit=_unit(options)
        )
    return facts, _Sliced(facts.shape, labels.__getitem__)


def _three(chunks: int | tuple[int, int, int]) -> tuple[int, ...]:
    return (chunks,) if isinstance(chunks, int) else tuple(chunks)


def write_consensus(
    planes: Mapping[str, str | Path],
    output: str | Path,
    /,
    *,
    client: Client | None = None,
    progress: Callable[[driver.Progress], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Instances from per-plane labels that are stored, written as OME-Zarr.

    Parameters
    ----------
    planes : dict
        Path or URL of labels (z, y, x) by orientation ("xy", "xz", "yz", one at least); ids are
        unique within a plane, 0 is background.
    output : path or URL
        OME-Zarr group to be made.
    client : distributed.Client, optional
        Where the work runs; by default threads of this process (option `cluster`).
    progress : callable, optional
        Called with a `driver.Progress` after every block of every pass.
    **options
        Those of `run` for instances, output and work.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    BadInput
        If something cannot work; nothing was created.
    BlockFailed
        If a block of labels cannot be read or written; what is done is kept.
    """
    wishes = Options.from_mapping(options)
    began = time.monotonic()
    sources = {name: _source(planes[name], wishes) for name in ORIENTATION_NAMES if name in planes}
    if not sources or len(sources) < len(planes):
        raise BadInput(f"labels of {', '.join(map(str, planes)) or 'nothing'}; use xy, xz and yz")
    for ref, facts in sources.values():
        check_place(output, ref.url, facts.name, wishes)
    plan = plan_labels({name: facts for name, (_, facts) in sources.items()}, wishes)
    record = _record(plan, sources, wishes)
    storage = wishes.storage_option
    finished = _finished(output, record, wishes)
    if finished is not None:
        return finished
    with connect(wishes, client) as workers:
        probe_write(output, storage)
        if workers is not None:
            require_same_versions(workers)
        taken = {"storage_options": storage, "take_over": wishes.take_over}
        with hold(output, "run", **taken) as lock:  # type: ignore[arg-type]
            stored = create_output(
                output,
                plan.output,
                record,
                overwrite=wishes.overwrite,
                join=wishes.resumes,
                storage_options=storage,
            )
            require_same(stored, record["settings"], output)
            tell = progress or _silent
            drive = driver.Drive(workers, str(output), stored, wishes, lock, tell)
            report = complete(drive) | {"seconds": round(time.monotonic() - began, 3)}
            write_record(output, "report", report, storage)
    return report


def _source(url: str | PurePath, options: Options) -> tuple[VolumeRef, VolumeFacts]:
    ref = find_volume(
        str(url),
        axes=options.axes,
        channel=options.channel,
        storage_options=options.storage_option,
        labels=True,
        missing=options.missing_input,
    )
    size = None if options.voxel_size is None else triple("voxel_size", options.voxel_size)
    return ref, describe(ref, voxel_size=size, unit=_unit(options))


def _unit(options: Options) -> str | None:
    return None if options.voxel_size is None else "micrometer"


def _record(
    plan: LabelPlan, sources: Mapping[str, tuple[VolumeRef, VolumeFacts]], options: Options
) -> dict[str, Any]:
    """What `orthoflow/run.json` keeps of a consensus."""
    numbers = {
        "orthoflow": orthoflow.__version__,
        **{f"{name} labels": facts.name for name, (_, facts) in sources.items()},
        "input_shape": list(next(iter(sources.values()))[1].shape),
        **{
            name: value
            for name, value in options.to_dict().items()
            if name in CONSENSUS_OPTIONS
            and wish_of(name).group != WORK
            and name not in ("overwrite", "storage_option")
        },
        **asdict(plan.rule),
        "label_divisor": options.label_divisor,
        "block": list(plan.block),
        "output_arrays": plan.output.to_dict(),
        "device": "cpu",
        "precision": "integers",
    }
    settings = json.loads(json.dumps(numbers))
    blocks = -(-plan.region.shape[0] // plan.block[0])
    for axis in (1, 2):
        blocks *= -(-plan.region.shape[axis] // plan.block[axis])
    return {
        "orthoflow": orthoflow.__version__,
        "fingerprint": fingerprint_of(settings),
        "settings": settings,
        "region": str(plan.region),
        "block": list(plan.block),
        "output": plan.output.to_dict(),
        "labels": {
            "kind": "planes",
            "orientations": list(sources),
            "sources": {name: _kept(ref) for name, (ref, _) in sources.items()},
            "label_divisor": options.label_divisor,
            "rule": asdict(plan.rule),
        },
        "sampled_bytes": 0,
        "plan": {"blocks": blocks},
        "machine": machine_facts(),
    }


def _kept(ref: VolumeRef) -> dict[str, Any]:
    """What finds the labels again; without options of the store, which each job is told itself."""
    names = ("url", "array", "axes", "time", "channel", "missing")
    return {name: getattr(ref, name) for name in names}


def _finished(
    output: str | Path, record: dict[str, Any], options: Options
) -> dict[str, Any] | None:
    """The report of an output that is to be resumed and needs nothing more."""
    storage = options.storage_option
    if not options.resumes or not has_record(output, "report", storage):
        return None
    stored = read_record(output, "run", storage)
    require_same(stored, record["settings"], output)
    report = read_record(output, "report", storage)
    done = done_blocks(output, stored, options)
    return report if report.get("complete") and done.count == done.total else None


def _silent(progress: driver.Progress) -> None:
    del progress
