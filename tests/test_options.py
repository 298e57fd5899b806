"""Options: every spelling is read, every slip is named in one line with a remedy."""

from __future__ import annotations

import contextlib
import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.errors import BadInput
from orthoflow.options import Options, Wish, option_names, triple, which_part, wish_of

TYPICAL = {
    "array": "labels/cells/0",
    "level": 2,
    "axes": "xyz",
    "time": 3,
    "channel": 1,
    "voxel_size": (0.04, 0.008, 0.008),
    "nan_policy": "zero",
    "missing_input": "fill",
    "roi": "0:64,128:512,:",
    "storage_option": (("anon", "true"), ("endpoint_url", "http://localhost:9000")),
    "orientations": ("xy", "xz"),
    "instances": "empanada",
    "min_size": "0.5um3",
    "min_extent": "5",
    "label_divisor": 10_000,
    "allow_one_view": True,
    "merge_iou": 0.3,
    "merge_ioa": 0.4,
    "cluster_iou": 0.5,
    "stitch_threshold": 0.4,
    "fill_holes": True,
    "connectivity": 6,
    "watershed_depth": 0.5,
    "watershed_radius": 9,
    "center_threshold": 0.2,
    "center_distance": 5,
    "fine_boundaries": False,
    "max_diameter": "3um",
    "median_rule": "recursive",
    "semantic_only": True,
    "flow_combination": "sum",
    "flow_smoothing": (1.5, 0.5, 0.5),
    "flow_steps": 50,
    "overlap": 0.1,
    "grid": "step",
    "tile": (256, 128),
    "packing": "stripes",
    "pack_k": 3,
    "guard": 16,
    "border": 5,
    "stripe_starts": "seed",
    "weighting": "taper",
    "sigma_scale": 4.0,
    "downsample": (1.0, 2.0, 2.0),
    "diameter": 60.0,
    "anisotropy": 4.0,
    "normalization": "zscore",
    "normalization_scope": "patch",
    "tta": "mirroring",
    "skip_empty": False,
    "device": "cuda:1",
    "precision": "bfloat16",
    "batch_size": 4,
    "trust": "sha256:00",
    "mode": "multiclass",
    "consensus": "vote",
    "votes": 3,
    "plane_weights": (1.0, 0.5),
    "median": 3,
    "threshold": 0.3,
    "output": "both",
    "name": "cells",
    "disagreement": True,
    "keep_stacks": True,
    "accumulation": "float",
    "chunk": (64, 128, 128),
    "shard": (128, 256, 256),
    "levels": 4,
    "compression_level": 5,
    "ome_version": "0.4",
    "overwrite": True,
    "block": (128, 256, 256),
    "part": (1, 2, 2),
    "cluster": "processes",
    "scheduler": "tcp://10.0.0.1:8786",
    "workers": 2,
    "take_over": True,
    "retries": 5,
    "patience": 30.0,
    "memory_limit": 2**31,
}
"""A value unlike the default for options; new options need one here to be tested."""


# These do not go with `overwrite` above, or not alone.
SHARED = {"resume": True, "retry_failed": True, "num_parts": 8, "part_id": 3}


