"""A look at a small region before a long run."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.arrays import block_results
from orthoflow.errors import BadInput, BlockFailed
from orthoflow.geometry.box import AXES, Box, Triple
from orthoflow.inputs import find_source
from orthoflow.options import Options
from orthoflow.pipeline import model_ref, on_device, run
from orthoflow.plan import plan_run
from orthoflow.plan.costs import total_work
from orthoflow.show import preview
from orthoflow.show.png import require_writable
from orthoflow.stores.ome import read_level

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from orthoflow.inputs import Source
    from orthoflow.models import ModelRef


def look(
    volume: Any,
    model: Any,
    picture: Path,
    *,
    centre: Triple | None,
    size: Triple,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Segment a region and draw it; what a run of this region gives.

    Classes equal the same region of a full run; objects are those of the region alone, cut off at
    its borders.

    Returns
    -------
    dict
        The region, shares of foreground and of disagreement, the number of objects where there are
        any, seconds, and an estimate of the whole volume's from the network pixels of both.
    """
    require_writable(picture)
    wishes = on_device(Options.from_mapping(options), None)
    source, reference = find_source(volume, wishes), model_ref(model, wishes)
    region = region_around(centre, size, source.facts.shape)
    began = time.perf_counter()
    options = {**options, "roi": str(region)}
    plan = plan_run(source.facts, reference.card, replace(wishes, roi=str(region)))
    seen = (_classes if plan.objects is None else _objects)(source, reference, options)
    seconds = time.perf_counter() - began
    facts = source.facts
    preview(
        picture,
        source.read(region)[0],
        labels=seen.labels,
        objects=plan.objects is not None,
        probability=seen.chances / np.float32(255) if seen.chances.ndim == 3 else None,
        disagreement=seen.against,
        box=region,
        voxel_size=facts.voxel_size,
        unit=facts.unit,
        title=f"{facts.name}, {plan.card.name}",
    )
    return {
        "picture": str(picture),
        "roi": str(region),
        "foreground": float((seen.labels > 0).mean()),
        "disagreement": float((seen.against > 0).mean()),
        **({} if seen.instances is None else {"instances": seen.instances}),
        "seconds": seconds,
        "seconds_whole": seconds
        * sum(way.chosen.network_pixels for way in plan.ways)
        / max(1, total_work(plan).network_pixels),
    }


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a region holds, (z, y, x): labels, probabilities in 255ths, dissenting orientations."""

    labels: npt.NDArray[np.unsignedinteger]
    chances: npt.NDArray[np.uint8]
    against: npt.NDArray[np.uint8]
    instances: int | None = None


def _classes(source: Source, model: ModelRef, options: dict[str, Any]) -> _Seen:
    """Classes of the region, in memory."""
    import dask  # noqa: PLC0415 - slow to import

    wanted = ("labels", "probabilities", "disagreement")
    # Everything is looked at, so nothing needs to stand alone: the planner may join blocks.
    _, lazy = block_results(source, model, {"part": None, **options}, wanted)
    return _Seen(*dask.compute(*(lazy[name] for name in wanted)))


def _objects(source: Source, model: ModelRef, options: dict[str, Any]) -> _Seen:
    """Objects of the region: a run into a folder that is thrown away."""
    own = {"output": "both", "disagreement": True, "levels": 1, "cluster": "threads"}
    with tempfile.TemporaryDirectory(prefix="orthoflow-preview-") as folder:
        output = f"{folder}/region.zarr"
        report = run(source, output, model=model, **{**options, **own})
        for block, reason in report["failed"].items():
            raise BlockFailed(f"block {block}: {reason}")
        name = Options.from_mapping(options).name
        paths = (f"labels/{name}", "probabilities", "disagreement")
        labels, chances, against = (read_level(output, path, 0) for path in paths)
        return _Seen(labels, chances, against, report["instances"])


def region_around(centre: Triple | None, size: Triple, shape: Triple) -> Box:
    """Box of `size` around `centre`, moved into a volume of `shape`."""
    if min(size) < 1:
        raise BadInput(f"size {','.join(map(str, size))} must be at least 1 on every axis")
    middle = centre or (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    starts, stops = [], []
    for axis, place, side, full in zip(AXES, middle, size, shape, strict=True):
        if not 0 <= place < full:
            raise BadInput(
                f"at {place} on axis {axis} lies outside the volume; use 0 to {full - 1}"
            )
        starts.append(max(0, min(place - side // 2, full - side)))
        stops.append(min(starts[-1] + side, full))
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))
