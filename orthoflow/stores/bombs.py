"""How much a compressed chunk unpacks to, where it does not say so in front.

gzip, zlib, bz2 and xz state no size, and their libraries make room for all there is. So they are
unpacked here once, piece by piece, and nothing is kept: that costs their time twice. zstd may leave
the size out too; its blocks each state how much they hold at most.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_TAKEN, _GIVEN = 2**16, 2**20
"""Bytes that go in, and come out, at a time."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 * 2**10
"""What a block of zstd unpacks to at most (RFC 8878)."""
_ZSTD_LEEWAY = 4
_XZ_MEMORY = 256 * 2**20
"""Of the unpacker itself; xz -9 needs 65 MiB."""


def is_counted(codec: str) -> bool:
    """Whether chunks of this codec have to be counted where they announce nothing."""
    return codec in _COUNTERS


def unpacks_beyond(codec: str, frame: memoryview, limit: int) -> bool:
    """Whether a frame of `codec` unpacks to more than `limit` bytes.

    Frames that are damaged do not: their library says what is wrong. Of zstd, whose blocks need
    not be full, up to four times the limit passes.
    """
    return _COUNTERS[codec](frame, limit) > limit


def _zlib(frame: memoryview, limit: int) -> int:
    """Bytes of all members; 32 takes both headers, of zlib and of gzip."""
    total, unpacker = 0, zlib.decompressobj(zlib.MAX_WBITS | 32)
    for start in range(0, len(frame), _TAKEN):
        left = bytes(frame[start : start + _TAKEN])
        while left and total <= limit:
            try:
                total += len(unpacker.decompress(left, _GIVEN))
            except zlib.error:
                return total
            left = unpacker.unconsumed_tail
            if unpacker.eof:
                left, unpacker = unpacker.unused_data, zlib.decompressobj(zlib.MAX_WBITS | 32)
        if total > limit:
            break
    return total


def _bz2(frame: memoryview, limit: int) -> int:
    return _streams(bz2.BZ2Decompressor, frame, limit)


def _lzma(frame: memoryview, limit: int) -> int:
    return _streams(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), frame, limit)


def _streams(make: Callable[[], Any], frame: memoryview, limit: int) -> int:
    total, unpacker = 0, make()
    for start in range(0, len(frame), _TAKEN):
        left = bytes(frame[start : start + _TAKEN])
        try:
            while total <= limit and (left or not unpacker.needs_input):
                total += len(unpacker.decompress(left, _GIVEN))
                left = b""
                if unpacker.eof:
                    left, unpacker = unpacker.unused_data, make()
        except OSError:
            return total
        except lzma.LZMAError:
            # Raw streams, which cannot be read without their settings, and ones that ask for
            # gigabytes to work with, end here at once.
            return total or limit + 1
        if total > limit:
            break
    return total


def _zstd(frame: memoryview, limit: int) -> int:
    """A quarter of the most that the blocks of a frame, less one, can hold."""
    if len(frame) < 6 or frame[:4] != _ZSTD:
        return 0
    descriptor = frame[4]
    single_segment = bool(descriptor & 0x20)
    size_width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    at = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3] + size_width
    total = 0
    while at + 3 <= len(frame) and total <= _ZSTD_LEEWAY * limit + _ZSTD_BLOCK:
        header = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        # Raw and repeated blocks state what they give, compressed ones what they take.
        total += _ZSTD_BLOCK if kind == 2 else size
        at += 3 + (1 if kind == 1 else size)
        if last:
            break
    # One block is no bomb, and a small chunk may be a part of one.
    return max(0, total - _ZSTD_BLOCK) // _ZSTD_LEEWAY


_COUNTERS: dict[str, Callable[[memoryview, int], int]] = {
    "gzip": _zlib,
    "zlib": _zlib,
    "bz2": _bz2,
    "lzma": _lzma,
    "zstd": _zstd,
}
