from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.show.cuts import orthogonal_cuts
from orthoflow.show.scale import LONGEST, round_length, scale_bar


def bar(width, voxel_size, unit):
    return scale_bar(orthogonal_cuts((1, width, width), None, voxel_size)[0], unit)


@pytest.mark.parametrize(
    ("width", "size", "unit", "share", "text"),
    [
        (256, 0.5, "micrometer", 20 / 128, "20 \u00b5m"),
        (256, 0.5, "um", 20 / 128, "20 \u00b5m"),
        (200, 4.6, "nanometer", 200 / 920, "200 nm"),
        (2000, 8.0, "nanometer", 2 / 16, "2 \u00b5m"),
        (100, 1.0, "angstrom", 2 / 10, "2 nm"),
        (100, 0.05, "angstrom", 0.1 / 0.5, "0.1 nm"),
        (100, 20.0, "micrometer", 0.5 / 2, "500 \u00b5m"),
    ],
)
def test_bars_of_known_length(width, size, unit, share, text):
    found = bar(width, (1.0, size, size), unit)
    assert found.text == text
    assert found.share == pytest.approx(share)


def test_without_a_unit_the_bar_counts_voxels():
    assert bar(256, None, None).text == "50 voxels"
    assert bar(3, None, None).text == "1 voxel"
    assert bar(1, (3.0, 3.0, 3.0), None).share == 1.0


@given(st.floats(1e-9, 1e9))
def test_round_lengths(most):
    length = round_length(most)
    assert length <= most * (1 + 1e-6)
    assert length > most * 0.39
    assert f"{length:.0e}"[0] in "125"


@given(st.integers(4, 4000), st.floats(1e-3, 1e3))
def test_a_bar_never_takes_more_than_its_share(width, size):
    assert 0.1 < bar(width, (1.0, size, size), "nm").share <= LONGEST + 1e-6


def test_a_unit_that_is_no_length_is_refused():
    with pytest.raises(BadInput, match="second"):
        bar(10, (1.0, 1.0, 1.0), "second")
