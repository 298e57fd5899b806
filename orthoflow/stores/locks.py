"""One driver on one output: a lock that its owner keeps alive, and others respect while it lives.

Two drivers on one output would do no harm to it, since every object has the same bytes whoever
makes it; they would do the work twice. So a lock may err on the side of letting somebody in: after
its owner was silent for long, or where a store does not keep its promises.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.stores.answers import store_errors
from orthoflow.stores.objects import (
    create_object,
    delete_object,
    enforces_create,
    list_names,
    read_object,
    write_object,
)
from orthoflow.stores.sealed import seal, unseal
from orthoflow.stores.urls import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orthoflow.stores.urls import Location, Options

LOCK_LIMIT = 64 * 2**10
"""Bytes of the largest lock that is written or read."""

_FOLDER = "orthoflow/locks"
_NAME = re.compile(r"run|finalize|part-([0-9]{1,9})-of-([0-9]{1,9})")
_SETTLE = 1.0
"""Seconds after which a store that creates twice has settled who came last."""
_TRIES = 5
_LONGEST_BEAT = 10.0
# Owners of the locks that this process holds.
_HELD: set[str] = set()
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "owner", "host", "machine", "process"), (str,)),
    **dict.fromkeys(("started", "beat"), (int, float)),
    "pid": (int,),
    "facts": (dict,),
}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, as the lock says."""

    name: str
    owner: str
    """Drawn at random by whoever holds it."""
    host: str
    machine: str
    """This boot of this machine, and its set of processes: a container's are its own."""
    pid: int
    process: str
    """When the process started: numbers of processes are used again."""
    started: float
    """Wall clock."""
    beat: float
    """Last sign of life, wall clock of the holder."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How far it is."""

    def is_dead(self, stale: float, now: float) -> bool:
        """Whether nobody holds this any more.

        Clocks are taken to agree within a fraction of `stale`, as they do where time is kept over
        the network: a holder whose clock is far behind looks dead, one whose clock is ahead lives
        that much longer.
        """
        if self.machine == machine_name():
            if process_started(self.pid) != self.process:
                return True
            if self.pid == os.getpid() and self.owner not in _HELD:
                return True  # the store had refused to give it back
        return now - self.beat > stale

    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return max(0.0, time.time() - self.beat)

    def conflicts(self, me: Holder) -> bool:
        """Whether this lock and mine cannot be held at the same time."""
        names = {self.name, me.name}
        if names == {"run", "finalize"}:
            # A run may end itself.
            return (self.machine, self.pid, self.process) != (me.machine, me.pid, me.process)
        if "run" in names or len(names) == 1:
            return True
        if "finalize" in names:
            return False
        counts = {one.rpartition("-")[2] for one in names}
        return len(counts) > 1


class Lock:
    """A lock that is held; `lost` once another driver has taken it over."""

    def __init__(self) -> None:
        self.lost = False


@contextmanager
def hold(  # noqa: PLR0913 - times and facts have defaults
    url: str | os.PathLike[str],
    name: str,
    *,
    storage_options: Options = (),
    take_over: bool = False,
    beat: float = 20.0,
    stale: float = 120.0,
    facts: Callable[[], dict[str, Any]] = dict,
) -> Iterator[Lock]:
    """Hold an output as its only driver, until the end of the block.

    Parameters
    ----------
    url
        The output, which need not exist yet.
    name
        "run" for a whole run, "part-K-of-N" for one of several jobs, "finalize". A run is alone;
        parts of one number N go side by side, each once; one at a time finalizes.
    take_over
        Take it from whoever holds it.
    beat
        Seconds between two signs of life.
    stale
        Seconds of silence after which a holder on another machine counts as dead.
    facts
        How far the driver is, JSON-able; called in another thread, at each sign of life.

    Raises
    ------
    BadInput
        If another driver is at work there.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"lock {name!r}: use run, finalize or part-K-of-N")
    place = locate(url, storage_options)
    me = _Keeper(place, _myself(name), facts)
    _HELD.add(me.holder.owner)
    try:
        me.take(take_over=take_over, stale=stale)
        ended = threading.Event()
        keeper = threading.Thread(
            target=me.keep, args=(ended, beat), name=f"lock {name}", daemon=True
        )
        keeper.start()
        try:
            yield me.lock
        finally:
            ended.set()
            # A store that hangs must not keep the run; what is written late is found dead.
            keeper.join(_LONGEST_BEAT)
            me.release()
    finally:
        _HELD.discard(me.holder.owner)


def read_locks(url: str | os.PathLike[str], storage_options: Options = ()) -> list[Holder]:
    """Who holds the output, by name; locks that cannot be read are left out."""
    found = _holders(locate(url, storage_options).child(_FOLDER))
    return [holder for _, holder in found if holder is not None]


def machine_name() -> str:
    """Which machine this is, in which life of it, and which of its sets of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return f"{platform.node()} {uuid.getnode()}"


