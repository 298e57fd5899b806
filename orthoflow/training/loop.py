"""A small, honest training loop for 2-D networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional

from orthoflow.errors import BadInput
from orthoflow.models.card import Card, Normalization
from orthoflow.models.contract import Model
from orthoflow.models.heads import Task
from orthoflow.models.load import resolve_device
from orthoflow.models.nets import UNet, build_net
from orthoflow.reduce.statistics import grey_scale, sample_boxes
from orthoflow.training.targets import flipped, transposed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

Plane = Literal["xy", "xz", "yz"]

NORMAL_AXIS: dict[str, int] = {"xy": 0, "xz": 1, "yz": 2}
IGNORED = -100
"""Class of a pixel that counts for nothing: the padding of a plane smaller than the patch."""
CONTEXT_SHARE = 0.5
"""Share of a patch around it whose labels its answers are made from, where centres matter."""
FOREGROUND_SHARE = 0.5
"""Share of patches that are centred on a voxel of a class other than 0."""
WARMUP_SHARE = 0.05
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a training run; the same recipe and data give the same weights on a CPU."""

    steps: int = 400
    patch: int = 128
    """Side of the square patches in pixels; a multiple of the network's divisor."""
    batch: int = 8
    seed: int = 0
    orientations: tuple[Plane, ...] = ("xy", "xz", "yz")
    lr: float = 3e-3
    """Largest learning rate: warm-up over 5 % of the steps, then a cosine down to zero."""

    def __post_init__(self) -> None:
        for name in ("steps", "patch", "batch"):
            if getattr(self, name) < 1:
                raise BadInput(f"training {name}={getattr(self, name)} must be at least 1")
        unknown = [name for name in self.orientations if name not in NORMAL_AXIS]
        if unknown or not self.orientations:
            raise BadInput(
                f"training orientations {self.orientations} must be some of {tuple(NORMAL_AXIS)}"
            )
        if not 0 < self.lr < math.inf:
            raise BadInput(f"training lr={self.lr} must be above 0")


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a network has to learn: the right answers in a plane, and what an error costs."""

    outputs: int
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Of outputs (n, outputs, h, w) and answers; one number."""
    task: Task = "semantic"
    answers: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]] | None = None
    """From the labels of a plane (h, w) to (k, h, w), the class first; None: the labels are it."""
    vector: int | None = None
    """Which of the k is the rows of a vector, before its columns: flips and transposes turn it."""


