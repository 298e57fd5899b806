"""Runs of networks that give objects: same bytes however they are cut, nothing lost, made again."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster

import orthoflow as of
from orthoflow.cli import main
from orthoflow.errors import BadInput
from orthoflow.options import Options
from orthoflow.stores.ome import read_record
from orthoflow.stores.verify import requeue, verify
from orthoflow.training.synthetic import OBJECTS, make_volume
from tests import nets

SHAPE = (29, 52, 64)
WHOLE = {"block": 64, "chunk": 64}
# The last blocks of the second and third are one voxel thin.
CUTS = [
    {"block": 32, "chunk": 16},
    {"block": (14, 51, 32), "chunk": (7, 51, 8)},
    {"block": (29, 17, 63), "chunk": (29, 17, 63)},
    {"block": 24, "chunk": 24, "part": (1, 2, 1)},
    {"block": (16, 52, 40), "chunk": 8, "part": 1},
    {"block": 32, "chunk": 32, "ome_version": "0.4", "batch_size": 3},
]
# What is found, by network and options.
WAYS = {
    "components": ("demo:panoptic", {}),
    "empanada": (
        "demo:panoptic",
        {"instances": "empanada", "median": 3, "median_rule": "plain", "fine_boundaries": False},
    ),
    "panoptic, stitched": ("demo:panoptic", {"orientations": "xz", "instances": "stitch"}),
    "flows": ("demo:flows", {}),
    "flows, resampled": ("demo:flows", {"downsample": (1, 1.5, 1.5), "flow_smoothing": 1}),
    "flows of planes": ("demo:flows", {"orientations": "xy", "max_diameter": 20}),
    "cc": ("demo:semantic", {"instances": "cc", "fill_holes": True, "max_diameter": None}),
    "watershed": (
        "demo:panoptic",
        {"instances": "watershed", "watershed_radius": 6, "max_diameter": None},
    ),
    "flows, components": ("demo:flows", {"instances": "components"}),
}


PLANES = ("planes/xy", "planes/xz", "planes/yz")


@functools.cache
def synthetic():
    return make_volume(shape=SHAPE, seed=3, look=OBJECTS)


@pytest.fixture(scope="module")
def volume():
    return synthetic().image


@pytest.fixture(scope="module")
def stored(tmp_path_factory, volume):
    path = tmp_path_factory.mktemp("volume") / "in.zarr"
    zarr.save_array(path, volume)
    return path


def segmented(volume, out, way, **options):
    model, own = WAYS[way]
    options = {"cluster": "synchronous", "max_diameter": 40, "levels": 2, **own, **options}
    return of.run(volume, out, model=model, **options)


def arrays_of(out):
    """Every full resolution of an output, by path."""
    group, found = zarr.open_group(out, mode="r"), {}
    for path in ("labels/segmentation", "classes", *PLANES, "flows/ends"):
        if path in group:
            found[path] = group[f"{path}/0"][:]
    return found


def assert_alike(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg=path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, volume):
    """What one block gives, for each way; made once."""

    @functools.cache
    def of_way(way):
        out = tmp_path_factory.mktemp("whole") / "out.zarr"
        report = segmented(volume, out, way, **WHOLE)
        return arrays_of(out), report

    return of_way


@pytest.mark.parametrize("way", WAYS)
def test_how_the_work_is_cut_does_not_show(way, volume, expected, tmp_path):
    whole, report = expected(way)
    assert whole["labels/segmentation"].dtype == np.uint32
    assert report["instances"] == whole["labels/segmentation"].max() > 3
    # Every cut for one way, two of them for each of the others.
    place = list(WAYS).index(way)
    cuts = CUTS if place == 0 else [CUTS[place % len(CUTS)], CUTS[(place + 3) % len(CUTS)]]
    for number, cut in enumerate(cuts):
        out = tmp_path / f"{number}.zarr"
        again = segmented(volume, out, way, **cut)
        assert_alike(arrays_of(out), whole)
        same = ("instances", "complete", "voxels", "adrift", "failed")
        assert [again[name] for name in same] == [report[name] for name in same]
        assert again["blocks"] == again["blocks_planned"]
        assert verify(out).complete


@pytest.mark.parametrize("way", ["components", "flows"])
@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_workers_give_the_bytes_of_one_thread(way, cluster, stored, expected, tmp_path):
    out = tmp_path / "out.zarr"
    segmented(stored, out, way, cluster=cluster, workers=2, **CUTS[3])
    assert_alike(arrays_of(out), expected(way)[0])


@pytest.mark.s3
@pytest.mark.parametrize("way", ["components", "flows", "cc"])
def test_a_bucket_gets_what_a_disk_gets(way, stored, expected, bucket):
    out = f"{bucket}/out.zarr"
    report = segmented(stored, out, way, **CUTS[3])
    assert report["complete"]
    assert_alike(arrays_of(out), expected(way)[0])
    assert verify(out).complete
    own = {"fill_holes": way != "cc"}
    assert of.finalize(out, cluster="synchronous", min_size=50, **own)["complete"]
    assert verify(out).complete


def test_cells_of_a_region_are_those_of_the_volume(volume, expected, tmp_path):
    segmented(volume, tmp_path / "out.zarr", "components", roi="4:24,10:50,5:60", **CUTS[0])
    found, whole = arrays_of(tmp_path / "out.zarr"), expected("components")[0]
    for name in PLANES:
        np.testing.assert_array_equal(found[name], whole[name][4:24, 10:50, 5:60])
    assert verify(tmp_path / "out.zarr").complete


# ------------------------------------------------------------------------- made again, and resumed


RULES = {
    "components": {"votes": 1, "min_size": 800, "fill_holes": True},
    "cc": {"instances": "watershed", "watershed_radius": 5, "watershed_depth": 0.7},
    "watershed": {"connectivity": 6, "min_size": 50, "fill_holes": True},
    "empanada": {"votes": 1, "merge_iou": 0.5, "min_extent": 4},
    "flows": {"min_size": 900, "fill_holes": True},
    "flows of planes": {"stitch_threshold": 0.6},
}


@pytest.mark.parametrize("way", RULES)
def test_finalize_makes_the_labels_of_another_rule(way, volume, expected, tmp_path, monkeypatch):
    out = tmp_path / "out.zarr"
    first = segmented(volume, out, way, **CUTS[0])
    there = {n for n, _ in _objects(out) if n.startswith(("planes/", "flows/", "classes/"))}
    monkeypatch.setattr("orthoflow.work.load_model", lambda *_: pytest.fail("a network was run"))
    report = of.finalize(out, cluster="synchronous", **RULES[way])
    monkeypatch.undo()
    other = tmp_path / "other.zarr"
    straight = segmented(volume, other, way, **{**CUTS[3], **RULES[way]})
    assert_alike(arrays_of(out), arrays_of(other))
    assert report["instances"] == straight["instances"]
    assert report["blocks"] == report["blocks_planned"]
    assert {n for n, _ in _objects(out) if n.startswith(("planes/", "flows/", "classes/"))} == there
    assert verify(out).complete
    levels = [zarr.open_array(o, path="labels/segmentation/1")[:] for o in (out, other)]
    np.testing.assert_array_equal(*levels)
    # And back; what is not given stays as it was.
    own = Options(instances="cc" if way == "cc" else None)
    back = {n: WAYS[way][1].get(n, getattr(own, n)) for n in (*RULES[way], "fill_holes")}
    assert of.finalize(out, cluster="synchronous", **back)["instances"] == first["instances"]
    assert_alike(arrays_of(out), expected(way)[0])


def _objects(out):
    return [(str(p.relative_to(out)), p) for p in sorted(out.rglob("*")) if p.is_file()]


def test_the_same_rule_is_nothing_to_be_done(volume, tmp_path):
    out = tmp_path / "out.zarr"
    segmented(volume, out, "components", **CUTS[0])
    before = {name: path.stat().st_mtime_ns for name, path in _objects(out) if "labels/" in name}
    of.finalize(out, cluster="synchronous", votes=2)
    assert {n: p.stat().st_mtime_ns for n, p in _objects(out) if "labels/" in n} == before
    assert not (out / "orthoflow/labels.json").exists()


@pytest.mark.parametrize(
    ("way", "options", "words"),
    [
        ("components", {"votes": 4}, ["votes 4"]),
        ("components", {"instances": "stitch"}, ["instances stitch", "orientation"]),
        ("components", {"instances": "flows"}, ["flows is not made of labels"]),
        ("components", {"min_size": "3um3"}, ["min_size", "voxel size"]),
        ("flows", {"votes": 1}, ["votes", "fill_holes, min_extent, min_size alone"]),
        ("cc", {"instances": "components"}, ["instances components", "use cc or watershed"]),
        ("cc", {"connectivity": 8}, ["connectivity 8", "6 nor 26"]),
    ],
)
def test_a_rule_that_cannot_be_is_refused(way, options, words, volume, tmp_path):
    out = tmp_path / "out.zarr"
    segmented(volume, out, way, **WHOLE)
    before = arrays_of(out)
    with pytest.raises(BadInput) as refused:
        of.finalize(out, cluster="synchronous", **options)
    assert all(word in str(refused.value) for word in words), refused.value
    assert_alike(arrays_of(out), before)
    assert verify(out).complete


def test_a_semantic_output_has_no_rule(volume, tmp_path):
    of.run(volume, tmp_path / "out.zarr", model="demo:semantic", cluster="synchronous")
    with pytest.raises(BadInput, match=r"votes: output .* holds no instances"):
        of.finalize(tmp_path / "out.zarr", cluster="synchronous", votes=1)


@pytest.mark.parametrize("way", ["components", "flows"])
def test_a_run_goes_on_from_wherever_it_was_stopped(way, volume, expected, tmp_path):
    done = tmp_path / "done.zarr"
    segmented(volume, done, way, **CUTS[0])
    folder = done / "orthoflow"
    markers = sorted((folder / "markers").rglob("*.json"))
    stages = {
        "no report": [folder / "report.json"],
        "half of the labels": [m for m in markers if "/labels/" in str(m)][::2],
        "no instances": sorted(folder.glob("tables/*/instances/*")),
        "half of a pass": sorted((folder / "tables").rglob("ids/*"))[::2]
        + sorted(folder.glob("tables/*/instances/*")),
        "a third of the blocks": [m for m in markers if "/blocks/" in str(m)][::3],
    }
    assert all(stages.values())
    for name, gone in stages.items():
        out = tmp_path / f"{name}.zarr"
        shutil.copytree(done, out)
        for path in {*gone, folder / "report.json"}:
            (out / path.relative_to(done)).unlink()
        report = segmented(volume, out, way, resume=True, **CUTS[0])
        assert report["complete"], name
        assert report["instances"] == expected(way)[1]["instances"]
        assert_alike(arrays_of(out), expected(way)[0])
        assert verify(out).complete


@pytest.mark.parametrize(
    ("way", "pattern"),
    [
        ("components", "planes/xz/0/c/*/*/*"),
        ("components", "labels/segmentation/0/c/*/*/*"),
        ("components", "orthoflow/tables/*/planes/*"),
        ("flows", "flows/ends/0/c/*/*/*"),
        ("flows", "orthoflow/tables/*/ends/*"),
        ("flows", "orthoflow/tables/*/ids/*"),
    ],
)
@pytest.mark.parametrize("deed", ["flip", "delete"])
def test_damage_is_found_and_mended(way, pattern, deed, volume, expected, tmp_path):
    out = tmp_path / "out.zarr"
    segmented(volume, out, way, **CUTS[0])
    victim = sorted(out.glob(pattern))[-1]
    if deed == "delete":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    verdict = verify(out)
    if deed == "delete" and ("/planes/" in pattern or "/ids/" in pattern) and "tables" in pattern:
        # A later pass makes it again where it is needed, and here nothing needs it.
        assert verdict.complete
        return
    assert not verdict.intact
    requeue(out, verdict)
    segmented(volume, out, way, resume=True, **CUTS[0])
    assert verify(out).complete
    assert_alike(arrays_of(out), expected(way)[0])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["components", "flows"])
def test_killed_workers_do_not_show(way, stored, expected, tmp_path):
    out, stopped, kills = tmp_path / "out.zarr", threading.Event(), []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(os.getpid)

        def kill():
            seen = 0
            while not stopped.wait(0.1) and len(kills) < 6:
                pids = [p.pid for w in cluster.workers.values() if (p := w.process) and p.pid]
                there = sum(path.is_file() for path in out.glob("orthoflow/*/*/*/*"))
                # Something is done between two kills: one that is hit four times would be blamed.
                if len(pids) == 2 and there >= seen + 4:
                    seen = there
                    os.kill(pids[len(kills) % 2], signal.SIGKILL)
                    kills.append(there)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            report = segmented(stored, out, way, client=client, retries=10, **CUTS[0])
        finally:
            stopped.set()
            killer.join()
    assert kills
    assert report["complete"]
    assert_alike(arrays_of(out), expected(way)[0])
    assert verify(out).complete


# --------------------------------------------------------------------------------- options, reports


def test_voxels_that_find_no_middle_are_counted(volume, tmp_path):
    for number, (way, diameter) in enumerate([("components", 6), ("flows", 6)]):
        counts = []
        for cut in (WHOLE, CUTS[0]):
            out = tmp_path / f"{number}-{len(counts)}.zarr"
            report = segmented(volume, out, way, max_diameter=diameter, **cut)
            counts.append((report["adrift"], report["instances"]))
        assert counts[0] == counts[1]
        assert counts[0][0] > 500


def test_classes_alone(volume, tmp_path):
    for model in ("demo:panoptic", "demo:flows"):
        out = tmp_path / f"{model[5:]}.zarr"
        of.run(volume, out, model=model, semantic_only=True, output="both", cluster="synchronous")
        labels = zarr.open_array(out, path="labels/segmentation/0")[:]
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, 1}
        agreed = ((labels > 0) & (synthetic().labels > 0)).sum() * 2
        assert agreed / ((labels > 0).sum() + (synthetic().labels > 0).sum()) > 0.85
        lazy = of.segment(volume, model, semantic_only=True)
        np.testing.assert_array_equal(lazy.to_numpy(), labels)


def test_probabilities_of_a_panoptic_network_are_those_of_its_classes(volume, tmp_path):
    segmented(volume, tmp_path / "a.zarr", "components", output="both", **CUTS[0])
    only = {"model": "demo:panoptic", "semantic_only": True, "cluster": "synchronous"}
    of.run(volume, tmp_path / "b.zarr", output="probabilities", **only)
    a, b = (zarr.open_array(tmp_path / f"{n}.zarr", path="probabilities/0")[:] for n in "ab")
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("demo:semantic", {"min_size": 5}, ["min_size is for instances"]),
        ("demo:semantic", {"semantic_only": True}, ["semantic_only", "leave it out"]),
        ("demo:panoptic", {"flow_steps": 5}, ["flow_steps means nothing", "panoptic"]),
        ("demo:panoptic", {"instances": "flows"}, ["instances flows", "flow networks"]),
        ("demo:panoptic", {"instances": "stitch"}, ["stitch", "one orientation"]),
        ("demo:panoptic", {"votes": 3, "orientations": "xy,xz"}, ["votes 3", "1 to 2"]),
        ("demo:panoptic", {"max_diameter": "0"}, ["max_diameter"]),
        ("demo:panoptic", {"max_diameter": "3um"}, ["max_diameter", "voxel size"]),
        ("demo:panoptic", {"median": 3, "median_rule": "recursive"}, ["whole stacks", "block"]),
        ("demo:flows", {"center_threshold": 0.3}, ["center_threshold means nothing"]),
        ("demo:flows", {"votes": 1}, ["votes means nothing", "instances flows"]),
        ("demo:flows", {"orientations": "xy", "instances": "flows"}, ["two of xy, xz and yz"]),
        ("demo:flows", {"median": 3}, ["median means nothing"]),
        ("demo:flows", {"connectivity": 6}, ["connectivity means nothing"]),
        ("demo:semantic", {"instances": "components"}, ["instances is for instances"]),
        ("demo:semantic", {"instances": "cc", "votes": 1, "min_size": "x"}, ["min_size 'x'"]),
        ("demo:semantic", {"instances": "cc", "label_divisor": 5}, ["label_divisor means nothing"]),
        ("demo:panoptic", {"instances": "cc", "semantic_only": True}, ["contradict"]),
    ],
)
def test_options_that_mean_nothing_are_refused(model, options, words, volume, tmp_path):
    with pytest.raises(BadInput) as refused:
        of.run(volume, tmp_path / "out.zarr", model=model, chunk=16, block=16, **options)
    assert all(word in str(refused.value) for word in words), refused.value
    assert not (tmp_path / "out.zarr").exists()


def test_objects_have_no_lazy_face(volume):
    for function in (of.predict, of.segment):
        with pytest.raises(BadInput, match="semantic_only=True"):
            function(volume, "demo:panoptic")


def test_empanadas_median_over_whole_stacks(volume, tmp_path):
    own = {"instances": "empanada", "median": 3, "model": "demo:panoptic", "max_diameter": 40}
    for number, more in enumerate([{}, {"median_rule": "recursive"}, {"median_rule": "plain"}]):
        of.run(volume, tmp_path / f"{number}.zarr", **own, **more, **WHOLE, cluster="synchronous")
    first, second, plain = (arrays_of(tmp_path / f"{number}.zarr") for number in range(3))
    assert_alike(first, second)
    assert (first["planes/xy"] != plain["planes/xy"]).any()


@pytest.mark.parametrize(
    "cut", [{"block": 32, "chunk": 32}, {"block": (9, 16, 32), "chunk": (9, 8, 16)}]
)
def test_an_object_has_the_class_of_most_of_its_pixels(cut, tmp_path):
    """Cubes of 8 voxels in two classes, a fifth of the voxels in the wrong one."""
    dice = np.random.default_rng(2)
    z, y, x = np.indices((16, 24, 32)) // 8
    truth = (1 + (z + y + x) % 2).astype(np.uint8)
    noisy = np.where(dice.random(truth.shape) < 0.2, 3 - truth, truth).astype(np.uint8)
    facts = {"outputs": 6, "task": "panoptic", "divisor": 8, "stride": 8, "reach": 0}
    model = of.Model.from_torch(nets.Squares(), **facts)
    out = tmp_path / "out.zarr"
    where = {"model": model, "cluster": "synchronous", "skip_empty": False, "max_diameter": 16}
    report = of.run(noisy, out, **where, **cut)
    labels = arrays_of(out)["labels/segmentation"]
    cubes = z * 100 + y * 10 + x
    assert report["instances"] == len(np.unique(cubes)) == len(np.unique(labels)) == 24
    assert len(np.unique(np.stack([labels.ravel(), cubes.ravel()]), axis=1).T) == 24
    assert report["instances_of_classes"] == {"1": 12, "2": 12}
    of.finalize(out, cluster="synchronous", label_divisor=1000, fill_holes=True)
    again = arrays_of(out)["labels/segmentation"]
    np.testing.assert_array_equal(again // 1000, truth)
    np.testing.assert_array_equal(again % 1000, np.where(truth == 1, labels, labels - 12))
    with pytest.raises(BadInput, match=r"class 1 has 12 objects.*label_divisor 12 "):
        of.finalize(out, cluster="synchronous", label_divisor=12)
    # Numbered class by class.
    first = labels[truth == 1].max()
    assert (labels[truth == 2] > first).all()


@pytest.mark.parametrize("task", ["flows", "panoptic"])
def test_patches_in_three_dimensions(task, tmp_path):
    volume = np.ones((16, 24, 32), np.uint8)
    volume[:, :, 30:] = 0
    net, outputs = {"flows": (nets.Cubes(), 4), "panoptic": (nets.Boxes(), 5)}[task]
    facts = {"task": task, "divisor": 8, "stride": 8, "reach": 0, "ndim": 3}
    model = of.Model.from_torch(net, outputs=outputs, **facts)
    found = []
    for cut in ({"block": 32, "chunk": 32}, {"block": (8, 16, 16), "chunk": 8}):
        out = tmp_path / f"{len(found)}.zarr"
        where = {"model": model, "cluster": "synchronous", "skip_empty": False}
        report = of.run(volume, out, max_diameter=16, **where, **cut)
        found.append(arrays_of(out)["labels/segmentation"])
        assert report["instances"] == 24
        assert report["adrift"] == 0
        assert verify(out).complete
    np.testing.assert_array_equal(*found)
    z, y, x = np.indices(volume.shape) // 8
    cubes = np.where(volume, z * 100 + y * 10 + x + 1, 0)
    assert len(np.unique(np.stack([found[0].ravel(), cubes.ravel()]), axis=1).T) == 25
    assert of.finalize(out, cluster="synchronous", min_size=500)["instances"] == 18


def test_the_record_says_how_instances_were_found(volume, tmp_path):
    segmented(volume, tmp_path / "out.zarr", "components", min_size=7, **WHOLE)
    facts = read_record(tmp_path / "out.zarr", "run")["labels"]
    assert facts["orientations"] == ["xy", "xz", "yz"]
    assert facts["rule"] | {"instances": "components", "votes": 2, "min_size": 7} == facts["rule"]


def test_the_command_line(stored, tmp_path, capsys):
    out = str(tmp_path / "out.zarr")
    main(["run", str(stored), out, "--model", "demo:panoptic", "--cluster", "synchronous",
          "--max-diameter", "40", "--chunk", "40", "--quiet"])  # fmt: skip
    assert " instances" in capsys.readouterr().out
    main(["finalize", out, "--votes", "1", "--min-size", "800", "--json", "--quiet",
          "--cluster", "synchronous"])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["complete"]
    main(["plan", str(stored), "--model", "demo:flows"])
    assert "flows" in capsys.readouterr().out
