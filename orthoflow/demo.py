"""The main job on a synthetic volume whose truth is known."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from orthoflow.cluster import local_kind
from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, Triple
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.models.heads import Task
from orthoflow.options import Options
from orthoflow.pipeline import run
from orthoflow.reduce.scores import f1, matches_of
from orthoflow.show import overview
from orthoflow.stores.ome import create_output, read_level, write_box
from orthoflow.stores.pyramid import build_level_box, level_boxes
from orthoflow.training.synthetic import OBJECTS, make_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from orthoflow.driver import Progress

MODELS = {task: f"demo:{task}" for task in get_args(Task)}
"""Of each task: the bundled network."""
# Where one orientation alone is asked, in the planes that were found or once more.
_ALONE = "stitch"
# Of objects: smaller ones are debris.
_LEAST_SIZE = 100
_CHUNK = (48, 128, 128)
# Four blocks: two for each of two cores.
_BLOCK = 128
_MADE = ("volume.zarr", "segmented.zarr", "overview.png", "alone.zarr")
_ORIENTATIONS = ("xy", "xz", "yz")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything is, and how well it went."""

    volume: Path
    output: Path
    picture: Path
    scores: dict[str, dict[str, float]]
    """Of each orientation alone and of the consensus: Dice and IoU, or F1 of objects."""
    report: dict[str, Any]


def run_demo(  # noqa: PLR0913 - what a demo can be told, by name
    folder: Path,
    *,
    task: Task = "semantic",
    shape: Triple = (96, 256, 256),
    seed: int = 0,
    workers: int | None = None,
    say: Callable[[str], None],
    progress: Callable[[Progress], None] | None = None,
) -> DemoResult:
    """Make a volume, segment it on a local Dask cluster, compare it with the truth, draw it."""
    _require_room(folder)
    wishes = Options.from_mapping({"workers": workers})
    semantic = task == "semantic"
    made = make_volume(shape=shape, seed=seed, look=None if semantic else OBJECTS)
    _make_room(folder)
    truth = (made.labels > 0).astype(np.uint8) if semantic else made.labels.astype(np.uint32)
    volume, output, picture = (
        folder / n for n in ("volume.zarr", "segmented.zarr", "overview.png")
    )
    say(f"volume: {' x '.join(map(str, shape))} voxels of touching cells -> {volume}")
    write_volume(volume, made.image, truth, made.voxel_size)
    say(f"run: {MODELS[task]} in planes xy, xz and yz on a local Dask cluster -> {output}")
    where: dict[str, Any] = {
        "model": MODELS[task],
        "cluster": local_kind(wishes, otherwise="processes"),
        "workers": workers,
        "block": _BLOCK,
        "progress": progress,
    }
    report, stacks = _segmented(volume, output, where, say, semantic=semantic)
    consensus = read_level(output, "labels/segmentation", 0)
    answers = {**stacks, "consensus": consensus}
    score = overlap_scores if semantic else object_scores
    scores = {name: score(labels, truth) for name, labels in answers.items()}
    first = next(iter(scores["consensus"]))
    overview(
        picture,
        made.image,
        truth=truth,
        stacks=stacks,
        consensus=consensus,
        disagreement=read_level(output, "disagreement", 0) if semantic else None,
        voxel_size=made.voxel_size,
        unit="micrometer",
        scores={name: both[first] for name, both in scores.items()},
        objects=not semantic,
    )
    return DemoResult(volume, output, picture, scores, report)


def _segmented(
    volume: Path,
    output: Path,
    where: dict[str, Any],
    say: Callable[[str], None],
    *,
    semantic: bool,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The report of a run, and what each orientation alone would have said."""
    if semantic:
        more: dict[str, Any] = {"disagreement": True, "keep_stacks": True}
        report = run(volume, output, output="both", **where, **more)
        return report, {name: read_level(output, f"stacks/{name}", 0) for name in _ORIENTATIONS}
    report = run(volume, output, output="both", min_size=_LEAST_SIZE, **where)
    say("run: each orientation alone, to compare")
    alone = output.parent / "alone.zarr"
    stacks = {name: _alone(volume, alone, name, where) for name in _ORIENTATIONS}
    shutil.rmtree(alone)
    return report, stacks


def _alone(volume: Path, output: Path, name: str, where: dict[str, Any]) -> npt.NDArray[Any]:
    """Objects of one orientation: its planes, stitched."""
    run(
        volume,
        output,
        orientations=(name,),
        instances=_ALONE,
        min_size=_LEAST_SIZE,
        overwrite=output.exists(),
        **where,
    )
    return read_level(output, "labels/segmentation", 0)


def object_scores(labels: npt.NDArray[Any], truth: npt.NDArray[Any]) -> dict[str, float]:
    """F1 of objects with an IoU over 0.5, and over 0.75, with a true one."""
    found = matches_of(labels, truth)
    return {"f1": f1([found], 0.5), "f1 at 0.75": f1([found], 0.75)}


def overlap_scores(labels: npt.NDArray[Any], truth: npt.NDArray[Any]) -> dict[str, float]:
    """Dice = 2 |A and B| / (|A| + |B|) and IoU = |A and B| / |A or B| of two masks."""
    both = int(np.count_nonzero((labels > 0) & (truth > 0)))
    sizes = int(np.count_nonzero(labels)) + int(np.count_nonzero(truth))
    return {"dice": 2 * both / max(1, sizes), "iou": both / max(1, sizes - both)}


def write_volume(
    path: Path,
    image: npt.NDArray[np.generic],
    truth: npt.NDArray[np.generic],
    voxel_size: tuple[float, float, float],
) -> None:
    """An image and its truth as OME-Zarr, with pyramids."""
    levels = pyramid_levels(image.shape, voxel_size, _CHUNK, _CHUNK)
    arrays = (
        ArraySpec("", "image", str(image.dtype), 0, levels),
        ArraySpec("labels/truth", "labels", str(truth.dtype), 0, levels),
    )
    spec = OutputSpec(arrays, "0.5", voxel_size, "micrometer", (0.0, 0.0, 0.0), compression=1)
    create_output(path, spec, {"made_by": "orthoflow demo", "fingerprint": "demo"})
    for array, voxels in zip(arrays, (image, truth), strict=True):
        write_box(path, spec, array.path, 0, Box.whole(levels[0].shape), voxels)
        for number, level in enumerate(levels[1:], start=1):
            for box in level_boxes(level):
                build_level_box(path, spec, array.path, number, box)


def _require_room(folder: Path) -> None:
    """Refuse a folder that holds something else than an earlier demo."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"folder {folder} is a file; choose another name")
    others = sorted({entry.name for entry in folder.glob("*")} - set(_MADE))
    if others:
        raise BadInput(f"folder {folder} holds {others[0]}; the demo wants a folder of its own")


def _make_room(folder: Path) -> None:
    """An empty folder, or the one of an earlier demo emptied."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _MADE:
        entry = folder / name
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
