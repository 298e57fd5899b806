"""Sums that add up in any order, votes between orientations, final values. No torch, no Dask.

The functions take NumPy arrays or torch tensors alike (the array API), so that the same few lines
run where the data is.
"""
