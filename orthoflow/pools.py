"""Where tasks run: in this thread, or on the workers of a scheduler."""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import time
import urllib.parse
from collections import deque
from typing import TYPE_CHECKING, Any

from orthoflow import graph
from orthoflow.errors import BlockFailed, RunInterrupted
from orthoflow.window import Poison

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed import Client, Future
    from tornado.ioloop import IOLoop

    from orthoflow.window import Key, Pool, Ticket

_log = logging.getLogger("orthoflow")

# Tasks under way per thread: enough to keep it busy, few enough to forget.
_AHEAD = 3
# Seconds for which the number of workers is taken as known.
_SIZE_AGE = 2.0
_LOOK_AGAIN = 0.2
# A worker that has not been heard of for so long may be frozen; its heartbeat is below a second.
_SILENT = 10.0


def pool_for(client: Client | None, run: str) -> Pool:
    """The pool of a client; None stands for this thread."""
    return Here() if client is None else Workers(client, run)


class Here:
    """Runs a group as it is started, one task after the other."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._ended: deque[Ticket] = deque()
        self._results: dict[Ticket, Any] = {}

    def size(self) -> int:
        """One thread."""
        return 1

    def room(self) -> int:
        """One task: it runs when it is started."""
        return 1

    def start(
        self,
        build: Callable[[graph.Maker], dict[Key, graph.Node]],
        *,
        again: bool,
        avoid: Ticket | None = None,
    ) -> dict[Key, Ticket]:
        """Run the group."""
        del again
        if avoid is not None:
            return {}
        tickets = {}
        for key, result in build(graph.Direct(Exception)).items():
            ticket = f"{next(self._numbers)}"
            tickets[key] = ticket
            self._results[ticket] = result
            self._ended.append(ticket)
        return tickets

    def wait(self, seconds: float) -> Ticket | None:
        """The next result; sleeps where there is none."""
        if self._ended:
            return self._ended.popleft()
        time.sleep(seconds)
        return None

    def outcome(self, ticket: Ticket, key: Key) -> Any:
        """The result, or the error that stands for it."""
        del key
        return self._results[ticket]

    def drop(self, ticket: Ticket) -> None:
        """Forget the result."""
        self._results.pop(ticket, None)

    def dashboard(self) -> None:
        """There is none."""


class Workers:
    """Submits tasks to a scheduler; holds one future per task that is under way."""

    def __init__(self, client: Client, run: str) -> None:
        self._client = client
        self._run = run
        self._numbers = itertools.count(1)
        self._futures: dict[Ticket, Future[Any]] = {}
        self._ended: queue.SimpleQueue[tuple[Ticket, Any]] = queue.SimpleQueue()
        self._outcomes: dict[Ticket, Any] = {}
        self._size = (float("-inf"), 1)

    def size(self) -> int:
        """Threads of all workers."""
        now = time.monotonic()
        if now - self._size[0] > _SIZE_AGE:
            threads = sum(self._ask(self._client.nthreads).values())
            if not threads and self._size[1]:
                _log.warning("the scheduler has no workers at the moment; waiting for some")
            self._size = (now, threads)
        return self._size[1]

    def room(self) -> int:
        """Some tasks for every thread."""
        return _AHEAD * self.size()

    def start(
        self,
        build: Callable[[graph.Maker], dict[Key, graph.Node]],
        *,
        again: bool,
        avoid: Ticket | None = None,
    ) -> dict[Key, Ticket]:
        """Submit the group; a second try gets keys of its own."""
        allowed = None if avoid is None else self._elsewhere(avoid)
        if allowed == []:
            return {}
        run = f"{self._run}-{next(self._numbers)}" if again else self._run
        futures = self._ask(lambda: build(graph.Submit(self._client, run, allowed)))
        for future in futures.values():
            self._futures[str(future.key)] = future
            future.add_done_callback(self._end)
        return {key: str(future.key) for key, future in futures.items()}

    def wait(self, seconds: float) -> Ticket | None:
        """The next task that has ended."""
        try:
            ticket, outcome = self._ended.get(timeout=max(seconds, 1e-6))
        except queue.Empty:
            if self._client.status not in {"running", "connecting"}:
                raise self._lost() from None
            return None
        self._outcomes[ticket] = outcome
        return ticket

    def outcome(self, ticket: Ticket, key: Key) -> Any:
        """What the task returned or raised."""
        from distributed.scheduler import KilledWorker  # noqa: PLC0415 - slow to import

        outcome = self._outcomes[ticket]
        if isinstance(outcome, KilledWorker):
            message = f"its workers died {outcome.allowed_failures + 1} times: {outcome.task}"
            own = str(outcome.task).endswith(f"-{key}")
            return Poison(message, outcome.last_worker.address) if own else BlockFailed(message)
        return outcome

    def drop(self, ticket: Ticket) -> None:
        """Release the future; the scheduler forgets the task."""
        self._outcomes.pop(ticket, None)
        future = self._futures.pop(ticket, None)
        if future is not None:
            future.release()

    def dashboard(self) -> str:
        """Address of the client's dashboard, as it can be reached from here."""
        link = str(self._client.dashboard_link)
        scheduler = self._client.scheduler
        if scheduler is not None and str(scheduler.address).startswith("inproc://"):
            # The cluster of this process listens on the loopback address; Dask names another.
            parts = urllib.parse.urlsplit(link)
            return parts._replace(netloc=f"127.0.0.1:{parts.port}").geturl()
        return link

    def _loop(self) -> IOLoop:
        loop = self._client.loop
        if loop is None:
            raise self._lost()
        return loop

    def _end(self, future: Future[Any]) -> None:
        """Take what an ended task left; called in a thread of Dask's."""
        ticket, status = str(future.key), future.status
        if status == "finished":
            self._loop().add_callback(self._fetch, future)
        elif status == "error":
            self._ended.put((ticket, future.exception()))
        elif status == "cancelled":
            self._ended.put((ticket, self._lost()))
        else:  # its worker died, and the scheduler has it made again
            future.add_done_callback(self._end)

    async def _fetch(self, future: Future[Any]) -> None:
        """Bring a task's result here, each by a request of its own.

        A client's own way gathers several at a time, and if one lies on a frozen worker the others
        wait for it.
        """
        ticket = str(future.key)
        scheduler: Any = self._client.scheduler
        answer: Any = None  # of a client that has given its scheduler up
        if scheduler is not None:
            asked = scheduler.gather(keys=[future.key])
            answer = (await asyncio.gather(asked, return_exceptions=True))[0]
        if not isinstance(answer, dict):
            self._ended.put((ticket, self._lost()))
        elif answer["status"] == "OK":
            self._ended.put((ticket, answer["data"][future.key]))
        elif ticket in self._futures:  # its worker died with it, which the scheduler will see
            await asyncio.sleep(_LOOK_AGAIN)
            future.add_done_callback(self._end)

    def _elsewhere(self, ticket: Ticket) -> list[str]:
        """Workers that neither run the task, nor hold its result, nor have fallen silent."""
        future = self._futures[ticket]
        busy = set(self._ask(lambda: self._client.who_has([future]))[ticket])
        busy |= {
            address
            for address, keys in self._ask(self._client.processing).items()
            if ticket in keys
        }
        workers = self._ask(lambda: self._client.scheduler_info(n_workers=-1))["workers"]
        latest = max((facts["last_seen"] for facts in workers.values()), default=0.0)
        return [
            address
            for address, facts in workers.items()
            if address not in busy and latest - facts["last_seen"] < _SILENT
        ]

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Talk to the scheduler, or say that it is gone."""
        from distributed.client import ClosedClientError  # noqa: PLC0415 - slow to import

        try:
            return question()
        except (OSError, TimeoutError, ClosedClientError) as error:
            raise self._lost() from error
        except AttributeError as error:
            # A client that has given its scheduler up asks None.
            if self._client.scheduler is not None:
                raise
            raise self._lost() from error

    def _lost(self) -> RunInterrupted:
        return RunInterrupted(
            "the scheduler was lost; what is done is kept: start one and run the same command with "
            "--resume"
        )
