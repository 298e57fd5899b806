"""Groups, OME-Zarr metadata, and everything a Zarr document can get wrong."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Zstd

from orthoflow.errors import BadInput, BlockImpossible, StoreRefused
from orthoflow.geometry.box import Box
from orthoflow.stores import objects, zarr_volumes
from orthoflow.stores.guard import blosc_size, zstd_size
from orthoflow.stores.volumes import describe, find_volume, read_box, summarize
from tests.stores.test_missing_input import PIPELINES

SHAPE = (4, 8, 12)


def axes_metadata(names, unit="micrometer"):
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": n, "type": kinds.get(n, "space")} | ({"unit": unit} if n in "zyx" and unit else {})
        for n in names
    ]


def ome_image(
    path, version="0.5", *, names="zyx", levels=2, unit="micrometer", scale=(4, 0.5, 0.5)
):
    """An image as another program would write it: scale and half-voxel translations."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    sizes = {"t": 1, "c": 2, **dict(zip("zyx", SHAPE, strict=True))}
    datasets = []
    for level in range(levels):
        shape = tuple(sizes[n] // (2**level if n in "yx" else 1) for n in names)
        array = np.random.default_rng(level).integers(0, 99, shape).astype("uint8")
        group.create_array(f"s{level}", data=array, chunks=tuple(min(n, 4) for n in shape))
        voxel = dict(zip("zyx", scale, strict=True))
        ours = [voxel.get(n, 1) * (2**level if n in "yx" else 1) for n in names]
        shift = [(2**level - 1) / 2 * voxel[n] if n in "yx" else 0 for n in names]
        datasets.append(
            {
                "path": f"s{level}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": ours},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    image = {"name": "i", "axes": axes_metadata(names, unit), "datasets": datasets}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": version, **image}]
    return group


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_carry_their_own_scale_and_translation(tmp_path, version):
    group = ome_image(tmp_path / "i.zarr", version)
    facts = [describe(find_volume(tmp_path / "i.zarr", level=level)) for level in (0, 1)]
    assert facts[0].voxel_size == (4.0, 0.5, 0.5)
    assert facts[1].voxel_size == (4.0, 1.0, 1.0)
    assert facts[1].translation == (0.0, 0.25, 0.25)
    assert facts[1].unit == "micrometer"
    assert facts[1].shape == (4, 4, 6)
    box = Box.whole((4, 4, 6))
    by_path = find_volume(tmp_path / "i.zarr", array="s1")
    np.testing.assert_array_equal(read_box(by_path, box)[0], group["s1"][...])
    assert describe(by_path) == facts[1]
    with pytest.raises(BadInput, match=r"level 2 .* 2 levels, 0 to 1"):
        find_volume(tmp_path / "i.zarr", level=2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_array_inside_an_image_knows_its_voxel_size(tmp_path, version):
    ome_image(tmp_path / "i.zarr", version)
    inner = find_volume(tmp_path / "i.zarr" / "s1")
    assert inner == find_volume(tmp_path / "i.zarr", level=1)


def test_labels_of_an_image_are_found_by_path(tmp_path):
    ome_image(tmp_path / "i.zarr")
    labels = zarr.open_group(str(tmp_path / "i.zarr" / "labels"), mode="w")
    labels.attrs["ome"] = {"version": "0.5", "labels": ["cells"]}
    ome_image(tmp_path / "i.zarr" / "labels" / "cells")
    ref = find_volume(tmp_path / "i.zarr", array="labels/cells", level=1)
    assert ref.array == "labels/cells/s1"
    assert describe(ref).voxel_size == (4.0, 1.0, 1.0)
    assert summarize(tmp_path / "i.zarr")["labels"] == ["labels/cells"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_channels_and_times_of_an_image(tmp_path, version):
    ome_image(tmp_path / "i.zarr", version, names="tczyx")
    ref = find_volume(tmp_path / "i.zarr", channel=1)
    assert (ref.axes, ref.time, ref.channel) == ("tczyx", 0, 1)
    assert describe(ref).voxel_size == (4.0, 0.5, 0.5)
    assert describe(ref).channels == 1
    assert describe(find_volume(tmp_path / "i.zarr")).channels == 2


def test_no_unit_and_a_scale_of_one_say_nothing(tmp_path):
    ome_image(tmp_path / "i.zarr", unit=None, scale=(1, 1, 1))
    for level in (0, 1):
        facts = describe(find_volume(tmp_path / "i.zarr", level=level))
        assert (facts.voxel_size, facts.unit) == (None, None)
    assert facts.translation == (0.0, 0.25, 0.25)  # in voxels of level 1
    ratio = describe(find_volume(tmp_path / "i.zarr"), voxel_size=(8, 2, 2), unit="nm")
    assert (ratio.voxel_size, ratio.unit) == ((8.0, 2.0, 2.0), "nanometer")


def test_a_ratio_without_unit_is_kept(tmp_path):
    ome_image(tmp_path / "i.zarr", unit=None, scale=(4, 1, 1))
    facts = describe(find_volume(tmp_path / "i.zarr"))
    assert (facts.voxel_size, facts.unit) == ((4.0, 1.0, 1.0), None)


def test_a_given_voxel_size_moves_the_translation_with_it(tmp_path):
    ome_image(tmp_path / "i.zarr")
    facts = describe(find_volume(tmp_path / "i.zarr", level=1), voxel_size=(8, 2, 2))
    assert facts.translation == (0.0, 0.5, 0.5)
    assert facts.unit == "micrometer"


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_stated_voxel_sizes_are_refused(tmp_path, size):
    ome_image(tmp_path / "i.zarr", scale=(size, 1, 1))
    with pytest.raises(BadInput, match=r"states a voxel size .*--voxel-size"):
        describe(find_volume(tmp_path / "i.zarr"))
    facts = describe(find_volume(tmp_path / "i.zarr", level=1), voxel_size=(40, 4, 4))
    assert (facts.voxel_size, facts.translation) == ((40, 4, 4), (0, 0, 0))


def test_unknown_units_are_refused_when_given(tmp_path):
    ome_image(tmp_path / "i.zarr")
    with pytest.raises(BadInput, match="'parsec' is not a length"):
        describe(find_volume(tmp_path / "i.zarr"), unit="parsec")


def test_images_of_the_first_versions_are_five_dimensional(tmp_path):
    group = ome_image(tmp_path / "i.zarr", "0.4", names="tczyx", levels=1)
    image = group.attrs["multiscales"][0]
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "s0"}]}]
    assert find_volume(tmp_path / "i.zarr").axes == "tczyx"
    image["axes"] = list("tczyx")
    group.attrs["multiscales"] = [{**image, "version": "0.3"}]
    assert find_volume(tmp_path / "i.zarr").axes == "tczyx"


