"""Whole pictures: every shape and dtype gives one; the right things are in them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from orthoflow.errors import BadInput
from orthoflow.geometry.box import Box
from orthoflow.show import colours, overview, preview
from orthoflow.show.overview import chosen
from orthoflow.show.panels import Scale, dissent_column, error_column, make_scene, share


def ellipsoid(shape, radius=0.35):
    grids = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape), indexing="ij")
    return (sum(np.square(g) for g in grids) < (2 * radius) ** 2).astype(np.uint8)


def scene(shape):
    rng = np.random.default_rng(0)
    truth = ellipsoid(shape)
    image = (truth * 100 + rng.normal(50, 10, shape)).clip(0, 255).astype(np.uint8)
    stacks = {name: np.roll(truth, i + 1, i) for i, name in enumerate(("xy", "xz", "yz"))}
    votes = sum(s.astype(int) for s in stacks.values())
    return image, truth, stacks, (votes >= 2).astype(np.uint8), np.minimum(votes, 3 - votes)


def has(path, colour):
    pixels = imread(path)[..., :3]
    return bool((np.abs(pixels - np.array(colour)).max(axis=2) < 0.06).any())


@pytest.mark.parametrize("shape", [(1, 40, 40), (8, 64, 64), (24, 40, 36), (90, 12, 10), (1, 1, 7)])
def test_overview_of_any_shape(tmp_path, shape):
    image, truth, stacks, consensus, disagreement = scene(shape)
    path = tmp_path / "overview.png"
    overview(
        path,
        image,
        truth=truth,
        stacks=stacks,
        consensus=consensus,
        disagreement=disagreement,
        voxel_size=(2.0, 1.0, 1.0),
        unit="micrometer",
        title="Title",
        scores={"xy": 0.9, "xz": 0.8, "yz": float("nan"), "consensus": 0.95},
    )
    high, wide = imread(path).shape[:2]
    assert wide <= 2000
    assert high <= 1800
    assert path.stat().st_size <= 1_000_000
    assert has(path, colours.FALSE_NEGATIVE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "float16", "float64"])
def test_overview_of_any_dtype_without_truth(tmp_path, dtype):
    image, _, stacks, consensus, _ = scene((12, 30, 30))
    overview(tmp_path / "a.png", image.astype(dtype), stacks=stacks, consensus=consensus)
    assert not has(tmp_path / "a.png", colours.FALSE_POSITIVE)


@pytest.mark.slow
def test_noise_of_two_thousand_pixels_stays_below_a_megabyte(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 2000, 2000), np.uint8)
    labels = ellipsoid(image.shape)
    path = tmp_path / "a.png"
    overview(path, image, truth=labels, consensus=labels, voxel_size=(40.0, 4.0, 4.0), unit="nm")
    assert path.stat().st_size <= 1_000_000
    assert 1600 <= imread(path).shape[1] <= 2200


def test_the_same_input_is_the_same_file(tmp_path):
    image, truth, stacks, consensus, disagreement = scene((12, 30, 30))
    for name in ("a.png", "b.png"):
        overview(
            tmp_path / name,
            image,
            truth=truth,
            stacks=stacks,
            consensus=consensus,
            disagreement=disagreement,
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_empty_labels_and_a_constant_image(tmp_path):
    nothing = np.zeros((6, 20, 20), np.uint8)
    overview(tmp_path / "a.png", nothing, truth=nothing, consensus=nothing, disagreement=nothing)
    preview(tmp_path / "b.png", np.full(nothing.shape, np.nan), labels=nothing, probability=nothing)
    preview(tmp_path / "c.png", nothing)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_arrays_are_left_as_they_were(tmp_path):
    arrays = scene((8, 20, 20))
    copies = scene((8, 20, 20))
    image, truth, stacks, consensus, disagreement = arrays
    for array in (image, truth, consensus, disagreement, *stacks.values()):
        array.setflags(write=False)
    overview(
        tmp_path / "a.png",
        image,
        truth=truth,
        stacks=stacks,
        consensus=consensus,
        disagreement=disagreement,
    )
    np.testing.assert_array_equal(image, copies[0])


def test_errors_are_marked_at_their_voxels_in_every_cut():
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[2:4, 2:4, 2:4] = 1
    said = truth.copy()
    said[3, 3, 5], said[3, 3, 3] = 1, 0
    guide = np.zeros(truth.shape)
    guide[3, 3, 3] = 1
    shown = make_scene(truth, guide, Scale(None, None))
    column = error_column(shown, "x", said, truth)
    xy, xz, yz = column.pictures
    assert column.captions == ("2 voxels wrong", "2 voxels wrong", "1 voxel wrong")
    for picture in (xy, xz):
        assert np.abs(picture[3, 5] - colours.FALSE_POSITIVE).max() < 0.06
        assert np.abs(picture[3, 3] - colours.FALSE_NEGATIVE).max() < 0.06
    assert np.abs(yz[3, 3] - colours.FALSE_NEGATIVE).max() < 0.06
    np.testing.assert_allclose(xy[0, 0], 0, atol=1e-6)


def test_the_orientation_shown_is_the_worst_known_or_the_first():
    truth = ellipsoid((8, 20, 20))
    stacks = {"xy": np.roll(truth, 1, 1), "xz": np.roll(truth, 5, 1), "yz": truth}
    assert chosen(stacks, truth, {"xy": 0.7, "xz": 0.8, "consensus": 0.1}) == ("xy", "worst")
    assert chosen(stacks, truth, {"xy": float("nan")}) == ("xz", "worst")
    assert chosen(stacks, truth, {}) == ("xz", "worst")
    assert chosen(stacks, None, {}) == ("xy", "first")


def test_the_legend_of_dissent_follows_what_there_is():
    volume = np.zeros((4, 5, 5), np.uint8)
    shown = make_scene(volume, None, Scale(None, None))
    assert [k.text for k in dissent_column(shown, volume).keys] == ["one orientation dissents"]
    volume[0, 0, 0] = 2
    assert [k.text for k in dissent_column(shown, volume).keys] == ["one", "two dissent"]
    volume[0, 0, 0] = 3
    assert len(dissent_column(shown, volume).keys) == 3


def test_shares_are_rounded_honestly():
    volume = np.zeros(10_000)
    volume[:1] = 1
    assert share(volume) == "0.01 % of voxels"
    volume[:9999] = 1
    assert share(volume) == "99.99 % of voxels"


def test_preview_of_a_region(tmp_path):
    image, truth, _, labels, disagreement = scene((16, 40, 40))
    box = Box((100, 0, 60), (116, 40, 100))
    path = tmp_path / "preview.png"
    preview(
        path,
        image,
        labels=labels,
        probability=truth * np.float32(1.0),
        disagreement=disagreement,
        box=box,
        voxel_size=(1.0, 0.5, 0.5),
        unit="um",
    )
    assert 1600 <= imread(path).shape[1] <= 2200
    assert has(path, colours.DISSENT[0])
    assert has(path, colours.RAMP[-1])


def test_refusals_create_nothing(tmp_path):
    image = np.zeros((4, 5, 6))
    with pytest.raises(BadInput, match=r"stacks\['xz'\] has shape \(4, 5, 5\)"):
        overview(tmp_path / "a.png", image, consensus=image, stacks={"xz": np.zeros((4, 5, 5))})
    with pytest.raises(BadInput, match="box 0:4,0:5,0:7 holds"):
        preview(tmp_path / "a.png", image, box=Box((0, 0, 0), (4, 5, 7)))
    with pytest.raises(BadInput, match="not three positive numbers"):
        preview(tmp_path / "a.png", image, voxel_size=(1.0, 0.0, 1.0))
    with pytest.raises(BadInput, match="says nothing without voxel_size"):
        preview(tmp_path / "a.png", image, unit="nm")
    with pytest.raises(BadInput, match="does not exist"):
        preview(tmp_path / "none" / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def test_pyplot_stays_out_of_it():
    import subprocess
    import sys

    code = "import sys, orthoflow.show; bad = {'matplotlib.pyplot', 'zarr', 'dask', 'torch'}"
    done = subprocess.run([sys.executable, "-c", f"{code}; assert not bad & set(sys.modules)"])
    assert done.returncode == 0
