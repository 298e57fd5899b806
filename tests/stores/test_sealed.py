"""Sealed JSON: every changed bit is noticed, whatever it would mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.stores.sealed import parse_object, seal, unseal

CONTENT = {"z": 0.30000000000000004, "a": ["é", 1e300, None, True], "deep": {"1": [2, 3.0]}}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "digest"), values, min_size=1))
def test_what_was_sealed_comes_back(content):
    for indent in (None, 1):
        stored = seal(content, indent=indent)
        assert unseal(stored, "it", indent=indent) == content
        assert next(iter(json.loads(stored))) == "digest"


def test_keys_that_are_no_text_become_what_json_makes_of_them():
    stored = seal({"counts": {1: "a", 2: "b"}})
    assert unseal(stored, "it") == {"counts": {"1": "a", "2": "b"}}


@pytest.mark.parametrize("indent", [None, 1])
def test_every_flipped_bit_is_noticed(indent):
    stored = seal(CONTENT, indent=indent)
    for place in range(len(stored)):
        for bit in range(8):
            broken = bytearray(stored)
            broken[place] ^= 1 << bit
            with pytest.raises(BadInput, match=r"digest differs|not valid JSON"):
                unseal(bytes(broken), "it", indent=indent)


def test_every_cut_is_noticed():
    stored = seal(CONTENT)
    for length in range(len(stored)):
        with pytest.raises(BadInput):
            unseal(stored[:length], "it")


def test_another_text_of_the_same_content_is_noticed_where_exactness_counts():
    stored = seal(CONTENT)
    for other in (
        stored + b" ",
        stored.replace(b"\\u00e9", b"\\u00E9"),
        stored.replace(b"0.30000000000000004", b"0.30000000000000005"),
        stored.replace(b',"z"', b',"z":1,"z"'),
    ):
        assert other != stored
        assert unseal(other, "it", exact=False) == CONTENT
        with pytest.raises(BadInput, match="digest differs"):
            unseal(other, "it")


def test_no_digest_is_no_digest():
    plain = json.dumps(CONTENT).encode()
    assert unseal(plain, "it", exact=False) == CONTENT
    with pytest.raises(BadInput, match="it was changed since it was written"):
        unseal(plain, "it")
    for digest in ("null", "7", '"ab"', "[]"):
        with pytest.raises(BadInput, match="digest differs"):
            unseal(f'{{"a":1,"digest":{digest}}}'.encode(), "it")


@pytest.mark.parametrize("exact", [True, False])
def test_not_a_number_is_no_json(exact):
    with pytest.raises(BadInput, match="digest differs"):
        unseal(b'{"a":NaN,"digest":"ab"}', "it", exact=exact)
    with pytest.raises(ValueError, match="JSON"):
        seal({"a": float("nan")})


def test_a_digest_of_ones_own_is_refused():
    for content in ({"digest": "ab"}, {}):
        with pytest.raises(BadInput, match="none called 'digest'"):
            seal(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"[]", "it holds a JSON list, expected an object"),
        (b"null", "a JSON NoneType"),
    ],
    ids=range(7),
)
def test_other_bytes_are_refused(content, said):
    for read in (parse_object, unseal):
        with pytest.raises(BadInput, match=said):
            read(content, "it")
