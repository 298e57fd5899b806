"""A bounded number of tasks under way; failed ones are tried again, lagging ones are doubled.

Nothing here knows Dask, stores or plans: a `Pool` runs tasks, and a `Build` makes them.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orthoflow.errors import BadInput, BlockFailed, BlockImpossible, RunInterrupted, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orthoflow.graph import Maker, Node

Key = Any
"""What a task is for: a block's box, or a level's."""

Build = "Callable[[Maker], dict[Key, Node]]"
"""Makes the tasks of a group, one per key, that feed each other."""

Ticket = str

# A task lags that has been out this many times longer than nine in ten were, and this long.
_LAG = 3.0
_LEAST_LAG = 5.0
_ENOUGH = 4
_LONGEST_BACKOFF = 30.0


class Poison(BlockImpossible):
    """A block that was on every worker that died, or waited there for the one that killed it."""

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.worker = worker
        """The last worker that died."""


class Pool(Protocol):
    """Runs tasks somewhere."""

    def size(self) -> int:
        """Tasks that can run at the same time."""

    def room(self) -> int:
        """Tasks to have under way: more than can run, so that none waits for the driver."""

    def start(
        self, build: Callable[[Maker], dict[Key, Node]], *, again: bool, avoid: Ticket | None = None
    ) -> dict[Key, Ticket]:
        """Start a group; with `avoid`, not where that task is, and not at all if that is all."""

    def wait(self, seconds: float) -> Ticket | None:
        """A task that has ended; None if there was none within `seconds`."""

    def outcome(self, ticket: Ticket, key: Key) -> Any:
        """What an ended task gave, or the exception that it raised."""

    def drop(self, ticket: Ticket) -> None:
        """Forget a task, ended or not."""

    def dashboard(self) -> str | None:
        """Where one can watch the tasks."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that needs no more tries."""

    key: Key
    result: Any = None
    reason: str | None = None
    """Why it failed; None if it did not."""
    tries: int = 1


@dataclass(slots=True)
class _Open:
    """A key that has no result yet."""

    tries: int
    alone: bool
    since: float
    tickets: list[Ticket] = field(default_factory=list)
    doubled: bool = False
    judged: bool = False
    """Whether it runs with nothing beside it, since it is suspected of killing workers."""


