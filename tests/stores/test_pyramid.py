"""Reductions against a loop over cells, and levels that do not depend on how they were cut."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.ome import create_output, read_level, write_box
from orthoflow.stores.pyramid import build_level_box, level_boxes, reduce_image, reduce_labels

factors = st.tuples(*[st.integers(1, 3)] * 3)
shapes = st.tuples(*[st.integers(1, 7)] * 3)


def by_cell(block, steps, merge):
    """What exists of every cell, merged one cell at a time."""
    shape = [-(-n // f) for n, f in zip(block.shape, steps, strict=True)]
    result = np.empty(shape, block.dtype)
    for index in np.ndindex(*shape):
        cell = block[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, steps, strict=True))]
        result[index] = merge(cell.reshape(-1).tolist())
    return result


def most_frequent(values):
    counts = Counter(values)
    return min(label for label in counts if counts[label] == max(counts.values()))


def half_even_mean(values):
    return round(Fraction(sum(values), len(values)))


def few_labels(dtype):
    high = np.iinfo(dtype).max
    values = st.sampled_from([0, 1, 2, high - 1, high])
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=values))


@given(
    block=st.sampled_from(["uint8", "uint16", "uint32", "uint64"]).flatmap(few_labels),
    steps=factors,
)
def test_labels_are_the_most_frequent_and_then_the_smallest(block, steps):
    np.testing.assert_array_equal(reduce_labels(block, steps), by_cell(block, steps, most_frequent))


@given(
    block=st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32"]).flatmap(
        lambda dtype: shapes.flatmap(lambda shape: hnp.arrays(dtype, shape))
    ),
    steps=factors,
)
def test_images_are_means_rounded_half_to_even(block, steps):
    np.testing.assert_array_equal(reduce_image(block, steps), by_cell(block, steps, half_even_mean))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_means_of_floats(dtype):
    block = np.random.default_rng(0).random((5, 6, 7)).astype(dtype)
    expected = by_cell(block.astype(float), (2, 2, 2), lambda v: sum(v) / len(v))
    got = reduce_image(block, (2, 2, 2))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=1e-3 if dtype == "float16" else 1e-6)


def test_images_of_64_bit_integers_are_refused():
    with pytest.raises(BadInput, match="int64"):
        reduce_image(np.ones((2, 2, 2), "int64"), (2, 2, 2))


def test_leading_axes_are_kept():
    block = np.random.default_rng(0).integers(0, 4, (3, 5, 6, 7)).astype("uint8")
    for reduce in (reduce_image, reduce_labels):
        each = [reduce(channel, (2, 2, 2)) for channel in block]
        np.testing.assert_array_equal(reduce(block, (2, 2, 2)), each)


def output(url, shape, *, version="0.5", classes=0, kind="labels", dtype="uint8", shard=16):
    levels = pyramid_levels(shape, (3, 1, 1), (8, 8, 8), (shard,) * 3)
    array = ArraySpec("labels/a" if kind == "labels" else "a", kind, dtype, classes, levels)
    spec = OutputSpec((array,), version, None, None, (0.0, 0.0, 0.0), 1)
    create_output(url, spec, {"fingerprint": "ab"})
    return spec


@pytest.mark.parametrize("kind", ["labels", "image"])
@pytest.mark.parametrize(("version", "shard"), [("0.5", 16), ("0.5", 8), ("0.4", 8)])
@pytest.mark.parametrize("classes", [0, 2])
def test_levels_built_box_by_box_equal_the_reduced_volume(tmp_path, kind, version, shard, classes):
    shape = (13, 37, 22)
    spec = output(
        tmp_path / "o.zarr", shape, version=version, classes=classes, kind=kind, shard=shard
    )
    array = spec.arrays[0]
    lead = (classes,) if classes else ()
    volume = np.random.default_rng(3).integers(0, 5, (*lead, *shape)).astype("uint8")
    for box in level_boxes(array.levels[0]):
        write_box(tmp_path / "o.zarr", spec, array.path, 0, box, volume[(..., *box.slices)])
    assert len(array.levels) > 2
    reduce = reduce_labels if kind == "labels" else reduce_image
    expected = volume
    for number, (fine, coarse) in enumerate(itertools.pairwise(array.levels), 1):
        boxes = list(level_boxes(coarse))
        for box in reversed(boxes):
            written = build_level_box(tmp_path / "o.zarr", spec, array.path, number, box)
            assert written.nbytes == box.voxels * (classes or 1)
        steps = tuple(c // f for c, f in zip(coarse.factors, fine.factors, strict=True))
        expected = reduce(expected, steps)
        np.testing.assert_array_equal(read_level(tmp_path / "o.zarr", array.path, number), expected)


def test_slabs_do_not_show(tmp_path, monkeypatch):
    spec = output(tmp_path / "o.zarr", (64, 20, 20), shard=32)
    array = spec.arrays[0]
    volume = np.random.default_rng(3).integers(0, 5, (64, 20, 20)).astype("uint8")
    for box in level_boxes(array.levels[0]):
        write_box(tmp_path / "o.zarr", spec, array.path, 0, box, volume[box.slices])
    monkeypatch.setattr("orthoflow.geometry.levels.SLAB_BYTES", 1)
    for number, level in enumerate(array.levels[1:], 1):
        for box in level_boxes(level):
            build_level_box(tmp_path / "o.zarr", spec, array.path, number, box)
    expected = reduce_labels(volume, array.levels[1].factors)
    np.testing.assert_array_equal(read_level(tmp_path / "o.zarr", array.path, 1), expected)


def test_the_boxes_of_a_level_are_its_shards():
    level = pyramid_levels((20, 40, 40), None, (8, 8, 8), (16, 16, 16))[0]
    boxes = list(level_boxes(level))
    assert boxes == list(split(Box.whole((20, 40, 40)), (16, 16, 16)))
    assert sum(box.voxels for box in boxes) == 20 * 40 * 40


def test_levels_that_are_not_built_are_refused(tmp_path):
    spec = output(tmp_path / "o.zarr", (9, 9, 9))
    last = len(spec.arrays[0].levels) - 1
    for path, level in (("labels/a", 0), ("labels/a", last + 1), ("labels/other", 1)):
        with pytest.raises(BadInput, match=rf"level {level} of '{path}' .* start at 1 and end at"):
            build_level_box(tmp_path / "o.zarr", spec, path, level, Box.whole((9, 9, 9)))


@pytest.mark.s3
def test_a_box_is_one_put_and_a_read_for_each_shard_below(faulty):
    bucket, proxy = faulty
    url = f"{bucket}/o.zarr"
    spec = output(url, (16, 32, 32))
    array = spec.arrays[0]
    volume = np.random.default_rng(3).integers(1, 5, (16, 32, 32)).astype("uint8")
    for box in level_boxes(array.levels[0]):
        write_box(url, spec, array.path, 0, box, volume[box.slices])
    box = Box.whole(array.levels[1].shape)
    proxy.forget()
    build_level_box(url, spec, array.path, 1, box)
    asked = sorted((one.method, one.key.removeprefix("o.zarr/labels/a/")) for one in proxy.seen())
    below = [("GET", f"0/c/0/{y}/{x}") for y in (0, 1) for x in (0, 1)]
    assert asked == [*below, ("PUT", "1/c/0/0/0")]
