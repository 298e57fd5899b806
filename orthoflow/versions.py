"""Versions of what computes: the same here and on every worker, or nothing is begun."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from distributed import Client

# What tasks are made of, and what their bytes depend on.
PACKAGES = ("orthoflow", "torch", "numpy", "zarr", "dask", "distributed", "cloudpickle")


def installed_versions() -> dict[str, str]:
    """Version of Python and of each of `PACKAGES` here; empty where one is absent."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def differences(client: Client) -> list[str]:
    """What differs between this process and the workers: "zarr 3.1.6 here, 3.4.2 on tcp://…"."""
    here = installed_versions()
    found = []
    for worker, there in client.run(installed_versions, on_error="return").items():
        if isinstance(there, OSError):  # it died meanwhile, or has left
            continue
        if not isinstance(there, dict):
            found.append(f"orthoflow {here['orthoflow']} here, not importable on {worker}")
            continue
        found += [
            f"{name} {here[name] or 'absent'} here, {there.get(name) or 'absent'} on {worker}"
            for name in here
            if there.get(name) != here[name]
        ]
    return found


def require_same_versions(client: Client) -> None:
    """Refuse workers whose software differs from this process's.

    Raises
    ------
    BadInput
        Naming what differs.
    """
    found = differences(client)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise BadInput(
            f"versions differ: {'; '.join(found[:3])}{more}; install the same ones everywhere"
        )