def as_text(value):
    """As a user types it."""
    if isinstance(value, tuple):
        return ",".join("=".join(v) if isinstance(v, tuple) else str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def refusal(**values):
    with pytest.raises(BadInput) as caught:
        Options.from_mapping(values)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_every_option_has_a_wish_a_default_and_a_test():
    names = [f.name for f in fields(Options)]
    assert sorted({**TYPICAL, **SHARED}) == sorted(names)
    for name in names:
        wish = wish_of(name)
        assert isinstance(wish, Wish)
        assert wish.help
        assert wish.group
        default = getattr(Options(), name)
        assert default is None or not wish.choices or default in wish.choices


@pytest.mark.parametrize("name", TYPICAL)
def test_text_numbers_and_lists_are_read(name):
    value = TYPICAL[name]
    assert getattr(Options(), name) != value, "the test would not notice"
    as_json = json.loads(json.dumps(value))
    for given_value in (value, as_json, as_text(value)):
        options = Options.from_mapping({name: given_value})
        assert getattr(options, name) == value
        assert type(getattr(options, name)) is type(value)
        assert list(options.changed()) == [name]


def test_options_of_shared_work_are_read():
    for given_values in (SHARED, {name: as_text(value) for name, value in SHARED.items()}):
        options = Options.from_mapping(given_values)
        assert {name: getattr(options, name) for name in SHARED} == SHARED


def test_text_is_read_with_spaces():
    assert Options.from_mapping({"orientations": "xy, yz"}).orientations == ("xy", "yz")
    assert Options.from_mapping({"block": " 64 , 128,128 "}).block == (64, 128, 128)
    assert Options.from_mapping({"storage_option": {"anon": True}}).storage_option == (
        ("anon", "True"),
    )


def test_one_number_stands_for_a_tuple_of_one():
    options = Options.from_mapping({"chunk": 64, "downsample": 2, "tile": "256"})
    assert (options.chunk, options.downsample, options.tile) == ((64,), (2.0,), (256,))


@pytest.mark.parametrize("word", ["true", "True", "yes", "ON", True])
def test_flags_are_words(word):
    assert Options.from_mapping({"disagreement": word}).disagreement is True


@pytest.mark.parametrize("word", ["false", "no", "Off", False])
def test_flags_are_turned_off_by_words(word):
    assert Options.from_mapping({"skip_empty": word}).skip_empty is False


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("vote-threshold", "votes", 3),
        ("vote_threshold", "votes", 3),
        ("pixel_vote_thr", "votes", 3),
        ("bsize", "tile", (256,)),
        ("patch-size", "tile", (256,)),
        ("pack-guard", "guard", 16),
        ("pack-border", "border", 5),
        ("tta-type", "tta", "rotation"),
        ("skip-empty-patches", "skip_empty", False),
        ("chunk-size", "chunk", (64,)),
        ("num-workers", "workers", 3),
        ("median-kernel", "median", 3),
        ("sigma", "sigma_scale", 4.0),
        ("Stripe-Starts", "stripe_starts", "seed"),
    ],
)
def test_names_of_the_seeds_are_known(alias, name, value):
    plain = value[0] if isinstance(value, tuple) else value
    assert getattr(Options.from_mapping({alias: plain}), name) == value


def test_spellings_do_not_collide():
    spellings = option_names()
    own = {f.name.replace("_", "-") for f in fields(Options)}
    aliases = [a for f in fields(Options) for a in wish_of(f.name).aliases]
    assert own.isdisjoint(aliases)
    assert len(aliases) == len(set(aliases))
    assert len(spellings) == len(own) + len(aliases)


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("overlapp", "overlap"), ("trehshold", "threshold"), ("pack-gaurd", "guard")],
)
def test_unknown_options_name_the_nearest(typo, nearest):
    said = refusal(**{typo: 1})
    assert repr(typo) in said
    assert f"did you mean {nearest}?" in said


def test_options_like_nothing_point_to_the_help():
    assert "see orthoflow run --help" in refusal(zzzzzz=1)


@pytest.mark.parametrize("key", [1, None, True])
def test_keys_of_a_job_file_that_are_no_words_are_refused(key):
    with pytest.raises(BadInput, match=f"option {key!r} is unknown"):
        Options.from_mapping({key: 1})


