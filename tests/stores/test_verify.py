"""Outputs are looked after: every corruption is found, and what was damaged is made again."""

from __future__ import annotations

import json
import os
import random
import re
import uuid
from collections import Counter
from dataclasses import replace

import pytest

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores import verify as module
from orthoflow.stores.locks import hold
from orthoflow.stores.markers import (
    Marker,
    Stamp,
    create_marker,
    list_marker_names,
    read_markers,
    write_failure,
)
from orthoflow.stores.objects import delete_object, list_objects, read_object, write_object
from orthoflow.stores.ome import create_output, write_record
from orthoflow.stores.sealed import seal, unseal
from orthoflow.stores.urls import locate
from orthoflow.stores.verify import check_listing, requeue, verify
from tests.stores.outputs import (
    FINGERPRINT,
    blocks,
    make_block,
    make_levels,
    make_output,
    make_spec,
    record_of,
)

FOLDER = f"orthoflow/markers/{FINGERPRINT[:16]}"
BLOCKS = [f"blocks/0-{y}-0" for y in range(3)]


def stored_at(url):
    place = locate(url)
    fs, root = place.filesystem()
    if place.protocol == "memory":
        files = ((path, fs.store[path]) for path in list(fs.store) if path.startswith(f"{root}/"))
        return {path.removeprefix(f"{root}/"): file.getvalue() for path, file in files}
    return {key: read_object(place.child(key)) for key, _ in list_objects(place)}


def put_back(url, clean):
    """Make the output what it was."""
    place = locate(url)
    now = stored_at(url)
    for key in {*now, *clean}:
        if key not in clean:
            delete_object(place.child(key))
        elif now.get(key) != clean[key]:
            write_object(place.child(key), clean[key])


@pytest.fixture(params=["disk", "memory"])
def url(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "out.zarr")
    return f"memory://{uuid.uuid4().hex}/out.zarr"


@pytest.fixture(params=["0.5", "0.4"])
def version(request):
    return request.param


def change(url, key, content):
    write_object(locate(url).child(key), content)


def marker_key(name):
    return f"{FOLDER}/{name}.json"


def found(verdict):
    return [(one.kind, one.key, one.block) for one in verdict.findings]


def test_a_finished_output_is_as_it_should_be(url, version):
    spec = make_output(url, make_spec(version))
    reported = []
    verdict = verify(url, report=lambda *counts: reported.append(counts))
    assert verdict.complete
    assert verdict.intact
    assert verdict.findings == []
    shards = [key for key in stored_at(url) if key.rpartition("/")[2].isdigit()]
    assert (verdict.blocks, verdict.objects) == (3, len(shards))
    assert verdict.nbytes == sum(len(stored_at(url)[key]) for key in shards)
    assert reported[-1] == (len(shards), len(shards))
    assert len(reported) == len(shards)
    assert len(spec.arrays) == 2


def test_looking_changes_nothing(url):
    make_output(url)
    before = stored_at(url)
    verify(url)
    assert stored_at(url) == before


def test_an_unfinished_output_is_intact_and_says_what_is_left(url):
    spec = make_spec()
    create_output(url, spec, record_of(spec))
    verdict = verify(url)
    assert verdict.intact
    assert not verdict.complete
    assert verdict.not_done == BLOCKS
    make_block(url, spec, blocks()[1])
    verdict = verify(url)
    assert (verdict.intact, verdict.not_done) == (True, [BLOCKS[0], BLOCKS[2]])
    make_block(url, spec, blocks()[0])
    make_block(url, spec, blocks()[2])
    verdict = verify(url)
    assert verdict.not_done == []
    assert len(verdict.not_built) == len(list(list_of_boxes(spec)))
    make_levels(url, spec)
    (finding,) = verify(url).findings
    assert (finding.kind, finding.key) == ("record", "orthoflow/report.json")
    assert "run orthoflow finalize" in finding.text
    write_record(url, "report", {"fingerprint": FINGERPRINT})
    assert verify(url).complete


def list_of_boxes(spec):
    from orthoflow.stores.ledger import Outline

    return Outline.of(record_of(spec)).boxes()