def test_scales_of_the_whole_image_multiply(tmp_path):
    group = ome_image(tmp_path / "i.zarr", levels=2)
    ome = dict(group.attrs["ome"])
    ome["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [10, 10, 10]}]
    group.attrs["ome"] = ome
    facts = describe(find_volume(tmp_path / "i.zarr", level=1))
    assert facts.voxel_size == (40.0, 10.0, 10.0)
    assert facts.translation == (0.0, 2.5, 2.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datasets": []}, "no datasets"),
        ({"axes": [{"name": "q"}, {"name": "y"}, {"name": "x"}]}, "axis 'q' is none of"),
        ({"axes": axes_metadata("yx")}, "does not fit 2 axes"),
        ({"datasets": [{"coordinateTransformations": []}]}, "KeyError"),
        (
            {"datasets": [{"path": "s0", "coordinateTransformations": [{"type": "affine"}]}]},
            "affine",
        ),
        (
            {
                "datasets": [
                    {
                        "path": "s0",
                        "coordinateTransformations": [{"type": "scale", "scale": [1, 1, "nan"]}],
                    }
                ]
            },
            "not finite",
        ),
        ({"datasets": [{"path": "../s0"}]}, r"'\.\.' parts"),
        ({"datasets": [{"path": "gone"}]}, "no array 'gone'"),
    ],
)
def test_broken_image_metadata_is_named(tmp_path, change, said):
    group = ome_image(tmp_path / "i.zarr", levels=1)
    ome = dict(group.attrs["ome"])
    ome["multiscales"][0].update(change)
    group.attrs["ome"] = ome
    with pytest.raises(BadInput, match=said):
        describe(find_volume(tmp_path / "i.zarr"))


