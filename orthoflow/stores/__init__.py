"""Bytes in and out: volumes of several formats, OME-Zarr outputs, pyramids. No torch, no Dask."""
