"""How many GETs it takes to read boxes of an array that is stored in chunks and shards."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orthoflow.geometry.tiling import Span

Piece = tuple[int, int]
"""Of one shard along one axis: chunks that are wanted, chunks that it holds."""


def pieces_along(span: Span, size: int, *, chunk: int, shard: int) -> tuple[Piece, ...]:
    """One piece for every shard along an axis of `size` voxels that holds some of `span`.

    An array without shards has shards of one chunk.

    >>> pieces_along((3, 25), 30, chunk=4, shard=12)
    ((3, 3), (3, 3), (1, 2))
    """
    pieces = []
    for number in range(span[0] // shard, -(-span[1] // shard)):
        first, end = number * shard, min((number + 1) * shard, size)
        start, stop = max(span[0], first), min(span[1], end)
        pieces.append((-(-stop // chunk) - start // chunk, -(-(end - first) // chunk)))
    return tuple(pieces)


def count_gets(along: Sequence[Mapping[Piece, int]]) -> int:
    """GETs for boxes, from the pieces along each axis and how often they occur.

    Every choice of one piece per axis is a shard that is looked into. One of which more than half
    is wanted comes as a whole, with one request; else its index comes first, then each chunk
    (`stores.guard`).

    >>> count_gets([{(1, 2): 1}, {(1, 1): 3}, {(2, 2): 1}])
    9
    """
    total = 0
    for pieces in itertools.product(*(counts.items() for counts in along)):
        times = math.prod(count for _, count in pieces)
        wanted = math.prod(piece[0] for piece, _ in pieces)
        held = math.prod(piece[1] for piece, _ in pieces)
        total += times * (1 if 2 * wanted > held else 1 + wanted)
    return total
