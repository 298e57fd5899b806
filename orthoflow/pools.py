"""Where tasks run: in this thread, or on the workers of a scheduler."""

from __future__ import annotations

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

    from orthoflow.window import Key, Pool, Ticket

_log = logging.getLogger("orthoflow")

# Seconds for which the number of workers is taken as known.
_SIZE_AGE = 2.0
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
        self._ended: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
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
            ticket = self._ended.get(timeout=seconds) if seconds > 0 else self._ended.get_nowait()
        except queue.Empty:
            if self._client.status not in {"running", "connecting"}:
                raise self._lost() from None
            return None
        future = self._futures.get(ticket)
        if future is not None and future.status in {"lost", "pending"}:
            # Its worker died before the result was fetched: the scheduler has it made again.
            future.add_done_callback(self._end)
            return None
        return ticket

    def outcome(self, ticket: Ticket, key: Key) -> Any:
        """What the task returned or raised."""
        from distributed.client import FutureCancelledError  # noqa: PLC0415 - slow to import
        from distributed.scheduler import KilledWorker  # noqa: PLC0415

        future = self._futures[ticket]
        if future.status == "cancelled":
            return self._lost()
        error = future.exception()
        if error is None:
            try:
                return self._ask(future.result)
            except FutureCancelledError:  # while it was fetched
                return self._lost()
        if isinstance(error, KilledWorker):
            message = f"its workers died {error.allowed_failures + 1} times: {error.task}"
            own = str(error.task).endswith(f"-{key}")
            return Poison(message) if own else BlockFailed(message)
        return error

    def drop(self, ticket: Ticket) -> None:
        """Release the future; the scheduler forgets the task."""
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

    def _end(self, future: Future[Any]) -> None:
        self._ended.put(str(future.key))

    def _elsewhere(self, ticket: Ticket) -> list[str]:
        """Workers that neither run the task nor have fallen silent."""
        busy = {
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

    def _lost(self) -> RunInterrupted:
        return RunInterrupted(
            "the scheduler was lost; what is done is kept: start one and run the same command with "
            "--resume"
        )