def test_several_arrays_are_listed(tmp_path):
    root = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    root.create_array("raw", data=np.ones(SHAPE, "uint8"), chunks=(4, 4, 4))
    root.create_array("volumes/other", data=np.ones(SHAPE, "uint8"), chunks=(4, 4, 4))
    ome_image(tmp_path / "g.zarr" / "image")
    with pytest.raises(BadInput, match=r"several arrays: image, raw, volumes/other; pass --array"):
        find_volume(tmp_path / "g.zarr")
    with pytest.raises(BadInput, match=r"no array 'nope' .* image, raw, volumes/other"):
        find_volume(tmp_path / "g.zarr", array="nope")
    assert find_volume(tmp_path / "g.zarr", array="volumes/other").array == "volumes/other"
    assert find_volume(tmp_path / "g.zarr", array="image").array == "image/s0"
    assert summarize(tmp_path / "g.zarr")["arrays"] == ["image", "raw", "volumes/other"]
    with pytest.raises(BadInput, match=r"'\.\.' parts"):
        find_volume(tmp_path / "g.zarr", array="../g.zarr/raw")


def test_the_only_image_of_a_plate_is_found(tmp_path):
    for part in ("", "A", "A/1"):
        zarr.open_group(str(tmp_path / "p.zarr" / part), mode="a", zarr_format=2)
    ome_image(tmp_path / "p.zarr" / "A" / "1" / "0", "0.4")
    ref = find_volume(tmp_path / "p.zarr", level=1)
    assert ref.array == "A/1/0/s1"
    assert describe(ref).voxel_size == (4.0, 1.0, 1.0)


def test_an_empty_group_is_refused(tmp_path):
    zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    with pytest.raises(BadInput, match="no array in the group"):
        find_volume(tmp_path / "g.zarr")


def test_a_missing_path_says_what_was_looked_for(tmp_path):
    for url in (tmp_path / "nothing", tmp_path, "memory://nothing/here"):
        with pytest.raises(BadInput, match=r"no array at .*zarr\.json, \.zarray, \.zgroup"):
            find_volume(url)
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(BadInput, match="a file of another kind"):
        find_volume(tmp_path / "x.txt")
    for name in ("gone.npy", "gone.tif"):
        with pytest.raises(BadInput, match=f"no file at .*{name}"):
            find_volume(tmp_path / name)


@pytest.mark.parametrize("version", [2, 3])
def test_forbidden_may_stand_for_absent(tmp_path, monkeypatch, version):
    """A bucket that may not be listed answers "forbidden" for what it does not hold."""
    zarr.create_array(tmp_path / "v.zarr", data=np.ones(SHAPE, "u1"), zarr_format=version)
    real = objects.read_object

    def forbidding(place, **how):
        content = real(place, **how)
        if content is None:
            raise StoreRefused(f"cannot read {place}: Forbidden")
        return content

    monkeypatch.setattr(objects, "read_object", forbidding)
    ref = find_volume(tmp_path / "v.zarr")
    assert (read_box(ref, Box.whole(SHAPE)) == 1).all()
    with pytest.raises(StoreRefused, match="Forbidden"):
        find_volume(tmp_path / "other.zarr")


