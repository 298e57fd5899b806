"""What a run costs beside the network when it has very many blocks: driver, scheduler, markers.

    python benchmarks/scale.py                  # all four, some minutes
    python benchmarks/scale.py --quick          # small numbers: does it work?
    python benchmarks/scale.py --only window    # first, window, markers or rerun
    python benchmarks/scale.py --paper          # 100 TB on 64 GPUs, as the planner counts it

first    a plan of 10^6 blocks, up to the first task
window   20,000 blocks that do nothing, through the driver and a scheduler in a process of its own
markers  10^5 markers in a folder: listed, read, checked
rerun    a run that is finished, once more
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import _measure as measure
from _nothing import no_op

MILLION = (102_400, 102_400, 102_400)
BLOCK = 1024
VOLUME = (40_000, 50_000, 50_000)
WINDOW_BLOCKS = 20_000
MARKERS = 100_000
RERUN_SIDE = 160  # 1000 blocks of 16
FINGERPRINT = "0123456789abcdef" * 4


def process_facts(pid: int) -> dict[str, float]:
    """Resident memory (MB, now) and CPU seconds (user and system, so far) of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return {
        "rss_mb": int(resident.split()[1]) * 1024 / 1e6,
        "cpu_s": ticks / os.sysconf("SC_CLK_TCK"),
    }


def million_plan() -> Any:
    """Ten to the sixth blocks of 1024 voxels a side, a part each."""
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.models.card import Card
    from orthoflow.options import Options
    from orthoflow.plan import plan_run

    facts = VolumeFacts("s3://bucket/in.zarr", MILLION, "uint8", chunks=(128, 128, 128))
    card = Card("unet32", outputs=2, divisor=16, reach=93, speed=600e6)
    return plan_run(facts, card, Options(block=(BLOCK,), part=(1,)))


def model_ref() -> Any:
    """A model that nobody loads."""
    from orthoflow.models.card import Card
    from orthoflow.models.source import ModelRef

    return ModelRef(digest="0" * 64, source="unet", card=Card("unet32", outputs=2, divisor=16))


def drive(client: Any, plan: Any, report: Any) -> Any:
    """A driver's own means, without an output."""
    from orthoflow.driver import Drive
    from orthoflow.stores.locks import Lock

    record = {"fingerprint": FINGERPRINT}
    return Drive(client, "memory://none/out.zarr", record, plan.options, Lock(), report)


# --- children -----------------------------------------------------------------------------------


class Enough(Exception):  # noqa: N818 - no error: all that was wanted
    """The first task is under way."""


def first(_: argparse.Namespace) -> None:
    """From the volume's facts to the first task."""
    import distributed

    from orthoflow import driver, graph, pipeline
    from orthoflow.records import Done, run_record, settings_of
    from orthoflow.stores.ledger import Outline

    loaded = process_facts(os.getpid())["rss_mb"]
    reference = model_ref()
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    plan = million_plan()
    seconds["plan_s"] = time.perf_counter() - began
    text = str(plan)
    seconds["text_s"] = time.perf_counter() - began
    settings = settings_of(plan, reference)
    record = run_record(plan, reference, None, settings)
    seconds["record_s"] = time.perf_counter() - began
    done = Done.of(Outline.of(record), ())

    def stop(*_: Any) -> Any:
        raise Enough

    graph.written = stop
    try:
        driver.run_blocks(
            drive(None, plan, lambda _: None), plan, None, None, driver.Assignment(done=done)
        )
    except Enough:
        seconds["first_task_s"] = time.perf_counter() - began
    del text, pipeline, distributed  # a driver has them
    now = process_facts(os.getpid())["rss_mb"]
    measure.answer(blocks=plan.block_count, **seconds, rss_loaded_mb=loaded, rss_mb=now)


