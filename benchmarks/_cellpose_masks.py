"""Flow following: orthoflow against Cellpose's `compute_masks`, on perfect flows of touching cells.

    python benchmarks/versus_cellpose.py masks --setup

The flows are those that Cellpose itself makes of the labels, as answers for its training. Without
filters on either side: no smallest size, no filling of holes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import _measure as measure
from _scores import hits

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.following import FlowRule
    from orthoflow.kernels.fields import Field

SIDES = ("cellpose3", "cellpose4", "whole", "blocks")
FULL, CELLS = (64, 256, 256), 200
QUICK, FEW = (40, 96, 96), 20
STEPS = 200
REACH = 20  # voxels; the cells' radius is 11 at most
# One to be timed; then blocks that divide nothing, and a last block one voxel thin.
BLOCKS = ((64, 128, 128), (40, 100, 90), (21, 85, 51), (63, 255, 127))

Labels = npt.NDArray[np.integer[Any]]


def touching_cells(shape: tuple[int, ...], count: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Labels 1..count of balls of radius 9 to 11, each cut where it meets one or more others."""
    rng = np.random.default_rng(seed)
    at = [np.array(shape) / 2]
    radius = [10.0]
    while len(at) < count:
        neighbour, size = int(rng.integers(len(at))), rng.uniform(9, 11)
        way = rng.normal(size=3)
        step = 0.88 * (radius[neighbour] + size) / np.linalg.norm(way)
        place = at[neighbour] + way * step
        apart = np.linalg.norm(np.array(at) - place, axis=1)
        inside = (place >= size).all() and (place <= np.array(shape) - 1 - size).all()
        if inside and (apart >= 0.87 * (np.array(radius) + size)).all():
            at.append(place)
            radius.append(size)
    labels = np.zeros(shape, np.int32)
    nearest = np.ones(shape, np.float32)
    for number, (place, size) in enumerate(zip(at, radius, strict=True), 1):
        box = tuple(slice(int(p - size), int(p + size) + 2) for p in place)
        grid = np.ogrid[box]
        far = sum(((g - p) / size) ** 2 for g, p in zip(grid, place, strict=True))
        mine = far < nearest[box]
        labels[box][mine] = number
        nearest[box][mine] = far[mine]
    return labels


# --- children -----------------------------------------------------------------------------------


def run_side(side: str, folder: Path) -> None:
    """Whatever a child of this name does."""
    if side == "flows":
        write_flows(folder)
    elif side in ("whole", "blocks"):
        run_ours(side, folder)
    else:
        run_peer(side, folder)


def write_flows(folder: Path) -> None:
    """Cellpose's own flows of the labels, 5 times unit vectors, and logits of the foreground."""
    from cellpose import dynamics

    labels = np.load(folder / "labels.npy")
    flow = 5 * dynamics.masks_to_flows_gpu_3d(labels)
    np.save(folder / "flow.npy", flow.astype(np.float32))
    np.save(folder / "logit.npy", np.where(labels > 0, 4, -4).astype(np.float32))
    measure.answer(cpu_s=0)


def run_peer(name: str, folder: Path) -> None:
    """Cellpose's flow following; once before the clock runs."""
    import torch
    from cellpose import dynamics

    torch.set_num_threads(1)
    flow, logit = np.load(folder / "flow.npy"), np.load(folder / "logit.npy")
    settings = {"niter": STEPS, "do_3D": True, "flow_threshold": 0.0}
    dynamics.compute_masks(flow[:, :32, 64:96, 64:96], logit[:32, 64:96, 64:96], **settings)
    with measure.stopwatch() as seconds:
        found = dynamics.compute_masks(flow, logit, min_size=-1, **settings)
    np.save(folder / f"{name}.npy", found.astype(np.int32))
    measure.answer(**seconds)


def run_ours(name: str, folder: Path) -> None:
    """Ours on the whole volume at once, or in blocks, which have to agree."""
    import torch

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.following import FlowRule
    from orthoflow.kernels.fields import Field

    torch.set_num_threads(1)
    flow, logit = (torch.from_numpy(np.load(folder / f"{n}.npy")) for n in ("flow", "logit"))
    rule = FlowRule(scale=1 / 5, threshold=0.0, steps=STEPS, reach=REACH, axes=(0, 1, 2))
    z, y, x = logit.shape
    corner = Field(Box.whole((32, 32, 32)), flow[:, :32, :32, :32], logit[:32, :32, :32])
    _labels(corner, (32, 32, 32), (32, 32, 32), rule)
    field = Field(Box.whole((z, y, x)), flow, logit)
    block = (z, y, x) if name == "whole" else BLOCKS[0]
    with measure.stopwatch() as seconds:
        found, stopped = _labels(field, (z, y, x), block, rule)
    np.save(folder / f"{name}.npy", found.astype(np.int32))
    others = [] if name == "whole" else BLOCKS[1:]
    equal = [np.array_equal(_labels(field, (z, y, x), by, rule)[0], found) for by in others]
    measure.answer(**seconds, equal=all(equal), stopped=stopped)


