"""Plan to tasks: which task feeds which. No arithmetic; what a task does is in `work`.

The wiring is written once. A `Maker` turns it into a lazy graph (`LazyGraph`), into futures of a
scheduler (`Submit`) or into plain calls (`Direct`), so that all three give the same bytes.
"""

from __future__ import annotations

import functools
import lzma
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import dask.array as da
    from distributed import Client

    from orthoflow.geometry.box import Box
    from orthoflow.plan import Part, Plan

# A network in memory may have any size; one that is loaded by name travels as its name.
_PARCEL_BYTES = 2**20

Node = Any
"""A task's result, now or later: a value, a future or a graph key."""


@dataclass(frozen=True, slots=True)
class Step:
    """A function of `work`, looked up where it runs: it needs torch, and a driver does not."""

    name: str

    def __call__(self, *args: Any) -> Any:
        """Take the step."""
        from orthoflow import work  # noqa: PLC0415 - imports torch

        return getattr(work, self.name)(*args)


class Maker(Protocol):
    """Makes tasks; `label` is what the dashboard groups by, `place` tells one from another."""

    def task(self, label: str, place: str, function: Callable[..., Any], *args: Node) -> Node:
        """A call of `function`; nodes among `args`, also in lists, are awaited."""

    def voxels(self, array: da.Array, box: Box) -> Node:
        """A box of a Dask array (c, z, y, x), as one NumPy array."""


def written(
    maker: Maker, plan: Plan, part: Part, job: Node, array: da.Array | None
) -> dict[Box, Node]:
    """Per block a node that has written its results and gives a `job.Tally`."""
    if len(part.blocks) == 1:
        (block,) = part.blocks
        voxels = _voxels(maker, plan, part, block, array)
        task = maker.task("block", str(block), Step("run_block"), job, part, block, voxels)
        return {block: task}
    return {
        block: maker.task("write", str(block), Step("finish_and_write"), job, block, *nodes)
        for block, nodes in _sums(maker, plan, part, job, array).items()
    }


def finished(
    maker: Maker, plan: Plan, part: Part, job: Node, array: da.Array | None, wanted: list[str]
) -> dict[tuple[str, Box], Node]:
    """Per result and block a node that gives it as a NumPy array; each is computed by itself."""
    return {
        (name, block): maker.task(name, str(block), Step("finish_one"), job, block, name, *nodes)
        for block, nodes in _sums(maker, plan, part, job, array).items()
        for name in wanted
    }


def _sums(
    maker: Maker, plan: Plan, part: Part, job: Node, array: da.Array | None
) -> dict[Box, list[Node]]:
    """Per block the nodes whose sums it needs: its own task's, and its neighbours' rims."""
    own = {
        block: maker.task(
            "infer",
            str(block),
            Step("infer"),
            job,
            part,
            block,
            _voxels(maker, plan, part, block, array),
        )
        for block in part.blocks
    }
    needed: dict[Box, list[Node]] = {block: [own[block]] for block in part.blocks}
    for giver in part.blocks:
        for taker in plan.neighbours(part, giver):
            place = f"{giver}>{taker}"
            needed[taker].append(maker.task("rim", place, Step("rim"), job, own[giver], taker))
    return needed


def _voxels(maker: Maker, plan: Plan, part: Part, block: Box, array: da.Array | None) -> Node:
    """The block's voxels if they come from a Dask array; tasks read all others themselves."""
    if array is None:
        return None
    box = plan.input_box(part, block)
    return None if box is None else maker.voxels(array, box)


class Direct:
    """Calls each task at once, in this thread.

    Errors of the kinds `kept` go where the result would, and on to the tasks that need it, as
    futures' do; others are raised.
    """

    def __init__(self, *kept: type[Exception]) -> None:
        self._kept = kept

    def task(self, label: str, place: str, function: Callable[..., Any], *args: Node) -> Node:
        """Call `function`, unless one of its arguments has failed."""
        del label, place
        for argument in args:
            if isinstance(argument, self._kept):
                return argument
        try:
            return function(*args)
        except self._kept as error:
            return error

    def voxels(self, array: da.Array, box: Box) -> Node:
        """Compute the box."""
        return array[(slice(None), *box.slices)].compute(scheduler="synchronous")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value that travels with every task; pickled once, and unpickled once by each process.

    As a future it would lie in one worker's memory, and with a worker that freezes all others
    would wait for it.
    """

    content: bytes

    @classmethod
    def of(cls, value: Any) -> Parcel | None:
        """A value's parcel; None for one that is too large to travel so often."""
        # Dask keeps the last thousand messages to every worker, and a plan's grids repeat a lot.
        content = lzma.compress(pickle.dumps(value), lzma.FORMAT_ALONE)
        return cls(content) if len(content) <= _PARCEL_BYTES else None


@functools.lru_cache(maxsize=4)
def _opened(content: bytes) -> Any:
    return pickle.loads(lzma.decompress(content))


def _unpacked(function: Callable[..., Any], *args: Any) -> Any:
    return function(*(_opened(a.content) if isinstance(a, Parcel) else a for a in args))


class Submit:
    """Submits each task to a scheduler."""

    def __init__(self, client: Client, run: str, workers: list[str] | None = None) -> None:
        self._client = client
        self._run = run
        self._workers = workers

    def task(self, label: str, place: str, function: Callable[..., Any], *args: Node) -> Node:
        """Submit `function`."""
        key = f"{label}-{self._run}-{place}"
        # Should those workers die, any other may take it.
        others = self._workers is not None
        return self._client.submit(
            *(_unpacked, function, *args),
            key=key,
            pure=False,
            workers=self._workers,
            allow_other_workers=others,
        )

    def voxels(self, array: da.Array, box: Box) -> Node:
        """Compute the box on the workers."""
        return self._client.compute(array[(slice(None), *box.slices)])


class LazyGraph:
    """Collects tasks in a graph; nothing runs until somebody computes a part of it."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._tasks: dict[Any, Any] = {}
        self._inputs: list[da.Array] = []

    def task(self, label: str, place: str, function: Callable[..., Any], *args: Node) -> Node:
        """Add a task; the node is its key."""
        key = (f"{label}-{self._run}", place)
        self._tasks[key] = (function, *args)
        return key

    def voxels(self, array: da.Array, box: Box) -> Node:
        """Key of the box as one chunk."""
        chunk = array[(slice(None), *box.slices)].rechunk(-1)
        self._inputs.append(chunk)
        return (chunk.name, 0, 0, 0, 0)

    def arrays(self, wanted: Mapping[str, ArrayOfTasks]) -> dict[str, da.Array]:
        """Dask arrays over the collected tasks, one per name."""
        import dask.array as da  # noqa: PLC0415 - a run has no use for it
        from dask.highlevelgraph import HighLevelGraph  # noqa: PLC0415

        base = f"orthoflow-{self._run}"
        inputs: list[Any] = self._inputs
        common = HighLevelGraph.from_collections(base, self._tasks, dependencies=inputs)
        found = {}
        for name, (keys, chunks, dtype) in wanted.items():
            layer = f"{name}-{self._run}"
            tasks: dict[Any, Any] = {(layer, *index): task for index, task in keys.items()}
            graph = HighLevelGraph(
                {**common.layers, layer: tasks}, {**common.dependencies, layer: {base}}
            )
            found[name] = da.Array(graph, layer, chunks=chunks, dtype=dtype)
        return found


ArrayOfTasks = tuple[dict[tuple[int, ...], Any], tuple[tuple[int, ...], ...], Any]
"""Task per chunk index, chunk sizes per axis, dtype."""
