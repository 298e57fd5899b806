"""Objects of single planes under several settings: the network runs once, the rest again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from orthoflow import job as jobs
from orthoflow import work
from orthoflow.errors import BadInput
from orthoflow.geometry.cells import CellRule
from orthoflow.geometry.output import PLANES
from orthoflow.geometry.scale import support_box
from orthoflow.inputs import find_source
from orthoflow.kernels.finish import view_of
from orthoflow.labelling import open_labels
from orthoflow.look import region_around
from orthoflow.models.heads import CENTER, FLOW_SCALE, FLOWS, channels_of
from orthoflow.options import Options
from orthoflow.pipeline import model_ref, on_device, prepared, run
from orthoflow.plan.slices import (
    Setting,
    Slice,
    cells_of,
    command_of,
    find_slices,
    in_words,
    needs_network,
    plan_slice,
    settings_of,
    widest,
)
from orthoflow.plan.tasks import task_of
from orthoflow.reduce.fragments import ORIENTATION_NAMES, fragments
from orthoflow.reduce.scores import Matches, f1, matches_of
from orthoflow.sums import gather

if TYPE_CHECKING:
    from pathlib import Path

    from orthoflow.driver import Progress
    from orthoflow.geometry.box import Triple
    from orthoflow.inputs import Source
    from orthoflow.models import Model, ModelRef
    from orthoflow.plan import Plan

LIMITS = (0.5, 0.75)
"""IoU above which an object is the true one."""


@dataclass(frozen=True, slots=True)
class Found:
    """Objects of one slice under one setting."""

    labels: npt.NDArray[np.unsignedinteger]
    """(rows, columns), 0 is background: the numbers that a run has in `planes/xy`, `xz` or `yz`."""
    objects: int
    """Connected pieces of one label, which are what a run joins to objects of the volume."""
    adrift: int
    """Pixels of things without a centre in reach."""
    matches: Matches | None
    """Pieces beside those of the truth, where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """Counts and scores, JSON-able."""
        return {"objects": self.objects, "adrift": self.adrift, **_scores([self.matches])}


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting on all slices."""

    setting: Setting
    """Options that differ between the trials."""
    found: Mapping[str, Found]
    """By slice, such as "xy:30"."""

    @property
    def command(self) -> str:
        """The setting as options of the command line."""
        return command_of(self.setting)

    @property
    def objects(self) -> int:
        """On all slices together."""
        return sum(one.objects for one in self.found.values())

    @property
    def scores(self) -> dict[str, float]:
        """F1 over all slices by the limit of IoU; empty without a truth."""
        return _scores([one.matches for one in self.found.values()]).get("f1", {})

    def to_dict(self) -> dict[str, Any]:
        """Everything but the labels, JSON-able."""
        facts: dict[str, Any] = {
            "options": dict(self.setting),
            "command": self.command,
            "objects": self.objects,
        }
        if self.scores:
            facts["f1"] = self.scores
        return facts | {"slices": {name: one.to_dict() for name, one in self.found.items()}}


@dataclass(frozen=True, slots=True)
class Trials:
    """All settings on all slices."""

    slices: tuple[str, ...]
    trials: tuple[Trial, ...]
    best: int | None
    """Which trial has the largest F1; None without a truth."""
    seconds: float
    picture: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the labels, JSON-able."""
        best = None if self.best is None else self.trials[self.best].command
        return {
            "picture": self.picture,
            "slices": list(self.slices),
            "settings": [one.to_dict() for one in self.trials],
            "best": self.best,
            "best_command": best,
            "seconds": round(self.seconds, 3),
        }


