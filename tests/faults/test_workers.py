"""Workers that die, freeze, come late, leave: nothing is lost, and little is done twice."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from orthoflow import window
from tests.faults import traps
from tests.faults.fleet import Fleet, wait_until
from tests.faults.scene import (
    ALONE,
    GROUPED,
    LARGE,
    SMALL,
    TILES,
    WOVEN,
    assert_same,
    is_alive,
    of_block,
)

pytestmark = pytest.mark.slow

large = pytest.mark.parametrize("scene", [(ALONE, LARGE)], indirect=True, ids=["large"])


def keep_killing(scene, fleet, stopped, kills, seed=0):
    """Kill one worker after another, whatever it is doing.

    A few blocks are done between two kills: one that is hit four times would be blamed for it.
    """
    dice, done = random.Random(seed), 0
    with fleet.client() as client:
        while not stopped.wait(dice.uniform(0.05, 0.25)) and len(kills) < 5:
            pids = list(client.run(os.getpid, on_error="ignore").values())
            if len(pids) == 2 and len(scene.done()) >= done + 4:
                done = len(scene.done())
                victim = dice.choice(pids)
                os.kill(victim, signal.SIGKILL)
                kills.append(victim)


@large
def test_f1_killed_workers_cost_a_block_each(scene, fleet, expected):
    """Kills: five in the middle of the network, up to five at any time."""
    traps.slow_down(scene.traps, 0.01)
    for value in range(203, 243, 8):
        scene.order(value, "kill")
    stopped, kills = threading.Event(), []
    killer = threading.Thread(target=keep_killing, args=(scene, fleet, stopped, kills))
    killer.start()
    try:
        report = scene.run(scheduler=fleet.address)
    finally:
        stopped.set()
        killer.join()
    assert report["failed"] == {}
    assert report["blocks"] == scene.blocks
    assert_same(scene.objects(), expected)
    assert os.listdir(scene.traps / "orders") == []
    # How many there is time for depends on the machine.
    assert kills
    assert scene.blocks * TILES < scene.tiles <= (scene.blocks + 5 + len(kills)) * TILES


@pytest.mark.parametrize("scene", [(WOVEN, LARGE)], indirect=True)
def test_f1_killed_workers_inside_parts(scene, fleet, expected):
    """Sums wait for their neighbours in memory: with a worker those that it held are lost."""
    for value in (205, 225, 240):
        scene.order(value, "kill")
    report = scene.run(scheduler=fleet.address)
    assert report["failed"] == {}
    assert_same(scene.objects(), expected)
    assert os.listdir(scene.traps / "orders") == []


def die_after_bytes(limit):
    """The system kills this process when it writes beyond so many bytes of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_f2_nothing_torn_is_ever_seen(scene, fleet, expected):
    def look(progress):
        del progress
        for name, content in scene.objects().items():
            if "partial" not in name:
                assert content == expected[name], name
            else:
                torn.add(name)

    torn = set()
    before = set(fleet.pids().values())
    fleet.tell(die_after_bytes, 10)
    report = scene.run(scheduler=fleet.address, progress=look)
    assert before.isdisjoint(fleet.pids().values())
    assert torn
    assert report["failed"] == {}
    assert_same(scene.objects(), expected)
    assert scene.partials() == []


def die_before_marking(folder):
    """The block's data are stored, and then the process ends."""
    from orthoflow import blockio

    def die(output, marker, *_):
        leave_word(folder, output, marker)
        os._exit(1)

    blockio.create_marker = die


def die_after_marking(folder):
    """The marker is stored, and nobody hears of it."""
    from orthoflow import blockio

    create = blockio.create_marker

    def create_and_die(output, marker, *more):
        create(output, marker, *more)
        leave_word(folder, output, marker)
        os._exit(1)

    blockio.create_marker = create_and_die


def leave_word(folder, output, marker):
    """Say which block this is, and what the output holds just now."""
    names = [str(path.relative_to(output)) for path in Path(output).rglob("*")]
    (Path(folder) / Path(marker.name).name).write_text("\n".join(names))


def last_words(folder):
    """Of each process that died: number of its block, names in the output."""
    words = {path.name: set(path.read_text().split("\n")) for path in folder.iterdir()}
    return {tuple(map(int, name.split("-"))): names for name, names in words.items()}


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    return folder


def test_f3_data_without_a_marker_are_made_again(scene, fleet, expected, words):
    workers = set(fleet.pids().values())
    fleet.tell(die_before_marking, str(words))
    report = scene.run(scheduler=fleet.address)
    assert report["failed"] == {}
    assert report["blocks_done_twice"] == 0
    died = len(workers - set(fleet.pids().values()))
    assert len(last_words(words)) == died
    for number, names in last_words(words).items():
        assert of_block(number, names) == of_block(number, expected) != set()
        assert not any(name.endswith("/{}-{}-{}.json".format(*number)) for name in names)
    assert scene.tiles == (scene.blocks + died) * TILES > scene.blocks * TILES
    assert len(scene.done()) == scene.blocks
    assert_same(scene.objects(), expected)


