"""Thirty faults at random over more than two hundred blocks, begun anew until all is done."""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import suppress

import pytest

from tests.faults import traps
from tests.faults.fleet import Fleet, wait_until
from tests.faults.scene import ALONE, TILES, Scene, assert_same, is_alive, make_source

SHAPE = (32, 56, 64)
"""224 blocks."""

FAULTS = {
    "kill a worker": 9,
    "kill the driver": 5,
    "interrupt the driver": 2,
    "kill the scheduler": 1,
    "freeze a worker": 1,
    "fail a block": 4,
    "overload": 3,
    "reset": 3,
    "lose": 2,
}


class Chaos:
    """Does one thing after the other, each when so many blocks are done."""

    def __init__(self, scene, proxy, seed):
        self.scene, self.proxy = scene, proxy
        self.dice = random.Random(seed)
        self.left = [name for name, count in FAULTS.items() for _ in range(count)]
        self.dice.shuffle(self.left)
        self.fleet = self.make_fleet()
        self.driver = None
        self.codes = []
        self.frozen = []
        self.looked, self.open, self.marked = 0, [], set()

    def make_fleet(self):
        return Fleet(workers=2, environment=self.scene.environment)

    def done(self):
        """How many markers the store has confirmed, without asking it."""
        fresh = self.proxy.requests[self.looked :]
        self.looked += len(fresh)
        self.open += [one for one in fresh if one.method == "PUT" and "/blocks/" in one.path]
        self.marked |= {one.path for one in self.open if one.status == 200}
        self.open = [one for one in self.open if one.status is None]
        return len(self.marked)

    def run(self, blocks):
        """Until a driver says that all is done."""
        step = blocks / (len(self.left) + 1)
        due = step
        self.start()
        while self.driver.running or self.ended():
            if self.left and self.done() >= due and self.driver.running:
                due += step
                getattr(self, self.left.pop().replace(" ", "_"))()
            with suppress(TimeoutError):
                wait_until(lambda due=due: self.done() >= due or not self.driver.running, 0.2)

    def ended(self):
        """Note how the driver ended; start the next one unless it was the last."""
        self.codes.append(self.driver.wait())
        assert len(self.codes) < 2 * sum(FAULTS.values()), self.driver.said
        if self.codes[-1] == 0:
            return False
        self.start()
        return True

    def start(self):
        self.driver = self.scene.drive(
            scheduler=self.fleet.address, resume=True, patches={"orthoflow.window:_LEAST_LAG": 1.0}
        )

    def a_worker(self):
        """One that has done something: who was killed before is being started anew."""
        wait_until(self.awake)
        return self.dice.choice(self.awake())

    def awake(self):
        workers = {pid for pid, _ in traps.calls(self.scene.traps)}
        return sorted(filter(is_alive, workers - set(self.frozen)))

    def kill_a_worker(self):
        with suppress(ProcessLookupError):
            os.kill(self.a_worker(), signal.SIGKILL)

    def freeze_a_worker(self):
        self.frozen.append(self.a_worker())
        os.kill(self.frozen[0], signal.SIGSTOP)
        threading.Timer(4.0, self.thaw).start()

    def thaw(self):
        with suppress(ProcessLookupError):
            os.kill(self.frozen[0], signal.SIGCONT)

    def kill_the_driver(self):
        self.driver.send(signal.SIGKILL)

    def interrupt_the_driver(self):
        self.driver.interrupt()

    def kill_the_scheduler(self):
        self.fleet.scheduler.kill()
        self.driver.wait()
        self.fleet.end()
        self.fleet = self.make_fleet()

    def fail_a_block(self):
        """One that is not done yet, if there is any."""
        left = [
            value
            for value, number in self.scene.places.items()
            if not any(path.endswith("/{}-{}-{}.json".format(*number)) for path in self.marked)
        ]
        if left:
            self.scene.order(self.dice.choice(left), "raise")

    def overload(self):
        self.proxy.inject("status", status=503, lasting=0.4)

    def reset(self):
        self.proxy.inject("reset", keys="*/c/*", count=4)

    def lose(self):
        self.proxy.inject("lose", methods={"PUT"}, keys="*/c/*", count=3)


@pytest.mark.slow
@pytest.mark.s3
def test_thirty_faults_leave_the_bytes_of_a_run_without_any(faulty, moto, tmp_path, monkeypatch):
    url, proxy = faulty
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    (tmp_path / "clean").mkdir()
    source = make_source(tmp_path, SHAPE)
    clean = Scene(tmp_path / "clean", source, kind=ALONE, shape=SHAPE)
    clean.run()
    (tmp_path / "chaos").mkdir()
    scene = Scene(tmp_path / "chaos", source, output=f"{url}/out.zarr", shape=SHAPE)
    scene.environment = {**moto.at(proxy.url).environment(), "AWS_MAX_ATTEMPTS": "1"}
    traps.slow_down(scene.traps, 0.01)
    chaos = Chaos(scene, proxy, seed=3)
    try:
        chaos.run(scene.blocks)
    finally:
        chaos.fleet.end()
        scene.end()
    assert chaos.left == []
    assert sum(FAULTS.values()) == 30
    assert len(chaos.codes) > 6
    assert set(chaos.codes) <= {0, 4, 5, -signal.SIGKILL}
    assert_same(scene.objects(), clean.objects())
    assert scene.done() == scene.numbers
    assert scene.tiles <= 1.1 * scene.blocks * TILES
