"""Input volumes of any format: find one, describe it, read boxes of it as (c, z, y, x)."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from orthoflow.errors import BadInput, BlockFailed, BlockImpossible
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.stores.answers import first_line, is_absence, refusals
from orthoflow.stores.formats import DECODER_ERRORS, Reading, is_damage
from orthoflow.stores.npy_volumes import NpyFormat
from orthoflow.stores.objects import read_object
from orthoflow.stores.patience import patiently
from orthoflow.stores.tiff_volumes import TiffFolder, TiffFormat, is_tiff, plane_names
from orthoflow.stores.units import METRES, require_length_unit, require_voxel_size
from orthoflow.stores.urls import Location, locate
from orthoflow.stores.zarr_nodes import read_node
from orthoflow.stores.zarr_volumes import ZarrFormat

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    import numpy.typing as npt

    from orthoflow.geometry.box import Box, Triple
    from orthoflow.stores.formats import Format, Stored
    from orthoflow.stores.urls import Options

Kind = Literal["zarr", "tiff", "tiff_folder", "npy"]
Missing = Literal["fail", "fill"]
T = TypeVar("T")

START_PATIENCE = 5.0
"""Seconds for which a store is asked again before there is anything to lose."""

FORMATS: dict[Kind, Format] = {
    "zarr": ZarrFormat(),
    "tiff": TiffFormat(),
    "tiff_folder": TiffFolder(),
    "npy": NpyFormat(),
}
"""Every input format; a new one is a class with the methods of `formats.Format`, listed here."""

IMAGE_DTYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    *("float16", "float32", "float64"),
)
"""Intensities. Networks see float32: 32-bit integers above 2**24 and float64 are rounded."""

LABEL_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
"""Object numbers."""

_LETTERS = "tczyx"


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """Which array, and what of it; a few hundred bytes without credentials, made to travel."""

    url: str
    kind: Kind
    array: str
    """Path inside a Zarr group, number of the image in a TIFF; empty for the place itself."""
    axes: str
    """One letter of "tczyx" for each stored axis, in the order of the file."""
    time: int | None = None
    channel: int | None = None
    """None for all channels."""
    storage_options: Options = ()
    missing: Missing = "fail"
    """What a chunk that is not stored means: a failure, or the fill value."""
    document: str = field(default="", repr=False)
    """Metadata of the array as JSON, so that a box is read without another look at it."""

    @property
    def place(self) -> Location:
        """Where it is stored."""
        return locate(self.url, self.storage_options)

    def __str__(self) -> str:
        return f"{self.place}/{self.array}" if self.array else str(self.place)


def find_volume(  # noqa: PLR0913 - each is one wish about one input
    url: str | os.PathLike[str],
    *,
    array: str | None = None,
    level: int = 0,
    axes: str | None = None,
    time: int | None = None,
    channel: int | None = None,
    storage_options: Mapping[str, object] | Options | None = None,
    labels: bool = False,
    missing: str = "fail",
) -> VolumeRef:
    """Find the volume at `url`; only metadata is read.

    Parameters
    ----------
    url
        Zarr array or group, OME-Zarr image, TIFF file, folder of TIFF planes, or `.npy` file.
    array
        Path of an array or image inside a Zarr group; number of an image inside a TIFF.
    level
        Resolution of an OME-Zarr image, 0 being the finest.
    axes
        Order of the stored axes, such as "xyz" or "zyxc"; overrides what the file says.
    time, channel
        Index along t, needed where t is longer than 1; index along c, all channels by default.
    storage_options
        Public options of the store; credentials belong in the environment.
    labels
        Whether the voxels are object numbers, so that 64-bit integers are welcome.
    missing
        "fail" where every chunk has to be stored, "fill" where empty ones may have been left out
        (of orthoflow's own outputs it is known that they are).

    Raises
    ------
    BadInput
        When there is no such volume or it cannot be read; the message names the remedy.
    StoreRefused
        When the store wants other credentials or does not answer.
    """
    if missing not in {"fail", "fill"}:
        raise BadInput(f"missing {missing!r} is neither fail nor fill")

    def look() -> tuple[VolumeRef, Stored]:
        kind = _kind(asked)
        place, inner = FORMATS[kind].find(asked, array, level)
        ref = VolumeRef(place.url, kind, inner, "", storage_options=place.options)
        return ref, FORMATS[kind].inspect(place, inner)

    asked = locate(url, storage_options)
    ref, stored = _at_start(asked, look)
    absent: Missing = "fill" if missing == "fill" or stored.sparse else "fail"
    ref = replace(ref, missing=absent, document=stored.document)
    ref = replace(ref, axes=_axes(ref, stored, axes))
    _check_dtype(ref, stored.dtype, LABEL_DTYPES if labels else IMAGE_DTYPES)
    for axis, size in zip(ref.axes, stored.shape, strict=True):
        if size == 0:
            raise BadInput(f"{ref} has extent 0 on axis {axis}; there is nothing to do")
    sizes = dict(zip(ref.axes, stored.shape, strict=True))
    return replace(
        ref, time=_time(ref, sizes.get("t"), time), channel=_channel(ref, sizes.get("c"), channel)
    )


def describe(
    ref: VolumeRef,
    *,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
) -> VolumeFacts:
    """Facts of the volume, axes (c, z, y, x).

    Parameters
    ----------
    ref
        From `find_volume`.
    voxel_size
        Size of a stored voxel along (z, y, x), in place of what the file states.
    unit
        Unit of the voxel size, in place of what the file states.
    """
    place = ref.place
    stored = _at_start(place, lambda: FORMATS[ref.kind].inspect(place, ref.array))
    sizes = dict(zip(ref.axes, stored.shape, strict=True))
    channels = 1 if ref.channel is not None else sizes.get("c", 1)
    try:
        size, translation, stated_unit = _calibration(ref, stored)
    except BadInput:
        if voxel_size is None:
            raise
        # What is given takes the place of a size that cannot be; where it begins nobody knows.
        size, translation, stated_unit = None, (0.0, 0.0, 0.0), None
    own_unit = require_length_unit(unit) if unit else stated_unit
    facts = VolumeFacts(
        name=str(ref),
        shape=_spatial(ref, stored.shape),
        dtype=stored.dtype.newbyteorder("=").name,
        channels=channels,
        chunks=_spatial(ref, stored.chunks) if stored.chunks else None,
        shards=_spatial(ref, stored.shards) if stored.shards else None,
        voxel_size=size,
        unit=own_unit,
        translation=translation,
        checksum=stored.checksum,
    )
    if voxel_size is None:
        return facts
    return facts.with_voxel_size(require_voxel_size(tuple(voxel_size), "the given"), own_unit)


def read_box(ref: VolumeRef, box: Box, *, filled: list[str] | None = None) -> npt.NDArray[Any]:
    """Voxels of `box` as (c, z, y, x): native byte order, C-contiguous, chunks read once.

    Parameters
    ----------
    ref
        From `find_volume`; with its document no metadata is asked for.
    box
        Part of the volume.
    filled
        Receives the keys of chunks that are not stored and were read as the fill value.

    Raises
    ------
    BlockImpossible
        When a chunk or file is not stored, and it was not said that such are empty.
    BlockFailed
        When stored bytes cannot be decoded; the message names the chunk or the box.
    StoreRefused
        When the store wants other credentials. Errors that may pass are raised as they come: see
        `stores.patience`.
    """
    if min(box.start) < 0:
        raise BadInput(f"box {box} starts before {ref}")
    if box.voxels == 0:
        raise BadInput(f"box {box} of {ref} is empty")
    spans = {
        axis: slice(start, stop)
        for axis, start, stop in zip("zyx", box.start, box.stop, strict=True)
    }
    time, channel = ref.time or 0, ref.channel
    spans["t"] = slice(time, time + 1)
    spans["c"] = slice(None) if channel is None else slice(channel, channel + 1)
    index = tuple(spans[axis] for axis in ref.axes)
    reading = Reading(ref.document, ref.missing == "fill", [] if filled is None else filled)
    place = ref.place
    with refusals(place, "read"), _failures(ref, box):
        values = FORMATS[ref.kind].read(place, ref.array, index, reading)
    values = _to_czyx(values, ref.axes)
    if values.shape[1:] != box.shape:
        raise BadInput(f"box {box} reaches beyond {ref}, which ends within {values.shape[1:]}")
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))


def summarize(
    url: str | os.PathLike[str], storage_options: Mapping[str, object] | Options | None = None
) -> dict[str, Any]:
    """What is stored at `url`, JSON-able: kind, axes, levels, dtype, codecs, channels, labels."""
    place = locate(url, storage_options)

    def look() -> dict[str, Any]:
        kind = _kind(place)
        facts = {"url": str(place), "kind": kind, **FORMATS[kind].summarize(place)}
        return {**facts, **_summary_of_first(place, kind)} if facts["levels"] else facts

    facts = _at_start(place, look)
    return {**facts, "bytes": sum(level["bytes"] for level in facts["levels"])}


def _at_start(place: Location, look: Callable[[], T]) -> T:
    """What is found at a place; someone waits, so a store that does not answer is said soon."""
    return patiently(look, seconds=START_PATIENCE, doing=f"look at {place}")


def _summary_of_first(place: Location, kind: Kind) -> dict[str, Any]:
    found, inner = FORMATS[kind].find(place, None, 0)
    stored = FORMATS[kind].inspect(found, inner)
    stated = stored.axes is not None
    axes = stored.axes or ("zyx" if len(stored.shape) == 3 else None)
    facts: dict[str, Any] = {"axes": axes, "axes_stated": stated, "dtype": stored.dtype.name}
    if axes and len(axes) == len(stored.shape):
        sizes = dict(zip(axes, stored.shape, strict=True))
        facts["channels"], facts["times"] = sizes.get("c", 1), sizes.get("t", 1)
        if set("zyx") <= set(axes):
            ref = VolumeRef(found.url, kind, inner, axes, storage_options=found.options)
            size, translation, unit = _calibration(ref, stored)
            facts.update(
                voxel_size=list(size) if size else None, unit=unit, translation=list(translation)
            )
    return facts


def _kind(place: Location) -> Kind:
    name = place.name.lower()
    if name.endswith(".npy"):
        return "npy"
    listable = place.protocol not in {"http", "https"}
    if is_tiff(name) and not (listable and plane_names(place)):
        return "tiff"
    if "?" not in place.url and read_node(place) is not None:
        return "zarr"
    if listable and plane_names(place):
        return "tiff_folder"
    held = ""
    if place.is_local and read_object(place, limit=2**62) is not None:
        held = " (a file of another kind)"
    raise BadInput(
        f"no array at {place}{held}; looked for zarr.json, .zarray, .zgroup, planes *.tif, and "
        "for names that end in .tif or .npy"
    )


def _axes(ref: VolumeRef, stored: Stored, wished: str | None) -> str:
    ndim = len(stored.shape)
    axes = (wished or stored.axes or "").lower()
    if not axes and ndim == 3:
        return "zyx"
    if ndim < 3:
        raise BadInput(
            f"{ref} has {ndim} axes {stored.shape}; a volume needs z, y and x "
            "(a folder of 2-D TIFF files is read as one volume)"
        )
    if not axes:
        raise BadInput(
            f"{ref} has {ndim} axes {stored.shape} and does not say which; three axes are taken "
            f"as zyx, for {ndim} pass --axes, as in --axes {_LETTERS[-ndim:]}"
        )
    said = "given" if wished else "stated"
    if len(axes) != ndim or len(set(axes)) != ndim or not set(axes) <= set(_LETTERS):
        raise BadInput(
            f"axes {axes!r} ({said}) do not fit {ref} with shape {stored.shape}; "
            f"--axes takes {ndim} different letters of {_LETTERS}"
        )
    if not set("zyx") <= set(axes):
        raise BadInput(
            f"axes {axes!r} ({said}) of {ref} with shape {stored.shape} lack one of z, y, x; "
            "pass --axes if another axis is meant, as in --axes zyx"
        )
    return axes


def _check_dtype(ref: VolumeRef, dtype: np.dtype[Any], accepted: tuple[str, ...]) -> None:
    if dtype.name in accepted:
        return
    remedy = "convert it to uint8, uint16 or float32"
    if dtype.kind == "b":
        remedy = "store it as uint8 (array.astype('uint8'))"
    elif dtype.kind == "c":
        remedy = "store its magnitude or phase as float32"
    elif dtype.kind in "iu":
        remedy = "64-bit integers are object numbers; store intensities as uint16 or float32"
    raise BadInput(
        f"{ref} has data type {dtype.name}; supported are {', '.join(accepted)}: {remedy}"
    )


def _time(ref: VolumeRef, size: int | None, wished: int | None) -> int | None:
    if size is None:
        if wished:
            raise BadInput(f"time {wished} of {ref}: it has no time axis (axes {ref.axes})")
        return None
    if wished is None:
        if size > 1:
            raise BadInput(f"{ref} has {size} time points; choose one with --time, 0 to {size - 1}")
        return 0
    if not 0 <= wished < size:
        raise BadInput(f"time {wished} of {ref}: it has {size} time points, 0 to {size - 1}")
    return wished


def _channel(ref: VolumeRef, size: int | None, wished: int | None) -> int | None:
    count = 1 if size is None else size
    if wished is not None and not 0 <= wished < count:
        raise BadInput(f"channel {wished} of {ref}: it has {count} channels, 0 to {count - 1}")
    return None if size is None else wished


def _calibration(
    ref: VolumeRef, stored: Stored
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float], str | None]:
    """Voxel size, translation, unit, with (z, y, x) in one unit."""
    order = [ref.axes.index(axis) for axis in "zyx"]
    shift = stored.translation or (0.0,) * len(ref.axes)
    translation = tuple(shift[i] for i in order)
    if stored.scale is None:
        return None, cast("tuple[float, float, float]", translation), None
    size = tuple(stored.scale[i] for i in order)
    units = [stored.units[i] if stored.units else None for i in order]
    if None in units or len(set(units)) == 1:
        unit = units[2] if len(set(units)) == 1 else None
    else:
        unit = units[2]
        ratios = [METRES[str(one)] / METRES[str(unit)] for one in units]
        size = tuple(side * ratio for side, ratio in zip(size, ratios, strict=True))
        translation = tuple(t * ratio for t, ratio in zip(translation, ratios, strict=True))
    checked = require_voxel_size(size, f"{ref} states a")
    return checked, cast("tuple[float, float, float]", translation), unit


def _spatial(ref: VolumeRef, values: tuple[int, ...]) -> Triple:
    z, y, x = (values[ref.axes.index(axis)] for axis in "zyx")
    return (z, y, x)


def _to_czyx(values: npt.NDArray[Any], axes: str) -> npt.NDArray[Any]:
    for missing in (axis for axis in "tc" if axis not in axes):
        values, axes = values[np.newaxis], missing + axes
    ordered: npt.NDArray[Any] = values.transpose([axes.index(axis) for axis in "tczyx"])[0]
    return ordered


@contextmanager
def _failures(ref: VolumeRef, box: Box) -> Iterator[None]:
    """What is wrong with a volume that was found is a failure of the block that reads it."""
    try:
        yield
    except BadInput as error:
        raise BlockImpossible(str(error)) from error
    except DECODER_ERRORS as error:
        if is_absence(error):
            raise BlockImpossible(f"voxels {box} of {ref} are gone: {first_line(error)}") from error
        if not is_damage(error):
            raise
        raise BlockFailed(
            f"voxels {box} of {ref} cannot be decoded: {first_line(error)}"
        ) from error
