"""Segment volumes with networks in three orientations, on a laptop or a cluster of GPUs.

The public names are listed in ``__init__.pyi`` and loaded when they are first used, so that
importing the package needs neither torch, dask nor zarr.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
