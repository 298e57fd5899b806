"""Markers and failures in a store: created once, listed, read with suspicion, removed."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orthoflow.errors import BadInput
from orthoflow.stores import markers
from orthoflow.stores.markers import (
    Marker,
    Stamp,
    block_marker_name,
    block_number_of,
    create_marker,
    level_marker_name,
    list_failures,
    list_marker_names,
    read_markers,
    remove_failure,
    remove_marker,
    write_failure,
)
from orthoflow.stores.objects import read_object, write_object
from orthoflow.stores.urls import locate

FINGERPRINT, OTHER = "ab" * 32, "ab" * 8 + "cd" * 24
FOLDER = f"orthoflow/markers/{FINGERPRINT[:16]}"
FAILED = f"orthoflow/failed/{FINGERPRINT[:16]}"


def make(number, fingerprint=FINGERPRINT):
    z, y, x = number
    stamp = Stamp(f"labels/a/0/c/{z}/{y}/{x}", 10 + z, "ab" * 16)
    box = f"{z}:{z + 1},{y}:{y + 1},{x}:{x + 1}"
    return Marker(block_marker_name(number), fingerprint, box, (stamp,), {"voxels": 1})


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def url(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "out.zarr")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/out.zarr"
    return f"{request.getfixturevalue('bucket')}/out.zarr"


def test_names_tell_blocks_and_levels():
    assert block_marker_name((0, 12, 3)) == "blocks/0-12-3"
    assert level_marker_name(2, "labels/a-b", (0, 0, 7)) == "levels/2/labels.a-b/0-0-7"
    assert level_marker_name(1, "", (0, 0, 0)) == "levels/1/-/0-0-0"
    assert block_number_of("blocks/0-12-3") == (0, 12, 3)
    for name in ("blocks/0-12", "blocks/0-12-03", "blocks/a-b-c", "levels/1/a/0-0-0", ""):
        assert block_number_of(name) is None


def test_markers_are_created_once_listed_read_and_removed(url):
    assert list_marker_names(url, FINGERPRINT) == set()
    blocks = [make((z, y, 0)) for z in range(3) for y in range(4)]
    level = replace(make((0, 0, 0)), name="levels/1/labels.a/0-0-0")
    for marker in (*blocks, level):
        assert create_marker(url, marker) is True
        assert create_marker(url, replace(marker, facts={"late": True})) is False
    names = {marker.name for marker in blocks}
    assert list_marker_names(url, FINGERPRINT) == names
    assert list_marker_names(url, FINGERPRINT, kind="levels") == {level.name}
    assert dict(read_markers(url, FINGERPRINT)) == {marker.name: marker for marker in blocks}
    assert dict(read_markers(url, FINGERPRINT, kind="levels")) == {level.name: level}
    wanted = [blocks[5].name, "blocks/9-9-9"]
    (one, none) = read_markers(url, FINGERPRINT, names=wanted)
    assert one == (blocks[5].name, blocks[5])
    assert none[0] == "blocks/9-9-9"
    assert isinstance(none[1], BadInput)
    assert "no marker" in str(none[1])
    remove_marker(url, FINGERPRINT, blocks[5].name)
    remove_marker(url, FINGERPRINT, blocks[5].name)
    assert list_marker_names(url, FINGERPRINT) == names - {blocks[5].name}


def test_runs_of_other_settings_have_other_markers(url):
    create_marker(url, make((0, 0, 0)))
    assert list_marker_names(url, "ef" * 32) == set()
    # Two fingerprints that begin alike share a folder; the marker tells whose it is.
    assert list_marker_names(url, OTHER) == {"blocks/0-0-0"}
    ((_, problem),) = read_markers(url, OTHER)
    assert isinstance(problem, BadInput)
    assert "of run abababababababab" in str(problem)


def test_markers_that_cannot_be_trusted_are_named_and_the_others_come(url):
    place = locate(url)
    for number in range(4):
        create_marker(url, make((number, 0, 0)))
    write_object(place.child(f"{FOLDER}/blocks/4-0-0.json"), make((2, 0, 0)).to_bytes())
    write_object(place.child(f"{FOLDER}/blocks/1-0-0.json"), b'{"name": "blocks/1-0-0"}')
    write_object(place.child(f"{FOLDER}/blocks/3-0-0.json"), b"x" * 70_000)
    found = dict(read_markers(url, FINGERPRINT))
    said = {name: str(one) for name, one in found.items() if isinstance(one, BadInput)}
    assert set(found) - set(said) == {"blocks/0-0-0", "blocks/2-0-0"}
    assert "blocks/4-0-0.json is the marker of blocks/2-0-0" in said["blocks/4-0-0"]
    assert "was changed" in said["blocks/1-0-0"]
    assert "more than 65536 bytes" in said["blocks/3-0-0"]
    assert all(place.url in text for text in said.values())


def test_foreign_names_are_left_out(url):
    create_marker(url, make((0, 0, 0)))
    for name in (
        "blocks/0-0-1.json.0123456789abcdef0123456789abcdef.partial",
        "blocks/0-0-1",
        "blocks/0-0-01.json",
        "blocks/evil/0-0-1.json",
        "blocks/0-0.json",
        "levels/1/a/b/0-0-0.json",
        "x.json",
    ):
        write_object(locate(url).child(f"{FOLDER}/{name}"), b"{}")
    assert list_marker_names(url, FINGERPRINT) == {"blocks/0-0-0"}
    assert list_marker_names(url, FINGERPRINT, kind="levels") == set()


@pytest.mark.parametrize(
    "fingerprint", ["", "ab", "../" * 8, "AB" * 32, "ab" * 99, "ab" * 16 + "\n"]
)
def test_fingerprints_stay_inside(tmp_path, fingerprint):
    calls = (
        lambda: list_marker_names(tmp_path, fingerprint),
        lambda: list(read_markers(tmp_path, fingerprint)),
        lambda: remove_marker(tmp_path, fingerprint, "blocks/0-0-0"),
        lambda: write_failure(tmp_path, fingerprint, "blocks/0-0-0", FACTS),
    )
    for call in calls:
        with pytest.raises(BadInput, match="16 or more hexadecimal digits"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_mark_one_block_the_first_counts(url):
    several = [replace(make((0, 0, 0)), facts={"by": n}) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda marker: create_marker(url, marker), several))
    assert sum(made) == 1
    ((_, marker),) = read_markers(url, FINGERPRINT)
    assert marker == several[made.index(True)]


def test_listing_reads_nothing(tmp_path, monkeypatch):
    create_marker(tmp_path, make((0, 0, 0)))
    monkeypatch.setattr(markers, "read_many", None)
    assert list_marker_names(tmp_path, FINGERPRINT) == {"blocks/0-0-0"}


@pytest.mark.s3
def test_a_listing_is_one_request_and_a_marker_one(faulty):
    bucket, proxy = faulty
    url = f"{bucket}/out.zarr"
    for number in range(20):
        proxy.forget()
        create_marker(url, make((number, 0, 0)))
        assert [(one.method, one.conditional) for one in proxy.seen()] == [("PUT", True)]
    proxy.forget()
    assert len(list_marker_names(url, FINGERPRINT)) == 20
    assert [one.method for one in proxy.seen()] == ["GET"]
    proxy.forget()
    names = [f"blocks/{number}-0-0" for number in range(20)]
    assert len(list(read_markers(url, FINGERPRINT, names=names))) == 20
    assert [one.method for one in proxy.seen()] == ["GET"] * 20


FACTS = {"block": "0:16,0:16,0:16", "reason": "4 logits are NaN", "tries": 2}


def test_failures_are_noted_listed_replaced_and_forgotten(url):
    assert list_failures(url, FINGERPRINT) == {}
    write_failure(url, FINGERPRINT, "blocks/0-0-0", FACTS)
    write_failure(url, FINGERPRINT, "blocks/0-0-1", FACTS)
    write_failure(url, FINGERPRINT, "blocks/0-0-1", {**FACTS, "tries": 3})
    expected = {"blocks/0-0-0": FACTS, "blocks/0-0-1": {**FACTS, "tries": 3}}
    assert list_failures(url, FINGERPRINT) == expected
    assert list_marker_names(url, FINGERPRINT) == set()
    for _ in range(2):
        remove_failure(url, FINGERPRINT, "blocks/0-0-0")
    assert set(list_failures(url, FINGERPRINT)) == {"blocks/0-0-1"}


def test_long_reasons_are_cut(url):
    write_failure(url, FINGERPRINT, "blocks/0-0-0", {**FACTS, "reason": "é" * 10**6})
    found = list_failures(url, FINGERPRINT)["blocks/0-0-0"]
    assert found["reason"] == "é" * 2000


def test_a_damaged_note_still_says_that_the_block_failed(url):
    write_failure(url, FINGERPRINT, "blocks/0-0-0", FACTS)
    place = locate(url).child(f"{FAILED}/blocks/0-0-0.json")
    stored = read_object(place)
    for content in (
        stored[:-1],
        stored.replace(b"NaN", b"Nan"),
        b"x" * 70_000,
        json.dumps(FACTS).encode(),
    ):
        write_object(place, content)
        (found,) = list_failures(url, FINGERPRINT).values()
        assert found["block"] == "blocks/0-0-0"
        assert "blocks/0-0-0.json" in found["reason"]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("blocks/../run", FACTS),
        ("levels/1/a/0-0-0", FACTS),
        ("blocks/0-0-0", {**FACTS, "more": 1}),
        ("blocks/0-0-0", {**FACTS, "tries": "2"}),
        ("blocks/0-0-0", {**FACTS, "block": 5}),
    ],
)
def test_other_failures_are_refused(tmp_path, name, facts):
    with pytest.raises(BadInput, match="failure of"):
        write_failure(tmp_path, FINGERPRINT, name, facts)
    assert list(tmp_path.iterdir()) == []
