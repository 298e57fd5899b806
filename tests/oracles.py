"""Slow and obviously right: what the fast code is compared with.

Nothing here is imported from the code under test but plain records (`Box`, `Layout`), and every
function follows the definition in words, voxel by voxel where that is the definition.
"""

from __future__ import annotations

import decimal
import itertools
import math
from fractions import Fraction

import numpy as np

PLANES = {"xy": (0, (1, 2)), "xz": (1, (0, 2)), "yz": (2, (0, 1)), "zyx": (None, (0, 1, 2))}
"""Stack axis and plane axes of every orientation, written down a second time."""


# ------------------------------------------------------------------------------------------ grids


def round_half_even(value: Fraction) -> int:
    """The nearest whole number, the even one of two."""
    below = value.numerator // value.denominator
    rest = value - below
    if rest == Fraction(1, 2):
        return below + below % 2
    return below + (rest > Fraction(1, 2))


def even_starts(size, patch, stride):
    """The rule of nnU-Net and vesuvius in exact numbers; `stride` is a Fraction."""
    if size <= patch:
        return [0]
    count = math.ceil(Fraction(size - patch) / stride) + 1
    return [round_half_even(Fraction(i * (size - patch), count - 1)) for i in range(count)]


def step_starts(size, patch, stride):
    """The rule of MONAI and qlty: every int(stride) voxels, the last one pulled back."""
    if size <= patch:
        return [0]
    step = max(1, math.floor(stride))
    count = math.ceil((size - patch) / step) + 1
    return [min(i * step, size - patch) for i in range(count)]


def cheapest_side(size, usual, divisor, percent):
    """Side from `usual` to half as much again with the fewest pixels, the longest of equals."""
    found = []
    for side in range(1, max(3 * usual // 2, usual + divisor - 1) + 1):
        if side >= usual and side % divisor == 0:
            stride = max(Fraction(1), (1 - Fraction(percent, 100)) * side)
            found.append((side * len(even_starts(size, side, stride)), -side))
    return -min(found)[1]


# ---------------------------------------------------------------------------------------- weights


def profile(weighting, length, sigma_scale=8.0):
    """Weights of a patch's voxels, one voxel at a time."""
    values = []
    for i in range(length):
        off = abs(i - (length - 1) / 2)
        if weighting == "gaussian":
            sigma = length / sigma_scale
            values.append(math.exp(-(off**2) / (2 * sigma**2)))
        elif weighting == "taper":
            values.append(1 / (1 + math.exp((off - (length / 2 - 20)) / 7.5)))
        elif weighting == "border":
            frame = length // 8
            values.append(1.0 if frame <= i < length - frame else 0.1)
        else:
            values.append(1.0)
    return np.array(values)


def blended(size, pieces, weighting, sigma_scale=8.0):
    """Weighted mean over the patches of a box of any dimension, float64.

    `pieces` are (starts per axis, logits (*shape)); the result divides by the summed weights.
    """
    total, weights = np.zeros(size), np.zeros(size)
    for starts, logits in pieces:
        weight = np.ones(())
        for length in logits.shape:
            weight = np.multiply.outer(weight, profile(weighting, length, sigma_scale))
        place = tuple(slice(s, s + n) for s, n in zip(starts, logits.shape, strict=True))
        total[place] += weight * logits
        weights[place] += weight
    with np.errstate(invalid="ignore"):
        return total / weights, weights


# ---------------------------------------------------------------------------------------- stripes


def most_stripes(length, *, tile, stride, guard, border, most):
    """The largest number of equidistant pieces in phase with a piece alone, by trying them all."""
    alone = (tile - length) // 2
    best = 1
    for count in range(2, most + 1):
        for start, step in itertools.product(range(border, tile), range(length + guard, tile)):
            end = start + (count - 1) * step + length
            in_phase = (start - alone) % stride == 0 and step % stride == 0
            if in_phase and end + border <= tile:
                best = count
    return best


# ----------------------------------------------------------------------------------------- tiling


def count_tiles(tiling):
    """Tiles and network pixels by walking over every position and every group of planes."""
    tiles = pixels = 0
    for position in tiling.positions():
        planes = list(range(tiling.planes))
        while planes:
            planes = planes[position.count :]
            tiles += 1
            pixels += math.prod(position.tile)
    return tiles, pixels


# -------------------------------------------------------------------------------------- resampling


def area_average(values, target):
    """Mean over the source voxels that each target voxel covers, in exact fractions of voxels."""
    ratio = Fraction(len(values), target)
    out = []
    for i in range(target):
        lo, hi = i * ratio, (i + 1) * ratio
        total = 0.0
        for j in range(math.floor(lo), math.ceil(hi)):
            total += float(min(hi, j + 1) - max(lo, Fraction(j))) * float(values[j])
        out.append(total / float(ratio))
    return np.array(out)


def linear(values, target):
    """Linear between voxel centres, the ends held (align_corners=False), float64."""
    source = len(values)
    places = (np.arange(target, dtype=np.float64) + 0.5) * source / target - 0.5
    return np.interp(places, np.arange(source), np.asarray(values, np.float64))


def area_support(source, target, i):
    """Source voxels that target voxel `i` covers: (first, end)."""
    return i * source // target, -(-(i + 1) * source // target)


# ------------------------------------------------------------------------------------------ shares


def groups_in(tiling, need):
    """Every (piece numbers, group) of a tiling with a voxel in the box `need`."""
    stack, plane = PLANES[tiling.orientation]
    found = set()
    for position in tiling.positions():
        spans = [(need.start[a], need.stop[a]) for a in plane]
        apart = [b <= lo or hi <= a for (a, b), (lo, hi) in zip(position.spans, spans, strict=True)]
        if any(apart):
            continue
        for group in range(-(-tiling.planes // position.count)):
            first = group * position.count
            end = min(first + position.count, tiling.planes)
            if stack is None or (first < need.stop[stack] and need.start[stack] < end):
                found.add((position.pieces, group))
    return found


def voxels_of_group(tiling, pieces, group):
    """(start, stop) of the voxels that the patches of a group cover."""
    stack, plane = PLANES[tiling.orientation]
    position = tiling.position(pieces)
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis, (lo, hi) in zip(plane, position.spans, strict=True):
        start[axis], stop[axis] = lo, hi
    if stack is not None:
        start[stack] = group * position.count
        stop[stack] = min((group + 1) * position.count, tiling.planes)
    return tuple(start), tuple(stop)


# -------------------------------------------------------------------------------------------- vote


def sigmoid_byte(logit):
    """255 / (1 + exp(-logit)) rounded, half to even, in sixty digits."""
    with decimal.localcontext(decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)):
        share = 255 / (1 + (-decimal.Decimal(float(logit))).exp())
        return int(share.to_integral_value())


def majority(opinions, votes):
    """Class with the most votes, the lowest of equals; 0 without `votes` of them."""
    counts = {label: opinions.count(label) for label in opinions}
    most = max(counts.values())
    winner = min(label for label, n in counts.items() if n == most)
    return winner if most >= votes else 0
