"""What the orientations' votes give: one answer per voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from array_api_compat import array_namespace

from orthoflow.reduce.blend import BACKGROUND_LOGIT

Array = Any
Mode = Literal["binary", "multiclass"]


@dataclass(frozen=True, slots=True)
class Ballot:
    """The rule of the vote.

    mode : binary (one foreground logit) or multiclass (one logit per class)
    rule : "mean" of the orientations' logits, weighted by `weights`, or "vote"
    votes : orientations that must agree, for the rule "vote"
    threshold : foreground probability above which a voxel is labelled, binary only
    """

    mode: Mode
    rule: Literal["mean", "vote"]
    votes: int
    threshold: float
    weights: tuple[float, ...]


def decide(logits: Array, ballot: Ballot) -> Array:
    """Labels uint8 (z, y, x) that logits (class, z, y, x) alone stand for.

    Binary: logit > log(t / (1 - t)), compared exactly; multiclass: the largest logit, the first of
    equals.
    """
    xp = array_namespace(logits)
    if ballot.mode == "binary":
        return xp.astype(logits[0] > logit_of(ballot.threshold), xp.uint8)
    return _argmax(logits, xp)


def _argmax(values: Array, xp: Any) -> Array:
    """First largest along the first axis, uint8; a library's own walks that axis far slower."""
    best, labels = values[0], xp.zeros_like(values[0], dtype=xp.uint8)
    for label in range(1, values.shape[0]):
        better = values[label] > best
        labels = xp.where(better, xp.full_like(labels, label), labels)
        best = xp.where(better, values[label], best)
    return labels


def logit_of(probability: float) -> float:
    """The logit of a probability."""
    return math.log(probability / (1 - probability))


def fill_unpredicted(logits: Array, covered: Array | None) -> Array:
    """Logits with background where no patch predicts; (class, z, y, x)."""
    if covered is None:
        return logits
    xp = array_namespace(logits)
    blank = xp.zeros_like(logits)
    blank[0] = BACKGROUND_LOGIT if logits.shape[0] == 1 else -BACKGROUND_LOGIT
    return xp.where(covered, logits, blank)


def consensus_logits(views: list[Array], covered: list[Array | None], ballot: Ballot) -> Array:
    """One set of logits (class, z, y, x) from those of every orientation.

    mean : the weighted mean over the orientations that predict a voxel, background where none does
    vote, binary : the `votes`-th largest logit, so that it exceeds the threshold exactly where at
        least that many orientations do
    vote, multiclass : the mean (the labels come from the votes, see `consensus_labels`)
    """
    xp = array_namespace(views[0])
    if ballot.rule == "vote" and ballot.mode == "binary":
        ordered = xp.sort(xp.stack(views), axis=0)
        return ordered[len(views) - ballot.votes]
    if all(mask is None for mask in covered):
        total = views[0] * ballot.weights[0]
        for view, weight in zip(views[1:], ballot.weights[1:], strict=True):
            total = total + view * weight
        return total * (1.0 / sum(ballot.weights))
    total, share = xp.zeros_like(views[0]), xp.zeros_like(views[0][0])
    full = xp.ones_like(share, dtype=xp.bool)
    for view, mask, weight in zip(views, covered, ballot.weights, strict=True):
        seen = xp.ones_like(full) if mask is None else mask
        here = xp.astype(seen, xp.float32)
        total = total + view * (here * weight)
        share = share + here * weight
        full = full & seen
    predicted = share > 0
    # The same operation as without masks wherever every orientation predicts: the mask of one
    # block must not change the rounding of voxels that it does not touch.
    by_all = total * (1.0 / sum(ballot.weights))
    by_some = total / xp.where(predicted, share, xp.ones_like(share))
    return fill_unpredicted(xp.where(full, by_all, by_some), predicted)


def consensus_labels(views: list[Array], agreed: Array, ballot: Ballot) -> Array:
    """Labels uint8 (z, y, x) of the consensus.

    `agreed` are the `consensus_logits`. Multiclass votes: the class with most votes (the first of
    equals) if it has at least `votes`, otherwise background.
    """
    if ballot.rule == "mean" or ballot.mode == "binary":
        return decide(agreed, ballot)
    xp = array_namespace(agreed)
    opinions = [decide(view, ballot) for view in views]
    counts = xp.stack(
        [
            sum(xp.astype(opinion == label, xp.uint8) for opinion in opinions)
            for label in range(agreed.shape[0])
        ]
    )
    winner = _argmax(counts, xp)
    enough = xp.max(counts, axis=0) >= ballot.votes
    return winner * xp.astype(enough, xp.uint8)


def dissent(
    views: list[Array], covered: list[Array | None], labels: Array, ballot: Ballot
) -> Array:
    """Number of orientations, uint8 (z, y, x), that predict a voxel and decide otherwise."""
    xp = array_namespace(labels)
    count = xp.zeros_like(labels)
    for view, mask in zip(views, covered, strict=True):
        against = decide(view, ballot) != labels
        count = count + xp.astype(against if mask is None else against & mask, xp.uint8)
    return count
