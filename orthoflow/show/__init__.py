"""Pictures: NumPy arrays in, PNG files out. No Dask, no stores' formats."""

from __future__ import annotations

from orthoflow.show.overview import overview
from orthoflow.show.preview import preview

__all__ = ["overview", "preview"]
