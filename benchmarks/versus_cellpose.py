"""The network pass over a thin stack: orthoflow against Cellpose 3.1 and 4, one core, in turn.

    python benchmarks/versus_cellpose.py --setup           # makes the peers' environments once
    python benchmarks/versus_cellpose.py --quick           # a small volume: does it work?
    python benchmarks/versus_cellpose.py masks             # flows to cells; see _cellpose_masks.py

Same network, same weights, same volume, one core and one thread per side. Cellpose's part is
`cellpose.core.run_3D`: the network pass over planes of all three orientations, without masks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _cellpose_masks as masks
import _measure as measure

OVERLAP = 0.1  # Cellpose's default
TOLERANCE = 1e-4  # of the largest logit, one plane that each side runs in one tile
PEERS = {
    # The tile each version uses in 3-D, whatever the caller asks for.
    "cellpose3": {"tile": 224, "steps": [["cellpose==3.1.1.2", "torch"]]},
    # The wheel asks for torchvision, which would replace the CPU build of torch, and for
    # segment_anything; the network pass needs neither, so it goes in without dependencies.
    "cellpose4": {
        "tile": 256,
        "steps": [
            ["torch", "numpy", "scipy", "opencv-python-headless", "fastremap", "fill-voids"],
            ["imagecodecs", "roifile", "natsort", "tifffile", "tqdm"],
            ["--no-deps", "cellpose==4.2.1.1"],
        ],
    },
}
SIDES = (*PEERS, "memory", "zarr", "network")
FULL = (68, 492, 492)
QUICK = (24, 200, 200)


# --- children -----------------------------------------------------------------------------------


def run_peer(name: str, folder: Path) -> None:
    """Cellpose's own network pass with our network behind its interface."""
    import numpy as np
    import torch
    from cellpose import core

    import _subject

    class Interface(torch.nn.Module):
        """What run_net wants of a network: attributes, and a style vector beside the output."""

        device = torch.device("cpu")
        dtype = torch.float32
        nout = _subject.OUTPUTS
        mkldnn = False

        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.network(tiles), torch.ones(len(tiles), 256)

    torch.set_num_threads(1)
    volume, counted = _subject.volume_in(folder), _subject.network_in(folder)
    network = Interface(counted).eval()
    tile = PEERS[name]["tile"]
    settings = {"bsize": tile, "tile_overlap": OVERLAP}

    def planes(stack: Any) -> Any:
        return core.run_net(network, stack[..., None], **settings)[0].transpose(0, 3, 1, 2)

    side = tile - 16  # with Cellpose's own margin of 8 this is exactly one tile
    plane = _subject.volume_in(folder)[0, :side, :side]
    plane = np.pad(plane, [(0, side - n) for n in plane.shape])
    same = _subject.deviation(planes(plane[None])[0], _subject.plain_pass(counted, plane, 8))
    middle = volume[len(volume) // 2]
    phase = _subject.deviation(
        planes(middle[None])[0], _subject.plain_pass(counted, middle), border=32
    )
    _subject.forget()
    with measure.stopwatch() as seconds:
        output, _ = core.run_3D(network, volume[..., None], **settings)
    np.save(folder / f"{name}.npy", output[..., -1])
    measure.answer(**seconds, **_subject.counts(), same=same, phase=phase)


def run_memory(folder: Path) -> None:
    """orthoflow in memory: the three orientations' logits in one array, as run_3D gives."""
    import dask
    import numpy as np
    import torch

    import _subject
    import orthoflow as of

    torch.set_num_threads(1)
    volume, network = _subject.volume_in(folder), _subject.network_in(folder)
    model = of.Model.from_torch(network, outputs=_subject.OUTPUTS, divisor=_subject.DIVISOR)
    wishes = {"overlap": OVERLAP, "mode": "multiclass", "block": _subject.whole(volume.shape)}
    side = _subject.DIVISOR * (min(volume.shape[1:]) // _subject.DIVISOR)
    plane = volume[:1, :side, :side]
    single = of.predict(plane, model, orientations=("xy",), **wishes)["xy"].to_numpy()
    same = _subject.deviation(single[:, 0], _subject.plain_pass(network, plane[0]))
    _subject.forget()
    with dask.config.set(scheduler="synchronous"):
        with measure.stopwatch() as seconds:
            logits = of.predict(volume, model, **wishes)["consensus"].compute()
        counts = _subject.counts()
        with measure.stopwatch() as again:
            of.predict(volume, model, **wishes)["consensus"].compute()
    # Cellpose adds the orientations up, the consensus is their mean.
    np.save(folder / "memory.npy", 3 * logits.to_numpy()[-1])
    middle = volume.shape[0] // 2
    plain = _subject.plain_pass(network, volume[middle])
    xy = of.predict(volume[middle : middle + 1], model, orientations=("xy",), **wishes)["xy"]
    phase = _subject.deviation(xy.to_numpy()[:, 0], plain, border=32)
    measure.answer(**seconds, **counts, same=same, phase=phase, again_s=again["cpu_s"])


def run_zarr(folder: Path) -> None:
    """orthoflow from Zarr to Zarr: everything that `orthoflow run` does, with Dask and pyramid."""
    import torch
    import zarr

    import _subject
    import orthoflow as of

    torch.set_num_threads(1)
    volume, network = _subject.volume_in(folder), _subject.network_in(folder)
    model = of.Model.from_torch(network, outputs=_subject.OUTPUTS, divisor=_subject.DIVISOR)
    source, target = folder / "in.zarr", folder / "out.zarr"
    if not source.exists():
        chunks = tuple(min(n, 128) for n in volume.shape)
        zarr.create_array(str(source), data=volume, chunks=chunks)
    wishes = {"overlap": OVERLAP, "mode": "multiclass", "cluster": "threads", "workers": 1}
    with measure.stopwatch() as seconds:
        report = of.run(str(source), str(target), model=model, overwrite=True, **wishes)
    counts = _subject.counts()
    with measure.stopwatch() as again:
        of.run(str(source), str(target), model=model, overwrite=True, **wishes)
    measure.answer(**seconds, **counts, report=str(report), again_s=again["cpu_s"])


def run_network(folder: Path) -> None:
    """The tiles of the run in memory through the model, and nothing else."""
    import json

    import torch

    import _subject
    import orthoflow as of
    from orthoflow.kernels.allocator import keep_freed_memory

    torch.set_num_threads(1)
    calls = json.loads((folder / "calls.json").read_text(encoding="utf-8"))
    network = _subject.network_in(folder)
    model = of.Model.from_torch(network, outputs=_subject.OUTPUTS, divisor=_subject.DIVISOR)
    tiles = {key: torch.rand(*map(int, key.split("x"))) for key in calls}
    # As orthoflow's tasks do: what is compared is the work around the network.
    keep_freed_memory()
    _subject.forget()
    with measure.stopwatch() as seconds:
        for key, count in calls.items():
            for _ in range(count):
                model(tiles[key])
    measure.answer(**seconds, **_subject.counts())


# --- parent -------------------------------------------------------------------------------------


def python_of(side: str, venvs: Path) -> str:
    return str(venvs / side / "bin" / "python") if side in PEERS else sys.executable


def set_up(venvs: Path) -> None:
    """Make the peers' environments; Cellpose 4 gets a stand-in for the torchvision it imports."""
    for name, peer in PEERS.items():
        python = measure.make_environment(venvs / name, peer["steps"])
        if name == "cellpose4":
            packages = next((python.parent.parent / "lib").glob("python*/site-packages"))
            stub = packages / "torchvision" / "transforms"
            stub.mkdir(parents=True, exist_ok=True)
            (stub.parent / "__init__.py").write_text("", encoding="utf-8")
            names = "functional = _functional_tensor = None  # used by training only\n"
            (stub / "__init__.py").write_text(names, encoding="utf-8")


def child_of(part: str, side: str, folder: Path, venvs: Path) -> measure.Child:
    script = str(Path(__file__).resolve())
    # The flows to follow are Cellpose's.
    python = python_of("cellpose4" if side == "flows" else side, venvs)
    command = (python, script, part, "--child", side, "--folder", str(folder))
    return measure.Child(command, measure.first_cores(1))


def children(folder: Path, sides: Sequence[str], venvs: Path) -> dict[str, measure.Child]:
    return {side: child_of("network", side, folder, venvs) for side in sides}


def rows(answers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    ours = answers.get("memory")
    return [
        {
            "side": side,
            "cpu_s": measure.median(runs, "cpu_s"),
            "spread": measure.spread(runs, "cpu_s"),
            "again_s": measure.median(runs, "again_s") if "again_s" in runs[0] else None,
            "wall_s": measure.median(runs, "wall_s"),
            "system_s": measure.median(runs, "system_s"),
            "in network": measure.median(runs, "forward_s"),
            "tiles": runs[0]["tiles"],
            "Mpixels": runs[0]["pixels"] / 1e6,
            "times ours": ours and measure.median(runs, "cpu_s") / measure.median(ours, "cpu_s"),
            "RSS GB": max(r["peak_rss_bytes"] for r in runs) / 1e9,
            "one tile": runs[0].get("same"),
            "plane": runs[0].get("phase"),
        }
        for side, runs in answers.items()
    ]


def agreement(folder: Path, side: str) -> float:
    """Correlation of the last channel, summed over orientations, with orthoflow's, inside."""
    import numpy as np

    inner = (slice(8, -8), slice(32, -32), slice(32, -32))
    ours, theirs = (np.load(folder / f"{name}.npy")[inner].ravel() for name in ("memory", side))
    return float(np.corrcoef(ours, theirs)[0, 1])


def goals(answers: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[float, str, float]]:
    """The promises of this benchmark, as far as the sides that ran can show them."""
    cpu = {side: measure.median(runs, "cpu_s") for side, runs in answers.items()}
    # A first pass pays for imports and for memory that was never touched; a long run pays once.
    again = {s: measure.median(r, "again_s") for s, r in answers.items() if "again_s" in r[0]}
    found: dict[str, tuple[float, str, float]] = {}
    for over, under, seconds, sign, bound, name in (
        ("cellpose4", "memory", cpu, ">=", 3.0, "fewer CPU seconds than Cellpose 4"),
        ("cellpose3", "memory", cpu, ">=", 1.4, "fewer CPU seconds than Cellpose 3.1"),
        ("memory", "network", again, "<=", 1.05, "second pass over network only, in memory"),
        ("zarr", "network", again, "<=", 1.10, "second pass over network only, Zarr to Zarr"),
        ("memory", "network", cpu, "<=", 1.05, "first pass over network only, in memory"),
        ("zarr", "network", cpu, "<=", 1.10, "first pass over network only, Zarr to Zarr"),
    ):
        if over in seconds and under in cpu:
            found[name] = (seconds[over] / cpu[under], sign, bound)
    return found


def main() -> None:
    options = parse()
    if options.child:
        run_child(options.part, options.child, options.folder)
        return
    if options.setup:
        set_up(options.venvs)
    if options.part == "masks":
        masks.compare(options, lambda side, at: child_of("masks", side, at, options.venvs))
        return
    shape = QUICK if options.quick else tuple(int(n) for n in options.shape.split(","))
    rounds = 1 if options.quick else options.rounds
    sides = options.sides.split(",") if options.sides else SIDES
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        compare(Path(name), shape, sides, rounds=rounds, venvs=options.venvs)


def run_child(part: str, side: str, folder: Path) -> None:
    if part == "masks":
        masks.run_side(side, folder)
    elif side in PEERS:
        run_peer(side, folder)
    else:
        globals()[f"run_{side}"](folder)


def compare(
    folder: Path, shape: tuple[int, ...], sides: Sequence[str], *, rounds: int, venvs: Path
) -> None:
    import json

    import _subject

    _subject.make(folder, shape)
    if "network" in sides:  # it repeats the calls of the run in memory
        first = measure.run(children(folder, ["memory"], venvs)["memory"])
        (folder / "calls.json").write_text(json.dumps(first["calls"]), encoding="utf-8")
    answers = measure.in_turn(children(folder, sides, venvs), rounds=rounds)
    print(f"\nvolume {shape}, overlap {OVERLAP}, one core, {rounds} rounds, medians\n")
    print(measure.table(rows(answers)))
    print("\none tile: deviation from the plain network on a plane that fits one tile.")
    print("plane: the same on a whole plane 32 pixels off the edges; not zero where tiles are not")
    print("in phase with the plane (a random network answers differently) or blend over seams.\n")
    wrong = [s for s, runs in answers.items() if runs[0].get("same", 0.0) > TOLERANCE]
    found = {}
    if "memory" in sides:
        found = {side: agreement(folder, side) for side in sides if side in PEERS}
        for side, value in found.items():
            print(f"correlation of the summed last channel, {side} with orthoflow: {value:.4f}")
    met = measure.verdict(goals(answers))
    measure.save(
        "versus_cellpose", {"shape": shape, "answers": answers, "agreement": found, "met": met}
    )
    if wrong:
        raise SystemExit(f"not the same function (over {TOLERANCE}): {', '.join(wrong)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("network", "masks")
    parser.add_argument("part", nargs="?", choices=parts, default="network", help="(%(default)s)")
    parser.add_argument("--setup", action="store_true", help="make the peers' environments first")
    cache = Path.home() / ".cache" / "orthoflow-benchmarks"
    parser.add_argument("--venvs", type=Path, default=cache, help="where those are (%(default)s)")
    parser.add_argument("--shape", default=",".join(map(str, FULL)), help="z,y,x (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small volume, one round")
    sides = f"some of {','.join(SIDES)}; of masks: {','.join(masks.SIDES)}"
    parser.add_argument("--sides", help=sides)
    parser.add_argument("--scratch", type=Path, help="folder for volumes and outputs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
