"""Sliding windows over the planes of a stack: orthoflow against MONAI, one core, in turn.

    python benchmarks/versus_monai.py --setup           # makes MONAI's environment once
    python benchmarks/versus_monai.py --quick           # a small volume: does it work?

Same network, weights, volume, window (256 x 256), overlap, positions (`grid="step"`) and Gaussian
weights, so both run the same tiles; what differs is everything around the network. A fourth side
lets orthoflow cut the planes as it likes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _measure as measure

ROI = 256
OVERLAP = 0.25
BATCH = 4
TOLERANCE = 1e-4  # absolute, where MONAI's weights are not clamped
CLAMP = 1e-3  # MONAI raises smaller weights to this
STEPS = [["torch", "numpy", "monai==1.6.1"]]
SIDES = ("monai", "same", "free", "network")
FULL = (16, 640, 600)
QUICK = (4, 400, 330)


# --- children -----------------------------------------------------------------------------------


def run_monai(folder: Path) -> None:
    """MONAI's inferer; planes are its batch axis."""
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    import _subject

    torch.set_num_threads(1)
    volume, network = _subject.volume_in(folder), _subject.network_in(folder)
    with measure.stopwatch() as seconds, torch.no_grad():
        logits = sliding_window_inference(
            torch.from_numpy(volume)[:, None],
            roi_size=(ROI, ROI),
            sw_batch_size=BATCH,
            predictor=network,
            overlap=OVERLAP,
            mode="gaussian",
        )
    np.save(folder / "monai.npy", logits.numpy().swapaxes(0, 1))
    measure.answer(**seconds, **_subject.counts())


def _predict(folder: Path, shape: dict[str, Any], **wishes: Any) -> tuple[Any, dict[str, Any]]:
    import dask
    import torch

    import _subject
    import orthoflow as of

    torch.set_num_threads(1)
    volume, network = _subject.volume_in(folder), _subject.network_in(folder)
    model = of.Model.from_torch(network, outputs=_subject.OUTPUTS, **shape)
    wishes |= {"orientations": ("xy",), "overlap": OVERLAP, "batch_size": BATCH}
    wishes |= {"mode": "multiclass", "block": _subject.whole(volume.shape)}

    def logits(stack: Any) -> Any:
        return of.predict(stack, model, **wishes)["xy"].to_numpy()

    with dask.config.set(scheduler="synchronous"):
        logits(volume[:1, :ROI, :ROI])  # imports what it needs and loads the model
        _subject.forget()
        with measure.stopwatch() as seconds:
            found = logits(volume)
    return found, {**seconds, **_subject.counts()}


def run_same(folder: Path) -> None:
    """orthoflow with MONAI's windows."""
    import numpy as np

    found, facts = _predict(folder, {"tile": (ROI, ROI)}, grid="step", packing="none")
    np.save(folder / "same.npy", found)
    measure.answer(**facts)


def run_free(folder: Path) -> None:
    """orthoflow as it comes for a fully convolutional network."""
    import _subject

    _, facts = _predict(folder, {"divisor": _subject.DIVISOR})
    measure.answer(**facts)


def run_network(folder: Path) -> None:
    """The tiles of side `same` through the network, and nothing else."""
    import torch

    import _subject
    import orthoflow as of
    from orthoflow.kernels.allocator import keep_freed_memory

    torch.set_num_threads(1)
    calls = json.loads((folder / "calls.json").read_text(encoding="utf-8"))
    network = _subject.network_in(folder)
    model = of.Model.from_torch(network, outputs=_subject.OUTPUTS, tile=(ROI, ROI))
    tiles = {key: torch.rand(*map(int, key.split("x"))) for key in calls}
    keep_freed_memory()
    _subject.forget()
    with measure.stopwatch() as seconds:
        for key, count in calls.items():
            for _ in range(count):
                model(tiles[key])
    measure.answer(**seconds, **_subject.counts())


# --- parent -------------------------------------------------------------------------------------


def unclamped(shape: Sequence[int]) -> Any:
    """Pixels of a plane where no window that covers them has a weight below MONAI's clamp."""
    import numpy as np

    window = np.arange(ROI) - (ROI - 1) / 2
    gauss = np.exp(-(window**2) / (2 * (0.125 * ROI) ** 2))
    low = np.outer(gauss, gauss) < CLAMP
    touched = np.zeros(tuple(shape), bool)
    for y in _starts(shape[0]):
        for x in _starts(shape[1]):
            touched[y : y + ROI, x : x + ROI] |= low
    return ~touched


