"""What one pixel of a network's input can change, and what a pass holds in memory: measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.models.contract import Model

FIRST_SIDE = 64
LAST_SIDE = 1024
OTHER_SIDE = 16
"""Pixels across the measured axis: enough for padding modes that need a few."""
SHOCK = 1e4
"""Perturbation for modules that swallow NaN (a threshold); large against normalised input."""
TOLERANCE = 1e-5
"""Difference between equal phases, as a share of the logits' spread over a channel."""
ROUNDING = 1e-6
"""The same, as a share of the largest logit: what float32 sums may differ by."""


def measure_reach(model: Model) -> tuple[int | None, int]:
    """Reach and phase stride of a network, by experiment.

    Single pixels over one period of the phase are set to NaN (and shocked, for modules that
    swallow NaN); the reach is the largest distance, along any axis, of an output that changes.
    The stride is the least shift of the input that leaves these distances as they are and shifts
    the logits of a random tile without changing them.

    Returns
    -------
    tuple
        Reach in pixels to each side, None where it goes to the edge of the tile, or beyond
        1024 pixels; and the stride in pixels, the card's own where no shift could be tested.
    """
    spans = [_spans_along(model, axis) for axis in range(model.card.ndim)]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None, model.card.stride
    reach = max(max(before, after) for along in known for before, after in along)
    return reach, _stride(model, reach, known)


def activation_bytes(model: Model, tile_shape: tuple[int, ...]) -> float:
    """Most bytes of tensors alive at once in one pass, per input pixel.

    Counts the input and every tensor that an operation returns, until it is released; not the
    weights, and not the scratch memory inside an operation. The same on every device.

    Parameters
    ----------
    tile_shape
        Spatial shape of the tile, (h, w) or (d, h, w).
    """
    tiles = torch.zeros((1, model.card.channels, *tile_shape), device=model.device)
    watch = _Storages()
    watch.see(tiles)
    with watch:
        model(tiles)
    return watch.peak / math.prod(tile_shape)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages alive after every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        weak = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._alive[storage._cdata] = (weak, storage.nbytes())  # noqa: SLF001

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        known = {
            leaf.untyped_storage()._cdata  # noqa: SLF001
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # A view of a weight is no activation.
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in known:  # noqa: SLF001
                self.see(leaf)
        self._alive = {
            key: (weak, size)
            for key, (weak, size) in self._alive.items()
            if not weak.expired()  # type: ignore[no-untyped-call]
        }
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


def _spans_along(model: Model, axis: int) -> list[tuple[int, int]] | None:
    """For each phase, how far a pixel acts backward and forward along one axis.

    None if it meets the edge of the largest tile.
    """
    for side in _sides(model, axis):
        shape = _thin_shape(model, axis, side)
        middle = side // 2 - side // 2 % model.card.stride
        phases = range(min(model.card.stride, side - middle))
        changed = [_changed_span(model, shape, axis, middle + phase) for phase in phases]
        if all(lo > 0 and hi < side - 1 for lo, hi in changed):
            return [
                (middle + phase - lo, hi - middle - phase)
                for phase, (lo, hi) in zip(phases, changed, strict=True)
            ]
    return None


def _sides(model: Model, axis: int) -> Iterator[int]:
    if model.card.tile is not None:
        yield model.card.tile[axis]
        return
    divisor = model.card.divisor or 1
    side = FIRST_SIDE
    while side <= LAST_SIDE:
        yield -(-side // divisor) * divisor
        side *= 2


def _thin_shape(model: Model, axis: int, side: int) -> tuple[int, ...]:
    if model.card.tile is not None:
        return model.card.tile
    shape = list(model.card.example_shape(least=OTHER_SIDE))
    shape[axis] = side
    return tuple(shape)


def _changed_span(model: Model, shape: tuple[int, ...], axis: int, at: int) -> tuple[int, int]:
    """First and last index along `axis` that changes with the pixel at `at`."""
    noise = torch.rand((1, model.card.channels, *shape), generator=torch.Generator().manual_seed(0))
    noise = noise.to(model.device)
    where = [slice(None), slice(None), *(slice(n // 2, n // 2 + 1) for n in shape)]
    where[2 + axis] = slice(at, at + 1)
    before = model(noise)
    changed = torch.zeros(shape[axis], dtype=torch.bool, device=model.device)
    others = [dim for dim in range(before.ndim) if dim != 2 + axis]
    for shock in (math.nan, SHOCK, -SHOCK):
        tiles = noise.clone()
        tiles[tuple(where)] = shock
        changed |= (model(tiles) != before).amax(dim=others)
    hits = changed.nonzero().flatten().tolist()
    return (hits[0], hits[-1]) if hits else (at, at)


def _stride(model: Model, reach: int, spans: list[list[tuple[int, int]]]) -> int:
    """Least shift, of those that the card's stride suggests, that only shifts the logits."""
    stride = model.card.stride
    # Distances catch a phase whose effect on the logits is too small to see; logits catch a phase
    # without pooling, such as a position code.
    smaller = [
        shift
        for shift in range(1, stride + 1)
        if stride % shift == 0 and all(along == along[shift:] + along[:shift] for along in spans)
    ]
    for shift in (*smaller, 2 * stride, 4 * stride):
        side = _side_for_shift(model, reach, shift)
        if side is not None and _shifts(model, side, reach, shift):
            return shift
    return stride


def _side_for_shift(model: Model, reach: int, shift: int) -> tuple[int, ...] | None:
    """Tile with room for `shift` rows that no edge acts upon."""
    least = 2 * reach + 2 * shift + 1
    if model.card.tile is None:
        return model.card.example_shape(least=least)
    return model.card.tile if min(model.card.tile) >= least else None


def _shifts(model: Model, shape: tuple[int, ...], reach: int, shift: int) -> bool:
    size = tuple(n + shift for n in shape)
    field = torch.rand((1, model.card.channels, *size), generator=torch.Generator().manual_seed(1))
    field = field.to(model.device)
    here = tuple(slice(0, n) for n in shape)
    there = tuple(slice(shift, n + shift) for n in shape)
    first = model(_crop(field, here))
    second = model(_crop(field, there))
    inner_first = _crop(first, tuple(slice(shift + reach, n - reach) for n in shape))
    inner_second = _crop(second, tuple(slice(reach, n - reach - shift) for n in shape))
    spread = float(inner_first.flatten(2).std(dim=2).max())
    limit = TOLERANCE * spread + ROUNDING * float(first.abs().max())
    return bool((inner_first - inner_second).abs().max() <= limit)


def _crop(tensor: torch.Tensor, where: tuple[slice, ...]) -> torch.Tensor:
    return tensor[(slice(None), slice(None), *where)].contiguous()
