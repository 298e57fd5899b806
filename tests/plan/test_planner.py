"""Plans: what is refused, what is chosen, and what may not show in the answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.models.card import Card, Normalization
from orthoflow.options import Options
from orthoflow.plan import plan_run

FACTS = VolumeFacts(
    "cells.zarr",
    (68, 300, 260),
    "uint8",
    chunks=(32, 64, 64),
    voxel_size=(0.04, 0.01, 0.01),
    unit="micrometer",
    translation=(1.0, 2.0, 3.0),
)
CARD = Card("net", outputs=2, divisor=16, reach=40, normalization=Normalization("zscore"))
FIXED = Card("vit", outputs=1, tile=(256, 256))
THREE = CARD.replace(outputs=3)
SOLID = Card("solid", outputs=3, ndim=3, divisor=8)


def make(card=CARD, facts=FACTS, **options):
    return plan_run(facts, card, Options.from_mapping(options))


def refusal(card=CARD, facts=FACTS, **options):
    with pytest.raises(BadInput) as caught:
        make(card, facts, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("card", "options", "parts"),
    [
        # Rows of the bad-input matrix: 12, 14, 16, 22, 23, 24, 26, 29, 35.
        (CARD, {"tile": 250}, ("tile 250", "divisor 16", "240 or 256")),
        (CARD, {"tile": "256,100"}, ("tile 100", "96 or 112")),
        (CARD, {"tile": "64,64,64"}, ("3 numbers", "2-D network")),
        (FIXED, {"tile": 128}, ("vit takes tiles of 256,256 only",)),
        (CARD, {"chunk": 32, "block": 48}, ("block 48,48,48", "axis z", "use 32 or 64")),
        (CARD, {"chunk": 32, "shard": 48}, ("shard 48,48,48", "chunks of 32", "use 32 or 64")),
        (CARD, {"chunk": 32, "shard": 64, "block": 96}, ("shards of 64", "use 64 or 128")),
        (CARD, {"chunk": 32, "shard": 64, "ome_version": "0.4"}, ("no shards", "0.5")),
        (CARD, {"downsample": 100}, ("scale axis z by 0.01",)),
        (CARD, {"anisotropy": 1e9}, ("scale axis z by 1e+09", "2^31")),
        (CARD, {"orientations": ""}, ("orientations is empty", "xy, xz, yz")),
        (CARD, {"orientations": "xw"}, ("'xw'", "xy, xz, yz")),
        (CARD, {"orientations": "xy,yx"}, ("twice",)),
        (SOLID, {"orientations": "xy"}, ("3-D network", "zyx")),
        (CARD, {"consensus": "vote", "votes": 4}, ("votes 4", "3 orientations", "1 to 3")),
        (
            CARD,
            {"consensus": "vote", "orientations": "xy", "votes": 2},
            ("votes 2", "1 orientations"),
        ),
        (CARD, {"plane_weights": "1,1"}, ("plane_weights has 2 numbers for 3",)),
        (CARD, {"plane_weights": "0,0,0"}, ("all zero",)),
        (CARD, {"plane_weights": "1,1,2", "consensus": "vote"}, ("leave them out",)),
        (
            CARD,
            {"plane_weights": "3,1", "orientations": "yz,xy"},
            ("order xy,yz", "not yz,xy"),
        ),
        (FIXED, {"packing": "stripes", "guard": 200}, ("packing stripes", "200")),
        (FIXED.replace(tile=(256, 128)), {"tta": "rotation"}, ("rotation", "256,128")),
        (SOLID, {"packing": "stripes"}, ("3-D network has no planes",)),
        (CARD.replace(channels=3), {}, ("takes 3 channels", "has 1")),
        (CARD, {"roi": "0:400,:,:"}, ("roi 0:400 on axis z", "68")),
        (CARD, {"roi": ""}, ("roi ''",)),
        (FIXED, {"mode": "multiclass"}, ("2 outputs or more",)),
        (SOLID, {"mode": "binary"}, ("1 or 2 outputs", "3")),
        (SOLID, {"threshold": 0.4}, ("threshold 0.4", "binary only")),
        (CARD.replace(outputs=300), {}, ("300 outputs", "255")),
    ],
)
def test_what_cannot_go_together_is_refused(card, options, parts):
    said = refusal(card, **options)
    for part in parts:
        assert part in said


OPTIONS = {
    "orientations": [None, "xy", "xy,yz", "yz,xz"],
    "overlap": [0, 0.1, 0.25, 0.5],
    "grid": ["even", "step"],
    "packing": ["auto", "none"],
    "pack_k": [None, 1, 3],
    "stripe_starts": ["balanced", "seed"],
    "weighting": ["gaussian", "taper", "border", "uniform"],
    "downsample": [1, 2, (1, 2, 2.5)],
    "diameter": [None, 20, 60],
    "anisotropy": [None, 0.7, 4],
    "normalization": ["model", "zscore", "none"],
    "normalization_scope": [None, "patch", "volume"],
    "median": [1, 3],
    "output": ["labels", "probabilities", "both"],
    "keep_stacks": [False, True],
    "disagreement": [False, True],
    "roi": [None, "3:50,100:299,7:9"],
    "chunk": [128, 32, (16, 32, 64)],
    "part": [None, 1, (1, 2, 3)],
    "ome_version": ["0.5", "0.4"],
    "tta": ["none", "mirroring"],
}
wishes = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in OPTIONS.items()})


@settings(max_examples=40)
@given(wishes, st.sampled_from([CARD, FIXED, CARD.replace(outputs=4), SOLID]))
def test_any_wishes_make_a_plan_of_plain_numbers(options, card):
    if card.ndim == 3:
        options = {k: v for k, v in options.items() if k != "orientations"}
    plan = make(card, **options)
    numbers = plan.to_dict()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert str(plan)
    regions = np.zeros(plan.facts.shape, int)
    blocks = list(plan.blocks())
    for block in blocks:
        regions[block.slices] += 1
    assert (regions[plan.region.slices] == 1).all()
    assert regions.sum() == plan.region.voxels
    assert len(blocks) == plan.block_count == numbers["blocks"]
    assert len(list(plan.parts())) == plan.part_count == numbers["parts"]
    # No two tasks write one object.
    for array in plan.output.arrays:
        level = array.levels[0]
        for block in blocks:
            place = block.shifted(plan.region.start)
            ends = zip(place.start, place.stop, level.shard, plan.region.shape, strict=True)
            assert all(a % s == 0 and (b % s == 0 or b == n) for a, b, s, n in ends)
    grid = {plan.block_number(block) for block in blocks}
    assert grid == {tuple(map(int, i)) for i in np.ndindex(plan.block_grid)}


answer = st.fixed_dictionaries(
    {},
    optional={
        "block": st.sampled_from([32, 64, (32, 96, 64)]),
        "part": st.sampled_from([1, 2, (1, 3, 2)]),
        "workers": st.integers(1, 4),
        "cluster": st.sampled_from(["threads", "processes"]),
        "batch_size": st.integers(1, 9),
        "roi": st.sampled_from(["0:32,10:200,:", "5:9,:,250:260"]),
        "ome_version": st.sampled_from(["0.4", "0.5"]),
        "memory_limit": st.just(2**40),
        "disagreement": st.booleans(),
        "output": st.sampled_from(["labels", "both"]),
    },
)


@given(answer, st.sampled_from([CARD, FIXED, SOLID]), st.sampled_from([1, 2]))
def test_how_the_work_is_cut_does_not_change_what_decides_the_answer(options, card, downsample):
    plain = make(card, chunk=32, downsample=downsample)
    cut = make(card, chunk=32, downsample=downsample, **options)
    assert cut.working == plain.working
    assert cut.ways == plain.ways
    assert cut.normalization == plain.normalization
    assert cut.ballot == plain.ballot
    assert cut.precision == plain.precision
    for orientation in plain.orientations:
        assert cut.patches(orientation.name) is plain.patches(orientation.name)


def test_a_region_uses_the_grid_of_the_whole_volume():
    whole, region = make(), make(roi="10:40,100:200,50:260")
    assert region.region == Box((10, 100, 50), (40, 200, 260))
    assert [w.chosen for w in region.ways] == [w.chosen for w in whole.ways]
    assert region.output.translation == pytest.approx((1.0 + 0.4, 2.0 + 1.0, 3.0 + 0.5))
    assert region.output.arrays[0].levels[0].shape == (30, 100, 210)


def test_units_and_places_are_carried_through():
    output = make().output
    assert (output.voxel_size, output.unit) == (FACTS.voxel_size, "micrometer")
    assert output.translation == FACTS.translation
    unknown = make(facts=replace(FACTS, voxel_size=None, unit=None)).output
    assert unknown.voxel_size is None


def test_what_is_written():
    paths = {
        a.path: a for a in make(output="both", keep_stacks=True, disagreement=True).output.arrays
    }
    assert list(paths) == [
        "labels/segmentation", "probabilities", "disagreement", "stacks/xy", "stacks/xz",
        "stacks/yz",
    ]  # fmt: skip
    assert {a.dtype for a in paths.values()} == {"uint8"}
    assert paths["probabilities"].classes == 0
    many = make(CARD.replace(outputs=5), output="probabilities", name="cells").output.arrays
    assert [(a.path, a.classes) for a in many] == [("probabilities", 5)]


def test_the_mode_follows_the_outputs():
    assert (make(FIXED).mode, make(FIXED).channels) == ("binary", 1)
    assert (make(CARD).mode, make(CARD).channels) == ("binary", 1)
    assert (make(SOLID).mode, make(SOLID).channels) == ("multiclass", 3)
    both = make(CARD, mode="multiclass")
    assert (both.mode, both.channels) == ("multiclass", 2)


def test_normalisation_is_the_models_unless_said():
    assert make().normalization == CARD.normalization
    assert make(normalization="none").normalization.method == "none"
    by_patch = make(normalization="percentile", normalization_scope="patch").normalization
    assert (by_patch.method, by_patch.scope) == ("percentile", "patch")
    fixed = CARD.replace(normalization=Normalization("fixed", mean=1.0, std=2.0))
    assert make(fixed, normalization_scope="patch").normalization == fixed.normalization


def test_precision_follows_the_device():
    assert make().precision == "float32"
    assert make(device="cuda:0").precision == "bfloat16"
    assert make(device="cuda", precision="float32").precision == "float32"


@pytest.mark.parametrize(
    ("options", "card"),
    [
        ({"chunk": 16, "block": 128, "ome_version": "0.4"}, CARD),
        ({"chunk": 16, "shard": 16, "block": 128}, CARD),
        ({"chunk": 16, "shard": 16, "block": "64,64,128", "output": "both"}, THREE),
    ],
)
def test_a_block_whose_marker_would_name_too_many_objects_is_refused(options, card):
    with pytest.raises(BadInput, match=r"would be 512 objects .* 500 at most; use a smaller"):
        make(card, replace(FACTS, shape=(128, 128, 128)), **options)


@pytest.mark.parametrize("options", [{"ome_version": "0.4"}, {"shard": 16, "output": "both"}])
def test_blocks_that_are_chosen_are_few_objects(options):
    facts = replace(FACTS, shape=(300, 400, 500))
    plan = make(THREE, facts, chunk=16, **options)
    (array, *_), side = plan.output.arrays, 16
    assert array.levels[0].shard == (side, side, side)
    copies = sum(max(1, array.classes) for array in plan.output.arrays)
    each = math.prod(-(-n // side) for n in plan.block) * copies
    assert 100 <= each <= 500
    assert all(n % side == 0 for n in plan.block)


def test_a_block_that_is_one_shard_may_be_large():
    facts = replace(FACTS, shape=(2000, 2000, 2000))
    plan = make(CARD, facts, chunk=16, block=1024)
    assert plan.output.arrays[0].levels[0].shard == (1024, 1024, 1024)


def test_fast_networks_have_parts_of_one_block():
    assert make(CARD.replace(speed=1e9), chunk=32, block=64).part_blocks == (1, 1, 1)
    slow = make(CARD.replace(speed=1e5), chunk=32, block=64)
    assert slow.part_count < slow.block_count


def test_the_forks_scaling_is_reproduced():
    facts = replace(FACTS, shape=(34, 1968, 1968))
    plan = make(FIXED, facts, diameter=60, anisotropy=4, overlap=0.1)
    assert plan.working == (68, 984, 984)
    assert plan.to_dict()["total"]["tiles_unpacked"] == 11540


def test_a_median_wants_a_stack():
    facts = VolumeFacts("v", (40, 40, 40), "uint8")
    with pytest.raises(BadInput, match="median 3 filters along a stack"):
        plan_run(facts, Card(name="n", outputs=2, ndim=3, divisor=8), Options(median=3))
