"""`run`: what it refuses before anything is made, what it does when something fails."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
import torch
import zarr

import orthoflow as of
from tests import nets

SHAPE = (12, 20, 28)
SMALL = {"chunk": 8, "block": 8, "levels": 2}


@pytest.fixture
def volume():
    return nets.blobs(SHAPE, top=200)


@pytest.fixture
def model():
    return of.Model.from_torch(nets.Pointwise(), divisor=4, reach=1, stride=1, name="small")


def run(volume, target, /, **options):
    return of.run(volume, target, **{"cluster": "synchronous", **SMALL, **options})


# --------------------------------------------------------------------------------------- refused

BAD_OPTIONS = [
    ({"overlap": 1.5}, "overlap 1.5"),
    ({"overlap": -0.1}, "overlap -0.1"),
    ({"overlp": 0.5}, "did you mean overlap"),
    ({"orientations": "xyz"}, "orientations"),
    ({"orientations": ()}, "orientations is empty"),
    ({"consensus": "vote", "votes": 4}, "votes 4"),
    ({"votes": 0}, "votes 0"),
    ({"sigma_scale": 0}, "sigma_scale"),
    ({"tile": 15}, "use 12 or 16"),
    ({"packing": "stripes", "pack_k": 2, "tile": 16}, "packing stripes"),
    ({"roi": "0:5,0:5,0:99"}, "roi 0:99 on axis x"),
    ({"roi": "5:3,:,:"}, "roi 5:3"),
    ({"chunk": 8, "block": 12}, "two tasks would write one object"),
    ({"chunk": 8, "shard": 12}, "two tasks would write one object"),
    ({"anisotropy": 1e9}, "2\\^31"),
    ({"downsample": 100}, "downsample"),
    ({"median": 2}, "median 2"),
    ({"threshold": 1.0}, "threshold"),
    ({"channel": 1}, "channel 1"),
    ({"device": "cuda:31"}, "cuda:31"),
    ({"memory_limit": 1000}, "memory_limit 1,000 bytes: a block of 8,8,8 needs"),
    ({"plane_weights": (1, 2)}, "plane_weights"),
    ({"mode": "multiclass", "threshold": 0.4}, "threshold 0.4"),
    ({"name": "a/b"}, "name 'a/b'"),
    ({"voxel_size": (0, 1, 1)}, "voxel_size"),
    ({"axes": "xyt"}, "axes"),
    ({"ome_version": "0.4", "shard": 16}, "no shards"),
    ({"cluster": "cluster"}, "cluster"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused_and_nothing_is_created(options, message, volume, model, tmp_path):
    with pytest.raises(of.BadInput, match=message) as caught:
        run(volume, tmp_path / "out.zarr", model=model, **options)
    assert "\n" not in str(caught.value)
    assert nets.tree(tmp_path) == []


BAD_VOLUMES = [
    (np.zeros((4, 5), np.uint8), "2 axes"),
    (np.zeros((1, 2, 3, 4, 5), np.uint8), "5 axes"),
    (np.zeros((0, 5, 5), np.uint8), "axis of 0 voxels"),
    (np.zeros((4, 5, 6), bool), "bool"),
    (np.zeros((4, 5, 6), complex), "complex128"),
    (np.zeros((4, 5, 6), np.int64), "int64"),
    (np.zeros((3, 4, 5, 6), np.uint8), "takes 1 channel, the volume has 3"),
    (7, "is no volume"),
    ("nothing/here.zarr", "no array at"),
    ("nothing/here.npy", "here.npy"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_VOLUMES, ids=lambda v: str(v)[:20])
def test_bad_volumes_are_refused_and_nothing_is_created(bad, message, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(of.BadInput, match=message) as caught:
        run(bad, tmp_path / "out.zarr", model=model)
    assert "\n" not in str(caught.value)
    assert nets.tree(tmp_path) == []


def test_bad_models_are_refused_and_nothing_is_created(volume, tmp_path):
    output = tmp_path / "out.zarr"
    three = of.Model.from_torch(nets.Plain(outputs=3), outputs=3, divisor=4)
    for model, options, message in [
        ("no/such/model", {}, "no/such/model"),
        ("demo:nothing", {}, "demo:nothing"),
        (three, {"mode": "binary"}, "has 3"),
        (nets.plain(ndim=3), {"orientations": "xy"}, "3-D network"),
        (nets.plain(tile=(16, 16)), {"tile": 32}, "tiles of 16,16 only"),
        (nets.plain(tile=(16, 24)), {"tta": "rotation"}, "rotation"),
    ]:
        with pytest.raises(of.BadInput, match=message):
            run(volume, output, model=model, **options)
    assert nets.tree(tmp_path) == []


def test_an_unreachable_scheduler_is_bad_input(volume, model, tmp_path, monkeypatch):
    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 0.5)
    with pytest.raises(of.BadInput, match=r"scheduler tcp://127.0.0.1:9 did not answer"):
        run(volume, tmp_path / "out.zarr", model=model, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(of.BadInput, match=r"scheduler nonsense"):
        run(volume, tmp_path / "out.zarr", model=model, scheduler="nonsense")
    assert nets.tree(tmp_path) == []


@pytest.mark.slow
def test_a_scheduler_without_workers_is_bad_input(volume, model, tmp_path, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 1.0)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(of.BadInput, match=rf"{address} has no worker"):
            run(volume, tmp_path / "out.zarr", model=model, scheduler=address)
    assert nets.tree(tmp_path) == []


def test_an_existing_output_is_refused_and_left_alone(volume, model, tmp_path):
    output = tmp_path / "out.zarr"
    run(volume, output, model=model)
    before = nets.objects(output)
    with pytest.raises(of.BadInput, match=r"out\.zarr exists"):
        run(volume, output, model=model)
    assert nets.objects(output) == before
    other = run(255 - volume, output, model=model, overwrite=True, chunk=16, block=16)
    assert other["failed"] == {}
    assert nets.objects(output) != before
    assert zarr.open_array(str(output), path="labels/segmentation/0").chunks == (12, 16, 16)


def test_overwrite_removes_nothing_but_outputs(volume, model, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("five years")
    with pytest.raises(of.BadInput, match="not made by an orthoflow run"):
        run(volume, precious, model=model, overwrite=True)
    file = tmp_path / "file.zarr"
    file.write_text("another")
    with pytest.raises(of.BadInput):
        run(volume, file, model=model, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "five years"
    assert file.read_text() == "another"
    assert nets.tree(tmp_path) == ["file.zarr", "precious", "precious/thesis.txt"]


def test_the_output_may_not_lie_in_the_input_nor_around_it(volume, model, tmp_path):
    source = tmp_path / "folder" / "in.zarr"
    zarr.create_array(source, shape=SHAPE, chunks=(8, 8, 8), dtype="u1")[:] = volume
    before = nets.tree(tmp_path)
    for output in (source, source / "labels", tmp_path / "folder"):
        for overwrite in (False, True):
            with pytest.raises(of.BadInput, match="overlap"):
                run(source, output, model=model, overwrite=overwrite)
    assert nets.tree(tmp_path) == before


# ---------------------------------------------------------------------------------------- failed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (251, "NaN or infinite"),
        (253, "NaN or infinite"),
        (254, "RuntimeError: the network met 254"),
    ],
)
@pytest.mark.parametrize("cluster", ["synchronous", "threads"])
def test_a_failed_block_is_named_and_the_rest_is_done(value, message, cluster, volume, tmp_path):
    """One bad voxel: only the blocks whose patches see it fail."""
    spoilt = of.Model.from_torch(nets.Spoilt(), tile=(8, 8), reach=1, stride=1)
    options = {"part": 1, "overlap": 0, "packing": "none", "orientations": ("xy",)}
    expected = nets.everything(volume, spoilt, block=8, **options)["labels"]
    volume[9, 17, 3] = value
    output = tmp_path / "out.zarr"
    report = run(volume, output, model=spoilt, cluster=cluster, **options)
    # Rows 12:20 are one patch, for blocks of rows 8:16 and 16:20 alike.
    assert set(report["failed"]) == {"8:12,8:16,0:8", "8:12,16:20,0:8"}
    assert all(message in reason for reason in report["failed"].values())
    assert report["blocks_planned"] == 24
    assert report["blocks"] == 22
    found = nets.read(output, "labels/segmentation/0")
    np.testing.assert_array_equal(found[:8], expected[:8])
    np.testing.assert_array_equal(found[8:, :, 8:], expected[8:, :, 8:])
    assert (found[8:, 8:, :8] == 0).all()
    # A pyramid over holes would hide them.
    assert not [name for name in nets.objects(output) if "segmentation/1/c" in name]
    assert json.loads((output / "orthoflow/report.json").read_text())["failed"] == report["failed"]


def test_failures_inside_a_part_spread_to_the_neighbours_only(volume, tmp_path):
    spoilt = of.Model.from_torch(nets.Spoilt(), tile=(8, 8), reach=1, stride=1)
    volume[1, 1, 1] = 251
    report = run(
        volume, tmp_path / "o", model=spoilt, part=100, orientations=("xy",), packing="none"
    )
    assert "0:8,0:8,0:8" in report["failed"]
    assert "8:12,16:20,24:28" not in report["failed"]
    assert report["blocks"] + len(report["failed"]) == report["blocks_planned"]
    assert report["blocks"] >= 12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_input_that_is_no_number(bad, model, tmp_path):
    volume = nets.blobs(SHAPE).astype(np.float32)
    clean = volume.copy()
    volume[0, 0, 0], clean[0, 0, 0] = bad, 0
    options = {"part": 1, "orientations": ("yz",), "tile": 8, "overlap": 0}
    report = run(volume, tmp_path / "fail", model=model, **options)
    assert list(report["failed"]) == ["0:8,0:8,0:8"]
    assert "holds 1 values that are NaN or infinite" in report["failed"]["0:8,0:8,0:8"]
    report = run(volume, tmp_path / "zero", model=model, nan_policy="zero", **options)
    assert report["failed"] == {}
    run(clean, tmp_path / "clean", model=model, **options)
    assert nets.objects(tmp_path / "zero") == nets.objects(tmp_path / "clean")


@pytest.mark.parametrize("method", ["zscore", "minmax", "percentile"])
def test_statistics_of_a_volume_with_holes_in_its_numbers(method, model, tmp_path):
    """The whole volume's statistics are needed before any block: refused, nothing created."""
    volume = nets.blobs(SHAPE).astype(np.float32)
    clean = volume.copy()
    volume[3, 3, 3], clean[3, 3, 3] = np.nan, 0
    with pytest.raises(of.BadInput, match=r"1 values that are NaN or infinite .* nan_policy=zero"):
        run(volume, tmp_path / "out", model=model, normalization=method)
    assert nets.tree(tmp_path) == []
    run(volume, tmp_path / "zero", model=model, normalization=method, nan_policy="zero")
    run(clean, tmp_path / "clean", model=model, normalization=method)
    assert nets.objects(tmp_path / "zero") == nets.objects(tmp_path / "clean")