def test_what_a_run_keeps_while_it_works_is_not_foreign(url):
    spec = make_output(url)
    write_failure(url, FINGERPRINT, BLOCKS[0], {"block": "x", "reason": "y", "tries": 1})
    with hold(url, "run"):
        assert verify(url).complete
    # A block that was killed after its objects and before its marker.
    delete_object(locate(url).child(marker_key(BLOCKS[0])))
    verdict = verify(url)
    assert (verdict.findings, verdict.not_done) == ([], BLOCKS[:1])
    assert len(spec.arrays) == 2


def test_nothing_is_told_of_what_no_run_has_made(tmp_path):
    with pytest.raises(BadInput, match="is this the output of a run"):
        verify(tmp_path)
    with pytest.raises(BadInput, match="is this the output of a run"):
        check_listing(tmp_path / "none", [])


class Damage:
    """Ways to damage an output; each draws what and where, and does it."""

    def __init__(self, url, clean, seed):
        self.place = locate(url)
        self.clean = clean
        self.keys = sorted(clean)
        self.dice = random.Random(seed)
        self.objects = [key for key in self.keys if key.rpartition("/")[2].isdigit()]
        self.markers = [key for key in self.keys if key.startswith(FOLDER)]

    def put(self, key, content):
        write_object(self.place.child(key), content)

    def draw(self):
        """Objects and bookkeeping alike, though there are more of one than of the other."""
        several = (self.objects, self.markers, self.keys)
        return self.dice.choice(self.dice.choice(several))

    def flip(self):
        key = self.draw()
        content = bytearray(self.clean[key])
        place = self.dice.randrange(len(content))
        content[place] ^= 1 << self.dice.randrange(8)
        self.put(key, bytes(content))
        return key, place

    def truncate(self):
        key = self.draw()
        length = self.dice.randrange(len(self.clean[key]))
        self.put(key, self.clean[key][:length])
        return key, length

    def lengthen(self):
        key = self.draw()
        self.put(key, self.clean[key] + self.dice.choice([b" ", b"\n", b"\0", b"x" * 10**5]))
        return key

    def delete(self):
        key = self.draw()
        delete_object(self.place.child(key))
        return key

    def plant(self):
        key = self.draw()
        folder, _, name = key.rpartition("/")
        number = self.dice.randrange(100)
        new = self.dice.choice(
            [
                f"{folder}/{number}",
                f"{folder}/{number}x",
                f"{folder}/{name}.{uuid.UUID(int=number).hex}.partial",
                f"{folder}/{name}.bak",
                f"deep/{number}/{name}",
                f"orthoflow/{name}x",
                f"orthoflow/markers/{'cd' * 8}/blocks/0-{number}-0.json",
                f"{FOLDER}/blocks/{number + 1}-0-0.json",
                f"{FOLDER}/levels/0/labels.a/0-0-{number}.json",
                "orthoflow/creating.json",
                "labels/a/0/c/1/2/1",
                "probabilities/0/c/1/0/2/0",
                "labels/a/1/zarr.json.old",
                f".hidden{number}",
            ]
        )
        if new in self.clean:
            return self.plant()
        self.put(new, self.clean[self.draw()])
        return new

    def swap(self):
        one, other = self.draw(), self.draw()
        if self.clean[one] == self.clean[other]:
            return self.swap()
        self.put(one, self.clean[other])
        self.put(other, self.clean[one])
        return one, other

    def copy(self):
        one, other = self.draw(), self.draw()
        if self.clean[one] == self.clean[other]:
            return self.copy()
        self.put(one, self.clean[other])
        return one, other

    def forge(self):
        """A marker with a right digest that says something else."""
        key = self.dice.choice(
            [one for one in self.markers if b'"objects":{}' not in self.clean[one]]
        )
        marker = Marker.from_bytes(self.clean[key], key)
        stamps, n = list(marker.objects), self.dice.randrange(len(marker.objects))
        kind = self.dice.choice(["digest", "size", "less", "none", "more", "key", *TEXTS])
        folder, _, last = stamps[n].key.rpartition("/")
        shift = self.dice.choice([-1, 1, 1000])
        lies = {
            "digest": replace(stamps[n], digest=f"{self.dice.getrandbits(128):032x}"),
            "size": replace(stamps[n], size=stamps[n].size + shift),
            "key": replace(stamps[n], key=f"{folder}/{int(last) + 7}"),
        }
        if kind in lies:
            stamps[n] = lies[kind]
        elif kind == "more":
            other = Marker.from_bytes(self.clean[self.dice.choice(self.markers)], key).objects
            stamps = sorted({*stamps, *other, Stamp("labels/a/0/c/1/2/1", 5, "ab" * 16)})
        elif kind in {"less", "none"}:
            stamps = [one for one in stamps if kind == "less" and one != stamps[n]]
        content = replace(marker, objects=tuple(stamps)).to_bytes()
        plain = json.loads(content.replace(*TEXTS.get(kind, (b"", b""))))
        del plain["digest"]
        self.put(key, seal(plain))
        return key, kind