class PatchSampler:
    """Random augmented patches from planes of several volumes.

    Parameters
    ----------
    images
        Normalised volumes (z, y, x), float32.
    masks
        Classes, or instances, of the same shapes, whole numbers from 0.
    recipe
        Patch side, orientations and seed.
    lesson
        How answers are made of the masks; the classes themselves unless given.
    """

    def __init__(
        self,
        images: Sequence[npt.NDArray[np.float32]],
        masks: Sequence[npt.NDArray[np.integer[Any]]],
        recipe: Recipe,
        lesson: Lesson | None = None,
    ) -> None:
        self._images, self._masks, self._recipe = images, masks, recipe
        self._make = None if lesson is None else lesson.answers
        self._vector = None if lesson is None else lesson.vector
        self._rng = np.random.default_rng(recipe.seed)
        self._foreground = [np.flatnonzero(mask) for mask in masks]

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Next batch: tiles (n, 1, p, p) float32 and classes (n, p, p) int64.

        A lesson with answers gives these instead of classes: (n, k, p, p) float32.
        """
        pairs = [self._patch() for _ in range(self._recipe.batch)]
        tiles = np.stack([image for image, _ in pairs])[:, None]
        answers = np.stack([answer for _, answer in pairs])
        return torch.from_numpy(tiles), torch.from_numpy(
            answers[:, 0] if self._make is None else answers
        )

    def _patch(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        rng, side = self._rng, self._recipe.patch
        which = int(rng.integers(len(self._images)))
        axis = NORMAL_AXIS[self._recipe.orientations[rng.integers(len(self._recipe.orientations))]]
        image, mask = self._images[which], self._masks[which]
        at = self._centre(which, image.shape)
        index = at.pop(axis)
        plane, truth = np.take(image, index, axis), np.take(mask, index, axis)
        tile = np.zeros((side, side), np.float32)
        here, there = zip(
            *(_overlap(n, side, middle, rng) for n, middle in zip(plane.shape, at, strict=True)),
            strict=True,
        )
        tile[there] = plane[here]
        known = self._answers(truth, here)
        answers = np.full((len(known), side, side), IGNORED, known.dtype)
        answers[:, *there] = known
        return _augmented(tile, answers, self._vector, rng)

    def _answers(
        self, truth: npt.NDArray[np.integer[Any]], here: tuple[slice, ...]
    ) -> npt.NDArray[Any]:
        """Answers (k, h, w) in a rectangle of a plane."""
        if self._make is None:
            return truth[here][None].astype(np.int64)
        around = int(CONTEXT_SHARE * self._recipe.patch)
        context = tuple(slice(max(0, s.start - around), s.stop + around) for s in here)
        inner = (
            slice(s.start - c.start, s.stop - c.start) for s, c in zip(here, context, strict=True)
        )
        return self._make(truth[context])[:, *inner]

    def _centre(self, which: int, shape: tuple[int, ...]) -> list[int]:
        candidates = self._foreground[which]
        if len(candidates) and self._rng.random() < FOREGROUND_SHARE:
            flat = candidates[self._rng.integers(len(candidates))]
            return [int(i) for i in np.unravel_index(flat, shape)]
        return [int(i) for i in self._rng.integers(0, shape)]


def train_semantic(  # noqa: PLR0913 - a run by its settings
    images: Sequence[npt.NDArray[Any]],
    masks: Sequence[npt.NDArray[Any]],
    *,
    architecture: Mapping[str, Any] | None = None,
    normalization: str | Normalization = "percentile",
    steps: int = 400,
    patch: int = 128,
    batch: int = 8,
    seed: int = 0,
    orientations: tuple[Plane, ...] = ("xy", "xz", "yz"),
    lr: float = 3e-3,
    device: str = "cpu",
    name: str = "trained",
    progress: Callable[[int, float], None] | None = None,
) -> Model:
    """Train a 2-D U-Net to tell the classes of `masks` apart.

    Parameters
    ----------
    images
        Volumes (z, y, x) of any real dtype.
    masks
        Classes of every voxel, 0 is background; bool or whole numbers, shapes as the images.
    architecture
        As in a card; ``{"kind": "unet", "base": 16, "depth": 3}`` unless given.
    normalization
        What the model's card will say; applied with statistics of each whole volume.
    steps, patch, batch, seed, orientations, lr
        See `Recipe`.
    device
        Where to train; the model comes back on the CPU.
    name
        The model's name.
    progress
        Called with (step, loss) after every step.

    Returns
    -------
    Model
        Ready to use; `orthoflow.models.load.save_model` writes its module and card.

    Raises
    ------
    BadInput
        For images and masks that do not fit each other, or settings that cannot work.
    """
    recipe = Recipe(steps, patch, batch, seed, orientations, lr)
    lesson = Lesson(outputs=_checked(images, masks), loss=semantic_loss)
    return learn(
        images,
        masks,
        lesson,
        recipe,
        architecture=architecture,
        normalization=normalization,
        device=device,
        name=name,
        progress=progress,
    )


def learn(  # noqa: PLR0913 - a run by its settings
    images: Sequence[npt.NDArray[Any]],
    masks: Sequence[npt.NDArray[Any]],
    lesson: Lesson,
    recipe: Recipe,
    *,
    architecture: Mapping[str, Any] | None = None,
    normalization: str | Normalization = "percentile",
    device: str = "cpu",
    name: str = "trained",
    progress: Callable[[int, float], None] | None = None,
) -> Model:
    """Train a 2-D U-Net for any lesson; parameters as for `train_semantic`.

    Raises
    ------
    BadInput
        For images and masks that do not fit each other, or settings that cannot work.
    """
    _checked(images, masks)
    scheme = Normalization.of(normalization)
    architecture = architecture or {"kind": "unet", "base": 16, "depth": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = build_net(architecture, outputs=lesson.outputs, channels=1, ndim=2)
    if recipe.patch % net.divisor:
        raise BadInput(
            f"training patch={recipe.patch} must be a multiple of the divisor {net.divisor}"
        )
    ready = [normalized(image, scheme) for image in images]
    whole = [mask.astype(np.int64) for mask in masks]
    sampler = PatchSampler(ready, whole, recipe, lesson)
    fit(net.to(resolve_device(device)), sampler, recipe, progress, lesson.loss)
    card = Card(
        name, outputs=lesson.outputs, task=lesson.task, divisor=net.divisor, normalization=scheme
    )
    return Model.from_card(net.cpu(), card)


def fit(
    net: UNet,
    sampler: PatchSampler,
    recipe: Recipe,
    progress: Callable[[int, float], None] | None = None,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> list[float]:
    """Train `net` in place; return the loss of every step.

    AdamW, warm-up and cosine; cross-entropy plus soft Dice unless `loss_of` is given.
    """
    loss_of = loss_of or semantic_loss
    device = next(net.parameters()).device
    net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), recipe.lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
    losses = []
    for step in range(1, recipe.steps + 1):
        tiles, answers = (tensor.to(device) for tensor in sampler.batch())
        loss = loss_of(net(tiles), answers)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step, losses[-1])
    net.eval()
    return losses


def semantic_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the classes above 0.

    Parameters
    ----------
    logits
        (n, c, h, w), c at least 2.
    classes
        (n, h, w) int64; `IGNORED` where a pixel counts for nothing.
    """
    entropy = functional.cross_entropy(logits, classes, ignore_index=IGNORED)
    counted = (classes != IGNORED)[:, None]
    truth = functional.one_hot(classes.clamp(min=0), logits.shape[1]).movedim(-1, 1) * counted
    chance = logits.softmax(dim=1) * counted
    shared = (truth * chance).sum(dim=(0, 2, 3))[1:]
    both = (truth + chance).sum(dim=(0, 2, 3))[1:]
    return entropy + 1 - ((2 * shared + 1) / (both + 1)).mean()


