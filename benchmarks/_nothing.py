"""A block without work, for scale.py; workers import it by its name, as they do real tasks."""

from __future__ import annotations

from typing import Any


def no_op(_job: Any, _part: Any, block: Any, _voxels: Any = None) -> Any:
    """What a block gives, without a block."""
    from orthoflow.job import Tally

    return Tally(blocks=1, voxels=block.voxels)
