"""What every input format answers: the narrow contract behind `stores.volumes`."""

from __future__ import annotations

import gzip
import lzma
import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orthoflow.errors import BadInput, BlockFailed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from orthoflow.stores.urls import Location

CHUNK_LIMIT = 2 * 2**30
"""Bytes of the largest chunk, page or tile that is decoded: more is a slip or an attack."""

CHUNK_COUNT_LIMIT = 10**9
"""Objects in one array; beyond it no store lists or bills sensibly."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored array, axes in the order of the file.

    `scale` is None where the file states no physical size; then `translation` is in voxels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str | None = None
    """Letters of "tczyx", one for each axis; None where the file does not say."""
    chunks: tuple[int, ...] | None = None
    """What is read at once; None for memory-mapped files."""
    scale: tuple[float, ...] | None = None
    translation: tuple[float, ...] | None = None
    units: tuple[str | None, ...] | None = None
    document: str = ""
    """Metadata as JSON, so that `Format.read` need not look for any; empty where there is none."""

    sparse: bool = False
    """Whether its writer is known to leave out chunks that hold nothing but the fill value."""
    shards: tuple[int, ...] | None = None
    """Objects that hold several chunks and an index of them; None where none do."""
    checksum: bool = False
    """Whether stored chunks carry one, so that damage is always noticed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How an array is read, beyond where it is."""

    document: str = ""
    """From `Stored`; looked up where it is empty."""
    fill: bool = False
    """Whether chunks that are not stored are read as the fill value."""
    filled: list[str] = field(default_factory=list)
    """Receives the keys of those chunks."""


class Format(Protocol):
    """A way in which volumes are stored; stateless."""

    def find(self, place: Location, array: str | None, level: int) -> tuple[Location, str]:
        """Place and inner path of the array that is meant; metadata only."""

    def inspect(self, place: Location, array: str) -> Stored:
        """Facts of the array; metadata only, limits checked before anything is allocated."""

    def read(
        self, place: Location, array: str, index: tuple[slice, ...], reading: Reading
    ) -> npt.NDArray[np.generic]:
        """Voxels of `index` (one slice for each axis, step 1), axes as stored."""

    def summarize(self, place: Location) -> dict[str, Any]:
        """JSON-able facts for `orthoflow info`."""


DECODER_ERRORS = (ValueError, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What decoders raise, and others too: `is_damage` tells which."""


def is_damage(error: Exception) -> bool:
    """Whether a decoder says by this error that its bytes are not what they should be."""
    if isinstance(error, (BadInput, BlockFailed)):
        return False  # said in full already
    if isinstance(error, OSError):
        # The decoders of gzip and bz2 raise OSError without the number that a system's has.
        return isinstance(error, gzip.BadGzipFile) or (type(error) is OSError and not error.errno)
    return isinstance(error, DECODER_ERRORS)


def check_limits(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, named: str
) -> None:
    """Refuse extents that no volume has, before a library allocates for them."""
    if any(side < 0 or side > 2**48 for side in shape) or any(side < 1 for side in chunks):
        raise BadInput(f"{named} states shape {shape} with chunks {chunks}, which cannot be")
    size = math.prod(chunks) * itemsize
    if size > CHUNK_LIMIT:
        raise BadInput(
            f"{named} has chunks {chunks} of {size} bytes each; at most {CHUNK_LIMIT} are read at "
            "once, rewrite it with smaller chunks"
        )
    count = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    if count > CHUNK_COUNT_LIMIT:
        raise BadInput(
            f"{named} has {count} chunks; at most {CHUNK_COUNT_LIMIT} are handled, "
            "rewrite it with larger chunks or shards"
        )


def no_inner_arrays(place: Location, array: str | None, level: int) -> None:
    """Refuse a choice of array or level where the file holds one array only."""
    if array:
        raise BadInput(f"{place} holds one array; leave --array {array!r} out")
    if level:
        raise BadInput(f"{place} has one resolution; leave --level {level} out")
