"""What a process that others are forked from has in memory: the imports that take seconds.

Imported there and nowhere else: children start children of their own from the same process.
"""

from __future__ import annotations

import importlib
import multiprocessing.forkserver

import dask
import distributed.utils

for name in ("distributed.nanny", "s3fs", "orthoflow.pipeline", "array_api_compat.torch"):
    importlib.import_module(name)
for name in ("drive", "fleet"):
    importlib.import_module(f"tests.faults.{name}")

dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
distributed.utils._forkserver_preload_set = True
# A child knows the address of the process it was forked from, and would start another.
multiprocessing.forkserver._forkserver.ensure_running = lambda: None
