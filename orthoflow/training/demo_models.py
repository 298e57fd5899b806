"""Train the bundled models: ``python -m orthoflow.training.demo_models``."""

from __future__ import annotations

import argparse
import logging
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orthoflow.models.card import Card
from orthoflow.models.contract import Model
from orthoflow.models.load import save_model
from orthoflow.models.source import BUNDLED
from orthoflow.training.loop import NORMAL_AXIS, normalized, train_semantic
from orthoflow.training.synthetic import VOXEL_SIZE, make_volume

if TYPE_CHECKING:
    import numpy.typing as npt

LOG = logging.getLogger(__name__)

COMMAND = "python -m orthoflow.training.demo_models"
NAME = "demo-semantic"
# `orthoflow demo` shows the volume of seed 0; neither training nor testing has seen it.
TRAINING_SEEDS = (101, 102, 103, 104)
TEST_SEEDS = (201, 202)
SEED = 7
STEPS = 1500
PATCH = 128
BATCH = 8
ARCHITECTURE = {"kind": "unet", "base": 12, "depth": 3}
PLANES_AT_ONCE = 4
SPEED_PASSES = 5


def train_demo(steps: int = STEPS) -> Model:
    """Train ``demo:semantic`` on synthetic volumes: 1500 steps take 4 to 6 minutes of one core."""
    volumes = [make_volume(seed=seed) for seed in TRAINING_SEEDS]

    def log(step: int, loss: float) -> None:
        if step % 50 == 0:
            LOG.info("step %d of %d: loss %.4f", step, steps, loss)

    return train_semantic(
        [volume.image for volume in volumes],
        [volume.labels > 0 for volume in volumes],
        architecture=ARCHITECTURE,
        steps=steps,
        patch=PATCH,
        batch=BATCH,
        seed=SEED,
        name=NAME,
        progress=log,
    )


def orientation_logits(
    model: Model, volume: npt.NDArray[Any], orientation: str
) -> npt.NDArray[np.float32]:
    """Logits (c, z, y, x) of one orientation, each plane in one pass; the slow, plain way.

    `volume` is (z, y, x) with sides that the model's divisor divides.
    """
    axis = NORMAL_AXIS[orientation]
    planes = np.moveaxis(normalized(volume, model.card.normalization), axis, 0)
    batches = [
        model(torch.from_numpy(planes[at : at + PLANES_AT_ONCE, None].copy())).numpy()
        for at in range(0, len(planes), PLANES_AT_ONCE)
    ]
    return np.moveaxis(np.moveaxis(np.concatenate(batches), 1, 0), 1, 1 + axis)


def evaluate_demo(model: Model, seed: int) -> dict[str, float]:
    """Dice of each orientation alone and of the mean of their logits, on a fresh volume."""
    volume = make_volume(seed=seed)
    truth = volume.labels > 0
    logits = {name: orientation_logits(model, volume.image, name) for name in NORMAL_AXIS}
    logits["consensus"] = sum(logits.values()) / np.float32(len(NORMAL_AXIS))  # type: ignore[assignment]
    return {name: round(dice(value.argmax(0) > 0, truth), 4) for name, value in logits.items()}


def measured_speed(model: Model) -> float:
    """Network pixels per processor second, 256 x 256 tiles; three digits."""
    tiles = torch.zeros(4, model.card.channels, 256, 256)
    model(tiles)
    started = time.process_time()
    for _ in range(SPEED_PASSES):
        model(tiles)
    pixels = SPEED_PASSES * tiles.numel() / model.card.channels
    return float(f"{pixels / (time.process_time() - started):.3g}")


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Twice the shared voxels over the sum of both; 1.0 where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def demo_card(model: Model, *, steps: int, seconds: float) -> Card:
    """Card of the demo model, with how it was made and how good it is."""
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    return model.card.replace(
        speed=measured_speed(model),
        speed_note=f"pixels per second of one CPU core ({platform.machine()}), float32, 256 x 256",
        classes=("background", "cell"),
        voxel_size=VOXEL_SIZE,
        license="Apache-2.0",
        description="Bright cells in synthetic light microscopy; for demonstrations and tests.",
        training={
            "command": COMMAND,
            "data": "orthoflow.training.synthetic.make_volume, 96 x 256 x 256",
            "training_seeds": list(TRAINING_SEEDS),
            "seed": SEED,
            "steps": steps,
            "patch": PATCH,
            "batch": BATCH,
            "seconds": round(seconds),
            "versions": versions,
            "dice": {f"seed {seed}": evaluate_demo(model, seed) for seed in TEST_SEEDS},
        },
    )


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the model folders")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The bits of the weights depend on the number of threads.
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = train_demo(options.steps)
    card = demo_card(model, steps=options.steps, seconds=time.perf_counter() - started)
    saved = save_model(options.out / NAME, model.module, card, overwrite=True)
    LOG.info("%s", saved.training)


if __name__ == "__main__":
    main()
