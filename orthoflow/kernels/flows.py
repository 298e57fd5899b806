"""Flow networks: one flow field of all orientations, and where each voxel ends that follows it.

The contract is Cellpose's (Stringer et al. 2021, doi:10.1038/s41592-020-01018-x): flows point to
the middle of a cell, and voxels that end in one place are one cell. Here a place is a whole number
of 1 / `UNIT` voxels on the grid of the volume and a flow a whole number of 1 / `STEEP`, so a voxel
takes the same way to the bit wherever its box starts; and it stays within `reach` of where it
started, so a box needs a halo, see `flow_halo`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from orthoflow.geometry.box import Box, Triple
from orthoflow.geometry.following import CAPTURE, FlowRule
from orthoflow.kernels.fields import Field
from orthoflow.reduce.sinks import Sinks, sinks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

UNIT_BITS = 10
UNIT = 1 << UNIT_BITS
"""Places per voxel and axis."""
STEEP = 1 << 13
"""Steps of a flow per voxel."""
MOST = 2.0
"""Longest step along an axis, voxels; a mean of unit flows has 1, Cellpose's sum of two has 2."""
_CHUNK = {"cpu": 2**15, "cuda": 2**22}
# Steps after which the voxels that still move are put together.
_ROUNDS = (12, 24, 48)


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the foreground voxels of a box end; raster order."""

    start: torch.Tensor
    """Raster index in the volume, int64 (n,)."""
    end: torch.Tensor
    """Raster index in the volume of the voxel that is nearest to its last place."""
    stopped: torch.Tensor
    """Bool: its next step would have left its reach, so its cell is larger than that."""

    def local(self, box: Box, shape: Triple) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where they start, as an index into an array of `box` of a volume of `shape`."""
        rest = self.start
        z, y, x = rest // (shape[1] * shape[2]), rest // shape[2] % shape[1], rest % shape[2]
        return z - box.start[0], y - box.start[1], x - box.start[2]


