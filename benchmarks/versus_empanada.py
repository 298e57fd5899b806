"""From a panoptic network's outputs to objects: orthoflow against empanada, one core, in turn.

    python benchmarks/versus_empanada.py --setup           # makes the peer's environment once
    python benchmarks/versus_empanada.py --quick           # one set, one round: does it work?
    python benchmarks/versus_empanada.py --full            # four seeds, and 256 voxels a side

Same simulated outputs (see _simulated.py), same settings: the defaults of the plugin's 3-D widget.
Stage 1 labels the planes of three orientations, stage 2 makes objects of the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import _empanada as peer
import _measure as measure
from _empanada import MEDIAN, MIN_EXTENT, MIN_SIZE
from _scores import f1, objects, same_partition, same_planes
from _simulated import (
    DATA,
    VIEWS,
    Case,
    Outputs,
    generator,
    outputs_of,
    stacked,
    truth_of,
)

STEPS = [
    # What its stages import: napari, Qt, torchvision, albumentations and mlflow are for the rest.
    ["torch", "numpy", "scipy", "scikit-image", "numba", "networkx", "tqdm"],
    ["zarr", "dask", "joblib"],
    ["--no-deps", "empanada-napari==1.2.4"],
]
SIDES = ("peer", "empanada", "components")
# How voxels are voted on: what the peer calls pixel_vote_thr, and allow_one_view.
VOTES = {
    "2": {"votes": 2, "one_view": False},
    "1": {"votes": 1, "one_view": False},
    "3": {"votes": 3, "one_view": False},
    "1, one view": {"votes": 1, "one_view": True},
}
SETS = [f"{kind}/{level}" for level in ("sparse", "medium", "hard") for kind in ("blobs", "tubes")]
PLANES = 32  # of 256 x 256, where stage 1 is timed alone
KEEP = ("sem", "heat", "offsets")

Labels = npt.NDArray[np.integer[Any]]


# --- children -----------------------------------------------------------------------------------


def given(folder: Path, view: str) -> Outputs:
    with np.load(folder / f"{view}.npz") as file:
        return Outputs(*(file[name] for name in KEEP))


def planes_in(folder: Path, side: str) -> dict[str, Labels]:
    """Labels of the planes by orientation (z, y, x), as a side made them in stage 1."""
    return {v: stacked(np.load(folder / f"planes-{side}-{v}.npy"), v) for v in views_in(folder)}


def views_in(folder: Path) -> list[str]:
    return [view for view in VIEWS if (folder / f"{view}.npz").exists()]


def run_planes(side: str, folder: Path) -> None:
    """Stage 1: from logits, heat and offsets of planes to labels of planes."""
    import torch

    torch.set_num_threads(1)
    label = peer.planes if side == "peer" else partial(our_planes, side)
    total: dict[str, float] = {}
    planes = 0
    for view in views_in(folder):
        outputs = [torch.from_numpy(part.astype(np.float32)) for part in given(folder, view)]
        label(*(part[: MEDIAN + 2] for part in outputs))  # compiles what it needs
        with measure.stopwatch() as seconds:
            labels = label(*outputs)
        total = {key: total.get(key, 0) + value for key, value in seconds.items()}
        planes += len(labels)
        np.save(folder / f"planes-{side}-{view}.npy", labels.astype(np.int32))
    measure.answer(**total, planes=planes)


def our_planes(side: str, *outputs: Any) -> Labels:
    from consensus_accuracy import Settings, planes_of

    as_peer = {"reach": None, "median": MEDIAN}
    return planes_of(*outputs, Settings(**as_peer if side == "empanada" else {}))


def run_objects(side: str, folder: Path, variants: Sequence[str]) -> None:
    """Stage 2: from labels of planes to objects; seconds are those of the first variant."""
    # Both of the same rule start from the peer's planes; the third from its own.
    views = planes_in(folder, "components" if side == "components" else "peer")
    make = peer.objects if side == "peer" else partial(our_objects, side)
    corner = {view: labels[:48, :48, :48] for view, labels in views.items()}
    make(corner, **VOTES[variants[0]])  # compiles what it needs
    with measure.stopwatch() as seconds:
        found = make(views, **VOTES[variants[0]])
    np.save(folder / f"objects-{side}-{variants[0]}.npy", found.astype(np.int32))
    for name in variants[1:]:
        found = make(views, **VOTES[name])
        np.save(folder / f"objects-{side}-{name}.npy", found.astype(np.int32))
    measure.answer(**seconds)


def our_objects(side: str, views: dict[str, Labels], *, votes: int, one_view: bool) -> Labels:
    from orthoflow.reduce.engine import consensus_of

    return consensus_of(views, rule_of(side, votes=votes, one_view=one_view)).labels


def rule_of(side: str, *, votes: int, one_view: bool) -> Any:
    """Ours, with the peer's defaults."""
    from orthoflow.reduce.engine import Rule

    return Rule(
        instances=side,
        votes=votes,
        allow_one_view=one_view,
        min_size=MIN_SIZE,
        min_extent=MIN_EXTENT,
    )


