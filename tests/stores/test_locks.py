"""One driver on one output: who is let in, who is not, and what becomes of the dead."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores import locks
from orthoflow.stores.locks import Holder, hold, machine_name, process_started, read_locks
from orthoflow.stores.objects import delete_object, list_names, read_object, write_object
from orthoflow.stores.sealed import seal
from orthoflow.stores.urls import locate

QUICK = 0.02


@pytest.fixture(autouse=True)
def _settle(monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE", 0.05)


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def url(request, tmp_path):
    if request.param == "disk":
        return str(tmp_path / "out.zarr")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/out.zarr"
    return f"{request.getfixturevalue('bucket')}/out.zarr"


def lock_at(url, name="run"):
    return locate(url).child(f"orthoflow/locks/{name}.json")


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def plant(url, **changed):
    """A lock of somebody else, who lives on another machine and was heard of just now."""
    now = time.time()
    holder = Holder("run", "them", "far", "another", 4711, "99", now, now, {"done": 3})
    holder = replace(holder, **changed)
    write_object(lock_at(url, holder.name), seal(asdict(holder)))
    return holder


def test_a_lock_is_there_while_it_is_held_and_then_gone(url):
    with hold(url, "run", facts=lambda: {"done": 1}) as lock:
        assert lock.lost is False
        (holder,) = read_locks(url)
        assert (holder.name, holder.pid) == ("run", os.getpid())
        assert holder.process == process_started(os.getpid())
        assert holder.machine == machine_name()
        assert holder.silence() < 60
    assert read_locks(url) == []
    assert list_names(locate(url)) == []


def test_it_is_given_back_when_the_run_fails(url):
    with pytest.raises(KeyboardInterrupt), hold(url, "run"):
        raise KeyboardInterrupt
    assert read_locks(url) == []


def test_the_second_is_refused_with_the_remedy(url):
    with hold(url, "run"), pytest.raises(BadInput) as caught, hold(url, "run"):
        pass
    message = str(caught.value)
    assert f"is being written by process {os.getpid()} on host " in message
    assert re.search(r"\(last sign of life \d+ s ago\); wait, or take it over", message)
    assert "\n" not in message
    with hold(url, "run"):
        pass


CONFLICTS = {
    ("run", "run"): True,
    ("run", "part-0-of-2"): True,
    ("run", "finalize"): True,
    ("part-0-of-2", "part-0-of-2"): True,
    ("part-0-of-2", "part-1-of-2"): False,
    ("part-0-of-2", "part-0-of-3"): True,
    ("part-1-of-2", "part-1-of-12"): True,
    ("part-0-of-2", "finalize"): False,
    ("finalize", "finalize"): True,
}


@pytest.mark.parametrize(("names", "conflict"), CONFLICTS.items())
def test_who_keeps_whom_out(tmp_path, names, conflict):
    for first, second in itertools.permutations(names):
        plant(tmp_path, name=first)
        if conflict:
            with pytest.raises(BadInput, match="process 4711 on host far"), hold(tmp_path, second):
                pass
        else:
            with hold(tmp_path, second):
                assert len(read_locks(tmp_path)) == 2
        assert [one.owner for one in read_locks(tmp_path)] == ["them"]
        delete_object(lock_at(tmp_path, first))


def test_a_run_ends_itself(tmp_path):
    with hold(tmp_path, "run"):
        with hold(tmp_path, "finalize"):
            assert len(read_locks(tmp_path)) == 2
        assert [one.name for one in read_locks(tmp_path)] == ["run"]


@pytest.mark.parametrize("name", ["", "other", "part-1", "part-a-of-2", "../run", "run\n", "runs"])
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="use run, finalize or part-K-of-N"), hold(tmp_path, name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_come_at_once_one_is_let_in(url):
    inside, refused, started = [], [], threading.Barrier(6)

    def drive(number):
        started.wait()
        try:
            with hold(url, "run"):
                inside.append(number)
                until(lambda: len(inside) + len(refused) == 6)
        except BadInput:
            refused.append(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(drive, range(6)))
    assert len(inside) == 1


def test_the_parts_of_one_run_work_side_by_side(url):
    with ThreadPoolExecutor(4) as pool:
        everybody = threading.Barrier(4)

        def drive(part):
            with hold(url, f"part-{part}-of-4"):
                everybody.wait(20)
                found = len(read_locks(url))
                everybody.wait(20)
                return found

        assert list(pool.map(drive, range(4))) == [4] * 4


def test_signs_of_life_come_with_the_facts(url):
    count = itertools.count(1)
    with hold(url, "run", beat=QUICK, facts=lambda: {"done": next(count)}):
        first = read_locks(url)[0]
        until(lambda: read_locks(url)[0].facts.get("done", 0) >= 3)
        last = read_locks(url)[0]
    assert last.beat > first.beat
    assert replace(last, beat=0, facts={}) == replace(first, beat=0, facts={})


def test_a_lock_that_was_taken_over_is_lost_and_left_alone(url):
    with hold(url, "run", beat=QUICK) as first:
        with hold(url, "run", take_over=True, beat=QUICK) as second:
            until(lambda: first.lost)
            mine = read_locks(url)[0].owner
            assert second.lost is False
        assert read_locks(url) == []
        assert mine
    assert read_locks(url) == []


def test_who_lost_a_lock_does_not_remove_that_of_the_other(tmp_path):
    with hold(tmp_path, "run", beat=QUICK) as lock:
        plant(tmp_path)
        until(lambda: lock.lost)
    assert [one.owner for one in read_locks(tmp_path)] == ["them"]


def test_a_lock_that_was_taken_over_but_not_noticed_yet_is_left_alone_too(tmp_path):
    with hold(tmp_path, "run") as lock:
        plant(tmp_path)
        assert lock.lost is False
    assert [one.owner for one in read_locks(tmp_path)] == ["them"]


def test_a_lock_that_vanished_is_made_again(tmp_path):
    with hold(tmp_path, "run", beat=QUICK) as lock:
        owner = read_locks(tmp_path)[0].owner
        delete_object(lock_at(tmp_path))
        until(lambda: read_locks(tmp_path))
        assert read_locks(tmp_path)[0].owner == owner
        assert lock.lost is False


def test_a_lock_that_was_damaged_is_written_again(tmp_path):
    with hold(tmp_path, "run", beat=QUICK) as lock:
        write_object(lock_at(tmp_path), b"garbage")
        until(lambda: read_locks(tmp_path))
        assert lock.lost is False


@pytest.mark.parametrize("content", [b"", b"garbage", b"x" * 70_000, seal({"name": "run"})])
def test_a_damaged_lock_is_in_nobodys_way(url, content):
    write_object(lock_at(url), content)
    assert read_locks(url) == []
    with hold(url, "run"):
        assert len(read_locks(url)) == 1


def test_silence_is_taken_for_death(tmp_path):
    plant(tmp_path, beat=time.time() - 100)
    with pytest.raises(BadInput, match=r"last sign of life 1\d\d s ago"), hold(tmp_path, "run"):
        pass
    with hold(tmp_path, "run", stale=99):
        assert read_locks(tmp_path)[0].owner != "them"


def test_a_clock_that_runs_ahead_is_no_error(tmp_path):
    plant(tmp_path, beat=time.time() + 1000)
    with pytest.raises(BadInput, match="last sign of life 0 s ago"), hold(tmp_path, "run"):
        pass


def test_a_live_lock_is_taken_over_if_that_is_asked_for(url):
    plant(url)
    with hold(url, "run", take_over=True):
        assert read_locks(url)[0].owner != "them"


def test_all_locks_in_the_way_are_taken_over(tmp_path):
    for part in range(3):
        plant(tmp_path, name=f"part-{part}-of-3")
    with hold(tmp_path, "run", take_over=True):
        assert [one.name for one in read_locks(tmp_path)] == ["run"]


DRIVER = """
import sys, time
from orthoflow.stores.locks import hold
with hold(sys.argv[1], "run", stale=9999):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def driver(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_driver_that_was_killed_is_found_dead_at_once(tmp_path, driver):
    with pytest.raises(BadInput, match=f"process {driver.pid} on host"), hold(tmp_path, "run"):
        pass
    driver.send_signal(signal.SIGKILL)
    until(lambda: process_started(driver.pid) is None)  # also while it is a zombie
    with hold(tmp_path, "run", stale=9999):
        assert read_locks(tmp_path)[0].pid == os.getpid()
    driver.wait()


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path):
    mine = {"machine": machine_name(), "pid": os.getpid()}
    plant(tmp_path, **mine, process="1")
    with hold(tmp_path, "run", stale=9999):
        pass
    parent = os.getppid()
    plant(tmp_path, machine=machine_name(), pid=parent, process=process_started(parent))
    with pytest.raises(BadInput, match=f"process {parent} on host far"), hold(tmp_path, "run"):
        pass


