"""What a user can wish for: one frozen object behind Python, the command line and the job file.

To add an option, add a field here. Its metadata makes the command-line option and the job file's
key; the plan turns wishes into numbers and is the only place where None gets a meaning.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from orthoflow.errors import BadInput

Kind = Literal["text", "int", "float", "flag", "names", "voxels", "floats", "pairs"]


@dataclass(frozen=True, slots=True)
class Wish:
    """Metadata of one option: how it is read from text and what help says."""

    help: str
    group: str
    kind: Kind
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


def _wish(default: Any, kind: Kind, group: str, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"wish": Wish(text, group, kind, **more)})


_IN, _GEO, _NET, _VOTE, INSTANCES, _OUT, WORK = (
    "Input", "Patches and tiles", "Network", "Consensus", "Instances", "Output", "Work",
)  # fmt: skip


RULE_OPTIONS = frozenset(
    {"instances", "votes", "min_size", "min_extent", "allow_one_view"}
    | {"merge_iou", "merge_ioa", "cluster_iou", "stitch_threshold", "fill_holes"}
    | {"connectivity", "watershed_depth", "watershed_radius", "label_divisor"}
)
"""Options by which the labels of an output can be made again, without a network."""

CONSENSUS_OPTIONS = RULE_OPTIONS | frozenset(
    {"axes", "channel", "voxel_size", "missing_input", "roi", "storage_option", "name"}
    | {"keep_stacks", "chunk", "shard", "levels"}
    | {"compression_level", "ome_version", "overwrite", "block", "cluster", "scheduler", "workers"}
    | {"resume", "take_over", "retries", "patience"}
)
"""Options that mean something where instances are made from labels and no network runs."""

SLICE_OPTIONS = (
    *("downsample", "diameter", "threshold", "median", "center_threshold", "center_distance"),
    *("fine_boundaries", "max_diameter", "flow_steps"),
)
"""Options that change the objects of a plane: several values may be compared on slices."""

# Where batch systems put the number of a job of an array, and the number of the first.
_JOB_NUMBERS = {
    "AWS_BATCH_JOB_ARRAY_INDEX": "",
    "SLURM_ARRAY_TASK_ID": "SLURM_ARRAY_TASK_MIN",
    "JOB_COMPLETION_INDEX": "",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Every option of `orthoflow run`, with its default; None lets the plan choose.

    Raises
    ------
    BadInput
        If a value cannot be meant: the message names the option, the value and what is allowed.
    """

    # fmt: off
    array: str | None = _wish(None, "text", _IN, "array inside a group, such as 0 or labels/cells/0")
    level: int = _wish(0, "int", _IN, "pyramid level to read", low=0)
    axes: str | None = _wish(None, "text", _IN, "axes of the array where the file does not say, such as zyx or xyzc")
    time: int | None = _wish(None, "int", _IN, "time point of an input with a time axis", low=0)
    channel: int | None = _wish(None, "int", _IN, "channel to use (all by default)", low=0)
    voxel_size: tuple[float, ...] | None = _wish(None, "floats", _IN, "physical voxel size z,y,x in micrometres, where the file states none or a wrong one")
    nan_policy: str = _wish("fail", "text", _IN, "NaN or infinity in the input: fail the block, or read as zero", choices=("fail", "zero"))
    missing_input: str = _wish("fail", "text", _IN, "stored chunks of the input that are not there: fail the block, or read as the fill value (for volumes that leave out empty chunks)", choices=("fail", "fill"))
    roi: str | None = _wish(None, "text", _IN, "region z0:z1,y0:y1,x0:x1 to segment; equals the crop of the full run")
    storage_option: tuple[tuple[str, str], ...] = _wish((), "pairs", _IN, "option KEY=VALUE of the object store's client; no secrets, those belong in the environment")

    orientations: tuple[str, ...] | None = _wish(None, "names", _GEO, "plane orientations: xy,xz,yz, or zyx for 3-D networks (all that fit)")
    overlap: float = _wish(0.25, "float", _GEO, "fraction of a patch that its neighbour shares, 0 to 0.9", low=0, high=0.9)
    grid: str = _wish("even", "text", _GEO, "patch positions: evenly spread, or every stride with the last one pulled back", choices=("even", "step"))
    tile: tuple[int, ...] | None = _wish(None, "voxels", _GEO, "network tile, one number or one per axis (the card's)", low=1, aliases=("bsize", "patch-size"))
    packing: str = _wish("auto", "text", _GEO, "several planes in a tile: cheapest way, never, or stripes", choices=("auto", "none", "stripes"))
    pack_k: int | None = _wish(None, "int", _GEO, "stripes in a tile at most", low=1)
    guard: int | None = _wish(None, "int", _GEO, "zero rows between stripes at least", low=0, aliases=("pack-guard",))
    border: int | None = _wish(None, "int", _GEO, "zero rows between a stripe and the tile's edge at least", low=0, aliases=("pack-border",))
    stripe_starts: str = _wish("balanced", "text", _GEO, "stripes in phase with spare rows shared, or as the packed Cellpose fork has them", choices=("balanced", "seed"))
    weighting: str = _wish("gaussian", "text", _GEO, "blending weights over a patch", choices=("gaussian", "taper", "border", "uniform"))
    sigma_scale: float = _wish(8.0, "float", _GEO, "Gaussian weights: sigma = patch / sigma_scale", high=64, aliases=("sigma",))
    downsample: tuple[float, ...] = _wish((1.0,), "floats", _GEO, "shrink the volume before the network, one factor or z,y,x")
    diameter: float | None = _wish(None, "float", _GEO, "diameter of the objects in pixels; y and x shrink by 30 / diameter (or the card's)")
    anisotropy: float | None = _wish(None, "float", _GEO, "z spacing over y/x spacing; planes are interpolated along z by it")

    normalization: str = _wish("model", "text", _NET, "grey values for the network", choices=("model", "zscore", "minmax", "percentile", "none"))
    normalization_scope: str | None = _wish(None, "text", _NET, "statistics of the whole volume or of each patch (the model's own)", choices=("volume", "patch"))
    tta: str = _wish("none", "text", _NET, "test-time augmentation: mean over all flips, or over transposes", choices=("none", "mirroring", "rotation"), aliases=("tta-type",))
    skip_empty: bool = _wish(True, "flag", _NET, "do not run the network on constant patches", aliases=("skip-empty-patches",))
    device: str = _wish("auto", "text", _NET, "auto, cpu, cuda or cuda:N")
    precision: str | None = _wish(None, "text", _NET, "float32 on a CPU, bfloat16 on a GPU unless said", choices=("float32", "bfloat16"))
    batch_size: int | None = _wish(None, "int", _NET, "tiles the network runs at once", low=1)
    trust: str | None = _wish(None, "text", _NET, "sha256:DIGEST of a model file that holds code")

    mode: str | None = _wish(None, "text", _VOTE, "binary (foreground or not) or multiclass; by the model's outputs", choices=("binary", "multiclass"))
    consensus: str = _wish("mean", "text", _VOTE, "orientations agree by the mean of their logits or by vote", choices=("mean", "vote"))
    votes: int = _wish(2, "int", _VOTE, "orientations that must agree, with consensus vote", low=1, aliases=("vote-threshold", "pixel-vote-thr"))
    plane_weights: tuple[float, ...] | None = _wish(None, "floats", _VOTE, "weight of each orientation in the mean", low=0)
    median: int = _wish(1, "int", _VOTE, "median filter along the stack over this odd number of planes", low=1, aliases=("median-kernel",))
    threshold: float = _wish(0.5, "float", _VOTE, "foreground probability above which a voxel is labelled (binary)")

    instances: str | None = _wish(None, "text", INSTANCES, "how objects are found: components of all orientations joined at once (panoptic networks and labels), empanada's stack matching and consensus, planes of one orientation stitched as in Cellpose, each plane of one orientation by itself, one flow field in three dimensions (flow networks), or connected components or a watershed of the classes (any network)", choices=("components", "empanada", "stitch", "planes", "flows", "cc", "watershed"))
    center_threshold: float = _wish(0.1, "float", INSTANCES, "panoptic: least height of a centre in the heatmap", low=0, high=1, aliases=("nms-threshold", "center-confidence-thr"))
    center_distance: int | None = _wish(None, "int", INSTANCES, "panoptic: side of the square in which a centre is the highest, in pixels (7), or in cells of 4 pixels (3) without fine boundaries", low=1, high=255, aliases=("nms-kernel",))
    fine_boundaries: bool | None = _wish(None, "flag", INSTANCES, "panoptic: each pixel looks for its centre (on), or each square of 4 x 4 pixels, which is faster")
    max_diameter: str | None = _wish(None, "text", INSTANCES, "largest object in voxels, or as a length such as 3um: a voxel looks for the middle of its object half as far (four times the diameter on the model's card, or 256 voxels, 128 of flows)")
    median_rule: str | None = _wish(None, "text", INSTANCES, "median along the stack: of the planes as they are, or empanada's, in which planes before are filtered already and which needs whole stacks in one block (plain; recursive with instances empanada)", choices=("plain", "recursive"))
    semantic_only: bool = _wish(False, "flag", INSTANCES, "classes alone of a network that gives objects")
    flow_combination: str = _wish("mean", "text", INSTANCES, "flows: along each axis the mean of the orientations, by plane_weights, or their sum as in Cellpose", choices=("mean", "sum"))
    flow_smoothing: tuple[float, ...] = _wish((0.0,), "floats", INSTANCES, "flows: sigma in voxels of a Gaussian over the field, one number or z,y,x", low=0, high=20, aliases=("flow3d-smooth",))
    flow_steps: int = _wish(200, "int", INSTANCES, "flows: steps that a voxel follows the flow at most", low=1, high=10000, aliases=("niter",))
    min_size: str = _wish("0", "text", INSTANCES, "smallest object, in voxels or as a volume such as 0.5um3")
    min_extent: str = _wish("0", "text", INSTANCES, "smallest side of an object's box, in voxels or as a length such as 0.3um")
    label_divisor: int | None = _wish(None, "int", INSTANCES, "labels are class * label_divisor + 1, 2, ... (1, 2, ... of all classes unless given); of labels that are given the class is label // label_divisor", low=1, aliases=("max-objects",))
    allow_one_view: bool = _wish(False, "flag", INSTANCES, "empanada: keep objects that only one orientation has (with votes 1)", aliases=("one-view",))
    merge_iou: float = _wish(0.25, "float", INSTANCES, "empanada: least overlap (IoU) of one object in two planes", low=0, high=1, aliases=("merge-iou-thr",))
    merge_ioa: float = _wish(0.25, "float", INSTANCES, "empanada: least share of a piece inside the object that it joins", low=0, high=1, aliases=("merge-ioa-thr",))
    cluster_iou: float = _wish(0.75, "float", INSTANCES, "empanada: least overlap of objects of two orientations that are one", low=0, high=1, aliases=("cluster-iou-thr",))

    fill_holes: bool = _wish(False, "flag", INSTANCES, "objects get the holes that they alone enclose")
    connectivity: int = _wish(26, "int", INSTANCES, "cc, watershed: neighbours of a voxel, 6 or 26", low=6, high=26)
    watershed_depth: float = _wish(1.0, "float", INSTANCES, "watershed: voxels by which the radius of an object must shrink and grow again to be two", low=0.01, high=181)
    watershed_radius: int = _wish(16, "int", INSTANCES, "watershed: voxels at which radii are cut off; thicker necks never divide an object", low=1, high=181)
    stitch_threshold: float = _wish(0.25, "float", INSTANCES, "stitch: least overlap (IoU) of one object in two planes", low=0, high=1)

    output: str = _wish("labels", "text", _OUT, "what is written", choices=("labels", "probabilities", "both"))
    name: str = _wish("segmentation", "text", _OUT, "name of the label image")
    disagreement: bool = _wish(False, "flag", _OUT, "write how many orientations dissent at each voxel")
    keep_stacks: bool = _wish(False, "flag", _OUT, "write each orientation's own labels")
    accumulation: str = _wish("fixed", "text", _OUT, "sums in fixed point (same bytes for any cut) or float32", choices=("fixed", "float"))
    chunk: tuple[int, ...] = _wish((128,), "voxels", _OUT, "chunk of the output, one number or z,y,x", low=1, aliases=("chunk-size",))
    shard: tuple[int, ...] | None = _wish(None, "voxels", _OUT, "shard (stored object) of the output, a whole number of chunks", low=1)
    levels: int | None = _wish(None, "int", _OUT, "pyramid levels, the full resolution included", low=1)
    compression_level: int = _wish(1, "int", _OUT, "zstd level; a crc32c is always added", low=1, high=22)
    ome_version: str = _wish("0.5", "text", _OUT, "OME-Zarr 0.5 (Zarr v3, sharded) or 0.4 (Zarr v2)", choices=("0.5", "0.4"))
    overwrite: bool = _wish(False, "flag", _OUT, "replace an earlier output of orthoflow")

    block: tuple[int, ...] | None = _wish(None, "voxels", WORK, "block of output that one task makes, one number or z,y,x", low=1)
    part: tuple[int, ...] | None = _wish(None, "voxels", WORK, "blocks per part, one number or z,y,x; inside a part nothing is computed twice", low=1)
    cluster: str = _wish("auto", "text", WORK, "where the work runs without a scheduler address (auto: cuda where there are GPUs and dask-cuda; else processes from the command line, threads from Python)", choices=("auto", "threads", "processes", "cuda", "synchronous"))
    scheduler: str | None = _wish(None, "text", WORK, "address of a running Dask scheduler")
    workers: int | None = _wish(None, "int", WORK, "workers of a local cluster", low=1, aliases=("num-workers",))
    resume: bool = _wish(False, "flag", WORK, "go on with an output that an earlier run of the same settings left unfinished")
    retry_failed: bool = _wish(False, "flag", WORK, "resume, and try the blocks again that failed")
    take_over: bool = _wish(False, "flag", WORK, "go on although another driver seems to be at work on this output")
    num_parts: int = _wish(1, "int", WORK, "independent jobs that share the work without a scheduler between them; implies resume", low=1)
    part_id: int | None = _wish(None, "int", WORK, "which of them this is, from 0 (with num_parts; else from AWS_BATCH_JOB_ARRAY_INDEX, SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX)", low=0)
    retries: int = _wish(2, "int", WORK, "times that a block which failed is tried again", low=0)
    patience: float = _wish(600.0, "float", WORK, "seconds for which a store that is overloaded or does not answer is asked again", low=0)
    memory_limit: int | None = _wish(None, "int", WORK, "bytes a worker may use; a plan that needs more is refused", low=1)
    # fmt: on

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry.name, getattr(self, entry.name), entry.metadata["wish"])
        self._check_numbers()
        if self.median % 2 == 0:
            raise BadInput(
                f"median {self.median} has no middle plane; use an odd number, 1 for none"
            )
        if "/" in self.name or self.name.strip(". ") == "":
            raise BadInput(f"name {self.name!r} cannot name a label image; use letters and digits")
        self._check_share()

    def _check_share(self) -> None:
        count, part = self.num_parts, self.part_id
        if part is not None and part >= count:
            few = "part_id 0" if count == 1 else f"0 to {count - 1}"
            raise BadInput(f"part_id {part} is out of range with num_parts {count}; use {few}")
        if self.overwrite and count > 1:
            raise BadInput(
                f"overwrite with num_parts {count}: each job would remove what the others wrote; "
                "remove the earlier output before the jobs start, or write elsewhere"
            )
        if self.overwrite and (self.resume or self.retry_failed):
            going_on = "resume" if self.resume else "retry_failed"
            raise BadInput(
                f"overwrite and {going_on} contradict each other; pass {going_on} to keep what is "
                "done, overwrite to begin again"
            )

    def _check_numbers(self) -> None:
        if not 0 < self.threshold < 1:
            raise BadInput(f"threshold {self.threshold} is no probability; use 0 < threshold < 1")
        for name in ("diameter", "anisotropy", "sigma_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise BadInput(f"{name} {value} must be a positive number")
        for name in ("downsample", "voxel_size"):
            values = getattr(self, name)
            if values is not None and min(values) <= 0:
                raise BadInput(f"{name} {_text(values)} must hold positive numbers")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Options:
        """Options from names and values as Python, a job file or the command line gives them.

        Text is converted; numbers stand for tuples of one. Names may be written with `-` and may
        be one of the seeds' names.
        """
        found: dict[str, Any] = {}
        for key, value in names_given(values).items():
            leave = value is None and default_of(key) is None
            found[key] = None if leave else _convert(key, value, wish_of(key))
        return cls(**found)

    @property
    def resumes(self) -> bool:
        """Whether an output that is there is gone on with; jobs that share a run always do."""
        return self.resume or self.retry_failed or self.num_parts > 1

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON-able values."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }

    def to_dict(self) -> dict[str, Any]:
        """Every option as a JSON-able value."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def names_given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as given, by the names of the options that their spellings mean.

    Raises
    ------
    BadInput
        If a name is no option's, or one is given twice.
    """
    known = option_names()
    found: dict[str, Any] = {}
    for name, value in values.items():
        # A job file may have keys that are no words, as in "1: x" or "on: x".
        spelling = str(name).replace("_", "-")
        key = known.get(spelling.lower())
        if key is None:
            near = difflib.get_close_matches(spelling, known, n=1)
            hint = f"; did you mean {known[near[0]]}?" if near else "; see orthoflow run --help"
            raise BadInput(f"option {name!r} is unknown{hint}")
        if key in found:
            raise BadInput(f"option {name!r} is given twice (as {key}); give it once")
        found[key] = value
    return found


def which_part(options: Options, environ: Mapping[str, str]) -> tuple[int, int]:
    """Number of jobs that share the work, and which of them this is: (num_parts, part_id).

    Where `part_id` is not given, the number that a batch system gave this job counts. A single
    job looks at no variable: it may well run inside somebody's array job.

    >>> which_part(Options(num_parts=4), {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"})
    (4, 2)

    Raises
    ------
    BadInput
        If nothing says which of several jobs this is, or what says so cannot be.
    """
    count = options.num_parts
    if count == 1 or options.part_id is not None:
        return count, options.part_id or 0
    numbers = {name: _job_number(name, environ) for name in _JOB_NUMBERS if environ.get(name)}
    said = ", ".join(f"{name}={environ[name]}" for name in numbers)
    if not numbers:
        raise BadInput(
            f"part_id is missing with num_parts {count}; use 0 to {count - 1}, or set one of "
            f"{', '.join(_JOB_NUMBERS)}"
        )
    if len(set(numbers.values())) > 1:
        raise BadInput(f"{said} disagree on which job this is; use part_id 0 to {count - 1}")
    part = next(iter(numbers.values()))
    if not 0 <= part < count:
        raise BadInput(
            f"{said} makes this part {part}, out of range with num_parts {count}; start as many "
            f"jobs as num_parts, or use part_id 0 to {count - 1}"
        )
    return count, part


def _job_number(name: str, environ: Mapping[str, str]) -> int:
    """Number of this job, counted from 0: Slurm's arrays may begin elsewhere."""
    first = _JOB_NUMBERS[name]
    given = {n: environ[n] for n in (name, first) if n and environ.get(n)}
    for variable, text in given.items():
        if not text.strip().isdecimal():
            raise BadInput(f"{variable}={text!r} is no whole number; use part_id")
    return int(given[name]) - int(given.get(first, 0))


def wish_of(name: str) -> Wish:
    """Metadata of the option `name`."""
    entry = next(f for f in fields(Options) if f.name == name)
    wish: Wish = entry.metadata["wish"]
    return wish


def default_of(name: str) -> Any:
    """Default of the option `name`; None where the plan chooses."""
    return next(f.default for f in fields(Options) if f.name == name)


def option_names() -> dict[str, str]:
    """Every accepted spelling (with `-`) and the field it means."""
    names: dict[str, str] = {}
    for entry in fields(Options):
        if entry.default is MISSING:
            raise TypeError(f"option {entry.name} needs a default")
        names[entry.name.replace("_", "-")] = entry.name
        for alias in entry.metadata["wish"].aliases:
            names[alias] = entry.name
    return names


def triple(name: str, values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """One value for all axes, or one per axis (z, y, x)."""
    if len(values) == 1:
        return (values[0], values[0], values[0])
    if len(values) != 3:
        raise BadInput(f"{name} {_text(values)} has {len(values)} numbers; give one, or z,y,x")
    return (values[0], values[1], values[2])


def _check(name: str, value: Any, wish: Wish) -> None:
    if value is None:
        return
    if wish.choices and value not in wish.choices:
        near = difflib.get_close_matches(str(value), wish.choices, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(f"{name} {value!r} is not one of {', '.join(wish.choices)}{hint}")
    _check_range(name, value, wish)


def _check_range(name: str, value: Any, wish: Wish) -> None:
    if value == () and wish.kind in ("voxels", "floats"):
        raise BadInput(f"{name} is empty; give one number or more, or leave it out")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise BadInput(f"{name} {_text(value)} is not finite; use a number")
        if wish.low is not None and number < wish.low:
            raise BadInput(f"{name} {_text(value)} is too small; use {_range_text(wish)}")
        if wish.high is not None and number > wish.high:
            raise BadInput(f"{name} {_text(value)} is too large; use {_range_text(wish)}")


def _range_text(wish: Wish) -> str:
    if wish.low is None:
        return f"at most {wish.high:g}"
    return f"at least {wish.low:g}" if wish.high is None else f"{wish.low:g} to {wish.high:g}"


def _convert(name: str, value: Any, wish: Wish) -> Any:
    """A value as its field's type."""
    try:
        return _CONVERT[wish.kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = _WANTED[wish.kind]
        if wish.kind == "pairs":  # among the others there may be a secret in the wrong place
            value = ", ".join(str(one) for one in _sequence(value) if "=" not in str(one))
        raise BadInput(f"{name} {value!r} cannot be read; use {wanted}") from error


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or float(value) != number:
        raise ValueError(value)
    return number


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words[str(value).lower()] if str(value).lower() in words else bool(_fail(value))


def _fail(value: Any) -> int:
    raise ValueError(value)


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple((str(k), str(v)) for k, v in value.items())
    pairs = [item.split("=", 1) if isinstance(item, str) else item for item in _sequence(value)]
    return tuple((str(k), str(v)) for k, v in pairs)


def _word(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise TypeError(value)
    return str(value)


_CONVERT: dict[Kind, Callable[[Any], Any]] = {
    "text": _word,
    "int": _whole,
    "float": float,
    "flag": _flag,
    "names": lambda value: tuple(str(v) for v in _sequence(value)),
    "voxels": lambda value: tuple(_whole(v) for v in _sequence(value)),
    "floats": lambda value: tuple(float(v) for v in _sequence(value)),
    "pairs": _pairs,
}

_WANTED = {
    "text": "text",
    "int": "a whole number",
    "float": "a number",
    "flag": "true or false",
    "names": "names separated by commas",
    "voxels": "whole numbers separated by commas",
    "floats": "numbers separated by commas",
    "pairs": "KEY=VALUE",
}


def _text(value: Any) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
