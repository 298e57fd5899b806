"""Run the network over the patches of one orientation and add up weighted logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from orthoflow.errors import BlockImpossible
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.kernels.network import Runner
from orthoflow.kernels.prepare import constant_planes, normalize_patches, normalize_volume
from orthoflow.reduce.blend import FIXED_POINT_SCALE, LOGIT_LIMIT, Sums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.shares import Share
    from orthoflow.geometry.tiling import Position, Span, Tiling
    from orthoflow.geometry.weights import Patches
    from orthoflow.models.card import Normalization
    from orthoflow.models.contract import Model
    from orthoflow.reduce.statistics import GreyScale


@dataclass(frozen=True, slots=True)
class Recipe:
    """How patches are run; everything here was decided in the plan."""

    kept: tuple[int, int]
    """First and end of the network's outputs that are used."""
    foreground_only: bool
    """Blend l1 - l0 of two logits instead of both: all that a binary answer needs."""
    channels: int
    """Channels that are blended."""
    vectors: tuple[int, int]
    """First and end of the outputs that are one vector along the tile's axes; maybe none."""
    factors: tuple[float, ...]
    """Of each blended channel; empty: all are blended as they are."""
    tta: str
    skip_empty: bool
    batch: int
    fixed_point: bool
    patch_normalization: Normalization | None
    """Set where each patch is normalised by itself."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A box of the working grid, plane-major, as read: (c, planes, rows, columns)."""

    box: Box
    voxels: torch.Tensor
    grey: GreyScale | None = None
    """Normalisation of the whole volume; applied to tiles, so that it takes no memory."""


@dataclass(slots=True)
class Count:
    """What was done, to be compared with the plan."""

    tiles: int = 0
    pixels: int = 0
    patches: int = 0
    skipped: int = 0
    halved: dict[str, int] = field(default_factory=dict)
    """How often a batch did not fit into the device's memory, by the size that was tried next."""


Groups = tuple["Position", "npt.NDArray[np.intp]"]
"""Groups of one position, by number."""


def oriented(voxels: torch.Tensor, orientation: str) -> torch.Tensor:
    """Plane-major view of (c, z, y, x); (c, 1, z, y, x) for 3-D patches."""
    view = voxels.permute(ORIENTATIONS[orientation].order)
    return view.unsqueeze(1) if ORIENTATIONS[orientation].stack is None else view