def test_a_lock_that_this_process_could_not_give_back_is_not_in_its_own_way(tmp_path):
    """The store had refused it, credentials had expired, say."""
    mine = {"machine": machine_name(), "pid": os.getpid()}
    plant(tmp_path, **mine, process=process_started(os.getpid()))
    with hold(tmp_path, "run", stale=9999):
        pass


def test_processes_of_another_machine_are_not_looked_for_here(tmp_path):
    plant(tmp_path, pid=2**22 + 1)
    with pytest.raises(BadInput, match="process 4194305 on host far"), hold(tmp_path, "run"):
        pass


def test_processes_without_a_table_are_asked_for_a_sign(monkeypatch):
    """As on a Mac."""
    missing = locks.Path("/none")
    monkeypatch.setattr(locks, "Path", lambda _: missing)
    assert process_started(os.getpid()) == ""
    assert process_started(2**22 + 1) is None
    assert process_started(1) == ""
    assert machine_name() == machine_name()


def unconditional(monkeypatch):
    """A store that creates whatever is there."""

    def create(place, content):
        write_object(place, content)
        return True

    monkeypatch.setattr(locks, "create_object", create)
    monkeypatch.setattr(locks, "enforces_create", lambda _: False)


def race(url, monkeypatch, step, names=("run", "run")):
    """Two drivers that come at once; the late one stops for a moment after `step`.

    Returns who was let in, and who was refused.
    """
    inside, refused, both, passed = [], [], threading.Barrier(2), threading.local()
    holder, name = step
    real = getattr(holder, name)

    def slowly(*given, **how):
        found = real(*given, **how)
        if not getattr(passed, "once", False):
            passed.once = True
            both.wait(10)
            time.sleep(0.1 * (threading.current_thread().name == "late"))
        return found

    def drive(lock):
        me = threading.current_thread().name
        try:
            with hold(url, lock):
                inside.append(me)
                until(lambda: len(inside) + len(refused) == 2)
        except BadInput:
            refused.append(me)

    monkeypatch.setattr(holder, name, slowly)
    threads = [
        threading.Thread(target=drive, args=(lock,), name=me)
        for me, lock in zip(("early", "late"), names, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_locks(url) == []
    return inside, refused


def test_of_two_that_see_no_lock_the_first_to_create_one_is_let_in(url, monkeypatch):
    looked = (locks._Keeper, "clear")
    assert race(url, monkeypatch, looked) == (["early"], ["late"])


@pytest.mark.parametrize("names", [("run", "part-0-of-2"), ("part-0-of-2", "part-0-of-3")])
def test_two_names_that_conflict_are_never_held_together(url, monkeypatch, names):
    """The late one looked before the early one's was there, and looks again."""
    looked = (locks._Keeper, "clear")
    assert race(url, monkeypatch, looked, names) == (["early"], ["late"])


def test_without_conditional_puts_the_last_to_come_wins(tmp_path, monkeypatch):
    unconditional(monkeypatch)
    monkeypatch.setattr(locks, "_SETTLE", 0.5)
    looked = (locks._Keeper, "clear")
    assert race(tmp_path, monkeypatch, looked) == (["late"], ["early"])


def test_of_two_that_take_over_at_once_one_finds_out(tmp_path, monkeypatch):
    """Both saw the same dead lock; one clears the other's, which is new, and comes after."""
    plant(tmp_path, beat=0.0)
    monkeypatch.setattr(locks, "_SETTLE", 0.5)
    judged = (locks.Holder, "is_dead")
    assert race(tmp_path, monkeypatch, judged) == (["late"], ["early"])


@pytest.mark.s3
def test_a_store_that_is_silent_for_a_while_costs_no_lock(faulty, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket, proxy = faulty
    url = f"{bucket}/out.zarr"
    with hold(url, "run", beat=QUICK) as lock:
        fault = proxy.inject("status", status=503)
        until(lambda: fault.hits > 3)
        proxy.heal()
        before = read_locks(url)[0].beat
        until(lambda: read_locks(url)[0].beat > before)
        assert lock.lost is False
    assert read_locks(url) == []


@pytest.mark.s3
def test_the_end_of_a_run_is_not_hidden_by_a_store_that_refuses(faulty, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    bucket, proxy = faulty

    def fail():
        with hold(f"{bucket}/out.zarr", "run"):
            proxy.inject("status", status=403)
            raise StoreRefused("the run's own")

    with pytest.raises(StoreRefused, match="the run's own"):
        fail()


@pytest.mark.s3
def test_where_nothing_may_be_written_no_lock_is_had(faulty):
    bucket, proxy = faulty
    proxy.inject("status", status=403, methods={"PUT"})
    with pytest.raises(StoreRefused, match="cannot write to"), hold(f"{bucket}/out.zarr", "run"):
        pass


def test_no_secret_and_no_path_is_in_a_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
    with hold(tmp_path, "run"):
        stored = read_object(lock_at(tmp_path))
    assert b"canary" not in stored
    assert str(tmp_path).encode() not in stored
