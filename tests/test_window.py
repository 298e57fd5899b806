"""The window over a pool that does what it is told: tries, backoff, doubles, order, bounds."""

from __future__ import annotations

import pytest

from orthoflow.errors import BlockFailed, BlockImpossible, RunInterrupted, StoreRefused
from orthoflow.window import Poison, Window


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Script:
    """A pool whose tasks end after `spans[key]` seconds with the next of `outcomes[key]`."""

    def __init__(self, clock, threads=2, outcomes=None, spans=None):
        self.clock, self.threads = clock, threads
        self.outcomes = {key: list(values) for key, values in (outcomes or {}).items()}
        self.spans = spans or {}
        self.running, self.started, self.dropped, self.most = {}, [], [], 0

    def size(self):
        return self.threads

    def room(self):
        return 3 * self.threads

    def start(self, build, *, again, avoid=None):
        tickets = {}
        for key in build(None):
            ticket = f"{key}#{len(self.started)}"
            spans = self.spans.get(key, [1.0])
            tries = sum(1 for k, *_ in self.started if k == key)
            self.started.append((key, again, avoid))
            self.running[ticket] = (self.clock.now + spans[min(tries, len(spans) - 1)], key)
            tickets[key] = ticket
        self.most = max(self.most, len(self.running))
        return tickets

    def wait(self, seconds):
        ready = min(self.running.items(), key=lambda item: item[1][0], default=None)
        if ready is None or ready[1][0] > self.clock.now + seconds:
            self.clock.now += seconds
            return None
        self.clock.now = max(self.clock.now, ready[1][0])
        del self.running[ready[0]]
        return ready[0]

    def outcome(self, ticket, key):  # noqa: ARG002 - the pool's interface
        left = self.outcomes.get(key, [])
        return left.pop(0) if left else f"done {key}"

    def drop(self, ticket):
        self.running.pop(ticket, None)
        self.dropped.append(ticket)

    def dashboard(self):
        return None


def build_of(*keys):
    return lambda _: dict.fromkeys(keys)


def drive(pool, groups, **more):
    window = Window(pool, build_of, **{"retries": 2, "clock": pool.clock, **more})
    ended = [e for e in window.run((build_of(*g), len(g)) for g in groups) if e is not None]
    return {e.key: e for e in ended}, window


def test_every_key_ends_once_and_few_are_under_way():
    pool = Script(Clock(), threads=2)
    ended, window = drive(pool, [[n] for n in range(100)])
    assert sorted(ended) == list(range(100))
    assert all(e.result == f"done {k}" for k, e in ended.items())
    assert pool.most <= 6
    assert len(pool.dropped) == 100
    assert (window.retried, window.doubled, window.under_way) == (0, 0, [])


def test_groups_are_made_while_there_is_room():
    pool, made = Script(Clock(), threads=1), []

    def groups():
        for n in range(50):
            made.append(n)
            yield build_of(n), 1

    run = Window(pool, build_of, retries=0, clock=pool.clock).run(groups())
    next(run)
    assert len(made) <= 4


def test_a_failure_is_tried_again_with_growing_pauses():
    pool = Script(Clock(), outcomes={"a": [BlockFailed("one"), BlockFailed("two")]})
    ended, window = drive(pool, [["a"]])
    assert ended["a"].result == "done a"
    assert ended["a"].tries == 3
    assert window.retried == 2
    # Three tasks of a second, and pauses of at least half a second and a second.
    assert 3 + 0.5 + 1.0 <= pool.clock.now <= 3 + 1.0 + 2.0 + 0.1


def test_a_block_that_fails_every_time_is_given_up_and_the_others_are_done():
    pool = Script(Clock(), outcomes={"bad": [BlockFailed("no")] * 9})
    ended, _ = drive(pool, [["a"], ["bad"], ["b"]])
    assert (ended["bad"].reason, ended["bad"].tries) == ("no", 3)
    assert ended["a"].reason is None
    assert ended["b"].reason is None


def test_other_exceptions_are_failures_with_their_name():
    pool = Script(Clock(), outcomes={"a": [ValueError("odd\nindeed")] * 3})
    ended, _ = drive(pool, [["a"]])
    assert ended["a"].reason == "ValueError: odd indeed"


@pytest.mark.parametrize("error", [BlockImpossible("NaN"), Poison("killed")])
def test_what_is_hopeless_is_not_tried_again(error):
    pool = Script(Clock(), outcomes={"a": [error] * 3})
    ended, window = drive(pool, [["a"]])
    assert ended["a"].tries == 1
    assert window.retried == 0


def test_a_failure_within_a_group_is_tried_alone_even_without_retries():
    """It may have been the neighbour that failed."""
    error = BlockImpossible("NaN")
    pool = Script(Clock(), outcomes={"a": [error, error], "b": [error]})
    ended, _ = drive(pool, [["a", "b"]], retries=0)
    assert ended["a"].reason == "NaN"
    assert ended["b"].result == "done b"
    assert [key for key, again, _ in pool.started if again] == ["a", "b"]


def test_a_poisonous_block_of_a_group_gets_no_other_workers():
    pool = Script(Clock(), outcomes={"a": [Poison("killed 4")]})
    ended, _ = drive(pool, [["a", "b"]])
    assert ended["a"].tries == 1
    assert ended["b"].reason is None


def test_of_blocks_that_died_together_only_the_killer_fails():
    """Both were on the worker; each runs once more with nothing beside it."""
    outcomes = {"a": [Poison("killed", "one"), Poison("killed", "two")], "b": [Poison("", "one")]}
    pool = Script(Clock(), outcomes=outcomes)
    ended, _ = drive(pool, [["a"], ["b"], ["c"]])
    assert ended["a"].reason == "killed"
    assert (ended["b"].reason, ended["b"].result) == (None, "done b")
    assert ended["c"].result == "done c"


@pytest.mark.parametrize("error", [StoreRefused("403"), RunInterrupted("gone")])
def test_what_concerns_the_whole_run_stops_it(error):
    pool = Script(Clock(), outcomes={3: [error]})
    with pytest.raises(type(error)):
        drive(pool, [[n] for n in range(50)])
    assert len(pool.started) < 20


def test_a_lagging_task_is_doubled_elsewhere_and_the_faster_one_counts():
    pool = Script(Clock(), threads=3, spans={7: [1e6, 2.0]})
    ended, window = drive(pool, [[n] for n in range(12)])
    assert ended[7].result == "done 7"
    assert window.doubled == 1
    assert [(key, avoid is not None) for key, again, avoid in pool.started if again] == [(7, True)]
    assert pool.clock.now < 60
    assert not pool.running


def test_tasks_are_not_doubled_while_there_is_other_work():
    pool = Script(Clock(), threads=2, spans={0: [100.0]})
    _, window = drive(pool, [[n] for n in range(900)])
    assert window.doubled == 0


def test_a_window_full_of_blocked_tasks_is_broken_by_doubles():
    """One frozen worker may hold what everything else under way waits for."""
    spans = {n: [1e6, 1.0] for n in range(10, 40)}
    pool = Script(Clock(), threads=2, spans=spans)
    ended, window = drive(pool, [[n] for n in range(40)])
    assert len(ended) == 40
    assert window.doubled == 30


def test_a_failing_double_does_not_end_its_block():
    pool = Script(
        Clock(),
        threads=3,
        spans={7: [40.0, 2.0]},
        outcomes={7: [BlockFailed("the double"), "done 7"]},
    )
    ended, _ = drive(pool, [[n] for n in range(12)])
    assert ended[7].result == "done 7"