TEXTS = {
    "box": (b'"box":"', b'"box":"1'),
    "run": (FINGERPRINT.encode(), b"cd" * 32),
    "entry": (b'"facts":', b'"fact":'),
}
KINDS = ("flip", "flip", "flip", "truncate", "lengthen", "delete", "plant", "swap", "copy", "forge")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_of_a_thousand_corruptions_are_found(part, version):
    url = f"memory://{uuid.uuid4().hex}/out.zarr"
    make_output(url, make_spec(version))
    clean = stored_at(url)
    damage = Damage(url, clean, seed=part)
    missed, kinds = [], Counter()
    for _ in range(50):
        kind = damage.dice.choice(KINDS)
        what = getattr(damage, kind)()
        kinds[kind] += 1
        if stored_at(url) == clean or verify(url).complete:
            missed.append((kind, what))
        put_back(url, clean)
    assert missed == []
    assert sum(kinds.values()) == 50
    assert verify(url).complete


def test_every_bit_of_every_small_object_counts(version):
    """Of documents, records and markers each byte, with one of its bits; not drawn but all."""
    url = f"memory://{uuid.uuid4().hex}/out.zarr"
    make_output(url, make_spec(version))
    clean = stored_at(url)
    names = ("labels/.zattrs", "labels/zarr.json", "orthoflow/run.json", marker_key(BLOCKS[0]))
    for key in [name for name in names if name in clean]:
        step = max(1, len(clean[key]) // 40)
        for place in range(0, len(clean[key]), step):
            content = bytearray(clean[key])
            content[place] ^= 1 << place % 8
            change(url, key, bytes(content))
            assert not verify(url).complete, (key, place)
        change(url, key, clean[key])


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda _: None, "missing"),
        (lambda content: content[:-1], "truncated"),
        (lambda _: b"", "truncated"),
        (lambda content: content + b"x", "changed"),
        (lambda content: content[:-1] + b"x", "changed"),
    ],
)
def test_damaged_objects_are_named_with_their_block(url, spoil, kind):
    make_output(url)
    key = "labels/a/0/c/0/1/0"
    content = spoil(read_object(locate(url).child(key)))
    if content is None:
        delete_object(locate(url).child(key))
    else:
        change(url, key, content)
    (finding,) = verify(url).findings
    assert (finding.kind, finding.key, finding.block) == (kind, key, BLOCKS[1])
    assert finding.text.startswith(key)


def test_an_object_of_a_level_belongs_to_its_box(url):
    make_output(url)
    change(url, "probabilities/1/c/1/0/0/0", b"x")
    assert found(verify(url)) == [
        ("truncated", "probabilities/1/c/1/0/0/0", "levels/1/probabilities/0-0-0")
    ]


def test_objects_in_the_place_of_nothing_are_foreign(url):
    make_output(url)
    planted = read_object(locate(url).child("labels/a/0/c/0/1/0"))
    for key in ("labels/a/0/c/1/2/1", "thesis.txt", "labels/a/0/c/9/9/9"):
        change(url, key, planted)
    assert found(verify(url)) == [
        ("foreign", "labels/a/0/c/1/2/1", BLOCKS[2]),
        ("foreign", "labels/a/0/c/9/9/9", ""),
        ("foreign", "thesis.txt", ""),
    ]


def test_leftovers_of_killed_writers_are_found(tmp_path):
    make_output(tmp_path)
    name = f"{uuid.uuid4().hex}.partial"
    for key in (f"labels/a/0/c/0/1/0.{name}", f"{FOLDER}/blocks/0-0-0.json.{name}"):
        change(tmp_path, key, b"half")
    (shard, marker) = verify(tmp_path).findings
    assert (shard.kind, shard.block) == ("foreign", BLOCKS[1])
    assert "left by a writer that was stopped" in shard.text
    assert (marker.kind, marker.block) == ("foreign", "")


