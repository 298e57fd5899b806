"""Promises 4 and 5: the plan predicts the work; chunks are read once; nothing else is written."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr

import orthoflow as of
from orthoflow.plan import costs
from tests import nets

SHAPE = (20, 36, 44)
ROOT = Path(__file__).resolve().parent.parent

CASES = {
    "planes": ({}, {}),
    "one block": ({}, {"block": 64}),
    "a part for each block": ({}, {"part": 1, "tile": 16}),
    "large parts": ({}, {"part": 100, "tile": 16, "overlap": 0.5}),
    "stripes": ({"tile": (48, 48)}, {"part": (1, 2, 2)}),
    "shared": ({"tile": (28, 28)}, {}),
    "3-D": ({"ndim": 3}, {"part": 2}),
    "resampled": ({}, {"downsample": (1, 2, 2), "anisotropy": 2, "median": 3, "part": 1}),
    "region": ({}, {"roi": "3:17,5:30,1:43", "part": 1, "tile": 16}),
    "everything": ({}, {"output": "both", "disagreement": True, "keep_stacks": True, "levels": 3}),
    "multiclass": ({"outputs": 3}, {"output": "both", "part": 1}),
    "normalised": ({}, {"normalization": "zscore", "part": 1}),
}
every_case = pytest.mark.parametrize("case", CASES)


class Counter:
    """What zarr reads and writes on disks, by file."""

    def __init__(self, monkeypatch):
        self.reads, self.writes = collections.Counter(), collections.Counter()
        local = zarr.storage.LocalStore
        get, put = local.get, local.set

        async def counted_get(store, key, prototype=None, byte_range=None):
            self.reads[str(store.root / key)] += 1
            return await get(store, key, prototype, byte_range)

        async def counted_set(store, key, value):
            self.writes[str(store.root / key)] += 1
            await put(store, key, value)

        monkeypatch.setattr(local, "get", counted_get)
        monkeypatch.setattr(local, "set", counted_set)

    def chunks(self, counts, root):
        """Counts of the chunks under `root`; metadata is left out."""
        return {
            name: n
            for name, n in counts.items()
            if name.startswith(f"{root}{os.sep}") and f"{os.sep}c{os.sep}" in name
        }


@pytest.fixture
def stored(tmp_path):
    """A volume in Zarr, in chunks that fit nothing else."""
    path = tmp_path / "in" / "v.zarr"
    array = zarr.create_array(path, shape=SHAPE, chunks=(7, 9, 10), dtype="u1")
    array[:] = nets.blobs(SHAPE)
    return path


def ran(case, stored, output):
    facts, options = CASES[case]
    options = {"chunk": 8, "block": 16, **options}
    model = nets.plain(**facts)
    plan = of.make_plan(stored, model, **options).to_dict()
    report = of.run(stored, output, model=model, cluster="synchronous", **options)
    assert report["failed"] == {}
    return plan, report


@every_case
def test_the_plan_predicts_tiles_patches_pixels_and_bytes(case, stored, tmp_path, monkeypatch):
    counter = Counter(monkeypatch)
    output = tmp_path / "out.zarr"
    plan, report = ran(case, stored, output)
    for key in ("patches", "tiles", "network_pixels"):
        assert plan["run"][key] == report[key] > 0
    assert (
        plan["bytes_read"]
        == report["bytes_read"]
        == bytes_of(counter.chunks(counter.reads, stored), stored)
    )
    written = [zarr.open_array(path.parent) for path in output.rglob("zarr.json") if is_array(path)]
    assert plan["bytes_written"] == report["bytes_written"] == sum(a.nbytes for a in written)
    assert plan["blocks"] == report["blocks"]


def bytes_of(reads, path):
    """Decoded bytes of counted chunk reads; the chunks at the end are cut to the array."""
    array = zarr.open_array(path)
    total = 0
    for name, times in reads.items():
        place = [int(part) for part in Path(name).parts[-3:]]
        sides = [
            min(c, n - i * c) for i, c, n in zip(place, array.chunks, array.shape, strict=True)
        ]
        total += times * int(np.prod(sides)) * array.dtype.itemsize
    return total


def is_array(path):
    return json.loads(path.read_text())["node_type"] == "array"


@every_case
def test_every_chunk_is_read_once_a_block_and_every_object_is_written_once(
    case, stored, tmp_path, monkeypatch
):
    facts, options = CASES[case]
    plan, _, _ = nets.planned(stored, nets.plain(**facts), **{"block": 16, **options})
    allowed = collections.Counter()
    for part in plan.parts():
        for block in part.blocks:
            box = plan.input_box(part, block)
            if box is not None:
                allowed.update(touched(box))
    if "normalization" in options:
        allowed.update(dict.fromkeys(allowed, 1))  # a look at the whole volume beforehand
    counter = Counter(monkeypatch)
    output = tmp_path / "out.zarr"
    ran(case, stored, output)
    reads = counter.chunks(counter.reads, stored)
    assert sum(reads.values()) <= 1.05 * sum(allowed.values())
    for name, times in reads.items():
        assert times <= allowed[tuple(int(part) for part in Path(name).parts[-3:])]
    writes = counter.chunks(counter.writes, output)
    assert set(writes.values()) == {1}
    # Shards are read for the pyramid only, never to be changed.
    finest = {name for name in writes if f"{os.sep}0{os.sep}c{os.sep}" in name}
    assert finest


def touched(box):
    """Chunks of 7 x 9 x 10 voxels that a box meets."""
    spans = [
        range(lo // c, -(-hi // c))
        for lo, hi, c in zip(box.start, box.stop, (7, 9, 10), strict=True)
    ]
    return [(z, y, x) for z in spans[0] for y in spans[1] for x in spans[2]]


@pytest.mark.parametrize("case", ["large parts", "resampled", "normalised"])
def test_nothing_is_on_disk_but_the_output(case, stored, tmp_path, monkeypatch):
    """Looked at after every block: the files of the output, complete ones, and no others."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(scratch)
    before = set(nets.tree(tmp_path))
    seen = set()
    facts, options = CASES[case]

    def look(progress):
        del progress
        seen.update(nets.tree(tmp_path))

    model = nets.plain(**facts)
    of.run(
        stored,
        tmp_path / "out.zarr",
        model=model,
        cluster="synchronous",
        progress=look,
        **{"chunk": 8, "block": 16, **options},
    )
    after = set(nets.tree(tmp_path))
    assert seen
    assert seen - {"out.zarr/orthoflow/locks", "out.zarr/orthoflow/locks/run.json"} <= after
    assert {name for name in after - before if Path(name).parts[0] != "out.zarr"} == set()
    known = {"zarr.json", "run.json", "report.json"}
    files = [Path(name) for name in after - before if (tmp_path / name).is_file()]
    records = {f for f in files if "c" not in f.parts}
    markers = {f for f in records if "markers" in f.parts}
    assert {f.name for f in records - markers} == known
    # As many as there are blocks and shards of coarser levels, each of a few hundred bytes.
    assert markers
    assert max((tmp_path / f).stat().st_size for f in markers) < 2000


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_a_local_cluster_leaves_nothing_behind(cluster, stored, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(scratch)
    of.run(stored, tmp_path / "out.zarr", model=nets.plain(), cluster=cluster, workers=1, chunk=16)
    # Dask leaves the lock files of its scratch folder, which are empty.
    assert sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) == 0


