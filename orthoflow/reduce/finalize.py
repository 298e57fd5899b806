"""Logits to what is stored: probabilities as bytes, one scale for the whole volume."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

Array = Any
PROBABILITY_SCALE = 1 / 255


@cache
def _steps() -> npt.NDArray[np.float32]:
    """Least float32 logit at which a byte is k or more, for k = 0 ... 256: ends are infinite."""
    middle = (np.arange(1, 256) - 0.5) / 255
    exact = np.concatenate([[-np.inf], np.log(middle / (1 - middle)), [np.inf]])
    steps = exact.astype(np.float32)
    # A step that was rounded down would take a logit that does not reach it.
    return np.where(steps < exact, np.nextafter(steps, np.float32(np.inf)), steps)


def binary_bytes(logit: Array) -> Array:
    """round(255 * sigmoid(logit)) as uint8, same shape.

    An exponential may differ in its last bit between two processors or two positions in an
    array; the guess it gives is therefore corrected against a table of logits, exactly.
    """
    xp = array_namespace(logit)
    steps = xp.asarray(_steps(), device=logit.device)
    guess = xp.astype(xp.round(255.0 / (1.0 + xp.exp(-logit))), xp.int32)
    guess = guess + xp.astype(
        logit >= xp.take(steps, xp.reshape(guess + 1, (-1,))).reshape(logit.shape), xp.int32
    )
    guess = guess - xp.astype(
        logit < xp.take(steps, xp.reshape(guess, (-1,))).reshape(logit.shape), xp.int32
    )
    return xp.astype(guess, xp.uint8)


def softmax_bytes(logits: Array) -> Array:
    """round(255 * softmax) over the first axis as uint8, (class, z, y, x).

    In float64, where a last bit changes a rounded byte once in 10^13 values.
    """
    xp = array_namespace(logits)
    wide = xp.astype(logits, xp.float64)
    powers = xp.exp(wide - xp.max(wide, axis=0, keepdims=True))
    shares = powers / xp.sum(powers, axis=0, keepdims=True)
    return xp.astype(xp.round(shares * 255.0), xp.uint8)
