"""How voxels follow a flow, as numbers: how far, in how many steps, and what a box needs.

No torch: plans count with it.
"""

from __future__ import annotations

from dataclasses import dataclass

CAPTURE = 5
"""What belongs to a sink is at most so many steps to neighbours away (Cellpose)."""


@dataclass(frozen=True, slots=True)
class FlowRule:
    """How voxels follow the flow."""

    scale: float
    """Voxels per step and unit of flow: 1 / 5 for Cellpose's networks."""
    threshold: float
    """Voxels with a larger logit are foreground; the flow of all others is zero."""
    steps: int
    """Most steps of a voxel."""
    reach: int
    """Farthest a voxel gets from where it started, along any axis, voxels."""
    axes: tuple[int, ...]
    """Axes of (z, y, x) along which voxels move: (0, 1, 2), or (1, 2) for planes by themselves."""


def flow_halo(rule: FlowRule, *, once: bool) -> int:
    """Voxels around a box, along each axis of the rule, whose flow and logit must be known.

    For `follow` alone: `reach`. For all `once`, labels of the box included: 3 * reach + 10. A
    voxel ends within `reach`; a sink there is settled by ends within `CAPTURE` + 5 = 10 of it; and
    these come from voxels within `reach` that look `reach` far themselves.
    """
    return 3 * rule.reach + 2 * CAPTURE if once else rule.reach


def smoothing_halo(sigma: float) -> int:
    """Voxels to either side that a Gaussian of `sigma` voxels uses: four sigma, as SciPy does."""
    return int(4 * sigma + 0.5)
