"""Objects of single planes: those of a run, setting by setting; and every plane of a volume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from matplotlib.image import imread
from scipy import ndimage

import orthoflow as of
from orthoflow import work
from orthoflow.errors import BadInput
from orthoflow.show import colours
from orthoflow.show.sheet import TINT
from orthoflow.slices import preview_slices
from orthoflow.stores.verify import verify
from orthoflow.training.synthetic import OBJECTS, make_volume
from tests import nets

SHAPE = (40, 72, 80)
AXIS = {"xy": 0, "xz": 1, "yz": 2}
EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def made():
    return make_volume(SHAPE, seed=5, look=OBJECTS)


@pytest.fixture(scope="module")
def stored(made, tmp_path_factory):
    """Paths of the volume and its truth."""
    folder = tmp_path_factory.mktemp("volumes")
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, array in {"image": made.image, "truth": made.labels.astype("u8")}.items():
            path = folder / f"{name}.zarr"
            zarr.create_array(path, shape=SHAPE, chunks=(16, 30, 33), dtype=array.dtype)[:] = array
    return folder / "image.zarr", folder / "truth.zarr"


@pytest.fixture(scope="module")
def squares():
    """A model of two kinds of things."""
    facts = {"outputs": 6, "task": "panoptic", "divisor": 8, "stride": 8, "reach": 0}
    return of.Model.from_torch(nets.Squares(), **facts)


def planes_of(out, name):
    return nets.read(out, f"planes/{name}/0")


def run(volume, out, model, **options):
    of.run(volume, out, model=model, cluster="synchronous", levels=1, **options)
    return out


# ------------------------------------------------------------------------------- those of a run

OPTIONS = [
    {},
    {"median": 5, "threshold": 0.3, "overlap": 0.5},
    {"fine_boundaries": False, "center_distance": 5, "max_diameter": "21"},
    {"downsample": (1, 1.5, 2), "center_threshold": 0.3, "skip_empty": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "defaults")
def test_labels_are_those_of_a_run(made, tmp_path, options):
    out = run(made.image, tmp_path / "out.zarr", "demo:panoptic", block=32, chunk=16, **options)
    slices = ["xy:0", "xy:21", "xz:33", "yz:79"]
    (trial,) = preview_slices(made.image, "demo:panoptic", slices, **options).trials
    for name, found in trial.found.items():
        orientation, _, number = name.partition(":")
        whole = planes_of(out, orientation)
        expected = np.take(whole, int(number), axis=AXIS[orientation])
        assert expected.any()
        assert found.labels.dtype == whole.dtype
        np.testing.assert_array_equal(found.labels, expected, err_msg=name)
        pieces = sum(ndimage.label(expected == n, EIGHT)[1] for n in np.unique(expected) if n)
        assert found.objects == pieces


def test_a_window_of_a_plane_is_cut_out_of_it(made, stored):
    sweep = {"max_diameter": ["9", "60"], "center_distance": [3, 15], "median": [1, 3]}
    whole = preview_slices(made.image, "demo:panoptic", "xz:40", sweep=sweep)
    part = preview_slices(
        stored[0], "demo:panoptic", "xz:40", sweep=sweep, at=(9, 0, 50), size=(12, 5, 31)
    )
    for one, other in zip(whole.trials, part.trials, strict=True):
        expected = one.found["xz:40"].labels[3:15, 35:66]
        np.testing.assert_array_equal(other.found["xz:40"].labels, expected)
    adrift = [trial.found["xz:40"].adrift for trial in whole.trials]
    assert max(adrift) > 0
    assert adrift[-1] == 0


@pytest.mark.parametrize("orientation", ["xy", "yz"])
def test_labels_of_a_flow_network_are_those_of_a_run(made, tmp_path, orientation):
    options = {"threshold": 0.4, "flow_steps": 60}
    more = {"orientations": orientation, "instances": "stitch"}
    out = run(made.image, tmp_path / "out.zarr", "demo:flows", **more, **options)
    trials = preview_slices(made.image, "demo:flows", f"{orientation}:17", **options)
    expected = np.take(planes_of(out, orientation), 17, axis=AXIS[orientation])
    assert expected.any()
    np.testing.assert_array_equal(trials.trials[0].found[f"{orientation}:17"].labels, expected)


def test_several_classes(squares, tmp_path):
    dice = np.random.default_rng(0)
    volume = np.repeat(np.repeat(dice.integers(0, 3, (24, 5, 6), np.uint8), 8, 1), 8, 2)
    out = run(volume, tmp_path / "out.zarr", squares, orientations="xy")
    picture = tmp_path / "p.png"
    trials = preview_slices(volume, squares, "xy:11", picture=picture)
    found = trials.trials[0].found["xy:11"]
    np.testing.assert_array_equal(found.labels, planes_of(out, "xy")[11])
    assert found.objects == np.count_nonzero(volume[11, ::8, ::8])
    assert picture.stat().st_size > 0


# ------------------------------------------------------------------------------------- settings


def test_a_sweep_gives_what_single_settings_give(made, tmp_path):
    sweep = {
        "median": [1, 3],
        "center_threshold": [0.05, 0.5],
        "fine_boundaries": [True, False],
        "downsample": [1, (1, 2, 2)],
    }
    slices = ["xy:20", "yz:30"]
    trials = preview_slices(made.image, "demo:panoptic", slices, sweep=sweep)
    assert len(trials.trials) == 16
    assert len({trial.command for trial in trials.trials}) == 16
    for trial in (trials.trials[place] for place in (0, 5, 9, 14)):
        (single,) = preview_slices(made.image, "demo:panoptic", slices, **trial.setting).trials
        for name, found in trial.found.items():
            np.testing.assert_array_equal(found.labels, single.found[name].labels)
            assert found.objects == single.found[name].objects
    labels = [trial.found["xy:20"].labels.tobytes() for trial in trials.trials]
    assert len(set(labels)) > 8
    assert not list(tmp_path.iterdir())


def test_the_network_runs_once_for_a_plane_and_a_resolution(made, monkeypatch):
    ran = []
    infer = work.infer

    def counting(job, part, block, voxels=None):
        ran.append((str(block), job.plan.working))
        return infer(job, part, block, voxels)

    monkeypatch.setattr(work, "infer", counting)
    sweep = {"threshold": [0.3, 0.5, 0.7], "median": [1, 5], "downsample": [1, 2]}
    preview_slices(made.image, "demo:panoptic", ["xy:20", "xz:3"], sweep=sweep)
    assert len(ran) == len(set(ran)) == 4


def test_the_best_setting_is_the_one_nearest_to_the_truth(stored):
    sweep = {"threshold": [0.2, 0.5, 0.9]}
    plain = preview_slices(stored[0], "demo:panoptic", ["xy:20"], sweep=sweep)
    assert plain.best is None
    assert plain.trials[0].scores == {}
    truth = np.zeros(SHAPE, np.int64)
    truth[20] = plain.trials[1].found["xy:20"].labels
    scored = preview_slices(stored[0], "demo:panoptic", ["xy:20"], sweep=sweep, truth=truth)
    facts = json.loads(json.dumps(scored.to_dict()))
    assert scored.best == facts["best"] == 1
    assert facts["best_command"] == "--threshold 0.5"
    scores = [one["f1"] for one in facts["settings"]]
    assert scores[1] == {"0.5": 1, "0.75": 1}
    assert min(scores[0]["0.75"], scores[2]["0.75"]) < 1
    assert facts["settings"][1]["slices"]["xy:20"]["objects"] == scored.trials[1].objects


def test_scores_are_those_of_pieces_over_all_slices(made, stored):
    trials = preview_slices(stored[0], "demo:flows", ["xy:20", "yz:30"], truth=stored[1])
    trial = trials.trials[0]
    hits, count = 0, 0
    for name, found in trial.found.items():
        orientation, _, number = name.partition(":")
        truth = np.take(made.labels, int(number), axis=AXIS[orientation])
        sets = [masks(found.labels), masks(truth)]
        count += sum(map(len, sets))
        hits += sum((a & b).sum() / (a | b).sum() > 0.5 for a in sets[0] for b in sets[1])
    assert trial.scores["0.5"] == pytest.approx(2 * hits / count)
    assert 0 < trial.scores["0.75"] <= trial.scores["0.5"] < 1


def masks(labels):
    """A mask for each piece of each label."""
    found = []
    for name in np.unique(labels[labels > 0]):
        pieces, count = ndimage.label(labels == name, EIGHT)
        found += [pieces == n + 1 for n in range(count)]
    return found


def test_of_equals_the_first_is_best(made):
    sweep = {"center_threshold": [0.2, 0.21]}
    trials = preview_slices(made.image, "demo:panoptic", "xy:20", sweep=sweep, truth=made.labels)
    assert trials.trials[0].scores == trials.trials[1].scores
    assert trials.best == 0


# ------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("model", ["demo:panoptic", "demo:flows"])
def test_the_picture_has_a_row_for_each_setting_and_slice(made, tmp_path, model):
    sweep = {"threshold": [0.3, 0.8]}
    more = {"sweep": sweep, "truth": made.labels}
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    found = preview_slices(made.image, model, "xy:20", picture=one, **more)
    preview_slices(made.image, model, ["xy:20", "xy:30", "xz:36"], picture=two, **more)
    assert found.to_dict()["picture"] == str(one)
    low, high = imread(one)[..., :3], imread(two)[..., :3]
    assert low.shape[1] <= 2000
    assert high.shape[0] > 2.2 * low.shape[0]
    for colour in (TINT, colours.FALSE_NEGATIVE):
        assert (np.abs(high - np.array(colour)).max(axis=2) < 0.02).any()


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("slices", "options", "message"),
    [
        ("xy:40", {}, "xy:40 lies outside the volume; z has planes 0 to 39"),
        ("xz:5,yz:80", {}, "yz:80 lies outside the volume; x has planes 0 to 79"),
        ("zz:4", {}, "'zz' is no orientation; use xy, xz or yz"),
        ("zyx:4", {}, "'zyx' is no orientation"),
        ("xy", {}, "not of the form ORIENTATION:PLANE"),
        ("xy:-1", {}, "not of the form"),
        ("xy:3, xy:3", {}, "named twice"),
        ([], {}, "slice is empty"),
        ("xy:3", {"min_size": "20"}, "min_size is about objects of several planes"),
        ("xy:3", {"orientations": "xy"}, "orientations: slices say themselves"),
        ("xy:3", {"median": 3, "instances": "empanada"}, "use median_rule plain"),
        ("xy:3", {"instances": "flows"}, "instances flows is for flow networks"),
        ("xy:3", {"sweep": {"votes": [1, 2]}}, "votes cannot be compared on slices"),
        ("xy:3", {"sweep": {"threshold": [0.1, 0.10]}}, "threshold has the value 0.1 twice"),
        ("xy:3", {"sweep": {"threshold": []}}, "threshold has no value"),
        ("xy:3", {"sweep": {"threshold": [0.1, "x"]}}, "threshold 'x' cannot be read"),
        ("xy:3", {"sweep": {"flow_steps": [9, 10]}}, "flow_steps means nothing"),
        (
            "xy:3",
            {"sweep": {"threshold": np.linspace(0.1, 0.9, 5), "median": [1, 3, 5, 7, 9]}},
            "5 of threshold x 5 of median make 25 settings; use 24 at most",
        ),
        ([f"xy:{n}" for n in range(33)], {"sweep": {"median": [1, 3, 5]}}, "99 attempts; use 96"),
        ("xy:3", {"truth": np.zeros((40, 72, 79), int)}, r"truth has shape \(40, 72, 79\)"),
        ("xy:3", {"truth": np.zeros(SHAPE)}, "truth labels are ndarray of shape .* float64"),
        ("xy:3", {"at": (50, 0, 0)}, "at 50 on axis z lies outside"),
        ("xy:3", {"picture": "no/such/p.png"}, "folder no/such does not exist"),
        ("xy:3", {"semantic_only": True}, r"gives none \(semantic_only\); preview a region"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_network_runs(
    made, monkeypatch, slices, options, message
):
    monkeypatch.setattr(work, "infer", None)
    with pytest.raises(BadInput, match=message):
        preview_slices(made.image, "demo:panoptic", slices, **options)


def test_networks_without_objects_of_planes_are_refused(made):
    with pytest.raises(BadInput, match=r"'demo-semantic' gives none \(a semantic network\)"):
        preview_slices(made.image, "demo:semantic", "xy:3")
    with pytest.raises(BadInput, match="center_distance means nothing with 'demo-flows'"):
        preview_slices(made.image, "demo:flows", "xy:3", sweep={"center_distance": [3, 5]})
    solid = nets.plain(ndim=3, outputs=4, task="flows")
    with pytest.raises(BadInput, match="takes 3-D patches; preview a region"):
        preview_slices(made.image, solid, "xy:3")
    with pytest.raises(BadInput, match="is a line"):
        preview_slices(made.image[:1], "demo:panoptic", "xz:3")


# ---------------------------------------------------------------------------------- every plane


@pytest.mark.parametrize(
    ("model", "orientation"),
    [("demo:panoptic", "xy"), ("demo:panoptic", "yz"), ("demo:flows", "xz")],
)
def test_every_plane_is_labelled_by_itself(made, tmp_path, model, orientation):
    found = []
    cuts = [{"block": 16, "chunk": 8}, {"block": (40, 24, 48), "chunk": 24}, {}]
    for number, cut in enumerate(cuts):
        out = tmp_path / f"{number}.zarr"
        report = of.label_planes(
            made.image, out, model, orientations=orientation, cluster="synchronous", **cut
        )
        assert report["complete"]
        assert verify(out).complete
        found.append(nets.read(out, "labels/segmentation/0"))
    assert not (out / "labels/segmentation/1").exists()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    cells = np.moveaxis(planes_of(out, orientation), AXIS[orientation], 0)
    planes = np.moveaxis(found[0], AXIS[orientation], 0)
    total = 0
    for cell, plane in zip(cells, planes, strict=True):
        names = np.unique(plane[plane > 0])
        np.testing.assert_array_equal(names, 10_001 + np.arange(len(names)))
        pieces = masks(cell)
        assert len(pieces) == len(names)
        assert all(len(np.unique(plane[piece])) == 1 for piece in pieces)
        np.testing.assert_array_equal(plane > 0, cell > 0)
        total += len(names)
    assert report["instances"] == total


def test_labels_of_planes_count_from_the_divisor(squares, tmp_path):
    dice = np.random.default_rng(1)
    volume = np.repeat(np.repeat(dice.integers(0, 3, (4, 5, 6), np.uint8), 8, 1), 8, 2)
    out = tmp_path / "out.zarr"
    of.label_planes(volume, out, squares, label_divisor=100, cluster="synchronous")
    labels = nets.read(out, "labels/segmentation/0")
    np.testing.assert_array_equal(labels // 100, volume)
    for plane, classes in zip(labels, volume, strict=True):
        for klass in (1, 2):
            count = np.count_nonzero(classes[::8, ::8] == klass)
            names = np.unique(plane[plane // 100 == klass])
            np.testing.assert_array_equal(names, 100 * klass + 1 + np.arange(count))


def test_planes_of_several_orientations_are_refused(made, tmp_path):
    out = tmp_path / "out.zarr"
    for options, message in [
        ({"orientations": "xy,xz"}, "instances planes is for the planes of one orientation"),
        ({"instances": "components"}, "instances components joins planes"),
        ({"min_extent": "3"}, "min_extent 3: objects of planes are one voxel thick"),
        ({"semantic_only": True}, "gives classes alone here; use run"),
    ]:
        with pytest.raises(BadInput, match=message):
            of.label_planes(made.image, out, "demo:panoptic", **options)
    with pytest.raises(BadInput, match="'demo-semantic' gives classes alone"):
        of.label_planes(made.image, out, "demo:semantic")
    assert not out.exists()
