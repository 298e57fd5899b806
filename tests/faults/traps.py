"""A network that does as it is told: kills its process, raises, hangs; and notes each call.

Orders are files in a folder, so that every process sees them: `orders/<value>-<deed>-<n>` is
obeyed once, by the first process that meets a tile with a voxel of that value, and
`<value>-<deed>-always` each time. Calls are empty files whose names say who made them, so that no
limit on a process cuts them short.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

import orthoflow as of

ORDERED = 200
"""Voxels from this value on stand for places where orders are given."""


class Trap(torch.nn.Module):
    """Logits that differ from voxel to voxel, and orders."""

    def __init__(self, folder):
        super().__init__()
        self.folder = str(folder)
        self.pool = torch.nn.MaxPool2d(3, 1, 1)

    def forward(self, tiles):
        score = (tiles + self.pool(tiles)) * (1 / 128) - 1.5
        logits = torch.cat([score * -1, score], 1)
        # By NumPy: torch would take this for a network that mixes the tiles of a batch.
        seen = set(np.unique(tiles.numpy()).tolist())
        if max(seen) <= 1:  # a look at the network, not a block
            return logits
        folder = Path(self.folder)
        note(folder, len(tiles))
        for order in sorted(os.listdir(folder / "orders")):
            value, deed, often = order.split("-")
            if int(value) in seen and (often == "always" or claimed(folder, order)):
                obey(folder, deed, tiles)
                if deed == "nan":
                    return logits * torch.nan
        return logits


def trap_model(folder, tile):
    """The network around the orders in `folder`, for square tiles."""
    return of.Model.from_torch(Trap(folder), tile=(tile, tile), reach=1, stride=1, name="trap")


def prepare(folder, slow=0.0):
    """An empty folder of orders and calls; `slow` seconds are added to every call."""
    (folder / "orders").mkdir(parents=True)
    (folder / "calls").mkdir()
    slow_down(folder, slow)
    return folder


def slow_down(folder, seconds):
    """Let every call from now on take so much longer."""
    if seconds:
        (folder / "slow").write_text(str(seconds))


def order(folder, value, deed, often="1"):
    """Give an order."""
    (folder / "orders" / f"{value}-{deed}-{often}").touch()


def withdraw(folder):
    """No orders any more."""
    for one in (folder / "orders").iterdir():
        one.unlink(missing_ok=True)


def claimed(folder, order):
    """Whether this process is the one that obeys."""
    try:
        os.unlink(folder / "orders" / order)
    except FileNotFoundError:
        return False
    return True


def note(folder, tiles):
    """Say that this process runs so many tiles."""
    (folder / "calls" / f"{os.getpid()}-{tiles}-{uuid.uuid4().hex}").touch()
    with suppress(FileNotFoundError):
        time.sleep(float((folder / "slow").read_text()))


def calls(folder):
    """(process, tiles) of every call so far."""
    names = [name.split("-") for name in os.listdir(folder / "calls")]
    return [(int(process), int(tiles)) for process, tiles, _ in names]


def tiles_run(folder):
    """Tiles that the network has seen so far."""
    return sum(tiles for _, tiles in calls(folder))


def obey(folder, deed, tiles):
    """Do it."""
    _DEEDS[deed](folder, tiles)


def _signal(number):
    return lambda *_: os.kill(os.getpid(), number)


def _wait(folder, _):
    while not (folder / "go").exists():
        time.sleep(0.02)


def _raise(*_):
    raise RuntimeError("a passing fault")


def _memory(*_):
    raise MemoryError("no more")


def _hungry(*_):
    """Ask the system for more than any machine has."""
    torch.empty(2**50)


def _crowded(_, tiles):
    if len(tiles) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")


_DEEDS = {
    "kill": _signal(signal.SIGKILL),
    "segfault": _signal(signal.SIGSEGV),
    "stop": _signal(signal.SIGSTOP),
    "wait": _wait,
    "raise": _raise,
    "memory": _memory,
    "hungry": _hungry,
    "oom": _crowded,
    "nan": lambda *_: None,  # see `Trap`
}


def let_go(folder):
    """End every wait."""
    with suppress(FileExistsError):
        (folder / "go").touch(exist_ok=False)
