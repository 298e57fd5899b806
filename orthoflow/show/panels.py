"""What a column of pictures shows: the image, labels, errors, dissent, probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Triple
from orthoflow.show import colours
from orthoflow.show.colours import Picture
from orthoflow.show.cuts import Cut, orthogonal_cuts
from orthoflow.show.scale import ScaleBar, scale_bar
from orthoflow.show.sheet import MARK, Column, Key
from orthoflow.stores.units import require_voxel_size

Volume: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """Physical size of a voxel along (z, y, x); None where it is not known."""

    voxel_size: tuple[float, float, float] | None
    unit: str | None

    def __post_init__(self) -> None:
        if self.voxel_size is not None:
            require_voxel_size(self.voxel_size, "the picture's")
        elif self.unit is not None:
            raise BadInput(f"unit {self.unit!r} says nothing without voxel_size; give both or none")


@dataclass(frozen=True, slots=True)
class Scene:
    """The cuts of one volume, and the image in them in grey."""

    cuts: tuple[Cut, ...]
    bases: tuple[Picture, ...]
    bars: tuple[ScaleBar, ...]
    size: str
    """Voxels of the volume, in words."""


def make_scene(
    image: Volume, guide: Volume | None, scale: Scale, origin: Triple = (0, 0, 0)
) -> Scene:
    """Cut `image` (z, y, x) where `guide` shows most; one contrast for all cuts."""
    z, y, x = image.shape
    cuts = orthogonal_cuts((z, y, x), guide, scale.voxel_size, origin)
    contrast = colours.contrast(image)
    return Scene(
        cuts,
        tuple(colours.grey(cut.of(image), contrast) for cut in cuts),
        tuple(scale_bar(cut, scale.unit) for cut in cuts),
        f"{z} \u00d7 {y} \u00d7 {x}",
    )


def image_column(scene: Scene) -> Column:
    """The image alone."""
    keys = (Key("the other cuts", (MARK,)),) if len(scene.cuts) > 1 else ()
    return Column("image", scene.bases, scene.size, keys=keys)


def class_column(scene: Scene, heading: str, labels: Volume, note: str = "") -> Column:
    """Labels in colour over the image."""
    pictures = (
        colours.with_classes(base, cut.of(labels), cut.outline)
        for cut, base in zip(scene.cuts, scene.bases, strict=True)
    )
    return Column(heading, tuple(pictures), note, keys=_class_keys(scene, labels))


def error_column(
    scene: Scene, heading: str, labels: Volume, truth: Volume, note: str = ""
) -> Column:
    """What labels have right and wrong, and how many voxels are wrong in each cut."""
    planes = [(cut.of(labels), cut.of(truth)) for cut in scene.cuts]
    pictures = (
        colours.with_errors(base, *plane) for base, plane in zip(scene.bases, planes, strict=True)
    )
    wrong = (np.count_nonzero(said != true) for said, true in planes)
    return Column(
        heading,
        tuple(pictures),
        note,
        captions=tuple(f"{n:,} {'voxel' if n == 1 else 'voxels'} wrong" for n in wrong),
    )


def error_keys(labels: Volume, truth: Volume) -> tuple[Key, ...]:
    """Legend of error columns; mistaken classes are named where there are several classes."""
    keys = [
        Key("correct", (colours.CORRECT,)),
        Key("false positive", (colours.FALSE_POSITIVE,)),
        Key("false negative", (colours.FALSE_NEGATIVE,)),
    ]
    if max(labels.max(), truth.max()) > 1:
        keys.append(Key("wrong class", (colours.WRONG_CLASS,)))
    return tuple(keys)


def dissent_column(scene: Scene, disagreement: Volume) -> Column:
    """How many orientations dissent from the consensus."""
    pictures = (
        colours.with_dissent(base, cut.of(disagreement))
        for cut, base in zip(scene.cuts, scene.bases, strict=True)
    )
    most = int(np.clip(disagreement.max(), 1, len(colours.DISSENT)))
    names = [["one orientation dissents"], ["one", "two dissent"], ["one", "two", "three dissent"]]
    keys = (Key(n, (colour,)) for n, colour in zip(names[most - 1], colours.DISSENT, strict=False))
    return Column("disagreement", tuple(pictures), share(disagreement), keys=tuple(keys))


def share(labels: Volume) -> str:
    """How much of a volume is not 0, in words.

    >>> share(np.array([0, 0, 0, 2])), share(np.array([0])), share(np.ones(3))
    ('25 % of voxels', '0 % of voxels', '100 % of voxels')
    """
    part = 100 * np.count_nonzero(labels) / labels.size
    # Two digits of what is, or of what is missing: 99.99 % is not 100 %.
    nearest = min(part, 100 - part)
    digits = 0 if nearest == 0 else max(0, 1 - math.floor(math.log10(nearest)))
    return f"{round(part, digits):g} % of voxels"


def probability_column(scene: Scene, probability: Volume) -> Column:
    """Probability of the foreground as a heat map."""
    pictures = tuple(colours.heat(cut.of(probability)) for cut in scene.cuts)
    return Column("probability", pictures, "of the foreground", keys=(Key("0 to 1", colours.RAMP),))


def _class_keys(scene: Scene, labels: Volume) -> tuple[Key, ...]:
    """Classes in the cuts by number while the palette lasts; the only one needs no name."""
    present = np.unique(np.concatenate([cut.of(labels).ravel() for cut in scene.cuts]))
    present = present[present != 0]
    if len(present) < 2:
        return ()
    if present.max() > len(colours.CLASSES):
        return (Key(f"{len(present):,} labels here", colours.CLASSES),)
    return tuple(Key(str(n), (colours.CLASSES[n - 1],)) for n in present.tolist())
