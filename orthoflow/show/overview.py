"""The picture of a finished run: what one orientation says, and what all agree on."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orthoflow.show.cuts import require_same_shape, require_volume
from orthoflow.show.panels import (
    Scale,
    Scene,
    Volume,
    class_column,
    dissent_column,
    error_column,
    error_keys,
    image_column,
    make_scene,
    share,
)
from orthoflow.show.png import require_writable, write_png
from orthoflow.show.sheet import Column, cut_rows, draw

CONSENSUS = "consensus"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """One opinion that is shown: labels with a heading and a line below it."""

    heading: str
    labels: Volume
    note: str


def overview(  # noqa: PLR0913 - everything a picture can show, by name
    path: str | os.PathLike[str],
    image: Volume,
    *,
    consensus: Volume,
    truth: Volume | None = None,
    stacks: Mapping[str, Volume] | None = None,
    disagreement: Volume | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    title: str | None = None,
    scores: Mapping[str, float] | None = None,
    objects: bool = False,
) -> None:
    """Save three orthogonal cuts of a result as a PNG: a row a cut, a column a kind.

    The cuts are the planes with most foreground in the truth, else in the consensus. With a truth
    the opinions are shown by their errors, otherwise by their labels.

    Parameters
    ----------
    path
        Ends in .png, in a folder that exists; replaced in one step.
    image
        One channel (z, y, x), any real dtype; shown between its percentiles 0.3 and 99.7.
    consensus, truth
        Labels (z, y, x), 0 is background. Classes are compared by number; for instances see
        `objects`.
    stacks
        Labels of single orientations, by name. One is shown: of lowest score, or, without scores,
        of most voxels that differ from the truth, or else the first.
    disagreement
        Number of orientations (z, y, x) that dissent from the consensus.
    voxel_size
        Along (z, y, x), in `unit`; voxels are shown as cubes where it is None.
    unit
        A length such as "micrometer" or "nm"; the scale bar counts voxels where it is None.
    title
        A line above.
    scores
        Dice over the whole volume by orientation, and of "consensus"; of `objects` F1.
    objects
        Whether labels are instances: they are shown in colours instead of being compared voxel by
        voxel, and the orientation with the lowest score is shown.

    Raises
    ------
    BadInput
        If shapes differ, or the path's folder does not exist.
    StoreRefused
        If the file cannot be written.
    """
    path = require_writable(path)
    require_volume("image", image, None)
    volumes = {"truth": truth, "consensus": consensus, "disagreement": disagreement}
    single = {f"stacks[{name!r}]": labels for name, labels in (stacks or {}).items()}
    require_same_shape(image.shape, volumes | single)

    guide = (consensus if truth is None else truth) != 0
    scene = make_scene(image, guide, Scale(voxel_size, unit))
    columns = [image_column(scene)]
    if truth is not None:
        columns.append(class_column(scene, "truth", truth, share(truth)))
    verdicts = _verdicts(consensus, stacks or {}, truth, scores or {}, "F1" if objects else "Dice")
    columns += _opinions(scene, verdicts, None if objects else truth)
    if disagreement is not None:
        columns.append(dissent_column(scene, disagreement))
    write_png(path, draw(columns, cut_rows(scene.cuts, scene.bars), title=title))


def chosen(
    stacks: Mapping[str, Volume], truth: Volume | None, scores: Mapping[str, float]
) -> tuple[str, str]:
    """Name of the orientation to show, and why it ("worst" or "first")."""
    known = {name: scores[name] for name in stacks if math.isfinite(scores.get(name, math.nan))}
    if not known and truth is not None:
        known = {name: -float((labels != truth).sum()) for name, labels in stacks.items()}
    if known:
        return min(known, key=lambda name: known[name]), "worst"
    return next(iter(stacks)), "first"


def _verdicts(
    consensus: Volume,
    stacks: Mapping[str, Volume],
    truth: Volume | None,
    scores: Mapping[str, float],
    measure: str,
) -> list[_Verdict]:
    """The single orientation that is shown, if any, then the consensus."""
    verdicts = []
    if stacks:
        name, why = chosen(stacks, truth, scores)
        place = [f"{why} of {len(stacks)}"] if len(stacks) > 1 else []
        note = ", ".join((_score(scores, name, measure) or [share(stacks[name])]) + place)
        verdicts.append(_Verdict(f"{name} alone", stacks[name], note))
    note = "".join(_score(scores, CONSENSUS, measure)) or share(consensus)
    return [*verdicts, _Verdict(CONSENSUS, consensus, note)]


def _score(scores: Mapping[str, float], name: str, measure: str) -> list[str]:
    return [f"{measure} {scores[name]:.3f}"] if math.isfinite(scores.get(name, math.nan)) else []


def _opinions(scene: Scene, verdicts: list[_Verdict], truth: Volume | None) -> list[Column]:
    if truth is None:
        return [class_column(scene, v.heading, v.labels, v.note) for v in verdicts]
    first, *others = [error_column(scene, v.heading, v.labels, truth, v.note) for v in verdicts]
    # One legend serves all error columns, below the first of them.
    keys = error_keys(verdicts[-1].labels, truth)
    return [replace(first, keys=keys, keys_span=len(verdicts)), *others]