def test_links_and_pipes_are_no_objects(tmp_path):
    url = tmp_path / "out.zarr"
    make_output(url)
    for number, key in enumerate(("labels/a/0/c/0/1/0", "labels/a/0/c/0/0/0")):
        (url / key).rename(tmp_path / f"moved{number}")
    (url / "labels/a/0/c/0/1/0").symlink_to(tmp_path / "moved0")  # the right bytes, elsewhere
    os.mkfifo(url / "labels/a/0/c/0/0/0")
    (url / "labels/zarr.json").rename(tmp_path / "moved")
    (url / "labels/zarr.json").symlink_to(tmp_path / "moved")
    (url / "elsewhere").symlink_to(tmp_path)
    assert found(verify(url)) == [
        ("foreign", "elsewhere", ""),
        ("changed", "labels/a/0/c/0/0/0", BLOCKS[0]),
        ("changed", "labels/a/0/c/0/1/0", BLOCKS[1]),
        ("document", "labels/zarr.json", ""),
    ]


def test_a_forged_marker_of_an_undone_block_is_caught(url):
    spec = make_spec()
    create_output(url, spec, record_of(spec))
    stamp = Stamp("labels/a/0/c/0/0/0", 5, "ab" * 16)
    box = str(blocks()[0])
    create_marker(url, Marker(BLOCKS[0], FINGERPRINT, box, (stamp,), {}))
    assert found(verify(url)) == [("missing", stamp.key, BLOCKS[0])]


def test_a_marker_that_is_damaged_says_nothing_of_its_objects(url):
    make_output(url)
    change(url, marker_key(BLOCKS[1]), b"{}")
    (finding,) = verify(url).findings
    assert (finding.kind, finding.key, finding.block) == (
        "marker",
        marker_key(BLOCKS[1]),
        BLOCKS[1],
    )


def test_without_its_record_nothing_is_told_of_an_output(url):
    make_output(url)
    place = locate(url).child("orthoflow/run.json")
    content = read_object(place)
    for changed in (None, content[:-1], content.replace(b"0.25", b"0.75"), b"x" * (2**24 + 1)):
        delete_object(place) if changed is None else write_object(place, changed)
        (finding,) = verify(url).findings
        assert (finding.kind, finding.key) == ("record", "orthoflow/run.json")
        with pytest.raises(BadInput, match="run once more with --overwrite"):
            requeue(url, verify(url))


def test_records_that_were_forged_do_not_fit_the_markers(url):
    make_output(url)
    place = locate(url).child("orthoflow/run.json")
    record = unseal(read_object(place), "", indent=1)
    for entry, value in (("region", "0:10,0:24,5:15"), ("block", [10, 16, 10])):
        write_object(place, seal({**record, entry: value}, indent=1))
        verdict = verify(url)
        assert {one.kind for one in verdict.findings} >= {"marker"}
    for entry, value in (("region", "0:10,0:24,5:16"), ("output", {}), ("fingerprint", "x")):
        write_object(place, seal({**record, entry: value}, indent=1))
        assert [one.kind for one in verify(url).findings] == ["record"]


def test_a_report_of_another_run_is_found(url):
    make_output(url)
    write_record(url, "report", {"fingerprint": "cd" * 32})
    (finding,) = verify(url).findings
    assert "report of another run" in finding.text


def redo(url, spec):
    """What a run that resumes does: blocks without a marker, then what is not built."""
    done = list_marker_names(url, FINGERPRINT)
    for name, box in zip(BLOCKS, blocks(), strict=True):
        if name not in done:
            make_block(url, spec, box)
    make_levels(url, spec, done=list_marker_names(url, FINGERPRINT, kind="levels"))
    write_record(url, "report", {"fingerprint": FINGERPRINT, "complete": True})


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_what_is_requeued_and_made_again_is_what_it_was(part, version):
    url = f"memory://{uuid.uuid4().hex}/out.zarr"
    spec = make_output(url, make_spec(version))
    clean = stored_at(url)
    damage = Damage(url, clean, seed=100 + part)
    for _ in range(25):
        kind = damage.dice.choice(KINDS)
        what = getattr(damage, kind)()
        verdict = verify(url)
        if any(one.key == "orthoflow/run.json" for one in verdict.findings):
            with pytest.raises(BadInput, match="--overwrite"):
                requeue(url, verdict)
        else:
            requeue(url, verdict)
            redo(url, spec)
            left = verify(url)
            nobodys = {one.key for one in left.findings}
            assert {(one.kind, one.block) for one in left.findings} <= {("foreign", "")}, (
                kind,
                what,
            )
            now = stored_at(url)
            assert {key: now[key] for key in now if key not in nobodys} == clean, (kind, what)
        put_back(url, clean)


