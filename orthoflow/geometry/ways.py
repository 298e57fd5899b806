"""Every way to turn planes into tiles that a network allows, to be priced by the planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orthoflow.errors import BadInput
from orthoflow.geometry.grid import (
    Grid,
    even_grid,
    rectangle_side,
    shared_grid,
    step_grid,
    stride_of,
)
from orthoflow.geometry.stripes import (
    Layout,
    balanced_layout,
    seed_layout,
    single_layout,
)
from orthoflow.geometry.tiling import Tiling

if TYPE_CHECKING:
    from orthoflow.geometry.box import Triple
    from orthoflow.geometry.orientations import Orientation

GridRule = Literal["even", "step"]
Packing = Literal["auto", "none", "stripes"]

# Rows between pieces of a network whose reach nobody knows; below this neighbours bleed visibly.
GUARD_IF_UNKNOWN = 8
# Pieces along one axis of a tile at most: thinner ones are all guard.
MOST_PIECES = 16
# Longest side of a free rectangle that covers a whole side of the plane, by number of plane axes; a
# constant, because the patches must not depend on the machine. `tile` overrides it.
LONGEST_SIDE = {2: 1024, 3: 160}
# Side of the fixed tile that free rectangles are priced against, and of about the patches of longer
# sides.
USUAL_TILE = {2: 256, 3: 96}


@dataclass(frozen=True, slots=True)
class TileRules:
    """What a network takes: `tile` (one fixed shape) or any multiple of `divisor`."""

    ndim: int
    tile: tuple[int, ...] | None
    divisor: int | None
    stride: int
    reach: int | None

    @property
    def usual_tile(self) -> tuple[int, ...]:
        """The fixed tile, or the one that others would run this network on."""
        if self.tile is not None:
            return self.tile
        divisor = self.divisor or 1
        return (-(-USUAL_TILE[self.ndim] // divisor) * divisor,) * self.ndim


@dataclass(frozen=True, slots=True)
class TileWishes:
    """What the user asks of grids and packing; None where the planner shall choose."""

    overlap: float
    grid: GridRule
    packing: Packing
    pack_k: int | None
    guard: int | None
    border: int | None
    stripe_starts: Literal["balanced", "seed"]


def unpacked_tiling(
    orientation: Orientation, shape: Triple, rules: TileRules, wishes: TileWishes
) -> Tiling:
    """One patch per tile of the usual size: what every way is compared with."""
    return _tiling(orientation, shape, rules, wishes, way="tiles")


def possible_tilings(
    orientation: Orientation, shape: Triple, rules: TileRules, wishes: TileWishes
) -> tuple[Tiling, ...]:
    """The ways that network and wishes allow for this orientation, unpriced.

    tiles : one patch per tile
    rectangles : whole planes or large equal rectangles (only for networks with a divisor)
    stripes : as tiles, with several planes in a tile where a side is short
    shared : full tiles and a shorter last piece per row and column; short pieces share tiles
    """
    names = ["tiles"]
    if rules.tile is None:
        names.append("rectangles")
    may_share = rules.ndim == 2 and wishes.packing != "none" and wishes.pack_k != 1
    if may_share:
        names.append("stripes")
        if wishes.packing == "auto" and wishes.grid == "even":
            names.append("shared")
    found = {way: _tiling(orientation, shape, rules, wishes, way=way) for way in names}
    packs = {
        way
        for way, tiling in found.items()
        if any(layout.count > 1 for layouts in tiling.layouts for layout in layouts)
    }
    if wishes.packing == "stripes":
        return (found["stripes" if "stripes" in packs else "tiles"],)
    return tuple(t for way, t in found.items() if way in packs | {"tiles", "rectangles"})


def _tiling(
    orientation: Orientation,
    shape: Triple,
    rules: TileRules,
    wishes: TileWishes,
    *,
    way: str,
) -> Tiling:
    grids: list[Grid] = []
    layouts: list[tuple[Layout, ...]] = []
    for size, tile in zip(orientation.plane_shape(shape), rules.usual_tile, strict=True):
        grid, side = _axis(size, tile, rules, wishes, way)
        grids.append(grid)
        known = {
            n: _layout(n, side, rules, wishes, may_share=way in ("stripes", "shared"))
            for n in set(grid.lengths)
        }
        layouts.append(tuple(known[n] for n in grid.lengths))
    return Tiling(orientation.name, way, orientation.planes(shape), tuple(grids), tuple(layouts))


def _axis(size: int, tile: int, rules: TileRules, wishes: TileWishes, way: str) -> tuple[Grid, int]:
    """Grid and tile side of one plane axis."""
    if way == "rectangles":
        tile = rectangle_side(
            size,
            limit=LONGEST_SIDE[rules.ndim],
            usual=USUAL_TILE[rules.ndim],
            divisor=rules.divisor or 1,
            overlap=wishes.overlap,
        )
    stride = stride_of(tile, wishes.overlap)
    if way == "shared":
        return shared_grid(size, patch=tile, stride=stride), tile
    rule = step_grid if wishes.grid == "step" else even_grid
    return rule(size, patch=tile, stride=stride), tile


def _layout(
    length: int, tile: int, rules: TileRules, wishes: TileWishes, *, may_share: bool
) -> Layout:
    alone = single_layout(length, tile)
    if not may_share or length == tile:
        return alone
    if wishes.stripe_starts == "seed":
        packed = seed_layout(
            length, tile=tile, pack_k=wishes.pack_k or 3, border=_or(wishes.border, 5)
        )
    else:
        spare = GUARD_IF_UNKNOWN if rules.reach is None else rules.reach
        packed = balanced_layout(
            length,
            tile=tile,
            stride=rules.stride,
            guard=_or(wishes.guard, spare),
            border=_or(wishes.border, spare),
            most=wishes.pack_k or MOST_PIECES,
        )
    return packed or alone


def _or(wish: int | None, default: int) -> int:
    return default if wish is None else wish


def check_stripes_fit(tilings: list[Tiling], rules: TileRules, wishes: TileWishes) -> None:
    """Refuse `packing="stripes"` where no orientation has two pieces in a tile."""
    if wishes.packing != "stripes" or any(t.way == "stripes" for t in tilings):
        return
    if rules.ndim == 3:
        raise BadInput("packing stripes: a 3-D network has no planes to pack; use packing auto")
    if wishes.pack_k == 1:
        raise BadInput("packing stripes: pack_k 1 leaves no two in a tile; use 2 or more, or none")
    tile = rules.usual_tile[0]
    thinnest = min(min(grid.lengths) for t in tilings for grid in t.grids)
    guard = _or(wishes.guard, GUARD_IF_UNKNOWN if rules.reach is None else rules.reach)
    border = _or(wishes.border, guard)
    raise BadInput(
        f"packing stripes: the thinnest planes have {thinnest} rows, and two stripes with a guard "
        f"of {guard} and borders of {border} fit a tile of {tile} only up to "
        f"{max(0, (tile - guard - 2 * border) // 2)} rows; use packing auto, a smaller guard "
        "or border, or downsample"
    )
