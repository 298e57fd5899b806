"""S13: what lies in an output is input, too: records, markers, locks and notes of failures.

Schema, size and digest of each are tested beside the modules (`tests/stores/test_stamps.py`,
`test_markers.py`, `test_sealed.py`, `test_locks.py`, `test_verify.py`); here the output of a real
run is forged by somebody who knows how the digests are made, and every command meets it.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zarr

import orthoflow as of
from orthoflow import cli
from orthoflow.errors import BadInput, BlockFailed, RunInterrupted, StoreRefused
from orthoflow.finishing import finalize
from orthoflow.status import status
from orthoflow.stores.markers import Marker, Stamp, create_marker, list_marker_names, read_markers
from orthoflow.stores.ome import RECORD_LIMIT, read_record
from orthoflow.stores.sealed import seal, unseal
from orthoflow.stores.stamps import MARKER_LIMIT
from orthoflow.stores.verify import verify
from tests import nets
from tests.security.hostile import CANARY, MEBI, memory_grows_by_at_most, refusal

SHAPE = (16, 24, 24)
OPTIONS = {"chunk": 8, "block": (8, 24, 24), "levels": 2, "cluster": "synchronous"}
FORESEEN = (BadInput, BlockFailed, StoreRefused, RunInterrupted)
DEEP = json.loads("[" * 500 + "]" * 500)
VALUES = [None, True, -1, 2**70, 1e308, "", "../../x", "\x1b[2J", [], [[]], {}, DEEP]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Input and output of a run; each test takes a copy."""
    folder = tmp_path_factory.mktemp("finished")
    zarr.create_array(folder / "in.zarr", data=nets.blobs(SHAPE), chunks=(8, 8, 8))
    run_in(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished / "out.zarr", tmp_path / "out.zarr")
    (tmp_path / "in.zarr").symlink_to(finished / "in.zarr")
    return tmp_path


def run_in(folder, **more):
    # The name of the input is a setting: it is the same in each copy.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        source = str((folder / "in.zarr").resolve())
        return of.run(source, folder / "out.zarr", model=nets.plain(), **OPTIONS, **more)


def commands(folder):
    """Everything that reads an output, and what it came to: None, or the class of a refusal."""
    out = folder / "out.zarr"
    calls = {
        "status": lambda: status(out),
        "verify": lambda: verify(out),
        "finalize": lambda: finalize(out, cluster="synchronous"),
        "resume": lambda: run_in(folder, resume=True),
        "again": lambda: run_in(folder),
    }
    ended = {}
    for name, call in calls.items():
        try:
            call()
        except FORESEEN as error:
            ended[name] = type(error)
            said = str(error)
        else:
            ended[name] = said = None
        assert said is None or ("\n" not in said and len(said) < 5000)
    return ended


def resealed(path, change, *, indent=None):
    """Forge a document: the digest is right again."""
    content = unseal(path.read_bytes(), "", indent=indent)
    change(content)
    path.write_bytes(seal(content, indent=indent))


def marker_in(folder):
    return sorted((folder / "out.zarr/orthoflow/markers").rglob("blocks/*.json"))[0]


def fingerprint_in(folder):
    return read_record(folder / "out.zarr", "run")["fingerprint"]


def test_s13_an_honest_output_is_all_right(folder):
    honest = dict.fromkeys(("status", "verify", "finalize", "resume"))
    assert commands(folder) == {**honest, "again": BadInput}
    assert verify(folder / "out.zarr").complete


def entries(name):
    """Of the documents of an output; what a run's record has is what tests/test_resume.py shows."""
    return {
        "run": [
            *("orthoflow", "fingerprint", "settings", "region", "block", "output", "input"),
            *("sampled_bytes", "model", "grey", "plan", "options", "machine"),
        ],
        "report": ["complete", "failed", "blocks", "fingerprint", "device"],
        "marker": ["name", "fingerprint", "box", "objects", "facts"],
    }[name]


@pytest.mark.slow
@pytest.mark.parametrize("entry", entries("run"))
def test_s13_no_record_of_a_run_stops_a_command_unforeseen(folder, entry):
    path = folder / "out.zarr/orthoflow/run.json"
    honest = path.read_bytes()
    assert entry in json.loads(honest)
    with memory_grows_by_at_most(512 * MEBI):
        for value in (*VALUES, "absent"):
            path.write_bytes(honest)
            resealed(path, lambda content: altered(content, entry, value), indent=1)  # noqa: B023
            commands(folder)


def altered(content, entry, value):
    if value == "absent":
        del content[entry]
    else:
        content[entry] = value


@pytest.mark.slow
@pytest.mark.parametrize("entry", entries("report"))
def test_s13_no_report_stops_a_command_unforeseen(folder, entry):
    path = folder / "out.zarr/orthoflow/report.json"
    honest = path.read_bytes()
    for value in (*VALUES, "absent"):
        path.write_bytes(honest)
        resealed(path, lambda content: altered(content, entry, value), indent=1)  # noqa: B023
        commands(folder)


@pytest.mark.slow
@pytest.mark.parametrize("entry", entries("marker"))
def test_s13_a_forged_marker_is_caught(folder, entry):
    """By `verify` whatever it holds, and no command ends in another way than it should."""
    path = marker_in(folder)
    honest = path.read_bytes()
    for value in (*VALUES, "absent"):
        path.write_bytes(honest)
        resealed(path, lambda content: altered(content, entry, value))  # noqa: B023
        if (entry, value) != ("facts", {}):
            assert not verify(folder / "out.zarr").intact
        commands(folder)


