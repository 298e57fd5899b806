"""Promise 1: the same bytes for any block, part, worker, thread, batch; a region is a crop."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import orthoflow as of
from orthoflow import work
from orthoflow.models.nets import UNet
from tests import nets

SHAPE = (14, 26, 30)
WHOLE = (16, 32, 32)
CUTS = [  # block, blocks in a part, tiles in a batch
    ((8, 8, 8), 100, 64),
    ((16, 16, 16), 1, 3),
    ((8, 32, 16), 2, 1),
    ((16, 8, 32), (1, 3, 1), 5),
    ((8, 16, 24), 1, 64),
    ((16, 24, 8), (1, 1, 2), 2),
]


@functools.cache
def unet(ndim=2):
    """A U-Net of one pooling, so that the phase of a patch matters."""
    net = UNet(outputs=2, base=2, depth=1, ndim=ndim, norm="none")
    generator = nets.torch.Generator().manual_seed(5 if ndim == 2 else 3)
    for parameter in net.parameters():
        parameter.data.normal_(0, nets.RANDOM_WEIGHTS, generator=generator)
    return of.Model.from_torch(net, outputs=2, ndim=ndim, reach=8)


def volume():
    return nets.blobs(SHAPE)


def holes():
    return nets.with_holes(nets.blobs(SHAPE, dtype=np.uint16, top=999))


TILES = {"tile": 16, "normalization": "zscore"}
HOLES = {"tile": 8, "normalization": "zscore", "overlap": 0.5}
CASES = {
    "plain": (volume, nets.plain, TILES),
    "whole planes": (volume, unet, {"normalization": "minmax"}),
    "unet": (volume, unet, {**TILES, "packing": "none", "grid": "step"}),
    "stripes": (
        volume,
        lambda: nets.plain(tile=(48, 48)),
        {"normalization": "percentile", "packing": "stripes", "pack_k": 2},
    ),
    "shared": (volume, lambda: nets.plain(tile=(28, 28)), {"normalization": "zscore"}),
    "stripes of unknown reach": (
        volume,
        lambda: nets.plain(tile=(64, 64), reach=None),
        {"normalization": "zscore"},
    ),
    "3-D": (volume, lambda: unet(3), TILES),
    "3-D, holes": (holes, lambda: nets.plain(ndim=3), HOLES),
    "holes": (holes, nets.plain, HOLES),
    "holes in stripes": (
        holes,
        lambda: nets.plain(tile=(48, 48)),
        {"normalization": "zscore", "packing": "stripes", "weighting": "border"},
    ),
    "holes, vote": (holes, nets.plain, {**HOLES, "consensus": "vote", "votes": 2}),
    "holes, median, coarser": (
        holes,
        nets.plain,
        {**HOLES, "median": 3, "downsample": (1, 1.7, 1.7)},
    ),
    "median": (volume, nets.plain, {**TILES, "median": 3}),
    "median 7": (volume, nets.plain, {**TILES, "median": 7, "consensus": "vote", "votes": 3}),
    "coarser": (volume, nets.plain, {**TILES, "downsample": (1, 2, 2)}),
    "anisotropic": (volume, nets.plain, {**TILES, "anisotropy": 2.5, "downsample": (1, 1.5, 1.5)}),
    "diameter": (volume, nets.plain, {**TILES, "diameter": 50, "anisotropy": 3, "median": 3}),
    "finer": (volume, nets.plain, {**TILES, "downsample": (0.7, 0.7, 0.7)}),
    "multiclass": (volume, lambda: nets.plain(outputs=4), TILES),
    "multiclass vote": (
        holes,
        lambda: nets.plain(outputs=3),
        {**HOLES, "consensus": "vote", "votes": 2, "mode": "multiclass"},
    ),
    "one output": (volume, lambda: nets.plain(outputs=1), {**TILES, "threshold": 0.3}),
    "mirroring": (volume, nets.plain, {**TILES, "tta": "mirroring"}),
    "rotation": (volume, nets.plain, {**TILES, "tta": "rotation"}),
    "3-D rotation": (volume, lambda: nets.plain(ndim=3), {**TILES, "tta": "rotation"}),
    "patch zscore": (holes, nets.plain, {**HOLES, "normalization_scope": "patch"}),
    "patch percentile": (
        volume,
        lambda: nets.plain(tile=(28, 28)),
        {"normalization": "percentile", "normalization_scope": "patch"},
    ),
    "patch minmax": (
        volume,
        nets.plain,
        {**TILES, "normalization": "minmax", "normalization_scope": "patch", "threshold": 0.6},
    ),
    "bfloat16": (volume, unet, {**TILES, "precision": "bfloat16"}),
    "weights": (holes, nets.plain, {**HOLES, "plane_weights": (1, 0.5, 0), "weighting": "taper"}),
    "two orientations": (volume, nets.plain, {**TILES, "orientations": ("xy", "yz")}),
    "channels": (
        lambda: nets.with_holes(nets.blobs((2, *SHAPE))),
        lambda: nets.plain(channels=2),
        TILES,
    ),
}


@functools.cache
def reference(case):
    """Every result of the whole volume as one block, one tile at a time."""
    make, model, options = CASES[case]
    return nets.everything(make(), model(), block=WHOLE, part=1, batch_size=1, **options)


@pytest.mark.parametrize("case", CASES)
def test_block_part_and_batch_do_not_show(case):
    make, model, options = CASES[case]
    expected = reference(case)
    volume, model = make(), model()
    for block, part, batch in CUTS:
        found = nets.everything(volume, model, block=block, part=part, batch_size=batch, **options)
        nets.assert_same(found, expected)


@pytest.mark.parametrize("case", CASES)
def test_the_cases_are_no_trivial_ones(case):
    """Labels of every kind, votes that disagree: otherwise equality would prove little."""
    found = reference(case)
    labels = found["labels"]
    assert 0.02 < (labels > 0).mean() < 0.98
    if len([name for name in found if name.startswith("stacks/")]) > 1:
        assert found["disagreement"].any()
    make, model, options = CASES[case]
    if make is holes:
        plan, _, _ = nets.planned(make(), model(), **options, block=8)
        assert plan.block_count > 20
        # Somewhere no patch was run, in one orientation at least.
        names = [name for name in found if name.startswith("logits/")]
        assert any((np.abs(found[name]) == 16).any() for name in names)


@pytest.mark.parametrize("slab", [1, 200, 2000])
def test_the_slabs_of_the_vote_do_not_show(slab, monkeypatch):
    monkeypatch.setattr(work, "_SLAB_VOXELS", slab)
    for case in ("holes, median, coarser", "multiclass vote", "3-D, holes"):
        make, model, options = CASES[case]
        found = nets.everything(make(), model(), block=(16, 24, 24), part=2, **options)
        nets.assert_same(found, reference(case))


ROIS = [  # region, block, part
    ("3:13,5:24,1:29", (8, 16, 16), 100),
    (":,:,7:8", 8, 1),
    ("13:14,25:26,29:30", 8, 1),
    ("0:9,11:26,:", (8, 8, 32), (2, 1, 1)),
]


@pytest.mark.parametrize(
    "case", ["plain", "stripes", "3-D, holes", "holes", "holes, median, coarser", "anisotropic",
             "diameter", "finer", "median 7", "multiclass vote", "patch zscore", "shared"],
)  # fmt: skip
def test_a_region_is_the_crop_of_the_whole(case):
    make, model, options = CASES[case]
    volume, model = make(), model()
    for roi, block, part in ROIS:
        found = nets.everything(volume, model, roi=roi, block=block, part=part, **options)
        nets.assert_same(found, nets.crop(reference(case), roi))


# ------------------------------------------------------------------------------------- on disk

WRITTEN = {
    "output": "both",
    "disagreement": True,
    "keep_stacks": True,
    "chunk": (8, 8, 8),
    "shard": (8, 16, 16),
    "levels": 2,
}
WAYS = [
    {"cluster": "synchronous", "block": (24, 48, 64), "part": 1},
    {"cluster": "synchronous", "block": (8, 16, 16), "part": 1, "batch_size": 1},
    {"cluster": "threads", "workers": 1, "block": (16, 16, 16), "part": 100, "batch_size": 5},
    {"cluster": "threads", "workers": 2, "block": (8, 32, 16), "part": (2, 1, 2)},
    {"cluster": "processes", "workers": 1, "block": (8, 16, 32), "part": 2},
    {"cluster": "processes", "workers": 2, "block": (8, 16, 16), "part": 100},
]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["holes", "holes in stripes"])
def test_every_stored_object_has_the_same_bytes(case, tmp_path):
    """Whatever wrote them: shards of labels, probabilities, disagreement, stacks and levels."""
    make, model, options = CASES[case]
    volume, model, expected = make(), model(), None
    for number, way in enumerate(WAYS if case == "holes" else WAYS[:4]):
        output = tmp_path / f"{number}.zarr"
        report = of.run(volume, output, model=model, **WRITTEN, **options, **way)
        assert report["failed"] == {}
        assert report["blocks"] == report["blocks_planned"] > 0
        found = nets.objects(output)
        expected = expected or found
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    chunks = [name for name in expected if "/c/" in name]
    # Six arrays of 2 x 2 x 2 shards and a coarser level of one; a few hold nothing but zeros.
    assert 45 < len(chunks) <= 6 * (2 * 2 * 2 + 1)


def test_what_is_stored_is_what_the_kernels_gave(tmp_path):
    make, model, options = CASES["holes"]
    of.run(make(), tmp_path / "o", model=model(), cluster="synchronous", **WRITTEN, **options)
    stored = {
        name: nets.read(tmp_path / "o", path)
        for name, path in [
            ("labels", "labels/segmentation/0"),
            ("probabilities", "probabilities/0"),
            ("disagreement", "disagreement/0"),
            *[(f"stacks/{o}", f"stacks/{o}/0") for o in ("xy", "xz", "yz")],
        ]
    }
    nets.assert_same(stored, {name: reference("holes")[name] for name in stored})


def test_a_stored_region_is_the_crop_of_the_whole(tmp_path):
    make, model, options = CASES["holes, median, coarser"]
    roi = "3:13,5:24,1:29"
    of.run(
        make(), tmp_path / "o", model=model(), cluster="synchronous", roi=roi, chunk=8, **options
    )
    expected = nets.crop(reference("holes, median, coarser"), roi)["labels"]
    np.testing.assert_array_equal(nets.read(tmp_path / "o", "labels/segmentation/0"), expected)


@pytest.mark.parametrize("part", [1, 100])
def test_no_patch_is_computed_twice_inside_a_part(part):
    plan, _, _ = nets.planned(
        volume(), nets.plain(), tile=16, overlap=0.5, block=(8, 16, 16), part=part
    )
    numbers = plan.to_dict()
    again = numbers["run"]["patches"] > numbers["total"]["patches"]
    assert again == (part == 1)
    if part == 100:
        assert numbers["run"] == {k: numbers["total"][k] for k in numbers["run"]}