@torch.inference_mode()
def follow(field: Field, wanted: Box, shape: Triple, rule: FlowRule) -> Ends:
    """Where each foreground voxel of `wanted` ends.

    Each step follows the flow at the voxel's place, interpolated between the eight voxels around
    it, `scale` times, at most `MOST` along an axis, rounded to whole places. Where the flow turns
    round along an axis, the next step along it is half as long, and twice as long again where it
    does not, so that voxels come to rest in a sink instead of jumping over it. A voxel stays in the
    volume, as in Cellpose, and within `reach`: it stops before the step that would leave it.

    Parameters
    ----------
    field
        Over `wanted` and `reach` voxels more along the axes of the rule, as far as the volume of
        `shape` goes.

    Raises
    ------
    ValueError
        If the field does not cover that.
    """
    _require_reach(field.box, wanted, shape, rule)
    table = _table(field, rule)
    inside = (field.logit > rule.threshold)[wanted.within(field.box)]
    shifts = [lo - o for lo, o in zip(wanted.start, field.box.start, strict=True)]
    voxel = (inside.nonzero() + inside.nonzero().new_tensor(shifts)).T.contiguous()
    size = field.box.shape
    fixed = [axis for axis in range(3) if axis not in rule.axes]
    base = torch.zeros_like(voxel[0])
    for axis in fixed:
        base += voxel[axis] * math.prod(size[axis + 1 :])
    moving = voxel[list(rule.axes)].to(torch.int32)
    walk = _Walk(table, field.box, shape, rule)
    last, stopped = walk.go(moving, base)
    end = voxel.clone()
    for axis, places in zip(rule.axes, last, strict=True):
        end[axis] = (places + UNIT // 2) >> UNIT_BITS
    return Ends(
        _raster(voxel, field.box.start, shape), _raster(end, field.box.start, shape), stopped
    )


def _raster(voxels: torch.Tensor, origin: Triple, shape: Triple) -> torch.Tensor:
    place = voxels[0] + origin[0]
    for axis in (1, 2):
        place = place * shape[axis] + (voxels[axis] + origin[axis])
    return place


def count_ends(ends: Ends) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Voxels that end in each voxel: (raster index, count), ascending; counts add up over boxes.

    Those that were stopped do not count: where they are is not where they would go.
    """
    index, count = torch.unique(ends.end[~ends.stopped], return_counts=True)
    return index.cpu().numpy(), count.cpu().numpy()


def label_ends(ends: Ends, sinks: Sinks, wanted: Box, shape: Triple) -> torch.Tensor:
    """Labels (z, y, x), int64, of the box whose ends these are: each voxel's is its sink's.

    Voxels that end where no cell is have none, as in Cellpose: single ones, and cells of ten voxels
    and less.
    """
    labels = torch.zeros(wanted.shape, dtype=torch.int64, device=ends.end.device)
    index, sink = (torch.from_numpy(part).to(labels.device) for part in (sinks.index, sinks.label))
    found = torch.zeros_like(ends.end)
    if len(index):
        place = torch.searchsorted(index, ends.end).clamp_max_(len(index) - 1)
        found = torch.where(index[place] == ends.end, sink[place], 0)
    labels[ends.local(wanted, shape)] = found
    return labels


def flow_labels(
    field: Field, wanted: Box, shape: Triple, rule: FlowRule
) -> tuple[torch.Tensor, Ends]:
    """Labels (z, y, x), int64, of a box in one go; `flow_halo` of `once` says what `field` covers.

    1 + raster index, in the volume (or plane, where axis 0 does not move), of the voxel in which
    most voxels of the cell end; 0 is the background.
    """
    far = _grown(wanted, rule, 2 * rule.reach + 2 * CAPTURE, shape)
    everywhere = follow(field, far, shape, rule)
    sinks = sinks_of(*count_ends(everywhere), shape, rule.axes)
    ends = only_inside(everywhere, wanted, shape)
    return label_ends(ends, sinks, wanted, shape), ends


def _grown(box: Box, rule: FlowRule, halo: int, shape: Triple) -> Box:
    start = [max(a - halo, 0) if i in rule.axes else a for i, a in enumerate(box.start)]
    stop = [min(b + halo, shape[i]) if i in rule.axes else b for i, b in enumerate(box.stop)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def only_inside(ends: Ends, box: Box, shape: Triple) -> Ends:
    """Those that start in a box."""
    place, keep = ends.start, torch.ones_like(ends.stopped)
    for axis in (2, 1, 0):
        here, place = place % shape[axis], place // shape[axis]
        keep &= (here >= box.start[axis]) & (here < box.stop[axis])
    return Ends(ends.start[keep], ends.end[keep], ends.stopped[keep])


def _any(flags: torch.Tensor) -> torch.Tensor:
    """Along the first, short axis."""
    found = flags[0]
    for more in flags[1:]:
        found = found | more
    return found


def _require_reach(box: Box, wanted: Box, shape: Triple, rule: FlowRule) -> None:
    for axis in range(3):
        halo = rule.reach if axis in rule.axes else 0
        first = max(wanted.start[axis] - halo, 0)
        end = min(wanted.stop[axis] + halo, shape[axis])
        if box.start[axis] > first or box.stop[axis] < end:
            raise ValueError(
                f"the field covers {box}, voxels of {wanted} follow it {halo} voxels far: "
                f"along axis {axis}, {first}:{end} is needed; read a wider halo"
            )


def _table(field: Field, rule: FlowRule) -> torch.Tensor:
    """Flow of each voxel as one int64 that holds four int16, the axes of the rule first.

    Longer than the box, so that the voxel behind the last one, whose share is zero, can be read.
    """
    size = field.box.shape
    words = torch.zeros(
        (field.box.voxels + (size[1] + 1) * size[2] + 1, 4),
        dtype=torch.int16,
        device=field.flow.device,
    )
    behind = field.logit <= rule.threshold
    for place, axis in enumerate(rule.axes):
        steps = (field.flow[axis].float() * rule.scale).clamp(-MOST, MOST) * STEEP
        words[: field.box.voxels, place] = steps.round_().masked_fill_(behind, 0).flatten()
    return words.view(torch.int64)[:, 0]


@dataclass(slots=True)
class _Group:
    """Voxels on their way."""

    which: torch.Tensor
    base: torch.Tensor
    at: torch.Tensor
    """Places (axes, n), int32 in units; where they started; see `follow` for what comes next."""
    start: torch.Tensor
    gain: torch.Tensor
    before: torch.Tensor

    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.which, self.base, self.at, self.start, self.gain, self.before

    def split(self, length: int) -> Iterator[_Group]:
        """Groups of at most `length` voxels."""
        for parts in zip(*(torch.split(part, length, -1) for part in self._parts()), strict=True):
            yield _Group(*parts)

    def only(self, keep: torch.Tensor) -> _Group:
        """Those with these numbers."""
        return _Group(*(part.index_select(-1, keep) for part in self._parts()))

    @staticmethod
    def joined(groups: Sequence[_Group]) -> _Group:
        """All of them in one."""
        parts = zip(*(group._parts() for group in groups), strict=True)  # noqa: SLF001
        return _Group(*(torch.cat(part, -1) for part in parts))


class _Walk:
    """Moves voxels through one box."""

    def __init__(self, table: torch.Tensor, field: Box, shape: Triple, rule: FlowRule) -> None:
        strides = (field.shape[1] * field.shape[2], field.shape[2], 1)
        device = table.device
        self._table = table
        self._rule = rule
        self._strides = [strides[axis] for axis in rule.axes]
        # The volume's faces, as places in the box.
        faces = [(-field.start[a], shape[a] - 1 - field.start[a]) for a in rule.axes]
        self._low, self._high = (
            torch.tensor([[face[i] * UNIT] for face in faces], dtype=torch.int32, device=device)
            for i in (0, 1)
        )

    def go(self, voxel: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Last places (axes, n) of voxels, int32 in units, and which of them left their reach.

        `base` (n,) is where the table holds the voxels of the fixed axes.
        """
        at = voxel * UNIT
        ends = at.clone(), torch.zeros_like(base, dtype=torch.bool)
        gain = torch.ones(at.shape, dtype=torch.float32, device=at.device)
        which = torch.arange(len(base), device=at.device)
        group = _Group(which, base, at, at, gain, torch.zeros_like(gain))
        length = _CHUNK.get(base.device.type, _CHUNK["cpu"])
        done = 0
        # Few voxels take long: they go on together.
        for until in (*(n for n in _ROUNDS if n < self._rule.steps), self._rule.steps):
            parts = [self._round(part, until - done, ends) for part in group.split(length)]
            done = until
            group = _Group.joined(parts)
        ends[0][:, group.which] = group.at
        return ends

    def _round(self, group: _Group, steps: int, ends: tuple[torch.Tensor, torch.Tensor]) -> _Group:
        """Move voxels; note where those that come to rest do, and return the others."""
        alive = torch.ones_like(group.which, dtype=torch.bool)
        for step in range(steps):
            left, moved = self._step(group, alive)
            ends[1][group.which[left]] = True
            alive &= moved & ~left
            count = int(alive.sum())
            if count < 0.75 * len(alive) or step == steps - 1:
                ends[0][:, group.which] = group.at
                group = group.only(alive.nonzero()[:, 0])
                alive = torch.ones_like(group.which, dtype=torch.bool)
            if not count:
                break
        return group

    def _step(self, group: _Group, alive: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Move those alive, in place; which may not (they would leave their reach), which moved."""
        flow = self._flow(group.at, group.base)
        # Half where it turned round, else twice, at most once: torch.where is much slower.
        turned = (flow * group.before < 0).float()
        group.gain = (group.gain * (2 - 1.5 * turned)).clamp_max_(1)
        group.before = flow
        step = (flow * group.gain * (UNIT / STEEP)).round_().to(torch.int32)
        there = torch.minimum(torch.maximum(group.at + step, self._low), self._high)
        left = _any((there - group.start).abs_() > self._rule.reach * UNIT) & alive
        moved = _any(there != group.at)
        group.at = group.at + (there - group.at) * (alive & ~left)
        return left, moved

    def _flow(self, at: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """Flow (axes, n) at places, float32 in 1 / STEEP; the last axis is interpolated first.

        Separate products and sums in a fixed order: the same bits on any device.
        """
        cell = (at >> UNIT_BITS).long()
        share = (at & (UNIT - 1)).float() * (1 / UNIT)
        for axis, stride in enumerate(self._strides):
            base = base + cell[axis] * stride
        corners = [base]
        for stride in self._strides:
            corners = [corner + by for corner in corners for by in (0, stride)]
        values = [self._values(corner) for corner in corners]
        for axis in range(len(self._strides) - 1, -1, -1):
            values = [
                low + (high - low) * share[axis]
                for low, high in zip(values[::2], values[1::2], strict=True)
            ]
        return values[0]

    def _values(self, corner: torch.Tensor) -> torch.Tensor:
        words = self._table.index_select(0, corner).view(torch.int16).view(-1, 4)
        values = torch.empty((len(self._strides), len(words)), device=words.device)
        return values.copy_(words[:, : len(self._strides)].T)
