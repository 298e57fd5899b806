"""The card: what it refuses, and that it survives a file."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.models.card import (
    Card,
    ModelRef,
    Normalization,
    check_channels,
    format_card,
    parse_card,
)

FULL = Card(
    "cells",
    outputs=4,
    ndim=3,
    channels=2,
    heads=(("semantic", 1), ("offset", 3)),
    classes=("background", "cell"),
    tile=(16, 64, 32),
    stride=4,
    reach=22,
    normalization=Normalization("fixed", "patch", mean=12.5, std=3.0),
    voxel_size=(0.5, 0.25, 0.25),
    diameter=30.0,
    activation_bytes=272.0,
    speed=2.5e6,
    speed_note="one core",
    architecture={"kind": "unet", "base": 4, "depth": 2},
    description="Zellen über Zellen",
    license="Apache-2.0",
    training={"seed": 3, "dice": {"seed 1": 0.9}},
)


def test_a_full_card_survives_a_file():
    assert parse_card(format_card(FULL), where="card.yaml") == FULL
    assert Card.from_dict(FULL.to_dict()) == FULL


@given(
    outputs=st.integers(1, 9),
    channels=st.integers(1, 5),
    ndim=st.sampled_from([2, 3]),
    divisor=st.integers(1, 64),
    reach=st.none() | st.integers(0, 300),
    method=st.sampled_from(["none", "zscore", "minmax", "percentile"]),
    scope=st.sampled_from(["volume", "patch"]),
    text=st.text(max_size=30),
    speed=st.none() | st.floats(1e-3, 1e12),
)
def test_any_card_survives_a_file(
    outputs, channels, ndim, divisor, reach, method, scope, text, speed
):
    card = Card(
        text,
        outputs=outputs,
        channels=channels,
        ndim=ndim,
        divisor=divisor,
        reach=reach,
        normalization=Normalization(method, scope),  # type: ignore[arg-type]
        speed=speed,
        description=text,
    )
    assert parse_card(format_card(card), where="card.yaml") == card


def test_a_card_and_a_reference_are_keys_and_travel():
    ref = ModelRef("sha256:1", "memory", FULL, payload=b"x")
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert len({ref, ModelRef("sha256:1", "elsewhere", FULL)}) == 1
    assert len({FULL, FULL.replace(reach=1)}) == 2


@pytest.mark.parametrize(
    ("facts", "stride"),
    [({"divisor": 8}, 8), ({"tile": (96, 96)}, 16), ({"divisor": 8, "stride": 4}, 4)],
)
def test_stride_has_a_default(facts, stride):
    assert Card("c", outputs=2, **facts).stride == stride


def test_example_shape_is_one_the_network_takes():
    assert Card("c", outputs=2, divisor=12, ndim=3).example_shape(least=30) == (36, 36, 36)
    assert Card("c", outputs=2, tile=(96, 64)).example_shape() == (96, 64)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "no 'name'"),
        ({"name": "c"}, "no 'outputs'"),
        ({"name": "c", "outputs": 2}, "tile=None and divisor=None; give exactly one"),
        ({"name": "c", "outputs": 2, "tile": [8, 8], "divisor": 8}, "give exactly one"),
        ({"name": "c", "outputs": 2, "divisr": 8}, "'divisr'; did you mean 'divisor'"),
        ({"name": "c", "outputs": 2, "divisor": 8, "digest": "sha256:0"}, "'digest'"),
        ({"name": "c", "outputs": 2, "divisor": 8, "normalization": {"hi": 9}}, "'hi'"),
        ({"name": "c", "outputs": 2, "divisor": 8, "normalization": "log"}, "'log' is unknown"),
        ({"name": "c", "outputs": 2, "divisor": 8, "normalization": {"low": 99.0}}, "low=99.0"),
        ({"name": "c", "outputs": 2, "divisor": 8, "normalization": "fixed"}, "mean None"),
        (
            {
                "name": "c",
                "outputs": 2,
                "divisor": 8,
                "normalization": {"method": "fixed", "mean": 0.0, "std": 0.0},
            },
            "std 0.0 must be a finite number above 0",
        ),
        ({"name": "c", "outputs": 0, "divisor": 8}, "outputs 0"),
        ({"name": "c", "outputs": True, "divisor": 8}, "outputs True"),
        ({"name": "c", "outputs": "2", "divisor": 8}, "outputs '2'"),
        ({"name": "c", "outputs": 2, "divisor": 0}, "divisor 0"),
        ({"name": "c", "outputs": 2, "tile": [8, 8, 8]}, "must have ndim=2 numbers"),
        ({"name": "c", "outputs": 2, "tile": 8}, "tile 8 must be a list"),
        ({"name": "c", "outputs": 2, "tile": [8, 0]}, "tile side 0"),
        ({"name": "c", "outputs": 2, "divisor": 8, "ndim": 4}, "ndim 4"),
        ({"name": "c", "outputs": 2, "divisor": 8, "task": "dance"}, "task 'dance'"),
        ({"name": "c", "outputs": 2, "divisor": 8, "reach": -1}, "reach -1"),
        ({"name": "c", "outputs": 2, "divisor": 8, "speed": float("nan")}, "speed nan"),
        ({"name": "c", "outputs": 2, "divisor": 8, "diameter": 0}, "diameter 0"),
        ({"name": "c", "outputs": 2, "divisor": 8, "voxel_size": [1, 1]}, "3 numbers"),
        ({"name": "c", "outputs": 2, "divisor": 8, "voxel_size": [1, -1, 1]}, "voxel_size -1"),
        ({"name": "c", "outputs": 3, "divisor": 8, "classes": ["a", "b"]}, "names 2 classes"),
        ({"name": "c", "outputs": 3, "divisor": 8, "heads": {"s": 1}}, "1 channels together"),
        ({"name": "c", "outputs": 2, "divisor": 8, "heads": [[1, 2, 3]]}, "heads entry"),
        ({"name": 5, "outputs": 2, "divisor": 8}, "name 5 must be text"),
        ({"name": "c", "outputs": 2, "divisor": 8, "training": "long"}, "must be a mapping"),
    ],
)
def test_a_wrong_card_is_refused_by_name(facts, message):
    with pytest.raises(BadInput) as caught:
        Card.from_dict(facts)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2", "holds list"),
        ("a: [", "not plain YAML"),
        ("x: !!python/object/apply:os.system ['touch evil']", "not plain YAML"),
        ("a: &a [1, 1]\nb: *a", "aliases"),
        ("#" * 70_000, "70000 bytes"),
        (b"\xff\xfe\xff", "not plain YAML"),
    ],
)
def test_a_card_file_is_plain_data(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"card\.yaml") as caught:
        parse_card(text, where="card.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_follows_the_answer_and_nothing_else():
    first = FULL.digest_of("sha256:w")
    assert (
        FULL.replace(description="other", speed=1.0, training=None).digest_of("sha256:w") == first
    )
    assert FULL.digest_of("sha256:v") != first
    assert FULL.replace(normalization=Normalization("minmax")).digest_of("sha256:w") != first
    assert FULL.replace(stride=2).digest_of("sha256:w") != first


def test_channels_of_data_and_network():
    check_channels(FULL, 2)
    with pytest.raises(BadInput, match="takes 2 channels, the volume has 1"):
        check_channels(FULL, 1)


def test_reading_a_card_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from orthoflow.models import card_of, ref_of\n"
        "print(card_of('demo:semantic').outputs, ref_of('demo:semantic').digest[:7])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "sha256:"]
