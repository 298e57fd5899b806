"""What a run is, as its output remembers it: settings, fingerprint, record, report."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

import orthoflow
from orthoflow.errors import BadInput
from orthoflow.geometry.output import ENDS, MIDDLES
from orthoflow.options import WORK, wish_of
from orthoflow.plan.costs import sampled_bytes
from orthoflow.plan.objects import FlowPlan, MiddlePlan, SolidPlan
from orthoflow.stores.markers import block_number_of
from orthoflow.stores.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from orthoflow.geometry.output import Stage
    from orthoflow.job import Tally
    from orthoflow.models import ModelRef
    from orthoflow.plan import Plan
    from orthoflow.stores.ledger import Outline

# Options that say where things are or how much runs at once, not what comes out.
_NO_SETTINGS = ("overwrite", "storage_option", "device", "batch_size", "trust")

# Numbers that follow from other settings: they tell nothing where one of those differs.
_DERIVED = ("patches", "output_arrays")

# Counts whose short names say too little in a report.
_REPORTED = {
    "skipped": "patches_skipped",
    "stored": "bytes_stored",
    "filled": "chunks_filled",
    "halved": "batches_halved",
    "duplicates": "blocks_done_twice",
}


class Done:
    """Which blocks of a run have a marker: a bit each, by number."""

    def __init__(self, outline: Outline) -> None:
        self._flags = np.zeros(outline.grid, bool)
        self.block_voxels = math.prod(outline.block)

    @classmethod
    def of(cls, outline: Outline, names: Iterable[str], stage: Stage = "blocks") -> Done:
        """From the names of markers; names that are no block's are left alone."""
        done = cls(outline)
        for name in names:
            number = block_number_of(name, stage)
            if number is not None and all(
                n < limit for n, limit in zip(number, done._flags.shape, strict=True)
            ):
                done._flags[number] = True
        return done

    @property
    def total(self) -> int:
        """Blocks of the run."""
        return self._flags.size

    @property
    def count(self) -> int:
        """Blocks that are done."""
        return int(self._flags.sum())

    def __contains__(self, number: object) -> bool:
        return isinstance(number, tuple) and bool(self._flags[number])


def settings_of(plan: Plan, model: ModelRef) -> dict[str, Any]:
    """Everything that the bytes of an output depend on, and the blocks that markers speak of."""
    facts = plan.facts
    options = {
        name: value
        for name, value in plan.options.to_dict().items()
        if wish_of(name).group != WORK and name not in _NO_SETTINGS
    }
    numbers: dict[str, Any] = {
        "orthoflow": orthoflow.__version__,
        "model": model.digest,
        "input": facts.name,
        "input_shape": list(facts.shape),
        "input_dtype": facts.dtype,
        "input_channels": facts.channels,
        **options,
        # A GPU rounds in another way than a CPU; which one of several does not matter.
        "device": plan.options.device.partition(":")[0],
        "precision": plan.precision,
        "block": list(plan.block),
        "patches": plan.to_dict()["orientations"],
        "output_arrays": plan.output.to_dict(),
    }
    settings: dict[str, Any] = json.loads(json.dumps(numbers))
    return settings


def fingerprint_of(settings: dict[str, Any]) -> str:
    """Digest of the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def require_same(record: dict[str, Any], settings: dict[str, Any], output: str | Path) -> None:
    """Refuse to go on with an output that was begun with other settings.

    Raises
    ------
    BadInput
        Naming each setting that differs, as it was and as it is.
    """
    if record.get("fingerprint") == fingerprint_of(settings):
        return
    before = record.get("settings")
    before = before if isinstance(before, dict) else {}
    differ = [n for n in {**settings, **before} if before.get(n) != settings.get(n)]
    names = [n for n in differ if n not in _DERIVED] or differ
    changes = [f"{n} {_short(before.get(n))} -> {_short(settings.get(n))}" for n in names]
    raise BadInput(
        f"output {display_url(str(output))} was begun with other settings: "
        f"{'; '.join(changes) or 'its record was changed'}; use the same ones to resume, another "
        "output, or overwrite"
    )


def run_record(plan: Plan, model: ModelRef, grey: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What `orthoflow/run.json` keeps of a run: to check it, finish it, do it again."""
    options = plan.options.to_dict()
    return {
        "orthoflow": orthoflow.__version__,
        "fingerprint": fingerprint_of(settings),
        "settings": settings,
        "region": str(plan.region),
        "block": list(plan.block),
        "output": plan.output.to_dict(),
        "input": {
            "name": plan.facts.name,
            "shape": plan.facts.shape,
            "dtype": plan.facts.dtype,
            "channels": plan.facts.channels,
        },
        **_labels(plan),
        "sampled_bytes": sampled_bytes(plan),
        "model": {"source": model.source, "digest": model.digest, "card": model.card.to_dict()},
        "grey": None if grey is None else {"shift": grey.shift, "factor": grey.factor},
        "plan": plan.to_dict(),
        # Several jobs share one record: which of them wrote it does not belong there.
        "options": {name: value for name, value in options.items() if name != "part_id"},
        "machine": machine_facts(),
    }


def _labels(plan: Plan) -> dict[str, Any]:
    """How the passes over labels find instances, of a run that has them."""
    objects = plan.objects
    if objects is None:
        return {}
    if isinstance(objects, SolidPlan):
        return {"labels": {"kind": "classes", "rule": asdict(objects.rule)}}
    if isinstance(objects, FlowPlan):
        facts: dict[str, Any] = {
            "kind": "ends",
            "array": ENDS,
            "shape": list(plan.working),
            "axes": list(objects.flow.axes),
            "rule": asdict(objects.rule),
        }
        return {"labels": facts}
    if isinstance(objects, MiddlePlan):
        rule = asdict(objects.rule)
        return {"labels": {"kind": "ends", "array": MIDDLES, "shape": None, "rule": rule}}
    facts = {
        "kind": "planes",
        "orientations": [orientation.name for orientation in plan.orientations],
        "sources": None,
        "label_divisor": objects.divisor,
        "rule": asdict(objects.rule),
    }
    return {"labels": facts}


def run_report(
    record: dict[str, Any], tally: Tally, failed: dict[str, str], output: str, **more: Any
) -> dict[str, Any]:
    """What was done: counts, bytes and seconds per stage, summed over workers.

    Raises
    ------
    BadInput
        If the record, which comes from the output, is not one of a run.
    """
    try:
        blocks, settings = record["plan"]["blocks"], record["settings"]
        device, precision = settings["device"], settings["precision"]
        sampled = int(record["sampled_bytes"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"the record of output {display_url(output)} is none of a run") from error
    counts = {_REPORTED.get(name, name): value for name, value in asdict(tally).items()}
    seconds = counts.pop("seconds")
    counts["bytes_read"] += sampled
    return {
        "output": display_url(output),
        "fingerprint": record["fingerprint"],
        "blocks_planned": blocks,
        "failed": failed,
        **counts,
        "seconds_by_stage": {k: round(v, 3) for k, v in sorted(seconds.items())},
        "device": device,
        "precision": precision,
        **more,
        "machine": machine_facts(),
    }


def machine_facts() -> dict[str, Any]:
    """The machine that drives the run."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
