"""Medians along a stack of planes."""

from __future__ import annotations

import torch


def median_along_stack(
    values: torch.Tensor, planes: tuple[int, int], count: int, size: int
) -> torch.Tensor:
    """Median over `size` planes of (class, planes, rows, columns); the ends are repeated.

    Parameters
    ----------
    planes
        First and end plane that `values` hold, of a stack of `count`. Planes near an end that is
        not the stack's come out wrong: `values` must hold size // 2 planes more than are used.
    """
    half = size // 2
    places = torch.arange(*planes)[:, None] + torch.arange(-half, half + 1)
    places = places.clamp(0, count - 1).clamp(planes[0], planes[1] - 1) - planes[0]
    columns = (places[:, i].to(values.device) for i in range(size))
    return _middle([values.index_select(1, column) for column in columns])


@torch.inference_mode()
def recursive_median(values: torch.Tensor, size: int) -> torch.Tensor:
    """Median along whole stacks (class, planes, rows, columns), as empanada's queue gives it.

    With m = size // 2: planes before m and from n - m on stay as they are; plane k becomes the
    median of the planes k - m to k - 1 *of the result* and k to k + m of the input.

    Raises
    ------
    ValueError
        If `size` is even.
    """
    if size % 2 == 0:
        raise ValueError(f"median over {size} planes has no middle; use an odd number")
    half, planes = size // 2, values.shape[1]
    out = values.clone()
    for k in range(half, planes - half):
        window = [out[:, k - i] for i in range(half, 0, -1)]
        window += [values[:, k + i] for i in range(half + 1)]
        out[:, k] = _middle(window)
    return out


def _middle(values: list[torch.Tensor]) -> torch.Tensor:
    """Median of 2 m + 1 arrays, pixel by pixel; far faster than sorting every pixel's values.

    The least and the largest of any m + 2 values are not the median of all: they are dropped, one
    more value joins, and so on until one is left.
    """
    many = len(values) // 2 + 2
    kept, waiting = values[:many], values[many:]
    while len(kept) > 1:
        for i in range(len(kept) - 1):
            kept[i], kept[i + 1] = (
                torch.minimum(kept[i], kept[i + 1]),
                torch.maximum(kept[i], kept[i + 1]),
            )
        for i in range(len(kept) - 2, 0, -1):
            kept[i], kept[i - 1] = (
                torch.maximum(kept[i], kept[i - 1]),
                torch.minimum(kept[i], kept[i - 1]),
            )
        kept = kept[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return kept[0]