def test_dimension_names_give_the_axes(tmp_path):
    zarr.create_array(
        tmp_path / "v.zarr",
        data=np.ones((3, *SHAPE), "uint8"),
        dimension_names=["C", "z", "y", "x"],
    )
    assert find_volume(tmp_path / "v.zarr").axes == "czyx"
    old = zarr.create_array(tmp_path / "x.zarr", data=np.ones(SHAPE, "uint8"), zarr_format=2)
    old.attrs["_ARRAY_DIMENSIONS"] = ["x", "y", "z"]
    assert find_volume(tmp_path / "x.zarr").axes == "xyz"
    foreign = zarr.create_array(
        tmp_path / "w.zarr", data=np.ones(SHAPE, "uint8"), dimension_names=["lat", "lon", "m"]
    )
    assert foreign.shape == SHAPE
    assert find_volume(tmp_path / "w.zarr").axes == "zyx"


def document(path, version):
    name = "zarr.json" if version == 3 else ".zarray"
    return path / name


@pytest.fixture(params=[2, 3])
def plain(request, tmp_path):
    zarr.create_array(
        tmp_path / "v.zarr",
        data=np.ones(SHAPE, "uint16"),
        chunks=(4, 4, 4),
        zarr_format=request.param,
    )
    return document(tmp_path / "v.zarr", request.param)


def change(path: Path, **values):
    content = json.loads(path.read_text())
    for key, value in values.items():
        content[key] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("content", ["", "{", '{"zarr_format": 3, "node', "[]", "3", "{}", "\xff"])
def test_documents_that_are_not_valid_are_named(plain, content):
    plain.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInput, match=plain.name.replace(".", r"\.")) as caught:
        find_volume(plain.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"shape": None},
        {"shape": [4, 8.5, 12]},
        {"shape": [4, -8, 12]},
        {"shape": [4, 8]},
        {"shape": [2**60, 8, 12]},
        {"codecs": [{"name": "made-up"}], "compressor": {"id": "made-up"}},
        {"codecs": "zstd", "compressor": "zstd"},
        {"data_type": "r8000", "dtype": "<q9"},
        {"data_type": {"name": "struct"}, "dtype": [["a", "<u2"]]},
        {"chunk_grid": {"name": "rectilinear"}, "chunks": [4, 4]},
        {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 4, 4]}},
            "chunks": [0, 4, 4],
        },
    ],
    ids=lambda values: next(iter(values)),
)
def test_documents_that_cannot_be_used_are_named(plain, values):
    change(plain, **values)
    with pytest.raises(BadInput, match=plain.name.replace(".", r"\.")) as caught:
        find_volume(plain.parent)
    assert "\n" not in str(caught.value)


