"""Blocks and parts: who computes what, who hands what to whom, and what it costs."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.geometry.tiling import Tiling
from orthoflow.models.card import Card
from orthoflow.options import Options
from orthoflow.plan import costs, plan_run
from orthoflow.plan.census import census
from tests import oracles

CARDS = {
    "free": Card("free", outputs=2, divisor=8, reach=3),
    "fixed": Card("fixed", outputs=2, tile=(32, 32), stride=4, reach=2),
    "solid": Card("solid", outputs=4, ndim=3, tile=(16, 16, 16)),
}


@st.composite
def plans(draw):
    """Small plans with several blocks, resampled or not."""
    shape = draw(st.tuples(*[st.integers(6, 60)] * 3))
    card = CARDS[draw(st.sampled_from(list(CARDS)))]
    options = {
        "overlap": draw(st.sampled_from([0, 0.25, 0.5])),
        "packing": draw(st.sampled_from(["auto", "none"])),
        "chunk": 4,
        "block": tuple(4 * draw(st.integers(1, 6)) for _ in range(3)),
        "part": tuple(draw(st.integers(1, 3)) for _ in range(3)),
        "median": draw(st.sampled_from([1, 1, 3, 5])) if card.ndim == 2 else 1,
        "downsample": draw(st.sampled_from([1, 1, 2, 3.3, (5, 1, 0.5)])),
    }
    if draw(st.booleans()):
        lo = [draw(st.integers(0, n - 1)) for n in shape]
        hi = [draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)]
        options["roi"] = str(Box(tuple(lo), tuple(hi)))
    chunks = draw(st.none() | st.tuples(*[st.integers(1, 20)] * 3))
    facts = VolumeFacts("v", shape, "uint16", chunks=chunks)
    return plan_run(facts, card, Options.from_mapping(options))


def groups(shares):
    return [(s.position.pieces, g) for s in shares for g in range(*s.groups)]


@settings(max_examples=80)
@given(plans())
def test_inside_a_part_every_patch_that_is_needed_is_computed_once(plan):
    for part in itertools.islice(plan.parts(), 4):
        shares = [plan.shares(part, block) for block in part.blocks]
        for way, orientation in zip(plan.ways, plan.orientations, strict=True):
            times = Counter(g for s in shares for g in groups(s[orientation.name]))
            need = plan.need(part.box, orientation)
            assert set(times) == oracles.groups_in(way.chosen, need)
            assert set(times.values()) <= {1}


@settings(max_examples=60)
@given(plans())
def test_takers_are_those_whose_voxels_the_givers_patches_touch(plan):
    """Never fewer; more only where the patches together span a voxel that none of them covers."""
    for part in itertools.islice(plan.parts(), 2):
        for giver in part.blocks:
            shares = plan.shares(part, giver)
            takers = plan.neighbours(part, giver)
            assert giver not in takers
            assert len(takers) == len(set(takers))
            for taker in part.blocks:
                touched = any(
                    plan.need(taker, orientation).intersect(
                        Box(*oracles.voxels_of_group(way.chosen, *group))
                    )
                    for way, orientation in zip(plan.ways, plan.orientations, strict=True)
                    for group in groups(shares[orientation.name])
                )
                assert taker in takers or taker == giver or not touched


@settings(max_examples=60)
@given(plans())
def test_boxes_hold_what_they_must(plan):
    part = next(plan.parts())
    for block in part.blocks:
        shares = plan.shares(part, block)
        working = plan.working_box(shares)
        for way, orientation in zip(plan.ways, plan.orientations, strict=True):
            found = groups(shares[orientation.name])
            mine = [Box(*oracles.voxels_of_group(way.chosen, *group)) for group in found]
            sums = plan.sums_box(part, orientation, shares[orientation.name])
            assert (sums is None) == (not mine)
            need = plan.need(part.box, orientation)
            assert need.contains(plan.need(block, orientation))
            for box in mine:
                assert working.contains(box)
                assert sums.contains(box.intersect(need))
        assert (plan.input_box(part, block) is None) == (working is None)
        if working is not None:
            assert Box.whole(plan.facts.shape).contains(plan.read_box(working))


@settings(max_examples=60)
@given(plans())
def test_total_work_is_the_sum_over_the_blocks(plan):
    work, peak = Counter(), 0
    for part in plan.parts():
        for block in part.blocks:
            shares = plan.shares(part, block)
            for way in plan.ways:
                for pieces, group in groups(shares[way.chosen.orientation]):
                    position = way.chosen.position(pieces)
                    first = group * position.count
                    work["patches"] += min(first + position.count, way.chosen.planes) - first
                    work["tiles"] += 1
                    work["pixels"] += math.prod(position.tile)
            box = plan.input_box(part, block)
            if box is not None:
                work["bytes"] += bytes_of_chunks(plan.facts, box)
            peak = max(peak, bytes_held(plan, part, block))
    found = costs.total_work(plan)
    assert found.patches == work["patches"]
    assert found.tiles == work["tiles"]
    assert found.network_pixels == work["pixels"]
    assert found.bytes_read == work["bytes"]
    assert found.peak_bytes == peak + costs.fixed_bytes(plan)


def bytes_held(plan, part, block):
    """As `costs` has it, from boxes that were made patch by patch."""
    shares = plan.shares(part, block)
    working = plan.working_box(shares)
    if working is None:
        return 0
    boxes = [plan.sums_box(part, o, shares[o.name]) for o in plan.orientations]
    sums = 4 * plan.channels * sum(box.voxels for box in boxes if box is not None)
    inputs = costs.input_bytes(plan, plan.read_box(working), working)
    results = block.voxels * sum(max(1, array.classes) for array in plan.output.arrays)
    return inputs + sums + results


def bytes_of_chunks(facts, box):
    """Bytes of the chunks that hold a voxel of the box, chunk by chunk."""
    if facts.chunks is None:
        return box.voxels * 2
    total = 0
    for number in np.ndindex(*(-(-n // c) for n, c in zip(facts.shape, facts.chunks, strict=True))):
        start = tuple(i * c for i, c in zip(number, facts.chunks, strict=True))
        stop = tuple(
            min(a + c, n) for a, c, n in zip(start, facts.chunks, facts.shape, strict=True)
        )
        chunk = Box(start, stop)
        total += chunk.voxels * 2 * (chunk.intersect(box) is not None)
    return total


def test_whole_planes_are_shared_evenly_among_blocks():
    facts = VolumeFacts("v", (64, 512, 512), "uint8")
    card = Card("free", outputs=2, divisor=16)
    plan = plan_run(facts, card, Options(chunk=(64,), block=(64, 256, 256), part=(1, 2, 2)))
    part = next(plan.parts())
    pixels = [sum(way.pixels for way in block.ways) for block in census(plan)]
    assert len(part.blocks) == len(pixels)
    assert len(pixels) == 4
    assert max(pixels) <= 1.1 * min(pixels)


def test_all_bytes_of_all_levels_are_counted():
    facts = VolumeFacts("v", (100, 100, 100), "uint8")
    card = Card("many", outputs=3, divisor=8)
    plan = plan_run(facts, card, Options(output="both", levels=2, chunk=(50,)))
    assert costs.bytes_written(plan) == (1 + 3) * (100**3 + 50**3)


def test_a_plan_that_needs_more_memory_than_there_is_is_refused():
    facts = VolumeFacts("v", (600, 600, 600), "uint8")
    plan = plan_run(facts, CARDS["free"], Options(block=(256,)))
    need = costs.total_work(plan).peak_bytes
    costs.require_memory(plan, need)
    with pytest.raises(BadInput, match=rf"{need - 1:,} bytes: a block of 256,256,256 .* 128,128"):
        costs.require_memory(plan, need - 1)


def test_many_blocks_are_counted_without_visiting_their_patches(monkeypatch):
    """Ten thousand blocks of a hundred patches each; the tiles must not be asked one by one."""
    facts = VolumeFacts("large", (2816, 2816, 2816), "uint8", chunks=(64, 64, 64))
    plan = plan_run(facts, CARDS["fixed"].replace(tile=(256, 256)), Options(block=(128,)))
    assert plan.block_count > 10_000
    visited, position = [], Tiling.position

    def counted(tiling, pieces):
        visited.append(pieces)
        return position(tiling, pieces)

    monkeypatch.setattr(Tiling, "position", counted)
    assert costs.total_work(plan).tiles > 1_000_000
    assert len(visited) < 10


def test_a_median_needs_the_planes_beside_the_block():
    """Half of its size on both sides along the stack of each orientation, inside the volume."""
    facts = VolumeFacts("v", (40, 40, 40), "uint8")
    plan = plan_run(facts, CARDS["free"], Options(median=5))
    needs = [str(plan.need(Box((1, 10, 20), (9, 19, 39)), o)) for o in plan.orientations]
    assert needs == ["0:11,10:19,20:39", "1:9,8:21,20:39", "1:9,10:19,18:40"]
