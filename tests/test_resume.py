"""Going on with an output: what is done is left alone, what differs is refused, parts add up."""

from __future__ import annotations

import json

import numpy as np
import pytest

import orthoflow as of
from orthoflow import driver
from orthoflow.finishing import finalize
from orthoflow.status import status
from tests import nets

SHAPE = (16, 24, 32)
CUT = {"chunk": 8, "block": 8, "levels": 2, "cluster": "synchronous"}
BLOCKS = 24


@pytest.fixture
def volume():
    return nets.blobs(SHAPE, top=200)


@pytest.fixture
def model():
    return of.Model.from_torch(nets.Counting(), divisor=4, reach=1, stride=1, name="counting")


class StoppedError(Exception):
    pass


def stop_after(count):
    def look(progress):
        if progress.stage == "blocks" and progress.done >= count:
            raise StoppedError

    return look


def interrupted(volume, output, count, **options):
    with pytest.raises(StoppedError):
        of.run(volume, output, progress=stop_after(count), **{**CUT, "part": 1, **options})


def test_a_run_that_was_stopped_goes_on(volume, model, tmp_path):
    of.run(volume, tmp_path / "warm", model=model, **CUT, part=1)
    nets.CALLS.clear()
    of.run(volume, tmp_path / "clean", model=model, **CUT, part=1)
    whole = len(nets.CALLS)
    nets.CALLS.clear()
    interrupted(volume, tmp_path / "out", 10, model=model)
    now = status(tmp_path / "out")
    assert (now["blocks"], now["blocks_planned"], now["finished"]) == (10, BLOCKS, False)
    assert (now["drivers"], now["failed"], now["under_way"]) == ([], {}, 0)
    report = of.run(volume, tmp_path / "out", model=model, resume=True, **CUT, part=1)
    assert (report["blocks"], report["blocks_resumed"], report["complete"]) == (BLOCKS, 10, True)
    assert report["voxels"] == np.prod(SHAPE)
    # The block that had ended when the run was stopped counts, the next one had not begun.
    assert len(nets.CALLS) == whole
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")
    assert status(tmp_path / "out")["finished"]
    nets.CALLS.clear()


def test_a_large_part_is_finished_in_pieces(volume, model, tmp_path):
    of.run(volume, tmp_path / "clean", model=model, **CUT)
    interrupted(volume, tmp_path / "out", 7, model=model)
    report = of.run(volume, tmp_path / "out", model=model, resume=True, **CUT, part=9)
    assert report["blocks_resumed"] == 7
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")


def test_a_finished_output_is_left_alone(volume, model, tmp_path):
    first = of.run(volume, tmp_path / "out", model=model, **CUT)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    nets.CALLS.clear()
    again = of.run(volume, tmp_path / "out", model=model, resume=True, **CUT)
    assert not nets.CALLS
    assert again["blocks_resumed"] == BLOCKS
    assert again["voxels"] == first["voxels"]
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert after == before


def test_resume_begins_what_is_not_there(volume, model, tmp_path):
    report = of.run(volume, tmp_path / "out", model=model, resume=True, **CUT)
    assert (report["blocks"], report["blocks_resumed"]) == (BLOCKS, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overlap": 0.5}, r"overlap 0\.25 -> 0\.5"),
        ({"output": "both"}, "output labels -> both"),
        ({"block": 16}, r"block \[8, 8, 8\] -> \[16, 16, 16\]"),
        ({"tta": "mirroring"}, "tta none -> mirroring"),
    ],
    ids=str,
)
def test_other_settings_are_refused_and_named(change, message, volume, model, tmp_path):
    of.run(volume, tmp_path / "out", model=model, **CUT)
    before = nets.tree(tmp_path)
    with pytest.raises(of.BadInput, match=message) as caught:
        of.run(volume, tmp_path / "out", model=model, resume=True, **{**CUT, **change})
    assert "\n" not in str(caught.value)
    assert "patches" not in str(caught.value)
    assert nets.tree(tmp_path) == before


def test_another_model_and_another_volume_are_refused(volume, model, tmp_path):
    interrupted(volume, tmp_path / "out", 3, model=model)
    with pytest.raises(of.BadInput, match="model"):
        of.run(volume, tmp_path / "out", model=nets.plain(), resume=True, **CUT)
    with pytest.raises(of.BadInput, match="input_shape"):
        of.run(volume[:8], tmp_path / "out", model=model, resume=True, **CUT)