def window(arguments: argparse.Namespace) -> None:
    """Blocks that do nothing: what is left is the scheduler's and the driver's work."""
    from orthoflow import driver, graph
    from orthoflow.cluster import connect
    from orthoflow.job import Job
    from orthoflow.options import Options

    graph.Step = lambda _: no_op  # type: ignore[assignment,misc]
    plan = million_plan()
    parcel = graph.Parcel.of(Job(plan, model_ref(), None, None, "out", FINGERPRINT))
    jobs = plan.block_count // arguments.blocks
    pids = {"scheduler": arguments.scheduler_pid, "driver": os.getpid()}
    seen: list[dict[str, dict[str, float]]] = []
    marks = [arguments.blocks // 20, arguments.blocks]

    def report(progress: Any) -> None:
        if marks and progress.done >= marks[0]:
            marks.pop(0)
            seen.append({name: process_facts(pid) for name, pid in pids.items()})

    with connect(Options(scheduler=arguments.address)) as client:
        client.wait_for_workers(1)
        began = time.perf_counter()
        outcome = driver.run_blocks(
            drive(client, plan, report), plan, parcel, None, driver.Assignment(share=(jobs, 0))
        )
        wall = time.perf_counter() - began
    facts = {"blocks": outcome.tally.blocks, "wall_s": wall, "parcel_bytes": len(parcel.content)}
    measure.answer(**facts, **growth(*seen, blocks=marks_between(arguments.blocks)))


def marks_between(blocks: int) -> int:
    """Blocks between the two looks at the processes: from a twentieth on."""
    return blocks - blocks // 20


def growth(early: Any, late: Any, *, blocks: int) -> dict[str, float]:
    """Memory of the processes at both looks, and their CPU milliseconds per block between."""
    facts = {}
    for name in early:
        facts[f"{name}_mb_early"] = early[name]["rss_mb"]
        facts[f"{name}_mb_at_end"] = late[name]["rss_mb"]
        used = late[name]["cpu_s"] - early[name]["cpu_s"]
        facts[f"{name}_ms_per_block"] = used / blocks * 1000
    return facts


def markers(arguments: argparse.Namespace) -> None:
    """A folder of markers, each of one object, as a driver and `verify` read them."""
    from orthoflow.errors import BadInput
    from orthoflow.job import Tally
    from orthoflow.stores.markers import (
        Marker,
        Stamp,
        block_marker_name,
        create_marker,
        list_marker_names,
        read_markers,
    )

    side = round(arguments.markers ** (1 / 3)) + 1
    numbers = [(i // side**2, i // side % side, i % side) for i in range(arguments.markers)]
    facts = asdict(Tally(blocks=1, voxels=BLOCK**3, seconds={"network": 1.5, "write": 0.25}))
    with tempfile.TemporaryDirectory() as folder:
        for z, y, x in numbers:
            key = f"labels/segmentation/0/c/{z}/{y}/{x}"
            box = f"{z}:{z + 1},{y}:{y + 1},{x}:{x + 1}"
            name = block_marker_name((z, y, x))
            stamps = (Stamp(key, 1_000_000, "0" * 32),)
            create_marker(folder, Marker(name, FINGERPRINT, box, stamps, facts))
        with measure.stopwatch() as listing:
            names = list_marker_names(folder, FINGERPRINT)
        with measure.stopwatch() as reading:
            total = Tally()
            for _, marker in read_markers(folder, FINGERPRINT, names=sorted(names)):
                if isinstance(marker, BadInput):
                    raise marker
                total.add(Tally.from_dict(marker.facts))
    assert total.blocks == len(names) == arguments.markers
    measure.answer(markers=len(names), list_s=listing["wall_s"], check_s=reading["wall_s"])


def rerun(arguments: argparse.Namespace) -> None:
    """A run; where its output is finished already, it looks and says so."""
    import numpy as np
    import torch

    import orthoflow as of
    from _subject import DIVISOR, OUTPUTS, Counted, PlainUNet, counts, forget

    source = arguments.folder / "in.npy"
    if not source.exists():
        np.save(source, np.random.default_rng(0).random((arguments.side,) * 3, np.float32))
    torch.manual_seed(0)
    model = of.Model.from_torch(Counted(PlainUNet(base=4)), outputs=OUTPUTS, divisor=DIVISOR)
    forget()
    wishes: dict[str, Any] = {"chunk": 16, "block": 16, "tile": 16, "part": 1, "resume": True}
    with measure.stopwatch() as seconds:
        report = of.run(source, arguments.folder / "out.zarr", model=model, **wishes)
    assert report["complete"]
    assert not report["failed"]
    measure.answer(
        **seconds,
        blocks=report["blocks"],
        resumed=report["blocks_resumed"],
        model_calls=sum(counts()["calls"].values()),
    )


# --- the parent ---------------------------------------------------------------------------------


@contextmanager
def scheduler() -> Iterator[tuple[str, int]]:
    """A scheduler and a worker of 16 threads, a process each: address, scheduler's process."""
    here = str(Path(__file__).parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": here}

    def begin(*command: str) -> subprocess.Popen[bytes]:
        module = [sys.executable, "-m", f"distributed.cli.dask_{command[0]}"]
        flags = [*command[1:], "--no-dashboard", "--scheduler-file", file]
        return subprocess.Popen([*module, *flags], env=environment, stderr=subprocess.DEVNULL)

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/scheduler.json"
        begun = [begin("scheduler", "--host", "127.0.0.1", "--port", "0")]
        try:
            while not Path(file).exists():
                time.sleep(0.1)
            begun.append(
                begin("worker", "--no-nanny", "--nthreads", "16", "--local-directory", folder)
            )
            address = json.loads(Path(file).read_text(encoding="utf-8"))["address"]
            yield address, begun[0].pid
        finally:
            for process in reversed(begun):
                process.terminate()
                process.wait()


def child(name: str, **flags: Any) -> dict[str, Any]:
    """Run one of the children above; `process_s` is all of its process, imports included."""
    given = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
    command = (sys.executable, __file__, "--child", name, *given)
    measure.note(f"{name} {' '.join(given)}")
    cores = measure.first_cores(os.cpu_count() or 1)
    with measure.stopwatch() as seconds:
        answer = measure.run(measure.Child(command, cores))
    return answer | {"process_s": seconds["wall_s"]}


def measure_first(_: argparse.Namespace) -> dict[str, Any]:
    return child("first")


def measure_window(options: argparse.Namespace) -> dict[str, Any]:
    with scheduler() as (address, pid):
        blocks = 1000 if options.quick else WINDOW_BLOCKS
        return child("window", address=address, scheduler_pid=pid, blocks=blocks)


def measure_markers(options: argparse.Namespace) -> dict[str, Any]:
    return child("markers", markers=1000 if options.quick else MARKERS)


def measure_rerun(options: argparse.Namespace) -> dict[str, Any]:
    side = 48 if options.quick else RERUN_SIDE
    with tempfile.TemporaryDirectory() as folder:
        once = child("rerun", folder=folder, side=side)
        again = child("rerun", folder=folder, side=side)
    assert once["resumed"] == 0
    assert once["model_calls"] > 0
    return again | {"first_run_s": once["wall_s"]}


PARTS = {
    "first": measure_first,
    "window": measure_window,
    "markers": measure_markers,
    "rerun": measure_rerun,
}


def goals(found: dict[str, dict[str, Any]]) -> dict[str, tuple[float, str, float]]:
    """What each part was asked for, as far as it was measured."""
    wanted: dict[str, tuple[float, str, float]] = {}
    if first_ := found.get("first"):
        wanted["first task of 10^6 blocks, s"] = (first_["first_task_s"], "<=", 2.0)
        wanted["driver's memory then, MB"] = (first_["rss_mb"], "<=", 250.0)
    if window_ := found.get("window"):
        for name in ("scheduler", "driver"):
            grown = window_[f"{name}_mb_at_end"] - window_[f"{name}_mb_early"]
            wanted[f"{name} grew from block 1/20 on, MB"] = (grown, "<=", 40.0)
        both = window_["scheduler_ms_per_block"] + window_["driver_ms_per_block"]
        wanted["scheduler and driver, CPU ms per block"] = (both, "<=", 2.0)
    if markers_ := found.get("markers"):
        both = markers_["list_s"] + markers_["check_s"]
        wanted["markers listed and checked, s"] = (both, "<=", 10.0)
    if rerun_ := found.get("rerun"):
        wanted["a finished run once more, s"] = (rerun_["wall_s"], "<=", 3.0)
        wanted["its model calls"] = (rerun_["model_calls"], "<=", 0)
    return wanted


def paper() -> None:
    """100 TB on 64 GPUs, as the planner counts it; the networks' speeds are roofline estimates."""
    from orthoflow.geometry.facts import VolumeFacts
    from orthoflow.models.card import Card
    from orthoflow.options import Options
    from orthoflow.plan import plan_run

    facts = VolumeFacts("s3://bucket/in.zarr", VOLUME, "uint8", chunks=(128, 128, 128))
    unet = Card("U-Net of 32 channels", outputs=2, divisor=16, reach=93, speed=673e6)
    sam = Card("Cellpose-SAM", outputs=3, tile=(256, 256), stride=8, speed=27e6)
    for card, more in ((unet, {}), (unet, {"num_parts": 64}), (sam, {}), (sam, {"part": 4})):
        wishes = {"workers": 64, "device": "cuda", **more}
        if "num_parts" in more:
            wishes["workers"] = 1
        plan = plan_run(facts, card, Options.from_mapping(wishes))
        lines = str(plan).splitlines()
        first_ = next(i for i, line in enumerate(lines) if line.startswith("work "))
        print(f"\n{card.name}, {wishes}\n", *lines[first_:], sep="\n")


def main() -> None:
    options = parse()
    if options.paper:
        paper()
        return
    if options.child:
        globals()[options.child](options)
        return
    parts = options.only.split(",") if options.only else list(PARTS)
    found = {part: PARTS[part](options) for part in parts}
    for part, facts in found.items():
        print(f"\n{part}\n")
        print(measure.table([{"what": key, "found": value} for key, value in facts.items()]))
    print()
    met = measure.verdict(goals(found))
    measure.save("scale", {"quick": options.quick, **found, "met": met})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it work?")
    parser.add_argument("--paper", action="store_true", help="100 TB on 64 GPUs, on paper")
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    for name, kind in CHILD_FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


CHILD_FLAGS = {
    "address": str,
    "scheduler-pid": int,
    "blocks": int,
    "markers": int,
    "folder": Path,
    "side": int,
}


if __name__ == "__main__":
    main()
