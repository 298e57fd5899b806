"""Every object of an output against its marker, every marker and document against the record.

Whatever is stored is read, and nothing is believed. What is found holds for the moment when it was
looked at: while a driver is at work, what it has not finished yet may show.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from orthoflow.errors import BadInput
from orthoflow.geometry.output import ENDS, MIDDLES
from orthoflow.stores.answers import is_absence, refusals
from orthoflow.stores.documents import FOLDER, documents
from orthoflow.stores.ledger import Ledger, Outline
from orthoflow.stores.locks import hold, read_locks
from orthoflow.stores.markers import Kind as MarkerKind
from orthoflow.stores.markers import (
    block_marker_name,
    block_number_of,
    list_marker_names,
    read_markers,
    remove_marker,
)
from orthoflow.stores.objects import (
    delete_object,
    list_names,
    list_objects,
    read_many,
    read_object,
    write_object,
)
from orthoflow.stores.ome import RECORD_LIMIT, check_record
from orthoflow.stores.patience import patiently
from orthoflow.stores.stamps import failure_from
from orthoflow.stores.tables import (
    ENDS_STEP,
    TABLE_LIMIT,
    ends_table,
    is_table,
    number_of,
    unpack,
)
from orthoflow.stores.urls import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from orthoflow.stores.ledger import Expected, Slot
    from orthoflow.stores.stamps import Marker
    from orthoflow.stores.urls import Location, Options

Kind = Literal["missing", "truncated", "changed", "foreign", "marker", "record", "document"]

_THREADS = 8
_WINDOW = 4 * _THREADS
_PIECE = 8 * 2**20
"""Bytes of an object that one thread holds at once."""
_PATIENCE = 60.0
_PARTIAL = re.compile(r"(.+)\.[0-9a-f]{32}\.partial")
_RUN, _REPORT, _CREATING, _LABELS = (
    f"{FOLDER}/{name}.json" for name in ("run", "report", "creating", "labels")
)
_LOCKS = f"{FOLDER}/locks"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: Kind
    key: str
    """Of the object, inside the output."""
    block: str
    """Name of the marker of the block, or of the box of a level, that it belongs to; or empty."""
    text: str


@dataclass(slots=True)
class Verdict:
    """What was found of an output."""

    findings: list[Finding] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    """Names of the markers that blocks do not have yet."""
    not_built: list[str] = field(default_factory=list)
    """The same for boxes of the levels above the first."""
    blocks: int = 0
    """Blocks that have a marker."""
    objects: int = 0
    """Objects that were read and compared."""
    nbytes: int = 0

    @property
    def intact(self) -> bool:
        """Whether all that is there is as it should be."""
        return not self.findings

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be done either."""
        return self.intact and not self.not_done and not self.not_built


