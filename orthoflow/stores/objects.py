"""Small objects in any store: read with a size cap, written whole, created once, listed, removed.

Each write is one request: s3fs cuts objects of 100 MiB and more into parts of 50 MiB, which become
one object when the last is there. Nothing is streamed: a store never shows half an object.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.stores.answers import is_absence, refusals
from orthoflow.stores.patience import patiently
from orthoflow.stores.sealed import parse_object

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from orthoflow.stores.urls import Location

METADATA_LIMIT = 32 * 2**20
"""Bytes of the largest metadata document that is read."""

BATCH = 256
"""Objects that are asked for at once."""

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
_THREADS = 8
_CREATE_TRIES = 5
_CREATE_WAIT = 0.2
_FOLDER_TRIES = 5
_PATIENCE = 60.0
"""Seconds that one batch of a long listing or reading may wait for a store."""

# Its check and its write are two steps.
_MEMORY = threading.Lock()


def read_object(place: Location, *, limit: int = METADATA_LIMIT) -> bytes | None:
    """Bytes of one object, or None where there is none.

    Raises
    ------
    BadInput
        When the object is larger than `limit` bytes.
    """
    with refusals(place, "read"):
        fs, path = place.filesystem()
        try:
            facts = fs.info(path)
            if facts.get("type") == "directory":
                return None
            size = facts.get("size") or 0
            content = b"" if size > limit else bytes(fs.cat_file(path))
        except _ABSENT:
            return None
    if max(size, len(content)) > limit:
        raise BadInput(f"{place} has {max(size, len(content))} bytes; at most {limit} are read")
    return content


def read_json(place: Location, *, limit: int = METADATA_LIMIT) -> dict[str, Any] | None:
    """A JSON object, or None where there is none; anything else is refused."""
    content = read_object(place, limit=limit)
    return None if content is None else parse_object(content, str(place))


def read_many(
    place: Location, names: Iterable[str], limit: int
) -> Iterator[tuple[str, bytes | None]]:
    """Bytes of many small objects below `place`, in the order of their names, a batch at a time.

    Yields
    ------
    name, content
        None where there is no such object. Of one larger than `limit` only ``limit + 1`` bytes
        come, so that their number tells.
    """
    fs, root = place.filesystem()
    waiting = iter(names)
    while batch := list(islice(waiting, BATCH)):
        for name in batch:
            place.child(name)  # refuses names that lead elsewhere
        with refusals(place, "read"):
            contents = patiently(
                lambda batch=batch: (  # type: ignore[misc]
                    _read_files(root, batch, limit)
                    if place.is_local
                    else _read_remote(fs, root, batch, limit)
                ),
                seconds=_PATIENCE,
                doing=f"read {place}",
            )
        yield from zip(batch, contents, strict=True)


def write_object(place: Location, content: bytes) -> None:
    """Store `content` as one object; readers see all of it or none."""
    with refusals(place, "write to"):
        if place.is_local:
            with _partial(Path(place.url), content) as partial:
                os.replace(partial, place.url)
            return
        fs, path = place.filesystem()
        fs.pipe_file(path, content)


def create_object(place: Location, content: bytes) -> bool:
    """Store `content` as one object unless there is one; False where there is.

    Of many that try at once a single one gets True, where the store enforces that (see
    `enforces_create`); a request that was answered too late for its sender may count as another's.
    """
    with refusals(place, "write to"):
        if place.is_local:
            return _create_file(Path(place.url), content)
        fs, path = place.filesystem()
        for _ in range(_CREATE_TRIES):
            try:
                with _MEMORY if place.protocol == "memory" else nullcontext():
                    fs.pipe_file(path, content, mode="create")
            except OSError as error:
                codes = _codes(error)
                if isinstance(error, FileExistsError) or codes & {"PreconditionFailed", "412"}:
                    return False
                if not codes & {"ConditionalRequestConflict", "409"}:
                    raise
                # Two at once, and neither may have been stored.
                conflict = error
                time.sleep(_CREATE_WAIT)
            else:
                return True
        raise conflict


def enforces_create(place: Location) -> bool:
    """Whether the store refuses to create an object twice, asked with one below `place`."""
    probe = place.child(f"create-{uuid.uuid4().hex}")
    try:
        return create_object(probe, b"1") and not create_object(probe, b"2")
    finally:
        delete_object(probe)


def list_names(place: Location) -> list[str]:
    """Names directly below `place`, sorted; empty where there is nothing."""
    with refusals(place, "list"):
        fs, path = place.filesystem()
        try:
            entries = fs.ls(path, detail=False)
        except _ABSENT:
            return []
    paths = {str(entry).rstrip("/") for entry in entries}
    # A file, and a "folder" object of an object store, are listed as their own content.
    paths.discard(str(path).rstrip("/"))
    return sorted(name for name in (p.rpartition("/")[2] for p in paths) if name)


def list_objects(
    place: Location,
    opened: Collection[str] = (),
    closed: Collection[str] = (),
    *,
    sized: bool = True,
) -> Iterator[tuple[str, int]]:
    """Every object below `place` and its size, in no order; -1 for links, pipes and the like.

    Parameters
    ----------
    opened
        Folders ("" is `place` itself) that are listed one level at a time. Everything below
        another folder comes in one listing, which is quick but held in memory as a whole.
    closed
        Folders that are not looked into; what holds them has to be opened.
    sized
        Whether sizes are wanted; files of this machine are listed quicker without, as of size 0.
    """
    if place.is_local:
        with refusals(place, "list"):
            yield from _files(place.url, closed, sized=sized)
        return
    fs, root = place.filesystem()
    folders = [""]
    while folders:
        folder = folders.pop()
        path = f"{root}/{folder}".rstrip("/")
        with refusals(place, "list"):
            entries = patiently(
                lambda path=path, folder=folder: _listing(fs, path, flat=folder not in opened),  # type: ignore[misc]
                seconds=_PATIENCE,
                doing=f"list {place}",
            )
        for entry in entries:
            name = str(entry["name"])
            below = name.rstrip("/").removeprefix(f"{root}/")
            if entry["type"] == "directory":
                folders += [below] if below not in {folder, *closed} else []
            elif name == f"{root}/{below}":  # else an empty object that stands for a folder
                yield below, int(entry["size"] or 0)


def delete_object(place: Location) -> None:
    """Remove one object, with one request; nothing happens where there is none."""
    with refusals(place, "remove"):
        try:
            if place.is_local:
                os.unlink(place.url)
            else:
                fs, path = place.filesystem()
                fs.rm_file(path)
        except OSError as error:
            if not is_absence(error):
                raise


def delete_tree(place: Location) -> None:
    """Remove everything at and below `place`."""
    with refusals(place, "remove"):
        if place.is_local:
            if Path(place.url).is_dir() and not Path(place.url).is_symlink():
                shutil.rmtree(place.url)
            else:
                os.unlink(place.url)
            return
        fs, path = place.filesystem()
        fs.rm(path, recursive=True)


@contextmanager
def _partial(target: Path, content: bytes) -> Iterator[Path]:
    """A file beside `target` that holds `content`; gone at the end."""
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
    try:
        for left in reversed(range(_FOLDER_TRIES)):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                break
            except FileNotFoundError:  # somebody has just removed the empty folder
                if not left:
                    raise
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _create_file(target: Path, content: bytes) -> bool:
    with _partial(target, content) as partial:
        try:
            os.link(partial, target)
        except FileExistsError:
            # Over NFS an answer may get lost, and the request be sent again.
            return partial.stat().st_nlink > 1
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(target, content)
    return True


def _create_without_links(target: Path, content: bytes) -> bool:
    """For a moment others may see a file that is cut off; who reads it notices."""
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True


def _codes(error: BaseException) -> set[str]:
    """Codes that an S3 server gave, here or as the cause."""
    codes = set()
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            codes.add(str(response.get("Error", {}).get("Code", "")))
        link = link.__cause__
    return codes


def _read_files(root: str, names: list[str], limit: int) -> list[bytes | None]:
    if len(names) == 1:
        return [_read_file(f"{root}/{names[0]}", limit)]
    # Threads pay off where the "disk" is across a network, and cost little elsewhere.
    shares = [names[first::_THREADS] for first in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda share: [_read_file(f"{root}/{n}", limit) for n in share], shares)
    found: list[bytes | None] = [None] * len(names)
    for first, contents in enumerate(read):
        found[first::_THREADS] = contents
    return found


def _read_file(path: str, limit: int) -> bytes | None:
    """The first bytes of a plain file; none of a link or a pipe, which would be another's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except _ABSENT:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return b""
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            return None if stat.S_ISDIR(mode) else b""
        content = b""
        while len(content) <= limit:
            piece = os.read(descriptor, limit + 1 - len(content))
            if not piece:
                break
            content += piece
        return content
    finally:
        os.close(descriptor)


