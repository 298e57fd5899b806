"""Sums of a block, put together from its own task's and its neighbours'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from orthoflow.reduce.blend import Sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.orientations import Orientation
    from orthoflow.plan import Plan


def gather(
    plan: Plan,
    need: Box,
    orientation: Orientation,
    pieces: Sequence[Sums],
    device: torch.device,
    *,
    channels: tuple[int, int] | None = None,
) -> Sums:
    """Sums over the working voxels `need` of one orientation, all pieces added up.

    `channels` are the first and the end of those that are wanted; all, where not given.
    """
    first, end = channels or (0, plan.channels)
    pieces = [_some(piece, first, end) for piece in pieces if piece.orientation == orientation.name]
    if len(pieces) == 1 and pieces[0].box.contains(need):
        return on_device(pieces[0].cut(need), device)
    planes, spans = orientation.spans(need)
    shape = [b - a for a, b in ([planes] if orientation.stack is not None else []) + list(spans)]
    dtype = torch.int32 if plan.options.accumulation == "fixed" else torch.float32
    total = torch.zeros((end - first, *shape), dtype=dtype, device=device)
    sums = Sums(orientation.name, need, total, None)
    for piece in pieces:
        common = piece.box.intersect(need)
        if common is not None:
            sums.add(on_device(piece.cut(common), device))
    return sums


def class_sums(sums: Sums, *, binary: bool) -> Sums:
    """Sums of class logits as the vote wants them: of two in a binary answer, their difference.

    Sums are whole numbers in fixed point, so nothing is rounded.
    """
    if not binary or len(sums.total) == 1:
        return sums
    return Sums(sums.orientation, sums.box, sums.total[1:2] - sums.total[0:1], sums.missing)


def on_device(sums: Sums, device: torch.device) -> Sums:
    """The same sums as tensors on `device`; they travel between workers as NumPy arrays."""
    total, missing = (
        torch.as_tensor(a).to(device) if a is not None else None for a in (sums.total, sums.missing)
    )
    return Sums(sums.orientation, sums.box, total, missing)


def _some(piece: Sums, first: int, end: int) -> Sums:
    if (first, end) == (0, len(piece.total)):
        return piece
    return Sums(piece.orientation, piece.box, piece.total[first:end], piece.missing)