def _starts(size: int) -> list[int]:
    """MONAI's positions: multiples of the stride, the last one pulled back to the edge."""
    stride = int(ROI * (1 - OVERLAP))
    count = -(-(size - ROI) // stride) + 1
    return [min(i * stride, size - ROI) for i in range(count)]


def check(folder: Path, shape: Sequence[int]) -> tuple[float, float]:
    """Largest difference of the two answers where weights agree, and the share of such pixels."""
    import numpy as np

    clear = unclamped(shape[1:])
    theirs, ours = (np.load(folder / f"{side}.npy")[..., clear] for side in ("monai", "same"))
    return float(np.abs(theirs - ours).max()), float(clear.mean())


def children(folder: Path, sides: Sequence[str], venvs: Path) -> dict[str, measure.Child]:
    cores, script = measure.first_cores(1), str(Path(__file__).resolve())
    pythons = dict.fromkeys(sides, sys.executable) | {"monai": str(venvs / "monai/bin/python")}
    return {
        side: measure.Child(
            (pythons[side], script, "--child", side, "--folder", str(folder)), cores
        )
        for side in sides
    }


def compare(
    folder: Path, shape: tuple[int, ...], sides: Sequence[str], *, rounds: int, venvs: Path
) -> None:
    import _subject

    _subject.make(folder, shape)
    if "network" in sides:  # it repeats the calls of side `same`
        first = measure.run(children(folder, ["same"], venvs)["same"])
        (folder / "calls.json").write_text(json.dumps(first["calls"]), encoding="utf-8")
    answers = measure.in_turn(children(folder, sides, venvs), rounds=rounds)
    cpu = {side: measure.median(runs, "cpu_s") for side, runs in answers.items()}
    print(f"\nvolume {shape}, window {ROI}, overlap {OVERLAP}, one core, {rounds} rounds\n")
    print(measure.table([_row(side, runs, cpu) for side, runs in answers.items()]), "\n")
    result: dict[str, Any] = {"shape": shape, "answers": answers}
    goals: dict[str, tuple[float, str, float]] = {}
    if {"monai", "same"} <= cpu.keys():
        difference, share = check(folder, shape)
        result |= {"difference": difference, "share": share}
        name = f"largest difference to MONAI on the {share:.0%} of pixels without clamped weights"
        goals[name] = (difference, "<=", TOLERANCE)
        goals["CPU seconds over MONAI's, same tiles"] = (cpu["same"] / cpu["monai"], "<=", 1.05)
    if {"network", "same"} <= cpu.keys():
        goals["total over network only"] = (cpu["same"] / cpu["network"], "<=", 1.05)
    measure.save("versus_monai", result | {"met": measure.verdict(goals)})


def _row(side: str, runs: list[dict[str, Any]], cpu: dict[str, float]) -> dict[str, Any]:
    return {
        "side": side,
        "cpu_s": cpu[side],
        "spread": measure.spread(runs, "cpu_s"),
        "wall_s": measure.median(runs, "wall_s"),
        "system_s": measure.median(runs, "system_s"),
        "in network": measure.median(runs, "forward_s"),
        "tiles": runs[0]["tiles"],
        "Mpixels": runs[0]["pixels"] / 1e6,
        "over network": cpu[side] / cpu["network"] if "network" in cpu else None,
        "RSS GB": max(r["peak_rss_bytes"] for r in runs) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="make MONAI's environment first")
    cache = Path.home() / ".cache" / "orthoflow-benchmarks"
    parser.add_argument("--venvs", type=Path, default=cache, help="where it is (%(default)s)")
    parser.add_argument("--shape", default=",".join(map(str, FULL)), help="z,y,x (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}, one round")
    parser.add_argument("--sides", default=",".join(SIDES), help="some of %(default)s")
    parser.add_argument("--scratch", type=Path, help="folder for volumes and outputs")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        globals()[f"run_{options.child}"](options.folder)
        return
    if options.setup:
        measure.make_environment(options.venvs / "monai", STEPS)
    shape = QUICK if options.quick else tuple(int(n) for n in options.shape.split(","))
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        compare(Path(name), shape, options.sides.split(","), rounds=rounds, venvs=options.venvs)


if __name__ == "__main__":
    main()
