"""The picture of a small region, before a long run is started."""

from __future__ import annotations

import os

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import AXES, Box, Triple
from orthoflow.show.cuts import require_same_shape, require_volume
from orthoflow.show.objects import PALETTE, choose_inks, with_objects
from orthoflow.show.panels import (
    Scale,
    Scene,
    Volume,
    class_column,
    dissent_column,
    image_column,
    make_scene,
    probability_column,
    share,
)
from orthoflow.show.png import require_writable, write_png
from orthoflow.show.sheet import Column, Key, cut_rows, draw


def preview(  # noqa: PLR0913 - everything a picture can show, by name
    path: str | os.PathLike[str],
    image: Volume,
    *,
    labels: Volume | None = None,
    objects: bool = False,
    probability: Volume | None = None,
    disagreement: Volume | None = None,
    box: Box | None = None,
    voxel_size: tuple[float, float, float] | None = None,
    unit: str | None = None,
    title: str | None = None,
) -> None:
    """Save three orthogonal cuts of a region as a PNG: image, labels, probability, disagreement.

    The cuts are the planes with most labelled voxels; without any, with the highest probability
    in all; without both, those in the middle.

    Parameters
    ----------
    path
        Ends in .png, in a folder that exists; replaced in one step.
    image
        One channel of the region (z, y, x), any real dtype.
    labels
        Classes or objects (z, y, x), 0 is background.
    objects
        Whether the labels are objects: then neighbours get different colours.
    probability
        Of the foreground (z, y, x): floats in 0..1, or integers in shares of their dtype's maximum.
    disagreement
        Number of orientations (z, y, x) that dissent.
    box
        Where the region lies in its volume; the arrays cover it. Voxels are counted from it.
    voxel_size
        Along (z, y, x), in `unit`; voxels are shown as cubes where it is None.
    unit
        A length such as "micrometer" or "nm"; the scale bar counts voxels where it is None.
    title
        A line above; the bounds of `box` unless given.

    Raises
    ------
    BadInput
        If shapes differ, or the path's folder does not exist.
    StoreRefused
        If the file cannot be written.
    """
    path = require_writable(path)
    require_volume("image", image, None)
    volumes = {"labels": labels, "probability": probability, "disagreement": disagreement}
    require_same_shape(image.shape, volumes)
    origin = (0, 0, 0) if box is None else _origin(box, image)

    scene = make_scene(image, _guide(labels, probability), Scale(voxel_size, unit), origin)
    columns = [image_column(scene)]
    if labels is not None and objects:
        columns.append(_objects_column(scene, labels))
    elif labels is not None:
        columns.append(class_column(scene, "labels", labels, share(labels)))
    if probability is not None:
        columns.append(probability_column(scene, probability))
    if disagreement is not None:
        columns.append(dissent_column(scene, disagreement))
    title = _bounds(box) if title is None and box is not None else title
    write_png(path, draw(columns, cut_rows(scene.cuts, scene.bars), title=title))


def _objects_column(scene: Scene, labels: Volume) -> Column:
    """Objects in colour over the image, each alike in all cuts."""
    planes = [cut.of(labels) for cut in scene.cuts]
    inks = choose_inks(planes)
    pictures = (
        with_objects(base, plane, inks, cut.outline)
        for cut, base, plane in zip(scene.cuts, scene.bases, planes, strict=True)
    )
    count = int(np.count_nonzero(np.unique(labels)))
    note = f"{count:,} object{'s' * (count != 1)}, {share(labels)}"
    return Column("objects", tuple(pictures), note, keys=(Key("one colour each", PALETTE),))


def _origin(box: Box, image: Volume) -> Triple:
    if box.shape != image.shape:
        raise BadInput(
            f"image has shape {image.shape}, box {box} holds {box.shape} voxels; "
            "give the image of the box alone"
        )
    return box.start


def _guide(labels: Volume | None, probability: Volume | None) -> Volume | None:
    """Where most is to be seen."""
    if labels is not None and labels.any():
        foreground: Volume = labels != 0
        return foreground
    return probability


def _bounds(box: Box) -> str:
    spans = zip(AXES, box.start, box.stop, strict=True)
    return "   ".join(f"{axis} {lo}\u2013{hi}" for axis, lo, hi in spans)
