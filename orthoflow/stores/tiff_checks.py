"""What a TIFF file states, looked at before tifffile acts on it.

OME-XML names other files, and numbers of planes for which lists are made. A compressed picture in
a page (JPEG, JPEG 2000) states a size of its own, for which memory is taken whatever the page says.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import tifffile

PLANE_LIMIT = 10**7
"""Planes in one image, and in one entry of its list."""

_COUNTS = ("NumPlanes", "PlaneCount", "IFD", "FirstZ", "FirstC", "FirstT")
# Decoded into memory of the size of the tile, and refused where that is too small.
_BOUNDED = {1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013}
_JPEG = {6, 7, 33007, 34892}
_JPEG_2000 = {33003, 33004, 33005, 34712}
_SLACK = 2**16
_NO_FRAME = {0xC4, 0xC8, 0xCC}
_BARE = {0x01, *range(0xD0, 0xD9)}


def check_ome(xml: str, named: str) -> None:
    """Refuse OME-XML that leads to other folders, or to lists of planes that no file holds.

    Raises
    ------
    BadInput
        Naming the file.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise BadInput(f"{named} defines entities in its OME-XML, which no microscope does")
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:  # tifffile reads the pages without it
        return
    for element in root.iter():
        _check_element(element.tag.rpartition("}")[2], element.attrib, named)


def _check_element(kind: str, facts: dict[str, str], named: str) -> None:
    planes = 1.0
    if kind == "Pixels":
        planes = math.prod(_number(facts, f"Size{axis}") for axis in "ZCT")
    elif kind == "TiffData":
        planes = max(_number(facts, name) for name in _COUNTS)
    elif kind.startswith("ModuloAlong") and "Start" in facts:
        planes = _steps(facts)
    elif kind == "UUID" and not _is_below(facts.get("FileName", "")):
        raise BadInput(
            f"{named} takes planes from {facts['FileName']!r}, which is not in its folder; move "
            "that file there, or convert the volume to OME-Zarr"
        )
    if not 0 <= planes <= PLANE_LIMIT:
        raise BadInput(f"{named} states {planes:g} planes in its OME-XML; at most {PLANE_LIMIT}")


def _number(facts: dict[str, str], name: str) -> float:
    try:
        return float(facts.get(name, "1"))
    except ValueError:
        return math.inf


def _steps(facts: dict[str, str]) -> float:
    step = abs(_number(facts, "Step"))
    span = abs(_number(facts, "End") - _number(facts, "Start"))
    return span / step if step else math.inf


def _is_below(name: str) -> bool:
    """Whether a name leads no further than the folder of the file that has it."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return not any(path.anchor or ".." in path.parts for path in paths)


def guard_pictures(pages: Iterable[Any], named: str) -> None:
    """Have the pictures in these pages looked at before each is decoded.

    Raises
    ------
    BadInput
        For a compression whose pictures state their size in a way that is not known here.
    """
    keyframes = {id(page.keyframe): page.keyframe for page in pages if page is not None}
    for page in keyframes.values():
        if page.compression not in _BOUNDED:
            page.decode = _looking(page, named)


def _looking(page: tifffile.TiffPage, named: str) -> Callable[..., Any]:
    """The decoder of a page, behind a look at what it is given."""
    sizes = {**dict.fromkeys(_JPEG, jpeg_samples), **dict.fromkeys(_JPEG_2000, jpeg_2000_samples)}
    measure = sizes.get(page.compression)
    if measure is None:
        name = getattr(page.compression, "name", page.compression)
        raise BadInput(
            f"{named} is compressed by {name}, which is not read; rewrite it with zstd or deflate"
        )
    decode, limit = page.decode, 2 * math.prod(page.chunks) + _SLACK

    def checked(data: bytes | None, index: int, /, **options: Any) -> Any:
        if data is not None:
            samples = measure((options.get("jpegheader") or b"") + data)
            if samples is None or samples > limit:
                stated = "no size" if samples is None else f"{samples} samples"
                raise BadInput(
                    f"{named}: the picture in part {index} of a page states {stated}, there is "
                    f"room for {math.prod(page.chunks)}; the file is damaged or hostile"
                )
        return decode(data, index, **options)

    return checked


def jpeg_samples(data: bytes) -> int | None:
    """Height times width times components that a JPEG picture states; None where it does not."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = _integer(data, at + 5, 2), _integer(data, at + 7, 2)
            return height * width * data[at + 9] or None
        elif marker in {0xD9, 0xDA}:
            return None
        else:
            at += 2 + _integer(data, at + 2, 2)
    return None


def jpeg_2000_samples(data: bytes) -> int | None:
    """The same of a JPEG 2000 picture, bare or in its box."""
    start = _codestream(data)
    if start is None or data[start : start + 4] != b"\xff\x4f\xff\x51" or len(data) < start + 42:
        return None
    right, bottom, left, top = (_integer(data, start + at, 4) for at in (8, 12, 16, 20))
    return (right - left) * (bottom - top) * _integer(data, start + 40, 2)


def _codestream(data: bytes) -> int | None:
    """Where the picture begins, after other boxes if there are any."""
    if not data.startswith(b"\x00\x00\x00\x0cjP  "):
        return 0
    at = 0
    while at + 16 <= len(data):
        length, head = _integer(data, at, 4), 8
        if length == 1:
            length, head = _integer(data, at + 8, 8), 16
        if data[at + 4 : at + 8] == b"jp2c":
            return at + head
        if length < head:
            return None
        at += length
    return None


def _integer(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
