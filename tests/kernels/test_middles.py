"""Centres of 3-D patches: by looking at every centre, and the same in every box."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from orthoflow.geometry.box import Box
from orthoflow.geometry.cells import CellRule
from orthoflow.kernels.middles import middles_of

SHAPE = (9, 11, 10)


def network(seed, *, plateaus):
    """Heat and offsets, and where things are."""
    dice = np.random.default_rng(seed)
    heat = dice.random(SHAPE).astype(np.float32)
    offsets = dice.normal(0, 3, (3, *SHAPE)).astype(np.float32)
    if plateaus:
        heat, offsets = np.round(heat * 3) / 3, np.round(offsets)
    maps = np.concatenate([heat[None], offsets]).astype(np.float32)
    return torch.from_numpy(maps), torch.from_numpy(dice.random(SHAPE) < 0.6)


def by_looking(maps, thing, rule):
    """Voxel by voxel over all centres of the volume."""
    heat = maps[0].numpy()
    size = rule.center_distance
    lively = np.where(heat > rule.center_threshold, heat, -1)
    # SciPy's even windows have one voxel more before than behind, too.
    top = ndimage.maximum_filter(lively, size, mode="constant", cval=-np.inf)
    centers = np.argwhere((lively == top) & (lively > 0))
    found = np.zeros(SHAPE, np.int64)
    for place in np.argwhere(thing.numpy()):
        vote = place * 256 + np.round(maps[1:, *place].numpy().astype(float) * 256)
        near = (np.abs(centers - place) <= rule.reach).all(1)
        if near.any():
            far = np.where(near, ((vote - centers * 256) ** 2).sum(1), np.inf)
            found[tuple(place)] = 1 + np.ravel_multi_index(centers[far.argmin()], SHAPE)
    return found


@settings(max_examples=20)
@given(st.integers(0, 99), st.booleans(), st.integers(1, 4), st.integers(0, 5), st.data())
def test_every_voxel_finds_what_looking_at_every_centre_finds(seed, plateaus, side, reach, data):
    maps, thing = network(seed, plateaus=plateaus)
    rule = CellRule(center_threshold=0.4, center_distance=side, reach=reach, step=1, zoom=1)
    start = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, SHAPE, strict=True)]
    wanted = Box(tuple(start), tuple(stop))
    by = reach + side // 2
    held = Box(
        tuple(max(0, a - by) for a in start),
        tuple(min(n, b + by) for b, n in zip(stop, SHAPE, strict=True)),
    )
    expected = by_looking(maps, thing, rule)[wanted.slices]
    cut = maps[(slice(None), *held.slices)]
    found = middles_of(thing[wanted.slices], cut, held, wanted, SHAPE, rule)
    np.testing.assert_array_equal(found.numpy(), expected)
