"""Train the bundled models: ``python -m orthoflow.training.demo_models``."""

from __future__ import annotations

import argparse
import logging
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orthoflow.models.card import Card
from orthoflow.models.contract import Model
from orthoflow.models.heads import CELLPROB, SEMANTIC, channels_of
from orthoflow.models.load import save_model
from orthoflow.models.source import BUNDLED
from orthoflow.training.instances import train_instances
from orthoflow.training.loop import NORMAL_AXIS, train_semantic
from orthoflow.training.quality import dice, flow_quality, orientation_outputs, panoptic_quality
from orthoflow.training.synthetic import OBJECTS, VOXEL_SIZE, Look, make_volume

if TYPE_CHECKING:
    import numpy.typing as npt

LOG = logging.getLogger(__name__)

COMMAND = "python -m orthoflow.training.demo_models"
# `orthoflow demo` shows the volume of seed 0; neither training nor testing has seen it.
TRAINING_SEEDS = (101, 102, 103, 104)
TEST_SEEDS = (201, 202)
SEED = 7
PATCH = 128
BATCH = 8
SPEED_PASSES = 5
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Demo:
    """One bundled model: what it is made of and from."""

    task: str
    description: str
    steps: int
    architecture: dict[str, Any]
    look: Look = field(default_factory=Look)
    data: str = "orthoflow.training.synthetic.make_volume, 96 x 256 x 256"

    @property
    def name(self) -> str:
        """Name of its folder and in its card."""
        return f"demo-{self.task}"


# Three networks of base 12 would have 3.05 MB together.
_INSTANCES: dict[str, Any] = {
    "architecture": {"kind": "unet", "base": 11, "depth": 3},
    "look": OBJECTS,
    "data": "orthoflow.training.synthetic.make_volume, 96 x 256 x 256, look OBJECTS",
}
DEMOS = {
    demo.task: demo
    for demo in (
        Demo(
            "semantic",
            "Bright cells in synthetic light microscopy; for demonstrations and tests.",
            steps=1500,
            architecture={"kind": "unet", "base": 12, "depth": 3},
        ),
        Demo(
            "panoptic",
            "Touching cells and short tubes in synthetic light microscopy, as semantic logit, "
            "centres and offsets; for demonstrations and tests.",
            steps=1500,
            **_INSTANCES,
        ),
        Demo(
            "flows",
            "Touching cells and short tubes in synthetic light microscopy, as flows and cell "
            "probability; for demonstrations and tests.",
            steps=600,
            **_INSTANCES,
        ),
    )
}


def train_demo(demo: Demo, steps: int | None = None) -> Model:
    """Train a bundled model on synthetic volumes: 4 to 12 minutes of one core."""
    volumes = [make_volume(seed=seed, look=demo.look) for seed in TRAINING_SEEDS]
    images = [volume.image for volume in volumes]
    labels = [volume.labels for volume in volumes]
    count = demo.steps if steps is None else steps

    def log(step: int, loss: float) -> None:
        if step % 50 == 0:
            LOG.info("%s: step %d of %d: loss %.4f", demo.name, step, count, loss)

    settings: dict[str, Any] = {
        "architecture": demo.architecture,
        "steps": count,
        "patch": PATCH,
        "batch": BATCH,
        "seed": SEED,
        "name": demo.name,
        "progress": log,
    }
    if demo.task == "semantic":
        return train_semantic(images, [one > 0 for one in labels], **settings)
    return train_instances(images, labels, task=demo.task, **settings)


def evaluate_demo(model: Model, seed: int) -> dict[str, Any]:
    """Scores of each orientation alone on a fresh volume, and the Dice of the mean of their logits.

    Dice by orientation and of the consensus; for panoptic and flows also by orientation what
    `panoptic_quality` and `flow_quality` say.
    """
    task = model.card.task
    volume = make_volume(seed=seed, look=DEMOS[task].look)
    outputs = {name: orientation_outputs(model, volume.image, name) for name in NORMAL_AXIS}
    logits = {name: _foreground(model.card, values) for name, values in outputs.items()}
    logits["consensus"] = sum(logits.values()) / np.float32(len(NORMAL_AXIS))  # type: ignore[assignment]
    truth = volume.labels > 0
    scores = {name: round(dice(value > 0, truth), DIGITS) for name, value in logits.items()}
    if task == "semantic":
        return scores
    quality = panoptic_quality if task == "panoptic" else flow_quality
    found: dict[str, Any] = {"dice": scores}
    for name, values in outputs.items():
        axis = NORMAL_AXIS[name]
        planes = np.moveaxis(values, 1 + axis, 0)
        measured = quality(planes, np.moveaxis(volume.labels, axis, 0))
        found[name] = {key: round(value, DIGITS) for key, value in measured.items()}
    return found


def _foreground(card: Card, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logit of the foreground (z, y, x) from the outputs (c, z, y, x)."""
    if card.task == "semantic":
        logit: npt.NDArray[np.float32] = outputs[1] - outputs[0]
    else:
        head = SEMANTIC if card.task == "panoptic" else CELLPROB
        logit = outputs[channels_of(card, head)][0]
    return logit


def measured_speed(model: Model) -> float:
    """Network pixels per processor second, 256 x 256 tiles; three digits."""
    tiles = torch.zeros(4, model.card.channels, 256, 256)
    model(tiles)
    started = time.process_time()
    for _ in range(SPEED_PASSES):
        model(tiles)
    pixels = SPEED_PASSES * tiles.numel() / model.card.channels
    return float(f"{pixels / (time.process_time() - started):.3g}")


def demo_card(model: Model, *, steps: int, seconds: float) -> Card:
    """Card of a demo model, with how it was made and how good it is."""
    demo = DEMOS[model.card.task]
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    return model.card.replace(
        speed=measured_speed(model),
        speed_note=f"pixels per second of one CPU core ({platform.machine()}), float32, 256 x 256",
        classes=("background", "cell"),
        voxel_size=VOXEL_SIZE,
        license="Apache-2.0",
        description=demo.description,
        training={
            "command": f"{COMMAND} {demo.task}",
            "data": demo.data,
            "training_seeds": list(TRAINING_SEEDS),
            "seed": SEED,
            "steps": steps,
            "patch": PATCH,
            "batch": BATCH,
            "seconds": round(seconds),
            "versions": versions,
            "dice" if demo.task == "semantic" else "quality": {
                f"seed {seed}": evaluate_demo(model, seed) for seed in TEST_SEEDS
            },
        },
    )


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(DEMOS)}; all of them")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the model folders")
    parser.add_argument("--steps", type=int, help="instead of the usual number")
    options = parser.parse_args()
    unknown = [task for task in options.tasks if task not in DEMOS]
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}; use some of {', '.join(DEMOS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The bits of the weights depend on the number of threads.
    torch.set_num_threads(1)
    for task in options.tasks or DEMOS:
        demo = DEMOS[task]
        steps = demo.steps if options.steps is None else options.steps
        started = time.perf_counter()
        model = train_demo(demo, steps)
        card = demo_card(model, steps=steps, seconds=time.perf_counter() - started)
        saved = save_model(options.out / demo.name, model.module, card, overwrite=True)
        LOG.info("%s", saved.training)


if __name__ == "__main__":
    main()