@torch.inference_mode()
def infer_shares(
    model: Model,
    patches: Patches,
    planes: Planes,
    shares: Sequence[Share],
    *,
    target: Box,
    recipe: Recipe,
) -> tuple[Sums, Count]:
    """Sums of weighted logits over the box `target`, from the patches of `shares`.

    The sums are those of whole patches, cropped: a patch adds the same integers to a voxel
    whichever box they are collected in.
    """
    tiling = patches.tiling
    orientation = ORIENTATIONS[tiling.orientation]
    stack, spans = orientation.spans(target)
    collector = _Collector(patches, recipe, (stack, *spans), planes.voxels.device)
    source = _Source(planes, orientation.spans(planes.box), recipe, tiling.planes)
    count = Count()
    runner = Runner(model, recipe)
    wanted = _Wanted(tiling, shares, recipe, count)
    for batch in _batches(wanted, source, collector, runner):
        tiles = torch.cat([source.tiles(position, groups) for position, groups in batch])
        logits = runner.logits(tiles)
        if not bool(torch.isfinite(logits.sum())):
            _require_finite(logits, tiling, batch)
        logits = logits.clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
        count.tiles += len(tiles)
        count.pixels += tiles[:, 0].numel()
        offset = 0
        for position, groups in batch:
            collector.add(position, groups, logits[offset : offset + len(groups)])
            offset += len(groups)
    count.halved = runner.halved
    return collector.sums(tiling.orientation, target), count


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be run, and where it is counted."""

    tiling: Tiling
    shares: Sequence[Share]
    recipe: Recipe
    count: Count


def _batches(
    wanted: _Wanted, source: _Source, collector: _Collector, runner: Runner
) -> Iterator[list[Groups]]:
    """Groups to run, as many tiles at a time as fit; one position may follow another."""
    batch: list[Groups] = []
    room = runner.batch
    count, planes = wanted.count, wanted.tiling.planes
    for share in wanted.shares:
        position = share.position
        groups = np.arange(*share.groups)
        first, end = share.planes(planes)
        count.patches += end - first
        if wanted.recipe.skip_empty:
            empty = source.empty(position, first, end)
            if empty.any():
                count.skipped += int(empty.sum())
                collector.miss(position, first + empty.nonzero()[0])
                padded = np.ones(len(groups) * position.count, bool)
                padded[: len(empty)] = empty
                groups = groups[~padded.reshape(len(groups), -1).all(1)]
        while len(groups):
            batch.append((position, groups[:room]))
            room -= len(batch[-1][1])
            groups = groups[len(batch[-1][1]) :]
            if room == 0:
                yield batch
                batch, room = [], runner.batch
    if batch:
        yield batch


class _Source:
    """Cuts tiles out of the planes at hand."""

    def __init__(
        self, planes: Planes, at: tuple[Span, tuple[Span, ...]], recipe: Recipe, count: int
    ) -> None:
        self._planes = planes
        self._first = at[0][0]
        self._origin = tuple(span[0] for span in at[1])
        self._recipe = recipe
        self._count = count

    def _window(self, position: Position) -> tuple[slice, ...]:
        return tuple(
            slice(a - o, b - o) for (a, b), o in zip(position.spans, self._origin, strict=True)
        )

    def empty(self, position: Position, first: int, end: int) -> npt.NDArray[np.bool_]:
        """Which planes have a constant patch at this position."""
        planes = slice(first - self._first, end - self._first)
        window = self._planes.voxels[(slice(None), planes, *self._window(position))]
        same: npt.NDArray[np.bool_] = constant_planes(window).cpu().numpy()
        return same

    def tiles(self, position: Position, groups: npt.NDArray[np.intp]) -> torch.Tensor:
        """Tiles (n, c, *tile) float32: zeros with the group's patches in their slots."""
        voxels = self._planes.voxels
        shape = (len(groups), voxels.shape[0], *position.tile)
        tiles = torch.zeros(shape, dtype=torch.float32, device=voxels.device)
        for slot, place in enumerate(position.slots):
            planes = groups * position.count + slot
            here = planes < self._count
            index = as_index(planes[here] - self._first, voxels.device)
            patches = voxels[(slice(None), index, *self._window(position))].transpose(0, 1)
            tiles[(slice(0, int(here.sum())), slice(None), *place)] = self._grey(patches.float())
        return tiles

    def _grey(self, patches: torch.Tensor) -> torch.Tensor:
        """Normalised patches (n, c, ...)."""
        if self._recipe.patch_normalization is not None:
            return normalize_patches(patches, self._recipe.patch_normalization)
        return normalize_volume(patches, self._planes.grey)


