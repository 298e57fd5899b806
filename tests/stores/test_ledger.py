"""What a record says of an output, against a plain count of all its shards."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.stores.ledger import Ledger, Outline, Slot
from orthoflow.stores.markers import Marker, Stamp, block_marker_name, level_marker_name
from tests.stores.outputs import BLOCK, FINGERPRINT, REGION, blocks, make_spec, record_of


@pytest.fixture(params=["0.5", "0.4"])
def outline(request):
    return Outline.of(json.loads(json.dumps(record_of(make_spec(request.param)))))


def every_shard(outline):
    """Slot, key and box (in voxels of its level) of every shard, the slow way."""
    for number, array in enumerate(outline.output.arrays):
        for level, cut in enumerate(array.levels):
            for box in split(Box.whole(cut.shape), cut.shard):
                place = tuple(a // s for a, s in zip(box.start, cut.shard, strict=True))
                for channel in range(max(1, array.classes)):
                    parts = [array.path, level]
                    parts += ["c"] if outline.output.ome_version == "0.5" else []
                    parts += [channel] if array.classes else []
                    yield (
                        Slot(number, level, channel, place),
                        "/".join(map(str, (*parts, *place))),
                        box,
                    )


def test_keys_and_slots_belong_to_each_other(outline):
    shards = list(every_shard(outline))
    assert len({key for _, key, _ in shards}) == len(shards) > 30
    for slot, key, _ in shards:
        assert outline.slot_of(key) == slot
        assert outline.key_of(slot) == key


def test_other_keys_are_nobodys(outline):
    keys = {key for _, key, _ in every_shard(outline)}
    for key, part in itertools.product(
        sorted(keys), ["99", "00", "-1", "x", "", "+1", "\uff11", "c"]
    ):
        folder, _, _ = key.rpartition("/")
        assert outline.slot_of(f"{folder}/{part}") is None
    for key in ("", "0", "0/0/0", "c/0/0/0", "labels/a/9/c/0/0/0", "labels/a/zarr.json", "x/y/z"):
        assert outline.slot_of(key) is None


def test_every_shard_has_the_owner_whose_box_holds_it(outline):
    for slot, _, box in every_shard(outline):
        owner = outline.owner_of(slot)
        array, level, whole = outline.box_of(owner)
        assert level == slot.level
        assert array == (slot.array if level else "blocks")
        assert whole.contains(box)


def test_the_markers_of_a_run_are_its_blocks_and_the_boxes_of_its_levels(outline):
    names = list(outline.blocks())
    assert names == [block_marker_name((0, y, 0)) for y in range(3)]
    places = [outline.box_of(name)[2] for name in names]
    assert [box.shifted((-10, 0, -5)) for box in places] == blocks()
    boxes = list(outline.boxes())
    assert len(set(boxes)) == len(boxes)
    owners = {outline.owner_of(slot) for slot, _, _ in every_shard(outline)}
    assert owners == {*names, *boxes}


def test_other_names_are_nobodys(outline):
    for name in (
        "blocks/0-3-0",
        "blocks/1-0-0",
        "blocks/999999999-0-0",
        "levels/0/labels.a/0-0-0",
        "levels/3/labels.a/0-0-0",
        "levels/1/labels.b/0-0-0",
        "levels/1/labels/a/0-0-0",
        "levels/1/labels.a/9-0-0",
        "",
        "run",
    ):
        assert outline.box_of(name) is None


def test_what_is_built_from_a_box_is_what_covers_one_of_its_voxels(outline):
    for slot, _, box in every_shard(outline):
        found = set(outline.above(slot.array, slot.level, box))
        array = outline.output.arrays[slot.array]
        fine = array.levels[slot.level]
        expected = set()
        for level in range(slot.level + 1, len(array.levels)):
            coarse = array.levels[level]
            steps = [
                c // f * s
                for c, f, s in zip(coarse.factors, fine.factors, coarse.shard, strict=True)
            ]
            corners = itertools.product(
                *(range(a, b) for a, b in zip(box.start, box.stop, strict=True))
            )
            numbers = {
                tuple(v // s for v, s in zip(voxel, steps, strict=True)) for voxel in corners
            }
            expected |= {level_marker_name(level, array.path, number) for number in numbers}
        assert found == expected


def test_a_block_is_under_boxes_of_every_array(outline):
    names = set(outline.above("blocks", 0, Box.whole(REGION.shape)))
    assert names == set(outline.boxes())


def stamps_of(outline, name):
    keys = [key for slot, key, _ in every_shard(outline) if outline.owner_of(slot) == name]
    return tuple(Stamp(key, 5, "ab" * 16) for key in sorted(keys))


def test_a_marker_speaks_of_its_own_box_and_objects(outline):
    one, other = "blocks/0-1-0", "blocks/0-0-0"
    marker = Marker(one, FINGERPRINT, "10:20,8:16,5:15", stamps_of(outline, one), {})
    assert outline.problem_of(marker) == ""
    assert outline.problem_of(replace(marker, objects=())) == ""
    for wrong, said in (
        (replace(marker, name="blocks/9-9-9"), "no block of this run"),
        (replace(marker, box="10:20,0:8,5:15"), "it speaks of 10:20,0:8,5:15"),
        (replace(marker, objects=stamps_of(outline, other)), "is no object of blocks/0-1-0"),
        (replace(marker, objects=(Stamp("labels/a/zarr.json", 5, "ab" * 16),)), "is no object"),
    ):
        assert said in outline.problem_of(wrong)
    level = next(iter(outline.boxes()))
    _, _, box = outline.box_of(level)
    marker = Marker(level, FINGERPRINT, str(box), stamps_of(outline, level), {})
    assert outline.problem_of(marker) == ""
    assert "is no object" in outline.problem_of(replace(marker, objects=stamps_of(outline, one)))


def test_the_ledger_knows_what_is_expected_and_what_was_not_seen(outline):
    ledger = Ledger(outline)
    one = "blocks/0-1-0"
    stamps = [replace(stamp, size=5 + n) for n, stamp in enumerate(stamps_of(outline, one))]
    ledger.expect(Marker(one, FINGERPRINT, "10:20,8:16,5:15", tuple(stamps), {}))
    assert ledger.count == len(stamps)
    expected = {stamp.key: stamp for stamp in stamps}
    skipped = stamps[2].key
    for slot, key, _ in every_shard(outline):
        if key != skipped:
            found = ledger.see(slot)
            assert found.size == (expected[key].size if key in expected else 0)
            if key in expected:
                assert found.digest == expected[key].digest
    assert [outline.key_of(slot) for slot in ledger.unseen()] == [skipped]


def test_digests_that_end_in_zeros_are_kept(outline):
    ledger = Ledger(outline)
    (stamp, *_) = stamps_of(outline, "blocks/0-0-0")
    stamp = replace(stamp, digest="ab" * 8 + "00" * 8)
    ledger.expect(Marker("blocks/0-0-0", FINGERPRINT, "10:20,0:8,5:15", (stamp,), {}))
    assert ledger.see(outline.slot_of(stamp.key)).digest == stamp.digest


def test_the_folders_of_shards_are_opened_and_those_above_them(outline):
    opened = outline.opened()
    for _, key, _ in every_shard(outline):
        numbers = 3 + key.startswith("probabilities")
        parts = key.split("/")[:-numbers]
        assert {"/".join(parts[:count]) for count in range(len(parts) + 1)} <= opened
        assert "/".join(key.split("/")[: len(parts) + 1]) not in opened


def test_the_table_takes_25_bytes_a_shard():
    outline = Outline.of(record_of(make_spec()))
    ledger = Ledger(outline)
    ledger.see(Slot(0, 0, 0, (0, 0, 0)))
    assert ledger._tables == {}
    ledger.expect(
        Marker("blocks/0-0-0", FINGERPRINT, "", stamps_of(outline, "blocks/0-0-0")[:1], {})
    )
    ((table),) = ledger._tables.values()
    assert table.nbytes == 25 * np.prod(outline.output.arrays[0].levels[0].grid)


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": None},
        {"fingerprint": "../../etc/passwd"},
        {"region": None},
        {"region": "all"},
        {"region": "10:20,0:24,5:16"},
        {"region": "10:20,0:16,5:15"},
        {"region": "20:10,0:24,5:15"},
        {"region": "-10:0,0:24,5:15"},
        {"block": None},
        {"block": [10, 8]},
        {"block": [10, 0, 10]},
        {"block": [10, -8, 10]},
        {"block": [10, 8.0, 10]},
        {"block": [10, 7, 10]},
        {"block": [99, 8, 10]},
        {"block": "10,8,10"},
        {"output": None},
        {"output": {}},
        {"output": {"arrays": []}},
    ],
    ids=str,
)
def test_records_of_no_run_are_refused(changed):
    record = {**record_of(make_spec()), **changed}
    assert tuple(record_of(make_spec())["block"]) == BLOCK
    for name, value in changed.items():
        if value is None:
            del record[name]
    with pytest.raises(BadInput) as caught:
        Outline.of(record)
    assert "\n" not in str(caught.value)
