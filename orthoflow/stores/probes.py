"""What a store does when it is asked: reach, keys, reading, writing, one verdict for each.

A store is asked through the functions that runs use, so one that passes here serves a run.
Objects are written only where no volume lies, below one name of their own, and removed.
"""

from __future__ import annotations

import shutil
import statistics
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores.answers import answers, first_line, is_transient, refusals, store_errors
from orthoflow.stores.objects import (
    create_object,
    delete_tree,
    list_names,
    read_object,
    write_object,
)
from orthoflow.stores.tiff_volumes import plane_names
from orthoflow.stores.urls import locate
from orthoflow.stores.zarr_nodes import read_node

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from orthoflow.stores.urls import Location, Options

Verdict = Literal["ok", "warning", "fails", "absent"]

_TOPIC = "store"
_CONTENT = bytes(range(256)) * 16
_TAIL = 64
_ROUNDS = 5
_SKEW_SECONDS = 5.0
_LENIENT = (
    "set AWS_RESPONSE_CHECKSUM_VALIDATION=when_required and "
    "AWS_REQUEST_CHECKSUM_CALCULATION=when_required, here and on the workers"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; JSON-able by `dataclasses.asdict`."""

    topic: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def probe_store(
    url: str | os.PathLike[str], storage_options: Mapping[str, object] | Options | None = None
) -> list[Check]:
    """Ask the store at `url` for all that a run needs of it; nothing stays behind.

    Where a volume lies nothing is written, and only what reading needs is asked.

    Parameters
    ----------
    url
        A volume, or the folder, bucket or prefix that outputs go to.
    storage_options
        Public options of the store.
    """
    try:
        place = locate(url, storage_options)
    except BadInput as error:
        return [_failed("address", error)]
    return list(_probes(place))


def _probes(place: Location) -> Iterator[Check]:
    reached = _asked("reach", _reach, place)
    yield reached
    if reached.verdict == "fails":
        return
    if place.protocol == "s3":
        yield _asked("authentication", _authentication, place)
    try:
        volume = _volume_at(place)
    except _troubles() as error:
        # What lies there cannot be told, so nothing is written either.
        yield _failed("read", error)
        return
    if volume is None:
        yield from _probe_folder(place)
    else:
        yield from _probe_volume(place, *volume)


def _reach(place: Location) -> Check:
    fs, path = place.filesystem()
    look = fs.ls if place.is_writable else fs.info  # a listing over http is a download
    try:
        with answers(place), refusals(place, "list"):
            look(path)
    except (FileNotFoundError, NotADirectoryError):
        return _ok("reach", f"{place} answers; nothing is stored there")
    except StoreRefused as error:
        # A server that forbids a listing is there, and may allow what is needed.
        if not isinstance(error.__cause__, PermissionError):
            raise
        return _ok("reach", f"{place} answers, and refuses to list")
    return _ok("reach", f"{place} answers")


def _authentication(place: Location) -> Check:
    """Whether strangers are turned away; they only try to list."""
    if _lets_in(place, key=uuid.uuid4().hex[:20], secret=uuid.uuid4().hex):
        return _doubtful(
            "authentication",
            "a made-up key may list: this server looks at no keys",
            "on a machine of your own that is well; elsewhere switch authentication on",
        )
    if _lets_in(place, anon=True):
        return _doubtful(
            "authentication",
            "anybody may list it without a key",
            "right for public data; otherwise end the public access",
        )
    return _ok("authentication", "a request without a key, or with a made-up one, is refused")


def _lets_in(place: Location, **stranger: Any) -> bool:
    fs, path = place.filesystem()
    own = {name: value for name, value in place.keywords().items() if name != "profile"}
    keywords = {**own, "anon": False, **stranger, "use_listings_cache": False}
    other = type(fs)(**keywords, skip_instance_cache=True)
    try:
        other.ls(path, detail=False)
    except FileNotFoundError as error:
        return error.__cause__ is None  # the listing was given, and is empty
    except store_errors() as error:
        if is_transient(error):
            raise
        return False
    return True


def _volume_at(place: Location) -> tuple[str, Location] | None:
    """What may not be added to, and one of its objects; None where outputs may go."""
    if "?" in place.url:
        return "a file", place
    node = _zarr_at(place, asked=place)
    if node is not None:
        return node
    fs, path = place.filesystem()
    with refusals(place, "look at"):
        if fs.isfile(path):
            return "a file", place
    if not place.is_writable:
        raise BadInput(f"nothing that can be read at {place}; give a volume's own address")
    planes = plane_names(place)
    if planes:
        return "a folder of TIFF planes", place.child(planes[0])
    return next((node for above in _above(place) if (node := _zarr_at(above, asked=place))), None)


def _above(place: Location) -> Iterator[Location]:
    """Every place that holds this one, up to the bucket or the root."""
    while (above := place.parent) != place and not above.url.endswith(":/"):
        yield above
        place = above


def _zarr_at(here: Location, *, asked: Location) -> tuple[str, Location] | None:
    try:
        node = read_node(here)
    except StoreRefused:
        if here == asked:
            raise
        return None  # what lies above may be forbidden, or not ours to judge
    if node is None:
        return None
    name = "zarr.json" if node.zarr_format == 3 else f".z{node.kind}"
    what = f"a Zarr {node.kind}" if here == asked else f"part of the Zarr {node.kind} {here}"
    return what, here.child(name)


def _probe_volume(place: Location, what: str, sample: Location) -> Iterator[Check]:
    remedy = "for the other checks give the folder, bucket or prefix that outputs go to"
    yield replace(_ok("place", f"{what}, so nothing is written here"), remedy=remedy)
    if place.is_writable:
        yield _asked("list", _list, place)
    yield _asked("read", _read, sample)
    if what != "a file":
        yield _asked("suffix range", _suffix_range, sample)
    yield _asked("latency", _read_latency, sample)


def _probe_folder(place: Location) -> Iterator[Check]:
    try:
        ground = _ground(place)
    except BadInput as error:
        yield _failed("write", error)
        return
    folder = ground.child(f".orthoflow-probe-{uuid.uuid4().hex}")
    try:
        written = _asked("write", _write, folder)
        yield written
        if written.verdict != "fails":
            yield from _probe_objects(folder)
    finally:
        left = _asked("clean up", _clean_up, folder)
    if written.verdict != "fails" and left.verdict == "fails":
        yield left


def _probe_objects(folder: Location) -> Iterator[Check]:
    one = folder.child("one")
    yield _asked("read", _read_back, one)
    yield _asked("suffix range", _suffix_range, one)
    yield _asked("list", _list_folder, folder)
    yield _asked("create only", _create_only, folder.child("created"))
    yield _asked("overwrite", _overwrite, one)
    yield _asked("delete many", _delete_many, folder.child("many"))
    yield _asked("clock", _clock, folder.child("clock"))
    yield _asked("latency", _latency, folder.child("latency"))


def _ground(place: Location) -> Location:
    """Where objects can be written without making folders that would stay."""
    while place.is_local and not Path(place.url).exists():
        place = place.parent
    if place.is_local and not Path(place.url).is_dir():
        raise BadInput(f"{place} is a file; choose another path")
    return place


def _list(place: Location) -> Check:
    return _ok("list", f"{len(list_names(place))} names")


def _read(sample: Location) -> Check:
    fs, path = sample.filesystem()
    with refusals(sample, "read"):
        size = fs.info(path)["size"] or 0
        content = fs.cat_file(path, start=0, end=min(size, len(_CONTENT)))
    return _ok("read", f"{len(content)} of {size} bytes of {sample.name}")


def _write(folder: Location) -> Check:
    write_object(folder.child("one"), _CONTENT)
    space = ""
    if folder.is_local:
        space = f"; {shutil.disk_usage(folder.url).free / 2**30:.1f} GiB free"
    return _ok("write", f"an object of {len(_CONTENT)} bytes{space}")


def _read_back(one: Location) -> Check:
    if read_object(one) != _CONTENT:
        return _wrong("read", "other bytes came back than were written", "use another store")
    return _ok("read", "the bytes that were written")


def _suffix_range(one: Location) -> Check:
    """The last bytes of an object, as the index of a shard is read."""
    fs, path = one.filesystem()
    with refusals(one, "read"):
        size = fs.info(path)["size"] or 0
        count = min(size, _TAIL)
        try:
            expected = fs.cat_file(path, start=size - count, end=size)
            tail = fs.cat_file(path, start=-count)
        except store_errors() as error:
            if type(error).__name__ != "FlexibleChecksumError":
                raise
            found = "part of an object comes with the checksum of the whole"
            return _wrong("suffix range", found, _LENIENT)
    # A server that looks at no range sends the whole object, to both questions.
    if tail != expected or len(tail) != count:
        found = f"the last {count} bytes were asked for, {len(tail)} others came"
        return _wrong("suffix range", found, "sharded Zarr cannot be read here; use another server")
    return _ok("suffix range", f"the last {count} bytes, as shards are read")


def _list_folder(folder: Location) -> Check:
    names = list_names(folder)
    if names != ["one"]:
        found = f"one object was written, the listing has {names}"
        return _wrong("list", found, "use a store whose listings show what was written before")
    return _ok("list", "shows what was written before")


def _create_only(created: Location) -> Check:
    first, second = create_object(created, b"first"), create_object(created, b"second")
    if not first:
        found = "refused although nothing was there"
        return _wrong("create only", found, "use a store with conditional puts")
    if second or read_object(created) != b"first":
        return _doubtful(
            "create only",
            "a second create replaces the first: conditions are not looked at",
            "do not start two runs on one output at once; they may not notice each other",
        )
    return _ok("create only", "a second create is refused, and changes nothing")


def _overwrite(one: Location) -> Check:
    write_object(one, b"other")
    if read_object(one) != b"other":
        found = "the old bytes are still read after a second write"
        return _wrong("overwrite", found, "use a store that reads what was written last")
    return _ok("overwrite", "a second write replaces the first")


def _delete_many(many: Location) -> Check:
    for number in range(3):
        write_object(many.child(str(number)), b"x")
    delete_tree(many)
    left = list_names(many)
    if left:
        found = f"{len(left)} of 3 objects are still there"
        return _wrong("delete many", found, "allow deletion, or remove outputs by hand")
    return _ok("delete many", "3 objects at once")


def _clock(one: Location) -> Check:
    fs, path = one.filesystem()
    before = datetime.now(UTC).timestamp()
    write_object(one, b"x")
    after = datetime.now(UTC).timestamp()
    with refusals(one, "look at"):
        moment = fs.modified(path)
    stored = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    skew = max(before - 1 - stored, 0.0) + max(stored - after - 1, 0.0)
    if skew > _SKEW_SECONDS:
        return _doubtful(
            "clock",
            f"{skew:.0f} s apart from this machine's",
            "keep both on time (NTP); S3 refuses requests that are 15 minutes off",
        )
    return _ok("clock", f"within {_SKEW_SECONDS:.0f} s of this machine's")


def _latency(one: Location) -> Check:
    put = _median(lambda: write_object(one, _CONTENT))
    get = _median(lambda: read_object(one))
    size = len(_CONTENT)
    return _ok("latency", f"{size} bytes: put {put:.1f} ms, get {get:.1f} ms (of {_ROUNDS})")


def _read_latency(sample: Location) -> Check:
    fs, path = sample.filesystem()
    with refusals(sample, "read"):
        get = _median(lambda: fs.cat_file(path, start=0, end=_TAIL))
    return _ok("latency", f"{_TAIL} bytes: get {get:.1f} ms (of {_ROUNDS})")


def _median(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _clean_up(folder: Location) -> Check:
    try:
        delete_tree(folder)
        left = list_names(folder)
    except FileNotFoundError:
        return _ok("clean up", "nothing was written")
    except store_errors() as error:
        return _wrong("clean up", first_line(error), f"remove {folder} by hand")
    if left:
        return _wrong("clean up", f"{len(left)} objects are left", f"remove {folder} by hand")
    return _ok("clean up", "nothing is left")


def _asked(name: str, probe: Callable[[Location], Check], place: Location) -> Check:
    """What a probe finds, or how it fails."""
    try:
        with answers(place):
            return probe(place)
    except _troubles() as error:
        return _failed(name, error)


def _troubles() -> tuple[type[Exception], ...]:
    return (BadInput, ImportError, *store_errors())


def _ok(name: str, found: str) -> Check:
    return Check(_TOPIC, name, "ok", found)


def _doubtful(name: str, found: str, remedy: str) -> Check:
    return Check(_TOPIC, name, "warning", found, remedy)


def _wrong(name: str, found: str, remedy: str) -> Check:
    return Check(_TOPIC, name, "fails", found, remedy)


def _failed(name: str, error: Exception) -> Check:
    """Messages end with their remedy, after a semicolon."""
    found, _, remedy = first_line(error).rpartition("; ")
    if not found:
        found, remedy = remedy, "see what the store says"
    return _wrong(name, found, remedy)