def _labels(field: Field, shape: Triple, block: Triple, rule: FlowRule) -> tuple[Labels, int]:
    """Labels of a volume, block by block, and the voxels that left their reach.

    Two visits to the blocks, one table of ends between them: as a run would go about it.
    """
    from orthoflow.geometry.box import Box, split
    from orthoflow.kernels.fields import Field
    from orthoflow.kernels.flows import count_ends, follow, label_ends
    from orthoflow.reduce.sinks import sinks_of
    from orthoflow.reduce.tables import tally

    boxes = list(split(Box.whole(shape), block))
    ends = []
    for box in boxes:
        start = [max(a - rule.reach, 0) for a in box.start]
        stop = [min(b + rule.reach, n) for b, n in zip(box.stop, shape, strict=True)]
        halo = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        own = Field(halo, field.flow[(slice(None), *halo.slices)], field.logit[halo.slices])
        ends.append(follow(own, box, shape, rule))
    places, counts = (np.concatenate(part) for part in zip(*map(count_ends, ends), strict=True))
    (places,), counts = tally([places], counts)
    sinks = sinks_of(places, counts, shape, rule.axes)
    labels = np.zeros(shape, np.int64)
    for box, found in zip(boxes, ends, strict=True):
        labels[box.slices] = label_ends(found, sinks, box, shape).numpy()
    return labels, sum(int(found.stopped.sum()) for found in ends)


# --- parent -------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, child: Callable[..., measure.Child]) -> None:
    """Make cells, run every side in turn, and say who found what in how long.

    `child` makes the process of a side from its name and the folder of the volume.
    """
    shape, count = (QUICK, FEW) if options.quick else (FULL, CELLS)
    rounds = 1 if options.quick else options.rounds
    sides = options.sides.split(",") if options.sides else SIDES
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        truth = touching_cells(shape, count)
        np.save(folder / "labels.npy", truth)
        measure.run(child("flows", folder))
        answers = measure.in_turn({side: child(side, folder) for side in sides}, rounds=rounds)
        found = {side: np.load(folder / f"{side}.npy") for side in sides}
    voxels = int(np.count_nonzero(truth))
    print(f"\nvolume {shape}, {count} touching cells, {voxels:,} voxels of foreground,")
    print(f"{STEPS} steps, one core, {rounds} rounds, medians\n")
    print(measure.table(_rows(answers, found, truth)))
    met = measure.verdict(_goals(answers, found, truth))
    facts = {"shape": shape, "cells": count, "voxels": voxels, "answers": answers, "met": met}
    measure.save("versus_cellpose_masks", facts)


Answers = Mapping[str, list[dict[str, Any]]]


def _rows(answers: Answers, found: Mapping[str, Labels], truth: Labels) -> list[dict[str, Any]]:
    voxels = np.count_nonzero(truth)
    ours = answers.get("whole")
    return [
        {
            "side": side,
            "cpu_s": (spent := measure.median(runs, "cpu_s")),
            "spread": measure.spread(runs, "cpu_s"),
            "us a voxel": 1e6 * spent / voxels,
            "times ours": ours and spent / measure.median(ours, "cpu_s"),
            "found": hits(found[side], truth, 0.5),
            "labels": int(len(np.unique(found[side])) - 1),
            "RSS GB": max(r["peak_rss_bytes"] for r in runs) / 1e9,
        }
        for side, runs in answers.items()
    ]


def _goals(
    answers: Answers, found: Mapping[str, Labels], truth: Labels
) -> dict[str, tuple[float, str, float]]:
    cpu = {side: measure.median(runs, "cpu_s") for side, runs in answers.items()}
    goals: dict[str, tuple[float, str, float]] = {}
    for ours in ("whole", "blocks"):
        if ours in found:
            share = hits(found[ours], truth, 0.5) / int(truth.max())
            goals[f"share of the cells found, {ours}"] = (share, ">=", 0.995)
        for peer in ("cellpose3", "cellpose4"):
            if {ours, peer} <= set(cpu):
                goals[f"CPU seconds of {peer} over {ours}"] = (cpu[peer] / cpu[ours], ">=", 1)
    if "blocks" in answers:
        equal = all(run["equal"] for run in answers["blocks"])
        if "whole" in found:
            equal = equal and np.array_equal(found["blocks"], found["whole"])
        name = f"labels in blocks of {len(BLOCKS)} shapes equal to one block's"
        goals[name] = (float(equal), ">=", 1)
    return goals