class Window:
    """Feeds a pool.

    Parameters
    ----------
    pool
        Where tasks run.
    alone
        Makes the task of one key by itself: for a second try, or a double.
    retries
        Second tries of a key that failed by itself. What fails within a group is tried alone once
        more in any case: it may have been a neighbour that failed.
    """

    def __init__(
        self,
        pool: Pool,
        alone: Callable[[Key], Callable[[Maker], dict[Key, Node]]],
        *,
        retries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._alone = alone
        self._retries = retries
        self._clock = clock
        self._open: dict[Key, _Open] = {}
        self._keys: dict[Ticket, Key] = {}
        self._due: list[tuple[float, Key]] = []
        self._suspects: dict[Key, tuple[_Open, Poison]] = {}
        self._deaths: dict[str, set[Key]] = {}
        self._spans: deque[float] = deque(maxlen=1000)
        self._landed_at = clock()
        self._checked_at = clock()
        self.retried = 0
        """Tries beyond the first."""
        self.doubled = 0
        """Doubles of tasks that lagged."""

    @property
    def under_way(self) -> list[Key]:
        """Keys that were started and have not ended."""
        return list(self._open)

    def run(
        self, groups: Iterable[tuple[Callable[[Maker], dict[Key, Node]], int]]
    ) -> Iterator[Ended | None]:
        """Start groups (build, number of keys) as room allows; give every key that has ended.

        Yields
        ------
        Ended or None
            None about once a second when nothing has ended, so that the caller can look around.

        Raises
        ------
        StoreRefused, RunInterrupted
            What stops the whole run; every other exception is the failure of its key.
        """
        waiting, more = iter(groups), True
        while True:
            while more and len(self._open) < max(1, self._pool.room()):
                group = next(waiting, None)
                more = group is not None
                if group is not None:
                    self._start(group[0], alone=group[1] == 1)
            self._start_due()
            if not self._open and not more:
                if not self._suspects:
                    return
                yield from self._judge()
                continue
            ticket = self._pool.wait(self._pause())
            ended = None if ticket is None else self._landed(ticket)
            if ended is not None or ticket is None:
                yield ended
            self._double_laggards(exhausted=not more)

    def _start(self, build: Callable[[Maker], dict[Key, Node]], *, alone: bool) -> None:
        for key, ticket in self._pool.start(build, again=False).items():
            self._open[key] = _Open(1, alone, self._clock(), [ticket])
            self._keys[ticket] = key

    def _start_due(self) -> None:
        now = self._clock()
        ready = [key for due, key in self._due if due <= now]
        self._due = [(due, key) for due, key in self._due if due > now]
        for key in ready:
            entry = self._open[key]
            entry.since = now
            for ticket in self._pool.start(self._alone(key), again=True).values():
                entry.tickets.append(ticket)
                self._keys[ticket] = key

    def _pause(self) -> float:
        soonest = min((due for due, _ in self._due), default=float("inf"))
        return min(1.0, max(0.0, soonest - self._clock()))

    def _landed(self, ticket: Ticket) -> Ended | None:
        key = self._keys.pop(ticket, None)
        if key is None:  # a double whose twin was faster
            self._pool.drop(ticket)
            return None
        entry = self._open[key]
        entry.tickets.remove(ticket)
        self._landed_at = self._clock()
        outcome = self._pool.outcome(ticket, key)
        self._pool.drop(ticket)
        if isinstance(outcome, (StoreRefused, RunInterrupted)):
            raise outcome
        if isinstance(outcome, Exception):
            return self._failed(key, entry, outcome)
        if not entry.doubled:  # what lagged would make lagging usual
            self._spans.append(self._clock() - entry.since)
        return self._close(key, Ended(key, outcome, None, entry.tries))

    def _failed(self, key: Key, entry: _Open, error: Exception) -> Ended | None:
        if entry.tickets:  # its double may still succeed
            return None
        if isinstance(error, Poison) and not entry.judged:
            self._suspects[key] = (self._open.pop(key), error)
            self._deaths.setdefault(error.worker, set()).add(key)
            return None
        final = isinstance(error, (BlockImpossible, BadInput)) or entry.tries > self._retries
        if entry.alone and final:
            return self._close(key, Ended(key, None, reason_of(error), entry.tries))
        wait = 0.0
        if entry.alone:
            longest = min(_LONGEST_BACKOFF, 0.5 * 2**entry.tries)
            wait = longest * random.uniform(0.5, 1.0)
        entry.tries += 1
        entry.alone = True
        self.retried += 1
        self._due.append((self._clock() + wait, key))
        return None

    def _judge(self) -> Iterator[Ended]:
        """End a suspect; if others died with it, give it one more try with nothing beside it.

        What waits on a worker that dies is suspected as much as what killed it.
        """
        key, (entry, error) = self._suspects.popitem()
        if len(self._deaths[error.worker]) == 1:
            yield Ended(key, None, reason_of(error), entry.tries)
            return
        entry.judged = entry.alone = True
        entry.tries += 1
        self.retried += 1
        self._open[key] = entry
        self._due.append((self._clock(), key))

    def _close(self, key: Key, ended: Ended) -> Ended:
        for ticket in self._open.pop(key).tickets:
            self._keys.pop(ticket, None)
            self._pool.drop(ticket)
        return ended

    def _double_laggards(self, *, exhausted: bool) -> None:
        """Start lagging tasks a second time, elsewhere: whichever ends first counts.

        Only where there is nothing else to do, or nothing has ended for long.
        """
        now = self._clock()
        if len(self._spans) < _ENOUGH or now - self._checked_at < 1.0:
            return
        self._checked_at = now
        usual = statistics.quantiles(self._spans, n=10)[-1]
        limit = max(_LEAST_LAG, _LAG * usual)
        idle = self._pool.size() - len(self._keys)
        if now - self._landed_at > limit:
            idle = max(1, idle)
        elif not exhausted:
            return
        oldest = sorted(self._open.items(), key=lambda item: item[1].since)
        for key, entry in oldest[: max(0, idle)]:
            if now - entry.since > limit and len(entry.tickets) == 1:
                double = self._pool.start(self._alone(key), again=True, avoid=entry.tickets[0])
                for ticket in double.values():
                    entry.tickets.append(ticket)
                    self._keys[ticket] = key
                    entry.doubled = True
                    self.doubled += 1


def reason_of(error: BaseException) -> str:
    """One line that says why a task failed."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, (BlockFailed, BadInput)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
