"""A plan as numbers and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orthoflow.plan import costs
from orthoflow.plan.objects import FlowPlan, MiddlePlan, SolidPlan
from orthoflow.plan.scale import duration, scale_lines, scale_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.tiling import Tiling
    from orthoflow.plan.objects import ObjectPlan
    from orthoflow.plan.plan import Plan, Way

_WAYS = {
    "tiles": "one patch per tile",
    "stripes": "thin planes packed as stripes",
    "shared": "stripes, and last pieces share tiles",
    "rectangles": "free rectangles",
}


def plan_numbers(plan: Plan) -> dict[str, Any]:
    """Every number of a plan, JSON-able."""
    work = costs.total_work(plan)
    orientations = {way.chosen.orientation: _way_numbers(plan, way) for way in plan.ways}
    keys = ("patches", "tiles", "tiles_unpacked", "network_pixels")
    return {
        "shape": list(plan.facts.shape),
        "working_shape": list(plan.working),
        "roi": str(plan.region),
        "orientations": orientations,
        "total": {key: sum(o[key] for o in orientations.values()) for key in keys},
        "run": {
            "patches": work.patches,
            "tiles": work.tiles,
            "network_pixels": work.network_pixels,
        },
        "blocks": plan.block_count,
        "block": list(plan.block),
        "parts": plan.part_count,
        "part": list(plan.part_blocks),
        "bytes_read": work.bytes_read,
        "bytes_written": costs.bytes_written(plan),
        "peak_bytes_per_worker": work.peak_bytes,
        "part_bytes": costs.part_bytes(plan),
        "seconds": costs.seconds(plan),
        "scale": scale_numbers(plan),
        "batch_size": plan.batch,
        "precision": plan.precision,
        "outputs": {
            array.path: {
                "dtype": array.dtype,
                "shape": list(array.levels[0].shape),
                "chunk": list(array.levels[0].chunk),
                "shard": list(array.levels[0].shard),
                "levels": len(array.levels),
            }
            for array in plan.output.arrays
        },
        "options": plan.options.changed(),
    }


def _way_numbers(plan: Plan, way: Way) -> dict[str, Any]:
    chosen = way.chosen
    return {
        "way": chosen.way,
        "patches": chosen.patches,
        "tiles": chosen.tiles,
        "tiles_unpacked": way.unpacked.tiles,
        "network_pixels": chosen.network_pixels,
        "tile": list(next(chosen.positions()).tile),
        "stripe_starts": stripe_starts(chosen),
        "exact": _is_exact(plan, chosen),
        "rejected": {
            other.way: {"tiles": other.tiles, "network_pixels": other.network_pixels}
            for other in way.possible
            if other is not chosen
        },
    }


def stripe_starts(tiling: Tiling) -> list[int]:
    """First rows of the stripes in a tile; of the columns where the rows are not packed."""
    for layouts in tiling.layouts:
        packed = [layout for layout in layouts if layout.count > 1]
        if packed:
            return list(packed[0].starts)
    return []


def _is_exact(plan: Plan, tiling: Tiling) -> bool:
    return tiling.is_exact(stride=plan.card.stride, reach=plan.card.reach)


def explain(plan: Plan) -> str:
    """The plan in a page of text."""
    numbers = plan_numbers(plan)
    total = numbers["total"]
    unpacked = sum(way.unpacked.network_pixels for way in plan.ways)
    lines = [
        f"volume     {_shape(plan.facts.shape)} {plan.facts.dtype}, {plan.facts.name}",
    ]
    if not plan.facts.checksum:
        lines.append("           its chunks carry no checksum: damage that can be decoded stays")
    if plan.working != plan.facts.shape:
        lines.append(f"resampled  {_shape(plan.working)} for the network")
    if plan.region.shape != plan.facts.shape:
        lines.append(f"region     {plan.region}")
    lines.append(
        f"network    {plan.card.name}, {plan.precision}, batches of {plan.batch}, "
        f"{plan.mode}, normalisation {plan.normalization.method} ({plan.normalization.scope})"
    )
    if plan.objects is not None:
        lines.append(f"objects    {_objects(plan.objects)}")
    # Wide enough for the sums, which are the largest.
    sums = _counts(total["patches"], total["tiles"], total["network_pixels"])
    widths = [max(10, len(text) + 2) for text in sums]
    header = _columns(("patches", "tiles", "Mpixel"), widths)
    lines += ["", f"{'':6}{'way':<12}{'tile':<12}{header}"]
    for way in plan.ways:
        lines += _way_lines(plan, way, widths)
    lines += [
        f"{'all':<30}{_columns(sums, widths)}",
        f"{unpacked / total['network_pixels']:.2f} times fewer network pixels than one patch "
        f"per {_shape(plan.ways[0].unpacked.layouts[0][0].tile)}-pixel tile "
        f"({total['tiles_unpacked']:,} tiles)",
        "",
        *_work_lines(plan, numbers),
    ]
    return "\n".join(lines)


def _objects(objects: ObjectPlan) -> str:
    """How objects are found, in a line."""
    rule = objects.rule
    least = f", at least {rule.min_size:,} voxels" if rule.min_size else ""
    if isinstance(objects, SolidPlan):
        return f"{objects.rule.kind} of the classes{least}"
    if isinstance(objects, FlowPlan):
        reach = f"followed for {objects.flow.steps} steps, {objects.flow.reach} voxels far"
        return f"one flow field ({objects.combination} of the orientations), {reach}{least}"
    if isinstance(objects, MiddlePlan):
        return f"cells of 3-D patches, middles up to {objects.cells.reach} voxels away{least}"
    cells, own = objects.cells, objects.rule
    votes = f", votes {own.votes}" if own.instances in ("components", "empanada") else ""
    return f"{own.instances}{votes}, middles up to {cells.reach} pixels away{least}"


def _counts(patches: int, tiles: int, pixels: int) -> tuple[str, str, str]:
    return f"{patches:,}", f"{tiles:,}", f"{pixels / 1e6:,.1f}"


def _columns(texts: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def _way_lines(plan: Plan, way: Way, widths: Sequence[int]) -> list[str]:
    chosen = way.chosen
    counts = _counts(chosen.patches, chosen.tiles, chosen.network_pixels)
    lines = [
        f"{chosen.orientation:<6}{chosen.way:<12}{_shape(next(chosen.positions()).tile):<12}"
        f"{_columns(counts, widths)}"
    ]
    starts = stripe_starts(chosen)
    if starts:
        exact = _is_exact(plan, chosen)
        known = "reach unknown" if plan.card.reach is None else f"reach {plan.card.reach}"
        effect = "invisible to the network" if exact else f"neighbours may be seen ({known})"
        lines.append(f"      stripes from {', '.join(map(str, starts))}: {effect}")
    lines += [
        f"      not {other.way}: {other.tiles:,} tiles, {other.network_pixels / 1e6:,.1f} Mpixel"
        for other in way.possible
        if other is not chosen
    ]
    return lines


def _work_lines(plan: Plan, numbers: dict[str, Any]) -> list[str]:
    again = numbers["run"]["network_pixels"] / max(1, numbers["total"]["network_pixels"])
    arrays = ", ".join(a.path for a in plan.output.arrays)
    lines = [
        f"work       {_count(numbers['blocks'], 'block')} of {_shape(plan.block)} in "
        f"{_count(numbers['parts'], 'part')} of {_shape(plan.part_blocks)} blocks",
        f"           {again:.2f} x the network pixels (patches across parts run again)",
        *_jobs_lines(plan),
        f"reads      {_bytes(numbers['bytes_read'])} of chunks, decoded",
        f"writes     {_bytes(numbers['bytes_written'])} before compression: {arrays}",
        f"memory     {_bytes(numbers['peak_bytes_per_worker'])} per worker at most, one task each"
        + _held(numbers["part_bytes"]),
    ]
    if numbers["seconds"] is not None:
        speed = f"{plan.card.speed:.3g} network pixels/s"
        known = ", ".join(filter(None, (speed, plan.card.speed_note)))
        lines.append(f"time       {duration(numbers['seconds'])} of one worker ({known})")
    return lines + scale_lines(plan)


def _jobs_lines(plan: Plan) -> list[str]:
    """How the parts fall to jobs, where several jobs share them."""
    jobs, parts = plan.options.num_parts, plan.part_count
    if jobs == 1:
        return []
    if parts < jobs:
        return [
            f"           {jobs - parts:,} of {jobs:,} jobs get no part: they have nothing to do"
        ]
    least, most = parts // jobs, -(-parts // jobs)
    each = f"{least:,} to {most:,} parts" if least < most else _count(least, "part")
    return [f"           {jobs:,} jobs of {each} each"]


def _held(count: int) -> str:
    return f"; a part holds {_bytes(count)} of sums between its tasks" if count else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _shape(shape: tuple[int, ...] | int) -> str:
    return str(shape) if isinstance(shape, int) else " x ".join(map(str, shape))


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