def test_damaged_blocks_and_what_was_built_from_them_are_undone(url):
    spec = make_output(url)
    change(url, "labels/a/0/c/0/0/0", b"x")
    undone = requeue(url, verify(url))
    boxes = list(list_of_boxes(spec))
    lost = {
        name for name in boxes if name not in list_marker_names(url, FINGERPRINT, kind="levels")
    }
    assert undone == sorted([BLOCKS[0], *lost])
    # All three levels of both arrays hold something of the block, and not everything is of it.
    assert {name.rpartition("/")[0] for name in lost} == {
        f"levels/{level}/{array}" for level in (1, 2) for array in ("labels.a", "probabilities")
    }
    assert len(lost) < len(boxes)
    assert list_marker_names(url, FINGERPRINT) == set(BLOCKS[1:])
    assert read_object(locate(url).child("labels/a/0/c/0/0/0")) is None
    assert read_object(locate(url).child("orthoflow/report.json")) is None
    verdict = verify(url)
    assert verdict.intact
    assert (verdict.not_done, verdict.not_built) == ([BLOCKS[0]], [n for n in boxes if n in lost])


def test_an_object_that_a_forged_marker_disowns_is_made_again(url):
    """Marker and object contradict each other: which of them is right cannot be told."""
    spec = make_output(url)
    clean = stored_at(url)
    (marker,) = [one for one in markers_of(url) if one.name == BLOCKS[1]]
    change(url, marker_key(BLOCKS[1]), replace(marker, objects=()).to_bytes())
    verdict = verify(url)
    assert {(one.kind, one.block) for one in verdict.findings} == {("foreign", BLOCKS[1])}
    assert BLOCKS[1] in requeue(url, verdict)
    redo(url, spec)
    assert stored_at(url) == clean


def test_a_damaged_box_of_a_level_undoes_no_block(url):
    make_output(url)
    change(url, "probabilities/1/c/1/0/0/0", b"x")
    undone = requeue(url, verify(url))
    assert undone[0] == "levels/1/probabilities/0-0-0"
    assert all(name.startswith("levels/2/probabilities") for name in undone[1:])
    assert list_marker_names(url, FINGERPRINT) == set(BLOCKS)


def test_nothing_is_undone_while_a_driver_is_at_work(url):
    make_output(url)
    clean = stored_at(url)
    with hold(url, "part-0-of-2"), pytest.raises(BadInput, match="is being written by process"):
        requeue(url, verify(url))
    assert stored_at(url) == clean


def test_what_is_nobodys_stays(url):
    make_output(url)
    clean = stored_at(url)
    planted = {"thesis.txt": b"years of work", "labels/a/notes": b"mine", "orthoflow/x.json": b"{}"}
    for key, content in planted.items():
        change(url, key, content)
    assert requeue(url, verify(url)) == []
    assert stored_at(url) == {**clean, **planted}


def test_leftovers_go_and_undo_nothing(url):
    make_output(url)
    clean = stored_at(url)
    change(url, f"labels/a/0/c/0/1/0.{uuid.uuid4().hex}.partial", b"half")
    change(url, "orthoflow/creating.json", b"{}")
    assert requeue(url, verify(url)) == []
    assert stored_at(url) == clean


def test_damaged_documents_are_written_again(url, version):
    make_output(url, make_spec(version))
    clean = stored_at(url)
    names = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
    documents = [key for key in clean if key.rpartition("/")[2] in names]
    for key in documents[::2]:
        delete_object(locate(url).child(key))
    for key in documents[1::2]:
        change(url, key, b"{}")
    verdict = verify(url)
    assert sorted(one.key for one in verdict.findings) == sorted(documents)
    assert requeue(url, verdict) == []
    assert stored_at(url) == clean


def markers_of(url):
    return [marker for _, marker in read_markers(url, FINGERPRINT)]


