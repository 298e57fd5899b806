"""Drivers that are killed, told to stop, started twice, or meet what does not fit them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.faults import traps
from tests.faults.drive import typed
from tests.faults.fleet import Fleet, wait_until
from tests.faults.scene import ALONE, COMMON, LARGE, TILES, assert_same, is_alive

BEATS = {"orthoflow.stores.locks:hold.__wrapped__.__kwdefaults__": {"beat": 0.2}}
WINDOW = 3
"""Blocks under way per thread of a worker."""


def one_line(text, *parts):
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    for part in parts:
        assert part in text


large = pytest.mark.parametrize("scene", [(ALONE, LARGE)], indirect=True, ids=["large"])


@pytest.mark.slow
@large
def test_f5_a_lost_scheduler_ends_the_run_with_a_line_and_costs_what_was_under_way(scene, expected):
    fleet = Fleet()
    try:
        traps.slow_down(scene.traps, 0.01)
        driver = scene.drive(scheduler=fleet.address)
        wait_until(lambda: len(scene.done()) > scene.blocks // 4)
        fleet.scheduler.kill()
        assert driver.wait(60) == 5
        one_line(driver.said, "the scheduler was lost", "--resume")
    finally:
        fleet.end()
    # A worker that has lost its scheduler may still end the block that it is at.
    done, tiles = len(scene.done()), scene.tiles
    assert done < scene.blocks
    driver = scene.drive(resume=True)
    assert driver.wait() == 0, driver.said
    assert scene.tiles - tiles == (scene.blocks - done) * TILES
    assert driver.report["blocks_resumed"] == done
    assert_same(scene.objects(), expected)


@pytest.mark.slow
@large
def test_f6_a_killed_driver_costs_what_was_under_way(scene, fleet, expected):
    traps.slow_down(scene.traps, 0.01)
    driver = scene.drive(scheduler=fleet.address)
    wait_until(lambda: len(scene.done()) > scene.blocks // 2)
    assert driver.kill() == -signal.SIGKILL
    found = status(scene)
    assert scene.blocks // 2 < found["blocks"] < scene.blocks
    assert found["blocks_planned"] == scene.blocks
    assert not found["finished"]
    again = scene.drive(scheduler=fleet.address, resume=True)
    assert again.wait() == 0, again.said
    assert scene.tiles <= (scene.blocks + 2 * WINDOW) * TILES
    assert len(scene.done()) == scene.blocks
    assert_same(scene.objects(), expected)
    assert status(scene)["finished"]


def status(scene):
    driver = scene.command(["status", scene.output, "--json"])
    assert driver.wait() == 0, driver.said
    return driver.report


@pytest.mark.slow
def test_f6_workers_of_a_killed_driver_end_with_it(scene, expected):
    scene.order(210, "wait", "always")
    driver = scene.drive(cluster="processes", workers=2)
    wait_until(lambda: len(scene.done()) > 4)
    workers = {pid for pid, _ in traps.calls(scene.traps)}
    assert driver.kill() == -signal.SIGKILL
    traps.let_go(scene.traps)
    wait_until(lambda: not any(map(is_alive, workers)), 20, "workers to end")
    assert scene.drive(resume=True).wait() == 0
    assert_same(scene.objects(), expected)


def test_f7_a_second_driver_is_refused_and_told_who_is_at_work(scene, expected):
    scene.order(210, "wait", "always")
    first = scene.drive()
    wait_until(scene.done)
    for more in ({"resume": True}, {"overwrite": True}, {}):
        second = scene.drive(**more)
        assert second.wait() == 2
        one_line(second.said)
        if more:
            one_line(second.said, socket.gethostname(), str(first.pid), "--take-over")
    assert first.running
    traps.let_go(scene.traps)
    assert first.wait() == 0, first.said
    assert scene.tiles == scene.blocks * TILES
    assert_same(scene.objects(), expected)


def test_f7_a_driver_that_takes_over_stops_the_other(scene, expected):
    scene.order(210, "wait", "always")
    first = scene.drive(patches=BEATS)
    wait_until(scene.done)
    second = scene.drive(resume=True, take_over=True)
    wait_until(lambda: len({pid for pid, _ in traps.calls(scene.traps)}) == 2)
    traps.let_go(scene.traps)
    assert second.wait() == 0, second.said
    assert first.wait() == 5
    one_line(first.said, "another driver took over")
    assert_same(scene.objects(), expected)


def test_f23_other_settings_are_refused_and_named(scene, expected):
    scene.order(210, "kill")
    assert scene.drive().wait() == -signal.SIGKILL
    before = scene.objects(), scene.done()
    for more, said in [
        ({"overlap": 0.5}, "overlap 0.0 -> 0.5"),
        ({"threshold": 0.75, "overlap": 0.25}, "overlap 0.0 -> 0.25; threshold 0.5 -> 0.75"),
        ({"block": 16}, "block [8, 8, 8] -> [16, 16, 16]"),
    ]:
        driver = scene.drive(resume=True, **more)
        assert driver.wait() == 2
        one_line(driver.said, "begun with other settings", said)
    assert (scene.objects(), scene.done()) == before
    assert scene.drive(resume=True).wait() == 0
    assert_same(scene.objects(), expected)


def other_torch(version):
    """This worker says that it has another torch; what it said before."""
    from orthoflow import versions

    given = versions.installed_versions
    versions.installed_versions = lambda: {**given(), "torch": version}


def versions_as_they_are():
    import importlib

    from orthoflow import versions

    importlib.reload(versions)


@pytest.mark.slow
def test_f25_workers_with_other_versions_are_refused_before_anything_is_made(scene, fleet):
    fleet.tell(other_torch, "1.0")
    try:
        driver = scene.drive(scheduler=fleet.address)
        assert driver.wait() == 2
        one_line(driver.said, "versions differ: torch ", "1.0 on tcp://127.0.0.1:")
        assert scene.files() == {}
        assert scene.tiles == 0
    finally:
        fleet.tell(versions_as_they_are)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_can_go_on(scene, expected, tmp_path, number):
    """Ctrl-C reaches every process of the terminal; a batch system tells the first one."""
    scene.order(210, "wait", "always")
    words = ["--model", "trap", "--json", "--quiet"]
    options = {**COMMON, **scene.kind, "cluster": "processes", "workers": 2}
    (tmp_path / "started").mkdir()
    job = {
        "arguments": typed("run", scene.source, scene.output, **options) + words,
        "traps": str(scene.traps),
        "tile": scene.tile,
        "folder": str(tmp_path / "started"),
        "environment": {},
        "patches": {},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.drive", str(tmp_path / "job.json")]
    )
    wait_until(lambda: len(scene.done()) > 4, 60)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    traps.let_go(scene.traps)
    assert process.wait(30) == 5
    one_line((tmp_path / "started/err").read_text(), "--resume")
    workers = {pid for pid, _ in traps.calls(scene.traps)}
    wait_until(lambda: not any(map(is_alive, workers)), 20, "workers to end")
    assert scene.drive(resume=True).wait() == 0
    assert_same(scene.objects(), expected)


def test_a_finished_run_is_left_alone(scene, expected):
    scene.run()
    before = scene.files()
    for more in ({"resume": True}, {"retry_failed": True}, {"num_parts": 3, "part_id": 1}):
        tiles = scene.tiles
        driver = scene.drive(**more)
        assert driver.wait() == 0, driver.said
        assert driver.report["blocks_resumed"] == scene.blocks
        assert scene.tiles == tiles
        assert scene.files() == before
    assert_same(scene.objects(), expected)
