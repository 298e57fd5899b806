"""Let the C library keep the memory that layers and tables free and ask for again."""

from __future__ import annotations

import ctypes
import functools
import sys

# Parameters of mallopt(3) and what they are set to: one arena for all threads; allocations up to a
# gigabyte come from it; up to two gigabytes at its end are kept; it grows in steps of 256 MB.
_SETTINGS = ((-8, 1), (-3, 2**30), (-1, 2**31 - 1), (-2, 2**28))


@functools.cache
def keep_freed_memory() -> bool:
    """Do it, once per process; whether this system has such a thing (glibc).

    By default every layer's activations are mapped, zeroed page by page and unmapped: up to half of
    a network's time on a CPU, a sixth of what instances take (docs/decisions/0005). Not
    a bit of any result changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return {mallopt(name, value) for name, value in _SETTINGS} == {1}