def test_an_option_under_two_names_is_refused():
    said = refusal(votes=2, vote_threshold=3)
    assert "given twice" in said
    assert "votes" in said


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        # Row 13 of the bad-input matrix.
        ("overlap", -0.1, ("overlap", "-0.1", "0 to 0.9")),
        ("overlap", 0.95, ("overlap", "0.95", "0 to 0.9")),
        ("overlap", 64, ("overlap", "64", "0 to 0.9")),
        ("overlap", "nan", ("overlap", "nan", "not finite")),
        ("overlap", "a half", ("overlap", "'a half'", "a number")),
        # Row 21.
        ("voxel_size", (0, 1, 1), ("voxel_size", "0,1,1", "positive")),
        ("voxel_size", (-4, 1, 1), ("voxel_size", "-4,1,1", "positive")),
        ("voxel_size", "4,nan,4", ("voxel_size", "4,nan,4", "not finite")),
        ("anisotropy", 0, ("anisotropy", "0", "positive")),
        ("diameter", "-30", ("diameter", "-30", "positive")),
        ("diameter", "inf", ("diameter", "inf", "not finite")),
        ("downsample", (1, 0, 1), ("downsample", "1,0,1", "positive")),
        # Row 24.
        ("votes", 0, ("votes", "0", "at least 1")),
        ("votes", 1.5, ("votes", "1.5", "a whole number")),
        ("votes", True, ("votes", "True", "a whole number")),
        # Row 25.
        ("sigma_scale", 0, ("sigma_scale", "0", "positive")),
        ("sigma", -8, ("sigma_scale", "-8", "positive")),
        ("sigma", 65, ("sigma_scale", "65", "at most 64")),
        # Choices name what is near.
        ("weighting", "gausian", ("weighting", "'gausian'", "gaussian, taper", "mean gaussian?")),
        ("packing", "stripe", ("packing", "'stripe'", "auto, none, stripes", "mean stripes?")),
        ("nan_policy", "drop", ("nan_policy", "'drop'", "fail, zero")),
        ("ome_version", 0.6, ("ome_version", "'0.6'", "0.5, 0.4")),
        # Numbers.
        ("level", -1, ("level", "-1", "at least 0")),
        ("level", float("inf"), ("level", "inf", "a whole number")),
        ("level", float("nan"), ("level", "nan", "a whole number")),
        ("block", (0, 1, 1), ("block", "0,1,1", "at least 1")),
        ("block", "64x64", ("block", "'64x64'", "whole numbers separated by commas")),
        ("chunk", "", ("chunk is empty", "one number or more")),
        ("plane_weights", (1, -1), ("plane_weights", "1,-1", "at least 0")),
        ("plane_weights", (1, float("nan"), 1), ("plane_weights", "nan")),
        ("plane_weights", (1, float("inf"), 1), ("plane_weights", "inf")),
        ("compression_level", 23, ("compression_level", "23", "1 to 22")),
        ("median", 4, ("median 4", "odd")),
        ("median", 0, ("median", "0", "at least 1")),
        ("threshold", 0, ("threshold 0", "0 < threshold < 1")),
        ("threshold", 1, ("threshold 1", "0 < threshold < 1")),
        ("threshold", "nan", ("threshold nan", "not finite")),
        ("memory_limit", "4GB", ("memory_limit", "'4GB'", "a whole number")),
        ("workers", 0, ("workers", "0", "at least 1")),
        ("workers", 10**400, ("workers", "a whole number")),
        # Words.
        ("skip_empty", "maybe", ("skip_empty", "'maybe'", "true or false")),
        ("skip_empty", None, ("skip_empty", "None", "true or false")),
        ("overlap", None, ("overlap", "None", "a number")),
        ("storage_option", "anon", ("storage_option", "'anon'", "KEY=VALUE")),
        ("name", "a/b", ("name", "'a/b'")),
        ("name", "..", ("name", "'..'")),
        ("name", "", ("name", "''")),
        ("roi", ["0:1"], ("roi", "text")),
    ],
)
def test_values_that_cannot_be_meant_are_refused(name, value, parts):
    said = refusal(**{name: value})
    for part in parts:
        assert part in said
    assert len(said) < 600


def test_the_same_rules_hold_in_python():
    with pytest.raises(BadInput, match="overlap 1"):
        Options(overlap=1)
    with pytest.raises(FrozenInstanceError):
        Options().overlap = 0.5  # type: ignore[misc]


def test_numpy_numbers_are_numbers():
    options = Options.from_mapping({"overlap": np.float32(0.25), "votes": np.int64(3)})
    assert (options.overlap, options.votes) == (0.25, 3)
    json.dumps(options.to_dict())


@given(st.sets(st.sampled_from(sorted(TYPICAL))))
def test_what_is_written_is_read_again(names):
    options = Options.from_mapping({name: TYPICAL[name] for name in names})
    for values in (options.to_dict(), options.changed()):
        again = json.loads(json.dumps(values))
        assert Options.from_mapping(again) == options
    assert set(options.changed()) == set(names)
    assert list(options.to_dict()) == [f.name for f in fields(Options)]
    assert hash(options) == hash(Options.from_mapping(options.to_dict()))


scalars = st.text() | st.integers() | st.floats()


@given(st.dictionaries(st.text() | st.integers(), scalars, min_size=1, max_size=2))
def test_nonsense_is_refused_and_nothing_else(values):
    with contextlib.suppress(BadInput):
        Options.from_mapping(values)


