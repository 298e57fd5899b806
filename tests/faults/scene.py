"""One run among faults: an input with places for orders, an output, the bytes that it must have."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

import orthoflow as of
from tests import nets
from tests.faults import traps
from tests.faults.drive import typed
from tests.faults.fleet import Driver

SIDE = 8
SMALL, LARGE = (16, 24, 32), (24, 48, 48)
"""Volumes of 24 and of 108 blocks."""

ALONE = {"tile": 8, "overlap": 0.0, "packing": "none", "part": 1}
"""Every patch lies in one block: a voxel's order reaches one block, and counts are exact."""
SHARDED = {**ALONE, "chunk": 4}
"""Objects of several chunks; of level 1 some reach beyond the border, and are never full."""
GROUPED = {"tile": 8, "overlap": 0.0, "packing": "none"}
"""The same blocks, in parts of many: the tasks of a part wait for each other."""
WOVEN = {"tile": 16, "overlap": 0.25}
"""Patches reach across blocks, and a part's blocks exchange their sums."""

both_kinds = pytest.mark.parametrize(
    "scene", [(ALONE, SMALL), (WOVEN, SMALL)], indirect=True, ids=["alone", "woven"]
)

COMMON = {"chunk": SIDE, "block": SIDE, "levels": 2, "output": "both"}
TILES = 3 * SIDE
"""Tiles of a block whose patches are its own."""


def volume_with_orders(shape):
    """Noise below `traps.ORDERED`, and one voxel of every value above, each in another block."""
    voxels = nets.blobs(shape, top=traps.ORDERED - 1) + 1
    for value, block in places(shape).items():
        voxels[tuple(n * SIDE + 3 for n in block)] = value
    return voxels


def places(shape):
    """Number (z, y, x) of the block that holds a value's voxel: every block's, or each nth's."""
    numbers = list(np.ndindex(*(n // SIDE for n in shape)))
    return dict(enumerate(numbers[:: max(1, len(numbers) // 49)][:49], traps.ORDERED + 1))


class Scene:
    """A folder, or a bucket, in which runs are made."""

    def __init__(self, folder, source, output=None, kind=ALONE, shape=SMALL):
        self.folder, self.source, self.shape = folder, source, shape
        self.places = places(shape)
        self.numbers = set(np.ndindex(*(n // SIDE for n in shape)))
        self.blocks = len(self.numbers)
        self.output = str(output or folder / "out.zarr")
        self.kind = dict(kind)
        self.tile = self.kind.pop("tile")
        self.traps = traps.prepare(folder / "traps")
        self.drivers = []
        self.environment = {}

    def box_of(self, value):
        """The block of a value, as messages name it."""
        return ",".join(f"{n * SIDE}:{(n + 1) * SIDE}" for n in self.places[value])

    # ------------------------------------------------------------------------------------- acting

    def order(self, value, deed, often="1"):
        """Give an order to whoever meets this value."""
        traps.order(self.traps, value, deed, often)

    @property
    def options(self):
        return {**COMMON, **self.kind}

    def run(self, **more):
        """In this process and, unless a scheduler is named, in this thread."""
        more = {"cluster": "synchronous", **self.options, **more}
        model = traps.trap_model(self.traps, self.tile)
        return of.run(self.source, self.output, model=model, **more)

    def drive(self, *, patches=None, memory=None, **more):
        """In a process of its own, by the command line."""
        more = {"cluster": "synchronous", **self.options, **more}
        words = ["--model", "trap", "--json", "--quiet"]
        arguments = typed("run", self.source, self.output, **more) + words
        return self.command(arguments, patches=patches, memory=memory)

    def command(self, arguments, *, patches=None, memory=None):
        """Any command in a process of its own."""
        job = {
            "arguments": arguments,
            "traps": str(self.traps),
            "tile": self.tile,
            "environment": self.environment,
            "patches": patches or {},
            "memory": memory,
        }
        driver = Driver(self.folder / f"driver-{len(self.drivers)}", job)
        self.drivers.append(driver)
        return driver

    def end(self):
        traps.let_go(self.traps)
        for driver in self.drivers:
            driver.end()

    # ------------------------------------------------------------------------------------- seeing

    @property
    def tiles(self):
        """Tiles that the network has seen, in all runs so far."""
        return traps.tiles_run(self.traps)

    def files(self):
        """Bytes of every file of the output, by its place in it."""
        if "://" not in self.output:
            root, found = Path(self.output), {}
            for path in root.rglob("*"):
                # What is being written has another name, and may go while we look.
                with suppress(FileNotFoundError, IsADirectoryError):
                    found[str(path.relative_to(root))] = path.read_bytes()
            return found
        fs = fsspec.filesystem(self.output.partition("://")[0])
        fs.invalidate_cache()
        root, found = self.output.partition("://")[2], {}
        for path in fs.find(root):
            with suppress(FileNotFoundError):
                found[path[len(root) + 1 :]] = fs.cat_file(path)
        return found

    def objects(self):
        """Bytes of every object, but for the records of the run."""
        return {k: v for k, v in self.files().items() if not k.startswith("orthoflow/")}

    def done(self):
        """Numbers of the blocks that have a marker."""
        names = [name for name in self.files() if "/markers/" in name and "/blocks/" in name]
        return {
            tuple(map(int, Path(name).stem.split("-"))) for name in names if name.endswith(".json")
        }

    def partials(self):
        """What writers that were killed left behind."""
        return [name for name in self.files() if ".partial" in name]

    def record(self, name="report"):
        return json.loads(self.files()[f"orthoflow/{name}.json"])


def of_block(number, names):
    """Of names of objects those that a block stores on level 0, with an axis of classes or not."""
    ends = tuple("/0/c/{}{}/{}/{}".format(lead, *number) for lead in ("", "0/"))
    return {name for name in names if name.endswith(ends)}


def assert_same(found, expected):
    """Two outputs hold the same objects, byte for byte."""
    assert set(found) - set(expected) == set()
    assert set(expected) - set(found) == set()
    different = [name for name, content in expected.items() if found[name] != content]
    assert not different


def make_source(folder, shape):
    """The input on disk, one file per block."""
    path = folder / "in.zarr"
    zarr.create_array(path, data=volume_with_orders(shape), chunks=(SIDE,) * 3)
    return str(path)


def is_alive(pid):
    """Whether a process runs (or is stopped), and is not merely waited for."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
