"""Pools against a real cluster: results, failures, workers that die or freeze, lost schedulers."""

from __future__ import annotations

import os
import signal
import time

import pytest

from orthoflow import window as windows
from orthoflow.errors import BlockFailed, RunInterrupted
from orthoflow.pools import Here, Workers
from orthoflow.window import Poison, Window


def add(a, b):
    return a + b


def fail(reason):
    raise BlockFailed(reason)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def freeze(flag):
    """Stop the process once."""
    try:
        os.unlink(flag)
    except FileNotFoundError:
        return "thawed"
    os.kill(os.getpid(), signal.SIGSTOP)
    return "frozen"


def nap(seconds):
    time.sleep(seconds)
    return seconds


def task_of(key, function, *args):
    return lambda maker: {key: maker.task("test", str(key), function, *args)}


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        memory_limit=0,
    ) as local:
        yield local


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as one:
        yield one


def drive(pool, tasks, retries=1):
    tasks = {key: task_of(key, *call) for key, call in tasks.items()}
    window = Window(pool, tasks.__getitem__, retries=retries)
    ended = [e for e in window.run((t, 1) for t in tasks.values()) if e is not None]
    assert len(ended) == len(tasks)
    return {e.key: e for e in ended}, window


def check_pool(pool):
    tasks = {f"sum {n}": (add, n, n) for n in range(30)} | {"bad": (fail, "no")}
    ended, window = drive(pool, tasks)
    assert [ended[f"sum {n}"].result for n in range(30)] == [2 * n for n in range(30)]
    assert (ended["bad"].reason, ended["bad"].tries, window.retried) == ("no", 2, 1)


def test_this_thread():
    pool = Here()
    check_pool(pool)
    assert pool.start(task_of("a", add, 1, 1), again=True, avoid="b") == {}
    assert (pool.size(), pool.dashboard()) == (1, None)


@pytest.mark.slow
def test_workers(client):
    pool = Workers(client, "plain")
    check_pool(pool)
    assert pool.size() == 2
    assert pool.dashboard().startswith("http://127.0.0.1:")
    for _ in range(100):  # a release travels
        held = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        if not held:
            break
        time.sleep(0.05)
    assert held == 0


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_poison_and_its_neighbours_are_not(client):
    pool = Workers(client, "poison")

    def group(maker):
        bad = maker.task("infer", "bad", die)
        return {"bad": bad, "next": maker.task("rim", "next", add, bad, 1)}

    def alone(key):
        return task_of(key, add, 1, 1)

    ended = {e.key: e for e in Window(pool, alone, retries=1).run([(group, 2)]) if e}
    assert ended["bad"].reason == "its workers died 4 times: infer-poison-bad"
    assert ended["bad"].tries == 1
    assert ended["next"].result == 2
    assert issubclass(Poison, BlockFailed)


@pytest.mark.slow
def test_a_frozen_worker_does_not_hold_the_run(client, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "_LEAST_LAG", 1.0)
    (tmp_path / "flag").touch()
    tasks = {"cold": (freeze, str(tmp_path / "flag"))} | dict.fromkeys(range(20), (nap, 0.05))
    before = {w: f["pid"] for w, f in client.run(lambda: {"pid": os.getpid()}).items()}
    ended, window = drive(Workers(client, "frozen"), tasks)
    assert ended["cold"].result == "thawed"
    assert window.doubled >= 1
    for pid in before.values():
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_scheduler_that_goes_interrupts_the_run():
    from distributed import Client, LocalCluster

    local = LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )
    with Client(local) as one:
        pool = Workers(one, "gone")
        run = Window(pool, None, retries=1).run((task_of(n, nap, 0.2), 1) for n in range(99))
        next(run)
        local.close()
        with pytest.raises(RunInterrupted, match="--resume"):
            list(run)