PEAK = """
import json, sys
import numpy as np
import orthoflow as of
from orthoflow.models.nets import UNet
from orthoflow.models.reach import activation_bytes

folder, options = sys.argv[1], json.loads(sys.argv[2])
shape, dtype, ndim = options.pop("shape"), options.pop("dtype"), options.pop("ndim", 2)

def peak():
    # Not ru_maxrss, which a new process takes over from the one that started it.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

def volume(name, shape):
    file = f"{folder}/{name}.npy"
    mapped = np.lib.format.open_memmap(file, "w+", dtype=dtype, shape=tuple(shape))
    for plane in mapped:
        plane[:] = np.random.default_rng(0).integers(0, 200, plane.shape)
    return file

model = of.Model.from_torch(
    UNet(outputs=2, base=4, depth=1, ndim=ndim, norm="none"), outputs=2, ndim=ndim, reach=20
)
tile = (128, 128) if ndim == 2 else (32, 32, 32)
held = activation_bytes(model, tile)
model = of.Model.from_card(model.module, model.card.replace(activation_bytes=held))
# Everything is imported and done once: what is there before any voxel of a block is.
of.run(volume("tiny", (8, 8, 8)), f"{folder}/tiny", model=model, cluster="synchronous", chunk=8)
process = peak()
source = volume("in", shape)
plan = of.make_plan(source, model, **options).to_dict()
of.run(source, f"{folder}/out", model=model, cluster="synchronous", **options)
print(json.dumps({"plan": plan["peak_bytes_per_worker"], "peak": peak(), "process": process}))
"""


def peak_of(tmp_path, **options):
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MEMORY_CASES = {
    "sums": {},
    "results": {"keep_stacks": True, "output": "both", "disagreement": True},
    "converted": {"dtype": "u2", "orientations": ("xz",)},
    "resampled": {"orientations": ("xy",), "downsample": 2},
    "3-D": {"ndim": 3, "tile": 64, "shape": (64, 128, 128), "block": 64},
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc, as Linux has it")
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_the_plan_predicts_the_peak_memory_within_15_percent(case, tmp_path):
    """Of a fresh process that runs a block; with the plan's idea of the process, and without."""
    usual = {"shape": (96, 256, 256), "dtype": "u1", "chunk": 64, "block": (96, 256, 256)}
    found = peak_of(tmp_path, **{**usual, **MEMORY_CASES[case]})
    assert abs(found["plan"] - found["peak"]) < 0.15 * found["peak"], found
    planned = found["plan"] - costs.PROCESS_BYTES + found["process"]
    assert abs(planned - found["peak"]) < 0.1 * found["peak"], found
