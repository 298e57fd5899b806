"""status, verify, finalize and doctor as a user meets them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

from orthoflow import cli
from orthoflow.cli import keep
from orthoflow.stores.probes import Check
from tests.commands import call, run_line

# Probabilities: labels that are all background are not stored.
SMALL = ("--chunk", "8", "--block", "8", "--quiet", "--output", "probabilities")


@pytest.fixture
def output(here, capsys):
    """A finished output of 18 blocks."""
    assert call(capsys, *run_line(*SMALL))[0] == 0
    return here / "out.zarr"


def forget(output, *numbers):
    """Make blocks undone: their markers go, and the report."""
    for number in numbers:
        next((output / "orthoflow/markers").rglob(f"blocks/{number}.json")).unlink()
    (output / "orthoflow/report.json").unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------- status


def test_status_of_a_finished_run(capsys, output):
    code, out, err = call(capsys, "status", "out.zarr")
    assert (code, err) == (0, "")
    assert out == "out.zarr: 18 of 18 blocks done, finished\n"
    code, out, err = call(capsys, "status", output, "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert (facts["blocks"], facts["blocks_planned"], facts["finished"]) == (18, 18, True)
    assert facts["failed"] == {}
    assert facts["drivers"] == []


def test_status_of_a_run_that_nobody_works_on(capsys, output):
    forget(output, "0-0-0", "1-2-2")
    code, out, _ = call(capsys, "status", "out.zarr")
    assert code == 0
    assert out.splitlines() == [
        "out.zarr: 16 of 18 blocks done",
        "nobody is at work on it; run the same command with --resume",
    ]


@pytest.mark.usefixtures("here")
def test_status_names_failed_blocks(capsys):
    line = run_line(*SMALL, volume="nan.zarr")
    code, _, failures = call(capsys, *line)
    assert code == cli.EXIT_BLOCKS_FAILED
    code, out, err = call(capsys, "status", "out.zarr")
    assert (code, err) == (cli.EXIT_BLOCKS_FAILED, "")
    assert sorted(out.splitlines()[2:]) == sorted(failures.splitlines())
    assert f"{len(failures.splitlines())} failed" in out.splitlines()[0]


WORKING = {
    "output": "s3://bucket/out.zarr",
    "blocks_planned": 1200,
    "blocks": 300,
    "failed": {},
    "under_way": 6,
    "voxels_per_second": 2_500_000.0,
    "seconds_left": 754.0,
    "drivers": [
        {"name": "run", "host": "node7", "pid": 4711, "silent": 3.2, "stage": "blocks"},
    ],
    "finished": False,
}


def say(monkeypatch, *looks):
    """Let `status` find one thing after the other; every look but the first is after a pause."""
    left, pauses = [copy.deepcopy(look) for look in looks], []
    monkeypatch.setattr("orthoflow.status.status", lambda *_: left.pop(0))
    monkeypatch.setattr(keep.time, "sleep", pauses.append)
    return pauses


def test_status_of_a_run_under_way(capsys, monkeypatch):
    say(monkeypatch, WORKING)
    code, out, _ = call(capsys, "status", "s3://bucket/out.zarr")
    assert code == 0
    assert out.splitlines() == [
        "s3://bucket/out.zarr: 300 of 1,200 blocks done, 6 under way",
        "2.50 Mvoxel/s, about 12.6 minutes left",
        "driver run: process 4711 on node7, last sign of life 3 s ago, blocks",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(41, "41 seconds"), (754, "12.6 minutes"), (123456, "34.3 hours")]
)
def test_times_are_said_in_words(capsys, monkeypatch, seconds, text):
    say(monkeypatch, {**WORKING, "seconds_left": seconds})
    assert f"about {text} left" in call(capsys, "status", "x")[1]


DONE = {**WORKING, "blocks": 1200, "under_way": 0, "drivers": [], "finished": True}


def test_watching_prints_each_change_until_the_end(capsys, monkeypatch):
    faster = {**WORKING, "voxels_per_second": 3e6}
    more = {**WORKING, "blocks": 301}
    pauses = say(monkeypatch, WORKING, faster, more, DONE)
    code, out, _ = call(capsys, "status", "x", "--watch")
    assert code == 0
    assert [line.split(": ")[1].split(" of")[0] for line in out.splitlines()] == [
        "300",
        "301",
        "1,200",
    ]
    assert pauses == [2.0, 2.0, 2.0]


def test_watching_as_json_is_a_line_of_json_each(capsys, monkeypatch):
    say(monkeypatch, WORKING, DONE)
    _, out, _ = call(capsys, "status", "x", "--watch", "--json")
    assert [json.loads(line)["blocks"] for line in out.splitlines()] == [300, 1200]


@pytest.mark.parametrize("drivers", [[], [{**WORKING["drivers"][0], "silent": 500.0}]])
def test_watching_ends_where_nobody_is_left(capsys, monkeypatch, drivers):
    """Blocks that failed are left over by a run that has ended, or was killed at its end."""
    over = {**DONE, "blocks": 1199, "failed": {"0:8,0:8,0:8": "NaN"}, "finished": False}
    pauses = say(monkeypatch, {**over, "drivers": WORKING["drivers"]}, {**over, "drivers": drivers})
    code, _, _ = call(capsys, "status", "x", "--watch")
    assert code == cli.EXIT_BLOCKS_FAILED
    assert len(pauses) == 1


def test_watching_on_a_terminal_redraws(capsys, monkeypatch):
    say(monkeypatch, WORKING, DONE)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = call(capsys, "status", "x", "--watch")
    assert code == 0
    assert "300 of 1,200 blocks done" in out
    assert "1,200 of 1,200 blocks done, finished" in out


# ---------------------------------------------------------------------------------------- verify


def test_verify_finds_nothing_wrong(capsys, output):
    code, out, err = call(capsys, "verify", "out.zarr")
    assert code == 0
    assert out.splitlines()[-1] == "all is well"
    assert "18 of 18 blocks are done" in out
    assert err.splitlines()[-1].startswith("objects ")
    assert call(capsys, "verify", "out.zarr", "--quiet")[2] == ""
    facts = json.loads(call(capsys, "verify", output, "--json", "--quiet")[1])
    assert (facts["complete"], facts["blocks"], facts["findings"]) == (True, 18, [])


def test_verify_says_what_is_not_done(capsys, output):
    forget(output, "0-0-0")
    code, out, _ = call(capsys, "verify", "out.zarr", "--quiet")
    assert code == cli.EXIT_BLOCKS_FAILED
    assert "17 of 18 blocks are done" in out
    assert out.splitlines()[-1] == "to do the rest: run the same command with --resume"


def damage(output):
    """Flip a bit of a stored object; its key."""
    path = next(p for p in (output / "probabilities/0/c").rglob("*") if p.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return str(path.relative_to(output)), bytes(content)


def test_verify_names_damage_and_requeues_it(capsys, output):
    key, broken = damage(output)
    code, out, _ = call(capsys, "verify", "out.zarr", "--quiet")
    assert code == cli.EXIT_BLOCKS_FAILED
    assert f"changed: {key} has other bytes than were stored" in out.splitlines()
    assert "verify --requeue" in out.splitlines()[-1]
    assert (output / key).read_bytes() == broken
    code, out, _ = call(capsys, "verify", "out.zarr", "--quiet", "--requeue")
    assert code == cli.EXIT_BLOCKS_FAILED
    assert out.splitlines()[-1].startswith("1 blocks and ")
    assert out.splitlines()[-1].endswith("run the same command with --resume")
    assert "17 of 18 blocks done" in call(capsys, "status", "out.zarr")[1]
    code, out, _ = call(capsys, *run_line(*SMALL, "--resume"))
    assert code == 0
    assert "17 blocks were done before" in out
    assert call(capsys, "verify", "out.zarr", "--quiet")[0] == 0
    assert (output / key).read_bytes() != broken


def test_verify_as_json_says_what_was_requeued(capsys, output):
    key, _ = damage(output)
    _, out, _ = call(capsys, "verify", "out.zarr", "--quiet", "--json", "--requeue")
    facts = json.loads(out)
    assert [(one["kind"], one["key"]) for one in facts["findings"]] == [("changed", key)]
    assert facts["findings"][0]["block"] in facts["requeued"]
    assert facts["complete"] is False


def test_what_is_foreign_is_named_and_left_alone(capsys, output):
    (output / "notes.txt").write_text("mine")
    for more in ((), ("--requeue",)):
        code, out, _ = call(capsys, "verify", "out.zarr", "--quiet", *more)
        assert code == cli.EXIT_BLOCKS_FAILED
        assert "foreign: notes.txt" in out
        assert "does no harm" in out.splitlines()[-1]
    assert (output / "notes.txt").read_text() == "mine"


# -------------------------------------------------------------------------------------- finalize


def test_finalize_builds_what_a_killed_job_left(capsys, output):
    report = output / "orthoflow/report.json"
    report.unlink()
    for marker in (output / "orthoflow/markers").rglob("levels/**/*.json"):
        marker.unlink()
    line = ("finalize", "out.zarr", "--cluster", "synchronous")
    code, out, err = call(capsys, *line)
    assert code == 0
    assert out.splitlines()[0] == "wrote out.zarr"
    assert "blocks 18" not in err
    assert report.is_file()
    assert call(capsys, "verify", "out.zarr", "--quiet")[0] == 0
    facts = json.loads(call(capsys, *line, "--quiet", "--json")[1])
    assert (facts["complete"], facts["blocks"]) == (True, 18)


def test_finalize_refuses_while_blocks_are_missing(capsys, output):
    forget(output, "0-0-0", "0-0-1")
    code, out, err = call(capsys, "finalize", "out.zarr", "--cluster", "synchronous")
    assert (code, out) == (cli.EXIT_BAD_INPUT, "")
    assert err == (
        "orthoflow: output out.zarr: 2 of 18 blocks are not done; run the same command with "
        "--resume\n"
    )


@pytest.mark.usefixtures("here")
def test_finalize_may_leave_failed_blocks_as_holes(capsys):
    code, _, failures = call(capsys, *run_line(*SMALL, volume="nan.zarr"))
    assert code == cli.EXIT_BLOCKS_FAILED
    line = ("finalize", "out.zarr", "--cluster", "synchronous", "--quiet")
    code, _, err = call(capsys, *line)
    assert code == cli.EXIT_BAD_INPUT
    assert "--despite-failed" in err
    code, out, err = call(capsys, *line, "--despite-failed")
    assert (code, out.splitlines()[0]) == (0, "wrote out.zarr")
    assert sorted(err.splitlines()) == sorted(failures.splitlines())


@pytest.mark.usefixtures("here")
def test_finalize_starts_processes_unless_said(capsys, monkeypatch):
    """It needs no GPU, so none is asked for."""
    asked = {}
    report = {"failed": {}, "complete": True}
    monkeypatch.setattr(
        "orthoflow.finishing.finalize", lambda _, **more: asked.update(more) or report
    )
    for typed, kind in (((), "processes"), (("--cluster", "threads"), "threads")):
        assert call(capsys, "finalize", "out.zarr", "--json", *typed)[0] == 0
        assert (asked["cluster"], asked["despite_failed"]) == (kind, False)


# ---------------------------------------------------------------------------------------- doctor


@pytest.mark.usefixtures("here")
def test_doctor_looks_at_a_volume(capsys):
    code, out, err = call(capsys, "doctor", "in.zarr")
    assert (code, err) == (0, "")
    for topic in ("software", "machine", "store"):
        assert topic in out.splitlines()
    checks = json.loads(call(capsys, "doctor", "in.zarr", "--json")[1])["checks"]
    assert {"topic", "name", "verdict", "found", "remedy"} == set(checks[0])
    assert {"software", "machine", "store"} == {check["topic"] for check in checks}


def test_doctor_without_a_store_looks_at_none(capsys):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert "store" not in out.splitlines()


@pytest.mark.parametrize(
    ("topic", "code"), [("store", cli.EXIT_STORE), ("cluster", 2), ("software", 2)]
)
def test_doctor_fails_where_anything_fails(capsys, monkeypatch, topic, code):
    asked = {}

    def examine(url, **more):
        asked.update(more, url=url)
        return [Check(topic, "write", "fails", "no", "ask"), Check("machine", "cores", "ok", "2")]

    monkeypatch.setattr("orthoflow.doctor.examine", examine)
    line = ("doctor", "s3://b", "--scheduler", "tcp://h:1", "--storage-option", "anon=true")
    found, out, _ = call(capsys, *line)
    assert found == code
    assert "-> ask" in out
    options = {"anon": "true"}
    assert asked == {"url": "s3://b", "scheduler": "tcp://h:1", "storage_options": options}


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a file system that refuses even root")
def test_doctor_of_a_folder_that_cannot_be_written(capsys):
    code, out, err = call(capsys, "doctor", "/sys/out.zarr")
    assert (code, err) == (cli.EXIT_STORE, "")
    assert "fails" in out
