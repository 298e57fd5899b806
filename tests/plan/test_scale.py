"""What the plan says a run asks of stores and schedulers, against runs that were counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orthoflow import graph
from orthoflow.driver import level_grid
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.models.card import Card
from orthoflow.options import Options
from orthoflow.plan import costs, plan_run, scale

CARD = Card("net", outputs=2, divisor=8, speed=1e6, speed_note="here")
FACTS = VolumeFacts("v", (64, 96, 80), "uint8", chunks=(16, 16, 16))


def make(card=CARD, facts=FACTS, **options):
    return plan_run(facts, card, Options.from_mapping({"chunk": 16, "block": 32, **options}))


class Counting:
    """Takes tasks and makes none."""

    def __init__(self):
        self.made = 0

    def task(self, *_):
        self.made += 1


@pytest.mark.parametrize("part", [1, "1,2,2", 9])
def test_tasks_are_those_that_a_driver_makes(part):
    pytest.importorskip("torch")
    plan = make(facts=replace(FACTS, shape=(64, 128, 128)), part=part)
    counting = Counting()
    for each in plan.parts():
        graph.written(counting, plan, each, None, None)
    pyramid = sum(len(boxes) for _, boxes in level_grid(plan.output))
    assert pyramid > 0
    assert scale.tasks_of(plan) == counting.made + pyramid


def test_jobs_ask_for_listings_and_markers_beside():
    alone, shared = (scale.requests_of(make(num_parts=jobs, part=1)) for jobs in (1, 4))
    blocks = make().block_count
    assert (alone.marker_gets, shared.marker_gets) == (0, blocks)
    # One page of markers for each job at its start and at its end, and of objects for the last.
    assert shared.lists - alone.lists == 2 * 4 + 1 + 2 * 3
    assert shared.block_puts == alone.block_puts
    assert shared.gets == alone.gets + blocks


def test_every_channel_is_read():
    one, two = (
        scale.requests_of(make(CARD.replace(channels=n), replace(FACTS, channels=n)))
        for n in (1, 2)
    )
    assert two.input_gets == 2 * one.input_gets
    assert one.input_gets == costs.total_work(make()).gets


def test_the_price_is_that_of_every_request():
    asked = scale.Requests(
        *(1_000_000, 1_500_000, 500_000, 3_000_000),
        *(400_000, 450_000, 50_000, 100_000),
        lists=200_000,
    )
    assert (asked.gets, asked.puts) == (6_000_000, 1_000_000)
    assert asked.dollars == pytest.approx(6 * 0.4 + 5 + 0.2 * 5)


def test_rates_are_those_of_all_workers():
    one, many = make(workers=1), make(workers=8)
    seconds = one.to_dict()["seconds"]
    asked, rates = scale.requests_of(one), scale.rates_of(one)
    assert rates.gets == pytest.approx(asked.input_gets / seconds)
    assert rates.puts == pytest.approx(asked.block_puts / seconds)
    assert scale.rates_of(many).gets == pytest.approx(8 * rates.gets)
    assert many.to_dict()["scale"]["hours"] == pytest.approx(seconds / 8 / 3600)
    # Every job has a scheduler of its own.
    jobs = make(workers=2, num_parts=4, part=1)
    assert scale.workers_of(jobs) == 8
    assert scale.rates_of(jobs).tasks == pytest.approx(
        scale.rates_of(make(part=1, workers=2)).tasks
    )


@pytest.mark.parametrize(
    ("options", "speed", "name"),
    [({}, 1e3, "blocks"), ({}, 1e6, "prefix_gets")],
)
def test_what_is_full_first_is_the_first_of_the_limits(options, speed, name):
    facts = (
        FACTS if name == "blocks" else replace(FACTS, shape=(512, 512, 512), chunks=(16, 16, 16))
    )
    plan = make(CARD.replace(speed=speed), facts, part=1, **options)
    limits = scale.limits_of(plan)
    assert next(iter(limits)) == name
    assert list(limits.values()) == sorted(limits.values())
    text = str(plan)
    assert f"beyond {int(limits[name]):,} workers {scale.FULL[name]}" in text
    if name != "blocks":
        there = make(CARD.replace(speed=speed), facts, part=1, workers=int(limits[name]), **options)
        assert scale.rates_of(there).gets == pytest.approx(scale.PREFIX_GETS, rel=0.3)
    else:
        assert limits[name] == plan.block_count


def test_the_text_and_the_numbers_say_the_same():
    plan = make(workers=3)
    numbers = plan.to_dict()["scale"]
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    lines = scale.scale_lines(plan)
    assert 4 <= len(lines) <= 6
    text = "\n".join(lines)
    for key in ("gets", "puts", "lists", "tasks", "workers"):
        assert f"{numbers[key]:,}" in text
    assert all(line in str(plan).splitlines() for line in lines)
    assert max(map(len, lines)) <= 110


def test_without_a_speed_there_are_counts_and_no_rates():
    plan = make(CARD.replace(speed=None))
    numbers = plan.to_dict()["scale"]
    assert numbers["hours"] is numbers["gets_per_second"] is numbers["scheduler_share"] is None
    assert numbers["workers_at_limit"] == {"blocks": plan.block_count}
    assert len(scale.scale_lines(plan)) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7, "7 s"), (600, "10 min"), (36_000, "10.0 h"), (8_640_000, "100.0 days")],
)
def test_durations_are_told_in_the_unit_that_suits_them(seconds, text):
    assert scale.duration(seconds) == text
