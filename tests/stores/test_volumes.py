"""One suite for every input format; each subclass only says how its files are made."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orthoflow.errors import BadInput, BlockFailed, BlockImpossible
from orthoflow.geometry.box import Box
from orthoflow.stores.volumes import describe, find_volume, read_box, summarize

SHAPE = (5, 14, 11)
FORMAT_SETTINGS = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def voxels(dtype: str = "uint16", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


class VolumeContract:
    """What holds for any format."""

    kind = ""
    dtypes = ("uint8", "uint16", "float32")
    axis_orders = ("zyx", "xyz", "yzx")
    channels_first = True
    chunks: tuple[int, int, int] | None = None
    """Chunks that the files of `make` have, or None."""

    def make(self, folder: Path, array: np.ndarray) -> str:
        """Store `array` and return its url."""
        raise NotImplementedError

    @pytest.fixture
    def url(self, tmp_path):
        return self.make(tmp_path, voxels())

    @pytest.mark.parametrize("index", range(3))
    def test_a_box_equals_the_slice_of_the_array(self, tmp_path, index):
        array = voxels(self.dtypes[index])
        ref = find_volume(self.make(tmp_path, array))
        box = Box((1, 2, 3), (4, 13, 11))
        got = read_box(ref, box)
        np.testing.assert_array_equal(got, array[None][(slice(None), *box.slices)])
        assert got.dtype == array.dtype
        assert got.dtype.isnative
        assert got.flags.c_contiguous

    @FORMAT_SETTINGS
    @given(data=st.data())
    def test_any_box_equals_the_slice(self, url, data):
        ref = find_volume(url)
        spans = [
            sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
            for n in SHAPE
        ]
        box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
        np.testing.assert_array_equal(read_box(ref, box)[0], voxels()[box.slices])

    def test_facts(self, url):
        ref = find_volume(url)
        facts = describe(ref)
        assert (ref.kind, ref.axes, ref.time, ref.channel) == (self.kind, "zyx", None, None)
        assert (facts.shape, facts.dtype, facts.channels) == (SHAPE, "uint16", 1)
        assert facts.chunks == self.chunks
        assert facts.voxel_size is None
        assert facts.unit is None
        assert facts.translation == (0.0, 0.0, 0.0)

    def test_axes_given_by_the_user_reorder_the_voxels(self, tmp_path):
        for order in self.axis_orders:
            sizes = dict(zip("zyx", SHAPE, strict=True))
            array = voxels(shape=tuple(sizes[axis] for axis in order))
            (tmp_path / order).mkdir()
            ref = find_volume(self.make(tmp_path / order, array), axes=order)
            expected = array.transpose([order.index(axis) for axis in "zyx"])
            assert describe(ref).shape == expected.shape
            np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE))[0], expected)

    def test_big_endian_comes_back_native(self, tmp_path):
        array = voxels(">u2")
        ref = find_volume(self.make(tmp_path, array))
        got = read_box(ref, Box.whole(SHAPE))
        assert got.dtype.isnative
        np.testing.assert_array_equal(got[0], array)
        assert describe(ref).dtype == "uint16"

    def test_the_ref_travels(self, url):
        ref = find_volume(url)
        packed = pickle.dumps(ref)
        assert pickle.loads(packed) == ref
        assert hash(pickle.loads(packed)) == hash(ref)
        assert len(packed) < 800

    def test_given_voxel_size_and_unit_win(self, url):
        facts = describe(find_volume(url), voxel_size=(47, 4.6, 4.6), unit="nm")
        assert (facts.voxel_size, facts.unit) == ((47.0, 4.6, 4.6), "nanometer")

    @pytest.mark.parametrize("size", [(0, 1, 1), (1, -2, 1), (1, 1, float("nan")), (1, 1)])
    def test_impossible_voxel_sizes_are_refused(self, url, size):
        with pytest.raises(BadInput, match="--voxel-size"):
            describe(find_volume(url), voxel_size=size)

    def test_summary_is_json(self, url):
        facts = summarize(url)
        assert json.loads(json.dumps(facts)) == facts
        assert facts["kind"] == self.kind
        assert facts["axes"] == "zyx"
        assert facts["levels"][0]["shape"] == list(SHAPE)
        assert facts["bytes"] == 2 * int(np.prod(SHAPE))

    def test_boxes_outside_are_refused(self, url):
        ref = find_volume(url)
        with pytest.raises(BadInput, match="beyond"):
            read_box(ref, Box((0, 0, 0), (5, 14, 12)))
        with pytest.raises(BadInput, match="before"):
            read_box(ref, Box((-1, 0, 0), (1, 1, 1)))

    def test_choices_that_are_not_there_are_refused(self, url):
        for wish, named in ({"time": 1}, "time 1"), ({"channel": 2}, "channel 2"):
            with pytest.raises(BadInput, match=named):
                find_volume(url, **wish)
        assert find_volume(url, channel=0).channel is None
        with pytest.raises(BadInput, match="level 1"):
            find_volume(url, level=1)
        with pytest.raises(BadInput, match="nope"):
            find_volume(url, array="nope")
        for axes in ("zy", "zyy", "zyxc", "abc"):
            with pytest.raises(BadInput, match="--axes"):
                find_volume(url, axes=axes)
        with pytest.raises(BadInput, match="lack one of z, y, x"):
            find_volume(url, axes="cyx")


class FourAxes:
    """Formats that can hold channels and times; mixed into their suites."""

    def test_channels_come_first_and_can_be_chosen(self, tmp_path):
        for order in ("czyx", "zyxc"):
            sizes = {"c": 3, **dict(zip("zyx", SHAPE, strict=True))}
            array = voxels(shape=tuple(sizes[axis] for axis in order))
            (tmp_path / order).mkdir()
            url = self.make(tmp_path / order, array)
            expected = array.transpose([order.index(axis) for axis in "czyx"])
            box = Box((0, 1, 2), (3, 9, 10))
            every = find_volume(url, axes=order)
            one = find_volume(url, axes=order, channel=2)
            assert describe(every).channels == 3
            assert describe(one).channels == 1
            np.testing.assert_array_equal(
                read_box(every, box), expected[(slice(None), *box.slices)]
            )
            np.testing.assert_array_equal(read_box(one, box)[0], expected[2][box.slices])
            with pytest.raises(BadInput, match=r"channel 3 of .* 3 channels, 0 to 2"):
                find_volume(url, axes=order, channel=3)

    def test_time_has_to_be_chosen(self, tmp_path):
        array = voxels(shape=(2, *SHAPE))
        url = self.make(tmp_path, array)
        with pytest.raises(BadInput, match=r"2 time points; choose one with --time, 0 to 1"):
            find_volume(url, axes="tzyx")
        with pytest.raises(BadInput, match="time 2"):
            find_volume(url, axes="tzyx", time=2)
        ref = find_volume(url, axes="tzyx", time=1)
        np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE))[0], array[1])

    def test_a_single_time_point_is_taken(self, tmp_path):
        array = voxels(shape=(1, *SHAPE))
        ref = find_volume(self.make(tmp_path, array), axes="tzyx")
        np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE)), array)


class AnyArray(FourAxes):
    """Formats that hold arrays of any number of axes and any dtype."""

    def test_unstated_axes_are_asked_for(self, tmp_path):
        for count, example in ((4, "czyx"), (5, "tczyx")):
            (tmp_path / str(count)).mkdir()
            shape = (1,) * (count - 3) + SHAPE
            with pytest.raises(BadInput, match=rf"{count} axes .* taken as zyx.*--axes {example}"):
                find_volume(self.make(tmp_path / str(count), voxels(shape=shape)))

    def test_two_axes_are_refused(self, tmp_path):
        with pytest.raises(BadInput, match=r"2 axes \(14, 11\)"):
            find_volume(self.make(tmp_path, voxels(shape=SHAPE[1:])))

    @pytest.mark.parametrize("dtype", ["bool", "complex64", "uint64", "int64"])
    def test_dtypes_without_intensities_are_refused(self, tmp_path, dtype):
        with pytest.raises(BadInput, match=rf"data type {dtype}; supported are uint8.*: .+"):
            find_volume(self.make(tmp_path, voxels(dtype)))

    @pytest.mark.parametrize("dtype", ["int8", "int16", "uint32", "int32", "float16", "float64"])
    def test_other_dtypes_are_read(self, tmp_path, dtype):
        array = voxels(dtype)
        got = read_box(find_volume(self.make(tmp_path, array)), Box.whole(SHAPE))
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got[0], array)

    def test_label_volumes_may_be_64_bit(self, tmp_path):
        array = voxels("uint64") + np.uint64(2**40)
        url = self.make(tmp_path, array)
        got = read_box(find_volume(url, labels=True), Box.whole(SHAPE))
        np.testing.assert_array_equal(got[0], array)

    def test_an_extent_of_zero_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match="extent 0 on axis y"):
            find_volume(self.make(tmp_path, voxels(shape=(3, 0, 4))))


def _zarr(url: str, array: np.ndarray, **how: Any) -> str:
    chunks = how.pop("chunks", tuple(min(n, 4) or 1 for n in array.shape))
    stored = zarr.create_array(url, shape=array.shape, dtype=array.dtype, chunks=chunks, **how)
    if array.size:
        stored[...] = array
    return url


class TestZarr2(AnyArray, VolumeContract):
    kind = "zarr"
    chunks = (4, 4, 4)

    def make(self, folder, array):
        return _zarr(str(folder / "v.zarr"), array, zarr_format=2)


class TestZarr3(AnyArray, VolumeContract):
    kind = "zarr"
    chunks = (4, 4, 4)

    def make(self, folder, array):
        return _zarr(str(folder / "v.zarr"), array, zarr_format=3)


class TestZarrShards(AnyArray, VolumeContract):
    kind = "zarr"
    chunks = (4, 4, 4)
    """What is decoded at once is the chunk, not the shard."""

    def make(self, folder, array):
        shards = tuple(4 * (1 + i % 2) for i in range(array.ndim))
        return _zarr(
            str(folder / "v.zarr"), array, shards=shards, chunks=(4,) * array.ndim, zarr_format=3
        )


class TestZarrInAGroup(AnyArray, VolumeContract):
    kind = "zarr"
    chunks = (4, 4, 4)

    def make(self, folder, array):
        zarr.open_group(str(folder / "g.zarr"), mode="w", zarr_format=3)
        _zarr(str(folder / "g.zarr" / "inside" / "raw"), array)
        zarr.open_group(str(folder / "g.zarr" / "inside"), mode="a", zarr_format=3)
        return str(folder / "g.zarr")


class TestMemoryUrl(AnyArray, VolumeContract):
    kind = "zarr"
    chunks = (4, 4, 4)

    def make(self, folder, array):
        return _zarr(f"memory://{folder.as_posix().strip('/')}/v.zarr", array)


class TestNpy(AnyArray, VolumeContract):
    kind = "npy"

    def make(self, folder, array):
        np.save(folder / "v.npy", array)
        return str(folder / "v.npy")

    def test_a_file_that_was_cut_off_is_refused(self, tmp_path):
        url = Path(self.make(tmp_path, voxels()))
        url.write_bytes(url.read_bytes()[:-10])
        with pytest.raises(BadInput, match="cut off"):
            find_volume(url)

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not numpy at all", b"\x93NUMPY\x09"])
    def test_other_content_is_refused(self, tmp_path, content):
        (tmp_path / "v.npy").write_bytes(content)
        with pytest.raises(BadInput, match=r"v\.npy"):
            find_volume(tmp_path / "v.npy")

    def test_pickled_objects_are_refused(self, tmp_path):
        np.save(tmp_path / "v.npy", np.array([[[object()]]]), allow_pickle=True)
        with pytest.raises(BadInput, match="object"):
            find_volume(tmp_path / "v.npy")


class TestNpyFortranOrder(TestNpy):
    def make(self, folder, array):
        return super().make(folder, np.asfortranarray(array))


class TestNpyElsewhere(AnyArray, VolumeContract):
    """Read by byte ranges, in both memory orders."""

    kind = "npy"
    order = "C"

    def make(self, folder, array):
        import io

        import fsspec

        stream = io.BytesIO()
        np.save(stream, np.asarray(array, order=self.order))
        url = f"memory://{folder.as_posix().strip('/')}/v.npy"
        fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), stream.getvalue())
        return url


class TestNpyElsewhereFortranOrder(TestNpyElsewhere):
    order = "F"


class TestTiff(FourAxes, VolumeContract):
    kind = "tiff"
    chunks = (1, 14, 11)
    options: ClassVar[dict[str, Any]] = {}

    def make(self, folder, array):
        tifffile.imwrite(
            folder / "v.tif",
            array,
            photometric="minisblack",
            byteorder=array.dtype.str[0] if array.dtype.str[0] in "<>" else "<",
            **self.options,
        )
        return str(folder / "v.tif")

    def test_a_single_plane_is_refused(self, tmp_path):
        with pytest.raises(BadInput, match="2 axes"):
            find_volume(self.make(tmp_path, voxels(shape=SHAPE[1:])))


class TestTiffCompressed(TestTiff):
    options: ClassVar[dict[str, Any]] = {"compression": "zlib"}


class TestTiffTiled(TestTiff):
    chunks = (1, 16, 16)
    options: ClassVar[dict[str, Any]] = {"tile": (16, 16)}


class TestTiffAppended(VolumeContract):
    """Pages that were written one after the other, each an image of its own."""

    kind = "tiff"
    chunks = (1, 14, 11)
    axis_orders = ("zyx",)

    def make(self, folder, array):
        path = folder / "v.tif"
        path.unlink(missing_ok=True)
        order = array.dtype.str[0] if array.dtype.str[0] in "<>" else "<"
        for number, plane in enumerate(array):
            tifffile.imwrite(path, plane, append=number > 0, byteorder=order)
        return str(path)


class TestTiffElsewhere(TestTiff):
    def make(self, folder, array):
        import fsspec

        path = Path(super().make(folder, array))
        url = f"memory://{folder.as_posix().strip('/')}/v.tif"
        fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), path.read_bytes())
        return url


@pytest.mark.parametrize("suite", [TestTiff, TestTiffCompressed, TestTiffTiled, TestTiffAppended])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_tiff_that_was_cut_off_is_never_read_short(tmp_path, suite, share):
    path = Path(suite().make(tmp_path, voxels()))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises((BadInput, BlockFailed), match=r"v\.tif"):
        read_box(find_volume(path), Box.whole(SHAPE))


@pytest.mark.parametrize(
    "suite",
    [TestNpy, TestNpyFortranOrder, TestTiff, TestTiffCompressed, TestTiffTiled, TestTiffAppended],
)
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9, None])
def test_a_file_that_was_cut_off_or_removed_since_it_was_found_fails_its_blocks(
    tmp_path, suite, share
):
    path = Path(suite().make(tmp_path, voxels()))
    ref = find_volume(path)
    content = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BlockFailed, match=re.escape(str(path))) as caught:
        read_box(ref, Box.whole(SHAPE))
    assert "\n" not in str(caught.value)


class TestTiffFolder(VolumeContract):
    kind = "tiff_folder"
    chunks = (1, 14, 11)

    def make(self, folder, array):
        (folder / "planes").mkdir()
        order = array.dtype.str[0] if array.dtype.str[0] in "<>" else "<"
        for number, plane in enumerate(array):
            # 8, 9, 10: the names are not in alphabetical order.
            path = folder / "planes" / f"plane{number + 8}.tif"
            tifffile.imwrite(path, plane, byteorder=order)
        (folder / "planes" / "notes.txt").write_text("not a plane")
        return str(folder / "planes")

    def test_chunks_follow_the_axes(self, tmp_path):
        ref = find_volume(self.make(tmp_path, voxels()), axes="xyz")
        assert describe(ref).chunks == (11, 14, 1)

    def test_a_plane_of_another_shape_is_named(self, tmp_path):
        url = Path(self.make(tmp_path, voxels()))
        tifffile.imwrite(url / "plane10.tif", voxels(shape=(14, 12)))
        ref = find_volume(url)
        read_box(ref, Box((0, 0, 0), (2, 14, 11)))
        with pytest.raises(BlockImpossible, match=r"plane10\.tif has shape \(14, 12\)"):
            read_box(ref, Box.whole(SHAPE))

    def test_files_of_many_pages_are_refused(self, tmp_path):
        for name in "ab":
            tifffile.imwrite(tmp_path / f"{name}.tif", voxels())
        with pytest.raises(BadInput, match=r"a\.tif has 5 pages"):
            find_volume(tmp_path)

    def test_only_needed_planes_are_opened(self, tmp_path, monkeypatch):
        ref = find_volume(self.make(tmp_path, voxels()))
        opened = []
        real = tifffile.TiffFile

        def counting(*args, **kwargs):
            opened.append(Path(kwargs["name"]).name)
            return real(*args, **kwargs)

        monkeypatch.setattr(tifffile, "TiffFile", counting)
        read_box(ref, Box((2, 0, 0), (4, 14, 11)))
        assert opened.count("plane10.tif") == 1
        assert opened.count("plane11.tif") == 1
        assert set(opened) == {"plane10.tif", "plane11.tif"}

    def test_planes_that_come_or_go_do_not_move_the_others(self, tmp_path):
        url = Path(self.make(tmp_path, voxels()))
        ref = find_volume(url)
        (url / "plane9.tif").rename(url / "plane99.tif")
        with pytest.raises(BlockImpossible, match="changed since they were counted: 5 then, 5 now"):
            read_box(ref, Box((0, 0, 0), (1, 14, 11)))


def test_colour_planes_become_channels(tmp_path):
    array = voxels("uint8", (3, 14, 11, 3))
    tifffile.imwrite(tmp_path / "rgb.tif", array, photometric="rgb")
    ref = find_volume(tmp_path / "rgb.tif")
    assert (ref.axes, describe(ref).channels) == ("zyxc", 3)
    box = Box.whole((3, 14, 11))
    np.testing.assert_array_equal(read_box(ref, box), array.transpose(3, 0, 1, 2))


def test_imagej_states_axes_and_voxel_size(tmp_path):
    array = voxels("uint16", (3, 2, 14, 11))
    tifffile.imwrite(
        tmp_path / "ij.tif",
        array,
        imagej=True,
        resolution=(1 / 0.25, 1 / 0.5),
        metadata={"axes": "ZCYX", "spacing": 2.5, "unit": "um"},
    )
    ref = find_volume(tmp_path / "ij.tif", channel=1)
    facts = describe(ref)
    assert ref.axes == "zcyx"
    assert facts.voxel_size == pytest.approx((2.5, 0.5, 0.25))
    assert facts.unit == "micrometer"
    np.testing.assert_array_equal(read_box(ref, Box.whole((3, 14, 11)))[0], array[:, 1])


def test_ome_tiff_states_voxel_size_in_mixed_units(tmp_path):
    tifffile.imwrite(
        tmp_path / "v.ome.tif",
        voxels(),
        metadata={
            "axes": "ZYX",
            "PhysicalSizeX": 4.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 4.0,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 0.04,
            "PhysicalSizeZUnit": "\u00b5m",
        },
    )
    facts = describe(find_volume(tmp_path / "v.ome.tif"))
    assert facts.voxel_size == pytest.approx((40.0, 4.0, 4.0))
    assert facts.unit == "nanometer"


def test_only_the_pages_of_the_box_are_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "v.tif", voxels(), compression="zlib")
    ref = find_volume(tmp_path / "v.tif")
    decoded = []
    for page in (tifffile.TiffPage, tifffile.TiffFrame):
        real = page.asarray

        def counting(self, *args, real=real, **kwargs):
            decoded.append(self.index)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(page, "asarray", counting)
    read_box(ref, Box((1, 0, 0), (3, 14, 11)))
    assert set(decoded) == {1, 2}


@pytest.mark.parametrize("how", [{"zarr_format": 2}, {"shards": (8, 8, 8), "zarr_format": 3}])
def test_every_chunk_is_read_once(tmp_path, monkeypatch, how):
    array = voxels(shape=(16, 16, 16))
    _zarr(str(tmp_path / "v.zarr"), array, chunks=(4, 4, 4), **how)
    ref = find_volume(tmp_path / "v.zarr", axes="xzy")
    seen = []
    real = zarr.storage.LocalStore.get

    async def counting(self, key, prototype=None, byte_range=None):
        seen.append((key, repr(byte_range)))
        return await real(self, key, prototype, byte_range)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counting)
    got = read_box(ref, Box((1, 1, 1), (8, 9, 16)))[0]
    np.testing.assert_array_equal(got, array.transpose(1, 2, 0)[1:8, 1:9, 1:16])
    data = [one for one in seen if not one[0].endswith((".zarray", ".zattrs", "zarr.json"))]
    assert len(data) == len(set(data))
    if "shards" not in how:
        assert len(data) == 4 * 2 * 3
    else:  # shards that are needed whole come at once, of the others the index and the ranges
        whole = {key for key, span in data if span == "None"}
        assert whole
        assert all(span == "None" for key, span in data if key in whole)