@given(
    st.sampled_from(sorted(TYPICAL)),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
)
def test_any_value_is_read_or_refused(name, value):
    with contextlib.suppress(BadInput):
        json.dumps(Options.from_mapping({name: value}).to_dict(), allow_nan=False)


def test_one_value_stands_for_three_axes():
    assert triple("chunk", (64,)) == (64, 64, 64)
    assert triple("chunk", (1, 2, 3)) == (1, 2, 3)
    for values in ((), (1, 2), (1, 2, 3, 4)):
        with pytest.raises(BadInput, match=f"chunk .* has {len(values)} numbers; give one, or"):
            triple("chunk", values)


# ------------------------------------------------------------------------------ shares of the work


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"num_parts": 8, "part_id": 8}, ("part_id 8", "num_parts 8", "use 0 to 7")),
        ({"part_id": 1}, ("part_id 1", "num_parts 1", "use part_id 0")),
        ({"num_parts": 8, "part_id": -1}, ("part_id", "-1", "at least 0")),
        ({"num_parts": 0}, ("num_parts", "0", "at least 1")),
        ({"num_parts": 2, "overwrite": True}, ("overwrite", "num_parts 2", "remove the earlier")),
        ({"overwrite": True, "resume": True}, ("overwrite and resume", "to begin again")),
        ({"overwrite": True, "retry_failed": True}, ("overwrite and retry_failed", "begin again")),
    ],
)
def test_shares_that_cannot_be_are_refused(values, parts):
    said = refusal(**values)
    for part in parts:
        assert part in said


AWS, SLURM, FIRST, KUBERNETES = (
    *("AWS_BATCH_JOB_ARRAY_INDEX", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN"),
    "JOB_COMPLETION_INDEX",
)


@pytest.mark.parametrize(
    ("values", "environ", "share"),
    [
        ({}, {}, (1, 0)),
        ({"num_parts": 4, "part_id": 0}, {}, (4, 0)),
        ({"num_parts": 4}, {AWS: "3"}, (4, 3)),
        ({"num_parts": 4}, {KUBERNETES: "0"}, (4, 0)),
        ({"num_parts": 4}, {SLURM: "2"}, (4, 2)),
        # An array of 1-4 begins at 1, ours at 0.
        ({"num_parts": 4}, {SLURM: "4", FIRST: "1"}, (4, 3)),
        ({"num_parts": 4}, {SLURM: "1", FIRST: ""}, (4, 1)),
        ({"num_parts": 4}, {SLURM: "3", FIRST: "1", AWS: "2"}, (4, 2)),
        # What is said counts; a single job inside somebody's array is a single job.
        ({"num_parts": 4, "part_id": 1}, {SLURM: "3", AWS: "x"}, (4, 1)),
        ({}, {SLURM: "77"}, (1, 0)),
        ({"num_parts": 1}, {AWS: "5"}, (1, 0)),
    ],
)
def test_the_batch_system_says_which_share(values, environ, share):
    assert which_part(Options(**values), environ) == share


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({}, ("part_id is missing", "num_parts 4", "0 to 3", AWS, SLURM, KUBERNETES)),
        ({AWS: ""}, ("part_id is missing",)),
        ({FIRST: "1"}, ("part_id is missing",)),
        ({AWS: "1", SLURM: "2"}, (f"{AWS}=1", f"{SLURM}=2", "disagree", "part_id 0 to 3")),
        ({AWS: "4"}, (f"{AWS}=4", "part 4", "num_parts 4", "0 to 3")),
        ({SLURM: "0", FIRST: "1"}, (f"{SLURM}=0", "part -1", "0 to 3")),
        ({KUBERNETES: "two"}, (f"{KUBERNETES}='two'", "whole number", "part_id")),
        ({SLURM: "1", FIRST: "-"}, (f"{FIRST}='-'", "whole number")),
        ({AWS: "-1"}, (f"{AWS}='-1'", "whole number")),
    ],
)
def test_shares_that_nobody_states_well_are_refused(environ, parts):
    with pytest.raises(BadInput) as caught:
        which_part(Options(num_parts=4), environ)
    for part in parts:
        assert part in str(caught.value)
