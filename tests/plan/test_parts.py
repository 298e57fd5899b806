"""Blocks and parts: who computes what, who hands what to whom, and what it costs."""

from __future__ import annotations

import itertools
import math
import pickle
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.geometry.tiling import Tiling
from orthoflow.models.card import Card
from orthoflow.options import Options
from orthoflow.plan import costs, order, plan_run
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
    chunks = draw(st.none() | st.tuples(*[st.integers(4, 20)] * 3))
    shards = None if chunks is None else draw(st.none() | st.just(tuple(2 * c for c in chunks)))
    facts = VolumeFacts("v", shape, "uint16", chunks=chunks, shards=shards)
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
                work["gets"] += gets_of(plan.facts, box)
            peak = max(peak, bytes_held(plan, part, block))
    found = costs.total_work(plan)
    assert found.patches == work["patches"]
    assert found.tiles == work["tiles"]
    assert found.network_pixels == work["pixels"]
    assert found.bytes_read == work["bytes"]
    assert found.gets == work["gets"]
    assert found.peak_bytes == peak + costs.fixed_bytes(plan)


def bytes_held(plan, part, block):
    """As `costs` has it, from boxes that were made patch by patch."""
    shares = plan.shares(part, block)
    working = plan.working_box(shares)
    if working is None:
        return 0
    boxes = [plan.sums_box(part, o, shares[o.name]) for o in plan.orientations]
    sums = 4 * plan.channels * sum(box.voxels for box in boxes if box is not None)
    inputs = costs.input_bytes(plan, plan.read_box(working).shape, working.shape)
    results = block.voxels * sum(max(1, array.classes) for array in plan.output.arrays)
    return inputs + sums + results


def bytes_of_chunks(facts, box):
    """Bytes of the chunks that hold a voxel of the box, chunk by chunk."""
    if facts.chunks is None:
        return box.voxels * 2
    return sum(2 * math.prod(b - a for a, b in chunk) for chunk in chunks_of(facts, box))


def chunks_of(facts, box):
    """Spans of the chunks that hold a voxel of the box; without chunks the volume is one."""
    along = [
        [(a, min(a + c, n)) for a in range(0, n, c) if a < hi and lo < min(a + c, n)]
        for n, c, lo, hi in zip(
            facts.shape, facts.chunks or facts.shape, box.start, box.stop, strict=True
        )
    ]
    return itertools.product(*along)


def gets_of(facts, box):
    """A request for each chunk and index, but one for a shard of which more than half is wanted."""
    if facts.shards is None:
        return len(list(chunks_of(facts, box)))
    total, held = 0, list(chunks_of(facts, Box.whole(facts.shape)))
    wanted = set(chunks_of(facts, box))
    for shard in chunks_of(replace(facts, chunks=facts.shards), box):
        inside = [chunk for chunk in held if lies_in(chunk, shard)]
        count = len(wanted.intersection(inside))
        total += 1 if 2 * count > len(inside) else 1 + count
    return total


def lies_in(chunk, shard):
    return all(a <= s and e <= b for (a, b), (s, e) in zip(shard, chunk, strict=True))


def test_whole_planes_are_shared_evenly_among_blocks():
    facts = VolumeFacts("v", (64, 512, 512), "uint8")
    card = Card("free", outputs=2, divisor=16)
    plan = plan_run(facts, card, Options(chunk=(64,), block=(64, 256, 256), part=(1, 2, 2)))
    part = next(plan.parts())
    pixels = {sum(way.pixels for way in alike.ways) for alike in census(plan)}
    assert len(part.blocks) == sum(alike.blocks for alike in census(plan)) == 4
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
    # Nor the blocks: few of them differ in what they compute.
    kinds = list(census(plan))
    assert sum(alike.blocks for alike in kinds) == plan.block_count
    assert len(kinds) < plan.block_count / 30


def test_a_median_needs_the_planes_beside_the_block():
    """Half of its size on both sides along the stack of each orientation, inside the volume."""
    facts = VolumeFacts("v", (40, 40, 40), "uint8")
    plan = plan_run(facts, CARDS["free"], Options(median=5))
    needs = [str(plan.need(Box((1, 10, 20), (9, 19, 39)), o)) for o in plan.orientations]
    assert needs == ["0:11,10:19,20:39", "1:9,8:21,20:39", "1:9,10:19,18:40"]