def _read_remote(fs: Any, root: str, names: list[str], limit: int) -> list[bytes | None]:
    paths = [f"{root}/{name}" for name in names]
    found: list[bytes | None] = []
    for path, content in zip(paths, fs.cat_ranges(paths, 0, limit + 1), strict=True):
        if isinstance(content, OSError) and is_absence(content):
            found.append(None)
        elif isinstance(content, OSError) and content.errno == errno.EINVAL:
            # An empty object has no first byte to begin with.
            found.append(bytes(fs.cat_file(path))[: limit + 1])
        elif isinstance(content, BaseException):
            raise content
        else:
            found.append(bytes(content))
    return found


def _files(folder: str, closed: Collection[str], *, sized: bool) -> Iterator[tuple[str, int]]:
    folders = [(folder, "")]
    while folders:
        path, prefix = folders.pop()
        try:
            entries = os.scandir(path)
        except _ABSENT:
            continue
        with entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders += [(entry.path, f"{name}/")] if name not in closed else []
                    continue
                plain = entry.is_file(follow_symlinks=False)
                try:
                    size = entry.stat(follow_symlinks=False).st_size if sized and plain else 0
                except FileNotFoundError:  # the partial file of somebody who writes just now
                    continue
                yield name, size if plain else -1


def _listing(fs: Any, path: str, *, flat: bool) -> list[dict[str, Any]]:
    try:
        if flat:
            return list(fs.find(path, detail=True).values())
        return list(fs.ls(path, detail=True))
    except OSError as error:
        if not is_absence(error):
            raise
        return []
