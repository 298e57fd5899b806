"""What one task of the pyramid does: a box of a level, from the level below. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orthoflow.stores.markers import Marker, create_marker, level_marker_name
from orthoflow.stores.patience import patiently
from orthoflow.stores.pyramid import build_level_box

if TYPE_CHECKING:
    from orthoflow.geometry.box import Box, Triple
    from orthoflow.geometry.output import OutputSpec
    from orthoflow.stores.urls import Options


@dataclass(frozen=True, slots=True)
class LevelJob:
    """What all tasks of a pyramid share."""

    target: str
    fingerprint: str
    output: OutputSpec
    storage_options: Options
    patience: float


@dataclass(frozen=True, slots=True, order=True)
class LevelBox:
    """A box of one level of one array, and its number in that level's grid of shards."""

    level: int
    array: str
    number: Triple
    box: Box

    @property
    def marker(self) -> str:
        """Name of its marker."""
        return level_marker_name(self.level, self.array, self.number)

    def __str__(self) -> str:
        return f"{self.array} {self.level} {self.box}"


def build(job: LevelJob, place: LevelBox) -> tuple[int, int]:
    """Build the box, write it, mark it; bytes before and after compression."""
    written = patiently(
        lambda: build_level_box(
            job.target, job.output, place.array, place.level, place.box, job.storage_options
        ),
        seconds=job.patience,
        doing=f"build {place}",
    )
    stored = sum(stamp.size for stamp in written.objects)
    facts = {"bytes_written": written.nbytes, "stored": stored}
    marker = Marker(place.marker, job.fingerprint, str(place.box), written.objects, facts)
    patiently(
        lambda: create_marker(job.target, marker, job.storage_options),
        seconds=job.patience,
        doing=f"mark {place}",
    )
    return written.nbytes, stored