def test_grey_values_that_have_changed_are_refused(volume, model, tmp_path):
    options = {"normalization": "zscore"}
    interrupted(volume, tmp_path / "out", 3, model=model, **options)
    with pytest.raises(of.BadInput, match="other grey values than when the output was begun"):
        of.run(volume // 2, tmp_path / "out", model=model, resume=True, **CUT, **options)


def test_how_the_work_is_cut_may_change(volume, model, tmp_path):
    of.run(volume, tmp_path / "clean", model=model, **CUT)
    interrupted(volume, tmp_path / "out", 5, model=model)
    changes = {"part": (1, 2, 3), "cluster": "threads", "workers": 2, "batch_size": 3}
    of.run(volume, tmp_path / "out", model=model, resume=True, **{**CUT, **changes})
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")


def test_failed_blocks_are_remembered_and_tried_when_asked(volume, tmp_path):
    spoilt = of.Model.from_torch(nets.Spoilt(), tile=(8, 8), reach=1, stride=1)
    options = {"overlap": 0, "packing": "none", "orientations": ("xy",), **CUT}
    of.run(volume, tmp_path / "clean", model=spoilt, **options)
    healthy, volume[9, 17, 3] = volume[9, 17, 3], 251
    report = of.run(volume, tmp_path / "out", model=spoilt, **options)
    assert (report["complete"], list(report["failed"])) == (False, ["8:16,16:24,0:8"])
    assert status(tmp_path / "out")["failed"] == report["failed"]
    volume[9, 17, 3] = healthy
    again = of.run(volume, tmp_path / "out", model=spoilt, resume=True, **options)
    assert again["failed"] == report["failed"]
    with pytest.raises(of.BadInput, match=r"1 of 24 blocks are not done.*--retry-failed"):
        finalize(tmp_path / "out", cluster="synchronous")
    last = of.run(volume, tmp_path / "out", model=spoilt, retry_failed=True, **options)
    assert (last["failed"], last["blocks"], last["complete"]) == ({}, BLOCKS, True)
    assert status(tmp_path / "out")["failed"] == {}
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")


def test_failed_blocks_may_stay_holes(volume, tmp_path):
    spoilt = of.Model.from_torch(nets.Spoilt(), tile=(8, 8), reach=1, stride=1)
    volume[9, 17, 3] = 251
    options = {"overlap": 0, "packing": "none", "orientations": ("xy",), **CUT}
    of.run(volume, tmp_path / "out", model=spoilt, **options)
    report = finalize(tmp_path / "out", despite_failed=True, cluster="synchronous")
    assert list(report["failed"]) == ["8:16,16:24,0:8"]
    assert [n for n in nets.objects(tmp_path / "out") if "segmentation/1/c" in n]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_jobs_share_a_run_and_the_last_one_ends_it(order, volume, model, tmp_path):
    of.run(volume, tmp_path / "clean", model=model, **CUT)
    reports = [
        of.run(volume, tmp_path / "out", model=model, num_parts=3, part_id=job, **CUT)
        for job in order
    ]
    assert [r["complete"] for r in reports] == [False, False, True]
    assert [r["blocks_left"] for r in reports] == [16, 8, 0]
    assert reports[-1]["blocks"] == BLOCKS
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")
    written = json.loads((tmp_path / "out/orthoflow/report.json").read_text())
    assert written["complete"]


def test_a_job_that_stopped_is_started_again(volume, model, tmp_path):
    of.run(volume, tmp_path / "clean", model=model, **CUT)
    interrupted(volume, tmp_path / "out", 4, model=model, num_parts=2, part_id=1)
    of.run(volume, tmp_path / "out", model=model, num_parts=2, part_id=0, **CUT)
    last = of.run(volume, tmp_path / "out", model=model, num_parts=2, part_id=1, **CUT)
    assert (last["blocks_resumed"], last["complete"]) == (4, True)
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")


def test_more_jobs_than_blocks(volume, model, tmp_path):
    reports = [
        of.run(volume, tmp_path / "out", model=model, num_parts=30, part_id=job, **CUT)
        for job in range(30)
    ]
    assert reports[-1]["complete"]
    assert {r["blocks"] for r in reports[:-1]} == {0, 1}


def test_an_end_that_was_cut_off_is_made_up_for(volume, model, tmp_path, monkeypatch):
    def cut(*_):
        raise StoppedError

    of.run(volume, tmp_path / "clean", model=model, **CUT)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "build_pyramid", cut)
        with pytest.raises(StoppedError):
            of.run(volume, tmp_path / "out", model=model, **CUT)
    report = finalize(tmp_path / "out", cluster="synchronous")
    assert (report["blocks"], report["complete"]) == (BLOCKS, True)
    assert nets.objects(tmp_path / "out") == nets.objects(tmp_path / "clean")


def test_an_empty_volume_costs_markers_only(model, tmp_path):
    nets.CALLS.clear()
    report = of.run(np.full(SHAPE, 7, np.uint8), tmp_path / "out", model=model, part=1, **CUT)
    assert not nets.CALLS
    assert report["patches"] == report["patches_skipped"] > 0
    assert report["bytes_stored"] == 0
    assert not [name for name in nets.objects(tmp_path / "out") if "/c/" in name]
    planned = of.make_plan(np.full(SHAPE, 7, np.uint8), model, part=1, **CUT).to_dict()
    assert report["patches"] == planned["run"]["patches"]
    assert report["bytes_read"] == planned["bytes_read"]


def test_an_empty_block_gives_the_bytes_of_the_long_way(volume, model, tmp_path, monkeypatch):
    from orthoflow import work

    volume = nets.with_holes(volume)
    of.run(volume, tmp_path / "short", model=model, part=1, output="both", **CUT)
    monkeypatch.setattr(work, "leaves_nothing", lambda _: False)
    of.run(volume, tmp_path / "long", model=model, part=1, output="both", **CUT)
    assert nets.objects(tmp_path / "short") == nets.objects(tmp_path / "long")
