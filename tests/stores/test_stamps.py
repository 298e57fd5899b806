"""What a marker may hold: a strict schema, and no way past it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.stores.sealed import seal
from orthoflow.stores.stamps import MARKER_LIMIT, Marker, Stamp

FINGERPRINT = "ab" * 32
STAMPS = (
    Stamp("labels/a/0/c/0/1/2", 1234, "01" * 16),
    Stamp("labels/a/0/c/0/1/3", 1, "02" * 16),
    Stamp("probabilities/0/c/2/0/1/2", 99, "03" * 16),
)
MARKER = Marker("blocks/0-1-2", FINGERPRINT, "0:16,16:32,32:48", STAMPS, {"voxels": 5, "s": 0.5})


def test_a_marker_comes_back():
    for marker in (
        MARKER,
        replace(MARKER, objects=()),
        replace(MARKER, name="levels/3/labels.a/0-0-0"),
        replace(MARKER, name="levels/1/-/0-0-0", objects=(Stamp("1/c/0/0/0", 7, "04" * 16),)),
    ):
        assert Marker.from_bytes(marker.to_bytes(), "it") == marker
    mixed = replace(MARKER, objects=STAMPS[::-1])
    assert Marker.from_bytes(mixed.to_bytes(), "it") == MARKER
    assert mixed.to_bytes() == MARKER.to_bytes()


def plain():
    content = json.loads(MARKER.to_bytes())
    del content["digest"]
    return content


FOLDER = "labels/a/0/c"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("name"), "it has box, facts"),
        (lambda c: c.update(more=1), "more"),
        (lambda c: c.update(name="blocks/0-1"), "no marker: it has name "),
        (lambda c: c.update(name="blocks/00-1-2"), "no marker: it has name "),
        (lambda c: c.update(name="blocks/../../run"), "no marker: it has name "),
        (lambda c: c.update(name="levels/1/../0-0-0"), "no marker: it has name "),
        (lambda c: c.update(name="blocks/0-1-2\n"), "no marker: it has name "),
        (lambda c: c.update(name=7), "no marker: it has name "),
        (lambda c: c.update(fingerprint="../" * 8), "no marker: it has fingerprint "),
        (lambda c: c.update(fingerprint="AB" * 32), "no marker: it has fingerprint "),
        (lambda c: c.update(box="0:16,0:16"), "no marker: it has box "),
        (lambda c: c.update(box="0:16,0:16,16:16"), "is empty"),
        (lambda c: c.update(box="0:16,0:16,0:" + "9" * 99), "no marker: it has box "),
        (lambda c: c.update(facts=[1]), "facts"),
        (lambda c: c.update(objects=[]), "is no marker"),
        (lambda c: c.update(objects={FOLDER: []}), "is no marker"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": 5}}), "is no marker"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [5]}}), "is no marker"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [5, "ab" * 16, 1]}}), "is no marker"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [0, "ab" * 16]}}), "size '0'"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [-5, "ab" * 16]}}), "size '-5'"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [True, "ab" * 16]}}), "size 'True'"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [5.0, "ab" * 16]}}), "size '5.0'"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [2**60, "ab" * 16]}}), "size"),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [5, "xy" * 16]}}), "it has digest "),
        (lambda c: c.update(objects={FOLDER: {"0/0/0": [5, None]}}), "it has digest "),
        (lambda c: c.update(objects={FOLDER: {"../0/0": [5, "ab" * 16]}}), "it has key "),
        (lambda c: c.update(objects={"../../etc": {"0/0/0": [5, "ab" * 16]}}), "it has key "),
        (lambda c: c.update(objects={"/etc": {"0/0/0": [5, "ab" * 16]}}), "it has key "),
        (lambda c: c.update(objects={"orthoflow/a": {"0/0/0": [5, "ab" * 16]}}), "it has key "),
        (lambda c: c.update(objects={"a" * 2000: {"0/0/0": [5, "ab" * 16]}}), "it has key "),
        (lambda c: c.update(objects={"": {"0/0/0": [5, "ab" * 16]}}), "it has key "),
    ],
    ids=range(32),
)
def test_what_no_marker_holds_is_refused_even_with_a_right_digest(change, said):
    content = plain()
    change(content)
    with pytest.raises(BadInput, match=said) as caught:
        Marker.from_bytes(seal(content), "markers/x.json")
    assert str(caught.value).startswith("markers/x.json ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(name=st.sampled_from(sorted(plain())), value=json_values)
def test_any_value_anywhere_is_taken_or_refused(name, value):
    try:
        stored = seal(plain() | {name: value})
    except ValueError:  # an infinity
        return
    try:
        marker = Marker.from_bytes(stored, "it")
    except BadInput:
        return
    assert Marker.from_bytes(marker.to_bytes(), "it") == marker


def test_every_flipped_bit_is_noticed():
    stored = MARKER.to_bytes()
    for place in range(len(stored)):
        broken = bytearray(stored)
        broken[place] ^= 1 << place % 8
        with pytest.raises(BadInput):
            Marker.from_bytes(bytes(broken), "it")


def test_large_markers_are_refused_before_they_are_parsed():
    with pytest.raises(BadInput, match="more than 65536 bytes, so it is no marker"):
        Marker.from_bytes(b"[" * (MARKER_LIMIT + 1), "it")


def block_of(count):
    """A marker of as many objects as a block of small chunks has."""
    keys = (f"labels/segmentation/0/c/10/1{n // 32:02}/1{n % 32:02}" for n in range(count))
    return replace(MARKER, objects=tuple(Stamp(key, 12_345_678, "ab" * 16) for key in keys))


def test_a_marker_has_room_for_a_thousand_objects_and_says_what_to_do_about_more():
    assert len(block_of(1000).to_bytes()) <= MARKER_LIMIT
    with pytest.raises(BadInput, match=r"of 1500 objects has .* use a larger shard"):
        block_of(1500).to_bytes()


def test_what_is_no_marker_is_not_written_either():
    for wrong in (
        replace(MARKER, name="elsewhere"),
        replace(MARKER, fingerprint="x"),
        replace(MARKER, box="all"),
        replace(MARKER, objects=(Stamp("../x/y/z", 5, "ab" * 16),)),
    ):
        with pytest.raises(BadInput, match="is no marker"):
            wrong.to_bytes()
