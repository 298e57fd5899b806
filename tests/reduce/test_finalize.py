"""Bytes of probabilities: exactly rounded at every logit, on any array library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orthoflow.reduce.finalize import PROBABILITY_SCALE, binary_bytes, softmax_bytes
from tests import oracles

BACKENDS = {"numpy": np.asarray, "torch": torch.as_tensor}
backends = pytest.mark.parametrize("backend", BACKENDS)


def around_every_step(neighbours=3):
    """The float32 numbers around each logit at which the byte changes."""
    middle = (np.arange(1, 256) - 0.5) / 255
    steps = np.log(middle / (1 - middle)).astype(np.float32)
    ladder = [steps]
    for towards in (-np.inf, np.inf):
        last = steps
        for _ in range(neighbours):
            last = np.nextafter(last, np.float32(towards))
            ladder.append(last)
    return np.concatenate(ladder)


@backends
def test_bytes_change_at_the_right_float32_number(backend):
    logits = around_every_step()
    found = np.asarray(binary_bytes(BACKENDS[backend](logits)))
    expected = [oracles.sigmoid_byte(logit) for logit in logits]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@backends
@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-64, 64, width=32)))
def test_bytes_are_exactly_rounded_probabilities(backend, logits):
    found = np.asarray(binary_bytes(BACKENDS[backend](logits)))
    expected = np.vectorize(oracles.sigmoid_byte)(logits)
    np.testing.assert_array_equal(found, expected)


@backends
def test_the_ends_and_the_middle(backend):
    logits = np.array([-64, -16, 0, 16, 64], np.float32)
    assert np.asarray(binary_bytes(BACKENDS[backend](logits))).tolist() == [0, 0, 128, 255, 255]
    rising = np.linspace(-9, 9, 20001, dtype=np.float32)
    steps = np.diff(np.asarray(binary_bytes(BACKENDS[backend](rising))).astype(int))
    assert set(steps) == {0, 1}, "no byte is left out and none comes back"


def test_numpy_and_torch_agree_on_a_million_logits():
    logits = np.random.default_rng(0).normal(0, 4, 10**6).astype(np.float32)
    ours, theirs = binary_bytes(logits), binary_bytes(torch.from_numpy(logits))
    np.testing.assert_array_equal(ours, theirs.numpy())


@backends
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(3), st.just(4)),
        elements=st.floats(-64, 64, width=32),
    )
)
def test_classes_share_the_bytes(backend, logits):
    found = np.asarray(softmax_bytes(BACKENDS[backend](logits)))
    powers = np.exp(logits.astype(float) - logits.astype(float).max(0))
    exact = powers / powers.sum(0) * 255
    assert found.dtype == np.uint8
    assert (np.abs(found - exact) <= 0.5 + 1e-9).all()
    clear = np.abs(exact % 1 - 0.5) > 1e-9
    np.testing.assert_array_equal(found[clear], np.round(exact[clear]))


def test_one_scale_for_the_whole_volume():
    assert PROBABILITY_SCALE * 255 == 1
