"""Cells of a block's planes: what the network leaves for the passes that make instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orthoflow.geometry.cells import Window
from orthoflow.geometry.following import FlowRule
from orthoflow.geometry.output import PLANES
from orthoflow.geometry.scale import nearest_box, nearest_of
from orthoflow.kernels.planes import plane_cells, plane_classes, plane_flow_cells
from orthoflow.sums import class_sums, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    from orthoflow.geometry.box import Box
    from orthoflow.geometry.cells import Span
    from orthoflow.geometry.orientations import Orientation
    from orthoflow.plan import Plan
    from orthoflow.plan.objects import CellPlan
    from orthoflow.reduce.blend import Sums

# Pixels whose outputs are floats at once, halo included.
_AT_ONCE = 2**20


def block_cells(
    plan: Plan, objects: CellPlan, block: Box, pieces: Sequence[Sums], device: torch.device
) -> tuple[dict[str, npt.NDArray[np.generic]], int]:
    """Cells (z, y, x) of every orientation by result, and the pixels adrift of all.

    A run on a coarser or finer grid than the volume's finds cells there; each voxel has the cell of
    the working voxel that is nearest to it.
    """
    held = nearest_box(block, source=plan.working, target=plan.facts.shape)
    found: dict[str, npt.NDArray[np.generic]] = {}
    adrift = 0
    for orientation in plan.orientations:
        stack = _Stack(plan, objects, orientation, pieces, device)
        cells, lost = (
            nearest_of(array, held, block, source=plan.working, target=plan.facts.shape)
            for array in stack.cells(held)
        )
        found[f"{PLANES}/{orientation.name}"] = cells.astype(objects.dtype)
        adrift += int(lost.sum())
    return found, adrift


@dataclass(frozen=True, slots=True)
class _Stack:
    """Planes of one orientation, and the sums that they are made from."""

    plan: Plan
    objects: CellPlan
    orientation: Orientation
    pieces: Sequence[Sums]
    device: torch.device

    def cells(self, wanted: Box) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Cells (z, y, x) of working voxels, and which of these are adrift."""
        objects, orientation = self.objects, self.orientation
        planes, (rows, columns) = orientation.spans(wanted)
        height, width = orientation.plane_shape(self.plan.working)
        window = Window((height, width), rows, columns)
        _, spans = orientation.spans(objects.need(wanted, orientation, self.plan.working))
        step = max(1, _AT_ONCE // ((spans[0][1] - spans[0][0]) * (spans[1][1] - spans[1][0])))
        # Of the recursive median all planes are filtered at once.
        recursive = objects.median_rule == "recursive" and self.plan.options.median > 1
        ready = self._classes(planes, window) if recursive else None
        cells, adrift = [], []
        for first in range(*planes, step):
            here = (first, min(first + step, planes[1]))
            known = None if ready is None else ready[first - planes[0] : here[1] - planes[0]]
            labels, lost = self._labels(here, window, spans, known)
            cells.append(labels.cpu().numpy())
            adrift.append(lost.cpu().numpy())
        order = [i - 1 for i in orientation.inverse[1:]]
        return np.concatenate(cells).transpose(order), np.concatenate(adrift).transpose(order)

    def _labels(
        self, planes: Span, window: Window, spans: tuple[Span, ...], known: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells of the window in some planes, from outputs over wider spans.

        `known` are the classes of its pixels, where they are known.
        """
        objects = self.objects
        if isinstance(objects.cells, FlowRule):
            sums = self._sums(planes, spans, (0, self.plan.channels))
            return plane_flow_cells(sums, planes, window, objects.cells)
        classes = self._classes(planes, window) if known is None else known
        outputs = (objects.semantic[1], self.plan.channels)
        heads = self._sums(planes, spans, outputs)
        return plane_cells(classes, heads, window, objects, self.plan.factors[slice(*outputs)])

    def _classes(self, planes: Span, window: Window) -> torch.Tensor:
        """Classes of the window in some planes."""
        plan, stack = self.plan, self.orientation.stack
        assert stack is not None
        count, half = plan.working[stack], plan.options.median // 2
        held = (max(0, planes[0] - half), min(count, planes[1] + half))
        return plane_classes(
            class_sums(
                self._sums(held, window.spans, self.objects.semantic), binary=plan.mode == "binary"
            ),
            planes,
            count,
            median=plan.options.median,
            recursive=self.objects.median_rule == "recursive",
            threshold=plan.options.threshold,
        )

    def _sums(self, planes: Span, spans: tuple[Span, ...], channels: tuple[int, int]) -> Sums:
        box = self.orientation.box(planes, spans)
        return gather(self.plan, box, self.orientation, self.pieces, self.device, channels=channels)
