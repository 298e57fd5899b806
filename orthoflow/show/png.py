"""Pixels to a PNG file: small, the same bytes for the same pixels, there whole or not at all."""

from __future__ import annotations

import io
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.image import imsave

from orthoflow.errors import BadInput, StoreRefused

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_BYTES = 1_000_000
"""A picture of more is stored with fewer shades: noise does not compress."""
_LARGE = 2**24


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The path, or a refusal: its folder must exist and its name end in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise BadInput(f"picture {path} must end in .png; rename it")
    if not path.parent.is_dir():
        raise BadInput(f"picture {path}: folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise BadInput(f"picture {path} is a folder; give a file name inside it")
    return path


def write_png(
    path: str | os.PathLike[str], pixels: npt.NDArray[np.uint8], *, max_bytes: int = MAX_BYTES
) -> None:
    """Write RGB pixels (rows, columns, 3) under another name, then rename.

    Shades are reduced from 256 to 32 or 16 a channel where the file would exceed `max_bytes`.

    Raises
    ------
    BadInput
        If the folder does not exist or the name does not end in .png.
    StoreRefused
        If the folder cannot be written to or is full.
    """
    path = require_writable(path)
    data = b""
    for bits in (8, 5, 4):
        data = encode(with_shades(pixels, bits))
        if len(data) <= max_bytes:
            break
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise StoreRefused(f"picture {path} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def with_shades(pixels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pixels with 2**bits shades a channel; black and white stay as they are.

    >>> with_shades(np.array([0, 100, 255], np.uint8), 4).tolist()
    [0, 102, 255]
    """
    top = 2**bits - 1
    level = np.rint(pixels.astype(np.float32) * (top / 255))
    shades: npt.NDArray[np.uint8] = np.rint(level * (255 / top)).astype(np.uint8)
    return shades


def encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    """RGB pixels as PNG, without a date or a program's name."""
    buffer = io.BytesIO()
    # The last percent of a large sheet takes longer than all the rest.
    options = {"optimize": True} if pixels.size <= _LARGE else {"compress_level": 6}
    imsave(buffer, pixels, format="png", metadata={"Software": None}, pil_kwargs=options)  # type: ignore[dict-item]
    return buffer.getvalue()
