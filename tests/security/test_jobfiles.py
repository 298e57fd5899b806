"""S12: a job file of somebody else's is plain data that names options, and nothing more.

It does decide what is read and where results go: look at it before you run it (docs/security.md).
"""

from __future__ import annotations

import os

import pytest
import yaml

from orthoflow import cli
from orthoflow.jobfile import read_job
from orthoflow.models.location import sha256
from orthoflow.options import Options
from orthoflow.plainyaml import LARGEST_INTEGER, MOST_DEPTH, MOST_NODES
from tests.security.hostile import CANARY, MEBI, memory_grows_by_at_most, refusal


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Write a job file; the folder is the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        path = tmp_path / "job.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "overlap: !!python/object/apply:os.mkdir ['{}']",
        "!!python/object/new:os.system [touch {}]",
        "overlap: !!python/object/apply:subprocess.check_output [[touch, {}]]",
        "name: !!python/name:os.system",
        "a: !!python/module:os",
        "overlap: !include {}",
        "overlap: !!python/tuple [1, 2]",
    ],
)
def test_s12_tags_run_no_code(job, trap, text):
    content = text.format(trap.path)
    if "os.mkdir" in text:
        yaml.unsafe_load(content)
        trap.path.rmdir()  # so it does run
    path = job(content)
    assert "is not plain YAML: it uses the tag" in refusal(read_job, path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--config", str(path)])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "text", ["${SECRET}", "$SECRET", "%SECRET%", "{{ env.SECRET }}", "!env SECRET"]
)
def test_s12_nothing_of_the_environment_gets_in(job, monkeypatch, text):
    monkeypatch.setenv("SECRET", CANARY)
    path = job(f"name: '{text}'\ninput: '{text}'\ntarget: '{text}'\nmodel: '{text}'\n")
    assert read_job(path) == dict.fromkeys(("name", "input", "target", "model"), text)


def laughs(depth):
    return "".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}], " for n in range(1, depth))


@pytest.mark.parametrize(
    "text",
    [
        f"overlap: [&a0 [x, x, x, x], {laughs(9)}]",
        "overlap: &a [*a]",
        "overlap: " + "[" * 20_000 + "]" * 20_000,
        "overlap: " + "{a: " * 5_000 + "}" * 5_000,
        "chunk: [" + "1, " * (MOST_NODES + 1) + "1]",
        "levels: " + "1" * 5_000,
        "levels: 1" + ":59" * 15_000,
        f"levels: {LARGEST_INTEGER + 1}",
        "levels: 2001-99-99",
        "? [a, b]\n: 1",
        "overlap: \0",
        "overlap: 0.1\noverlap: 0.2",
        "chunk: {a: 1, a: 2}",
        "a: [",
    ],
    ids=lambda text: text[:30].replace("\n", " ").replace("\0", "NUL"),
)
def test_s12_yaml_that_swells_or_stumbles(job, text):
    path = job(text)
    with memory_grows_by_at_most(32 * MEBI):
        assert "job.yaml is not plain YAML" in refusal(read_job, path)


def test_s12_the_limits_leave_room(job):
    depth = MOST_DEPTH - 1
    path = job("overlap: " + "[" * depth + "]" * depth)
    assert read_job(path)["overlap"] != []
    assert "cannot be read" in refusal(Options.from_mapping, read_job(path))
    path = job("chunk: [" + "1, " * (MOST_NODES - 10) + "1]")
    assert len(read_job(path)["chunk"]) == MOST_NODES - 9


def test_s12_a_job_file_of_gigabytes_is_not_read(job):
    path = job("overlap: 0.25\n")
    os.truncate(path, 2**33)
    with memory_grows_by_at_most(32 * MEBI):
        assert "at most 65536" in refusal(read_job, path)


@pytest.mark.parametrize("key", ["overlpa", "trsut", "__class__", "input_", "a" * 900, "x\x1b[2J"])
def test_s12_unknown_keys_are_refused(job, key):
    refusal(read_job, job(yaml.safe_dump({key: 1})))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"1", b"\xff\xfe", b"null", b"a", b"1: 2\n", b"~: 1\n"]
)
def test_s12_other_files_are_no_jobs(job, content):
    refusal(read_job, job(content))


def test_s12_a_job_file_cannot_trust_its_own_model(job, trap, tmp_path):
    """Whoever writes the file writes the digest, too: trust is for the one who starts the run."""
    (tmp_path / "evil_net.py").write_text(trap.source() + "model = None\n")
    trust = sha256((tmp_path / "evil_net.py").read_bytes())
    path = job(f"input: in.zarr\ntarget: o.zarr\nmodel: python:evil_net:model\ntrust: {trust}\n")
    assert "--trust" in refusal(read_job, path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--config", str(path)])
    assert stop.value.code == 2
    assert Options.from_mapping({"trust": trust}).trust == trust
    assert not (tmp_path / "o.zarr").exists()


def test_s12_what_is_typed_goes_before_the_file(job, capsys):
    """So an option of one's own cannot be undone by a file."""
    path = job("input: elsewhere.zarr\noverlap: 0.9\n")
    words = ["plan", "--config", str(path), "--shape", "8,64,64", "--divisor", "8"]
    cli.main([*words, "--overlap", "0.5", "--json"])
    assert '"overlap": 0.5' in capsys.readouterr().out