def preview_slices(  # noqa: PLR0913 - what is tried, where, against what, by name
    volume: Any,
    model: str | Path | Model | ModelRef,
    slices: str | Sequence[str],
    *,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    truth: Any = None,
    at: Triple | None = None,
    size: Triple | None = None,
    picture: str | Path | None = None,
    **options: Any,
) -> Trials:
    """Find the objects of single planes under several settings, and compare them.

    The network runs once for each slice (once for each `downsample` and `diameter`); all else is
    done again for each setting. Labels are those that a run with these options finds in the plane
    before it joins planes: the numbers of `planes/xy` and so on of its output.

    Parameters
    ----------
    volume, model
        As for `run`; a panoptic or a flow network.
    slices
        "xy:30" is plane 30 along z, "xz:12" one along y, "yz:7" one along x; several as a list or
        with commas.
    sweep
        Values to try by the name of an option; all combinations are settings, 24 at most.
    truth : path, URL or array, optional
        True objects of the volume (z, y, x), 0 is background; then every setting is scored.
    at, size
        Look at a window of this size around the voxel `at` only; (z, y, x).
    picture
        Path of a PNG to draw: a row for each slice and setting.
    **options
        Those of `run` that are the same for all settings.

    Returns
    -------
    Trials
        `trials` in the order of settings, `best` the index of the one with the largest F1.

    Raises
    ------
    BadInput
        If there is no such slice, the network finds no objects, an option does not change objects
        of planes, the settings are too many, or the truth has another shape.
    BlockFailed
        If the volume cannot be read there, or the network fails.

    Examples
    --------
    >>> trials = preview_slices(  # doctest: +SKIP
    ...     "in.zarr", "demo:panoptic", "xy:30", sweep={"center_threshold": [0.05, 0.1, 0.2]}
    ... )
    """
    began = time.perf_counter()
    if picture is not None:
        from orthoflow.show.png import require_writable  # noqa: PLC0415 - matplotlib may be absent

        require_writable(picture)
    wishes = on_device(Options.from_mapping(options), None)
    source, reference = find_source(volume, wishes), model_ref(model, wishes)
    shape = source.facts.shape
    window = None if at is None and size is None else region_around(at, size or shape, shape)
    texts = [slices] if isinstance(slices, str) else list(slices)
    chosen = find_slices(texts, shape, window)
    settings = settings_of(sweep or {}, len(chosen))
    plans = [
        [plan_slice(source.facts, reference.card, _with(wishes, s), one) for s in settings]
        for one in chosen
    ]
    true = None if truth is None else _opened(truth, shape, wishes)
    job, _ = prepared(None, jobs.Job(plans[0][0], reference, source.ref, None), source, "slices")
    views = [
        _View(job, source, one, tuple(own), tuple(settings), true)
        for one, own in zip(chosen, plans, strict=True)
    ]
    seen = [list(view.attempts()) for view in views]
    trials = tuple(
        Trial(setting, {str(one): own[number].found for one, own in zip(chosen, seen, strict=True)})
        for number, setting in enumerate(settings)
    )
    best = _best(trials)
    if picture is not None:
        _draw(picture, views, seen, best)
    seconds = time.perf_counter() - began
    names = tuple(map(str, chosen))
    return Trials(names, trials, best, seconds, None if picture is None else str(picture))


def _with(options: Options, setting: Setting) -> Options:
    return replace(options, **setting)


def _opened(truth: Any, shape: Triple, options: Options) -> Any:
    """True labels, of which what is cut is read."""
    same = {name: getattr(options, name) for name in ("storage_option", "missing_input")}
    facts, labels = open_labels("truth", truth, Options(**same))
    if facts.shape != shape:
        raise BadInput(
            f"truth has shape {facts.shape}, the volume {shape}; give labels of the same voxels"
        )
    return labels


def _scores(parts: Sequence[Matches | None]) -> dict[str, dict[str, float]]:
    known = [one for one in parts if one is not None]
    return {"f1": {f"{limit:g}": f1(known, limit) for limit in LIMITS}} if known else {}