def normalized(volume: npt.NDArray[Any], scheme: Normalization) -> npt.NDArray[np.float32]:
    """A whole volume (z, y, x) as network input, by the numbers that a run on it would use.

    A constant volume becomes zeros.
    """
    shift, factor = 0.0, 1.0
    if scheme.method == "fixed":
        shift, factor = float(scheme.mean or 0.0), 1.0 / float(scheme.std or 1.0)
    elif scheme.method != "none":
        z, y, x = volume.shape
        samples = [volume[box.slices][None] for box in sample_boxes((z, y, x))]
        scale = grey_scale(samples, scheme, name="of the training")
        shift, factor = scale.shift[0], scale.factor[0]
    return ((volume - np.float32(shift)) * np.float32(factor)).astype(np.float32)


def _rate(step: int, steps: int) -> float:
    warm = max(1.0, WARMUP_SHARE * steps)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _overlap(size: int, side: int, middle: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Along one axis: the slice of the plane, and where it lies in the patch.

    The patch is about `middle` and inside the plane; a shorter plane lies in the middle of it.
    """
    if size <= side:
        before = (side - size) // 2
        return slice(0, size), slice(before, before + size)
    jitter = int(rng.integers(-side // 4, side // 4 + 1))
    start = min(max(0, middle - side // 2 + jitter), size - side)
    return slice(start, start + side), slice(0, side)


def _augmented(
    tile: npt.NDArray[np.float32],
    answers: npt.NDArray[Any],
    vector: int | None,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    """Flips and a transpose of both; contrast, brightness and noise of the image."""
    for axis in (0, 1):
        if rng.random() < 0.5:
            tile, answers = np.flip(tile, axis), flipped(answers, axis, vector)
    if rng.random() < 0.5:
        tile, answers = tile.T, transposed(answers, vector)
    tile = tile * np.float32(rng.uniform(0.8, 1.25)) + np.float32(rng.uniform(-0.1, 0.1))
    noise = rng.standard_normal(tile.shape, np.float32) * np.float32(rng.uniform(0, 0.08))
    return tile + noise, np.ascontiguousarray(answers)


def _checked(images: Sequence[npt.NDArray[Any]], masks: Sequence[npt.NDArray[Any]]) -> int:
    """Number of classes; refuses data that cannot be trained on."""
    if not images or len(images) != len(masks):
        raise BadInput(f"{len(images)} images and {len(masks)} masks; give one mask per image")
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if image.ndim != 3 or image.shape != mask.shape:
            raise BadInput(
                f"image {index} has shape {image.shape}, its mask {mask.shape}; both must be "
                "(z, y, x) and equal"
            )
        if mask.dtype.kind not in "bui" or mask.min() < 0:
            raise BadInput(f"mask {index} must hold whole numbers from 0, got {mask.dtype}")
    classes = 1 + max(int(mask.max()) for mask in masks)
    if classes < 2:
        raise BadInput("the masks hold class 0 only; there is nothing to learn")
    return classes
