"""Coarser levels: labels by mode, images by mean, one whole shard at a time.

Every coarse voxel is a function of the fine voxels it covers and of nothing else, so the levels
do not depend on the boxes they are built in. At an odd end the last coarse voxel covers the fewer
voxels that exist.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import relative_factors, slab_depth
from orthoflow.stores.ome import read_level, write_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.output import LevelSpec, OutputSpec
    from orthoflow.stores.ome import Written
    from orthoflow.stores.urls import Options


def reduce_labels(block: npt.NDArray[Any], factors: Triple) -> npt.NDArray[Any]:
    """The most frequent label of every cell of `factors` voxels; of equals the smallest.

    Parameters
    ----------
    block
        Labels, (..., z, y, x); starts on a cell.
    factors
        Voxels of a cell along (z, y, x).

    Returns
    -------
    array
        Same dtype, each spatial side divided by its factor and rounded up.

    >>> reduce_labels(np.array([[[5, 5, 7, 9, 3]]]), (1, 1, 2))
    array([[[5, 7, 3]]])
    """
    return _reduce(block, factors, _mode)


def reduce_image(block: npt.NDArray[Any], factors: Triple) -> npt.NDArray[Any]:
    """The mean of every cell of `factors` voxels, (..., z, y, x); rounded half to even.

    Integers are summed exactly; float16 and float32 in float32, in a fixed order.

    >>> reduce_image(np.array([[[1, 2, 3, 4, 9]]], np.uint8), (1, 1, 2))
    array([[[2, 4, 9]]], dtype=uint8)
    """
    return _reduce(block, factors, _mean)


def level_boxes(level: LevelSpec) -> Iterator[Box]:
    """The shards of a level, each the box that one task builds."""
    return split(Box.whole(level.shape), level.shard)


def build_level_box(
    url: str | Path,
    spec: OutputSpec,
    path: str,
    level: int,
    box: Box,
    storage_options: Options = (),
) -> Written:
    """Build `box` of `level` from the level below and write it.

    `box` is whole shards of `level`. The finer level has to be complete where the box lies: what
    is not stored there is background, so call `stores.verify.check_listing` before.
    """
    array = next((one for one in spec.arrays if one.path == path), None)
    if array is None or not 1 <= level < len(array.levels):
        raise BadInput(
            f"level {level} of {path!r} is not built from another; levels start at 1 and end at "
            f"{len(array.levels) - 1 if array else 0}"
        )
    fine, coarse = array.levels[level - 1], array.levels[level]
    factors = relative_factors(fine, coarse)
    reduce = reduce_labels if array.kind == "labels" else reduce_image
    lead = (array.classes,) if array.classes else ()
    result = np.empty((*lead, *box.shape), array.dtype)
    for part in _slabs(box, factors, coarse.chunk[0], result):
        finer = _finer(part, factors, fine.shape)
        source = read_level(url, path, level - 1, finer, storage_options, spec=spec)
        result[(..., *part.within(box))] = reduce(source, factors)
    return write_box(url, spec, path, level, box, result, storage_options)


def _slabs(box: Box, factors: Triple, chunk: int, result: npt.NDArray[Any]) -> Iterator[Box]:
    """Slabs of whole chunks along z, as thick as the memory for their source allows."""
    row = math.prod(result.shape) // box.shape[0] * result.itemsize * math.prod(factors)
    return split(box, (slab_depth(row, chunk), *box.shape[1:]), box.start)


def _finer(box: Box, factors: Triple, shape: Triple) -> Box:
    start = tuple(a * f for a, f in zip(box.start, factors, strict=True))
    stop = tuple(min(b * f, n) for b, f, n in zip(box.stop, factors, shape, strict=True))
    return Box(cast("Triple", start), cast("Triple", stop))


def _reduce(
    block: npt.NDArray[Any],
    factors: Triple,
    merge: Callable[[list[npt.NDArray[Any]]], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    """Merge cells: the whole ones together, then the strips of smaller cells at odd ends."""
    shape = tuple(-(-n // f) for n, f in zip(block.shape[-3:], factors, strict=True))
    result = np.empty((*block.shape[:-3], *shape), block.dtype)
    pieces = [_pieces(n, f) for n, f in zip(block.shape[-3:], factors, strict=True)]
    for cell in itertools.product(*pieces):
        source = block[_spatial(fine for fine, _, _ in cell)]
        sides = [side for _, _, side in cell]
        voxels = [
            source[_spatial(slice(o, None, s) for o, s in zip(offset, sides, strict=True))]
            for offset in itertools.product(*map(range, sides))
        ]
        result[_spatial(coarse for _, coarse, _ in cell)] = merge(voxels)
    return result


def _spatial(slices: Iterable[slice]) -> tuple[Any, ...]:
    return (..., *slices)


def _pieces(size: int, factor: int) -> list[tuple[slice, slice, int]]:
    """Fine slice, coarse slice and cell side: for the whole cells, then for the rest."""
    whole, rest = divmod(size, factor)
    pieces = []
    if whole:
        pieces.append((slice(0, whole * factor), slice(0, whole), factor))
    if rest:
        pieces.append((slice(whole * factor, size), slice(whole, whole + 1), rest))
    return pieces


def _mode(voxels: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    result = np.array(voxels[0])
    mixed = np.zeros(result.shape, bool)
    for other in voxels[1:]:
        mixed |= other != voxels[0]
    # Most cells lie inside one object; only those on a border are counted.
    where = np.nonzero(mixed)
    if where[0].size:
        result[where] = _mode_of_columns(np.stack([one[where] for one in voxels]))
    return result


def _mode_of_columns(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mode of every column of (n, cells), ties to the smallest: the first longest run, sorted."""
    labels = np.sort(labels, axis=0)
    best: npt.NDArray[Any] = labels[0].copy()
    run = np.ones(labels.shape[1], np.uint16)
    longest = run.copy()
    for previous, current in itertools.pairwise(labels):
        run = np.where(current == previous, run + 1, 1).astype(np.uint16)
        longer = run > longest
        best[longer] = current[longer]
        np.maximum(longest, run, out=longest)
    return best


def _mean(voxels: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    dtype, count = voxels[0].dtype, len(voxels)
    if dtype.kind == "f":
        wide = np.result_type(dtype, np.float32)
        total = voxels[0].astype(wide)
        for other in voxels[1:]:
            total += other
        return (total / count).astype(dtype)
    total = voxels[0].astype(_wide(dtype, count))
    for other in voxels[1:]:
        total += other
    quotient, rest = np.divmod(total, total.dtype.type(count))
    up: npt.NDArray[np.bool_] = (2 * rest > count) | ((2 * rest == count) & (quotient % 2 == 1))
    rounded: npt.NDArray[Any] = (quotient + up).astype(dtype)
    return rounded


def _wide(dtype: np.dtype[Any], count: int) -> np.dtype[Any]:
    """Integers that hold the sum of `count` voxels, and twice a remainder, exactly."""
    if dtype.itemsize > 4:
        raise BadInput(f"images of {dtype} are not averaged; store them as labels or as float32")
    size = 2 if dtype.itemsize == 1 and count <= 64 else 4 if dtype.itemsize <= 2 else 8
    return np.dtype(f"{dtype.kind}{size}")
