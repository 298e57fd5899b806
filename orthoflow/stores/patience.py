"""Ask a store again that is overloaded or does not answer."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from orthoflow.errors import StoreRefused
from orthoflow.stores.answers import first_line, is_transient, store_errors

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FIRST_WAIT = 0.2
LONGEST_WAIT = 30.0
WARNING_INTERVAL = 60.0

_log = logging.getLogger("orthoflow")


class _Warnings:
    """At most one line a minute, however many threads wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due = 0.0

    def warn(self, now: float, message: str, *values: object) -> None:
        with self._lock:
            # A clock that runs behind the last warning is another clock, as in tests.
            if self._due - WARNING_INTERVAL <= now < self._due:
                return
            self._due = now + WARNING_INTERVAL
        _log.warning(message, *values)


_warnings = _Warnings()


def patiently(
    call: Callable[[], T],
    *,
    seconds: float,
    doing: str,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Result of `call`, which is called again while its store is overloaded or does not answer.

    The wait doubles from 0.2 to 30 seconds and its second half is drawn at random, so that a
    thousand workers that were turned away together do not come back together::

        call x   x     x         x                 x
             0.1-0.2 0.2-0.4  0.4-0.8    ...     15-30 s

    Parameters
    ----------
    call
        Whole in itself: it may run any number of times.
    seconds
        How long after the first failure a call may still begin; 0 is a single call.
    doing
        For messages, as in "read voxels 0:64,0:64,0:64".
    sleep, clock
        How time passes.

    Raises
    ------
    StoreRefused
        When the store still does not answer after `seconds`. What the store refuses for good, and
        every other error, is raised at once.
    """
    began: float | None = None
    longest = FIRST_WAIT
    while True:
        try:
            return call()
        except store_errors() as error:
            if not is_transient(error):
                raise
            now = clock()
            began = now if began is None else began
            left = began + seconds - now
            if left <= 0:
                raise StoreRefused(
                    f"cannot {doing}: the store does not answer for {now - began:.0f} s "
                    f"({first_line(error)}); check it and its network, or raise patience"
                ) from error
            _warnings.warn(
                now,
                "cannot %s: the store does not answer (%s); asking again for up to %.0f s",
                doing,
                first_line(error),
                left,
            )
        sleep(min(left, longest * random.uniform(0.5, 1.0)))
        longest = min(2 * longest, LONGEST_WAIT)