# --- parent -------------------------------------------------------------------------------------


def children(folder: Path, sides: Sequence[str], venvs: Path, *more: str) -> dict[str, Any]:
    cores = measure.first_cores(1)
    script = str(Path(__file__).resolve())
    python = {"peer": str(venvs / "empanada" / "bin" / "python")}
    return {
        side: measure.Child(
            (
                python.get(side, sys.executable),
                *(script, "--child", side, "--folder", str(folder), *more),
            ),
            cores,
        )
        for side in sides
    }


def write_case(folder: Path, options: argparse.Namespace, case: Case, planes: int | None) -> None:
    """Truth and outputs of a case; of `planes` planes of xy alone where a number is given."""
    synth = generator(options.data)
    truth = truth_of(synth, case)[:planes]
    np.save(folder / "truth.npy", truth)
    for view in VIEWS if planes is None else ["xy"]:
        outputs = outputs_of(synth, case, truth, view)
        np.savez(folder / f"{view}.npz", **dict(zip(KEEP, outputs, strict=True)))


def label_planes(
    options: argparse.Namespace, case: Case, planes: int | None, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Stage 1 of a case, and the check that two sides gave the same."""
    measure.note(f"{case.name}, {case.size} voxels a side, seed {case.seed}")
    write_case(folder, options, case, planes)
    stage = children(folder, options.sides, options.venvs, "--stage", "planes")
    answers = measure.in_turn(stage, rounds=options.rounds)
    if {"peer", "empanada"} <= set(options.sides):
        for view in views_in(folder):
            one, other = (np.load(folder / f"planes-{s}-{view}.npy") for s in ("peer", "empanada"))
            if not same_planes(one, other):
                raise SystemExit(f"stage 1: {view} of {case} differs from the peer's")
    return answers


def plane_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Stage 1 on planes of 256 x 256."""
    rows = []
    for level in ("sparse", "medium"):
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            answers = label_planes(options, Case("blobs", level, 256, 0), PLANES, Path(name))
        rows += [
            {"set": f"blobs/{level}", "side": side, **milliseconds(runs, answers)}
            for side, runs in answers.items()
        ]
    return rows


def milliseconds(
    runs: list[dict[str, Any]], answers: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """CPU time of stage 1 per plane, and how often the peer's contains it."""
    spent = measure.median(runs, "cpu_s")
    peer = measure.median(answers["peer"], "cpu_s") if "peer" in answers else None
    return {
        "ms a plane": 1000 * spent / runs[0]["planes"],
        "spread": measure.spread(runs, "cpu_s"),
        "peer over it": peer and peer / spent,
    }


def object_rows(options: argparse.Namespace, case: Case) -> Iterator[dict[str, Any]]:
    """Both stages on a set."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        first = label_planes(options, case, None, folder)
        if options.check and case.size <= 128:
            stage = children(folder, options.sides, options.venvs, "--stage", "objects")
            for side in {"peer", "empanada"} & set(stage):
                measure.run(stage[side])
        more = ("--stage", "objects", "--votes", "2")
        stage = children(folder, options.sides, options.venvs, *more)
        second = measure.in_turn(stage, rounds=options.rounds)
        compare_votes(folder, case)
        truth = np.load(folder / "truth.npy")
        for side in options.sides:
            found = np.load(folder / f"objects-{side}-2.npy")
            yield {
                "set": case.name,
                "size": case.size,
                "seed": case.seed,
                "side": side,
                "F1 .5": f1(found, truth, 0.5),
                "F1 .75": f1(found, truth, 0.75),
                "found": objects(found),
                "true": objects(truth),
                "stage 1 s": measure.median(first[side], "cpu_s"),
                "stage 2 s": measure.median(second[side], "cpu_s"),
                "spread": measure.spread(second[side], "cpu_s"),
                "RSS GB": max(r["peak_rss_bytes"] for r in second[side]) / 1e9,
            }


def compare_votes(folder: Path, case: Case) -> None:
    """Objects of the peer and of the same rule here, for all ways of voting that both have."""
    compared = []
    for votes in VOTES:
        files = [folder / f"objects-{side}-{votes}.npy" for side in ("peer", "empanada")]
        if all(file.exists() for file in files):
            one, other = map(np.load, files)
            if not same_partition(one, other):
                raise SystemExit(f"stage 2: votes {votes} of {case} differs from the peer's")
            compared.append(votes)
    if compared:
        what = f"{case.name}, {case.size}, seed {case.seed}"
        print(f"same objects as the peer's: {what}: votes {'; '.join(compared)}", flush=True)


def check_stored(data: Path) -> None:
    """The peer's answers that are stored beside the generator, in blocks that divide nothing."""
    from orthoflow.reduce.engine import consensus_of

    answers = {
        "2": "consensus",
        "1": "consensus_vote1",
        "3": "consensus_vote3",
        "1, one view": "consensus_vote1_oneview",
    }
    path = data / "blobs-medium-128-seed0.npz"
    with np.load(path) as file:
        views = {view: stacked(file[f"pan_{view}"].astype(np.int32), view) for view in VIEWS}
        stored = {name: file[key] for name, key in answers.items()}
    for name, way in VOTES.items():
        rule = rule_of("empanada", **way)
        for block in (None, (48, 40, 56), (33, 64, 17), (127, 127, 127)):
            if not same_partition(consensus_of(views, rule, block=block).labels, stored[name]):
                raise SystemExit(f"votes {name} in blocks {block} differs from what is stored")
    print(f"same objects as those stored in {path.name}: votes {'; '.join(VOTES)}; 4 blocks each")


def goals(
    planes: Sequence[dict[str, Any]], sets: Sequence[dict[str, Any]]
) -> dict[str, tuple[float, str, float]]:
    """The promises of this benchmark, as far as what ran can show them."""
    found: dict[str, tuple[float, str, float]] = {}
    for row in planes:
        if row["side"] == "components" and row["peer over it"]:
            name = f"times less CPU per 256 x 256 plane, {row['set']}"
            found[name] = (row["peer over it"], ">=", 10)
    known = {(r["side"], r["set"], r["size"], r["seed"]): r for r in sets}
    gains = [
        row["F1 .5"] - known[("peer", *key)]["F1 .5"]
        for (side, *key), row in known.items()
        if side == "components" and ("peer", *key) in known
    ]
    if gains:
        found["F1 at 0.5 above the peer's, least of all sets"] = (min(gains), ">=", 0)
    for side, bound in (("empanada", 6), ("components", 10)):
        small, large = (known.get((side, "blobs/medium", size, 0)) for size in (128, 256))
        if large:
            spent = large["stage 2 s"]
            found[f"CPU s of stage 2, {side}, blobs/medium, 256"] = (spent, "<=", bound)
        if large and small:
            growth = large["stage 2 s"] / small["stage 2 s"] / 8
            found[f"growth of it from 128 to 256, {side}, over linear"] = (growth, "<=", 1.3)
    return found


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Sets, seeds and sizes; the large ones for the first seed alone."""
    for size in options.sizes:
        for name in options.sets:
            for seed in options.seeds if size <= 128 else options.seeds[:1]:
                yield Case(*name.split("/"), size, seed)


def main() -> None:
    options = parse()
    if options.child:
        if options.stage == "planes":
            run_planes(options.child, options.folder)
        else:
            run_objects(options.child, options.folder, options.votes or list(VOTES))
        return
    if options.setup:
        measure.make_environment(options.venvs / "empanada", STEPS)
    check_stored(options.data)
    planes = [] if options.skip_planes else plane_rows(options)
    sets = [row for case in cases(options) for row in object_rows(options, case)]
    print(f"\n{json.dumps(measure.machine())}\none core, {options.rounds} rounds, medians; CPU\n")
    for rows in filter(None, (planes, sets)):
        print(measure.table(rows) + "\n")
    met = measure.verdict(goals(planes, sets))
    measure.save("versus_empanada", {"planes": planes, "sets": sets, "met": met})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="make the peer's environment first")
    cache = Path.home() / ".cache" / "orthoflow-benchmarks"
    parser.add_argument("--venvs", type=Path, default=cache, help="where that is (%(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of synth.py (%(default)s)")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="KIND/LEVEL")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128], help="voxels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one set of 128, one round")
    parser.add_argument("--full", action="store_true", help="seeds 0, 2, 3, 4; and 256 for seed 0")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--skip-planes", action="store_true", help="no stage 1 of 256 x 256")
    parser.add_argument("--check", action="store_true", help="votes 1, 3 and one view, too")
    parser.add_argument("--scratch", type=Path, help="folder for outputs and labels")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=("planes", "objects"), help=argparse.SUPPRESS)
    parser.add_argument("--votes", nargs="+", choices=VOTES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.sets, options.rounds = ["blobs/medium"], 1
    if options.full:
        options.seeds, options.sizes, options.check = [0, 2, 3, 4], [128, 256], True
    return options


if __name__ == "__main__":
    main()
