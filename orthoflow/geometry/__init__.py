"""Integers and small arrays: boxes, grids, weights, tiles, orientations. NumPy only."""
