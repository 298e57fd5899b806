"""preview as a user meets it: regions, slices, every plane."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

import orthoflow as of
from orthoflow.training.synthetic import OBJECTS, make_volume
from tests import nets
from tests.commands import call

SHAPE = (24, 48, 56)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with a volume of objects and its truth."""
    made = make_volume(SHAPE, seed=3, look=OBJECTS)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, array in {"v": made.image, "t": made.labels}.items():
            path = tmp_path / f"{name}.zarr"
            zarr.create_array(path, shape=SHAPE, chunks=(12, 24, 28), dtype=array.dtype)[:] = array
    monkeypatch.chdir(tmp_path)
    return made


# ---- regions


@pytest.mark.usefixtures("here")
def test_preview_draws_and_reports(capsys):
    code, out, err = call(
        capsys, *("preview", "in.zarr", "--model", "tiny", "--size", "8,16,16"), "--json"
    )
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["roi"] == "2:10,4:20,2:18"
    assert 0 <= found["foreground"] <= 1
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("here")
def test_preview_in_words(capsys):
    code, out, _ = call(
        capsys, *("preview", "in.zarr", "--model", "tiny", "--at", "0,0,0"), "--picture", "p.png"
    )
    assert code == 0
    assert out.startswith("wrote p.png: region 0:12,0:24,0:20")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("model", ["demo:panoptic", "demo:flows"])
def test_a_region_has_the_objects_of_a_run_over_it(capsys, model):
    line = ("preview", "v.zarr", "--model", model, "--size", "16,40,40", "--at", "12,20,20")
    code, out, err = call(capsys, *line, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["roi"] == "4:20,0:40,0:40"
    roi = found["roi"]
    report = of.run("v.zarr", "o.zarr", model=model, roi=roi, cluster="synchronous")
    labels = nets.read("o.zarr", "labels/segmentation/0")
    assert found["instances"] == report["instances"] == labels.max()
    assert found["foreground"] == pytest.approx((labels > 0).mean())
    assert sorted(path.name for path in Path().iterdir()) == [
        *("o.zarr", "preview.png", "t.zarr", "v.zarr")
    ]
    code, out, _ = call(capsys, *line)
    assert f"\n{labels.max()} object" in out


# ---- slices

SLICE = ("preview", "v.zarr", "--model", "demo:panoptic", "--slice", "xy:12,xz:20")


@pytest.mark.usefixtures("desk")
def test_settings_are_tried_on_slices(capsys):
    more = ("--center-threshold", "0.05,0.4", "--fine-boundaries", "--no-fine-boundaries")
    code, out, err = call(capsys, *SLICE, *more, "--slice", "yz:9", "--truth", "t.zarr", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["slices"] == ["xy:12", "xz:20", "yz:9"]
    assert [one["options"] for one in found["settings"]] == [
        {"center_threshold": 0.05, "fine_boundaries": True},
        {"center_threshold": 0.05, "fine_boundaries": False},
        {"center_threshold": 0.4, "fine_boundaries": True},
        {"center_threshold": 0.4, "fine_boundaries": False},
    ]
    best = found["settings"][found["best"]]
    assert best["command"] == found["best_command"]
    assert best["f1"]["0.5"] == max(one["f1"]["0.5"] for one in found["settings"])
    assert Path(found["picture"]).read_bytes().startswith(b"\x89PNG")
    code, out, _ = call(capsys, *SLICE, *more, "--truth", "t.zarr", "--picture", "p.png")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("wrote p.png: xy:12, xz:20, ")
    assert lines[1].split("   ")[0].strip() == "setting"
    assert lines[3].startswith("--center-threshold 0.05 --no-fine-boundaries")
    # What is named best may be typed.
    command = lines[-1].removeprefix("best: ").split()
    code, out, _ = call(capsys, *SLICE, *command, "--truth", "t.zarr", "--json")
    again = json.loads(out)
    assert code == 0
    assert again["settings"][0]["options"] == {}
    assert again["best"] == 0


@pytest.mark.usefixtures("desk")
def test_one_setting_without_a_truth(capsys):
    code, out, err = call(capsys, *SLICE, "--threshold", "0.4", "--downsample", "1,1,1")
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split()[:2] == ["as", "given"]
    assert "best" not in out
    assert "F1" not in out


@pytest.mark.usefixtures("desk")
def test_an_option_of_several_numbers_is_tried_by_typing_it_again(capsys):
    more = ("--downsample", "1,2,2", "--downsample", "1", "--json")
    code, out, _ = call(capsys, *SLICE, *more)
    assert code == 0
    commands = [one["command"] for one in json.loads(out)["settings"]]
    assert commands == ["--downsample 1,2,2", "--downsample 1"]


# ---- every plane


@pytest.mark.slow
@pytest.mark.usefixtures("desk")
def test_every_plane_is_labelled(capsys):
    line = ("preview", "v.zarr", "--model", "demo:panoptic", "--batch", "b.zarr", "--quiet")
    code, out, err = call(capsys, *line, "--orientations", "xz", "--threshold", "0.4")
    assert (code, err) == (0, "")
    assert out.startswith("wrote b.zarr")
    labels = nets.read("b.zarr", "labels/segmentation/0")
    assert labels.shape == SHAPE
    for plane in np.moveaxis(labels, 1, 0):
        names = np.unique(plane[plane > 0])
        np.testing.assert_array_equal(names, 10_001 + np.arange(len(names)))
    assert labels.max() > 10_001
    code, _, err = call(capsys, *line)
    assert code == 2
    assert "b.zarr exists" in err
    code, out, _ = call(capsys, *line, "--overwrite", "--label-divisor", "50", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["complete"]
    labels = nets.read("b.zarr", "labels/segmentation/0")
    assert labels[labels > 0].min() == 51
    assert report["instances"] == sum(np.count_nonzero(np.unique(plane)) for plane in labels)


# ---- refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--center-threshold", "0.1,0.2"),
            "center_threshold 0.1,0.2: several values are compared",
        ),
        (("--fine-boundaries", "--no-fine-boundaries"), "several values are compared on slices"),
        (("--truth", "t.zarr"), "truth is compared on slices; use slice"),
        (("--resume",), "resume is for batch"),
        (("--slice", "xy:1", "--overwrite"), "overwrite is for batch"),
        (("--slice", "xy:1", "--batch", "b.zarr"), "slice does not go with batch"),
        (("--batch", "b.zarr", "--size", "1,2,3"), "size does not go with batch"),
        (("--batch", "b.zarr", "--threshold", "0.1,0.2"), "several values are compared on slices"),
        (("--slice", "xy:1", "--size", "1,2"), "size '1,2' is not of the form z,y,x"),
        (("--slice", "xy:1", "--truth", "none.zarr"), "no array at"),
        (("--slice", "xy:1", "--votes", "3"), "votes is about objects of several planes"),
    ],
)
@pytest.mark.usefixtures("desk")
def test_refusals_name_the_option_and_leave_nothing(capsys, more, message):
    code, out, err = call(capsys, "preview", "v.zarr", "--model", "demo:panoptic", *more)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert sorted(path.name for path in Path().iterdir()) == ["t.zarr", "v.zarr"]