def verify(
    url: str | Path,
    storage_options: Options = (),
    *,
    report: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Read an output and compare all of it with what its record and markers say.

    Parameters
    ----------
    report
        Called after each object with the number compared so far, and of all there are.

    Raises
    ------
    BadInput
        If no run has made this output.
    """
    audit = _Audit(locate(url, storage_options))
    outline = audit.read_outline()
    if outline is None:
        return audit.verdict
    audit.check_documents(outline)
    ledger = Ledger(outline)
    audit.check_markers(ledger, audit.check_folder(outline))
    audit.check_shards(ledger, report or (lambda *_: None))
    audit.check_missing(ledger)
    audit.check_progress(outline)
    audit.verdict.findings.sort(key=lambda one: (one.key, one.kind))
    return audit.verdict


def check_listing(
    url: str | Path, markers: Iterable[Marker], storage_options: Options = ()
) -> list[Finding]:
    """Whether every object that markers name is there with its size, from listings alone.

    To be asked before a level is built from what markers speak of: a shard that is not there is
    read as background.
    """
    audit = _Audit(locate(url, storage_options))
    outline = audit.read_outline()
    if outline is not None:
        ledger = Ledger(outline)
        for marker in markers:
            audit.enter(ledger, marker.name, marker)
        for key, size in list_objects(audit.place, outline.opened(), {FOLDER}):
            slot = outline.slot_of(key)
            if slot is not None:
                audit.fits(outline, slot, size, ledger.see(slot))
        audit.check_missing(ledger)
    return audit.verdict.findings


def sweep_partials(place: Location) -> None:
    """Remove the halves of files that writers which were killed left below `place`.

    A bucket holds no halves. A writer that is at work there all the same fails, and does no harm.
    """
    if place.is_local:
        for name, _ in list_objects(place):
            if _PARTIAL.fullmatch(name):
                delete_object(place.child(name))


def requeue(url: str | Path, verdict: Verdict, storage_options: Options = ()) -> list[str]:
    """Make undone what was found damaged, so that a run that resumes makes it again.

    Markers of damaged blocks go, those of all that was built from them, and the report; damaged
    objects and leftovers in their places go; documents are written again. What is foreign and in
    nobody's place stays.

    Returns
    -------
    list
        Names of the markers that were removed: blocks, and boxes of levels.

    Raises
    ------
    BadInput
        If the record itself is damaged: there is no telling what was to be made. If a driver is
        at work there.
    """
    # A driver that is at work has read which blocks are done, and would not look again.
    with hold(url, "run", storage_options=storage_options):
        return _requeue(url, verdict, storage_options)


def _requeue(url: str | Path, verdict: Verdict, storage_options: Options) -> list[str]:
    place = locate(url, storage_options)
    audit = _Audit(place)
    outline = audit.read_outline()
    if outline is None:
        raise BadInput(
            f"output {place}: {audit.verdict.findings[0].text}; nothing can be made again without "
            "it, so run once more with --overwrite"
        )
    undone = _undone(outline, verdict.findings)
    there = set()
    for kind in get_args(MarkerKind):
        there |= list_marker_names(url, outline.fingerprint, storage_options, kind=kind)
    removed = sorted(undone & there)
    if removed or any(one.kind == "record" for one in verdict.findings):
        delete_object(place.child(_REPORT))
    # Levels first: what was built from a block that is undone must not outlive it.
    for name in sorted(removed, reverse=True):
        remove_marker(url, outline.fingerprint, name, storage_options)
    expected = documents(outline.output)
    for one in verdict.findings:
        if one.kind == "document":
            write_object(place.child(one.key), expected[one.key])
        elif _is_ours(one):
            delete_object(place.child(one.key))
    return removed


def _undone(outline: Outline, findings: list[Finding]) -> set[str]:
    """Markers that cannot stand: of what is damaged, and of all that was built from it."""
    names = set()
    for one in findings:
        place = outline.box_of(one.block)
        if place is None or _PARTIAL.fullmatch(one.key):
            continue
        # An object where the marker names none: either of them may be the one that is wrong.
        names |= {one.block, *outline.above(*place)}
    return names


def _is_ours(finding: Finding) -> bool:
    """Whether the object of a finding may be removed: in place of what a run stores, or by one."""
    if finding.kind == "record":
        # Without the rule that was put in force, nobody knows by which one labels were made.
        return finding.key not in (_RUN, _LABELS)
    if finding.key == _CREATING:
        return True
    return bool(finding.block) and finding.kind in {"truncated", "changed", "foreign"}


@dataclass(slots=True)
class _Audit:
    """The steps of `verify`; each adds to the verdict."""

    place: Location
    verdict: Verdict = field(default_factory=Verdict)
    names: set[str] = field(default_factory=set)
    """Of all markers that are there, whatever they hold."""
    trusted: set[str] = field(default_factory=set)
    """Of those that are right."""

    def find(self, kind: Kind, key: str, text: str, block: str = "") -> None:
        self.verdict.findings.append(Finding(kind, key, block, f"{key} {text}"))

    def read_outline(self) -> Outline | None:
        """What the record says; without one nothing else can be told."""
        try:
            stored = read_object(self.place.child(_RUN), limit=RECORD_LIMIT)
            if stored is not None:
                return Outline.of(check_record(stored, "it"))
        except BadInput as problem:
            self.find("record", _RUN, f"cannot be used: {problem}")
            return None
        if not list_names(self.place.child(FOLDER)):
            raise BadInput(f"no record at {self.place}/{_RUN}; is this the output of a run?")
        self.find("record", _RUN, "is not there, so nothing else can be told")
        return None

    def check_documents(self, outline: Outline) -> None:
        expected = documents(outline.output)
        for key, stored in read_many(self.place, expected, max(map(len, expected.values()))):
            if stored != expected[key]:
                self.find("document", key, "is not there" if stored is None else "was changed")

    def check_folder(self, outline: Outline) -> list[str]:
        """Names of the markers in the run's own folder; what else is there is looked at."""
        markers, failed = (f"{FOLDER}/{one}/{outline.fingerprint[:16]}" for one in _FOLDERS)
        records: dict[str, Callable[[bytes], object]] = {}
        held = read_locks(self.place.url, self.place.options)
        locks = {f"{_LOCKS}/{holder.name}.json" for holder in held}
        tables: list[str] = []
        own = _own_records(outline)
        for below, _ in list_objects(self.place.child(FOLDER), sized=False):
            key = f"{FOLDER}/{below}"
            name = _marker_in(outline, key, markers)
            if name:
                self.names.add(name)
            elif _marker_in(outline, key, failed):
                records[key] = lambda stored: failure_from(stored, "it")
            elif key in own:
                records[key] = own[key]
            elif is_table(below) and "labels" in outline.output.stages:
                tables.append(key)
            elif key != _RUN and key not in locks:
                self.find("foreign", key, "is nothing that a run keeps there")
        self.check_records(records)
        self.check_tables(tables)
        if any(array.path in (ENDS, MIDDLES) for array in outline.output.arrays):
            self.check_ends(outline, set(tables))
        return sorted(self.names)

    def check_records(self, records: dict[str, Callable[[bytes], object]]) -> None:
        """Records, each by what reads it."""
        for key, stored in read_many(self.place, sorted(records), RECORD_LIMIT):
            try:
                records[key](stored or b"")
            except BadInput as problem:
                self.find("record", key, f"cannot be used: {problem}")

    def check_tables(self, keys: list[str]) -> None:
        """Tables between passes, each of which knows its digest."""
        for key in sorted(keys):
            try:
                unpack(read_object(self.place.child(key), limit=TABLE_LIMIT) or b"", "it")
            except BadInput as problem:
                self.find("record", key, f"cannot be used: {problem}", _block_of_table(key))

    def check_ends(self, outline: Outline, tables: set[str]) -> None:
        """Each block of a flow network leaves a table before its marker."""
        for name in sorted(self.names):
            number = block_number_of(name)
            if number is not None:
                key = f"{FOLDER}/{ends_table(outline.fingerprint, number)}"
                if key not in tables:
                    self.find("missing", key, "is not there", name)

    def check_markers(self, ledger: Ledger, names: list[str]) -> None:
        fingerprint, options = ledger.outline.fingerprint, self.place.options
        for name, marker in read_markers(self.place.url, fingerprint, options, names=names):
            self.enter(ledger, name, marker)

    def enter(self, ledger: Ledger, name: str, marker: Marker | BadInput) -> None:
        """Believe a marker that can be one of the run's, and find those that cannot."""
        outline = ledger.outline
        if not isinstance(marker, BadInput):
            problem = outline.problem_of(marker)
            if not problem:
                ledger.expect(marker)
                self.trusted.add(name)
                return
        else:
            problem = str(marker)
        key = f"{FOLDER}/{_FOLDERS[0]}/{outline.fingerprint[:16]}/{name}.json"
        self.find("marker", key, f"cannot be used: {problem}", name)

    def check_shards(self, ledger: Ledger, report: Callable[[int, int], None]) -> None:
        """Every object outside of `FOLDER`: digests of those that are expected."""
        outline = ledger.outline
        known = documents(outline.output)
        fs, root = self.place.filesystem()
        under_way: deque[tuple[Slot, Future[str | None], Expected]] = deque()
        with ThreadPoolExecutor(_THREADS) as pool:
            for key, size in list_objects(self.place, outline.opened(), {FOLDER}):
                slot = outline.slot_of(key)
                if slot is None:
                    if key not in known:
                        self.find_foreign(outline, key)
                    continue
                expected = ledger.see(slot)
                if self.fits(outline, slot, size, expected):
                    one = pool.submit(_stored_digest, self.place, fs, f"{root}/{key}")
                    under_way.append((slot, one, expected))
                if len(under_way) >= _WINDOW:
                    self.compare(outline, *under_way.popleft())
                    report(self.verdict.objects, ledger.count)
            while under_way:
                self.compare(outline, *under_way.popleft())
                report(self.verdict.objects, ledger.count)

    def fits(self, outline: Outline, slot: Slot, size: int, expected: Expected) -> bool:
        """Whether an object that is there should be, with this size."""
        key, block = outline.key_of(slot), outline.owner_of(slot)
        if not expected.size:
            # Where no marker speaks, somebody may be at work, or was killed there.
            if block in self.trusted:
                self.find("foreign", key, f"is not of {block}, which stored nothing there", block)
        elif size < 0:
            self.find("changed", key, "is a link, a pipe or the like", block)
        elif size != expected.size:
            kind: Kind = "truncated" if size < expected.size else "changed"
            self.find(kind, key, f"has {size} bytes, stored were {expected.size}", block)
        else:
            return True
        return False

    def compare(
        self, outline: Outline, slot: Slot, stored: Future[str | None], expected: Expected
    ) -> None:
        found = stored.result()
        self.verdict.objects += 1
        self.verdict.nbytes += expected.size
        if found != expected.digest:
            kind: Kind = "missing" if found is None else "changed"
            text = "is gone" if found is None else "has other bytes than were stored"
            self.find(kind, outline.key_of(slot), text, outline.owner_of(slot))

    def find_foreign(self, outline: Outline, key: str) -> None:
        partial = _PARTIAL.fullmatch(key)
        slot = outline.slot_of(partial[1]) if partial else None
        block = "" if slot is None else outline.owner_of(slot)
        text = "was left by a writer that was stopped" if block else "is nothing that a run stores"
        self.find("foreign", key, text, block)

    def check_missing(self, ledger: Ledger) -> None:
        for slot in ledger.unseen():
            block = ledger.outline.owner_of(slot)
            self.find("missing", ledger.outline.key_of(slot), "is not there", block)

    def check_progress(self, outline: Outline) -> None:
        verdict = self.verdict
        verdict.not_done = [name for name in outline.blocks() if name not in self.names]
        verdict.not_built = [name for name in outline.boxes() if name not in self.names]
        verdict.blocks = sum(name.startswith("blocks/") for name in self.names)
        if verdict.complete and read_object(self.place.child(_REPORT), limit=RECORD_LIMIT) is None:
            self.find("record", _REPORT, "is not there; run orthoflow finalize")


_FOLDERS = ("markers", "failed")


def _marker_in(outline: Outline, key: str, folder: str) -> str | None:
    """Name of the marker that is stored under a key, if one of the run's can be."""
    name = key.removeprefix(f"{folder}/").removesuffix(".json")
    there = key == f"{folder}/{name}.json" and outline.box_of(name) is not None
    return name if there else None


def _block_of_table(key: str) -> str:
    """Name of the marker that a table belongs to; empty for those that a later pass makes again."""
    step, _, last = key.rpartition("/")
    number = number_of(last)
    return block_marker_name(number) if number and step.endswith(f"/{ENDS_STEP}") else ""


def _own_records(outline: Outline) -> dict[str, Callable[[bytes], object]]:
    """What reads the records that an output may have beside the run's, by key."""
    own: dict[str, Callable[[bytes], object]] = {
        _REPORT: lambda stored: _check_report(stored, outline)
    }
    if "labels" in outline.output.stages:
        own[_LABELS] = lambda stored: check_record(stored, "it")
    return own


def _check_report(stored: bytes, outline: Outline) -> None:
    if check_record(stored, "it").get("fingerprint") != outline.fingerprint:
        raise BadInput("it is the report of another run")


def _stored_digest(place: Location, fs: Any, path: str) -> str | None:
    """Digest of an object, read piece by piece; None where it is gone."""

    def read() -> str | None:
        found = hashlib.blake2b(digest_size=16)
        for piece in _pieces(fs, path, local=place.is_local):
            found.update(piece)
        return found.hexdigest()

    try:
        with refusals(place, "read"):
            return patiently(read, seconds=_PATIENCE, doing=f"read {place}")
    except OSError as error:
        if not is_absence(error):
            raise
        return None


def _pieces(fs: Any, path: str, *, local: bool) -> Iterator[bytes]:
    if local:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece
        return
    start = 0
    while piece := fs.cat_file(path, start=start, end=start + _PIECE):
        yield piece
        start += len(piece)
        if len(piece) < _PIECE:
            return