def test_a_listing_shows_what_is_missing_or_cut(url, version):
    spec = make_spec(version)
    make_output(url, spec)
    assert check_listing(url, markers_of(url)) == []
    keys = [stamp.key for stamp in markers_of(url)[1].objects]
    delete_object(locate(url).child(keys[0]))
    change(url, keys[1], b"x")
    change(url, keys[2], read_object(locate(url).child(keys[2])) + b"x")
    findings = check_listing(url, markers_of(url))
    assert sorted((one.kind, one.key) for one in findings) == sorted(
        [("missing", keys[0]), ("truncated", keys[1]), ("changed", keys[2])]
    )
    assert {one.block for one in findings} == {BLOCKS[1]}


def test_a_listing_shows_what_lies_in_the_place_of_nothing(url):
    make_output(url)
    change(url, "labels/a/0/c/1/2/1", b"x")
    (finding,) = check_listing(url, markers_of(url))
    assert (finding.kind, finding.block) == ("foreign", BLOCKS[2])
    assert check_listing(url, markers_of(url)[:2]) == []


def test_markers_that_name_what_is_not_theirs_are_not_believed(url):
    make_output(url)
    one, other, _ = markers_of(url)
    forged = replace(one, objects=other.objects)
    (finding,) = check_listing(url, [forged, other])
    assert (finding.kind, finding.block) == ("marker", BLOCKS[0])


@pytest.mark.s3
def test_a_listing_reads_no_object(faulty):
    bucket, proxy = faulty
    url = f"{bucket}/out.zarr"
    make_output(url)
    markers = markers_of(url)
    proxy.forget()
    assert check_listing(url, markers) == []
    read = [one for one in proxy.seen() if one.key]
    assert {one.key for one in read} == {"out.zarr/orthoflow/run.json"}
    assert not [one for one in proxy.seen() if "orthoflow" in one.query]


@pytest.mark.s3
def test_outputs_in_a_bucket_are_verified_and_requeued(bucket):
    url = f"{bucket}/out.zarr"
    spec = make_output(url)
    clean = stored_at(url)
    assert verify(url).complete
    content = clean["labels/a/0/c/0/1/0"]
    change(url, "labels/a/0/c/0/1/0", content[:-1] + bytes([content[-1] ^ 1]))
    delete_object(locate(url).child("probabilities/0/c/0/0/0/0"))
    verdict = verify(url)
    assert found(verdict) == [
        ("changed", "labels/a/0/c/0/1/0", BLOCKS[1]),
        ("missing", "probabilities/0/c/0/0/0/0", BLOCKS[0]),
    ]
    requeue(url, verdict)
    redo(url, spec)
    assert stored_at(url) == clean


@pytest.mark.s3
def test_an_object_is_asked_for_once(faulty):
    bucket, proxy = faulty
    url = f"{bucket}/out.zarr"
    make_output(url)
    keys = [key for key in stored_at(url) if key.rpartition("/")[2].isdigit()]
    proxy.forget()
    assert verify(url).complete
    asked = Counter(one.key.removeprefix("out.zarr/") for one in proxy.seen())
    assert {key: asked[key] for key in keys} == dict.fromkeys(keys, 1)
    assert {one.method for one in proxy.seen()} <= {"GET", "HEAD"}


@pytest.mark.s3
def test_a_store_that_forbids_is_no_damage(faulty):
    bucket, proxy = faulty
    url = f"{bucket}/out.zarr"
    make_output(url)
    proxy.inject("status", status=403, keys="*/labels/a/0/c/*")
    with pytest.raises(StoreRefused, match="cannot read"):
        verify(url)


def test_large_objects_are_read_piece_by_piece(url, monkeypatch):
    make_output(url)
    monkeypatch.setattr(module, "_PIECE", 10)
    largest = []
    real = module._pieces

    def pieces(*given, **how):
        for piece in real(*given, **how):
            largest.append(len(piece))
            yield piece

    monkeypatch.setattr(module, "_pieces", pieces)
    assert verify(url).complete
    assert max(largest) == 10


def test_findings_are_sentences_on_one_line(url):
    make_output(url)
    clean = stored_at(url)
    for key in clean:
        if "run.json" not in key:
            change(url, key, b"x")
    verdict = verify(url)
    assert len(verdict.findings) > 20
    for one in verdict.findings:
        assert re.fullmatch(r"[^\n]+", one.text)
        assert one.text.startswith(one.key)
