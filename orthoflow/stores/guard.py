"""Refuse compressed chunks that announce more bytes than a chunk can have.

A frame of zstd, blosc or lz4 states its decoded size in its first bytes, and the libraries
allocate that much before they notice that it is too large. Here the statement is read first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.storage import WrapperStore

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    import numpy.typing as npt
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

    from orthoflow.stores.urls import Location
    from orthoflow.stores.zarr_nodes import Layout

_HEADER = 18
_INDEX_CHECKSUM = 4
_EMPTY = 2**64 - 1
_SLACK = 64
"""Bytes that a checksum or a filter may add to a chunk before it is compressed."""


def zstd_size(frame: bytes) -> int | None:
    """Decoded size that a zstd frame announces; None where it announces none (RFC 8878)."""
    if len(frame) < 5 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    field = frame[start : start + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def blosc_size(frame: bytes) -> int | None:
    """Decoded size in a blosc header."""
    return int.from_bytes(frame[4:8], "little") if len(frame) >= 16 else None


def lz4_size(frame: bytes) -> int | None:
    """Decoded size in front of an lz4 block, as numcodecs writes it."""
    return int.from_bytes(frame[:4], "little") if len(frame) >= 4 else None


_SIZES: dict[str, Callable[[bytes], int | None]] = {
    "zstd": zstd_size,
    "blosc": blosc_size,
    "lz4": lz4_size,
}
_SAME_SIZE = {"bytes", "transpose", "endian", "shuffle"}
_FILTER_GROWTH = 8
_CHECKSUMS = {"crc32c", "crc32", "adler32", "fletcher32"}


def guarded_store(place: Location, layout: Layout) -> Store:
    """Store of an array whose chunks are checked before they are decoded."""
    store = place.zarr_store()
    names = [name.rpartition(".")[2] for name in layout.codecs]
    outermost = next((name for name in reversed(names) if name not in _CHECKSUMS), "")
    announced = _SIZES.get(outermost)
    if announced is None:
        return store
    inner = 0
    if layout.shards is not None:
        inner = math.prod(s // c for s, c in zip(layout.shards, layout.chunks, strict=True))
    others = set(names) - _CHECKSUMS - _SAME_SIZE - {outermost}
    growth = _FILTER_GROWTH if others else 1
    limit = math.prod(layout.chunks) * layout.dtype.itemsize * growth + _SLACK
    return GuardedStore(store, _Head(announced, limit, inner, layout.index_at_end, str(place)))


@dataclass(frozen=True, slots=True)
class _Head:
    """What is known of the chunks: how they announce their size, and the most they may have."""

    announced: Callable[[bytes], int | None]
    limit: int
    inner: int
    """Chunks in a shard; 0 without shards."""
    index_at_end: bool
    shown: str

    @property
    def index_size(self) -> int:
        return 16 * self.inner + _INDEX_CHECKSUM

    def starts(self, data: npt.NDArray[np.uint8]) -> list[int]:
        """Offsets of the chunks in a whole shard, from its index."""
        if len(data) < self.index_size:
            return []
        index = data[-self.index_size :] if self.index_at_end else data[: self.index_size]
        offsets = np.frombuffer(index[:-_INDEX_CHECKSUM].tobytes(), "<u8")[::2]
        return [int(offset) for offset in offsets if offset != _EMPTY and offset < len(data)]

    def check(self, key: str, data: npt.NDArray[np.uint8], *, whole: bool) -> None:
        """Refuse a chunk, or a shard with a chunk, that announces too much."""
        if self.inner and not whole and len(data) == self.index_size:
            return
        for start in self.starts(data) if self.inner and whole else [0]:
            size = self.announced(data[start : start + _HEADER].tobytes())
            if size is not None and size > self.limit:
                raise BadInput(
                    f"chunk {key} of {self.shown} announces {size} bytes, a chunk has at most "
                    f"{self.limit}; the file is damaged or hostile"
                )


class GuardedStore(WrapperStore[Any]):
    """A store that looks at the head of every chunk it hands out."""

    def __init__(self, store: Store, head: _Head) -> None:
        super().__init__(store)
        self._head = head

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._head)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of `key`, refused where they announce too much."""
        buffer = await super().get(key, prototype, byte_range)
        self._check(key, buffer, whole=byte_range is None)
        return buffer

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Like `get`, for several ranges."""
        pairs = list(key_ranges)
        buffers = await super().get_partial_values(prototype, pairs)
        for (key, byte_range), buffer in zip(pairs, buffers, strict=True):
            self._check(key, buffer, whole=byte_range is None)
        return buffers

    # Newer versions of zarr read inner chunks of a shard, and stores without an event loop, by
    # methods that 3.1 does not have.
    async def get_ranges(
        self, key: str, byte_ranges: Iterable[ByteRequest | None], **options: Any
    ) -> AsyncIterator[Any]:
        """Like `get`, for several ranges of one key, as they come."""
        ranges = list(byte_ranges)
        groups = super().get_ranges  # type: ignore[misc, unused-ignore]
        async for group in groups(key, ranges, **options):
            for index, buffer in group:
                self._check(key, buffer, whole=ranges[index] is None)
            yield group

    def get_sync(self, key: str, **options: Any) -> Buffer | None:
        """Like `get`, without an event loop."""
        read = super().get_sync  # type: ignore[misc, unused-ignore]
        buffer: Buffer | None = read(key, **options)
        self._check(key, buffer, whole=options.get("byte_range") is None)
        return buffer

    def _check(self, key: str, buffer: Buffer | None, *, whole: bool) -> None:
        if buffer is None or key.rpartition("/")[2] in {"zarr.json", ".zarray", ".zattrs"}:
            return
        data = np.asarray(buffer.as_numpy_array()).view(np.uint8).reshape(-1)
        self._head.check(key, data, whole=whole)
