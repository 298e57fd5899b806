"""Where a model comes from: names, files, digests and trust. No torch; no code of a model runs."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orthoflow.errors import BadInput
from orthoflow.models.card import (
    CARD_FILE,
    MAX_CARD_BYTES,
    WEIGHTS_FILE,
    Card,
    ModelRef,
    parse_card,
)
from orthoflow.models.location import checked_location, read_location, sha256

if TYPE_CHECKING:
    import importlib.machinery
    from collections.abc import Iterable

Kind = Literal["folder", "state", "script", "export", "python"]

BUNDLED = Path(__file__).parent / "weights"
MAX_WEIGHT_BYTES = 32 * 2**30
CODE_KINDS: dict[Kind, str] = {"script": "TorchScript", "export": "an exported program"}
FORMS = (
    "demo:NAME, a folder with card.yaml and weights.safetensors (path or URL), python:pkg.mod:obj, "
    "or a file .safetensors, .pt, .pth, .ts or .pt2 with NAME.card.yaml beside it"
)
SUFFIXES: dict[str, Kind] = {
    ".safetensors": "folder",
    ".pth": "state",
    ".pt": "state",
    ".ts": "script",
    ".pt2": "export",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files, found but not opened."""

    name: str
    """What the user wrote; local paths made absolute, so that a worker finds them."""
    kind: Kind
    weights: str
    """File of the weights or the code."""
    card: str
    """File of the card; empty for ``python:``."""


def find_source(name: str) -> Source:
    """Tell from a name what kind of model it is and where its files must be.

    Raises
    ------
    BadInput
        For a name of no known form, or a URL that is not allowed.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "demo":
        return _bundled(rest)
    if scheme == "python":
        return Source(name, "python", str(_module_file(*_split_python(name))), "")
    if "://" not in name and ":" in name.split("/", maxsplit=1)[0] and not Path(name).exists():
        raise BadInput(f"model {name!r} is of no known form; a model is {FORMS}")
    location = checked_location(name)
    suffix = Path(location).suffix.lower()
    if suffix not in SUFFIXES:
        folder = location.rstrip("/")
        return Source(folder, "folder", f"{folder}/{WEIGHTS_FILE}", f"{folder}/{CARD_FILE}")
    card = location.removesuffix(Path(location).suffix) + ".card.yaml"
    return Source(location, SUFFIXES[suffix], location, card)


def card_of(name: str | Path, trust: str | None = None) -> Card:
    """Card of a model by name; weights are not read and torch is not imported.

    A ``python:`` model is the exception: its card is part of the object, which has to be imported,
    and therefore trusted.

    Raises
    ------
    BadInput
        When there is no such model, or its card is wrong.
    """
    source = find_source(str(name))
    if source.kind != "python":
        return read_source_card(source)
    from orthoflow.models.adapt import import_model  # noqa: PLC0415 - imports torch

    return import_model(source, trust=trust).card


def ref_of(name: str | Path, trust: str | None = None) -> ModelRef:
    """Reference to a model by name, with the digest of its weights; torch is not imported.

    Raises
    ------
    BadInput
        When there is no such model, or it is code and `trust` is not the code's digest; the
        message has the digest.
    """
    source = find_source(str(name))
    if source.kind == "python":
        from orthoflow.models.adapt import import_model  # noqa: PLC0415 - imports torch

        model = import_model(source, trust=trust)
        return ModelRef(model.digest, source.name, model.card, trust=trust)
    card = read_source_card(source)
    content = read_weights(source, trust=trust)
    digest = card.digest_of(sha256(content))
    return ModelRef(digest, source.name, card.replace(digest=digest), trust=trust)


def read_source_card(source: Source) -> Card:
    """Card beside the weights."""
    try:
        content = read_location(source.card, limit=MAX_CARD_BYTES)
    except FileNotFoundError as error:
        raise BadInput(
            f"no model at {source.name!r}: {source.card} does not exist; a model is {FORMS}"
        ) from error
    return parse_card(content, where=source.card)


def read_weights(source: Source, *, trust: str | None) -> bytes:
    """Bytes of the weights; a file that is code only if `trust` is its digest."""
    try:
        content = read_location(source.weights, limit=MAX_WEIGHT_BYTES)
    except FileNotFoundError as error:
        raise BadInput(f"model {source.name!r} has no weights: {source.weights} is missing") from (
            error
        )
    kind = kind_of(source, content)
    if kind in CODE_KINDS:
        require_trust(content, trust, what=f"{source.weights} is {CODE_KINDS[kind]}")
    return content


def kind_of(source: Source, content: bytes) -> Kind:
    """Kind of the file, from its content where ``.pt`` may be two things."""
    if source.kind == "state" and _is_torchscript(content):
        return "script"
    return source.kind


def require_trust(content: bytes, trust: str | None, *, what: str) -> None:
    """Refuse code unless `trust` is the digest of exactly this content.

    Raises
    ------
    BadInput
        With the digest to pass.
    """
    digest = sha256(content)
    if trust is None:
        raise BadInput(
            f"{what}, which can run any code when it is loaded; if you trust its author, pass "
            f"trust={digest!r} (--trust on the command line)"
        )
    if trust != digest:
        raise BadInput(f"{what} with digest {digest!r}, but trust={trust!r} names another content")


def python_object(source: Source) -> tuple[str, str]:
    """Module and object name of a ``python:`` source."""
    return _split_python(source.name)


def _bundled(name: str) -> Source:
    folder = BUNDLED / f"demo-{name}"
    known = sorted(path.name for path in BUNDLED.glob("demo-*"))
    if f"demo-{name}" not in known:
        names = ", ".join(item.replace("-", ":", 1) for item in known) or "none"
        raise BadInput(f"no bundled model 'demo:{name}'; bundled: {names}")
    return Source(f"demo:{name}", "folder", str(folder / WEIGHTS_FILE), str(folder / CARD_FILE))


def _split_python(name: str) -> tuple[str, str]:
    parts = name.split(":")
    if len(parts) != 3 or not all(part.strip() for part in parts):
        raise BadInput(f"model {name!r} is not of the form python:pkg.mod:obj")
    return parts[1], parts[2]


def _module_file(module: str, item: str) -> Path:
    """Source file of a module, found without importing it or its parents."""
    search: Iterable[str] | None = None
    found: importlib.machinery.ModuleSpec | None = None
    parts = module.split(".")
    for index in range(len(parts)):
        found = _find_spec(".".join(parts[: index + 1]), search)
        if found is None:
            break
        search = found.submodule_search_locations
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise BadInput(
            f"model 'python:{module}:{item}': no module {module!r} with Python source on sys.path; "
            "install it or add its folder to PYTHONPATH"
        )
    return Path(found.origin)


def _find_spec(name: str, search: Iterable[str] | None) -> importlib.machinery.ModuleSpec | None:
    path = None if search is None else list(search)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def archive_sizes(content: bytes) -> dict[str, int]:
    """Members of a zip archive and their decoded sizes; empty for a file of another kind."""
    if not zipfile.is_zipfile(BytesIO(content)):
        return {}
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return {one.filename.partition("/")[2]: one.file_size for one in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError):  # torch says what is wrong
        return {}


def _is_torchscript(content: bytes) -> bool:
    names = archive_sizes(content)
    return "constants.pkl" in names or any(name.startswith("code/") for name in names)
