"""Processes to be killed: drivers, schedulers, workers.

They are forked from a process that has imported everything, so each starts in a moment.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import multiprocessing.spawn
import os
import signal
import time
from contextlib import contextmanager, suppress

import pytest

_NAMES = multiprocessing.get_context("forkserver")
_NAMES.set_forkserver_preload(["tests.faults.warm"])


def start(target, *arguments):
    """A process that calls `target`; it does not import pytest again."""
    given = multiprocessing.spawn.get_preparation_data

    def without_main(name):
        return {k: v for k, v in given(name).items() if not k.startswith("init_main")}

    process = _NAMES.Process(target=target, args=arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.spawn, "get_preparation_data", without_main)
        process.start()
    return process


def wait_until(condition, seconds=30.0, what="it"):
    """Look every moment until something is so; what `condition` gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


class Driver:
    """An `orthoflow` command under way."""

    def __init__(self, folder, job):
        from tests.faults import drive

        folder.mkdir(parents=True)
        self.folder = folder
        job = {"environment": {}, "patches": {}, **job, "folder": str(folder)}
        (folder / "job.json").write_text(json.dumps(job))
        self.process = start(drive.main, job)

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process.exitcode is None

    def wait(self, seconds=60):
        """Its exit code; negative for a signal."""
        self.process.join(seconds)
        assert not self.running, f"still running after {seconds} s: {self.said}"
        return self.process.exitcode

    def kill(self, number=signal.SIGKILL):
        """Send a signal, and wait for its end."""
        self.send(number)
        return self.wait()

    def send(self, number):
        os.kill(self.pid, number)

    def interrupt(self):
        """Ctrl-C: every process of the session is told."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self):
        """Whatever it is doing."""
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.join(20)

    @property
    def said(self):
        """What it printed on stderr."""
        path = self.folder / "err"
        return path.read_text() if path.exists() else ""

    @property
    def report(self):
        """What it printed on stdout, as JSON."""
        return json.loads((self.folder / "out").read_text())


def serve(kind, pipe, environment, address, settings):
    """A scheduler, or a worker with its nanny, until the pipe ends."""
    import asyncio

    import dask

    os.setsid()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    dask.config.set(settings)
    asyncio.run(_serve(kind, pipe, address, environment))


async def _serve(kind, pipe, address, environment):
    import asyncio

    from distributed import Nanny, Scheduler

    keywords = {"host": "127.0.0.1", "dashboard_address": None}
    if kind == "scheduler":
        server = Scheduler(port=0, **{**keywords, "dashboard_address": "127.0.0.1:0"})
    else:
        # A worker is forked from where this process was: it does not inherit its environment.
        keywords |= {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
        keywords["env"] = environment
        server = Nanny(address, **keywords)
    async with server:
        pipe.send(server.address)
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(pipe.fileno(), told.set)
        await told.wait()
        # A pipe that has ended stays readable, and a nanny may wait for its scheduler for ever.
        loop.remove_reader(pipe.fileno())
        loop.call_later(15, os.killpg, os.getpid(), signal.SIGKILL)


class Served:
    """A scheduler's or a nanny's process."""

    def __init__(self, kind, address="", environment=None, settings=None):
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = start(serve, kind, theirs, environment or {}, address, settings or {})
        theirs.close()
        if not self.pipe.poll(30):
            raise TimeoutError(f"{kind} does not start")
        self.address = self.pipe.recv()

    def kill(self):
        """At once, without a word to anybody."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(20)

    def end(self):
        """In order."""
        self.pipe.close()
        self.process.join(20)
        if self.process.exitcode is None:
            self.kill()


class Fleet:
    """A scheduler and its workers, each in a process of its own."""

    def __init__(self, workers=2, environment=None, settings=None):
        self._given = {"environment": environment, "settings": settings}
        self.scheduler = Served("scheduler", **self._given)
        self.nannies = []
        for _ in range(workers):
            self.add()

    @property
    def address(self):
        return self.scheduler.address

    def add(self):
        """One worker more."""
        self.nannies.append(Served("worker", self.address, **self._given))

    @contextmanager
    def client(self):
        from distributed import Client

        # Some are used while a run has a client of its own: the last one to close is not the
        # last one to open, and each would put back what it found as the default.
        with Client(self.address, timeout=20, set_as_default=False) as one:
            yield one

    def pids(self):
        """Process of each worker that answers, by its address."""
        with self.client() as client:
            return dict(client.run(os.getpid))

    def whole(self):
        """Wait until every nanny has a worker that answers."""
        with self.client() as client:
            client.wait_for_workers(len(self.nannies), timeout=30)

    def tell(self, function, *arguments):
        """Call a function in every worker."""
        with self.client() as client:
            return client.run(function, *arguments)

    def end(self):
        for one in (*self.nannies, self.scheduler):
            one.end()
