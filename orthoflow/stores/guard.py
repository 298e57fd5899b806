"""Stand between zarr and a store: no silent fill value, no bomb, no request too many.

zarr reads a chunk that is not stored as the fill value; here it is an error unless that was asked
for. A frame of zstd, blosc or lz4 states its decoded size in its first bytes, and the libraries
allocate that much before they notice that it is too large; here the statement is read first.
Metadata comes from memory, and a shard of which most is wanted comes in one request.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, WrapperStore

from orthoflow.errors import BlockFailed, BlockImpossible
from orthoflow.stores.answers import is_absence
from orthoflow.stores.bombs import is_counted, unpacks_beyond
from orthoflow.stores.zarr_nodes import document_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    import numpy.typing as npt
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from orthoflow.stores.formats import Reading
    from orthoflow.stores.zarr_nodes import Layout, Node

_HEADER = 18
_INDEX_CHECKSUM = 4
_EMPTY = 2**64 - 1
_SLACK = 64
"""Bytes that a checksum or a filter may add to a chunk before it is compressed."""
_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
_KEPT_SHARDS = 16
"""More than zarr reads at a time."""


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


def blosc_length(frame: bytes) -> int | None:
    """Length of the frame itself in a blosc header."""
    return int.from_bytes(frame[12:16], "little") if len(frame) >= 16 else None


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


def guarded_store(
    node: Node,
    layout: Layout,
    reading: Reading,
    index: tuple[slice, ...] = (),
) -> GuardedStore:
    """Store of an array whose chunks are looked at before they are decoded.

    Parameters
    ----------
    index
        What will be read, so that a remote shard of which more than half is wanted is fetched as
        a whole: one request in place of one for the index and one for each chunk.
    """
    codecs = [name.rpartition(".")[2] for name in layout.codecs]
    outermost = next((name for name in reversed(codecs) if name not in _CHECKSUMS), "")
    inner = 0
    if layout.shards is not None:
        inner = math.prod(s // c for s, c in zip(layout.shards, layout.chunks, strict=True))
    others = set(codecs) - _CHECKSUMS - _SAME_SIZE - {outermost}
    growth = _FILTER_GROWTH if others else 1
    limit = math.prod(layout.chunks) * layout.dtype.itemsize * growth + _SLACK
    document = document_of(node).encode()
    known = {"zarr.json": document} if node.zarr_format == 3 else {".zarray": document}
    watch = _Watch(
        shown=str(node.place),
        codec=outermost,
        announced=_SIZES.get(outermost),
        framed=blosc_length if outermost == "blosc" else None,
        limit=limit,
        inner=inner,
        index_at_end=layout.index_at_end,
        reading=reading,
        documents=known,
        wanted=None if node.place.is_local or not index else _Wanted(layout, index),
    )
    store = node.place.zarr_store()
    if isinstance(store, FsspecStore):
        store.allowed_exceptions = ()  # `_fetch` tells an absent chunk from an absent bucket
    return GuardedStore(store, watch)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which part of each shard a read needs."""

    layout: Layout
    index: tuple[slice, ...]

    def mostly(self, key: str) -> bool:
        """Whether more than half of the chunks in the shard at `key` are wanted."""
        if self.layout.shards is None:
            return False
        wanted = stored = 1
        numbers = [int(number) for number in re.findall(r"\d+", key)]
        axes = (self.layout.shape, self.layout.chunks, self.layout.shards, self.index)
        for number, size, chunk, shard, span in zip(numbers, *axes, strict=True):
            first, end = number * shard, min((number + 1) * shard, size)
            start, stop, _ = span.indices(size)
            start, stop = max(start, first), min(stop, end)
            wanted *= -(-stop // chunk) - start // chunk
            stored *= -(-(end - first) // chunk)
        return 2 * wanted > stored


@dataclass(slots=True)
class _Watch:
    """What is known of the chunks, and what was seen of them."""

    shown: str
    codec: str
    """The outermost one that is no checksum."""
    announced: Callable[[bytes], int | None] | None
    """How a frame states its decoded size, where it does."""
    framed: Callable[[bytes], int | None] | None
    """How a frame states its own length, where it does."""
    limit: int
    """The most bytes a chunk may have, decoded."""
    inner: int
    """Chunks in a shard; 0 without shards."""
    index_at_end: bool
    reading: Reading
    documents: dict[str, bytes]
    wanted: _Wanted | None
    keys: set[str] = field(default_factory=set)
    """Chunks and shards that were asked for."""
    shards: dict[str, Buffer] = field(default_factory=dict)
    """Fetched as a whole, and read in parts."""

    @property
    def index_size(self) -> int:
        return 16 * self.inner + _INDEX_CHECKSUM

    def check(self, key: str, buffer: Buffer | None, wished: ByteRequest | None) -> None:
        """Refuse a chunk, shard or part of one that is absent, cut off, or announces too much."""
        self.keys.add(key)
        if buffer is None:
            self._absent(key)
            return
        whole = wished is None
        short = isinstance(wished, RangeByteRequest) and len(buffer) < wished.end - wished.start
        if short or not len(buffer):
            raise BlockFailed(f"chunk {key} of {self.shown} is cut off; store it again")
        if self._is_index(len(buffer), wished):
            return
        data = np.asarray(buffer.as_numpy_array()).view(np.uint8).reshape(-1)
        for start, end in self._spans(data) if self.inner and whole else [(0, len(data))]:
            self._check_frame(key, data[start:end])

    def keep(self, key: str, buffer: Buffer) -> None:
        """Keep a shard for the parts that are asked for next."""
        self.shards[key] = buffer
        while len(self.shards) > _KEPT_SHARDS:
            del self.shards[next(iter(self.shards))]

    def _absent(self, key: str) -> None:
        filled = self.reading.filled
        if not self.reading.fill:
            raise BlockImpossible(
                f"chunk {key} of {self.shown} is not stored; "
                "if this volume leaves out empty chunks pass --missing-input fill"
            )
        if key not in filled:
            filled.append(key)

    def _is_index(self, size: int, wished: ByteRequest | None) -> bool:
        if not self.inner or wished is None or size != self.index_size:
            return False
        at_start = isinstance(wished, RangeByteRequest) and wished.start == 0
        return isinstance(wished, SuffixByteRequest) or (at_start and not self.index_at_end)

    def _spans(self, data: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
        """First byte and end of the chunks in a whole shard, from its index."""
        if len(data) < self.index_size:
            return []
        index = data[-self.index_size :] if self.index_at_end else data[: self.index_size]
        entries = np.frombuffer(index[:-_INDEX_CHECKSUM].tobytes(), "<u8").reshape(-1, 2)
        return [
            (int(start), int(start) + int(size))
            for start, size in entries
            if start != _EMPTY and start < len(data)
        ]

    def _check_frame(self, key: str, frame: npt.NDArray[np.uint8]) -> None:
        head = frame[:_HEADER].tobytes()
        size = self.announced(head) if self.announced else None
        counted = size is None and is_counted(self.codec)
        if counted and unpacks_beyond(self.codec, frame.data, self.limit):
            raise BlockImpossible(
                f"chunk {key} of {self.shown} unpacks to more than the {self.limit} bytes that a "
                "chunk has; the file is damaged or hostile"
            )
        if size is not None and size > self.limit:
            raise BlockImpossible(
                f"chunk {key} of {self.shown} announces {size} bytes, a chunk has at most "
                f"{self.limit}; the file is damaged or hostile"
            )
        length = self.framed(head) if self.framed else None
        if length is not None and length > len(frame):
            raise BlockFailed(
                f"chunk {key} of {self.shown} is cut off: it states {length} bytes and has "
                f"{len(frame)}; store it again"
            )


class GuardedStore(WrapperStore[Any]):
    """A store that looks at every chunk it hands out."""

    def __init__(self, store: Store, watch: _Watch) -> None:
        super().__init__(store)
        self._watch = watch

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._watch)

    @property
    def keys(self) -> tuple[str, ...]:
        """Chunks and shards that were asked for so far, sorted."""
        return tuple(sorted(self._watch.keys))

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of `key`, refused where they are not what a chunk can be."""
        if key in _METADATA:
            return self._document(key, prototype)
        wanted = self._watch.wanted
        if byte_range is not None and wanted is not None and wanted.mostly(key):
            return await self._part(key, prototype, byte_range)
        buffer = await self._fetch(key, prototype, byte_range)
        watch = self._watch
        if watch.announced is None and is_counted(watch.codec):  # others are read meanwhile
            await asyncio.to_thread(watch.check, key, buffer, byte_range)
        else:
            watch.check(key, buffer, byte_range)
        return buffer

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Like `get`, for several ranges."""
        return await asyncio.gather(*(self.get(key, prototype, one) for key, one in key_ranges))

    # Newer versions of zarr read inner chunks of a shard, and stores without an event loop, by
    # methods that 3.1 does not have. Each comes down to `get` or `get_sync` of this store; ranges
    # that lie side by side were fetched together, so every one is looked at again by itself.
    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], **options: Any
    ) -> AsyncIterator[Any]:
        """Like `get`, for several ranges of one key, as they come."""
        groups = Store.get_ranges(  # type: ignore[attr-defined, unused-ignore]
            self, key, byte_ranges, **options
        )
        async for group in groups:
            for number, buffer in group:
                self._watch.check(key, buffer, byte_ranges[number])
            yield group

    def get_ranges_sync(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], **options: Any
    ) -> Sequence[tuple[int, Buffer | None]]:
        """Like `get_ranges`, without an event loop."""
        found: Sequence[tuple[int, Buffer | None]]
        found = Store.get_ranges_sync(  # type: ignore[attr-defined, unused-ignore]
            self, key, byte_ranges, **options
        )
        for number, buffer in found:
            self._watch.check(key, buffer, byte_ranges[number])
        return found

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Like `get`, without an event loop."""
        if key in _METADATA:
            return self._document(key, prototype or default_buffer_prototype())
        read = super().get_sync  # type: ignore[misc, unused-ignore]
        buffer: Buffer | None = read(key, prototype=prototype, byte_range=byte_range)
        self._watch.check(key, buffer, byte_range)
        return buffer

    def _document(self, key: str, prototype: BufferPrototype) -> Buffer | None:
        content = self._watch.documents.get(key)
        return None if content is None else prototype.buffer.from_bytes(content)

    async def _fetch(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        try:
            return await super().get(key, prototype, byte_range)
        except OSError as error:
            if not is_absence(error):
                raise
            return None

    async def _part(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest
    ) -> Buffer | None:
        """Part of a shard that is fetched as a whole."""
        shard = self._watch.shards.get(key)
        if shard is None:
            shard = await self._fetch(key, prototype, None)
            self._watch.check(key, shard, None)
            if shard is None:
                return None
            self._watch.keep(key, shard)
        return prototype.buffer.from_buffer(shard[_span(byte_range)])


def _span(byte_range: ByteRequest) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    return slice(-byte_range.suffix, None)
