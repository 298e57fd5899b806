"""The job file: everything that `orthoflow run` takes, as YAML."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from orthoflow.errors import BadInput
from orthoflow.options import option_names
from orthoflow.plainyaml import plain_data

PATHS = ("input", "target", "model")
_MOST_BYTES = 64 * 2**10


def read_job(path: str | Path) -> dict[str, Any]:
    """Values of a job file, under the names of `Options`' fields; what they mean is its business.

    Besides every option it may hold `input`, `target` (the output's path or URL) and `model`.

    Raises
    ------
    BadInput
        If there is no such file, it holds no mapping of names, or a name is unknown.
    """
    where, file = f"config {path}", Path(path)
    try:
        with file.open("rb") as stream:
            stored = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{where} cannot be read: {error.strerror}") from error
    content = plain_data(stored, where=where, limit=_MOST_BYTES)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"config {path} holds no mapping; write lines such as overlap: 0.25")
    return _named(content, path)


def _named(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The same with fields' names for every spelling that is accepted."""
    known = {**option_names(), **{name: name for name in PATHS}}
    found: dict[str, Any] = {}
    for key, value in content.items():
        spelling = key.replace("_", "-").lower()
        if spelling not in known:
            near = difflib.get_close_matches(spelling, known, n=1)
            hint = f"did you mean {known[near[0]]}?" if near else "see orthoflow run --help"
            raise BadInput(f"config {path}: key {key!r} is unknown; {hint}")
        if known[spelling] in found:
            raise BadInput(f"config {path}: {known[spelling]} is given twice; give it once")
        found[known[spelling]] = value
    if "trust" in found:
        # Whoever wrote the file may have written the code as well.
        raise BadInput(
            f"config {path}: trust is typed, as --trust, by who starts the run; a file that names "
            "the model too could trust itself"
        )
    return found
