"""Synthetic volumes: the same for a seed, and hard in the way that they are meant to be."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from orthoflow.errors import BadInput
from orthoflow.training.synthetic import OBJECTS, Look, make_volume

SHAPE = (40, 96, 128)


@pytest.fixture(scope="module")
def volume():
    return make_volume(SHAPE, seed=3)


def test_a_seed_is_a_volume(volume):
    again, other = make_volume(SHAPE, seed=3), make_volume(SHAPE, seed=4)
    np.testing.assert_array_equal(volume.image, again.image)
    np.testing.assert_array_equal(volume.labels, again.labels)
    assert (volume.image != other.image).any()
    assert volume.image.dtype == np.uint8
    assert volume.labels.dtype == np.int32
    assert volume.image.shape == volume.labels.shape == SHAPE


def test_cells_touch_and_are_numbered(volume):
    labels = volume.labels
    share = (labels > 0).mean()
    assert 0.05 < share < 0.4
    touching = sum(
        np.count_nonzero((a != b) & (a > 0) & (b > 0))
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    )
    assert touching > 100
    clumps = ndimage.label(labels > 0)[1]
    assert clumps < len(np.unique(labels)) - 1


def test_cells_are_bright_under_noise_and_blurred_most_along_z(volume):
    image, inside = volume.image.astype(float), volume.labels > 0
    assert image[inside].mean() > image[~inside].mean() + 30
    # No threshold is a solution: noise, haze, dim cells and debris overlap with cells.
    best = max(_dice(image > level, inside) for level in range(40, 200, 5))
    assert best < 0.8
    still = make_volume(SHAPE, seed=3, look=Look(photons=1e9, read_noise=0.0)).image.astype(float)
    bends = [np.abs(np.diff(still, n=2, axis=axis)).mean() for axis in range(3)]
    assert bends[0] < 0.8 * min(bends[1:])


def test_a_seed_of_the_usual_look_stays_what_it_was(volume):
    """Bundled models were trained on these bytes."""
    content = volume.image.tobytes() + volume.labels.tobytes()
    assert hashlib.sha256(content).hexdigest() == (
        "eeec6cbe4dd557461a56c3a45063f81e2a954ddefc12f605aa1c2d2cb750e951"
    )


@pytest.fixture(scope="module")
def objects():
    return make_volume(SHAPE, seed=3, look=OBJECTS)


def test_objects_are_whole_numbered_and_touch(objects):
    labels = objects.labels
    numbers = np.unique(labels)
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    assert len(numbers) > 10
    for number in numbers[1:]:
        inside = labels == number
        assert ndimage.label(inside)[1] == 1
        assert np.count_nonzero(inside) >= OBJECTS.least_voxels
    clumps = ndimage.label(labels > 0)[1]
    assert clumps < len(numbers) - 1
    assert 0.1 < (labels > 0).mean() < 0.4


def test_a_membrane_shows_where_objects_touch():
    quiet = replace(OBJECTS, photons=1e9, read_noise=0.0, dim_share=0.0)
    quiet = replace(quiet, speckles_per_megavoxel=0, streaks_per_megavoxel=0)
    volume = make_volume((48, 96, 96), seed=8, look=quiet)
    image, labels = volume.image.astype(float), volume.labels
    deep = ndimage.distance_transform_edt(labels > 0) > 4
    low, high = ndimage.minimum_filter(labels, 3), ndimage.maximum_filter(labels, 3)
    wall = deep & (low != high)
    assert wall.sum() > 200
    assert image[wall].mean() < image[deep & ~ndimage.binary_dilation(wall, iterations=2)].mean()


def test_tubes_are_longer_than_wide():
    tubes = make_volume((64, 64, 64), seed=1, look=replace(OBJECTS, tube_share=1.0))
    lengths = []
    for number in range(1, tubes.labels.max() + 1):
        points = np.argwhere(tubes.labels == number)
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(points.T)))
        lengths.append(spread[2] / spread[0])
    assert len(lengths) >= 8
    assert np.median(lengths) > 3


def test_too_thin_is_refused():
    with pytest.raises(BadInput, match=r"shape \(8, 64, 64\)"):
        make_volume((8, 64, 64))


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from orthoflow.training.synthetic import make_volume\n"
        "import hashlib; print(hashlib.sha256(make_volume((16, 32, 32)).image).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = make_volume((16, 32, 32)).image
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


def _dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())
