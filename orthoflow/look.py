"""A look at a small region before a long run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.arrays import block_results
from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box, Triple
from orthoflow.inputs import find_source
from orthoflow.options import Options
from orthoflow.plan.costs import total_work
from orthoflow.show import preview

if TYPE_CHECKING:
    from pathlib import Path


def look(
    volume: Any,
    model: Any,
    picture: Path,
    *,
    centre: Triple | None,
    size: Triple,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Segment a region and draw it; equals the same region of a full run.

    Returns
    -------
    dict
        The region, shares of foreground and of disagreement, seconds, and an estimate of the
        whole volume's from the network pixels of both.
    """
    source = find_source(volume, Options.from_mapping(options))
    region = region_around(centre, size, source.facts.shape)
    began = time.perf_counter()
    wanted = ("labels", "probabilities", "disagreement")
    # Everything is looked at, so nothing needs to stand alone: the planner may join blocks.
    options = {"part": None, **options, "roi": str(region)}
    plan, lazy = block_results(source, model, options, wanted)
    import dask  # noqa: PLC0415 - slow to import

    labels, chances, against = dask.compute(*(lazy[name] for name in wanted))
    seconds = time.perf_counter() - began
    facts = source.facts
    preview(
        picture,
        source.read(region)[0],
        labels=labels,
        probability=chances / np.float32(255) if chances.ndim == 3 else None,
        disagreement=against,
        box=region,
        voxel_size=facts.voxel_size,
        unit=facts.unit,
        title=f"{facts.name}, {plan.card.name}",
    )
    return {
        "picture": str(picture),
        "roi": str(region),
        "foreground": float((labels > 0).mean()),
        "disagreement": float((against > 0).mean()),
        "seconds": seconds,
        "seconds_whole": seconds
        * sum(way.chosen.network_pixels for way in plan.ways)
        / max(1, total_work(plan).network_pixels),
    }


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