def test_a_damaged_chunk_fails_its_blocks_only(volume, model, tmp_path):
    source = tmp_path / "in.zarr"
    zarr.create_array(source, shape=SHAPE, chunks=(8, 8, 8), dtype="u1")[:] = volume
    (source / "c" / "1" / "2" / "3").write_bytes(b"garbage")
    options = {"part": 1, "orientations": ("xy",), "tile": 8, "overlap": 0, "packing": "none"}
    report = run(source, tmp_path / "out.zarr", model=model, **options)
    assert "8:12,16:20,24:28" in report["failed"]
    assert "0:8,0:8,0:8" not in report["failed"]
    assert report["blocks"] > 12


# ----------------------------------------------------------------------------------- and it works


def test_the_report_and_the_records(volume, model, tmp_path):
    output = tmp_path / "out.zarr"
    steps = []
    report = run(volume, output, model=model, progress=steps.append, output="both")
    stored = json.loads((output / "orthoflow/report.json").read_text())
    assert stored.pop("digest")
    assert stored == report
    record = json.loads((output / "orthoflow/run.json").read_text())
    assert record["options"]["output"] == "both"
    assert record["model"]["digest"] == model.digest
    assert record["input"]["shape"] == list(SHAPE)
    assert report["voxels"] == math.prod(SHAPE)
    blocks = [step for step in steps if step.stage == "blocks"]
    assert [step.done for step in blocks] == list(range(report["blocks_planned"] + 1))
    assert blocks[-1].voxels == math.prod(SHAPE)
    pyramid = [step for step in steps if step.stage == "pyramid"]
    assert pyramid[-1].done == pyramid[-1].total == len(pyramid) > 0


