"""F1 of `instances="components"` on simulated network outputs, beside its goals, and CPU seconds.

    python benchmarks/consensus_accuracy.py                 # seeds 0, 2, 3, 4; 128 x 128 x 128
    python benchmarks/consensus_accuracy.py --sets blobs/medium --seeds 0 --size 256 --repeat 3
    python benchmarks/consensus_accuracy.py --instances empanada
    python benchmarks/consensus_accuracy.py --center-threshold 0.2 --median 3

The generator of ground truth and of outputs per orientation is `synth.py` in
../shared/data/consensus or `--data DIR`. Planes are labelled by our own panoptic step; no peer is
needed. An instance is found if its IoU with one of the truth exceeds 0.5. CPU seconds are those of
tables + rule + triples + decision + fill, the median of `--repeat` times each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from _scores import f1
from _simulated import DATA, STEP, VIEWS, Case, Outputs, generator, outputs_of, stacked, truth_of
from orthoflow.geometry.cells import CellRule, Window
from orthoflow.kernels.allocator import keep_freed_memory
from orthoflow.kernels.centers import Heads, harden, label_cells
from orthoflow.kernels.medians import median_along_stack, recursive_median
from orthoflow.reduce.blocktables import block_tables
from orthoflow.reduce.engine import Rule, block_objects, id_dtype, object_lookups
from orthoflow.reduce.merging import merge
from orthoflow.reduce.triples import apply, triples

Labels = npt.NDArray[np.integer[Any]]

# Set: least mean F1 over the seeds, least F1 of any seed.
GOALS = {
    "blobs/medium": (0.98, 0.97),
    "tubes/medium": (0.96, 0.92),
    "blobs/hard": (0.93, 0.90),
    "tubes/hard": (0.84, 0.80),
}
SEEDS = (0, 2, 3, 4)  # the rule's constants were chosen on seeds from 10 on
PLANES = 32  # labelled at once


def tensors(outputs: Outputs) -> tuple[torch.Tensor, ...]:
    """Logits, heat and offsets in float32."""
    return tuple(torch.from_numpy(part.astype(np.float32)) for part in outputs)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the panoptic step; defaults are those of `orthoflow run` without fine boundaries."""

    threshold: float = 0.5
    center_threshold: float = 0.1
    center_distance: int = 3
    reach: int | None = 64
    """Pixels from a pixel to its centre; None: as empanada does."""
    median: int = 1
    """Planes; plain with a reach, else empanada's recursive one."""


def planes_of(
    sem: torch.Tensor, heat: torch.Tensor, offsets: torch.Tensor, settings: Settings
) -> Labels:
    """Labels (planes, rows, columns) by our panoptic step."""
    count, rows, columns = sem.shape
    values = sem[None]
    if settings.reach is None:
        values = torch.sigmoid(values)
        values = recursive_median(values, settings.median) if settings.median > 1 else values
    elif settings.median > 1:
        values = median_along_stack(values, (0, count), count, settings.median)
    classes = harden(values, threshold=settings.threshold, probabilities=settings.reach is None)
    window = Window((rows, columns), (0, rows), (0, columns))
    rule = CellRule(
        center_threshold=settings.center_threshold,
        center_distance=settings.center_distance,
        reach=settings.reach,
        step=STEP,
        zoom=1,
    )
    labels = np.empty((count, rows, columns), np.int32)
    for first in range(0, count, PLANES):  # as many as a block may have
        some = slice(first, first + PLANES)
        heads = Heads(heat[some], offsets[some].movedim(1, 0), (0, 0))
        labels[some] = label_cells(classes[some], heads, window, rule, things=[1]).numpy()
    return labels


def instances(views: dict[str, Labels], rule: Rule) -> tuple[Labels, dict[str, float]]:
    """Labels (z, y, x) and CPU seconds of the steps."""
    clock = [time.process_time()]
    joined = merge([block_tables(views, crossings=rule.crossings(views=len(views)))])
    clock.append(time.process_time())
    number, found = rule.objects(joined.tables)
    clock.append(time.process_time())
    objects = block_objects(views, object_lookups(joined, number, 0))
    table = triples(objects)
    clock.append(time.process_time())
    verdict = rule.verdict(table, found, views=len(views))
    clock.append(time.process_time())
    labels = apply(objects, table, verdict.label.astype(id_dtype(verdict.label)))
    clock.append(time.process_time())
    steps = ("tables", "rule", "triples", "decision", "fill")
    return labels, dict(zip(steps, np.diff(clock).tolist(), strict=True))


def measured(views: dict[str, Labels], rule: Rule, repeat: int) -> tuple[Labels, dict[str, float]]:
    """Labels (z, y, x), and the median CPU seconds of each step over `repeat` times."""
    keep_freed_memory()  # as those who call the steps do
    found = [instances(views, rule) for _ in range(repeat)]
    seconds = {step: statistics.median(s[step] for _, s in found) for step in found[0][1]}
    return found[0][0], seconds


def score(case: Case, synth: ModuleType, settings: Settings, rule: Rule, repeat: int) -> float:
    """Make the objects of a set, print a line about them, and return their F1 at 0.5."""
    truth = truth_of(synth, case)
    views = {}
    for view in VIEWS:
        outputs = tensors(outputs_of(synth, case, truth, view))
        views[view] = stacked(planes_of(*outputs, settings), view)
    labels, seconds = measured(views, rule, repeat)
    good = f1(labels, truth, 0.5)
    inside, found = truth > 0, labels > 0
    iou = np.count_nonzero(inside & found) / np.count_nonzero(inside | found)
    spent = " + ".join(f"{s:.2f}" for s in seconds.values())
    print(
        f"| {case.name} | {case.seed} | {good:.3f} | {f1(labels, truth, 0.75):.3f} | {iou:.3f} "
        f"| {labels.max()} / {truth.max()} | {spent} = {sum(seconds.values()):.2f} |",
        flush=True,
    )
    return good


def main() -> int:
    options = parse()
    torch.set_num_threads(1)
    synth = generator(options.data)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    rule = Rule(options.instances, votes=options.votes, min_size=500, min_extent=5)
    missed = 0
    print("| set | seed | F1 at 0.5 | at 0.75 | foreground IoU | found / true | CPU s, by step |")
    for name in options.sets:
        kind, level = name.split("/")
        cases = [Case(kind, level, options.size, seed) for seed in options.seeds]
        scores = [score(case, synth, settings, rule, options.repeat) for case in cases]
        goals = GOALS if options.instances == "components" else {}
        mean, least = goals.get(name, (0.0, 0.0))
        good = np.mean(scores) >= mean and min(scores) >= least
        missed += not good
        print(
            f"| {name} | all | {np.mean(scores):.3f} (goal {mean}), least {min(scores):.3f} "
            f"(goal {least}) | | | | {'reached' if good else 'MISSED'} |"
        )
    return min(missed, 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", default=list(GOALS), metavar="KIND/LEVEL")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--size", type=int, default=128, help="voxels along each axis")
    parser.add_argument("--instances", choices=["components", "empanada"], default="components")
    parser.add_argument("--votes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1, help="times each volume is done")
    for field in fields(Settings):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
