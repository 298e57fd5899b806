"""Simulated outputs of a panoptic network, and the truth behind them.

The generator is `synth.py` in ../shared/data/consensus or in the folder that `--data` names.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "consensus"
VIEWS = {"xy": 0, "xz": 1, "yz": 2}  # the axis along which the planes are stacked
STEP = 4  # pixels per cell of the heads


class Case(NamedTuple):
    """One set of the generator."""

    kind: str
    level: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.level}"


class Outputs(NamedTuple):
    """What the network says of the planes of one orientation; float16, planes first."""

    sem: npt.NDArray[np.float16]
    """(planes, rows, columns) logits."""
    heat: npt.NDArray[np.float16]
    """(planes, rows / 4, columns / 4)."""
    offsets: npt.NDArray[np.float16]
    """(planes, 2, rows / 4, columns / 4), pixels."""


def generator(folder: Path) -> ModuleType:
    """The module synth.py in `folder`."""
    spec = importlib.util.spec_from_file_location("synth", folder / "synth.py")
    if spec is None or spec.loader is None or not (folder / "synth.py").exists():
        sys.exit(f"no synth.py in {folder}; name its folder with --data")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def truth_of(synth: ModuleType, case: Case) -> npt.NDArray[np.int32]:
    """Labels (z, y, x)."""
    truth: npt.NDArray[np.int32] = synth.make_volume(
        case.size, case.seed, case.kind, synth.LEVELS[case.level]["fill"]
    )
    return truth


def outputs_of(
    synth: ModuleType, case: Case, truth: npt.NDArray[np.integer[Any]], view: str
) -> Outputs:
    """Outputs for the planes of one orientation."""
    noise = {key: value for key, value in synth.LEVELS[case.level].items() if key != "fill"}
    return Outputs(*synth.predictions(truth, view, case.seed, **noise))


def stacked(planes: npt.NDArray[Any], view: str) -> npt.NDArray[Any]:
    """Planes of an orientation as a volume (z, y, x)."""
    return np.ascontiguousarray(np.moveaxis(planes, 0, VIEWS[view]))
