"""The lazy face: volumes as xarray, logits and labels as Dask graphs of the same tasks."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow import graph
from orthoflow import job as jobs
from orthoflow.errors import BadInput
from orthoflow.inputs import Source, find_source, remember
from orthoflow.models import Model, ModelRef, card_of
from orthoflow.options import Options
from orthoflow.pipeline import model_ref, on_device
from orthoflow.plan import Plan, plan_run
from orthoflow.reduce.statistics import sample_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import dask.array as da
    import xarray as xr

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.facts import VolumeFacts


def open_volume(volume: Any, **options: Any) -> xr.DataArray:
    """Open a volume lazily.

    Parameters
    ----------
    volume : path or URL
        Zarr, OME-Zarr, TIFF stack or folder, .npy.
    **options
        Which array: `array`, `level`, `axes`, `time`, `channel`, `voxel_size`, `storage_option`.

    Returns
    -------
    xarray.DataArray
        Dims (z, y, x), or (c, z, y, x) with several channels, on Dask; coordinates are the voxels'
        centres in physical units where the file states a voxel size, else voxel numbers.
    """
    import dask.array as da  # noqa: PLC0415 - slow to import
    import xarray as xr  # noqa: PLC0415

    source = find_source(volume, Options.from_mapping(options))
    facts = source.facts
    chunks = ((facts.channels,), *_even(facts))
    if source.ref is None:
        assert source.array is not None
        lazy = source.array
    else:
        reader = _Reader(source)
        lazy = da.from_array(
            reader, chunks=chunks, asarray=False, name=f"volume-{uuid.uuid4().hex}"
        )
    data = lazy[0] if facts.channels == 1 else lazy
    dims = ("z", "y", "x") if facts.channels == 1 else ("c", "z", "y", "x")
    found = xr.DataArray(data, dims=dims, coords=_coords(facts), name="image")
    return found if source.ref is None else remember(found, source.ref)


class _Reader:
    """Reads boxes for Dask: an array as far as slicing goes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shape = (source.facts.channels, *source.facts.shape)
        self.dtype = np.dtype(source.facts.dtype)
        self.ndim = 4

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        from orthoflow.geometry.box import Box  # noqa: PLC0415

        bounds = [s.indices(n) for s, n in zip(index[1:], self.shape[1:], strict=True)]
        (z0, z1, _), (y0, y1, _), (x0, x1, _) = bounds
        return self._source.read(Box((z0, y0, x0), (z1, y1, x1)))[index[0]]


def _even(facts: VolumeFacts) -> tuple[tuple[int, ...], ...]:
    """Dask chunks: whole chunks of the file, about 128 voxels a side."""
    sides = []
    for size, chunk in zip(facts.shape, facts.chunks or (128, 128, 128), strict=True):
        side = chunk * max(1, round(128 / chunk))
        full, rest = divmod(size, side)
        sides.append((side,) * full + ((rest,) if rest else ()))
    return tuple(sides)


def _coords(facts: VolumeFacts, box: Box | None = None) -> dict[str, Any]:
    """Centres of the voxels along z, y, x, of the volume or of a box of it."""
    coords = {}
    attributes = {"units": facts.unit} if facts.unit else {}
    size = facts.voxel_size or (1.0, 1.0, 1.0)
    start = (0, 0, 0) if box is None else box.start
    shape = facts.shape if box is None else box.shape
    for axis, (first, count) in enumerate(zip(start, shape, strict=True)):
        places = facts.translation[axis] + size[axis] * np.arange(first, first + count)
        coords["zyx"[axis]] = ("zyx"[axis], places, attributes)
    return coords


def make_plan(volume: Any, model: Any, **options: Any) -> Plan:
    """Decide every number of a run, and do nothing.

    Parameters
    ----------
    volume : path, URL, DataArray or array
        Only its metadata is looked at.
    model : str, path, Model or ModelRef
        Only its card is looked at.
    **options
        As for `run`.

    Returns
    -------
    Plan
        `print(plan)` explains it, `plan.to_dict()` has the numbers.
    """
    wishes = Options.from_mapping(options)
    source = find_source(volume, wishes)
    known = isinstance(model, (Model, ModelRef))
    card = model.card if known else card_of(model, wishes.trust)
    return plan_run(source.facts, card, wishes)


