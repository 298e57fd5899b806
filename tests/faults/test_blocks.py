"""Blocks that fail, for a while or for good; and batches that do not fit."""

from __future__ import annotations

import pytest

from orthoflow import window
from tests.faults import traps
from tests.faults.scene import TILES, assert_same


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(window, "_LONGEST_BACKOFF", 0.05)


def test_f10_passing_faults_are_tried_again(scene, expected):
    for often in ("1", "2"):
        scene.order(220, "raise", often)
    scene.order(219, "raise")
    report = scene.run()
    assert report["failed"] == {}
    assert report["retries"] == 3
    assert_same(scene.objects(), expected)


def test_f10_what_fails_each_time_is_left_and_named(scene, expected):
    scene.order(220, "raise", "always")
    report = scene.run(retries=1)
    assert report["failed"] == {
        scene.box_of(220): "the network failed on tiles (8, 1, 8, 8): RuntimeError: a passing fault"
    }
    assert report["retries"] == 1
    assert scene.done() == scene.numbers - {scene.places[220]}
    traps.withdraw(scene.traps)
    report = scene.run(retry_failed=True)
    assert report["failed"] == {}
    assert_same(scene.objects(), expected)


@pytest.mark.parametrize("deed", ["memory", "hungry"])
def test_f11_a_block_without_memory_is_named_with_what_it_needs(scene, expected, deed):
    """`hungry` asks the system for a petabyte; other blocks are done."""
    scene.order(215, deed, "always")
    report = scene.run(retries=0)
    assert list(report["failed"]) == [scene.box_of(215)]
    reason = report["failed"][scene.box_of(215)]
    assert reason.startswith(f"out of memory on cpu: block {scene.box_of(215)} needs about ")
    assert "use a smaller block or batch_size" in reason
    assert report["blocks"] == scene.blocks - 1
    traps.withdraw(scene.traps)
    assert scene.run(retry_failed=True)["failed"] == {}
    assert_same(scene.objects(), expected)


def test_f11_a_plan_that_does_not_fit_is_refused_first(scene):
    driver = scene.drive(memory_limit=1000)
    assert driver.wait() == 2
    assert "memory_limit 1,000 bytes: a block of 8,8,8 needs" in driver.said
    assert driver.said.count("\n") == 1
    assert scene.files() == {}


def test_f12_a_batch_that_does_not_fit_is_halved(scene, expected):
    scene.order(213, "oom", "always")
    report = scene.run()
    assert report["failed"] == {}
    assert sum(report["batches_halved"].values()) > 0, report["batches_halved"]
    assert report["retries"] == 0
    assert_same(scene.objects(), expected)


def test_f13_logits_that_are_no_numbers_fail_their_block(scene, expected):
    scene.order(212, "nan", "always")
    report = scene.run()
    assert list(report["failed"]) == [scene.box_of(212)]
    assert "logits that are NaN or infinite" in report["failed"][scene.box_of(212)]
    # Another try would give the same.
    assert report["retries"] == 0
    assert scene.tiles == (scene.blocks - 1) * TILES + TILES // 3
    assert scene.places[212] not in scene.done()
    traps.withdraw(scene.traps)
    assert scene.run(retry_failed=True)["failed"] == {}
    assert_same(scene.objects(), expected)
