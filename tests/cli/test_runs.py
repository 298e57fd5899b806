"""run and demo as a user meets them, without a cluster; what starts processes is marked slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from orthoflow import cli, pipeline
from orthoflow.errors import StoreRefused
from orthoflow.stores.ome import read_level
from tests.commands import call, run_line
from tests.everything import SHAPE

PROGRAM = Path(sys.executable).with_name("orthoflow")


@pytest.mark.usefixtures("here")
def test_run_reports_on_stdout_and_shows_progress_on_stderr(capsys):
    code, out, err = call(capsys, *run_line())
    assert code == 0
    assert out.startswith("wrote out.zarr\n1 of 1 blocks")
    assert err.splitlines()[0].startswith("blocks 1/1")
    assert read_level("out.zarr", "labels/segmentation", 0).shape == SHAPE


@pytest.mark.usefixtures("here")
def test_run_as_json_is_json_alone(capsys):
    code, out, err = call(capsys, *run_line("--json", "--chunk", "8", "--block", "8"))
    assert code == 0
    report = json.loads(out)
    assert report["blocks"] == report["blocks_planned"] == 18
    assert report["failed"] == {}
    assert "blocks 18/18" in err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("typed", "kind"), [((), "processes"), (("--cluster", "threads"), "threads")]
)
def test_without_a_gpu_processes_do_the_work_unless_said(capsys, monkeypatch, typed, kind):
    asked = {}

    def note(*_, **options):
        asked.update(options)
        raise StoreRefused("that is all")

    monkeypatch.setattr("orthoflow.cluster._has_gpu", lambda _: False)
    monkeypatch.setattr(pipeline, "run", note)
    call(capsys, "run", "in.zarr", "out.zarr", "--model", "tiny", "--quiet", *typed)
    assert asked["cluster"] == kind


@pytest.mark.usefixtures("here")
def test_quiet_is_quiet(capsys):
    code, out, err = call(capsys, *run_line("--quiet", "--json"))
    assert (code, err) == (0, "")
    json.loads(out)


@pytest.mark.usefixtures("here")
def test_a_job_file_and_what_is_typed_over_it(capsys):
    job = {
        "input": "in.zarr",
        "target": "job.zarr",
        "model": "tiny",
        "overlap": 0.5,
        "pixel-vote-thr": 3,
        "consensus": "vote",
        "tile": [16, 16],
        "voxel_size": [2, 1, 1],
        "cluster": "synchronous",
        "disagreement": True,
    }
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert call(capsys, "run", "--config", "job.yaml", "--overlap", "0.25")[0] == 0
    options = json.loads(Path("job.zarr/orthoflow/run.json").read_text())["options"]
    assert options["overlap"] == 0.25
    assert options["votes"] == 3
    assert options["tile"] == [16, 16]
    assert Path("job.zarr/disagreement").exists()
    # Typed paths win as well.
    assert call(capsys, "run", "in.zarr", "typed.zarr", "--config", "job.yaml")[0] == 0
    assert Path("typed.zarr/labels").exists()


@pytest.mark.parametrize(
    ("typed", "field", "value"),
    [
        (("--vote-threshold", "3"), "votes", 3),
        (("--pixel-vote-thr", "1"), "votes", 1),
        (("--bsize", "16"), "tile", [16]),
        (("--patch-size", "16,16"), "tile", [16, 16]),
        (("--pack-guard", "4"), "guard", 4),
        (("--sigma", "4"), "sigma_scale", 4.0),
        (("--tta-type", "mirroring"), "tta", "mirroring"),
        (("--no-skip-empty-patches",), "skip_empty", False),
        (("--median-kernel", "3"), "median", 3),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_seeds_names_are_understood(capsys, typed, field, value):
    assert call(capsys, *run_line(*typed, "--quiet"))[0] == 0
    options = json.loads(Path("out.zarr/orthoflow/run.json").read_text())["options"]
    assert options[field] == value


@pytest.mark.usefixtures("here")
def test_overwrite_replaces_an_earlier_output(capsys):
    assert call(capsys, *run_line())[0] == 0
    assert call(capsys, *run_line())[0] == cli.EXIT_BAD_INPUT
    assert call(capsys, *run_line("--overwrite", "--name", "again"))[0] == 0
    assert [p.name for p in Path("out.zarr/labels").iterdir() if p.is_dir()] == ["again"]


@pytest.mark.usefixtures("here")
def test_failed_blocks_are_named(capsys):
    code, out, err = call(
        capsys,
        *run_line("--json", "--chunk", "8", "--block", "12,8,20", volume="nan.zarr"),
        *("--cluster", "threads"),
    )
    assert code == cli.EXIT_BLOCKS_FAILED
    report = json.loads(out)
    assert report["failed"]
    for block in report["failed"]:
        assert f"failed block {block}: " in err
    assert "NaN" in err


@pytest.mark.usefixtures("here")
def test_nan_may_be_read_as_zero(capsys):
    assert call(capsys, *run_line("--nan-policy", "zero", volume="nan.zarr"))[0] == 0


# ------------------------------------------------------------------- what was done before, parts

SMALL = ("--chunk", "8", "--block", "8", "--quiet")


@pytest.mark.usefixtures("here")
def test_a_run_that_is_resumed_says_what_was_done_before(capsys):
    assert call(capsys, *run_line(*SMALL))[0] == 0
    next(Path("out.zarr/orthoflow/markers").rglob("1-2-0.json")).unlink()
    code, out, _ = call(capsys, *run_line(*SMALL, "--resume"))
    assert code == 0
    assert out.startswith("wrote out.zarr\n18 of 18 blocks")
    assert "17 blocks were done before" in out
    assert "Mvoxel/s" not in out


@pytest.mark.usefixtures("here")
def test_jobs_that_share_a_run(capsys, monkeypatch):
    shared = run_line(*SMALL, "--part", "1", "--num-parts", "3")
    code, out, _ = call(capsys, *shared, "--part-id", "2")
    assert code == 0
    assert out.splitlines()[:2] == [
        "out.zarr is incomplete",
        "part 2 of 3 (counted from 0): its 6 blocks are done; 12 blocks of other parts are not; "
        "whichever job ends last finishes the output",
    ]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    code, out, _ = call(capsys, *shared, "--json")
    facts = json.loads(out)
    assert (code, facts["part"], facts["blocks_left"]) == (0, [3, 0], 6)
    assert facts["complete"] is False
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    code, out, _ = call(capsys, *shared)
    assert (code, out.splitlines()[0]) == (0, "wrote out.zarr")
    assert call(capsys, *run_line("--quiet", output="whole.zarr"))[0] == 0
    np.testing.assert_array_equal(
        *(read_level(name, "labels/segmentation", 0) for name in ("out.zarr", "whole.zarr"))
    )


@pytest.mark.usefixtures("here")
def test_failed_blocks_are_tried_again_on_request(capsys):
    line = run_line(*SMALL, volume="nan.zarr", output="nan.out.zarr")
    code, out, err = call(capsys, *line)
    failed = len(err.splitlines())
    assert code == cli.EXIT_BLOCKS_FAILED
    assert out.splitlines()[:2] == [
        "nan.out.zarr is incomplete",
        f"{failed} failed blocks: run the same command with --retry-failed",
    ]
    # Another volume of the same name: what was wrong with it has been repaired.
    Path("nan.zarr").unlink()
    Path("nan.zarr").symlink_to(Path("bigger.zarr").resolve())
    assert call(capsys, *line, "--resume")[0] == cli.EXIT_BLOCKS_FAILED
    code, out, _ = call(capsys, *line, "--retry-failed")
    assert (code, out.splitlines()[0]) == (0, "wrote nan.out.zarr")


# ------------------------------------------------------------------------------- real processes


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_run_that_is_terminated_can_be_resumed(capsys):
    line = run_line("--chunk", "4", "--block", "4", "--part", "1")
    with subprocess.Popen([PROGRAM, *line], stderr=subprocess.PIPE, text=True) as program:
        first = program.stderr.readline()
        program.send_signal(signal.SIGTERM)
        rest = program.stderr.read()
    assert first.startswith("blocks ")
    assert program.returncode == cli.EXIT_INTERRUPTED
    assert rest.splitlines()[-1] == (
        "orthoflow: interrupted; what is done is kept: run the same command with --resume"
    )
    assert "Traceback" not in rest
    status = json.loads(call(capsys, "status", "out.zarr", "--json")[1])
    assert 0 < status["blocks"] < status["blocks_planned"] == 90
    assert status["drivers"] == []
    code, out, _ = call(capsys, *line, "--resume", "--quiet")
    assert (code, out.splitlines()[0]) == (0, "wrote out.zarr")
    assert f"{status['blocks']} blocks were done before" in out


@pytest.mark.slow
def test_demo_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [PROGRAM, "demo", "--shape", "32,64,64", "--workers", "1", "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    scores = json.loads(done.stdout)["scores"]
    assert set(scores) == {"xy", "xz", "yz", "consensus"}
    best = max(scores[name]["dice"] for name in ("xy", "xz", "yz"))
    assert scores["consensus"]["dice"] > best
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "volume.zarr",
        "segmented.zarr",
        "overview.png",
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "flows"])
def test_demo_of_objects(task, capsys, tmp_path):
    line = ["demo", "--task", task, "--shape", "48,112,128", "--seed", "11", "--json"]
    code, out, _ = call(capsys, *line, "--out", str(tmp_path / "demo"), "--workers", "2")
    assert code == 0
    found = json.loads(out)
    f1 = {name: both["f1"] for name, both in found["scores"].items()}
    assert set(f1) == {"xy", "xz", "yz", "consensus"}
    assert max(f1, key=f1.get) == "consensus", f1
    assert found["report"]["instances"] > 20
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {
        "volume.zarr",
        "segmented.zarr",
        "overview.png",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_program_itself():
    done = subprocess.run(
        [PROGRAM, *run_line("--json")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["blocks"] == 1
    refused = subprocess.run([PROGRAM, *run_line()], capture_output=True, text=True, check=False)
    assert refused.returncode == cli.EXIT_BAD_INPUT
    assert refused.stderr.startswith("orthoflow: output out.zarr exists")
    assert refused.stdout == ""
