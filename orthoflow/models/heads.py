"""What the output channels of a network mean, by its task. No torch.

semantic
    One head of class logits (`Card.heads` may name its parts; nothing depends on it).
panoptic
    ``semantic`` logits (1 is a sigmoid, 2 and more are a softmax with the background first), a
    ``center`` heatmap (1 at the centre of an instance, falling to 0), and ``offsets`` (from a pixel
    to the centre of its instance: rows, columns; 3-D networks: planes, rows, columns), in pixels of
    the network's grid.
flows
    ``flows`` (towards the centre of a cell, rows and columns as above, `FLOW_SCALE` times a unit
    vector, as Cellpose's networks give them) and ``cellprob``, the logit of the foreground.

All channels are linear outputs, at full resolution. Logits, heatmap, offsets and flows are blended
as they are, by weighted sums, after a multiplication by `blend_factors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from orthoflow.errors import BadInput

if TYPE_CHECKING:
    from orthoflow.models.card import Card

Task = Literal["semantic", "panoptic", "flows"]
Heads = tuple[tuple[str, int], ...]

SEMANTIC = "semantic"
CENTER = "center"
OFFSETS = "offsets"
FLOWS = "flows"
CELLPROB = "cellprob"

FLOW_SCALE = 5.0
"""Length of a flow in a network's output; Cellpose trains on five times the unit vector."""
BLEND_FACTORS = {OFFSETS: 1 / 16}
"""By head, what its channels are multiplied by before they are blended; 1 for all others.

Blending clips to +-64 and keeps multiples of 2^-24 (`orthoflow.reduce.blend`). An offset is as long
as an instance is wide: with 1/16 it may have 1,024 pixels, and keeps multiples of 2^-20. A power of
two, so that multiplying and dividing lose no bit.
"""


def check_heads(task: Task, heads: Heads, *, outputs: int, ndim: int) -> Heads:
    """Heads of a network of that task, in output order; those given, or the task's own.

    Parameters
    ----------
    heads
        Name and channels of each; empty for the task's own.
    outputs
        Channels of the network together.
    ndim
        2 or 3: numbers of an offset and of a flow.

    Raises
    ------
    BadInput
        For other names, another order or other channels than the task has.

    >>> check_heads("panoptic", (), outputs=5, ndim=2)
    (('semantic', 2), ('center', 1), ('offsets', 2))
    >>> check_heads("semantic", (), outputs=5, ndim=2)
    ()
    """
    if task == "semantic":
        return heads
    fixed: Heads = ((CENTER, 1), (OFFSETS, ndim)) if task == "panoptic" else ((FLOWS, ndim),)
    rest = outputs - sum(size for _, size in fixed)
    wanted = ((SEMANTIC, rest), *fixed) if task == "panoptic" else (*fixed, (CELLPROB, 1))
    if rest < 1 or (task == "flows" and rest != 1):
        least = "at least " * (task == "panoptic")
        raise BadInput(
            f"card outputs {outputs} cannot be those of task {task} with ndim={ndim}: its heads "
            f"are {_written(task, ndim)}, {least}{outputs - rest + 1} channels together"
        )
    if heads and heads != wanted:
        raise BadInput(
            f"card heads {_listed(heads)} with outputs={outputs} are not those of task {task}: "
            f"{_listed(wanted)}, in this order"
        )
    return wanted


def channels_of(card: Card, head: str) -> slice:
    """Output channels of a head.

    Raises
    ------
    BadInput
        When the network has no such head.
    """
    start = 0
    for name, size in card.heads:
        if name == head:
            return slice(start, start + size)
        start += size
    names = ", ".join(name for name, _ in card.heads) or "none"
    raise BadInput(f"model {card.name!r} has no head {head!r}; its heads: {names}")


def vector_channels(card: Card) -> slice:
    """Output channels that form one vector (rows, columns): a flip of the plane changes their sign.

    Empty for a semantic network.
    """
    names = {"panoptic": OFFSETS, "flows": FLOWS}
    return channels_of(card, names[card.task]) if card.task in names else slice(0, 0)


def blend_factors(card: Card) -> tuple[float, ...]:
    """What each output channel is multiplied by before blending, and divided by after it.

    All ones for a semantic network, whatever its heads are called.
    """
    if card.task == "semantic":
        return (1.0,) * card.outputs
    return tuple(BLEND_FACTORS.get(name, 1.0) for name, size in card.heads for _ in range(size))


def class_count(card: Card) -> int:
    """Classes that the network tells apart, the background included."""
    if card.task == "flows":
        return 2
    logits = card.outputs
    if card.task == "panoptic":
        logits = channels_of(card, SEMANTIC).stop
    # One sigmoid channel tells two classes apart.
    return max(logits, 2)


def thing_classes(card: Card) -> tuple[int, ...]:
    """Classes that consist of instances: those the card names, or all but the background.

    Empty for a semantic network.
    """
    if card.task == "semantic":
        return ()
    return card.things or tuple(range(1, class_count(card)))


def check_things(card: Card) -> None:
    """Refuse thing classes that are none.

    Raises
    ------
    BadInput
        With the classes that there are.
    """
    if card.things and card.task != "panoptic":
        raise BadInput(f"card things {list(card.things)} are for task panoptic, not {card.task}")
    count = class_count(card)
    wrong = [one for one in card.things if isinstance(one, bool) or one not in range(1, count)]
    if wrong or list(card.things) != sorted(set(card.things)):
        raise BadInput(
            f"card things {list(card.things)} must be ascending numbers of classes, "
            f"1 to {count - 1}"
        )


def _written(task: Task, ndim: int) -> str:
    if task == "panoptic":
        return f"semantic (1 or more), center 1, offsets {ndim}"
    return f"flows {ndim}, cellprob 1"


def _listed(heads: Heads) -> str:
    return ", ".join(f"{name} {size}" for name, size in heads)
