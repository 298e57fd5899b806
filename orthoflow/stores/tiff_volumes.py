"""Volumes in TIFF: one file with many pages, or a folder with one plane for each file."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.stores.answers import refusals
from orthoflow.stores.formats import Stored, check_limits, no_inner_arrays
from orthoflow.stores.objects import list_names
from orthoflow.stores.tiff_checks import check_ome, guard_pictures
from orthoflow.stores.units import length_unit
from orthoflow.stores.zarr_nodes import as_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import tifffile

    from orthoflow.stores.formats import Reading
    from orthoflow.stores.urls import Location

SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
# Compressions whose bytes hold a checksum of their own.
_CHECKED = {"deflate", "adobe_deflate", "lzma"}
# How tifffile says that it will read zeros in place of planes.
_ABSENT = "Missing data are zeroed"
_KNOWN = {"T": "t", "C": "c", "S": "c", "Z": "z", "Y": "y", "X": "x"}


class TiffFormat:
    """A TIFF file: ImageJ, OME-TIFF or plain; pages are decoded when a box needs them."""

    def find(self, place: Location, array: str | None, level: int) -> tuple[Location, str]:
        """The first image of the file, or the one whose number `array` is."""
        if level:
            no_inner_arrays(place, None, level)
        if array:
            with _open(place) as file:
                if not array.isdigit() or int(array) >= len(file.series):
                    raise BadInput(
                        f"array {array!r} of {place}: a TIFF's images are numbered, "
                        f"0 to {len(file.series) - 1}"
                    )
        return place, array or ""

    def inspect(self, place: Location, array: str) -> Stored:
        """Shape, axes and calibration from the headers of the pages."""
        with _open(place) as file:
            series = _series(file, array)
            axes = _axes(series.axes)
            chunks = _chunks(series)
            check_limits(series.shape, chunks, series.dtype.itemsize, str(place))
            _guard(series, place)
            sizes = _calibration(file, int(array or 0))
            checksum = _codec(series) in _CHECKED
        shape, dtype = tuple(series.shape), np.dtype(series.dtype)
        order = axes or ("zyx" if len(shape) == 3 else "")
        if sizes is None or not set("zyx") <= set(order):
            return Stored(shape, dtype, axes, chunks, checksum=checksum)
        scale = tuple(sizes[axis][0] if axis in sizes else 1.0 for axis in order)
        units = tuple(sizes[axis][1] if axis in sizes else None for axis in order)
        zeros = (0.0,) * len(order)
        return Stored(shape, dtype, axes, chunks, scale, zeros, units, checksum=checksum)

    def read(
        self,
        place: Location,
        array: str,
        index: tuple[slice, ...],
        reading: Reading,
    ) -> npt.NDArray[np.generic]:
        """Voxels of `index`; only the pages (tiles, where there are any) that hold them."""
        with _open(place, fill=reading.fill) as file:
            series = _series(file, array)
            _guard(series, place)
            return _read_series(series, index)

    def summarize(self, place: Location) -> dict[str, Any]:
        """Pages, compression and images of the file."""
        with _open(place) as file:
            series = _series(file, "")
            codec = _codec(series)
            return {
                "format": "ome-tiff" if file.is_ome else "imagej" if file.is_imagej else "tiff",
                "images": len(file.series),
                "levels": [
                    {
                        "path": "",
                        "shape": list(series.shape),
                        "dtype": np.dtype(series.dtype).name,
                        "chunks": list(_chunks(series)),
                        "shards": None,
                        "codecs": [codec],
                        "checksum": codec in _CHECKED,
                        "bytes": math.prod(series.shape) * series.dtype.itemsize,
                    }
                ],
            }


class TiffFolder:
    """A folder of TIFF planes, one z each, in natural order of their names."""

    def find(self, place: Location, array: str | None, level: int) -> tuple[Location, str]:
        """The folder is one array."""
        no_inner_arrays(place, array, level)
        return place, ""

    def inspect(self, place: Location, array: str) -> Stored:  # noqa: ARG002 - one array
        """Shape and dtype of the first plane, times the number of planes."""
        names = plane_names(place)
        if not names:
            raise BadInput(f"no planes in {place}; looked for names that end in {SUFFIXES}")
        with _open(place.child(names[0])) as file:
            page = _only_page(file, place.child(names[0]))
            guard_pictures([page], str(place))
            shape, dtype = (len(names), *page.shape), np.dtype(page.dtype)
        check_limits(shape, (1, *shape[1:]), dtype.itemsize, str(place))
        axes = "zyxc" if len(shape) == 4 else None
        document = {"shape": shape, "dtype": dtype.str, "names": _digest(names)}
        return Stored(shape, dtype, axes, (1, *shape[1:]), document=json.dumps(document))

    def read(
        self,
        place: Location,
        array: str,
        index: tuple[slice, ...],
        reading: Reading,
    ) -> npt.NDArray[np.generic]:
        """Voxels of `index`; each plane's file is read once and checked against the first."""
        known = json.loads(reading.document or self.inspect(place, array).document)
        shape, dtype = tuple(known["shape"]), np.dtype(known["dtype"])
        names = plane_names(place)
        if _digest(names) != known["names"]:
            # One plane less would move all that follow.
            raise BadInput(
                f"the planes in {place} changed since they were counted: {shape[0]} then, "
                f"{len(names)} now; start again"
            )
        planes = [
            self._plane(place.child(name), shape[1:], dtype)[index[1:]] for name in names[index[0]]
        ]
        return np.stack(planes) if planes else np.empty((0, *shape[1:]), dtype)

    def summarize(self, place: Location) -> dict[str, Any]:
        """Number of planes and their shape."""
        facts = self.inspect(place, "")
        level = {
            "path": "",
            "shape": list(facts.shape),
            "dtype": facts.dtype.name,
            "chunks": list(facts.chunks or ()),
            "shards": None,
            "codecs": [],
            "checksum": False,
            "bytes": math.prod(facts.shape) * facts.dtype.itemsize,
        }
        return {"format": "folder of tiff planes", "images": facts.shape[0], "levels": [level]}

    def _plane(
        self, place: Location, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[np.generic]:
        with _open(place) as file:
            page = _only_page(file, place)
            if page.shape != shape or page.dtype != dtype:
                raise BadInput(
                    f"plane {place} has shape {page.shape} {page.dtype}, the first plane of the "
                    f"folder {shape} {dtype}; all planes must agree"
                )
            guard_pictures([page], str(place))
            return page.asarray(maxworkers=1)


def _digest(names: list[str]) -> str:
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).hexdigest()