class _Collector:
    """Adds weighted logits to sums over a target box."""

    def __init__(
        self,
        patches: Patches,
        recipe: Recipe,
        target: tuple[Span, ...],
        device: torch.device,
    ) -> None:
        self._weights = patches.weights
        self._recipe = recipe
        self._target = target
        shape = tuple(b - a for a, b in target)
        dtype = torch.int32 if recipe.fixed_point else torch.float32
        self._total = torch.zeros((recipe.channels, *shape), dtype=dtype, device=device)
        self._missing: torch.Tensor | None = None
        self._missed: dict[tuple[int, ...], npt.NDArray[np.intp]] = {}

    def add(self, position: Position, groups: npt.NDArray[np.intp], logits: torch.Tensor) -> None:
        """Add the tiles' `logits` (n, channels, *tile), cropped to the target."""
        weight, crop, place = self._weight(position)
        if weight is None:
            return
        for slot, where in enumerate(position.slots):
            # A tile runs for its other stripes: those that are missed contribute nothing here too.
            missed = self._missed.get(position.pieces)
            planes, keep = self._planes_here(groups * position.count + slot, without=missed)
            if not len(planes):
                continue
            patches = logits[(slice(None), slice(None), *where)][(slice(None), slice(None), *crop)]
            patches = patches[as_index(keep, logits.device)] * weight
            if self._recipe.fixed_point:
                patches = patches.round_().int()
            index = (slice(None), as_index(planes, logits.device), *place)
            self._total[index] += patches.transpose(0, 1)

    def miss(self, position: Position, planes: npt.NDArray[np.intp]) -> None:
        """Note that the patches of `planes` at this position contribute nothing."""
        if position.count > 1:
            self._missed[position.pieces] = planes
        weight, _, place = self._weight(position, scale=FIXED_POINT_SCALE)
        planes, _ = self._planes_here(planes)
        if weight is None or not len(planes):
            return
        if self._missing is None:
            self._missing = torch.zeros(
                self._total.shape[1:], dtype=torch.int32, device=self._total.device
            )
        self._missing[(as_index(planes, weight.device), *place)] += weight.round().int()

    def sums(self, orientation: str, target: Box) -> Sums:
        """The sums so far; arrays of 3-D patches lose their axis of one plane."""
        total, missing = self._total, self._missing
        if ORIENTATIONS[orientation].stack is None:
            total = total[:, 0]
            missing = None if missing is None else missing[0]
        return Sums(orientation, target, total, missing)

    def _planes_here(
        self, planes: npt.NDArray[np.intp], *, without: npt.NDArray[np.intp] | None = None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Planes inside the target, counted from its first, and their places in `planes`."""
        first, end = self._target[0]
        inside = (planes >= first) & (planes < end)
        if without is not None:
            inside &= ~np.isin(planes, without)
        keep = inside.nonzero()[0]
        return planes[keep] - first, keep

    def _weight(
        self, position: Position, *, scale: float | None = None
    ) -> tuple[torch.Tensor | None, tuple[slice, ...], tuple[slice, ...]]:
        """Weights of a patch inside the target, its crop, and its place there."""
        if scale is None:
            scale = FIXED_POINT_SCALE if self._recipe.fixed_point else 1.0
        crop, place, weight = [], [], np.full((), scale, np.float32)
        for axis, (a, b) in enumerate(position.spans):
            lo, hi = self._target[axis + 1]
            first, end = max(a, lo), min(b, hi)
            if first >= end:
                return None, (), ()
            crop.append(slice(first - a, end - a))
            place.append(slice(first - lo, end - lo))
            along = self._weights[axis][position.pieces[axis]][first - a : end - a]
            weight = weight[..., None] * along
        return torch.from_numpy(weight).to(self._total.device), tuple(crop), tuple(place)


def as_index(places: npt.NDArray[np.intp], device: torch.device) -> slice | torch.Tensor:
    """A slice where the places are evenly spaced (a view), an index tensor otherwise."""
    if not len(places):
        return slice(0, 0)
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    if step > 0 and (np.diff(places) == step).all():
        return slice(int(places[0]), int(places[-1]) + 1, step)
    return torch.from_numpy(places).to(device)


def _require_finite(logits: torch.Tensor, tiling: Tiling, batch: list[Groups]) -> None:
    """Refuse logits that are no numbers, and say where; sums of large numbers may overflow too."""
    bad = ~torch.isfinite(logits)
    count = int(bad.sum())
    if not count:
        return
    first = int(bad.flatten(1).any(1).nonzero()[0])
    position, group = [(where, group) for where, groups in batch for group in groups][first]
    planes = (int(group) * position.count, int(group + 1) * position.count)
    box = ORIENTATIONS[tiling.orientation].box(
        (planes[0], min(planes[1], tiling.planes)), position.spans
    )
    raise BlockImpossible(
        f"the network gave {count} logits that are NaN or infinite in a batch, the first in the "
        f"{tiling.orientation} patch {box} (z,y,x as the network sees them); nothing was blended; "
        "look at the input there, or try precision float32"
    )
