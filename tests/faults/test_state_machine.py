"""Any order of events: what a marker promises holds at every moment, and the end is the same.

The window and the functions of the store are the real ones, over a store in memory; the workers
are made up. A task is cut into its steps (store one object, store the other, mark), so that a
worker may die, or a driver be killed, between any two.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orthoflow.errors import BlockFailed
from orthoflow.stores.markers import (
    Marker,
    Stamp,
    block_marker_name,
    block_number_of,
    create_marker,
    list_failures,
    list_marker_names,
    read_markers,
    remove_failure,
    remove_marker,
    write_failure,
)
from orthoflow.stores.objects import read_object, write_object
from orthoflow.stores.urls import locate
from orthoflow.window import Poison, Window

NUMBERS = [(0, 0, n) for n in range(6)]
GROUP = 2
FINGERPRINT = "0123456789abcdef" * 4
DEATHS = 4
FOLDERS = ("labels/segmentation/0/c", "probabilities/0/c/0")


def key_of(folder, number):
    return f"{folder}/{'/'.join(map(str, number))}"


def content_of(folder, number):
    """What a block stores there, whoever computes it."""
    return f"{folder} of {number}".encode()


def stamp_of(folder, number):
    content = content_of(folder, number)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Stamp(key_of(folder, number), len(content), digest)


def box_of(number):
    return f"0:8,0:8,{8 * number[2]}:{8 * number[2] + 8}"


REFERENCE = {key_of(folder, n): content_of(folder, n) for folder in FOLDERS for n in NUMBERS}


@dataclass
class Task:
    """A block on a worker."""

    number: tuple
    url: str
    done: int = 0
    deaths: int = 0
    outcome: object = None
    ended: bool = False

    def step(self):
        """Do the next thing that others can see."""
        if self.done < len(FOLDERS):
            folder = FOLDERS[self.done]
            key = key_of(folder, self.number)
            write_object(locate(self.url).child(key), content_of(folder, self.number))
        else:
            objects = tuple(stamp_of(folder, self.number) for folder in FOLDERS)
            facts = {"blocks": 1}
            name = block_marker_name(self.number)
            marker = Marker(name, FINGERPRINT, box_of(self.number), objects, facts)
            self.outcome = {"blocks": 1, "again": not create_marker(self.url, marker)}
            self.ended = True
        self.done += 1


class Workers:
    """A pool whose tasks move when the machine says so."""

    def __init__(self, url):
        self.url = url
        self.numbers = itertools.count()
        self.tasks = {}
        self.forgotten = []

    def room(self):
        return 3 * self.size()

    def size(self):
        return 2

    def start(self, build, *, again, avoid=None):
        del again, avoid
        tickets = {}
        for number in build(None):
            ticket = f"t{next(self.numbers)}"
            self.tasks[ticket] = Task(number, self.url)
            tickets[number] = ticket
        return tickets

    def wait(self, seconds):
        del seconds
        return next((t for t, task in self.tasks.items() if task.ended), None)

    def outcome(self, ticket, key):
        assert self.tasks[ticket].number == key
        return self.tasks[ticket].outcome

    def drop(self, ticket):
        task = self.tasks.pop(ticket, None)
        if task is not None and not task.ended:
            self.forgotten.append(task)  # nobody can stop what already runs

    def dashboard(self):
        return None

    def running(self):
        return [task for task in self.tasks.values() if not task.ended]


class Runs(RuleBasedStateMachine):
    """One output, and drivers that come and go."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # A few blocks are enough to know how long one takes.
        self.patch.setattr("orthoflow.window._ENOUGH", 2)
        self.url = f"memory://{uuid.uuid4().hex}/out.zarr"
        self.now = 0.0
        self.driver = None
        self.pool = None
        self.window = None
        self.ended = {}
        self.given = []
        self.late = []

    # ---------------------------------------------------------------------------------- a driver

    @precondition(lambda self: self.driver is None)
    @rule(retry=st.booleans())
    def resume(self, retry):
        """Begin, or go on, with what has no marker; failed blocks only if asked for."""
        failed = {block_number_of(name) for name in list_failures(self.url, FINGERPRINT)}
        left = [n for n in NUMBERS if n not in self.done() and (retry or n not in failed)]
        groups = [left[n : n + GROUP] for n in range(0, len(left), GROUP)]
        self.pool = Workers(self.url)
        self.window = Window(self.pool, lambda n: build_of([n]), retries=1, clock=lambda: self.now)
        self.given, self.ended = left, {}
        self.driver = self.window.run((build_of(group), len(group)) for group in groups)

    @precondition(lambda self: self.driver is not None)
    @rule(turns=st.integers(1, 5), seconds=st.sampled_from([0.0, 1.1, 100.0]))
    def submit_and_listen(self, turns, seconds):
        """The driver takes its turns, and time passes."""
        for _ in range(turns):
            if self.driver is not None:
                self.now += seconds
                self.turn()

    def turn(self):
        try:
            ended = next(self.driver)
        except StopIteration:
            assert sorted(self.ended) == sorted(self.given)
            self.leave()
            return
        if ended is None:
            return
        assert ended.key not in self.ended
        self.ended[ended.key] = ended
        name = block_marker_name(ended.key)
        if ended.reason is None:
            assert ended.key in self.done()
            remove_failure(self.url, FINGERPRINT, name)
        else:
            facts = {"block": box_of(ended.key), "reason": ended.reason, "tries": ended.tries}
            write_failure(self.url, FINGERPRINT, name, facts)

    @precondition(lambda self: self.driver is not None)
    @rule()
    def kill_driver(self):
        """Its tasks are released; those that a worker has begun run on."""
        self.driver.close()
        self.leave()

    def leave(self):
        self.late += [*self.pool.forgotten, *self.pool.running()]
        self.driver = self.window = None
        self.pool = None

    # --------------------------------------------------------------------------------- the workers

    def task(self, data):
        running = self.pool.running()
        return data.draw(st.sampled_from(running)) if running else None

    @precondition(lambda self: self.pool is not None)
    @rule(data=st.data(), steps=st.integers(1, 3))
    def complete(self, data, steps):
        task = self.task(data)
        for _ in range(steps):
            if task is not None and not task.ended:
                task.step()

    @precondition(lambda self: self.pool is not None)
    @rule(data=st.data())
    def fail(self, data):
        task = self.task(data)
        if task is not None:
            task.outcome, task.ended = BlockFailed("it failed"), True

    @precondition(lambda self: self.pool is not None)
    @rule(data=st.data(), waiting=st.integers(0, 2), times=st.integers(1, DEATHS))
    def kill_worker(self, data, waiting, times):
        """The scheduler gives its tasks, those that only waited too, to others; they begin anew."""
        task = self.task(data)
        if task is None:
            return
        others = [one for one in self.pool.running() if one is not task]
        for _ in range(times):
            worker = f"tcp://{uuid.uuid4()}"
            for one in (task, *others[:waiting]):
                one.done, one.deaths = 0, one.deaths + 1
                if one.deaths == DEATHS:
                    one.outcome = Poison("its workers died 4 times", worker)
                    one.ended = True

    @rule(data=st.data())
    def duplicate(self, data):
        """What was forgotten ends all the same, and late: a thawed worker's task, say."""
        pools = [] if self.pool is None else self.pool.forgotten
        tasks = [task for task in (*self.late, *pools) if not task.ended]
        if tasks:
            data.draw(st.sampled_from(tasks)).step()

    # -------------------------------------------------------------------------------------- checks

    @precondition(lambda self: self.driver is None and self.done())
    @rule(data=st.data(), damage=st.sampled_from([b"", b"other", None]))
    def damage_and_verify(self, data, damage):
        """Of all that is stored exactly the damaged object is found; its block is undone."""
        number = data.draw(st.sampled_from(sorted(self.done())))
        key = key_of(data.draw(st.sampled_from(FOLDERS)), number)
        fs, path = locate(self.url).child(key).filesystem()
        if damage is None:
            fs.rm_file(path)
        else:
            fs.pipe_file(path, damage)
        wrong = {name for name, marker in self.markers() if not self.holds(marker)}
        assert wrong == {block_marker_name(number)}
        remove_marker(self.url, FINGERPRINT, block_marker_name(number))

    def done(self):
        return {block_number_of(name) for name in list_marker_names(self.url, FINGERPRINT)}

    def markers(self):
        return list(read_markers(self.url, FINGERPRINT))

    def holds(self, marker):
        """Whether what a marker names is stored."""
        for stamp in marker.objects:
            content = read_object(locate(self.url).child(stamp.key))
            if content is None or len(content) != stamp.size:
                return False
            if hashlib.blake2b(content, digest_size=16).hexdigest() != stamp.digest:
                return False
        return True

    @invariant()
    def markers_tell_the_truth(self):
        owners = {}
        for name, marker in self.markers():
            assert isinstance(marker, Marker)
            assert self.holds(marker)
            for stamp in marker.objects:
                content = read_object(locate(self.url).child(stamp.key))
                assert content == REFERENCE[stamp.key]
                assert owners.setdefault(stamp.key, name) == name

    @invariant()
    def no_more_is_under_way_than_the_window_allows(self):
        if self.window is not None:
            assert len(self.window.under_way) <= 3 * self.pool.size() + GROUP - 1
            assert set(self.window.under_way).isdisjoint(self.ended)

    def teardown(self):
        """Without more faults a last run ends with the reference."""
        self.patch.undo()
        if self.driver is not None:
            self.kill_driver()
        self.resume(True)
        for _ in range(1000):
            if self.driver is None:
                break
            for task in self.pool.running():
                task.step()
            self.now += 1.0
            self.turn()
        assert self.driver is None
        assert all(one.reason is None for one in self.ended.values())
        assert list_failures(self.url, FINGERPRINT) == {}
        for task in self.late:
            while not task.ended:
                task.step()
        self.markers_tell_the_truth()
        markers = dict(self.markers())
        assert sum(marker.facts["blocks"] for marker in markers.values()) == len(NUMBERS)
        root = locate(self.url)
        assert {k: read_object(root.child(k)) for k in REFERENCE} == REFERENCE
        fs, path = root.filesystem()
        fs.rm(path, recursive=True)


def build_of(numbers):
    return lambda _: dict.fromkeys(numbers)


TestRuns = Runs.TestCase
TestRuns.settings = settings(stateful_step_count=50)
