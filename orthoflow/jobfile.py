"""The job file: everything that `orthoflow run` takes, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orthoflow.errors import BadInput

_MOST_BYTES = 2**20


def read_job(path: str | Path) -> dict[str, Any]:
    """Names and values of a job file; what they mean is `Options`' business.

    Besides every option it may hold `input`, `target` (the output's path or URL) and `model`.

    Raises
    ------
    BadInput
        If there is no such file, or it holds no mapping of names.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise BadInput(f"config {path} has more than {_MOST_BYTES} bytes; it is no job file")
        content = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise BadInput(f"config {path} is no YAML: {first}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"config {path} holds no mapping; write lines such as overlap: 0.25")
    return content
