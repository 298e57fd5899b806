"""What `orthoflow plan` says: the figures of the seed's stack, under fixed keys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orthoflow.geometry.facts import VolumeFacts
from orthoflow.models.card import Card
from orthoflow.options import Options
from orthoflow.plan import costs, plan_run

STACK = VolumeFacts("stack", (68, 984, 984), "uint16", chunks=(64, 128, 128))
FIXED = Card("fixed", outputs=3, tile=(256, 256))


def make(card=FIXED, facts=STACK, **options):
    return plan_run(facts, card, Options.from_mapping({"overlap": 0.1, **options}))


def test_the_keys_are_those_that_scripts_rely_on():
    numbers = make().to_dict()
    assert list(numbers["orientations"]) == ["xy", "xz", "yz"]
    for way in numbers["orientations"].values():
        wanted = {"patches", "tiles", "tiles_unpacked", "network_pixels", "way", "stripe_starts"}
        assert wanted <= set(way)
    keys = ("patches", "tiles", "tiles_unpacked", "network_pixels")
    assert set(numbers["total"]) == set(keys)
    for key in keys:
        assert numbers["total"][key] == sum(o[key] for o in numbers["orientations"].values())
    for key in ("blocks", "parts", "bytes_read", "bytes_written", "peak_bytes_per_worker"):
        assert isinstance(numbers[key], int)
        assert numbers[key] > 0


def test_chunks_without_a_checksum_are_said():
    said = "its chunks carry no checksum: damage that can be decoded stays"
    assert said in str(make(facts=replace(STACK, checksum=False)))
    assert said not in str(make())


def test_the_figures_of_the_seeds_stack():
    seed = make(packing="stripes", pack_k=3, guard=16, border=5, stripe_starts="seed").to_dict()
    by_way = {name: way["tiles"] for name, way in seed["orientations"].items()}
    assert by_way == {"xy": 1700, "xz": 1640, "yz": 1640}
    assert seed["total"]["tiles"] == 4980
    assert seed["total"]["tiles_unpacked"] == 11540
    assert seed["orientations"]["xz"]["stripe_starts"] == [5, 94, 183]
    assert seed["orientations"]["xy"]["stripe_starts"] == []
    plain = make(packing="none").to_dict()
    assert plain["total"]["tiles"] == plain["total"]["tiles_unpacked"] == 11540
    ours = make().to_dict()
    assert ours["total"]["tiles"] <= 4400
    assert ours["orientations"]["xz"]["stripe_starts"] == [14, 94, 174]


@pytest.mark.parametrize(("divisor", "gain"), [(16, 3.3), (8, 3.6)])
def test_free_rectangles_save_pixels(divisor, gain):
    numbers = make(Card("free", outputs=3, divisor=divisor)).to_dict()
    unpacked = numbers["total"]["tiles_unpacked"] * 256 * 256
    assert numbers["total"]["tiles_unpacked"] == 11540
    assert unpacked / numbers["total"]["network_pixels"] >= gain


def test_one_block_runs_what_the_volume_has():
    numbers = make(block="68,984,984", chunk="68,984,984").to_dict()
    assert numbers["blocks"] == 1
    for key in ("patches", "tiles", "network_pixels"):
        assert numbers["run"][key] == numbers["total"][key]


def test_parts_run_their_common_patches_again():
    whole, cut = make(chunk=64, part=99).to_dict(), make(chunk=64, part=1).to_dict()
    assert whole["run"]["patches"] == whole["total"]["patches"]
    assert cut["run"]["patches"] > cut["total"]["patches"] == whole["total"]["patches"]


def test_the_text_tells_ways_rejected_ways_blocks_and_bytes():
    plan = make(Card("free", outputs=2, divisor=16, speed=1e6, speed_note="here"), part=1)
    text = str(plan)
    numbers = plan.to_dict()
    for name, way in numbers["orientations"].items():
        line = next(x for x in text.splitlines() if x.startswith(f"{name}  "))
        assert way["way"] in line
        assert f"{way['tiles']:,}" in line
        for rejected in way["rejected"]:
            assert f"not {rejected}:" in text
    assert "11,540 tiles" in text
    assert f"{numbers['blocks']:,} block" in text
    for word in ("reads", "writes", "memory", "time", "times fewer network pixels"):
        assert word in text
    assert "labels/segmentation" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_text_says_whether_stripes_can_be_seen():
    seen = str(make(Card("a", outputs=2, tile=(256, 256), stride=4), packing="stripes"))
    assert "neighbours may be seen (reach unknown)" in seen
    hidden = str(make(Card("a", outputs=2, tile=(256, 256), stride=4, reach=9), packing="stripes"))
    assert "stripes from 14, 94, 174: invisible to the network" in hidden


def test_resampling_and_regions_are_told():
    text = str(make(downsample=2, roi="0:30,:,:"))
    assert "resampled  34 x 492 x 492" in text
    assert "region     0:30,0:984,0:984" in text


def test_seconds_need_a_speed():
    assert make().to_dict()["seconds"] is None
    plan = make(Card("a", outputs=2, tile=(256, 256), speed=1e6))
    assert plan.to_dict()["seconds"] == pytest.approx(costs.total_work(plan).network_pixels / 1e6)


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        (1, None),
        (2, "2 jobs of 32 parts each"),
        (5, "5 jobs of 12 to 13 parts each"),
        (99, "35 of 99 jobs get no part: they have nothing to do"),
    ],
)
def test_the_text_tells_what_jobs_get(jobs, said):
    facts = VolumeFacts("v", (64, 64, 64), "uint8")
    card = Card("free", outputs=2, divisor=16)
    options = {"chunk": 16, "block": 16, "part": 1, "num_parts": jobs}
    text = str(plan_run(facts, card, Options.from_mapping(options)))
    assert said in text if said else "jobs" not in text
