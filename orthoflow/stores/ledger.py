"""Which objects an output has by its record and markers: whose each is, how large, what digest."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, parse_roi
from orthoflow.geometry.output import OutputSpec
from orthoflow.stores.documents import chunk_folder
from orthoflow.stores.markers import block_marker_name, block_number_of, level_marker_name
from orthoflow.stores.stamps import FINGERPRINT, LEVEL_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import LevelSpec, Stage
    from orthoflow.stores.stamps import Marker

_MOST_VOXELS = 2**40
_MOST_BLOCKS = 10**9
_NUMBER = re.compile("0|[1-9][0-9]{0,12}")
_ENTRY = np.dtype([("size", "<i8"), ("digest", "V16"), ("seen", "?")])


class Slot(NamedTuple):
    """Where one shard is stored: numbers of array, level, channel, and of the shard."""

    array: int
    level: int
    channel: int
    number: Triple


class Expected(NamedTuple):
    """An object as its writer knew it; size 0 where none was stored."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What a run makes, from its record alone: arrays, blocks, and which shards are whose."""

    fingerprint: str
    region: Box
    """In voxels of the input; level 0 of every array covers it."""
    block: Triple
    output: OutputSpec
    folders: dict[str, tuple[int, int]] = field(init=False, repr=False, compare=False)
    """Numbers of array and level, by the folder where their objects lie."""

    def __post_init__(self) -> None:
        levels = (
            (array.path, number, level)
            for number, array in enumerate(self.output.arrays)
            for level in range(len(array.levels))
        )
        found = {chunk_folder(self.output, path, level): (n, level) for path, n, level in levels}
        object.__setattr__(self, "folders", found)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Outline:
        """From a run's record, which may come from anywhere.

        Raises
        ------
        BadInput
            If the record describes no run that could be.
        """
        try:
            fingerprint, region = record["fingerprint"], record["region"]
            z, y, x = record["block"]
            output = OutputSpec.from_dict(record["output"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"the run's record lacks something: {error!r}"[:200]) from error
        if not isinstance(fingerprint, str) or not FINGERPRINT.fullmatch(fingerprint):
            raise BadInput(f"the run's record has fingerprint {str(fingerprint)[:80]!r}")
        outline = cls(fingerprint, parse_roi(str(region), (_MOST_VOXELS,) * 3), (z, y, x), output)
        outline._check()
        return outline

    @property
    def grid(self) -> Triple:
        """Blocks along (z, y, x)."""
        z, y, x = (-(-n // b) for n, b in zip(self.region.shape, self.block, strict=True))
        return (z, y, x)

    def blocks(self) -> Iterator[str]:
        """Names of the blocks' markers, of every stage that there is."""
        for stage in self.output.stages:
            for number in _numbers(self.grid):
                yield block_marker_name(number, stage)

    def boxes(self) -> Iterator[str]:
        """Names of the markers of the boxes of all levels above the first."""
        for array in self.output.arrays:
            for number, level in enumerate(array.levels[1:], 1):
                for shard in _numbers(level.grid):
                    yield level_marker_name(number, array.path, shard)

    def box_of(self, name: str) -> tuple[int | Stage, int, Box] | None:
        """What the marker of this name speaks of; None where no marker of this run is called that.

        Returns
        -------
        array, level, box
            Number of the array, or the stage of a block, which has a part in all arrays of that
            stage; the box in voxels of that level.
        """
        for stage in self.output.stages:
            number = block_number_of(name, stage)
            if number is not None:
                inside = all(n < size for n, size in zip(number, self.grid, strict=True))
                whole = Box.whole(self.region.shape)
                return (stage, 0, _cell(number, self.block, whole)) if inside else None
        return self._level_box_of(name)

    def above(self, array: int | Stage, level: int, box: Box) -> Iterator[str]:
        """Names of the markers of all boxes that are built from this one, in all or one array."""
        for number, one in enumerate(self.output.arrays):
            if array not in {one.stage, number}:
                continue
            fine = one.levels[level]
            for above, coarse in itertools.islice(enumerate(one.levels), level + 1, None):
                for shard in _numbers_over(box, fine, coarse):
                    yield level_marker_name(above, one.path, shard)

    def slot_of(self, key: str) -> Slot | None:
        """Which shard is stored under a key; None where none is."""
        parts = key.split("/")
        for count in (3, 4):
            found = self.folders.get("/".join(parts[:-count]))
            if found is None or len(parts) <= count:
                continue
            array, level = found
            one = self.output.arrays[array]
            if count == 3 + bool(one.classes):
                shape = (max(1, one.classes), *one.levels[level].grid)
                return _slot(array, level, parts[-count:], shape)
        return None

    def key_of(self, slot: Slot) -> str:
        """The key of a shard."""
        array = self.output.arrays[slot.array]
        numbers = (*((slot.channel,) if array.classes else ()), *slot.number)
        folder = chunk_folder(self.output, array.path, slot.level)
        return f"{folder}/{'/'.join(map(str, numbers))}"

    def owner_of(self, slot: Slot) -> str:
        """Name of the marker of the block, or the box of a level, that a shard belongs to."""
        array = self.output.arrays[slot.array]
        if slot.level:
            return level_marker_name(slot.level, array.path, slot.number)
        shard = array.levels[0].shard
        z, y, x = (n * s // b for n, s, b in zip(slot.number, shard, self.block, strict=True))
        return block_marker_name((z, y, x), array.stage)

    def problem_of(self, marker: Marker) -> str:
        """Why a marker cannot be one of this run; empty where it can."""
        place = self.box_of(marker.name)
        if place is None:
            return f"{marker.name} is no block of this run"
        array, _, box = place
        expected = box if isinstance(array, int) else box.moved(self.region.start)
        if marker.box != str(expected):
            return f"it speaks of {marker.box}, {marker.name} is {expected}"
        for stamp in marker.objects:
            slot = self.slot_of(stamp.key)
            if slot is None or self.owner_of(slot) != marker.name:
                return f"{stamp.key} is no object of {marker.name}"
        return ""

    def opened(self) -> set[str]:
        """Folders that hold folders of shards: they are listed one level at a time."""
        folders = {""}
        for folder in self.folders:
            parts = folder.split("/")
            folders |= {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        return folders

    def _check(self) -> None:
        sides = [(b, n) for b, n in zip(self.block, self.region.shape, strict=True)]
        if any(type(b) is not int or not 0 < b <= n for b, n in sides):
            raise BadInput(f"the run's record has blocks of {self.block} in {self.region}")
        if math.prod(self.grid) > _MOST_BLOCKS:
            raise BadInput(f"the run's record has {math.prod(self.grid)} blocks")
        for array in self.output.arrays:
            level = array.levels[0]
            if level.shape != self.region.shape:
                raise BadInput(
                    f"the run's record has region {self.region} and an array of {level.shape}"
                )
            if any(b % s and b < n for (b, n), s in zip(sides, level.shard, strict=True)):
                raise BadInput(
                    f"the run's record has blocks of {self.block} that cut shards of {level.shard}"
                )

    def _level_box_of(self, name: str) -> tuple[int, int, Box] | None:
        found = LEVEL_NAME.fullmatch(name)
        if found is None:
            return None
        level, last = int(found[1]), tuple(int(part) for part in found.groups()[2:])
        for number, array in enumerate(self.output.arrays):
            if not 0 < level < len(array.levels):
                continue
            one, (z, y, x) = array.levels[level], last
            inside = all(n < size for n, size in zip(last, one.grid, strict=True))
            if inside and name == level_marker_name(level, array.path, (z, y, x)):
                return number, level, _cell((z, y, x), one.shard, Box.whole(one.shape))
        return None


class Ledger:
    """Objects that markers name, 25 bytes for each shard that could be."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self.count = 0
        """Objects that are expected."""
        self._tables: dict[tuple[int, int], npt.NDArray[Any]] = {}

    def expect(self, marker: Marker) -> None:
        """Enter what a marker names, which has no `Outline.problem_of`."""
        for stamp in marker.objects:
            slot = self.outline.slot_of(stamp.key)
            assert slot is not None
            table, index = self._table(slot), (slot.channel, *slot.number)
            table[index] = (stamp.size, bytes.fromhex(stamp.digest), False)
            self.count += 1

    def see(self, slot: Slot) -> Expected:
        """What is expected of an object that is there."""
        if (slot.array, slot.level) not in self._tables:
            return Expected(0, "")
        table, index = self._table(slot), (slot.channel, *slot.number)
        size, digest, _ = table[index]
        table["seen"][index] = True
        return Expected(int(size), bytes(digest).hex())

    def unseen(self) -> Iterator[Slot]:
        """Shards that are expected and were not seen."""
        for (array, level), table in sorted(self._tables.items()):
            for channel, z, y, x in np.argwhere((table["size"] > 0) & ~table["seen"]).tolist():
                yield Slot(array, level, channel, (z, y, x))

    def _table(self, slot: Slot) -> npt.NDArray[Any]:
        key = (slot.array, slot.level)
        if key not in self._tables:
            array = self.outline.output.arrays[slot.array]
            grid = array.levels[slot.level].grid
            self._tables[key] = np.zeros((max(1, array.classes), *grid), _ENTRY)
        return self._tables[key]


def _slot(array: int, level: int, parts: list[str], shape: tuple[int, ...]) -> Slot | None:
    if not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    numbers = [0, *map(int, parts)][-4:]
    if any(number >= size for number, size in zip(numbers, shape, strict=True)):
        return None
    channel, z, y, x = numbers
    return Slot(array, level, channel, (z, y, x))


def _numbers(grid: Triple) -> Iterator[Triple]:
    depth, height, width = grid
    return itertools.product(range(depth), range(height), range(width))


def _numbers_over(box: Box, fine: LevelSpec, coarse: LevelSpec) -> Iterator[Triple]:
    """Numbers of the shards of `coarse` that hold something of `box` of `fine`."""
    spans = []
    for axis in range(3):
        step = coarse.factors[axis] // fine.factors[axis] * coarse.shard[axis]
        spans.append(range(box.start[axis] // step, -(-box.stop[axis] // step)))
    return itertools.product(spans[0], spans[1], spans[2])


def _cell(number: Triple, size: Triple, whole: Box) -> Box:
    start = tuple(n * s for n, s in zip(number, size, strict=True))
    stop = tuple(min((n + 1) * s, e) for n, s, e in zip(number, size, whole.stop, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]
