"""Progress on stderr: a live line on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orthoflow import driver

# A batch log gets a line each time another tenth is done.
_LINES = 10


@contextlib.contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[driver.Progress], None]]:
    """A function that shows each `driver.Progress` it is given."""
    console = Console(file=sys.stderr)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with _bar(console) as show:
            yield show
    else:
        yield _Lines(console)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Callable[[driver.Progress], None]]:
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[dashboard]}"),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, int] = {}

        def show(now: driver.Progress) -> None:
            if now.stage not in tasks:
                tasks[now.stage] = bar.add_task(
                    now.stage, total=now.total, rate="", dashboard=now.dashboard or ""
                )
            bar.update(tasks[now.stage], completed=now.done, rate=rate_of(now))  # type: ignore[arg-type]

        yield show


class _Lines:
    """A plain line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, int] = {}

    def __call__(self, now: driver.Progress) -> None:
        """Print if another tenth of the stage is done."""
        tenth = now.done * _LINES // max(1, now.total)
        if now.stage not in self._shown and now.dashboard:
            self._console.print(f"dashboard {now.dashboard}", soft_wrap=True, highlight=False)
        if tenth > self._shown.get(now.stage, 0):
            left = now.seconds / now.done * (now.total - now.done)
            failed = f"{now.failed:,} failed" if now.failed else ""
            facts = (f"{now.done:,}/{now.total:,}", rate_of(now), f"{left:.0f} s left", failed)
            line = " ".join((now.stage, *filter(None, facts)))
            self._console.print(line, soft_wrap=True, highlight=False)
        self._shown[now.stage] = tenth


def rate_of(now: driver.Progress) -> str:
    """Voxels per second so far, as text."""
    return f"{now.voxels / now.seconds / 1e6:.2f} Mvoxel/s" if now.voxels and now.seconds else ""