def plane_names(place: Location) -> list[str]:
    """Names of the planes in a folder, in natural order: plane2 before plane10."""
    names = [name for name in list_names(place) if is_tiff(name) and not name.startswith(".")]
    return sorted(names, key=_natural)


def is_tiff(name: str) -> bool:
    """Whether a name ends as TIFF files do."""
    return name.lower().endswith(SUFFIXES)


def _natural(name: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


@contextmanager
def _open(place: Location, *, fill: bool = True) -> Iterator[tifffile.TiffFile]:
    """The opened file, after its chain of pages has been followed to its end.

    A file that was cut off opens with the pages that are left; tifffile only logs that, so its
    log is listened to and an error in it is an error here. So are planes that the file's metadata
    lists and that are nowhere, unless they are to be filled.
    """
    import tifffile  # noqa: PLC0415 - 0.1 s

    try:
        with (
            refusals(place, "read"),
            _Log() as log,
            _bytes_of(place) as source,
            tifffile.TiffFile(source, name=place.name) as file,
        ):
            pages = len(file.pages)
            if pages and file.is_ome:
                check_ome(file.ome_metadata or "", str(place))
            if log.errors or not pages or not file.series:
                raise BadInput(
                    f"{place} is damaged or cut off: {'; '.join(log.errors) or 'no pages'}"
                )
            if log.absent and not fill:
                raise BadInput(
                    f"{place} lists planes that are not there: {log.absent[0]}; if they are meant "
                    "to be empty pass --missing-input fill"
                )
            yield file
    except FileNotFoundError as error:
        raise BadInput(f"no file at {place}") from error
    except tifffile.TiffFileError as error:
        raise BadInput(f"{place} is not a readable TIFF: {error}") from error


@contextmanager
def _bytes_of(place: Location) -> Iterator[Any]:
    if place.is_local:
        yield place.url
        return
    fs, path = place.filesystem()
    with fs.open(path, "rb") as stream:
        # A web server without ranges gives a stream that cannot seek: then all of it is needed.
        yield stream if stream.seekable() else io.BytesIO(fs.cat_file(path))


class _Log(logging.Handler):
    """What tifffile logs in this thread, while the context is open, and does not raise."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[str] = []
        self.absent: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        message = record.getMessage().partition("\n")[0]
        if record.levelno >= logging.ERROR:
            self.errors.append(message)
        elif _ABSENT in message:
            self.absent.append(message)

    def __enter__(self) -> _Log:
        logging.getLogger("tifffile").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("tifffile").removeHandler(self)


def _series(file: tifffile.TiffFile, array: str) -> tifffile.TiffPageSeries:
    import tifffile  # noqa: PLC0415

    series = file.series[int(array or 0)]
    planes = [one for one in file.series if len(one.shape) == 2]
    first = planes[0] if planes else series
    alike = all(one.shape == first.shape and one.dtype == first.dtype for one in planes)
    if array or len(planes) < 2 or len(planes) != len(file.series) or not alike:
        return series
    # Pages that were appended one by one count as images of their own; together they are a stack.
    pages = [one.keyframe for one in planes]
    return tifffile.TiffPageSeries(pages, (len(pages), *first.shape), first.dtype, "QYX")


def _guard(series: tifffile.TiffPageSeries, place: Location) -> None:
    # Those that are loaded: `series.pages` would make one for each plane that a header claims.
    guard_pictures(series._pages, str(place))  # noqa: SLF001


def _codec(series: tifffile.TiffPageSeries) -> str:
    compression = series.keyframe.compression
    return str(getattr(compression, "name", compression)).lower()


def _axes(stated: str) -> str | None:
    letters = [_KNOWN.get(axis, "?") for axis in stated]
    if letters.count("?") == 1 and "z" not in letters and len(letters) > 3:
        letters[letters.index("?")] = "z"
    clear = "?" not in letters and len(set(letters)) == len(letters)
    return "".join(letters) if clear else None


def _chunks(series: tifffile.TiffPageSeries) -> tuple[int, ...]:
    page = series.keyframe
    inner = (page.tilelength, page.tilewidth) if page.is_tiled else page.shape[:2]
    tail = page.shape[2:] if len(page.shape) > 2 else ()
    lead = len(series.shape) - len(inner) - len(tail)
    return (*(1,) * max(lead, 0), *inner, *tail)[-len(series.shape) :]


def _read_series(
    series: tifffile.TiffPageSeries, index: tuple[slice, ...]
) -> npt.NDArray[np.generic]:
    import zarr  # noqa: PLC0415

    # Pages of strips are decoded whole (strips of a few rows would be thousands of tiny reads).
    mode = "strile" if series.keyframe.is_tiled else "page"
    with series.aszarr(level=0, chunkmode=mode, maxworkers=1) as store:
        return as_array(zarr.open_array(store, mode="r")[index])


def _only_page(file: tifffile.TiffFile, place: Location) -> tifffile.TiffPage:
    page = file.pages[0]
    if len(file.pages) != 1 or len(page.shape) not in {2, 3}:
        raise BadInput(
            f"{place} has {len(file.pages)} pages of shape {page.shape}; in a folder each file is "
            "one plane, pass a multi-page file by its own path"
        )
    return page  # type: ignore[return-value]


def _calibration(
    file: tifffile.TiffFile, number: int
) -> dict[str, tuple[float, str | None]] | None:
    """Size and unit for each of z, y, x; None unless the file states all three."""
    sizes = {}
    if file.is_ome and file.ome_metadata:
        sizes = _ome_sizes(file.ome_metadata, number)
    elif file.is_imagej and file.imagej_metadata:
        sizes = _imagej_sizes(file)
    return sizes if set(sizes) == set("zyx") else None


def _ome_sizes(xml: str, number: int) -> dict[str, tuple[float, str | None]]:
    try:
        pixels = [e for e in ET.fromstring(xml).iter() if e.tag.rpartition("}")[2] == "Pixels"]
        facts = pixels[number].attrib
        return {
            axis.lower(): (
                float(facts[f"PhysicalSize{axis}"]),
                length_unit(facts.get(f"PhysicalSize{axis}Unit", "um")),
            )
            for axis in "ZYX"
            if f"PhysicalSize{axis}" in facts
        }
    except (ET.ParseError, ValueError, IndexError):
        return {}


def _imagej_sizes(file: tifffile.TiffFile) -> dict[str, tuple[float, str | None]]:
    metadata = file.imagej_metadata or {}
    unit = length_unit(str(metadata.get("unit", "")))
    sizes = {}
    if "spacing" in metadata:
        sizes["z"] = (abs(float(metadata["spacing"])), unit)
    tags = file.pages[0].tags  # type: ignore[union-attr]
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        if unit and name in tags and all(tags[name].value):
            pixels, length = tags[name].value
            sizes[axis] = (length / pixels, unit)
    return sizes
