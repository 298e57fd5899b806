"""OME-Zarr image metadata, versions 0.1 to 0.5: read, and written for 0.4 and 0.5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orthoflow.errors import BadInput
from orthoflow.stores.units import length_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.output import ArraySpec, OutputSpec

OmeVersion = Literal["0.4", "0.5"]

_BEFORE_AXES = "tczyx"
"""Axes of versions 0.1 and 0.2, which did not state them."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One resolution; scale and translation for each stored axis."""

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Multiscale:
    """One image as its group describes it."""

    version: str
    name: str
    axes: str
    units: tuple[str | None, ...]
    datasets: tuple[Dataset, ...]

    @property
    def is_in_voxels(self) -> bool:
        """Whether the scale says nothing of physical size: no unit, and 1 at full resolution."""
        spatial = [i for i, axis in enumerate(self.axes) if axis in "zyx"]
        first = self.datasets[0].scale
        return not any(self.units) and all(first[i] == 1 for i in spatial)

    def calibration(self, level: int) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
        """Scale and translation of a level; (None, voxels) where no physical size is stated."""
        dataset = self.datasets[level]
        if not self.is_in_voxels:
            return dataset.scale, dataset.translation
        pairs = zip(dataset.translation, dataset.scale, strict=True)
        return None, tuple(t / s for t, s in pairs)


def read_multiscale(attributes: dict[str, Any], named: str) -> Multiscale | None:
    """The first image that a group's attributes describe; None where they describe none.

    Raises
    ------
    BadInput
        When the metadata is there but cannot be used; `named` says whose it is.
    """
    ome = attributes.get("ome")
    holder = ome if isinstance(ome, dict) else attributes
    images = holder.get("multiscales")
    if not images:
        return None
    try:
        return _parse(images[0], str(holder.get("version") or images[0].get("version", "")))
    except BadInput:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise BadInput(f"OME-Zarr metadata of {named} cannot be used: {error!r}") from error


def label_names(attributes: dict[str, Any]) -> list[str]:
    """Names that a `labels` group lists."""
    ome = attributes.get("ome")
    holder = ome if isinstance(ome, dict) else attributes
    names = holder.get("labels")
    return [str(name) for name in names] if isinstance(names, list) else []


def channel_names(attributes: dict[str, Any]) -> list[str]:
    """Channel labels of the optional `omero` part."""
    ome = attributes.get("ome")
    holder = ome if isinstance(ome, dict) else attributes
    omero = holder.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return []
    return [str(channel.get("label", "")) for channel in channels if isinstance(channel, dict)]


def image_metadata(spec: OutputSpec, array: ArraySpec, prefix: str = "") -> dict[str, Any]:
    """The `multiscales` entry of one array; `prefix` leads from the group to the array's own."""
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if array.classes else []
    unit = {"unit": spec.unit} if spec.unit and spec.voxel_size else {}
    axes += [{"name": name, "type": "space", **unit} for name in "zyx"]
    lead = [1.0] if array.classes else []
    voxel = spec.voxel_size or (1.0, 1.0, 1.0)
    datasets = []
    for number, level in enumerate(array.levels):
        scale = [v * f for v, f in zip(voxel, level.factors, strict=True)]
        # The centre of the first coarse voxel lies (factor - 1) / 2 fine voxels further in.
        offset = [
            start + (factor - 1) / 2 * side
            for start, factor, side in zip(spec.translation, level.factors, voxel, strict=True)
        ]
        datasets.append(
            {
                "path": f"{prefix}{number}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*lead, *scale]},
                    {"type": "translation", "translation": [0.0] * len(lead) + offset},
                ],
            }
        )
    version = {"version": "0.4"} if spec.ome_version == "0.4" else {}
    return {
        **version,
        "name": array.path.rpartition("/")[2] or "image",
        "axes": axes,
        "datasets": datasets,
        "type": "mode" if array.kind == "labels" else "mean",
    }


def group_attributes(version: OmeVersion, content: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group: version 0.5 nests and names its version once."""
    return {"ome": {"version": "0.5", **content}} if version == "0.5" else content


def _parse(image: dict[str, Any], version: str) -> Multiscale:
    axes, units = _axes(image.get("axes"))
    outer = image.get("coordinateTransformations") or []
    datasets = []
    for entry in image["datasets"]:
        steps = [*(entry.get("coordinateTransformations") or []), *outer]
        scale, translation = _compose(steps, len(axes))
        datasets.append(Dataset(str(entry["path"]).strip("/"), scale, translation))
    if not datasets:
        raise BadInput("OME-Zarr metadata lists no datasets")
    return Multiscale(version, str(image.get("name") or ""), axes, units, tuple(datasets))


def _axes(stated: list[Any] | None) -> tuple[str, tuple[str | None, ...]]:
    if stated is None:
        return _BEFORE_AXES, (None,) * len(_BEFORE_AXES)
    names, units = [], []
    for axis in stated:
        facts = axis if isinstance(axis, dict) else {"name": axis}
        names.append(_letter(str(facts["name"]), facts.get("type")))
        units.append(length_unit(facts.get("unit")) if names[-1] in "zyx" else None)
    return "".join(names), tuple(units)


def _letter(name: str, kind: object) -> str:
    # Only z, y and x are told apart by name; time and channel axes may be called anything.
    letter = {"time": "t", "channel": "c"}.get(str(kind), name.lower())
    if letter not in _BEFORE_AXES or len(letter) != 1:
        raise BadInput(f"OME-Zarr axis {name!r} is none of t, c, z, y, x; pass --array and --axes")
    return letter


def _compose(
    steps: Sequence[dict[str, Any]], ndim: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    scale, translation = [1.0] * ndim, [0.0] * ndim
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        values = [float(value) for value in step[kind]]
        if kind not in {"scale", "translation"} or len(values) != ndim:
            raise BadInput(f"OME-Zarr transformation {step!r} does not fit {ndim} axes")
        if not all(math.isfinite(value) for value in values):
            raise BadInput(f"OME-Zarr transformation {step!r} is not finite")
        if kind == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            translation = [a * b for a, b in zip(translation, values, strict=True)]
        else:
            translation = [a + b for a, b in zip(translation, values, strict=True)]
    return tuple(scale), tuple(translation)
