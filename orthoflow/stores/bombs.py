"""How much a compressed chunk unpacks to, where it does not say so in front.

gzip, zlib, bz2 and xz state no size, and their libraries make room for all there is. So they are
unpacked here once, piece by piece, and nothing is kept: that costs their time twice. zstd may leave
the size out too; its blocks each state how much they hold at most.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 2**20
_ZSTD = b"\x28\xb5\x2f\xfd"
ZSTD_BLOCK = 128 * 2**10
"""What a block of zstd unpacks to at most (RFC 8878)."""
_XZ_MEMORY = 256 * 2**20
"""Of the unpacker itself; xz -9 needs 65 MiB."""


class _Unpacker(Protocol):
    """What the decompressors of bz2 and lzma have in common."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpacks_beyond(codec: str, frame: bytes, limit: int) -> bool:
    """Whether a frame of `codec` unpacks to more than `limit` bytes.

    Frames that are damaged do not: their library says what is wrong. A zstd frame may unpack to
    `limit` rounded up to whole blocks.
    """
    counter = _COUNTERS.get(codec)
    return counter is not None and counter(frame, limit) > limit


def _zlib(frame: bytes, limit: int) -> int:
    """Bytes of all members; 32 takes both headers, of zlib and of gzip."""
    total, left = 0, frame
    while left and total <= limit:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            while left and not unpacker.eof and total <= limit:
                total += len(unpacker.decompress(left, _PIECE))
                left = unpacker.unconsumed_tail
        except zlib.error:
            return total
        left = unpacker.unused_data
    return total


def _bz2(frame: bytes, limit: int) -> int:
    return _streams(bz2.BZ2Decompressor, frame, limit)


def _lzma(frame: bytes, limit: int) -> int:
    return _streams(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), frame, limit)


def _streams(make: Callable[[], _Unpacker], frame: bytes, limit: int) -> int:
    total, left = 0, frame
    while left and total <= limit:
        unpacker = make()
        try:
            while not unpacker.eof and total <= limit:
                total += len(unpacker.decompress(left, _PIECE))
                left = b""
                if unpacker.needs_input:
                    return total
        except (OSError, lzma.LZMAError) as error:
            # One that asks for a dictionary of gigabytes is as bad as its output would be.
            return limit + 1 if "emory" in str(error) else total
        left = unpacker.unused_data
    return total


def _zstd(frame: bytes, limit: int) -> int:
    """The most that the blocks of a frame can hold, less what its last one may fall short."""
    if len(frame) < 6 or frame[:4] != _ZSTD:
        return 0
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    size_width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    at = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3] + size_width
    total = shortfall = 0
    while at + 3 <= len(frame) and total - shortfall <= limit:
        header = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        # Raw and repeated blocks state what they give, compressed ones what they take.
        total += ZSTD_BLOCK if kind == 2 else size
        shortfall = ZSTD_BLOCK if kind == 2 else 0
        at += 3 + (1 if kind == 1 else size)
        if last:
            break
    return total - shortfall


_COUNTERS: dict[str, Callable[[bytes, int], int]] = {
    "gzip": _zlib,
    "zlib": _zlib,
    "bz2": _bz2,
    "lzma": _lzma,
    "zstd": _zstd,
}
