"""F1 of the bundled networks' objects on fresh synthetic volumes, by rule and by orientation.

    python benchmarks/demo_objects.py                        # seeds 5, 6, 7; 48 x 96 x 96
    python benchmarks/demo_objects.py --compare demo:panoptic threshold 0.3,0.5,0.7

Every line is a run from image to objects, with all other options at their defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import _measure as measure
import orthoflow as of
from _scores import f1, objects
from orthoflow.training.synthetic import OBJECTS, make_volume

VIEWS = ("xy", "xz", "yz")
# One orientation alone is followed through its stack: the best that it can do.
ALONE = {
    "demo:panoptic": [{"instances": "empanada", "orientations": view} for view in VIEWS],
    "demo:flows": [{"instances": "stitch", "orientations": view} for view in VIEWS],
}
WAYS: dict[str, list[dict[str, Any]]] = {
    "demo:panoptic": [
        *({"instances": "components"}, {"instances": "components", "fine_boundaries": False}),
        *({"instances": "empanada"}, *ALONE["demo:panoptic"]),
    ],
    "demo:flows": [
        *({"instances": "flows"}, {"instances": "flows", "flow_smoothing": 1.0}),
        *({"instances": "components"}, *ALONE["demo:flows"]),
    ],
}


def found_by(image: Any, model: str, wishes: dict[str, Any]) -> Any:
    """Labels (z, y, x) that a run makes of an image."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.zarr")
        of.run(image, out, model=model, cluster="synchronous", **wishes)
        return zarr.open_array(out, path="labels/segmentation/0", mode="r")[:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="48,96,96", help="z,y,x (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[5, 6, 7])
    several = ("MODEL", "OPTION", "VALUES")
    parser.add_argument("--compare", nargs=3, metavar=several, help="instead of rules")
    options = parser.parse_args()
    ways = WAYS
    if options.compare:
        model, name, values = options.compare
        ways = {model: [{name: value} for value in values.split(",")]}
    z, y, x = (int(n) for n in options.shape.split(","))
    made = [make_volume(shape=(z, y, x), seed=seed, look=OBJECTS) for seed in options.seeds]
    rows = []
    for model, several_wishes in ways.items():
        for wishes in several_wishes:
            found = [found_by(one.image, model, wishes) for one in made]
            pairs = [(labels, one.labels) for labels, one in zip(found, made, strict=True)]
            rows.append(
                {
                    "model": model,
                    "options": ", ".join(f"{name}={value}" for name, value in wishes.items()),
                    "F1 at 0.5": float(np.mean([f1(*pair, 0.5) for pair in pairs])),
                    "least": min(f1(*pair, 0.5) for pair in pairs),
                    "at 0.75": float(np.mean([f1(*pair, 0.75) for pair in pairs])),
                    "found": sum(objects(labels) for labels in found),
                    "true": sum(objects(one.labels) for one in made),
                }
            )
            measure.note(str(rows[-1]))
    print(f"\nvolumes {options.shape}, seeds {options.seeds}\n\n{measure.table(rows)}")
    measure.save("demo_objects", {"shape": options.shape, "rows": rows})


if __name__ == "__main__":
    main()
