"""Descriptions of outputs: there and back exactly, and nothing that could not be made."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec, check_path

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


def make_spec(*, paths=("labels/a", "probabilities"), **changed):
    levels = pyramid_levels((20, 50, 30), (40, 8, 8), (8, 8, 8), (16, 16, 16))
    arrays = tuple(
        ArraySpec(path, "labels" if "labels" in path else "image", "uint8", classes, levels)
        for path, classes in zip(paths, (0, 3, 0, 0), strict=False)
    )
    facts = {
        "arrays": arrays,
        "ome_version": "0.5",
        "voxel_size": (40.0, 8.0, 8.0),
        "unit": "nanometer",
        "translation": (0.0, 1.5, 2.0),
        "compression": 1,
    }
    return OutputSpec(**{**facts, **changed})


def through_json(spec):
    return OutputSpec.from_dict(json.loads(json.dumps(spec.to_dict())))


@given(
    shape=st.tuples(*[st.integers(1, 300)] * 3),
    chunk=st.tuples(*[st.sampled_from([1, 4, 8, 64])] * 3),
    count=st.tuples(*[st.integers(1, 3)] * 3),
    voxel=st.none() | st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    translation=st.tuples(finite, finite, finite),
    unit=st.none() | st.sampled_from(["nanometer", "micrometer"]),
    dtype=st.sampled_from(["uint8", "uint32", "float16", "int64"]),
    classes=st.integers(0, 5),
)
def test_what_is_described_comes_back(
    shape, chunk, count, voxel, translation, unit, dtype, classes
):
    shard = tuple(c * n for c, n in zip(chunk, count, strict=True))
    levels = pyramid_levels(shape, voxel, chunk, shard)
    array = ArraySpec("stacks/xy", "image", dtype, classes, levels)
    spec = OutputSpec((array,), "0.5", voxel, unit, translation, 3)
    assert through_json(spec) == spec
    assert json.dumps(through_json(spec).to_dict()) == json.dumps(spec.to_dict())


def test_equal_outputs_are_written_alike():
    whole, real = make_spec(voxel_size=(40, 8, 8)), make_spec(voxel_size=(40.0, 8.0, 8.0))
    zero, minus = make_spec(translation=(0, 0, 0)), make_spec(translation=(-0.0, 0.0, -0.0))
    assert json.dumps(whole.to_dict()) == json.dumps(real.to_dict())
    assert json.dumps(zero.to_dict()) == json.dumps(minus.to_dict())


def test_the_root_may_hold_labels():
    spec = make_spec(paths=("", "labels/truth"))
    assert through_json(spec) == spec


def changed(path, value):
    """The description of an output with another value at `path`; `value` may be a function."""
    content = make_spec().to_dict()
    holder = content
    for part in path[:-1]:
        holder = holder[part]
    if value is None and path[-1] not in {"unit", "voxel_size"}:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value(holder[path[-1]]) if callable(value) else value
    return content


LEVEL = ("arrays", 0, "levels", 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arrays",), None),
        (("arrays",), []),
        (("arrays",), {}),
        (("arrays",), [1]),
        (("arrays",), lambda arrays: [arrays[0], arrays[0]]),
        (("arrays", 1, "path"), "labels/a/0"),
        (("arrays", 1, "path"), "labels/a/1/deeper"),
        (("arrays", 0, "path"), "../etc"),
        (("arrays", 0, "path"), "/etc"),
        (("arrays", 0, "path"), "a//b"),
        (("arrays", 0, "path"), "a.b"),
        (("arrays", 0, "path"), "orthoflow/markers"),
        (("arrays", 0, "path"), "x" * 1000),
        (("arrays", 0, "path"), 7),
        (("arrays", 0, "kind"), "table"),
        (("arrays", 0, "kind"), ["labels"]),
        (("arrays", 0, "dtype"), "object"),
        (("arrays", 0, "dtype"), "O8,f4"),
        (("arrays", 0, "classes"), -1),
        (("arrays", 0, "classes"), True),
        (("arrays", 0, "classes"), 10**9),
        (("arrays", 0, "levels"), []),
        (("arrays", 0, "levels"), lambda levels: levels[1:]),
        (("arrays", 0, "levels"), lambda levels: [levels[0], levels[2], levels[1]]),
        (("arrays", 0, "levels"), lambda levels: levels * 99),
        (("arrays", 0, "evil"), 1),
        ((*LEVEL, "shape"), [1, 1]),
        ((*LEVEL, "shape"), [10, 25, 10**9]),
        ((*LEVEL, "shape"), [0, 25, 15]),
        ((*LEVEL, "shape"), [10.0, 25.0, 15.0]),
        ((*LEVEL, "shape"), "123"),
        ((*LEVEL, "factors"), [0, 2, 2]),
        ((*LEVEL, "chunk"), [8, 8, 3]),
        ((*LEVEL, "shard"), [8, 8, 9]),
        ((*LEVEL, "shard"), [2**70, 8, 8]),
        (("ome_version",), "0.6"),
        (("ome_version",), 0.5),
        (("voxel_size",), [0.0, 1.0, 1.0]),
        (("voxel_size",), [-1.0, 1.0, 1.0]),
        (("voxel_size",), [math.nan, 1.0, 1.0]),
        (("voxel_size",), [math.inf, 1.0, 1.0]),
        (("voxel_size",), [1.0, 1.0]),
        (("voxel_size",), [True, 1.0, 1.0]),
        (("voxel_size",), [10**400, 1, 1]),
        (("unit",), 5),
        (("unit",), "m" * 1000),
        (("translation",), None),
        (("translation",), ["0", 0.0, 0.0]),
        (("compression",), 99),
        (("compression",), "1"),
    ],
    ids=str,
)
def test_what_could_not_be_made_is_refused_in_one_line(path, value):
    with pytest.raises(BadInput, match="the output's arrays are not described rightly") as caught:
        OutputSpec.from_dict(changed(path, value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_output_of_too_many_objects_is_refused():
    content = make_spec().to_dict()
    level = {"shape": [2**20] * 3, "factors": [1] * 3, "chunk": [1] * 3, "shard": [1] * 3}
    content["arrays"][0]["levels"] = [level]
    with pytest.raises(BadInput, match=r"1152921504606\d+ objects; at most 1000000000"):
        OutputSpec.from_dict(content)


@pytest.mark.parametrize("content", [None, 1, "x", [], {}, {"arrays": []}, [["a", 1]]])
def test_garbage_is_refused(content):
    with pytest.raises(BadInput, match="not described rightly"):
        OutputSpec.from_dict(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(data=st.data(), value=json_values)
def test_any_value_anywhere_is_taken_or_refused(data, value):
    content = make_spec().to_dict()
    holder = content
    while True:
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or data.draw(st.booleans()):
            holder[key] = value
            break
        holder = holder[key]
    try:
        spec = OutputSpec.from_dict(content)
    except BadInput:
        return
    assert through_json(spec) == spec


@pytest.mark.parametrize("path", ["", "a", "labels/a-b_2", "stacks/xy"])
def test_paths_of_arrays_are_taken(path):
    check_path(path)


@pytest.mark.parametrize("path", ["a/", "/a", ".", "a/../b", "orthoflow", "-a", "é", "a b", "a\n"])
def test_other_paths_are_refused(path):
    with pytest.raises(BadInput, match="use letters, digits"):
        check_path(path)