def _best(trials: Sequence[Trial]) -> int | None:
    """The trial with the largest F1, of equals the first."""
    scores = [tuple(one.scores.values()) for one in trials]
    return scores.index(max(scores)) if all(scores) else None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one setting makes of a slice, and what it is made from; arrays are boxes (z, y, x)."""

    found: Found
    plan: Plan
    labels: npt.NDArray[np.unsignedinteger]
    pieces: npt.NDArray[np.integer]
    probability: npt.NDArray[np.generic]
    heads: npt.NDArray[np.float32]
    centers: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _View:
    """One slice."""

    job: jobs.Job
    source: Source
    one: Slice
    plans: tuple[Plan, ...]
    settings: tuple[Setting, ...]
    truth: Any

    def true_pieces(self) -> npt.NDArray[np.integer] | None:
        """The truth's objects in this plane, as a box (z, y, x)."""
        if self.truth is None:
            return None
        return _pieces(np.ascontiguousarray(self.truth[self.one.box.slices]), self.one)

    def attempts(self) -> Iterator[_Attempt]:
        """What each setting gives; the network runs where it has to."""
        truth = self.true_pieces()
        sums: dict[tuple[Any, ...], work.Inferred] = {}
        for plan, setting in zip(self.plans, self.settings, strict=True):
            key = needs_network(setting)
            if key not in sums:
                sums[key] = self._inferred(key)
            yield self._attempt(plan, sums[key], truth)

    def _inferred(self, key: tuple[Any, ...]) -> work.Inferred:
        """Sums over the slice, for all settings with this key."""
        both = zip(self.plans, self.settings, strict=True)
        plan = widest([plan for plan, setting in both if needs_network(setting) == key])
        box = self.one.box
        part = plan.part_of((box,))
        read = plan.input_box(part, box) if self.source.array is not None else None
        voxels = None if read is None else self.source.read(read)
        return work.infer(replace(self.job, plan=plan), part, box, voxels)

    def _attempt(
        self, plan: Plan, own: work.Inferred, truth: npt.NDArray[np.integer] | None
    ) -> _Attempt:
        one = self.one
        name = f"{PLANES}/{one.orientation.name}"
        made = work.finish(replace(self.job, plan=plan), one.box, ("probabilities", name), own)
        chance: npt.NDArray[Any] = made["probabilities"]
        if chance.ndim == 4:
            chance = np.iinfo(chance.dtype).max - chance[0]
        labels: npt.NDArray[Any] = made[name]
        pieces = _pieces(labels, one)
        centers, adrift = _centers(labels, plan, one)
        found = Found(
            labels=labels.squeeze(axis=one.orientation.stack),
            objects=int(pieces.max(initial=0)),
            adrift=adrift,
            matches=None if truth is None else matches_of(pieces, truth),
        )
        return _Attempt(found, plan, labels, pieces, chance, _heads(plan, own, one), centers)


def _pieces(labels: npt.NDArray[np.generic], one: Slice) -> npt.NDArray[np.integer]:
    """Connected pieces of one label, numbered 1..n, as a box (z, y, x)."""
    found = fragments(labels, ORIENTATION_NAMES.index(one.orientation.name))
    return found.volume(np.arange(found.count + 1, dtype=np.int32))


def _centers(
    labels: npt.NDArray[np.unsignedinteger], plan: Plan, one: Slice
) -> tuple[npt.NDArray[np.float64], int]:
    """Row and column (n, 2) of each label's centre or sink in the slice; pixels without one.

    A label is the number of its centre's pixel in the plane that the network sees.
    """
    objects, orientation = cells_of(plan), one.orientation
    names, count = np.unique(labels[labels != 0].astype(np.int64), return_counts=True)
    place = (names if objects.divisor is None else names % objects.divisor) - 1
    height, width = orientation.plane_shape(plan.working)
    lost = place >= height * width
    pixels = objects.cells.pixels if isinstance(objects.cells, CellRule) else 1
    middle = np.stack(np.divmod(place[~lost], width), axis=1) + pixels / 2
    shape = np.array(orientation.plane_shape(plan.facts.shape))
    _, spans = orientation.spans(one.box)
    start = np.array([first for first, _ in spans])
    return middle * (shape / (height, width)) - 0.5 - start, int(count[lost].sum())


