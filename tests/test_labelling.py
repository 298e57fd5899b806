"""A consensus of stored labels, block by block: same bytes however it is cut, nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import orthoflow as of
from orthoflow.cli import main
from orthoflow.errors import BadInput, BlockFailed
from orthoflow.reduce.blocktables import BlockTables
from orthoflow.reduce.tablefile import load
from orthoflow.stores.tables import unpack
from orthoflow.stores.verify import requeue, verify

SHAPE = (22, 30, 26)
ORDER = {"xy": (0, 1, 2), "xz": (1, 0, 2), "yz": (2, 0, 1)}
CUTS = [
    {"chunk": 8, "block": 8},
    {"chunk": 7, "block": (7, 14, 21)},
    {"chunk": (1, 8, 8), "block": (1, 16, 8)},
    {"chunk": (8, 29, 8), "block": (16, 29, 16)},
    {"chunk": 32, "block": 32},
    {"chunk": 4, "block": (8, 4, 12), "ome_version": "0.4", "shard": 4},
]
RULES = [{"instances": "components"}, {"instances": "empanada", "cluster_iou": 0.2}]


def truth():
    """Balls that touch, some of them cut by the border."""
    dice = np.random.default_rng(4)
    centres = dice.uniform(0, 1, (14, 3)) * SHAPE
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    far = ((places[:, :, :, None] - centres) ** 2).sum(-1)
    return np.where(far.min(-1) < 40, far.argmin(-1) + 1, 0)


def planes_of(volume):
    """Labels of each plane by itself, with an empty plane and a welded one in xy."""
    found = {}
    for name, order in ORDER.items():
        stacked = volume.transpose(order).copy()
        for number, plane in enumerate(stacked):
            ids = np.unique(plane[plane > 0])
            table = np.zeros(int(volume.max()) + 1, np.uint16)
            table[ids] = np.random.default_rng(number).permutation(len(ids)) + 1
            stacked[number] = table[plane]
        if name == "xy":
            stacked[9] = 0
            stacked[13] = stacked[13] > 0
        found[name] = np.ascontiguousarray(stacked.transpose(np.argsort(order)), np.uint16)
    return found


@pytest.fixture(scope="module")
def labels():
    return planes_of(truth())


@pytest.fixture
def stored(labels, tmp_path):
    """Paths of the labels, in chunks that fit nothing else."""
    paths = {}
    for name, array in labels.items():
        paths[name] = tmp_path / f"{name}.zarr"
        with zarr.config.set({"array.write_empty_chunks": True}):
            made = zarr.create_array(paths[name], shape=SHAPE, chunks=(7, 9, 10), dtype="u2")
            made[:] = array
    return paths


def written(stored, out, **options):
    options = {"cluster": "synchronous", "levels": 2, "keep_stacks": True, **options}
    return of.write_consensus(stored, out, **options)


def read(out, path="labels/segmentation"):
    return zarr.open_array(out, path=f"{path}/0", mode="r")[:]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["instances"])
def test_how_the_work_is_cut_does_not_show(labels, stored, tmp_path, rule):
    expected = of.consensus(labels, **rule)
    assert expected.dtype == np.uint32
    # The welded plane joins nearly everything for a rule that goes from plane to plane.
    assert len(np.unique(expected)) > (10 if rule["instances"] == "components" else 2)
    stacks = []
    for number, cut in enumerate(CUTS):
        out = tmp_path / f"out{number}.zarr"
        report = written(stored, out, **rule, **cut)
        assert report["complete"]
        assert report["instances"] == expected.max()
        np.testing.assert_array_equal(read(out), expected)
        stacks.append([read(out, f"stacks/{name}") for name in ORDER])
        assert verify(out).complete
    for other in stacks[1:]:
        np.testing.assert_array_equal(other, stacks[0])
    assert all(stack.max() > 0 for stack in stacks[0])


@pytest.mark.parametrize(
    ("rule", "seen", "counted"),
    [
        ("components", ["xy", "xz", "yz"], True),
        ("components", ["xz"], False),
        ("empanada", ["xy", "xz", "yz"], False),
    ],
)
def test_crossings_are_counted_for_those_who_need_them(stored, tmp_path, rule, seen, counted):
    out = tmp_path / "out.zarr"
    sources = {name: stored[name] for name in seen}
    written(sources, out, instances=rule, votes=1, chunk=16, block=16, keep_stacks=False)
    places = list(out.glob("orthoflow/tables/*/planes/*"))
    assert len(places) == 8
    tables = [load(unpack(place.read_bytes(), "it"), BlockTables) for place in places]
    assert any(len(table.crossings) for table in tables) == counted
    assert any(len(table.lines) for table in tables) == counted


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_workers_give_the_bytes_of_one_thread(stored, tmp_path, workers):
    out = [tmp_path / "one.zarr", tmp_path / "many.zarr"]
    written(stored, out[0], chunk=8, block=8)
    written(stored, out[1], chunk=8, block=8, cluster="processes", workers=workers)
    objects = [
        {
            str(p.relative_to(o)): p.read_bytes()
            for p in Path(o).rglob("*")
            if "/c/" in str(p) and p.is_file()
        }
        for o in out
    ]
    assert objects[0] == objects[1]


def test_arrays_of_any_kind(labels, stored):
    expected = of.consensus(labels)
    lazy = {name: da.from_array(array, chunks=9) for name, array in labels.items()}
    np.testing.assert_array_equal(of.consensus(lazy, chunks=11), expected)
    opened = {name: zarr.open_array(path, mode="r") for name, path in stored.items()}
    np.testing.assert_array_equal(of.consensus(opened, chunks=(5, 30, 7)), expected)
    np.testing.assert_array_equal(of.consensus(stored), expected)
    named = {name: xr.DataArray(array, dims=("z", "y", "x")) for name, array in labels.items()}
    found = of.consensus(named)
    assert found.dims == ("z", "y", "x")
    np.testing.assert_array_equal(found.values, expected)


def test_small_objects_are_left_out_as_a_whole(labels, stored, tmp_path):
    sizes = np.bincount(of.consensus(labels).ravel())[1:]
    least = int(np.median(sizes))
    voxels = {"voxel_size": (0.5, 0.5, 0.5)}
    for wish in (str(least), f"{least * 125e6:g}nm3", f"{least * 0.125:g} um3"):
        found = of.consensus(labels, min_size=wish, **voxels)
        assert np.bincount(found.ravel())[1:].min() >= least
        assert found.max() == (sizes >= least).sum()
    out = tmp_path / "out.zarr"
    report = written(stored, out, min_size=str(least), chunk=8, block=8)
    assert report["instances"] == (sizes >= least).sum()
    tall = of.consensus(labels, min_extent="4um", voxel_size=(0.5, 0.5, 0.5))
    assert 0 < tall.max() < len(sizes)


class Stopped(Exception):  # noqa: N818 - a test's own
    """The driver is gone."""


@pytest.mark.parametrize("stage", ["tables", "triples", "labels"])
def test_a_run_that_was_stopped_goes_on(stored, tmp_path, stage):
    written(stored, tmp_path / "clean.zarr", chunk=8, block=8)
    out = tmp_path / "out.zarr"
    seen = []

    def stop(progress):
        seen.append(progress.stage)
        if progress.stage == stage and progress.done == 7:
            raise Stopped

    with pytest.raises(Stopped):
        written(stored, out, chunk=8, block=8, progress=stop)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    seen.clear()
    report = written(
        stored, out, chunk=8, block=8, resume=True, progress=lambda p: seen.append(p.stage)
    )
    assert report["complete"]
    assert seen.count(stage) == report["blocks_planned"] - 7
    np.testing.assert_array_equal(read(out), read(tmp_path / "clean.zarr"))
    kept = [p for p in before if "tables" in p.parts or "c" in p.parts]
    assert kept
    assert all(p.stat().st_mtime_ns == before[p] for p in kept)
    assert verify(out).complete


def test_a_finished_consensus_is_left_alone_and_another_rule_refused(stored, tmp_path):
    out = tmp_path / "out.zarr"
    report = written(stored, out, chunk=8, block=8)
    again = written(stored, out, chunk=8, block=8, resume=True)
    assert again["fingerprint"] == report["fingerprint"]
    with pytest.raises(BadInput, match="votes 2 -> 3"):
        written(stored, out, chunk=8, block=8, resume=True, votes=3)
    with pytest.raises(BadInput, match="exists"):
        written(stored, out, chunk=8, block=8)


@pytest.mark.parametrize("victim", ["labels/segmentation/0/c/1/1/1", "tables", "markers/*/labels"])
def test_what_is_damaged_is_found_and_made_again(stored, tmp_path, victim):
    out = tmp_path / "out.zarr"
    written(stored, out, chunk=8, block=8)
    clean = read(out)
    places = sorted(p for p in out.rglob("*") if p.is_file() and p.match(f"*{victim}*"))
    places = places or sorted(p for p in out.glob(f"orthoflow/{victim}/**/*") if p.is_file())
    place = places[len(places) // 2]
    content = place.read_bytes()
    place.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    verdict = verify(out)
    assert [one.key for one in verdict.findings] == [str(place.relative_to(out))]
    requeue(out, verdict)
    written(stored, out, chunk=8, block=8, resume=True)
    np.testing.assert_array_equal(read(out), clean)
    if "tables" not in victim:
        assert verify(out).complete


def test_labels_that_are_lost_fail_their_block_by_name(stored, tmp_path):
    shutil.rmtree(stored["xz"] / "c" / "1")
    with pytest.raises(BlockFailed, match=r"chunk c/1/\d/\d of .*xz\.zarr"):
        written(stored, tmp_path / "out.zarr", chunk=8, block=8, retries=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"votes": 4}, "votes 4 cannot be reached with 3 orientations; use 1 to 3"),
        ({"instances": "watershed"}, "instances 'watershed' is not one of"),
        ({"min_size": "0.5um3"}, "the volume states no voxel size; pass --voxel-size"),
        ({"min_size": "5um"}, "a volume, as in 0.5um3"),
        ({"min_extent": "big"}, "is no size; use voxels"),
        ({"min_size": "1.5"}, "no whole number of voxels"),
        ({"roi": "0:50,:,:"}, "outside"),
        ({"overlap": 0.5}, "overlap"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_made(stored, tmp_path, capsys, change, said):
    out = tmp_path / "out.zarr"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in change.items()]
    paths = [str(stored[name]) for name in ORDER]
    with pytest.raises(SystemExit) as caught:
        main(["consensus", *paths, str(out), "--cluster=synchronous", *words])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said.split()[0] in err or said in err
    assert not out.exists()


def test_labels_of_other_shapes_are_refused(labels, tmp_path):
    short = {**labels, "yz": labels["yz"][:-1]}
    with pytest.raises(BadInput, match=r"yz labels yz have shape \(21, 30, 26\)"):
        of.consensus(short)
    with pytest.raises(BadInput, match="use xy, xz and yz"):
        of.consensus({"zyx": labels["xy"]})
    with pytest.raises(BadInput, match="give whole numbers"):
        of.consensus({"xy": labels["xy"] / 2}, votes=1)
    with pytest.raises(BadInput, match="give whole numbers"):
        of.consensus({"xy": labels["xy"][0]}, votes=1)
    del tmp_path


def test_the_command_tells_what_it_found(stored, tmp_path, capsys):
    paths = [str(stored[name]) for name in ORDER]
    out = tmp_path / "out.zarr"
    main(["consensus", *paths, str(out), "--cluster=synchronous", "--quiet", "--json", "--chunk=8"])
    report = json.loads(capsys.readouterr().out)
    assert report["instances"] == read(out).max()
    main(["status", str(out), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["finished"]
    assert found["blocks"] == found["blocks_planned"]
    main(["consensus", paths[0], "-", "-", str(tmp_path / "one.zarr"), "--votes=1"])
    assert "instances" in capsys.readouterr().out
