"""Volume facts, card and options to a plan: every number of a run, decided before any work.

`planner` makes a `Plan` (or refuses), `blocks` cuts the work, `costs` counts it, `explain` tells.
NumPy only: a plan can be made, and looked at, on a machine without torch, Dask or Zarr.
"""

from orthoflow.plan.plan import Part, Plan, Way
from orthoflow.plan.planner import plan_run

__all__ = ["Part", "Plan", "Way", "plan_run"]
