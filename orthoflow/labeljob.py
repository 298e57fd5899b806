"""What all passes over labels share, and the tables that each leaves of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.reduce.blocktables import BlockTables
from orthoflow.reduce.ends import EndRule, EndTable
from orthoflow.reduce.engine import Rule
from orthoflow.reduce.holes import HoleTables
from orthoflow.reduce.solidengine import SolidRule
from orthoflow.reduce.tablefile import dump, load
from orthoflow.reduce.triples import Triples
from orthoflow.stores.patience import patiently
from orthoflow.stores.tables import ENDS_STEP, create_table, read_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import OutputSpec
    from orthoflow.reduce.basins import BasinTables
    from orthoflow.reduce.solids import SolidTables
    from orthoflow.stores.urls import Options
    from orthoflow.stores.volumes import VolumeRef

T = TypeVar("T")

PLANES, OBJECTS, TRIPLES, IDS = "planes", "objects", "triples", "ids"
"""Tables: of a block's fragments, the object of each, a block's triples, the label of each."""
PIECES, HOLES, FILLS = "pieces", "holes", "fills"
"""Tables: of a block's pieces of classes, its pieces of background, what each of these is filled
with. The label of a piece of classes, or of an end, is in IDS, too."""

LabelKind = Literal["planes", "ends", "classes"]
"""What instances are made from: labels of planes, where voxels end that follow a flow, classes."""

AnyRule = Rule | EndRule | SolidRule
"""How they are made, one for each kind."""


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What all tasks of the passes share."""

    kind: LabelKind
    rule: AnyRule
    sources: tuple[tuple[str, VolumeRef], ...]
    """Per-plane labels by orientation; where voxels end, or classes, as the only one."""
    start: Triple
    """Voxel of the sources with which the output begins."""
    region: Box
    """Voxels of the volume that the output covers."""
    block: Triple
    label_divisor: int | None
    cells: bool
    """Whether labels of planes are class of the pixel * label_divisor + cell."""
    crossings: bool
    """Whether what fragments of two orientations share is counted; the rule may need none."""
    output: OutputSpec
    target: str
    fingerprint: str
    """Of the run; markers carry it."""
    planes_key: str
    """Folder of the tables that follow from the sources alone, with or without crossings."""
    rule_key: str
    """Folder of the tables that depend on the rule too."""
    storage_options: Options
    patience: float

    def box_of(self, number: Triple) -> Box:
        """Block of this number, in voxels of the output."""
        start = tuple(n * side for n, side in zip(number, self.block, strict=True))
        stop = (min(a + b, n) for a, b, n in zip(start, self.block, self.region.shape, strict=True))
        return Box(start, tuple(stop))  # type: ignore[arg-type]

    @property
    def solid(self) -> SolidRule:
        """The rule, of a job of classes."""
        assert isinstance(self.rule, SolidRule)
        return self.rule

    def keep(self, key: str, step: str, number: Triple, table: object) -> None:
        """Store a table of a block, unless it is there."""
        self.patiently(
            lambda: create_table(self.target, key, step, number, dump(table), self.storage_options),
            f"write table {step} {number}",
        )

    def kept(self, key: str, step: str, number: Triple, kind: type[T]) -> T:
        """A table of a block.

        Raises
        ------
        BadInput
            If it is not there, or not what was stored.
        """
        stored = self.patiently(
            lambda: read_table(self.target, key, step, number, self.storage_options),
            f"read table {step} {number}",
        )
        try:
            return load(stored, kind)
        except ValueError as error:
            raise BadInput(f"table {step} {number} of {self.target}: {error}") from error

    def patiently(self, deed: Callable[[], T], doing: str) -> T:
        """What a store that may have to be asked again gives."""
        return patiently(deed, seconds=self.patience, doing=doing)


def ends_at(job: LabelJob, number: Triple) -> EndTable:
    """What the task of the network left of a block."""
    return job.kept(job.planes_key, ENDS_STEP, number, EndTable)


def pieces_at(job: LabelJob, number: Triple) -> SolidTables | BasinTables:
    """What `divide` found of a block."""
    return job.kept(job.planes_key, PIECES, number, job.solid.table)


def gaps_at(job: LabelJob, number: Triple) -> HoleTables:
    """What `gaps` found of a block."""
    return job.kept(job.rule_key, HOLES, number, HoleTables)


def tables_at(job: LabelJob, number: Triple) -> BlockTables:
    """What `look` found of a block."""
    return job.kept(job.planes_key, PLANES, number, BlockTables)


def triples_at(job: LabelJob, number: Triple) -> Triples:
    """What `count` found of a block."""
    return job.kept(job.rule_key, TRIPLES, number, Triples)
