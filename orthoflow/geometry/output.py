"""Every array of an output, level by level: decided in the plan, carried out by the stores."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Triple

if TYPE_CHECKING:
    from collections.abc import Sequence

OBJECT_LIMIT = 10**9
"""The most objects that an output may have."""

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")
_DTYPES = {
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
}
_RESERVED = "orthoflow"

PLANES = "planes"
"""Group of the per-plane cells of each orientation."""
CLASSES = "classes"
"""Array of the voxels' classes, where objects are components of these."""
MIDDLES = "middles"
"""Array of each voxel's centre, of a panoptic network of 3-D patches: 1 + raster index."""
ENDS = "flows/ends"
"""Array of where voxels end that follow the flow: 1 + raster index, 0 is background."""

Stage = Literal["blocks", "labels"]
"""Tasks that write arrays: those of the network, and those that paint instances afterwards."""

_MOST_VOXELS = 2**40
"""Along one axis."""


@dataclass(frozen=True, slots=True)
class LevelSpec:
    """One level of a pyramid; shapes in voxels (z, y, x)."""

    shape: Triple
    factors: Triple
    """Voxels of level 0 along (z, y, x) that make one voxel of this level."""
    chunk: Triple
    shard: Triple
    """A whole number of chunks; equal to `chunk` where there are no shards (OME-Zarr 0.4)."""

    @property
    def grid(self) -> Triple:
        """Shards along (z, y, x)."""
        z, y, x = (-(-n // side) for n, side in zip(self.shape, self.shard, strict=True))
        return (z, y, x)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One multiscale image or label image inside the output group."""

    path: str
    """Inside the group: "labels/segmentation", "probabilities", "disagreement", "stacks/xy"."""
    kind: Literal["labels", "image"]
    """Labels are reduced by mode and stored with `image-label`; images by mean."""
    dtype: str
    classes: int
    """0: axes (z, y, x); otherwise axes (c, z, y, x) with that many channels."""
    levels: tuple[LevelSpec, ...]
    stage: Stage = "blocks"
    """Which tasks write its full resolution."""

    @property
    def pyramid(self) -> bool:
        """Whether it has levels: what is there for later passes alone is not looked at."""
        return self.path not in (ENDS, CLASSES, MIDDLES) and not self.path.startswith(f"{PLANES}/")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The whole output group."""

    arrays: tuple[ArraySpec, ...]
    ome_version: Literal["0.5", "0.4"]
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    translation: tuple[float, float, float]
    """Centre of the first voxel of level 0, (z, y, x), in `unit` (voxels if unknown)."""
    compression: int
    """zstd level; a crc32c follows in Zarr v3."""

    def __post_init__(self) -> None:
        # 8 and 8.0 are equal but are not written alike: equal outputs have equal bytes.
        if self.voxel_size is not None:
            object.__setattr__(self, "voxel_size", _floats(self.voxel_size))
        object.__setattr__(self, "translation", _floats(self.translation))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Stages that write anything, in their order."""
        return tuple(s for s in get_args(Stage) if any(a.stage == s for a in self.arrays))

    def to_dict(self) -> dict[str, Any]:
        """The same in lists and dicts, as JSON has them."""
        return cast("dict[str, Any]", _listed(asdict(self)))

    @classmethod
    def from_dict(cls, content: object) -> OutputSpec:
        """What `to_dict` described.

        Raises
        ------
        BadInput
            If `content`, which may come from anywhere, describes no output that could be made.
        """
        try:
            return _output(content)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise BadInput(f"the output's arrays are not described rightly: {reason}") from error


def with_levels(array: ArraySpec, levels: tuple[LevelSpec, ...]) -> ArraySpec:
    """The array with its levels: all, or the first of what is there for later steps alone."""
    return replace(array, levels=levels if array.pyramid else levels[:1])


def most_copies(arrays: Sequence[ArraySpec]) -> int:
    """Objects that one marker names of every shard, at most: of all arrays and classes."""
    stages = {array.stage for array in arrays}
    return max(sum(max(1, a.classes) for a in arrays if a.stage == stage) for stage in stages)


def check_path(path: str) -> None:
    """Refuse paths of arrays that could meet records, levels or another store's folders.

    Raises
    ------
    BadInput
        Naming the path.
    """
    if path and (not _PATH.fullmatch(path) or path.partition("/")[0] == _RESERVED):
        raise BadInput(
            f"array path {path!r}: use letters, digits, '-' and '_', with '/' between parts, and "
            f"another first part than {_RESERVED!r}"
        )


def _output(content: object) -> OutputSpec:
    facts = _facts(content, OutputSpec)
    arrays = tuple(_array(one) for one in _list(facts["arrays"], "arrays"))
    _check_apart(arrays)
    objects = sum(
        math.prod(level.grid) * max(1, one.classes) for one in arrays for level in one.levels
    )
    if not arrays or objects > OBJECT_LIMIT:
        raise ValueError(f"{len(arrays)} arrays of {objects} objects; at most {OBJECT_LIMIT}")
    unit, voxel = facts["unit"], facts["voxel_size"]
    if not (unit is None or (isinstance(unit, str) and len(unit) <= 64)):
        raise ValueError(f"unit {unit!r:.80}")
    if voxel is not None and not all(side > 0 for side in _numbers(voxel, "voxel_size")):
        raise ValueError(f"voxel_size {voxel!r:.80}")
    return OutputSpec(
        arrays,
        _one_of(facts["ome_version"], ("0.5", "0.4"), "ome_version"),
        None if voxel is None else _numbers(voxel, "voxel_size"),
        unit,
        _numbers(facts["translation"], "translation"),
        _integer(facts["compression"], "compression", -(2**17), 22),
    )


def _check_apart(arrays: tuple[ArraySpec, ...]) -> None:
    """Refuse arrays that lie where another one has its levels."""
    paths = [array.path for array in arrays]
    for array in arrays:
        prefix = f"{array.path}/" if array.path else ""
        taken = tuple(f"{prefix}{number}/" for number in range(len(array.levels)))
        if paths.count(array.path) > 1 or any(f"{path}/".startswith(taken) for path in paths):
            raise ValueError(f"array {array.path!r} holds another")


def _array(content: object) -> ArraySpec:
    facts = _facts(content, ArraySpec)
    path = facts["path"]
    if not isinstance(path, str) or len(path) > 256:
        raise TypeError(f"path {path!r:.80}")
    check_path(path)
    levels = tuple(_level(one) for one in _list(facts["levels"], "levels"))
    if not 1 <= len(levels) <= 64 or levels[0].factors != (1, 1, 1):
        raise ValueError(f"{len(levels)} levels of {path!r}, the first of factor 1")
    for fine, coarse in itertools.pairwise((levels[0], *levels)):
        shape = tuple(-(-n // f) for n, f in zip(levels[0].shape, coarse.factors, strict=True))
        whole = all(c % f == 0 for c, f in zip(coarse.factors, fine.factors, strict=True))
        if coarse.shape != shape or not whole:
            raise ValueError(f"a level of {path!r} has shape {coarse.shape}, expected {shape}")
    return ArraySpec(
        path,
        _one_of(facts["kind"], ("labels", "image"), "kind"),
        _one_of(facts["dtype"], _DTYPES, "dtype"),
        _integer(facts["classes"], "classes", 0, 2**16),
        levels,
        _one_of(facts["stage"], get_args(Stage), "stage"),
    )


def _level(content: object) -> LevelSpec:
    facts = _facts(content, LevelSpec)
    level = LevelSpec(**{name: _triple(facts[name], name) for name in facts})
    if any(shard % chunk for shard, chunk in zip(level.shard, level.chunk, strict=True)):
        raise ValueError(f"shard {level.shard} is no whole number of chunks of {level.chunk}")
    return level


def _facts(content: object, kind: type[Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or set(content) != names:
        raise TypeError(f"{str(content)[:80]!r} where {', '.join(sorted(names))} are expected")
    return content


def _triple(value: object, name: str) -> Triple:
    z, y, x = (_integer(one, name, 1, _MOST_VOXELS) for one in _list(value, name))
    return (z, y, x)


def _numbers(value: object, name: str) -> tuple[float, float, float]:
    z, y, x = _list(value, name)
    if not all(type(one) in {int, float} and math.isfinite(one) for one in (z, y, x)):
        raise ValueError(f"{name} {str(value)[:80]}")
    return _floats((z, y, x))


def _integer(value: object, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} {str(value)[:80]} is no whole number from {least} to {most}")
    return value


def _one_of(value: object, known: Any, name: str) -> Any:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} {str(value)[:80]!r} is none of {', '.join(sorted(known))}")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} {str(value)[:80]} is no list")
    return value


def _listed(value: Any) -> Any:
    """Lists in place of tuples."""
    if isinstance(value, dict):
        return {name: _listed(one) for name, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _floats(values: tuple[float, float, float]) -> tuple[float, float, float]:
    z, y, x = (float(value) + 0.0 for value in values)  # -0.0 becomes 0.0
    return (z, y, x)
