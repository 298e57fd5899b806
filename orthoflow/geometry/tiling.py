"""How the planes of one orientation become network tiles."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orthoflow.geometry.stripes import Layout, single_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orthoflow.geometry.grid import Grid

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Position:
    """One place in the plane where every plane has a patch.

    `pieces` are the patch's numbers along the plane axes, `layouts` say where it lies in the tile.
    """

    pieces: tuple[int, ...]
    spans: tuple[Span, ...]
    """First voxel and end of the patch along each plane axis."""
    layouts: tuple[Layout, ...]

    @property
    def count(self) -> int:
        """Planes that share one tile: a group."""
        return math.prod(layout.count for layout in self.layouts)

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of the tile."""
        return tuple(layout.tile for layout in self.layouts)

    @property
    def slots(self) -> tuple[tuple[slice, ...], ...]:
        """Slices of a tile, one per plane of the group."""
        return tuple(
            tuple(slice(s, s + x.length) for s, x in zip(starts, self.layouts, strict=True))
            for starts in itertools.product(*(layout.starts for layout in self.layouts))
        )

    def groups(self, planes: int) -> int:
        """Tiles that this position takes in a stack of `planes`."""
        return -(-planes // self.count)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Grids and layouts of one orientation: a function of the whole volume and of nothing else.

    `layouts` holds, for every plane axis, one layout per patch of that axis's grid. The planes
    `g * K ... g * K + K - 1` of a position with K slots make its group g.
    """

    orientation: str
    way: str
    """tiles, stripes, shared or rectangles: how it is called in the plan's report."""
    planes: int
    grids: tuple[Grid, ...]
    layouts: tuple[tuple[Layout, ...], ...]

    def position(self, pieces: tuple[int, ...]) -> Position:
        """The position with these patch numbers along the plane axes."""
        return Position(
            pieces,
            tuple(
                (grid.starts[i], grid.starts[i] + grid.lengths[i])
                for grid, i in zip(self.grids, pieces, strict=True)
            ),
            tuple(layouts[i] for layouts, i in zip(self.layouts, pieces, strict=True)),
        )

    def positions(self, spans: tuple[Span, ...] | None = None) -> Iterator[Position]:
        """Positions, rows first: all, or those that meet `spans` of the plane axes."""
        ranges = [
            self.pieces(axis, (0, grid.size) if spans is None else spans[axis])
            for axis, grid in enumerate(self.grids)
        ]
        return map(self.position, itertools.product(*ranges))

    def pieces(self, axis: int, span: Span) -> range:
        """Numbers of the patches along plane axis `axis` that meet `span`."""
        grid = self.grids[axis]
        # Starts and stops both ascend, so the patches that meet a span are neighbours.
        first = bisect.bisect_right(grid.stops, span[0])
        return range(first, bisect.bisect_left(grid.starts, span[1]))

    @property
    def patches(self) -> int:
        """Patches of all planes."""
        return self.planes * math.prod(len(grid.starts) for grid in self.grids)

    def _sums(self) -> tuple[int, int]:
        """Tiles and network pixels; kinds of positions are counted, not positions."""
        kinds: list[list[tuple[Layout, int]]] = []
        for layouts in self.layouts:
            distinct = dict.fromkeys(layouts)
            kinds.append([(layout, layouts.count(layout)) for layout in distinct])
        tiles = pixels = 0
        for kind in itertools.product(*kinds):
            places = math.prod(times for _, times in kind)
            shared = math.prod(layout.count for layout, _ in kind)
            here = places * -(-self.planes // shared)
            tiles += here
            pixels += here * math.prod(layout.tile for layout, _ in kind)
        return tiles, pixels

    @property
    def tiles(self) -> int:
        """Tiles that the network runs."""
        return self._sums()[0]

    @property
    def network_pixels(self) -> int:
        """Pixels (voxels of 3-D patches) that the network runs."""
        return self._sums()[1]

    def is_exact(self, *, stride: int, reach: int | None) -> bool:
        """Whether no patch can see another one in its tile (see `stripes`)."""
        return all(
            layout.is_exact(stride=stride, reach=reach)
            for layouts in self.layouts
            for layout in layouts
        )

    def unpacked(self) -> Tiling:
        """The same patches, each alone in the middle of its tile."""
        layouts = tuple(
            tuple(single_layout(x.length, x.tile) for x in layouts) for layouts in self.layouts
        )
        return replace(self, layouts=layouts)