@settings(max_examples=60)
@given(plans(), st.integers(1, 9))
def test_the_shares_of_all_jobs_are_the_parts_in_their_order(plan, jobs):
    whole = list(plan.parts())
    shares = [list(plan.parts((jobs, job))) for job in range(jobs)]
    assert [part for share in shares for part in share] == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for job, share in enumerate(shares):
        assert plan.share_blocks((jobs, job)) == sum(len(part.blocks) for part in share)


@settings(max_examples=60)
@given(plans(), st.data())
def test_what_is_left_of_a_part_are_the_blocks_that_are_not_done(plan, data):
    for part in itertools.islice(plan.parts(), 3):
        done = set(data.draw(st.lists(st.sampled_from(part.blocks))))
        pieces = list(plan.unfinished(part, {plan.block_number(block) for block in done}))
        left = [block for piece in pieces for block in piece.blocks]
        assert len(left) == len(set(left))
        assert set(left) == set(part.blocks) - done
        for piece in pieces:
            assert piece == plan.part_of(piece.blocks)
        if not done:
            assert pieces == [part]


@settings(max_examples=60)
@given(plans())
def test_blocks_have_numbers_and_can_stand_alone(plan):
    """Also those of a region: its corner is block 0,0,0."""
    blocks = list(plan.blocks())
    numbers = [plan.block_number(block) for block in blocks]
    assert sorted(numbers) == list(itertools.product(*map(range, plan.block_grid)))
    for block, number in zip(blocks, numbers, strict=True):
        alone = plan.part_alone(block)
        assert (alone.box, alone.blocks) == (block, (block,))
        start = zip(plan.region.start, number, plan.block, strict=True)
        assert block.start == tuple(origin + n * side for origin, n, side in start)


def test_a_plan_of_a_million_blocks_is_walked_nowhere(monkeypatch):
    """Its first part, a job's share far behind and the size of that share are found at once."""
    facts = VolumeFacts("huge", (102_400,) * 3, "uint8", chunks=(128, 128, 128))
    plan = plan_run(facts, CARDS["free"], Options(block=(1024,), part=(1,)))
    assert plan.part_count == 10**6
    halved, halves = [], order.halves
    monkeypatch.setattr(order, "halves", lambda box: halved.append(box) or halves(box))
    first = next(plan.parts())
    assert str(first.box) == "0:1024,0:1024,0:1024"
    assert len(next(plan.parts((64, 63))).blocks) == 1
    assert plan.share_blocks((64, 63)) == 10**6 - 10**6 * 63 // 64
    assert len(halved) < 200
    assert len(pickle.dumps(first)) < 300


@pytest.mark.parametrize("jobs", [2, 5, 64, 216, 500])
def test_there_is_a_part_for_every_job_while_there_are_blocks(jobs):
    facts = VolumeFacts("v", (96, 96, 96), "uint8")
    plan = plan_run(facts, CARDS["free"], Options(chunk=(16,), block=(16,), num_parts=jobs))
    assert plan.block_count == 216
    assert plan.part_count >= min(jobs, 216)
    alone = plan_run(facts, CARDS["free"], Options(chunk=(16,), block=(16,)))
    assert alone.part_count <= plan.part_count


@pytest.mark.parametrize("part", [1, 99])
def test_a_last_group_of_stripes_that_is_not_full_is_counted_as_it_is(part):
    """63 planes, two in a tile: the last block has as many tiles as the others, one patch less."""
    facts = VolumeFacts("v", (11, 63, 64), "uint8")
    options = {"chunk": 4, "block": "12,4,64", "part": part, "orientations": "xz"}
    plan = plan_run(facts, CARDS["fixed"], Options.from_mapping(options))
    (way,) = plan.ways
    assert next(way.chosen.positions()).count == 2
    assert (
        costs.total_work(plan).patches == way.chosen.patches == 63 * len(way.chosen.grids[1].starts)
    )
    assert costs.total_work(plan).tiles == way.chosen.tiles