COUNTS = ["blocks", "voxels", "tiles", "seconds", "halved", "unheard_of", "__class__"]


@pytest.mark.parametrize("name", COUNTS)
def test_s13_forged_counts_do_not_stop_the_end_of_a_run(folder, name):
    """The report adds up what markers say."""
    (folder / "out.zarr/orthoflow/report.json").unlink()
    path = marker_in(folder)
    honest = path.read_bytes()
    for value in VALUES:
        path.write_bytes(honest)
        resealed(path, lambda content: content["facts"].update({name: value}))  # noqa: B023
        commands(folder)


@pytest.mark.parametrize("what", ["run", "report", "marker", "failure", "lock", "creating"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"digest": 1}'])
def test_s13_what_is_no_document_stops_no_command_unforeseen(folder, what, content):
    inside = folder / "out.zarr/orthoflow"
    path = {
        "run": inside / "run.json",
        "report": inside / "report.json",
        "marker": marker_in(folder),
        "failure": inside / f"failed/{fingerprint_in(folder)[:16]}/blocks/0-0-0.json",
        "lock": inside / "locks/run.json",
        "creating": inside / "creating.json",
    }[what]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    commands(folder)


@pytest.mark.parametrize("what", ["run.json", "report.json", "marker"])
def test_s13_documents_of_gigabytes_are_not_read(folder, what):
    path = marker_in(folder) if what == "marker" else folder / "out.zarr/orthoflow" / what
    with path.open("r+b") as file:
        file.truncate(2**33)
    assert path.stat().st_size > max(MARKER_LIMIT, RECORD_LIMIT)
    with memory_grows_by_at_most(128 * MEBI):
        assert not verify(folder / "out.zarr").intact
        commands(folder)


def test_s13_a_block_that_is_said_to_be_done_is_caught(folder):
    """The marker of a block that nobody computed, with objects that could be its own."""
    done, left = sorted((folder / "out.zarr/orthoflow/markers").rglob("blocks/*.json"))
    (folder / "out.zarr/orthoflow/report.json").unlink()
    honest = Marker.from_bytes(left.read_bytes(), "")
    left.unlink()
    (stamp,) = (one for one in honest.objects)
    shard = folder / "out.zarr" / stamp.key
    shard.unlink()
    for objects in ((stamp,), (replace(stamp, digest="ab" * 16),)):
        left.unlink(missing_ok=True)
        forged = replace(honest, objects=objects)
        assert create_marker(folder / "out.zarr", forged)
        assert commands(folder)["resume"] is BlockFailed  # before a pyramid is built of it
        (finding,) = [one for one in verify(folder / "out.zarr").findings if one.block]
        assert (finding.kind, finding.key) == ("missing", stamp.key)
    assert done.exists()


def test_s13_a_marker_that_names_another_blocks_objects_is_caught(folder):
    first, second = sorted((folder / "out.zarr/orthoflow/markers").rglob("blocks/*.json"))
    stolen = Marker.from_bytes(second.read_bytes(), "").objects
    forged = replace(Marker.from_bytes(first.read_bytes(), ""), objects=stolen)
    first.write_bytes(forged.to_bytes())
    assert not verify(folder / "out.zarr").intact


def test_s13_markers_of_another_run_are_not_taken_for_ones_own(folder):
    """They lie in a folder of another name; a copy in ours says whose it is."""
    other = "ab" * 32
    url, ours = folder / "out.zarr", fingerprint_in(folder)
    create_marker(
        url, Marker("blocks/9-9-9", other, "0:1,0:1,0:1", (Stamp("a/0/c/0/0/0", 1, "0" * 32),), {})
    )
    assert "blocks/9-9-9" not in list_marker_names(url, ours)
    copied = url / f"orthoflow/markers/{ours[:16]}/blocks/9-9-9.json"
    shutil.copy(url / f"orthoflow/markers/{other[:16]}/blocks/9-9-9.json", copied)
    found = dict(read_markers(url, ours))
    assert isinstance(found["blocks/9-9-9"], BadInput)
    assert not verify(url).intact


def test_s13_what_a_store_says_commands_no_terminal_and_tells_no_secret(folder, capsys):
    """Notes of failures and locks come from other machines, and are shown."""
    url, ours = folder / "out.zarr", fingerprint_in(folder)
    note = url / f"orthoflow/failed/{ours[:16]}/blocks/0-0-0.json"
    note.parent.mkdir(parents=True)
    note.write_bytes(seal({"block": "\x1b]0;owned\x07", "reason": "\x1b[2Jwhy", "tries": 1}))
    marker_in(folder).unlink()
    (url / "orthoflow/report.json").unlink()
    for command in ("status", "finalize", "verify"):
        with suppress(SystemExit):
            cli.main([command, str(url)])
    printed = "".join(capsys.readouterr())
    assert "why" in printed
    assert all(one.isprintable() or one == "\n" for one in printed)
    assert CANARY not in printed


def test_s13_a_pickle_in_the_place_of_a_record_is_no_record(folder, trap):
    for path in (folder / "out.zarr/orthoflow/run.json", marker_in(folder)):
        honest = path.read_bytes()
        path.write_bytes(trap.pickled())
        commands(folder)
        path.write_bytes(honest)
    assert Path(trap.path).parent.exists()
    refusal(read_record, folder / "in.zarr", "run")