def _heads(plan: Plan, own: work.Inferred, one: Slice) -> npt.NDArray[np.float32]:
    """Heatmap (1, z, y, x), or flow (2, z, y, x) of unit length, on the volume's grid."""
    flows = plan.card.task == "flows"
    channels = channels_of(plan.card, FLOWS if flows else CENTER)
    shape, working = plan.facts.shape, plan.working
    need = support_box(one.box, source=working, target=shape)
    device = torch.device(plan.options.device)
    pair = (channels.start, channels.stop)
    sums = gather(plan, need, one.orientation, own[0], device, channels=pair)
    view = view_of(sums, one.box, working=working, shape=shape, median=1)
    values = view.logits if view.covered is None else view.logits * view.covered
    scale = FLOW_SCALE if flows else plan.factors[channels.start]
    found: npt.NDArray[np.float32] = (values / scale).cpu().numpy()
    return found


def _draw(
    path: str | Path, views: Sequence[_View], seen: Sequence[Sequence[_Attempt]], best: int | None
) -> None:
    """A row for each slice and setting."""
    from orthoflow.show.slices import draw_slices  # noqa: PLC0415 - matplotlib may be absent

    facts = views[0].source.facts
    rows = [row for view, own in zip(views, seen, strict=True) for row in _rows(view, own, best)]
    draw_slices(
        path,
        rows,
        voxel_size=facts.voxel_size,
        unit=facts.unit,
        title=f"{facts.name}, {views[0].plans[0].card.name}",
    )


def _rows(view: _View, own: Sequence[_Attempt], best: int | None) -> Iterator[Any]:
    from orthoflow.show.slices import Attempt, PlaneImage, Verdict  # noqa: PLC0415

    box = view.one.box
    plane = PlaneImage(box, view.source.read(box)[0], view.true_pieces())
    for number, (attempt, setting) in enumerate(zip(own, view.settings, strict=True)):
        verdict, matches = None, attempt.found.matches
        if matches is not None:
            same = matches.iou > LIMITS[0]
            scores = _scores([matches])["f1"].items()
            words = tuple(f"F1 {score:.3f} at IoU {limit}" for limit, score in scores)
            verdict = Verdict(attempt.pieces, matches.found[same], matches.true[same], words)
        yield Attempt(
            plane=plane,
            words=in_words(setting),
            probability=attempt.probability,
            heads=attempt.heads,
            labels=attempt.labels,
            centers=attempt.centers,
            objects=attempt.found.objects,
            adrift=attempt.found.adrift,
            verdict=verdict,
            best=number == best and len(own) > 1,
        )


def label_planes(
    volume: Any,
    output: str | Path,
    model: str | Path | Model | ModelRef,
    *,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Label every plane of a volume by itself: a run of one orientation with instances "planes".

    Parameters
    ----------
    volume, output, model, progress, **options
        As for `run`; `orientations` is "xy" unless given, and there are no pyramid levels, since
        the numbers of two planes have nothing to do with each other.

    Returns
    -------
    dict
        The report of the run. Labels lie in `labels/segmentation`, (z, y, x) uint32, and count from
        class * label_divisor + 1 (10001) in each plane.

    Raises
    ------
    BadInput
        If the network finds no objects of planes, or what `run` refuses.
    """
    wishes = Options.from_mapping(options)
    card = model_ref(model, wishes).card
    if wishes.instances not in (None, "planes"):
        raise BadInput(f"instances {wishes.instances} joins planes; leave it out with batch")
    if task_of(card, wishes) == "semantic":
        raise BadInput(
            f"batch labels the objects of planes, and {card.name!r} gives classes alone here; use "
            "run with orientations xy"
        )
    own = {"orientations": wishes.orientations or ("xy",), "instances": "planes"}
    usual = {"levels": 1}
    return run(volume, output, model=model, progress=progress, **{**usual, **options, **own})