def test_f4_a_marker_that_nobody_heard_of_is_no_obstacle(scene, fleet, expected, words):
    """The scheduler has lost the result, so it asks again: one block for each worker."""
    workers = set(fleet.pids().values())
    fleet.tell(die_after_marking, str(words))
    report = scene.run(scheduler=fleet.address)
    assert report["failed"] == {}
    assert report["blocks"] == scene.blocks
    assert report["blocks_done_twice"] == len(workers - set(fleet.pids().values())) > 0
    assert len(last_words(words)) == report["blocks_done_twice"]
    # What has a marker is there.
    for number, names in last_words(words).items():
        assert of_block(number, names) == of_block(number, expected) != set()
        assert any(name.endswith("/{}-{}-{}.json".format(*number)) for name in names)
    assert scene.tiles <= (scene.blocks + 2) * TILES
    assert len(scene.done()) == scene.blocks
    assert_same(scene.objects(), expected)


def test_f8_a_frozen_worker_is_done_without(scene, fleet, expected, monkeypatch):
    monkeypatch.setattr(window, "_LEAST_LAG", 1.0)
    scene.order(210, "stop")
    report = scene.run(scheduler=fleet.address)
    assert report["failed"] == {}
    assert report["doubles"] >= 1
    assert_same(scene.objects(), expected)
    before, tiles = scene.files(), scene.tiles
    (frozen,) = [pid for pid in {pid for pid, _ in traps.calls(scene.traps)} if is_stopped(pid)]
    os.kill(frozen, signal.SIGCONT)
    # It does what it was doing, and writes what is there already.
    wait_until(lambda: scene.tiles > tiles or frozen in fleet.pids().values(), 20)
    fleet.tell(time.sleep, 0.2)
    assert scene.files() == before


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize(
    "scene", [(ALONE, SMALL), (GROUPED, SMALL)], indirect=True, ids=["alone", "grouped"]
)
def test_f9_a_poisonous_block_is_named_and_the_others_are_done(scene, fleet, expected):
    scene.order(217, "segfault", "always")
    driver = scene.drive(scheduler=fleet.address)
    assert driver.wait() == 3
    failed = driver.report["failed"]
    assert list(failed) == [scene.box_of(217)]
    assert f"failed block {scene.box_of(217)}: its workers died 4 times" in driver.said
    assert scene.done() == scene.numbers - {scene.places[217]}
    died = {pid for pid, _ in traps.calls(scene.traps) if not is_alive(pid)}
    # Four tries, and four more by itself if another block died with it each time.
    assert len(died) <= 8
    tiles = scene.tiles
    driver = scene.drive(scheduler=fleet.address, resume=True)
    assert driver.wait() == 3
    assert driver.report["failed"] == failed
    assert scene.tiles == tiles
    traps.withdraw(scene.traps)
    driver = scene.drive(scheduler=fleet.address, retry_failed=True)
    assert driver.wait() == 0
    assert driver.report["failed"] == {}
    assert_same(scene.objects(), expected)


@large
def test_f24_workers_that_come_late_and_leave_early(scene, expected):
    fleet = Fleet(workers=1)
    try:
        traps.slow_down(scene.traps, 0.01)
        (first,) = fleet.pids()
        driver = scene.drive(scheduler=fleet.address)
        wait_until(lambda: len(scene.done()) > 8)
        fleet.add()
        late = next(pid for address, pid in fleet.pids().items() if address != first)
        before = len(scene.done())
        wait_until(lambda: late in {pid for pid, _ in traps.calls(scene.traps)})
        # Those that the first worker had at that moment, and a few while it was made ready.
        assert len(scene.done()) - before <= 8
        with fleet.client() as client:
            client.retire_workers([first])
        assert driver.wait() == 0
        # Dask does not wait for what a retiring worker runs: that block is made once more.
        assert scene.tiles <= (scene.blocks + 1) * TILES
        assert_same(scene.objects(), expected)
    finally:
        fleet.end()


def test_f24_every_worker_that_comes_gets_work(scene, expected):
    """Four at the same time: blocks are under way for each, though there was one at first."""
    for value in scene.places:
        scene.order(value, "wait", "always")
    fleet = Fleet(workers=1)
    try:
        driver = scene.drive(scheduler=fleet.address)
        wait_until(lambda: scene.tiles)
        for _ in range(3):
            fleet.add()
        wait_until(lambda: len({pid for pid, _ in traps.calls(scene.traps)}) == 4)
        traps.let_go(scene.traps)
        assert driver.wait() == 0, driver.said
        assert_same(scene.objects(), expected)
    finally:
        fleet.end()