def predict(volume: Any, model: str | Path | Model | ModelRef, **options: Any) -> xr.Dataset:
    """Blended logits of every orientation, lazily.

    Parameters
    ----------
    volume, model, **options
        As for `run`.

    Returns
    -------
    xarray.Dataset
        A variable per orientation and "consensus", each (class, z, y, x) float32. A binary answer
        has one class, the foreground logit; `mode="multiclass"` gives all logits of the network.
    """
    import xarray as xr  # noqa: PLC0415 - slow to import

    plan, lazy, nodes = _lazy_blocks(volume, model, options, _logit_names)
    names = _logit_names(plan)
    lead = (plan.channels,)
    arrays = lazy.arrays({n: (_keys(plan, nodes, n, 1), _chunks(plan, lead), "f4") for n in names})
    coords = {**_coords(plan.facts, plan.region), "class": list(_class_names(plan))}
    dims = ("class", "z", "y", "x")
    return xr.Dataset(
        {name.partition("/")[2]: (dims, array) for name, array in arrays.items()}, coords=coords
    )


def segment(volume: Any, model: str | Path | Model | ModelRef, **options: Any) -> xr.DataArray:
    """Labels of the consensus, lazily; equal to what `run` writes.

    Parameters
    ----------
    volume, model, **options
        As for `run`.

    Returns
    -------
    xarray.DataArray
        uint8 (z, y, x). Slicing it computes only the blocks that the slice touches.
    """
    import xarray as xr  # noqa: PLC0415 - slow to import

    plan, found = block_results(volume, model, options, ("labels",))
    return xr.DataArray(
        found["labels"],
        dims=("z", "y", "x"),
        coords=_coords(plan.facts, plan.region),
        name=plan.options.name,
    )


def block_results(
    volume: Any, model: Any, options: dict[str, Any], wanted: Sequence[str]
) -> tuple[Plan, dict[str, da.Array]]:
    """Lazy uint8 results by name (see `kernels.finish.results`), and the plan behind them."""
    plan, lazy, nodes = _lazy_blocks(volume, model, options, lambda _: list(wanted))
    arrays = {}
    for name in wanted:
        by_class = name == "probabilities" and plan.mode == "multiclass"
        lead = (plan.channels,) if by_class else ()
        arrays[name] = (_keys(plan, nodes, name, len(lead)), _chunks(plan, lead), "u1")
    return plan, lazy.arrays(arrays)


def _logit_names(plan: Plan) -> list[str]:
    return [*(f"logits/{o.name}" for o in plan.orientations), "logits/consensus"]


def _class_names(plan: Plan) -> list[str]:
    names = plan.card.classes
    if plan.mode == "binary":
        return [names[-1] if names else "foreground"]
    return list(names) or [str(i) for i in range(plan.channels)]


def _lazy_blocks(
    volume: Any, model: Any, options: dict[str, Any], wanted: Any
) -> tuple[Plan, graph.LazyGraph, dict[tuple[str, Box], graph.Node]]:
    """Plan, graph and one node per block; blocks stand alone unless `part` is given."""
    wishes = on_device(Options.from_mapping({"part": 1, **options}), None)
    source = find_source(volume, wishes)
    reference = model_ref(model, wishes)
    plan = plan_run(source.facts, reference.card, wishes)
    if plan.objects is not None:
        raise BadInput(
            f"model {plan.card.name!r} gives objects, which take several passes over a volume; use "
            "run for them, or semantic_only=True for its classes"
        )
    lazy = graph.LazyGraph(uuid.uuid4().hex[:8])
    bare = jobs.Job(plan, reference, source.ref, None)
    samples = None
    if source.array is not None and plan.needs_statistics:
        samples = [lazy.voxels(source.array, box) for box in sample_boxes(plan.facts.shape)]
    grey = lazy.task("statistics", "volume", jobs.measure, bare, samples)
    job = lazy.task("job", "shared", jobs.with_grey, bare, grey)
    nodes: dict[tuple[str, Box], graph.Node] = {}
    for part in plan.parts():
        nodes.update(graph.finished(lazy, plan, part, job, source.array, wanted(plan)))
    return plan, lazy, nodes


def _keys(
    plan: Plan, nodes: dict[tuple[str, Box], graph.Node], name: str, leading: int
) -> dict[tuple[int, ...], Any]:
    """The task of every chunk of the result `name`."""
    return {
        (*(0,) * leading, *plan.block_number(block)): node
        for (result, block), node in nodes.items()
        if result == name
    }


def _chunks(plan: Plan, lead: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return (*((n,) for n in lead), *plan.block_sides())
