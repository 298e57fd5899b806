"""Promise 3: blended logits within 1e-5 of a float64 brute force, corners included."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests import nets, oracles

SHAPE = (13, 21, 26)
TOLERANCE = 1e-5


def starts(size, patch, overlap, grid):
    stride = max(Fraction(1), (1 - Fraction(str(overlap))) * patch)
    rule = oracles.step_starts if grid == "step" else oracles.even_starts
    return rule(size, patch, stride)


def logits_of_patch(model, patch, tile):
    """One patch by itself in the middle of a tile of zeros, the odd voxel behind."""
    before = [(side - n) // 2 for side, n in zip(tile, patch.shape[1:], strict=True)]
    inside = tuple(slice(b, b + n) for b, n in zip(before, patch.shape[1:], strict=True))
    tiles = torch.zeros((1, len(patch), *tile))
    tiles[(0, slice(None), *inside)] = torch.from_numpy(patch.astype(np.float32))
    return model(tiles)[0].double().numpy()[(slice(None), *inside)]


def brute_force(model, volume, orientation, patches, tile, weighting="gaussian", scale=8.0):
    """Logits (class, z, y, x) in float64; `patches` gives (starts, lengths) per plane axis."""
    volume = volume if volume.ndim == 4 else volume[None]
    stack, plane = oracles.PLANES[orientation]
    order = ([stack + 1] if stack is not None else []) + [axis + 1 for axis in plane]
    planes = volume.transpose(0, *order)
    planes = planes[:, None] if stack is None else planes
    found = []
    for number in range(planes.shape[1]):
        pieces = []
        for corner in np.ndindex(*(len(first) for first, _ in patches)):
            begin = [first[i] for (first, _), i in zip(patches, corner, strict=True)]
            sides = [lengths[i] for (_, lengths), i in zip(patches, corner, strict=True)]
            index = tuple(slice(a, a + n) for a, n in zip(begin, sides, strict=True))
            pieces.append(
                (begin, logits_of_patch(model, planes[(slice(None), number, *index)], tile))
            )
        size = planes.shape[2:]
        classes = range(len(pieces[0][1]))
        found.append(
            [
                oracles.blended(size, [(b, p[c]) for b, p in pieces], weighting, scale)[0]
                for c in classes
            ]
        )
    stacked = np.array(found)  # (plane, class, ...)
    if stack is None:
        return stacked[0]
    return np.moveaxis(np.moveaxis(stacked, 1, 0), 1, stack + 1)


def regular(shape, orientation, tile, overlap, grid):
    """(starts, lengths) per plane axis of equal patches."""
    _, plane = oracles.PLANES[orientation]
    sides = [shape[axis] for axis in plane]
    return [
        (found := starts(n, t, overlap, grid), [min(n, t)] * len(found))
        for n, t in zip(sides, tile, strict=True)
    ]


@functools.cache
def noise(channels=1):
    shape = SHAPE if channels == 1 else (channels, *SHAPE)
    return (nets.blobs(shape).astype(np.float32) - 128) / 64


def compare(model, volume, tile, *, grid="even", overlap=0.25, weighting="gaussian", scale=8.0,
            **options):  # fmt: skip
    """Run in blocks; compare every orientation with the brute force; the expected logits."""
    options |= {"grid": grid, "overlap": overlap, "weighting": weighting, "sigma_scale": scale}
    found = nets.everything(volume, model, packing="none", block=(8, 16, 16), part=2, **options)
    expected = {}
    for name in [n.partition("/")[2] for n in found if n.startswith("stacks/")]:
        patches = regular(volume.shape[-3:], name, tile, overlap, grid)
        logits = brute_force(model, volume, name, patches, tile, weighting, scale)
        if len(logits) == 2 and options.get("mode") != "multiclass":
            logits = logits[1:] - logits[:1]
        np.testing.assert_allclose(found[f"logits/{name}"], logits, atol=TOLERANCE, rtol=0)
        expected[name] = logits
    mean = sum(expected.values()) / len(expected)
    np.testing.assert_allclose(found["logits/consensus"], mean, atol=TOLERANCE, rtol=0)
    return found, mean


def softmax(logits):
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


@pytest.mark.parametrize("grid", ["even", "step"])
@pytest.mark.parametrize("weighting", ["gaussian", "taper", "border", "uniform"])
@pytest.mark.parametrize("tile", [(12, 12), (16, 24)])
def test_planes(grid, weighting, tile):
    found, logits = compare(
        nets.plain(tile=tile), noise(), tile, grid=grid, weighting=weighting, overlap=0.4
    )
    exact = 255 / (1 + np.exp(-logits[0]))
    assert np.abs(found["probabilities"] - exact).max() <= 0.5 + 255 / 4 * TOLERANCE


@pytest.mark.parametrize("grid", ["even", "step"])
@pytest.mark.parametrize("weighting", ["gaussian", "taper", "border", "uniform"])
def test_boxes(grid, weighting):
    model = nets.plain(ndim=3, tile=(8, 12, 16))
    compare(model, noise(), (8, 12, 16), grid=grid, weighting=weighting, overlap=0.5)


@pytest.mark.parametrize("overlap", [0, 0.1, 0.5, 0.75])
@pytest.mark.parametrize("scale", [2.0, 8.0, 16.0])
def test_any_overlap_and_width(overlap, scale):
    compare(nets.plain(tile=(12, 12)), noise(), (12, 12), overlap=overlap, scale=scale)


@pytest.mark.parametrize("ndim", [2, 3])
def test_several_channels_in_and_out(ndim):
    model = nets.plain(ndim=ndim, tile=(12,) * ndim, channels=3, outputs=4)
    found, logits = compare(model, noise(3), (12,) * ndim)
    np.testing.assert_allclose(found["probabilities"], 255 * softmax(logits), atol=0.501)
    sure = np.sort(logits, 0)[-1] - np.sort(logits, 0)[-2] > 1e-4
    np.testing.assert_array_equal(found["labels"][sure], logits.argmax(0)[sure])


def test_two_classes_as_multiclass():
    compare(nets.plain(tile=(12, 12)), noise(), (12, 12), mode="multiclass")


def test_one_output_is_a_logit():
    compare(nets.plain(tile=(12, 12), outputs=1), noise(), (12, 12))


@pytest.mark.parametrize("divisor", [4, 5])
def test_free_rectangles(divisor):
    """A plane that a tile can hold is one patch, in the least multiple of the divisor."""
    model = nets.plain(divisor=divisor)
    found = nets.everything(noise(), model, packing="none", block=(8, 16, 16))
    for name, (_, plane) in oracles.PLANES.items():
        if name == "zyx":
            continue
        sides = [-(-SHAPE[axis] // divisor) * divisor for axis in plane]
        patches = regular(SHAPE, name, sides, 0.25, "even")
        logits = brute_force(model, noise(), name, patches, sides)
        np.testing.assert_allclose(
            found[f"logits/{name}"], logits[1:] - logits[:1], atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize(
    ("tile", "way", "options"),
    [((48, 48), "stripes", {"packing": "stripes"}), ((24, 24), "shared", {})],
)
def test_packed_planes(tile, way, options):
    """Stripes and shared last pieces: the same numbers as each patch by itself."""
    model = nets.plain(tile=tile)
    plan, _, _ = nets.planned(noise(), model, **options)
    assert way in {w.chosen.way for w in plan.ways}
    found = nets.everything(noise(), model, block=(8, 16, 16), part=2, **options)
    for chosen in (w.chosen for w in plan.ways):
        patches = [(grid.starts, grid.lengths) for grid in chosen.grids]
        logits = brute_force(model, noise(), chosen.orientation, patches, tile)
        np.testing.assert_allclose(
            found[f"logits/{chosen.orientation}"], logits[1:] - logits[:1], atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("shape", [(1, 9, 9), (5, 1, 40), (3, 3, 3), (1, 1, 1)])
def test_volumes_smaller_than_a_tile(shape):
    """Padded with zeros, half on each side."""
    volume = (nets.blobs(shape).astype(np.float32) - 128) / 64
    compare(nets.plain(tile=(12, 12)), volume, (12, 12), skip_empty=False)


def test_floating_point_sums_agree_with_fixed_point():
    model = nets.plain(tile=(12, 12))
    options = {"overlap": 0.5, "block": (8, 16, 16)}
    fixed = nets.everything(noise(), model, **options)
    floating = nets.everything(noise(), model, accumulation="float", **options)
    for name in ("logits/xy", "logits/xz", "logits/yz", "logits/consensus"):
        np.testing.assert_allclose(floating[name], fixed[name], atol=TOLERANCE, rtol=0)
    assert np.abs(floating["probabilities"].astype(int) - fixed["probabilities"]).max() <= 1


def test_the_corners_are_exact_although_their_weight_is_tiny():
    """exp(-16) of the peak with the usual width; a floor or an epsilon would show here."""
    model, volume = nets.plain(tile=(12, 12)), noise()
    found = nets.everything(volume, model, packing="none", orientations=("xy",))
    corner = logits_of_patch(model, volume[None, 0, :12, :12], (12, 12))[:, 0, 0]
    assert abs(found["logits/xy"][0, 0, 0, 0] - (corner[1] - corner[0])) < TOLERANCE
    assert oracles.profile("gaussian", 12)[0] ** 2 < 1e-5


def test_the_vote_is_a_count_of_opinions():
    model, volume = nets.plain(), noise()
    for votes in (1, 2, 3):
        found = nets.everything(volume, model, consensus="vote", votes=votes, tile=12)
        opinions = [found[f"stacks/{name}"] for name in ("xy", "xz", "yz")]
        expected = (np.sum(opinions, 0) >= votes).astype(np.uint8)
        np.testing.assert_array_equal(found["labels"], expected)
        against = [opinion != expected for opinion in opinions]
        np.testing.assert_array_equal(found["disagreement"], np.sum(against, 0))
        for name, opinion in zip(("xy", "xz", "yz"), opinions, strict=True):
            np.testing.assert_array_equal(opinion, found[f"logits/{name}"][0] > 0)