def process_started(pid: int) -> str | None:
    """When a process of this machine started, in its own units; None where there is none."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return _asked(pid)
    # The name in the second field may hold anything, brackets too. A zombie is dead.
    state, *others = facts.rpartition(")")[2].split()
    return None if state in "ZX" else others[18]


def _asked(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:  # another user's
        pass
    return ""


@dataclass(slots=True)
class _Keeper:
    """Takes a lock, keeps it alive, gives it back."""

    place: Location
    holder: Holder
    facts: Callable[[], dict[str, Any]]
    lock: Lock = field(default_factory=Lock)
    made: bool = False
    """Whether nothing was there before the lock."""

    @property
    def folder(self) -> Location:
        return self.place.child(_FOLDER)

    @property
    def own(self) -> Location:
        return self.folder.child(f"{self.holder.name}.json")

    def take(self, *, take_over: bool, stale: float) -> None:
        self.made = self.place.is_local and not Path(self.place.url).exists()
        enforced = enforces_create(self.folder)
        for _ in range(_TRIES):
            replaced = self.clear(take_over=take_over, stale=stale)
            if not create_object(self.own, self.bytes()) and not self.is_mine():
                continue
            if replaced or not enforced:
                # Another may have cleared the same lock, and cleared mine after.
                time.sleep(_SETTLE)
                if not self.is_mine():
                    continue
            try:
                # Of two whose names differ each sees the other here, or one of them does.
                self.clear(take_over=take_over, stale=stale)
            except BadInput:
                self.release()
                raise
            return
        raise BadInput(
            f"output {self.place} is being taken by several drivers at once; wait, and try again"
        )

    def clear(self, *, take_over: bool, stale: float) -> bool:
        """Remove the locks in the way of nobody, refuse those of somebody; whether any was."""
        removed = False
        for name, holder in _holders(self.folder):
            if holder is None:
                if name != self.holder.name:
                    continue  # damaged, and perhaps not in the way
            elif holder.owner == self.holder.owner or not holder.conflicts(self.holder):
                continue
            elif not take_over and not holder.is_dead(stale, time.time()):
                raise BadInput(
                    f"output {self.place} is being written by process {holder.pid} on host "
                    f"{holder.host} (last sign of life {holder.silence():.0f} s ago); wait, or "
                    "take it over with orthoflow run --take-over"
                )
            delete_object(self.folder.child(f"{name}.json"))
            removed = True
        return removed

    def keep(self, ended: threading.Event, beat: float) -> None:
        while not ended.wait(beat):
            # A store that does not answer now may at the next beat.
            with suppress(*store_errors()):
                self.beat()
            if self.lock.lost:
                return

    def beat(self) -> None:
        there, holder = _read(self.own)
        self.holder = replace(self.holder, beat=time.time(), facts=self.facts())
        if not there:
            # Cleared by one who takes over, and is here next; or by hand.
            self.lock.lost = not create_object(self.own, self.bytes())
        elif holder is not None and holder.owner != self.holder.owner:
            self.lock.lost = True
        else:
            write_object(self.own, self.bytes())

    def release(self) -> None:
        # The run has ended one way or another; a lock that stays is found dead.
        with suppress(*store_errors()):
            if not self.lock.lost and self.is_mine():
                delete_object(self.own)
            if self.place.is_local:
                self.sweep()

    def sweep(self) -> None:
        """Remove the folders of locks where nothing else is in them."""
        folder = Path(self.folder.url)
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()
            if self.made:
                folder.parent.parent.rmdir()

    def is_mine(self) -> bool:
        _, holder = _read(self.own)
        return holder is not None and holder.owner == self.holder.owner

    def bytes(self) -> bytes:
        return seal(asdict(self.holder))


def _myself(name: str) -> Holder:
    now = time.time()
    pid = os.getpid()
    return Holder(
        name=name,
        owner=uuid.uuid4().hex,
        host=platform.node(),
        machine=machine_name(),
        pid=pid,
        process=process_started(pid) or "",
        started=now,
        beat=now,
    )


def _holders(folder: Location) -> Iterator[tuple[str, Holder | None]]:
    """Name of every lock, and who holds it; None where it cannot be read."""
    for file in list_names(folder):
        name = file.removesuffix(".json")
        if name == file or not _NAME.fullmatch(name):
            continue
        there, holder = _read(folder.child(file))
        if there:
            yield name, holder if holder is None or holder.name == name else None


def _read(place: Location) -> tuple[bool, Holder | None]:
    """Whether a lock is there, and who holds it; it may come from anywhere."""
    try:
        stored = read_object(place, limit=LOCK_LIMIT)
        if stored is None:
            return False, None
        content = unseal(stored, "lock")
    except BadInput:
        return True, None
    if set(content) != {one.name for one in fields(Holder)}:
        return True, None
    right = all(isinstance(content[name], kinds) for name, kinds in _KINDS.items())
    return True, Holder(**content) if right else None
