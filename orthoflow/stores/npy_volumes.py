"""Volumes in NumPy's own files: memory-mapped on a disk, read by byte ranges elsewhere."""

from __future__ import annotations

import io
import json
import math
import tokenize
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.stores.answers import first_line, refusals
from orthoflow.stores.formats import Stored, no_inner_arrays

if TYPE_CHECKING:
    import numpy.typing as npt

    from orthoflow.stores.formats import Reading
    from orthoflow.stores.urls import Location

_HEADER_LIMIT = 64 * 2**10
_MOST_VOXELS = 2**48
"""Along one axis."""
# What NumPy and the parser of Python's literals raise for headers that are none.
_HEADER_ERRORS = (
    *(ValueError, KeyError, EOFError, TypeError, SyntaxError, RecursionError, MemoryError),
    tokenize.TokenError,
)


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int


class NpyFormat:
    """One array in one `.npy` file."""

    def find(self, place: Location, array: str | None, level: int) -> tuple[Location, str]:
        """The file is one array."""
        no_inner_arrays(place, array, level)
        return place, ""

    def inspect(self, place: Location, array: str) -> Stored:  # noqa: ARG002 - one array
        """Shape and dtype from the header, checked against the size of the file."""
        header = _header(place)
        return Stored(header.shape, header.dtype, document=_document(header))

    def read(
        self,
        place: Location,
        array: str,  # noqa: ARG002 - one array
        index: tuple[slice, ...],
        reading: Reading,
    ) -> npt.NDArray[np.generic]:
        """Voxels of `index`; elsewhere than on a disk, the rows of its first axis are fetched."""
        header = _known(reading.document) if reading.document else _header(place)
        if place.is_local:
            order = "F" if header.fortran else "C"
            mapped = np.memmap(
                place.url,
                header.dtype,
                "r",
                header.offset,
                header.shape,
                order,  # type: ignore[call-overload]
            )
            return np.array(mapped[index])
        if header.fortran:
            return _rows(place, header, header.shape[::-1], index[::-1]).T
        return _rows(place, header, header.shape, index)

    def summarize(self, place: Location) -> dict[str, Any]:
        """Shape and dtype."""
        header = _header(place)
        level = {
            "path": "",
            "shape": list(header.shape),
            "dtype": header.dtype.name,
            "chunks": None,
            "shards": None,
            "codecs": [],
            "checksum": False,
            "bytes": math.prod(header.shape) * header.dtype.itemsize,
        }
        return {"format": "npy", "levels": [level]}


def _rows(
    place: Location, header: _Header, shape: tuple[int, ...], index: tuple[slice, ...]
) -> npt.NDArray[np.generic]:
    row = math.prod(shape[1:]) * header.dtype.itemsize
    first, last, _ = index[0].indices(shape[0])
    fs, path = place.filesystem()
    start, stop = header.offset + first * row, header.offset + last * row
    content = fs.cat_file(path, start=start, end=stop) if stop > start else b""
    if len(content) > stop - start:  # a web server without ranges sends all of it
        content = content[start:stop]
    values = np.frombuffer(content, header.dtype).reshape(-1, *shape[1:])
    return values[(slice(None), *index[1:])]


def _document(header: _Header) -> str:
    facts = {**asdict(header), "dtype": header.dtype.str}
    return json.dumps(facts, separators=(",", ":"))


def _known(document: str) -> _Header:
    facts = json.loads(document)
    return _Header(
        tuple(facts["shape"]), facts["fortran"], np.dtype(facts["dtype"]), facts["offset"]
    )


def _header(place: Location) -> _Header:
    with refusals(place, "read"):
        try:
            head, size = _head(place)
        except FileNotFoundError as error:
            raise BadInput(f"no file at {place}") from error
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream)
    except _HEADER_ERRORS as error:
        # NumPy's further lines advise to trust the file.
        raise BadInput(f"{place} is not a readable .npy file: {first_line(error)}") from error
    if not all(type(side) is int and 0 <= side <= _MOST_VOXELS for side in shape):
        raise BadInput(f"{place} states shape {shape}, which cannot be")
    header = _Header(shape, fortran, dtype, stream.tell())
    needed = header.offset + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise BadInput(f"{place} is cut off: it has {size} bytes, {shape} {dtype} needs {needed}")
    return header


def _head(place: Location) -> tuple[bytes, int]:
    if place.is_local:
        with Path(place.url).open("rb") as file:
            return file.read(_HEADER_LIMIT), Path(place.url).stat().st_size
    fs, path = place.filesystem()
    size = int(fs.info(path)["size"] or 0)
    return bytes(fs.cat_file(path, start=0, end=min(size, _HEADER_LIMIT))), size
