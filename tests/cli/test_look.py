"""info and plan as a user meets them."""

from __future__ import annotations

import json

import pytest

from tests.commands import call
from tests.everything import SHAPE

# ---- info


@pytest.mark.usefixtures("here")
def test_info_says_what_is_stored(capsys):
    code, out, err = call(capsys, "info", "in.zarr")
    assert (code, err) == (0, "")
    assert "12 x 24 x 20" in out
    assert "uint8" in out


@pytest.mark.usefixtures("here")
def test_info_as_json(capsys):
    code, out, err = call(capsys, "info", "in.zarr", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["axes"] == "zyx"
    assert facts["levels"][0]["shape"] == list(SHAPE)


# ---- plan

# The goal of the first: the packed Cellpose fork's own arithmetic, tile for tile.
STACK = ("plan", "--shape", "68,984,984", "--overlap", "0.1", "--json")
SEED = ("--packing", "stripes", "--pack-k", "3", "--guard", "16", "--border", "5")


@pytest.mark.parametrize(
    ("more", "tiles"),
    [
        (("--tile", "256", "--packing", "none"), {"xy": 1700, "xz": 4920, "yz": 4920}),
        (
            ("--tile", "256", *SEED, "--stripe-starts", "seed"),
            {"xy": 1700, "xz": 1640, "yz": 1640},
        ),
    ],
    ids=["unpacked", "seed"],
)
def test_plan_of_the_seeds_stack(capsys, more, tiles):
    code, out, err = call(capsys, *STACK, *more)
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    assert {name: o["tiles"] for name, o in numbers["orientations"].items()} == tiles
    assert numbers["total"]["tiles_unpacked"] == 11540
    assert numbers["total"]["tiles"] == sum(tiles.values())


@pytest.mark.parametrize(("divisor", "times"), [("16", 3.3), ("8", 3.6)])
def test_plan_of_a_fully_convolutional_network(capsys, divisor, times):
    _, out, _ = call(capsys, *STACK, "--divisor", divisor)
    total = json.loads(out)["total"]
    assert total["tiles_unpacked"] * 256 * 256 / total["network_pixels"] >= times


@pytest.mark.usefixtures("here")
def test_plan_of_a_file_and_of_a_shape_agree(capsys):
    _, of_file, _ = call(capsys, "plan", "in.zarr", "--model", "tiny", "--json")
    _, of_shape, _ = call(capsys, "plan", "--shape", "12,24,20", "--model", "tiny", "--json")
    one, other = json.loads(of_file), json.loads(of_shape)
    assert one["orientations"] == other["orientations"]
    assert one["blocks"] == other["blocks"]


def test_plan_in_words_names_what_it_rejected(capsys):
    code, out, err = call(capsys, *(a for a in STACK if a != "--json"), "--tile", "256")
    assert (code, err) == (0, "")
    assert "not tiles: 4,920 tiles" in out
    assert "11,540" in out
