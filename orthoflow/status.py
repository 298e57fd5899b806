"""How far a run is, from its output alone: anybody who can read the store can ask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orthoflow.finishing import done_blocks, failed_blocks
from orthoflow.options import Options
from orthoflow.stores.locks import read_locks
from orthoflow.stores.ome import has_record, read_record
from orthoflow.stores.urls import display_url

if TYPE_CHECKING:
    from pathlib import Path


def status(output: str | Path, storage_option: Any = ()) -> dict[str, Any]:
    """How far the run of an output is.

    Returns
    -------
    dict
        blocks_planned, blocks (done), failed (block: reason), under_way, voxels_per_second,
        seconds_left (None where nobody works), drivers (host, pid, silent: seconds since the last
        sign of life, stage), finished.

    Raises
    ------
    BadInput
        If no run has made this output.
    """
    options = Options.from_mapping({"storage_option": storage_option})
    storage = options.storage_option
    record = read_record(output, "run", storage)
    done = done_blocks(output, record, options)
    failed = failed_blocks(output, record, options)
    drivers = [_driver(lock) for lock in read_locks(output, storage)]
    rate = sum(one["voxels_per_second"] for one in drivers)
    finished = has_record(output, "report", storage) and bool(
        read_record(output, "report", storage).get("complete")
    )
    left = done.total - done.count - len(failed)
    voxels = left * done.block_voxels
    return {
        "output": display_url(str(output)),
        "blocks_planned": done.total,
        "blocks": done.count,
        "failed": failed,
        "under_way": sum(one["under_way"] for one in drivers),
        "voxels_per_second": round(rate, 1),
        "seconds_left": round(voxels / rate, 1) if rate and left else None,
        "drivers": drivers,
        "finished": finished,
    }


def _driver(lock: Any) -> dict[str, Any]:
    facts = lock.facts
    seconds = float(facts.get("seconds", 0.0))
    return {
        "name": lock.name,
        "host": lock.host,
        "pid": lock.pid,
        "silent": round(max(0.0, time.time() - lock.beat), 1),
        "stage": str(facts.get("stage", "")),
        "under_way": int(facts.get("under_way", 0)),
        "voxels_per_second": round(float(facts.get("voxels", 0)) / seconds, 1) if seconds else 0.0,
    }
