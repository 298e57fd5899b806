"""Chunks that are not there, or not what they were: named by their key, never read as zeros."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from numcodecs import BZ2, Blosc, GZip, Zlib
from zarr.core import codec_pipeline

from orthoflow.errors import BadInput, BlockFailed, BlockImpossible, StoreRefused
from orthoflow.geometry.box import Box
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.ome import create_output
from orthoflow.stores.volumes import describe, find_volume, read_box, summarize

SHAPE = (8, 8, 8)
WHOLE = Box.whole(SHAPE)
FILL = 7

LAYOUTS = {
    "v2": ({"zarr_format": 2}, "0.1.0"),
    "v2 with slashes": (
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        "0/1/0",
    ),
    "v3": ({}, "c/0/1/0"),
    "uncompressed": ({"compressors": None}, "c/0/1/0"),
    "shard": ({"shards": (4, 4, 8), "chunks": (4, 4, 2)}, "c/0/1/0"),
    "index first": (
        {"shards": {"shape": (4, 4, 8), "index_location": "start"}, "chunks": (4, 4, 2)},
        "c/0/1/0",
    ),
}
LACKING = Box((0, 4, 0), (4, 8, 2))
"""Inside the chunk of those keys, in every layout."""
SLAB = Box((0, 3, 0), (8, 8, 5))
"""Touches it and others."""
ELSEWHERE = Box((4, 0, 0), (8, 8, 8))


def voxels():
    return np.random.default_rng(3).integers(8, 250, SHAPE).astype("uint8")


def make(url, layout="v3", **how):
    keywords = {"chunks": (4, 4, 4), **LAYOUTS[layout][0], **how}
    stored = zarr.create_array(url, shape=SHAPE, dtype="uint8", fill_value=FILL, **keywords)
    stored[...] = voxels()
    return str(url)


# Newer versions of zarr have a pipeline that reads without an event loop.
PIPELINES = [
    name for name in ("BatchedCodecPipeline", "FusedCodecPipeline") if hasattr(codec_pipeline, name)
]


@pytest.fixture(params=PIPELINES)
def _pipeline(request):
    path = f"zarr.core.codec_pipeline.{request.param}"
    with zarr.config.set({"codec_pipeline.path": path}):
        yield


@pytest.mark.usefixtures("_pipeline")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("box", [WHOLE, SLAB, LACKING], ids=["whole", "slab", "inside"])
def test_a_chunk_that_is_not_stored_fails_by_its_key(tmp_path, layout, box):
    ref = find_volume(make(tmp_path / "v.zarr", layout))
    key = LAYOUTS[layout][1]
    np.testing.assert_array_equal(read_box(ref, box)[0], voxels()[box.slices])
    (tmp_path / "v.zarr" / key).unlink()
    filled = []
    with pytest.raises(BlockImpossible, match="not stored") as caught:
        read_box(ref, box, filled=filled)
    assert str(caught.value) == (
        f"chunk {key} of {tmp_path / 'v.zarr'} is not stored; "
        "if this volume leaves out empty chunks pass --missing-input fill"
    )
    assert filled == []
    assert (read_box(ref, ELSEWHERE) == voxels()[ELSEWHERE.slices]).all()


@pytest.mark.usefixtures("_pipeline")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("box", [WHOLE, SLAB, LACKING], ids=["whole", "slab", "inside"])
def test_it_is_filled_and_counted_once_where_that_was_said(tmp_path, layout, box):
    ref = find_volume(make(tmp_path / "v.zarr", layout), missing="fill")
    key = LAYOUTS[layout][1]
    filled = []
    read_box(ref, box, filled=filled)
    assert filled == []
    (tmp_path / "v.zarr" / key).unlink()
    expected = voxels()
    depth = 8 if "shards" in LAYOUTS[layout][0] else 4
    expected[0:4, 4:8, 0:depth] = FILL
    np.testing.assert_array_equal(read_box(ref, box, filled=filled)[0], expected[box.slices])
    assert filled == [key]
    np.testing.assert_array_equal(read_box(ref, box)[0], expected[box.slices])
    read_box(ref, box, filled=filled)
    assert filled == [key]


@pytest.mark.usefixtures("_pipeline")
@pytest.mark.parametrize("layout", ["shard", "index first"])
@pytest.mark.parametrize(
    "codec", [zarr.codecs.ZstdCodec(), zarr.codecs.BloscCodec()], ids=["zstd", "blosc"]
)
def test_a_chunk_that_its_shard_calls_empty_is_no_absence(tmp_path, layout, codec):
    """Nor is the index, which begins with the mark of an empty chunk, taken for a frame."""
    url = make(tmp_path / "v.zarr", layout, compressors=codec)
    empty = (slice(0, 4), slice(4, 8), slice(0, 2))
    zarr.open_array(url, mode="r+")[empty] = FILL
    expected = voxels()
    expected[empty] = FILL
    filled = []
    for box in (WHOLE, SLAB, LACKING):
        got = read_box(find_volume(url), box, filled=filled)
        np.testing.assert_array_equal(got[0], expected[box.slices])
    assert filled == []


def test_a_volume_elsewhere_than_on_a_disk_fails_alike():
    url = make("memory://lacking/v.zarr")
    fsspec.filesystem("memory").rm_file("/lacking/v.zarr/c/0/1/0")
    with pytest.raises(BlockImpossible, match=r"chunk c/0/1/0 of memory://lacking/v\.zarr is not"):
        read_box(find_volume(url), WHOLE)
    filled = []
    got = read_box(find_volume(url, missing="fill"), WHOLE, filled=filled)
    assert filled == ["c/0/1/0"]
    assert (got[0][0:4, 4:8, 0:4] == FILL).all()


@pytest.mark.s3
@pytest.mark.parametrize("missing", ["fail", "fill"])
@pytest.mark.parametrize("how", [{}, {"shards": (8, 8, 8)}], ids=["chunks", "shard"])
def test_an_absent_bucket_is_never_read_as_empty(faulty, how, missing):
    url, proxy = faulty
    ref = find_volume(make(f"{url}/v.zarr", **how), missing=missing)
    proxy.inject("status", status=404, code="NoSuchBucket", keys="*/c/*")
    for box in (WHOLE, LACKING):
        filled = []
        with pytest.raises(StoreRefused, match="no such bucket or container: s3://") as caught:
            read_box(ref, box, filled=filled)
        assert filled == []
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_own_outputs_are_known_to_leave_out_empty_chunks(tmp_path, version):
    levels = pyramid_levels(SHAPE, None, (4, 4, 4), (4, 4, 4), count=1)
    array = ArraySpec("labels/cells", "labels", "uint8", 0, levels)
    spec = OutputSpec((array,), version, None, None, (0.0, 0.0, 0.0), 1)
    create_output(tmp_path / "out.zarr", spec, {"run": 1, "fingerprint": "ab"})
    ref = find_volume(tmp_path / "out.zarr", array="labels/cells")
    filled = []
    assert (read_box(ref, WHOLE, filled=filled) == 0).all()
    assert (ref.missing, len(filled)) == ("fill", 8)


def test_another_wish_is_refused(tmp_path):
    with pytest.raises(BadInput, match="missing 'zero' is neither fail nor fill"):
        find_volume(make(tmp_path / "v.zarr"), missing="zero")


def damage(path: Path, how: str):
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 3] ^= 1
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content.clear()
    path.write_bytes(bytes(content))


CHECKED = [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]


@pytest.mark.usefixtures("_pipeline")
@pytest.mark.parametrize("layout", ["v3", "shard", "index first"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("box", [WHOLE, SLAB], ids=["whole", "slab"])
def test_a_damaged_chunk_is_named_by_its_key(tmp_path, layout, how, box):
    ref = find_volume(make(tmp_path / "v.zarr", layout, compressors=CHECKED))
    damage(tmp_path / "v.zarr" / "c/0/1/0", how)
    with pytest.raises(BlockFailed, match=r"chunk c/0/1/0 of \S*/v\.zarr (is|can)") as caught:
        read_box(ref, box)
    assert not isinstance(caught.value, BlockImpossible)
    assert "\n" not in str(caught.value)
    assert (read_box(ref, ELSEWHERE) == voxels()[ELSEWHERE.slices]).all()


@pytest.mark.parametrize("codec", [GZip(), Zlib(), BZ2()], ids=lambda one: one.codec_id)
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_every_codec_with_a_checksum_names_its_chunk(tmp_path, codec, how):
    ref = find_volume(make(tmp_path / "v.zarr", "v2", compressors=codec))
    damage(tmp_path / "v.zarr" / "0.1.0", how)
    with pytest.raises(BlockFailed, match=r"chunk 0\.1\.0 of .* cannot be decoded: "):
        read_box(ref, WHOLE)


@pytest.mark.parametrize("layout", ["v2", "v3", "shard"])
def test_blosc_that_was_cut_in_half_is_not_decoded(tmp_path, layout):
    codec = Blosc(cname="lz4") if layout == "v2" else zarr.codecs.BloscCodec(cname="lz4")
    ref = find_volume(make(tmp_path / "v.zarr", layout, compressors=codec))
    chunk = tmp_path / "v.zarr" / LAYOUTS[layout][1]
    if layout != "shard":
        damage(chunk, "cut")
    else:  # the shard and its index are whole, the frame in it states more than there is
        content = bytearray(chunk.read_bytes())
        assert int.from_bytes(content[12:16], "little") < len(content)
        content[12:16] = (2**20).to_bytes(4, "little")
        chunk.write_bytes(bytes(content))
    for box in (WHOLE, LACKING):
        with pytest.raises(BlockFailed, match=r"is cut off: it states \d+ bytes and has \d+"):
            read_box(ref, box)


def test_damage_that_is_gone_when_looked_at_again_is_said(tmp_path, monkeypatch):
    ref = find_volume(make(tmp_path / "v.zarr"))
    real = zarr.storage.LocalStore.get
    turns = []

    async def once(self, key, prototype=None, byte_range=None):
        turns.append(key)
        if len(turns) == 1:
            return prototype.buffer.from_bytes(b"not a frame of zstd")
        return await real(self, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", once)
    with pytest.raises(BlockFailed, match="when read again; its store or network"):
        read_box(ref, WHOLE)


@pytest.mark.parametrize(
    ("how", "checked"),
    [
        ({"compressors": CHECKED}, True),
        ({"compressors": zarr.codecs.ZstdCodec(checksum=True)}, True),
        ({"compressors": zarr.codecs.ZstdCodec()}, False),
        ({"compressors": zarr.codecs.BloscCodec()}, False),
        ({"compressors": zarr.codecs.GzipCodec()}, True),
        ({"compressors": None}, False),
        ({"compressors": CHECKED, "shards": (8, 8, 8)}, True),
        ({"compressors": None, "shards": (8, 8, 8)}, False),
        ({"zarr_format": 2, "compressors": Zlib()}, True),
        ({"zarr_format": 2, "compressors": Blosc()}, False),
        ({"zarr_format": 2, "compressors": {"id": "zstd", "level": 1, "checksum": True}}, True),
    ],
)
def test_whether_a_changed_bit_would_be_noticed_is_known_beforehand(tmp_path, how, checked):
    make(tmp_path / "v.zarr", **how)
    assert [one["checksum"] for one in summarize(tmp_path / "v.zarr")["levels"]] == [checked]
    assert describe(find_volume(tmp_path / "v.zarr")).checksum is checked
