"""Whatever a user hands over as a volume: a path, a URL, a DataArray, an array."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.options import triple
from orthoflow.stores.units import length_unit
from orthoflow.stores.urls import public_options
from orthoflow.stores.volumes import IMAGE_DTYPES, VolumeRef, describe, find_volume, read_box

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

    from orthoflow.geometry.box import Box
    from orthoflow.options import Options

# Under this key a DataArray's encoding remembers the file it was opened from.
_ENCODING = "orthoflow"


@dataclass(frozen=True)
class Source:
    """A volume to work on: what is known of it, and where its voxels come from."""

    facts: VolumeFacts
    ref: VolumeRef | None
    """What workers read by themselves; None for arrays."""
    array: da.Array | None
    """Dask array (c, z, y, x) where there is no reference."""

    def read(self, box: Box) -> Any:
        """Voxels (c, z, y, x) of a box, here and now."""
        if self.ref is not None:
            return read_box(self.ref, box)
        assert self.array is not None
        return self.array[(slice(None), *box.slices)].compute(scheduler="threads")


def find_source(volume: Any, options: Options) -> Source:
    """Look at a volume: metadata only.

    Raises
    ------
    BadInput
        If it is no volume, or not one that the options fit.
    """
    public_options(options.storage_option)  # a secret among them would be shown and recorded
    if isinstance(volume, Source):
        return volume
    if isinstance(volume, str) or hasattr(volume, "__fspath__"):
        ref = find_volume(
            str(volume),
            array=options.array,
            level=options.level,
            axes=options.axes,
            time=options.time,
            channel=options.channel,
            storage_options=dict(options.storage_option),
            missing=options.missing_input,
        )
        return Source(_described(ref, options), ref, None)
    if hasattr(volume, "dims") and hasattr(volume, "coords"):
        return _from_xarray(volume, options)
    if hasattr(volume, "shape") and hasattr(volume, "dtype"):
        return _from_array(volume, options)
    raise BadInput(
        f"input {type(volume).__name__} is no volume; give a path, a URL, an xarray.DataArray, or "
        "a NumPy or Dask array of (z, y, x) or (c, z, y, x)"
    )


def _described(ref: VolumeRef, options: Options) -> VolumeFacts:
    """Facts of a file, whose voxel size may be given instead."""
    if options.voxel_size is None:
        return describe(ref)
    size = triple("voxel_size", options.voxel_size)
    return describe(ref, voxel_size=size, unit="micrometer")


def _with_voxel_size(facts: VolumeFacts, options: Options) -> VolumeFacts:
    if options.voxel_size is None:
        return facts
    return facts.with_voxel_size(triple("voxel_size", options.voxel_size), "micrometer")


def _from_array(array: Any, options: Options, name: str = "memory") -> Source:
    import dask.array as da  # noqa: PLC0415 - planning needs no Dask

    axes = options.axes or {3: "zyx", 4: "czyx"}.get(array.ndim, "")
    if sorted(axes) not in (sorted("zyx"), sorted("czyx")) or len(axes) != array.ndim:
        raise BadInput(
            f"input has {array.ndim} axes{f' named {axes!r}' if axes else ''}; give (z, y, x) or "
            "(c, z, y, x), or name them with axes, as in axes='xyz'"
        )
    if 0 in array.shape:
        raise BadInput(f"input has shape {tuple(array.shape)}: an axis of 0 voxels holds nothing")
    if np.dtype(array.dtype).name not in IMAGE_DTYPES:
        raise BadInput(
            f"input {name} is {array.dtype}; supported are {', '.join(IMAGE_DTYPES)}: convert it "
            "with .astype"
        )
    if not isinstance(array, da.Array):
        # Chunks of a few megabytes: a block's tasks are sent what they read and little more.
        array = da.from_array(np.asarray(array), chunks=256, name=False)
    lazy = array
    lazy = lazy.transpose([axes.index(a) for a in "czyx" if a in axes])
    lazy = lazy if lazy.ndim == 4 else lazy[None]
    if options.channel is not None:
        if options.channel >= lazy.shape[0]:
            raise BadInput(
                f"channel {options.channel} is out of range: the input has {lazy.shape[0]} channels"
            )
        lazy = lazy[options.channel : options.channel + 1]
    facts = VolumeFacts(
        name=name,
        shape=(lazy.shape[1], lazy.shape[2], lazy.shape[3]),
        dtype=str(lazy.dtype),
        channels=lazy.shape[0],
    )
    return Source(_with_voxel_size(facts, options), None, lazy)


def _from_xarray(data: xr.DataArray, options: Options) -> Source:
    remembered = data.encoding.get(_ENCODING)
    # A Dask name changes with every operation: the same name is the very array that was opened.
    unchanged = remembered is not None and getattr(data.data, "name", None) == remembered[0]
    if remembered is not None and unchanged and options.channel is None and options.axes is None:
        ref = remembered[1]
        if options.missing_input == "fill":
            ref = replace(ref, missing="fill")
        return Source(_described(ref, options), ref, None)
    axes = "".join(str(d) for d in data.dims)
    axes = options.axes or (axes if set(axes) <= set("czyx") else None)  # type: ignore[assignment]
    source = _from_array(data.data, replace(options, axes=axes), str(data.name or "memory"))
    size, origin, unit = _placement(data)
    facts = replace(source.facts, voxel_size=size, unit=unit, translation=origin)
    return replace(source, facts=_with_voxel_size(facts, options))


def _placement(
    data: xr.DataArray,
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float], str | None]:
    """Voxel size, origin and unit from evenly spaced coordinates, if all three axes have them."""
    sizes, origins, units = [], [], []
    for axis in "zyx":
        if axis not in data.coords or data.coords[axis].size < 2:
            return None, (0.0, 0.0, 0.0), None
        places = np.asarray(data.coords[axis], float)
        size = float(places[-1] - places[0]) / (len(places) - 1)
        if size <= 0 or not np.allclose(np.diff(places), size, rtol=1e-3, atol=0):
            return None, (0.0, 0.0, 0.0), None
        sizes.append(size)
        origins.append(float(places[0]))
        stated = data.coords[axis].attrs.get("units")
        units.append((stated is not None, length_unit(stated)))
    # Units that differ, or that are no lengths, place nothing.
    if len(set(units)) > 1 or units[0] == (True, None):
        return None, (0.0, 0.0, 0.0), None
    return (sizes[0], sizes[1], sizes[2]), (origins[0], origins[1], origins[2]), units[0][1]


def remember(data: xr.DataArray, ref: VolumeRef) -> xr.DataArray:
    """Let a DataArray remember the file it shows, so that workers can read it by themselves."""
    data.encoding[_ENCODING] = (data.data.name, ref)
    return data