def test_a_chunk_of_a_petabyte_is_refused_before_anything_is_allocated(plain):
    side = 100_000
    change(
        plain,
        shape=[side] * 3,
        chunks=[side] * 3,
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [side] * 3}},
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for call in (find_volume, summarize):
        with pytest.raises(BadInput, match=r"2000000000000000 bytes each; at most 2147483648"):
            call(plain.parent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_billion_chunks_are_refused(plain):
    change(plain, shape=[2**14] * 3)
    with pytest.raises(BadInput, match="chunks; at most 1000000000"):
        find_volume(plain.parent)


def test_metadata_of_gigabytes_is_not_read(plain):
    with plain.open("ab") as file:
        file.truncate(2**31)
    with pytest.raises(BadInput, match="at most 33554432 are read"):
        find_volume(plain.parent)


def bomb_of(size):
    """The head of a zstd frame that announces `size` bytes, and nothing behind it."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xC0, 0x58]) + size.to_bytes(8, "little") + bytes(32)


@pytest.mark.parametrize("how", ["v2", "v3", "shard"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_compressed_chunk_may_not_announce_more_than_a_chunk(tmp_path, how, whole):
    size = 2**40
    shards = (8, 4, 4) if how == "shard" else None
    compressors = Zstd(level=1) if how == "v2" else zarr.codecs.ZstdCodec(level=1)
    stored = zarr.create_array(
        tmp_path / "v.zarr",
        shape=(8, 8, 8),
        chunks=(4, 4, 4),
        shards=shards,
        dtype="uint8",
        compressors=compressors,
        zarr_format=2 if how == "v2" else 3,
    )
    stored[...] = np.random.default_rng(0).integers(0, 255, (8, 8, 8))
    ref = find_volume(tmp_path / "v.zarr")
    box = Box.whole((8, 8, 8)) if whole else Box((0, 0, 0), (4, 4, 4))
    read_box(ref, box)
    target = tmp_path / "v.zarr" / ("0.0.0" if how == "v2" else "c/0/0/0")
    bomb = bomb_of(size)
    if how == "shard":
        from google_crc32c import value

        index = np.array([0, len(bomb), 2**64 - 1, 2**64 - 1], "<u8").tobytes()
        target.write_bytes(bomb + index + value(index).to_bytes(4, "little"))
    else:
        target.write_bytes(bomb)
    with pytest.raises(BlockImpossible, match=f"chunk \\S+ of .* announces {size} bytes"):
        read_box(ref, box)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_bomb_that_was_fetched_along_with_another_chunk_is_found(tmp_path, monkeypatch, name):
    """Newer versions of zarr fetch neighbours in a shard together."""
    monkeypatch.setattr(zarr_volumes, "_first_damaged", None)  # it is never decoded
    stored = zarr.create_array(
        tmp_path / "v.zarr",
        shape=(4, 4, 16),
        chunks=(4, 4, 4),
        shards=(4, 4, 16),
        dtype="uint8",
        compressors=zarr.codecs.ZstdCodec(level=1),
    )
    stored[...] = 1
    ref = find_volume(tmp_path / "v.zarr")
    shard = tmp_path / "v.zarr" / "c/0/0/0"
    content = shard.read_bytes()
    index = np.frombuffer(content[-68:-4], "<u8").reshape(4, 2).copy()
    second = content[index[1, 0] : index[1].sum()]
    bomb = bomb_of(2**40)[: len(second)]
    assert len(bomb) == len(second)
    shard.write_bytes(content[: index[1, 0]] + bomb + content[index[1].sum() :])
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{name}"}):
        read_box(ref, Box((0, 0, 0), (4, 4, 4)))
        with pytest.raises(BlockImpossible, match=f"announces {2**40} bytes"):
            read_box(ref, Box((0, 0, 0), (4, 4, 8)))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 2**20])
def test_the_announced_size_of_real_frames_is_read_right(size):
    for level in (1, 19):
        frame = bytes(Zstd(level=level).encode(bytes(size)))
        assert zstd_size(frame) == size
    if size:
        assert blosc_size(bytes(Blosc().encode(bytes(size)))) == size


def test_blosc_chunks_are_guarded_too(tmp_path):
    stored = zarr.create_array(
        tmp_path / "v.zarr",
        shape=(8, 8, 8),
        chunks=(8, 8, 8),
        dtype="uint8",
        compressors=Blosc(),
        zarr_format=2,
    )
    stored[...] = 3
    ref = find_volume(tmp_path / "v.zarr")
    assert (read_box(ref, Box.whole((8, 8, 8))) == 3).all()
    (tmp_path / "v.zarr" / "0.0.0").write_bytes(Blosc().encode(np.zeros(2**20, "uint8")))
    with pytest.raises(BlockImpossible, match="announces 1048576 bytes"):
        read_box(ref, Box.whole((8, 8, 8)))


def test_what_is_shown_of_a_group_is_json(tmp_path):
    ome_image(tmp_path / "i.zarr", names="czyx")
    facts = json.loads(json.dumps(summarize(tmp_path / "i.zarr")))
    assert facts["format"] == "ome-zarr 0.5"
    assert facts["axes"] == "czyx"
    assert facts["channels"] == 2
    assert facts["voxel_size"] == [4.0, 0.5, 0.5]
    assert [level["path"] for level in facts["levels"]] == ["s0", "s1"]
    assert facts["levels"][0]["codecs"] == ["bytes", "zstd"]
    assert facts["bytes"] == 2 * 4 * 8 * 12 + 2 * 4 * 4 * 6
