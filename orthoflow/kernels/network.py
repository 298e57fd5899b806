"""Run the network on batches of tiles: the views of the augmentation, and what fits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from orthoflow.errors import BlockFailed

if TYPE_CHECKING:
    from orthoflow.kernels.infer import Recipe
    from orthoflow.models.contract import Model

# What torch says, in a RuntimeError like any other, where the machine's memory does not suffice.
_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


class Runner:
    """Runs batches; where one does not fit into the device's memory, smaller ones from then on."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self._model = model
        self._recipe = recipe
        self.batch = recipe.batch
        """Tiles that are run at once."""
        self.halved: dict[str, int] = {}
        """How often a batch did not fit, by the size that was tried next."""

    def logits(self, tiles: torch.Tensor) -> torch.Tensor:
        """Logits (n, channels, *tile) float32 of any number of tiles."""
        parts: list[torch.Tensor] = []
        while len(tiles):
            now = tiles[: self.batch]
            error = self._try(now, parts)
            if error is None:
                tiles = tiles[len(now) :]
            else:
                self._halve(now, error)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _try(self, tiles: torch.Tensor, parts: list[torch.Tensor]) -> str | None:
        """Append the logits, or say why the memory does not suffice.

        The exception is not handed on: it holds on to what the network had allocated.
        """
        try:
            parts.append(_run(self._model, tiles, self._recipe, self.batch))
        except torch.OutOfMemoryError as error:
            return " ".join(str(error).split())[:200]
        return None

    def _halve(self, tiles: torch.Tensor, error: str) -> None:
        # On a CPU a last batch may have been shorter than the others.
        tried = self.batch if tiles.is_cuda else len(tiles)
        if tried == 1:
            raise BlockFailed(
                f"out of memory on {tiles.device}: the network cannot run a single tile of "
                f"{' x '.join(map(str, tiles.shape[1:]))} ({error}); free the device's memory, or "
                "use a smaller tile, precision bfloat16 or a larger device"
            )
        self.batch = tried // 2
        name = str(self.batch)
        self.halved[name] = self.halved.get(name, 0) + 1
        if tiles.is_cuda:
            # What is kept for later may lie in pieces that are too small for anything.
            torch.cuda.empty_cache()


def _run(model: Model, tiles: torch.Tensor, recipe: Recipe, batch: int) -> torch.Tensor:
    """Logits (n, channels, *tile) float32: the mean over the views of the TTA."""
    short = batch - len(tiles)
    count = len(tiles)
    if tiles.is_cuda and short:
        # One batch shape: kernels chosen by shape must not change the answer's rounding.
        tiles = torch.cat([tiles, tiles.new_zeros((short, *tiles.shape[1:]))])
    views = _views(recipe.tta, tiles.ndim - 2)
    total = None
    for flips, axes in views:
        seen = tiles.flip(flips) if flips else tiles
        seen = seen.transpose(*axes) if axes else seen
        logits = _logits(model, seen)
        logits = logits.transpose(*axes) if axes else logits
        logits = logits.flip(flips) if flips else logits
        if (flips or axes) and recipe.vectors[0] < recipe.vectors[1]:
            logits = _turned(logits, flips, axes, recipe.vectors[0])
        total = logits if total is None else total + logits
    assert total is not None
    if len(views) > 1:
        total = total * (1.0 / len(views))
    total = total[:count, slice(*recipe.kept)]
    if recipe.foreground_only:
        total = total[:, 1:2] - total[:, 0:1]
    if recipe.factors:
        total = total * total.new_tensor(recipe.factors).reshape(-1, *[1] * (tiles.ndim - 2))
    return total


def _turned(
    logits: torch.Tensor, flips: tuple[int, ...], axes: tuple[int, int] | None, first: int
) -> torch.Tensor:
    """Outputs whose vectors, from channel `first` on, are turned back as the tile was.

    A flip along an axis changes the sign of the vector's part along it; a transpose swaps two.
    """
    order = list(range(logits.shape[1]))
    if axes is not None:
        a, b = (first + axis - 2 for axis in axes)
        order[a], order[b] = order[b], order[a]
    signs = logits.new_ones(len(order))
    for axis in flips:
        signs[first + axis - 2] = -1
    return logits[:, order] * signs.reshape(-1, *[1] * (logits.ndim - 2))


def _logits(model: Model, tiles: torch.Tensor) -> torch.Tensor:
    try:
        return model(tiles).float()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        if _CPU_ALLOCATOR in reason:
            raise MemoryError(reason) from error
        raise BlockFailed(
            f"the network failed on tiles {tuple(tiles.shape)}: {type(error).__name__}: {reason}"
        ) from error


def _views(tta: str, axes: int) -> list[tuple[tuple[int, ...], tuple[int, int] | None]]:
    """Axes to flip and to transpose, per view: all flips, or the transposes with rows (or z)."""
    spatial = range(2, 2 + axes)
    if tta == "mirroring":
        return [
            (flips, None) for n in range(axes + 1) for flips in itertools.combinations(spatial, n)
        ]
    if tta == "rotation":
        # vesuvius: the identity and the transposes of the first axis (z) with each other one.
        return [((), None), *(((), (2, axis)) for axis in spatial if axis != 2)]
    return [((), None)]