def test_the_voxel_size_and_place_are_carried_through(volume, model, tmp_path):
    run(volume, tmp_path / "out", model=model, voxel_size=(0.5, 0.25, 0.25), roi="2:10,4:20,:")
    found = of.open_volume(tmp_path / "out", array="labels/segmentation")
    assert found.shape == (8, 16, 28)
    np.testing.assert_allclose(found.z, 1.0 + 0.5 * np.arange(8))
    np.testing.assert_allclose(found.y, 1.0 + 0.25 * np.arange(16))
    np.testing.assert_allclose(found.x, 0.25 * np.arange(28))
    assert found.x.attrs["units"] == "micrometer"


def shipped():
    """A network whose class only this function knows: its code has to travel with it."""

    class Local(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = torch.nn.Parameter(torch.tensor(100.0))

        def forward(self, tiles):
            return torch.cat([self.offset - tiles, tiles - self.offset], 1)

    return of.Model.from_torch(Local(), divisor=1, reach=0, stride=1)


@pytest.mark.slow
def test_an_existing_scheduler_of_worker_processes_gives_the_same_bytes(volume, tmp_path):
    """By address and as a client; a network in memory; volumes in memory and on disk."""
    from distributed import Client, LocalCluster

    model = shipped()
    source = tmp_path / "in.zarr"
    zarr.create_array(source, shape=SHAPE, chunks=(8, 8, 8), dtype="u1")[:] = volume
    run(volume, tmp_path / "here", model=model, normalization="minmax")
    expected = nets.objects(tmp_path / "here")
    with LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        address = cluster.scheduler_address
        for name, given in (("array", volume), ("file", source)):
            report = run(
                given, tmp_path / name, model=model, scheduler=address, normalization="minmax"
            )
            assert report["failed"] == {}
            assert nets.objects(tmp_path / name) == expected
        with Client(address) as client:
            run(volume, tmp_path / "client", model=model, client=client, normalization="minmax")
            assert nets.objects(tmp_path / "client") == expected
            assert client.status == "running"
            two_at_once(client, model, tmp_path)


def two_at_once(client, model, folder):
    """Runs that differ in nothing but their voxels and place do not take each other's blocks."""
    volumes = [nets.blobs(SHAPE, seed) for seed in (1, 2)]
    threads = [
        threading.Thread(
            target=run, args=(one, folder / f"{i}"), kwargs={"model": model, "client": client}
        )
        for i, one in enumerate(volumes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, one in enumerate(volumes):
        np.testing.assert_array_equal(
            nets.read(folder / f"{i}", "labels/segmentation/0"), one > 100
        )


def test_the_callers_threads_are_left_alone(volume, model, tmp_path):
    """A run computes with one torch thread; then the caller's own number holds again."""
    torch.set_num_threads(2)
    try:
        run(volume, tmp_path / "out", model=model)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
