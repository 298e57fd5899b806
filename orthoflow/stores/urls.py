"""The one place that turns a URL or a path into something that can be read or written."""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.hosts import is_metadata
from orthoflow.stores.answers import answers, refusals

if TYPE_CHECKING:
    from zarr.abc.store import Store

Options = tuple[tuple[str, str], ...]
"""Public storage options, sorted: they travel in graphs and records, so they hold no secret."""

PROTOCOLS = {
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "abfs",
    "abfs": "abfs",
    "abfss": "abfs",
    "http": "http",
    "https": "https",
}
"""Accepted protocols and the one name each is kept under."""

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "http": "aiohttp", "https": "aiohttp"}
_FLAGS = ("anon", "requester_pays")
_TIMEOUTS = {"connect_timeout": "10", "read_timeout": "30"}
"""Seconds after which a silent S3 store is asked again, unless the options say otherwise."""
_TIMEOUT_LIMIT = 3600
_ACCOUNTS = ("account_name", "account_host")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?")
# One list of options serves input and output, which may lie in stores of different kinds: each
# takes its own.
_OPTIONS_OF = {
    "s3": (*_FLAGS, "endpoint_url", "region", "profile", *_TIMEOUTS),
    "gs": (*_FLAGS, "endpoint_url", "project"),
    "abfs": ("anon", "account_name", "account_host"),
}
_PUBLIC_OPTIONS = tuple(dict.fromkeys(name for names in _OPTIONS_OF.values() for name in names))
_SECRET_OPTION = re.compile(r"key|secret|token|password|credential|connection_string|sas", re.I)
_SECRET_QUERY = re.compile(
    r"^(x-amz-.*|x-goog-.*|x-ms-.*|sig|signature|.*key.*|.*token.*|.*secret.*|.*password.*"
    r"|credential|googleaccessid|policy)$",
    re.I,
)
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class Location:
    """A checked place in a store: an absolute path or a URL without credentials."""

    url: str
    protocol: str
    options: Options = ()

    @property
    def is_local(self) -> bool:
        """Whether this is a path of this machine."""
        return self.protocol == "file"

    @property
    def is_writable(self) -> bool:
        """Whether the protocol can store objects at all."""
        return self.protocol not in {"http", "https"}

    @property
    def name(self) -> str:
        """Last component, without a query."""
        return self._parts()[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The place that holds this one."""
        return replace(self, url=self._parts()[0].rstrip("/").rpartition("/")[0] or "/")

    def child(self, path: str) -> Location:
        """Place at `path` below this one; an empty path is this place itself."""
        if not path:
            return self
        if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
            raise BadInput(f"path {path!r} below {display_url(self.url)} has empty or '..' parts")
        base, query = self._parts()
        if query:
            raise BadInput(f"{display_url(self.url)} carries a query and cannot hold {path!r}")
        return replace(self, url=f"{base.rstrip('/')}/{path}")

    def filesystem(self) -> tuple[Any, str]:
        """The fsspec file system and the path on it; credentials come from the environment."""
        import fsspec  # noqa: PLC0415 - 0.1 s, needed only once bytes move

        if self.is_local:
            return fsspec.filesystem("file"), self.url
        keywords = self.keywords()
        if self.protocol != "memory":
            # Another process may have written since: a listing is never served from memory.
            keywords["use_listings_cache"] = False
        fs, path = fsspec.core.url_to_fs(self.url, **keywords)
        _try_once(fs)
        return fs, str(path)

    def zarr_store(self, *, read_only: bool = True) -> Store:
        """Zarr's own store for this place."""
        from zarr.storage import FsspecStore, LocalStore  # noqa: PLC0415 - 0.3 s

        if self.is_local:
            return LocalStore(self.url, read_only=read_only)
        store = FsspecStore.from_url(self.url, storage_options=self.keywords(), read_only=read_only)
        _try_once(store.fs)
        return store

    def keywords(self) -> dict[str, Any]:
        """Public options as the arguments of the fsspec file system."""
        known = _OPTIONS_OF.get(self.protocol, ())
        keywords: dict[str, Any] = {
            name: value == "true" if name in _FLAGS else value
            for name, value in self.options
            if name in known
        }
        if self.protocol == "gs" and keywords.pop("anon", False):
            keywords["token"] = "anon"
        if self.protocol == "s3":
            if "region" in keywords:
                keywords["client_kwargs"] = {"region_name": keywords.pop("region")}
            keywords["config_kwargs"] = {
                name: float(keywords.pop(name, default)) for name, default in _TIMEOUTS.items()
            }
            # With more, s3fs asks for the size of every object (a HEAD) before it reads it.
            keywords["max_concurrency"] = 1
        return keywords

    def _parts(self) -> tuple[str, str]:
        if self.protocol in {"http", "https"}:
            base, _, query = self.url.partition("?")
            return base, query
        return self.url, ""

    def __str__(self) -> str:
        return display_url(self.url)


def locate(
    url: str | os.PathLike[str], storage_options: Mapping[str, object] | Options | None = None
) -> Location:
    """Check `url` and its options; touch nothing.

    Parameters
    ----------
    url
        A local path or a URL with one of `PROTOCOLS`.
    storage_options
        Public options of the store, such as ``{"endpoint_url": ..., "anon": "true"}``.

    Raises
    ------
    BadInput
        For another protocol, a chain of protocols, credentials in the URL or in the options.
    """
    text = os.fspath(url)
    if not text.strip() or "\0" in text:
        raise BadInput(f"url {text!r} is empty; give a path or a URL")
    if "::" in text:
        last = display_url(text.rpartition("::")[2])  # the others may hold credentials as well
        raise BadInput(f"url ...::{last} chains protocols with '::'; give the object's own")
    options = public_options(storage_options)
    scheme = _SCHEME.match(text)
    if scheme is None and "://" in text and not text.startswith("/"):
        raise BadInput(f"url {display_url(text)} is neither a path nor an address")
    if scheme is None:
        return Location(_absolute(text), "file", options)
    protocol = PROTOCOLS.get(scheme[1].lower())
    if protocol is None:
        raise BadInput(
            f"url {display_url(text)} uses protocol {scheme[1]!r}; "
            f"supported are a local path and {', '.join(PROTOCOLS)}"
        )
    rest = text[scheme.end() :]
    if protocol == "file":
        return Location(_absolute(unquote(rest.removeprefix("localhost"))), "file", options)
    _check_remote(text, rest, protocol)
    if protocol in {"http", "https"} and "?" in rest:
        return Location(f"{protocol}://{rest}", protocol, options)
    return Location(f"{protocol}://{rest.rstrip('/')}", protocol, options)


def public_options(options: Mapping[str, object] | Options | None) -> Options:
    """Storage options as sorted pairs of text, after refusing secrets and unknown names."""
    pairs = options.items() if isinstance(options, Mapping) else (options or ())
    checked = []
    for name, value in pairs:
        if name not in _PUBLIC_OPTIONS:
            raise BadInput(_refused_option(name))
        text = str(value).lower() if name in _FLAGS else str(value)
        if name in _FLAGS and text not in {"true", "false"}:
            raise BadInput(f"storage option {name}={text!r} must be true or false")
        if name == "endpoint_url":
            _check_endpoint(text)
        if name in _ACCOUNTS:
            _check_account(name, text)
        if name in _TIMEOUTS:
            _check_timeout(name, text)
        checked.append((name, text))
    return tuple(sorted(checked))


def display_url(url: str) -> str:
    """`url` as it may be shown: without user, password and query.

    >>> display_url("https://me:secret@host/a.tif?X-Amz-Signature=0123")
    'https://host/a.tif?...'
    """
    scheme, mark, rest = url.partition("://")
    if not mark or "/" in scheme or scheme.lower() == "file":
        return url
    rest, question, _ = rest.partition("?")
    host, slash, path = rest.partition("/")
    shown = f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
    return f"{shown}?..." if question else shown


def is_inside(inner: str | os.PathLike[str], outer: str | os.PathLike[str]) -> bool:
    """Whether `inner` is the same place as `outer` or below it (links followed)."""
    first, second = locate(inner), locate(outer)
    if first.protocol != second.protocol:
        return False
    paths = [_comparable(place) for place in (first, second)]
    return paths[0] == paths[1] or paths[0].startswith(paths[1].rstrip("/") + "/")


def exists(
    url: str | os.PathLike[str], storage_options: Mapping[str, object] | Options | None = None
) -> bool:
    """Whether an object, or anything below it, is stored at `url`."""
    place = locate(url, storage_options)
    with refusals(place, "look at"), answers(place):
        fs, path = place.filesystem()
        return bool(fs.exists(path))


def probe_write(
    url: str | os.PathLike[str], storage_options: Mapping[str, object] | Options | None = None
) -> None:
    """Write a tiny object where an output is to go, and remove it; nothing stays behind.

    Raises
    ------
    BadInput
        When the protocol is read only or a file is in the way.
    StoreRefused
        When permissions, credentials, space or a missing bucket forbid it.
    """
    place = locate(url, storage_options)
    require_writable(place)
    with refusals(place, "write to"), answers(place):
        if place.is_local:
            _probe_folder(place)
            return
        fs, path = place.child(f".orthoflow-probe-{uuid.uuid4().hex}").filesystem()
        try:
            fs.pipe_file(path, b"probe")
            fs.rm_file(path)
        except FileNotFoundError as error:
            raise StoreRefused(
                f"cannot write to {place}: no such bucket or container; "
                "create it or correct the url"
            ) from error


def require_writable(place: Location) -> None:
    """Refuse places whose protocol only reads."""
    if not place.is_writable:
        raise BadInput(f"output {place} is read only over {place.protocol}; use a path or s3://")


def _absolute(path: str) -> str:
    return str(Path(os.path.abspath(os.path.expanduser(path))))


def _check_remote(url: str, rest: str, protocol: str) -> None:
    shown = display_url(url)
    try:
        urlsplit(url)
    except ValueError as error:
        raise BadInput(f"url {shown} is malformed: {error}") from error
    if _credentials_in(url):
        raise BadInput(
            f"url {shown} holds credentials, which would travel in graphs and records; "
            "put them in the environment or a profile"
        )
    path = rest.partition("?")[0]
    if not path.strip("/") or ".." in path.split("/"):
        raise BadInput(f"url {shown} names no object, or climbs with '..'; give the full address")
    if protocol in {"http", "https"}:
        _check_host(url, shown)
    package = _PACKAGES.get(protocol)
    if package and importlib.util.find_spec(package) is None:
        raise BadInput(f"url {shown} needs the package {package}; pip install {package}")


def _credentials_in(url: str) -> bool:
    parts = urlsplit(url)
    # An abfs address is container@account.host: a user name without a password is no secret there.
    user = parts.netloc.rpartition("@")[0]
    named = bool(user) and (":" in user or _is_http(url))
    queries = parse_qsl(parts.query, keep_blank_values=True)
    return named or any(_SECRET_QUERY.match(name) for name, _ in queries)


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _check_account(name: str, text: str) -> None:
    """Refuse what would make another host of an account's address: tokens are sent there."""
    if not _ACCOUNT.fullmatch(text) or is_metadata(text.partition(":")[0]):
        raise BadInput(f"storage option {name}={text!r} names no storage account; see its portal")


def _check_endpoint(url: str) -> None:
    """Refuse an address of a store that is none; requests to it are signed with our credentials."""
    try:
        secret, parts = _credentials_in(url), urlsplit(url)
    except ValueError as error:
        raise BadInput(f"storage option endpoint_url is malformed: {error}") from error
    if secret:
        raise BadInput("storage option endpoint_url holds credentials; use the environment")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput(
            f"storage option endpoint_url={display_url(url)!r} is no address of a store; use one "
            "such as https://store.example.org:9000"
        )
    _check_host(url, display_url(url))


def _check_host(url: str, shown: str) -> None:
    if is_metadata(urlsplit(url).hostname or ""):
        raise BadInput(f"url {shown} points to a machine's own metadata service, not to a volume")


def _check_timeout(name: str, text: str) -> None:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _TIMEOUT_LIMIT:
        raise BadInput(
            f"storage option {name}={text!r} is no number of seconds above 0 and up to "
            f"{_TIMEOUT_LIMIT}; leave it out for {_TIMEOUTS[name]}"
        )


def _try_once(fs: Any) -> None:
    # The client below s3fs tries five times by itself (AWS_MAX_ATTEMPTS). s3fs would repeat that
    # five times for each call and again for each body: 125 timeouts for one hung connection.
    if hasattr(fs, "call_s3"):
        fs.retries = 1


def _refused_option(name: str) -> str:
    if _SECRET_OPTION.search(name):
        return (
            f"storage option {name!r} is a secret and is not kept; put it in the environment "
            "or a profile (AWS_PROFILE, GOOGLE_APPLICATION_CREDENTIALS, ...)"
        )
    return f"storage option {name!r} is unknown; known are {', '.join(_PUBLIC_OPTIONS)}"


def _comparable(place: Location) -> str:
    if place.is_local:
        return os.path.realpath(place.url)
    rest = place.url.partition("://")[2].partition("?")[0]
    return posixpath.normpath(rest)


def _probe_folder(place: Location) -> None:
    folder = Path(place.url)
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise BadInput(f"output {place} cannot be made: {folder} is a file; choose another path")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileNotFoundError as error:
        # Folders such as /proc are there and hold what they hold.
        raise StoreRefused(f"cannot write to {place}: {folder} takes no files") from error
