"""S6, S7 and S9: volumes that swell when they are read, and names that lead elsewhere.

Frames of zstd, blosc and lz4 that announce too much, chunks of petabytes and documents of gigabytes
are in `tests/stores/test_zarr_inputs.py`; here is what announces nothing, and all that is no Zarr.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import os
import pickle
from contextlib import suppress

import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from orthoflow import cli
from orthoflow.errors import BadInput, BlockFailed, BlockImpossible
from orthoflow.geometry.box import Box
from orthoflow.geometry.output import ArraySpec, LevelSpec, OutputSpec
from orthoflow.options import Options
from orthoflow.stores.bombs import is_counted, unpacks_beyond
from orthoflow.stores.markers import Marker, Stamp, create_marker, write_failure
from orthoflow.stores.ome import create_output, read_record, write_record
from orthoflow.stores.tiff_checks import jpeg_2000_samples, jpeg_samples
from orthoflow.stores.urls import locate
from orthoflow.stores.volumes import find_volume, read_box, summarize
from tests.security.hostile import (
    MEBI,
    memory_grows_by_at_most,
    npy,
    one_tile_tiff,
    ramp,
    refusal,
    zlib_of_zeros,
    zstd_without_a_size,
)

SWOLLEN = 256 * MEBI
ENOUGH = 64 * MEBI
CUBE = Box((0, 0, 0), (4, 4, 4))


def gzip_of_zeros(total):
    """Small members one after the other, each honest."""
    return gzip.compress(bytes(MEBI)) * (total // MEBI)


BOMBS = {
    "gzip": gzip_of_zeros,
    "zlib": zlib_of_zeros,
    "bz2": lambda total: bz2.compress(bytes(MEBI)) * (total // MEBI),
    "lzma": lambda total: lzma.compress(bytes(MEBI), preset=0) * (total // MEBI),
    "zstd": zstd_without_a_size,
}
VERSION_3 = {name: f"numcodecs.{name}" for name in ("zlib", "bz2", "lzma")}


# --------------------------------------------------------------------------- S6: packed chunks


def zarr_2(folder, compressor, chunk, *, filters=None, dtype="|u1", **more):
    """A volume of one chunk of 64 voxels."""
    (folder / "0/0").mkdir(parents=True)
    document = {
        "zarr_format": 2,
        "shape": [4, 4, 4],
        "chunks": [4, 4, 4],
        "dtype": dtype,
        "compressor": compressor,
        "filters": filters,
        "fill_value": 0,
        "order": "C",
        "dimension_separator": "/",
        **more,
    }
    (folder / ".zarray").write_text(json.dumps(document))
    (folder / "0/0/0").write_bytes(chunk)
    return folder


def zarr_3(folder, codecs, chunk, *, shape=(4, 4, 4)):
    (folder / "c/0/0").mkdir(parents=True)
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
    }
    (folder / "zarr.json").write_text(json.dumps(document))
    (folder / "c/0/0/0").write_bytes(chunk)
    return folder


def codec(name, **configuration):
    return {"name": name, "configuration": configuration}


def shard_of(frames):
    """A shard that holds these frames, and its index."""
    from google_crc32c import value

    starts = np.cumsum([0, *map(len, frames)])[:-1]
    index = np.array([[s, len(f)] for s, f in zip(starts, frames, strict=True)], "<u8").tobytes()
    return b"".join(frames) + index + value(index).to_bytes(4, "little")


INDEX = [codec("bytes", endian="little"), codec("crc32c")]


def sharded(folder, codecs, frames):
    """Two chunks of 64 voxels in one shard."""
    inner = codec(
        "sharding_indexed",
        chunk_shape=[4, 4, 4],
        codecs=codecs,
        index_codecs=INDEX,
        index_location="end",
    )
    return zarr_3(folder, [inner], shard_of(frames), shape=(4, 4, 8))


def packed_by(name):
    return codec(
        VERSION_3.get(name, name),
        **{"level": 1, "checksum": False}
        if "zstd" in name
        else {"level": 1}
        if name in {"gzip", "zlib", "bz2"}
        else {},
    )


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("how", ["v2", "v3", "shard"])
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_s6_chunks_that_announce_nothing_are_counted(tmp_path, name, how):
    bomb = BOMBS[name](SWOLLEN)
    assert len(bomb) < SWOLLEN / 100
    honest = numcodecs.get_codec({"id": name}).encode(ramp(64))
    codecs = [codec("bytes"), packed_by(name)]

    def make(folder, frame):
        if how == "v2":
            return zarr_2(folder, {"id": name}, frame)
        if how == "v3":
            return zarr_3(folder, codecs, frame)
        return sharded(folder, codecs, [honest, frame])

    whole = Box((0, 0, 0), (4, 4, 8)) if how == "shard" else CUBE
    good = find_volume(make(tmp_path / "good.zarr", honest))
    np.testing.assert_array_equal(read_box(good, whole)[0, ..., -4:], ramp((4, 4, 4)))
    ref = find_volume(make(tmp_path / "bad.zarr", bomb))
    for box in (whole, Box((0, 0, whole.stop[2] - 4), whole.stop)):
        with memory_grows_by_at_most(ENOUGH):
            message = refusal(read_box, ref, box, kinds=BlockImpossible)
        assert "unpacks to more than the 128 bytes" in message
        assert "0/0/0 of" in message


@pytest.mark.parametrize("name", sorted(BOMBS))
@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 2**20 + 5])
@pytest.mark.parametrize("kind", ["zeros", "noise", "few"])
def test_s6_honest_chunks_are_counted_to_the_byte(name, size, kind):
    random = np.random.default_rng(0)
    high = {"zeros": 1, "noise": 256, "few": 4}[kind]
    content = random.integers(0, high, size, np.uint8).tobytes()
    frame = memoryview(numcodecs.get_codec({"id": name}).encode(content or b""))
    assert is_counted(name)
    assert not unpacks_beyond(name, frame, size)
    if size and name != "zstd":  # whose size is announced as a rule, and else bounded only
        assert unpacks_beyond(name, frame, size - 1)
    for cut in (frame[: len(frame) // 2], frame[1:]):  # damaged: the library says how
        if name != "lzma" or cut[:1] == frame[:1]:
            assert not unpacks_beyond(name, cut, size)


def test_s6_zstd_frames_are_bounded_by_their_blocks():
    """A quarter of what they can hold, less one: blocks need not be full."""
    block = 2**17
    assert not unpacks_beyond("zstd", memoryview(zstd_without_a_size(block)), 0)
    for total in (2**20, 2**22):
        frame = memoryview(zstd_without_a_size(total))
        least = (total - block) // 4
        assert not unpacks_beyond("zstd", frame, least)
        assert unpacks_beyond("zstd", frame, least - 1)


def test_s6_an_xz_that_wants_gigabytes_to_work_with_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30, "preset": 0}]
    frame = lzma.compress(bytes(64), filters=filters)
    ref = find_volume(zarr_2(tmp_path / "a.zarr", {"id": "lzma"}, frame))
    assert "unpacks to more" in refusal(read_box, ref, CUBE, kinds=BlockImpossible)


def test_s6_raw_xz_cannot_be_counted_and_is_refused(tmp_path):
    settings = {"id": "lzma", "format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2}]}
    frame = lzma.compress(bytes(2**20), format=lzma.FORMAT_RAW, filters=settings["filters"])
    ref = find_volume(zarr_2(tmp_path / "a.zarr", settings, frame))
    assert "unpacks to more" in refusal(read_box, ref, CUBE, kinds=BlockImpossible)


CHAINS = {
    "packed twice": [codec("bytes"), codec("gzip", level=1), codec("zstd", level=1)],
    "a checksum in front": [codec("bytes"), codec("zstd", level=1), codec("numcodecs.crc32")],
    "a filter outside": [codec("bytes"), codec("gzip", level=1), codec("numcodecs.shuffle")],
    "shards in shards": [
        codec(
            "sharding_indexed",
            chunk_shape=[4, 4, 4],
            index_codecs=INDEX,
            codecs=[
                codec(
                    "sharding_indexed",
                    chunk_shape=[2, 2, 2],
                    codecs=[codec("bytes")],
                    index_codecs=INDEX,
                )
            ],
        )
    ],
    "a packed index": [
        codec(
            "sharding_indexed",
            chunk_shape=[2, 2, 2],
            codecs=[codec("bytes")],
            index_codecs=[codec("bytes", endian="little"), codec("zstd", level=1)],
        )
    ],
    "shards behind others": [
        codec("transpose", order=[2, 1, 0]),
        codec(
            "sharding_indexed", chunk_shape=[2, 2, 2], codecs=[codec("bytes")], index_codecs=INDEX
        ),
    ],
    "an array that states its size": [codec("numcodecs.zfpy")],
    "text": [codec("vlen-utf8")],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_s6_chains_of_codecs_that_cannot_be_looked_through_are_refused(tmp_path, chain):
    folder = zarr_3(tmp_path / "a.zarr", CHAINS[chain], bytes(64))
    for call in (find_volume, summarize):
        assert "zarr.json" in refusal(call, folder)


@pytest.mark.parametrize("place", ["compressor", "filters", "fill_value"])
def test_s6_codecs_that_build_objects_run_no_code(tmp_path, trap, monkeypatch, place):
    """The registry of codecs has one that unpickles; newer versions ask before they do."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    with trap.live():
        numcodecs.get_codec({"id": "pickle"}).decode(trap.pickled())
    evil = {"id": "pickle", "protocol": 5}
    facts = {
        "compressor": {"compressor": evil},
        "filters": {"compressor": None, "filters": [{"id": "shuffle"}, evil]},
        "fill_value": {
            "compressor": None,
            "filters": [evil],
            "dtype": "|O",
            "fill_value": base64.b64encode(trap.pickled()).decode(),
        },
    }[place]
    folder = zarr_2(tmp_path / "a.zarr", chunk=trap.pickled(), **facts)
    assert "'pickle', which is not read" in refusal(find_volume, folder)


# --------------------------------------------------------------------------- S6: TIFF, NumPy


def packed_tiles():
    big = np.zeros((8000, 8000), np.uint8)
    return {
        8: zlib_of_zeros(SWOLLEN),
        32773: b"\x81\0" * 2**21,
        5: imagecodecs.lzw_encode(bytes(SWOLLEN // 4)),
        34925: lzma.compress(bytes(SWOLLEN // 4), preset=0),
        50000: zstd_without_a_size(SWOLLEN),
        7: imagecodecs.jpeg8_encode(big),
        34712: imagecodecs.jpeg2k_encode(big, codecformat="j2k", level=1),
        33005: imagecodecs.jpeg2k_encode(big, codecformat="jp2", level=1),
        34933: imagecodecs.png_encode(big),
        34887: imagecodecs.lerc_encode(big),
        50001: imagecodecs.webp_encode(np.zeros((4000, 4000, 3), np.uint8)),
    }


@pytest.fixture(scope="module")
def tiles():
    return packed_tiles()


@pytest.mark.parametrize(
    "compression", [8, 32773, 5, 34925, 50000, 7, 34712, 33005, 34933, 34887, 50001]
)
def test_s6_tiles_that_swell_are_bounded_by_the_page(tmp_path, tiles, compression):
    """One tile of 64 KiB; what comes out of it is 16 MiB to 256 MiB."""
    folder = one_tile_tiff(tmp_path / "planes/p0.tif", compression, tiles[compression])
    with memory_grows_by_at_most(32 * MEBI):
        if compression in {5, 34925}:  # their libraries stop where the page is full
            voxels = read_plane(folder)
            assert voxels.shape == (1, 1, 256, 256)
            assert not voxels.any()
        else:
            refusal(read_plane, folder, kinds=(BadInput, BlockFailed))


def read_plane(folder):
    return read_box(find_volume(folder), Box((0, 0, 0), (1, 256, 256)))


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (300, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_s6_sizes_of_pictures_are_read_right(size, channels):
    picture = np.zeros((*size, channels) if channels > 1 else size, np.uint8)
    samples = picture.size
    assert jpeg_samples(imagecodecs.jpeg8_encode(picture)) == samples
    for kind in ("j2k", "jp2"):
        assert jpeg_2000_samples(imagecodecs.jpeg2k_encode(picture, codecformat=kind)) == samples


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda" + bytes(20), bytes(50)])
def test_s6_pictures_without_a_size_have_none(content):
    assert jpeg_samples(content) is None
    assert jpeg_2000_samples(content) is None
    boxed = b"\x00\x00\x00\x0cjP  \r\n\x87\n" + content
    assert jpeg_2000_samples(boxed) is None


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("how", ["folder", "stack", "tiles"])
def test_s6_honest_pictures_are_read(tmp_path, compression, how):
    planes = np.broadcast_to(ramp((64, 64)) // 64 * 60, (3, 64, 64))
    options = {"compression": compression, "photometric": "minisblack"}
    options |= {"compressionargs": {"reversible": True}} if compression == "jpeg2000" else {}
    options |= {"tile": (32, 32)} if how == "tiles" else {}
    path = tmp_path / ("planes" if how == "folder" else "v.tif")
    if how == "folder":
        path.mkdir()
        for number, plane in enumerate(planes):
            tifffile.imwrite(path / f"{number}.tif", plane, **options)
    else:
        tifffile.imwrite(path, planes, **options)
    voxels = read_box(find_volume(path), Box.whole(planes.shape))[0]
    worst = np.abs(voxels.astype(int) - planes).max()
    assert worst <= (0 if compression == "jpeg2000" else 20)


def test_s6_a_page_of_a_terabyte_is_refused(tmp_path):
    folder = one_tile_tiff(tmp_path / "planes/p0.tif", 1, bytes(64), side=2**20)
    with memory_grows_by_at_most(ENOUGH):
        assert "at most 2147483648" in refusal(find_volume, folder)


def header(descr="'|u1'", shape="(4, 4, 4)"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    "content",
    [
        npy(header(shape="(1000000000000, 1000000000, 4)")),
        npy(header(shape="(-4, 4, -4)")),
        npy(header(shape="(-4, 4, 4)")),
        npy(header(shape="(True, 4, 4)")),
        npy(header(shape="(4.0, 4, 4)")),
        npy(header(shape="(" + "1, " * 70 + ")")),
        npy(header(descr="'|O'")),
        npy(header(descr="'|S0'")),
        npy(header(descr="[('a', '<f4', (1000000000,))]")),
        npy(header(descr="[('a', '|V2000000000')]")),
        npy("(" * 5000),
        npy("__import__('pathlib').Path('sprung').touch()"),
        npy("{'descr': '|u1', 'shape': " + "(" * 300 + ")" * 300 + "}"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        b"\x93NUMPY\x03\x00\x10\x00\x00\x00" + bytes(100),
    ],
    ids=lambda content: content[10:70].decode("latin-1").replace("\0", ""),
)
def test_s6_headers_of_numpy_files_that_swell_or_stumble(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.npy").write_bytes(content)
    with memory_grows_by_at_most(32 * MEBI):
        assert "v.npy" in refusal(find_volume, tmp_path / "v.npy")
    assert os.listdir(tmp_path) == ["v.npy"]


def test_s6_pickled_numpy_arrays_run_no_code(tmp_path, trap):
    content = npy(header("'|O'", "(1, 1, 1)"), trap.pickled())
    (tmp_path / "v.npy").write_bytes(content)
    with trap.live():
        pickle.loads(trap.pickled())
    refusal(find_volume, tmp_path / "v.npy")


# --------------------------------------------------------------------------- S7: metadata

OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
SIZES = 'SizeX="8" SizeY="8" SizeZ="4" SizeC="1" SizeT="1"'
LISTED = '<TiffData IFD="0" PlaneCount="4"/>'


def ome_tiff(path, listed=LISTED, *, sizes=SIZES, front="", back=""):
    """Four planes whose OME-XML is written by the attacker."""
    xml = (
        f'<?xml version="1.0"?>{front}<OME {OME} UUID="urn:uuid:1"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {sizes}>{listed}</Pixels>'
        f"</Image>{back}</OME>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, ome=False) as writer:
        for number in range(4):
            plane = np.full((8, 8), number + 1, np.uint8)
            text = xml if number == 0 else None
            writer.write(plane, description=text, metadata=None, contiguous=False)
    return path


def modulo(end):
    return (
        '<StructuredAnnotations><XMLAnnotation ID="A:0" Namespace="dimension/modulo"><Value>'
        f'<Modulo><ModuloAlongZ Type="other" Start="0" Step="1" End="{end}"/></Modulo>'
        "</Value></XMLAnnotation></StructuredAnnotations>"
    )


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
HUGE = {
    "size": {"sizes": SIZES.replace('SizeZ="4"', 'SizeZ="200000000"')},
    "sizes": {"sizes": SIZES.replace('"1"', '"20000"')},
    "negative": {"sizes": SIZES.replace('SizeZ="4"', 'SizeZ="-4"')},
    "count": {"listed": '<TiffData IFD="0" PlaneCount="30000000"/>'},
    "planes": {"listed": '<TiffData IFD="0" NumPlanes="1e99"/>'},
    "place": {"listed": '<TiffData IFD="0" FirstZ="99999999999"/>'},
    "modulo": {"back": modulo(3e8)},
    "laughs": {"front": f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>', "back": "<x>&a9;</x>"},
    "external": {"front": '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "back": "&x;"},
}


def test_s7_honest_ome_xml_is_read(tmp_path):
    ref = find_volume(ome_tiff(tmp_path / "v.ome.tif", back=modulo(4)))
    assert read_box(ref, Box((0, 0, 0), (4, 1, 1))).ravel().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", HUGE)
def test_s7_ome_xml_cannot_have_lists_made(tmp_path, kind):
    path = ome_tiff(tmp_path / "v.ome.tif", **HUGE[kind])
    with memory_grows_by_at_most(32 * MEBI):
        assert "OME-XML" in refusal(find_volume, path)


def test_s7_planes_that_are_nowhere_are_no_zeros(tmp_path):
    """tifffile reads zeros for them, and says so in its log only."""
    path = ome_tiff(tmp_path / "v.ome.tif", sizes=SIZES.replace('SizeZ="4"', 'SizeZ="8"'))
    box = Box((0, 0, 0), (8, 1, 1))
    message = refusal(read_box, find_volume(path), box, kinds=BlockImpossible)
    assert "planes that are not there" in message
    assert "--missing-input fill" in message
    voxels = read_box(find_volume(path, missing="fill"), box)
    assert voxels.ravel().tolist() == [1, 2, 3, 4, 0, 0, 0, 0]


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "attributes",
    [
        f'{{"a": {deep(50_000)}}}',
        '{"a": ' + "9" * 5000 + "}",
        '{"multiscales": ' + deep(500) + "}",
        '{"multiscales": [{"datasets": [{"path": "0"}], "axes": ["z", "y", "x", "x", "x"]}]}',
        '{"multiscales": [{"datasets": [' + ",".join(['{"path": "0"}'] * 20_000) + "]}]}",
        '{"multiscales": [{"datasets": [{"path": "../../x"}], "axes": ["z", "y", "x"]}]}',
        '{"multiscales": [{"datasets": [{"path": "/etc"}], "axes": ["z", "y", "x"]}]}',
    ],
    ids=lambda text: text[:40],
)
def test_s7_attributes_of_groups_that_swell_or_lead_elsewhere(tmp_path, attributes):
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text(
        f'{{"zarr_format": 3, "node_type": "group", "attributes": {attributes}}}'
    )
    with memory_grows_by_at_most(ENOUGH):
        refusal(find_volume, folder)


@pytest.mark.parametrize("separator", ["/../../", "..", "", "\0", "/"])
def test_s7_separators_of_keys_cannot_climb(tmp_path, separator):
    """Below the array, chunk 0/0/0 would be ../../0 with such a separator."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    folder = zarr_2(tmp_path / "a.zarr", None, bytes(64), dimension_separator=separator)
    if separator == "/":
        assert not read_box(find_volume(folder), CUBE).any()
    else:
        refusal(find_volume, folder)


# --------------------------------------------------------------------------- S9: names that climb

CLIMBING = ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a\0b"]


@pytest.mark.parametrize("name", [name for name in CLIMBING if name])
def test_s9_arrays_inside_an_input_stay_inside(tmp_path, name):
    zarr.create_array(tmp_path / "secret", data=ramp((4, 4, 4)))
    zarr.create_group(tmp_path / "in.zarr")
    before = sorted(tmp_path.rglob("*"))
    refusal(find_volume, tmp_path / "in.zarr", array=name)
    refusal(find_volume, tmp_path / "in.zarr", array=f"../{'secret' if name == '..' else name}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../secret/s.tif", "{}/secret/s.tif", "..\\secret\\s.tif"])
def test_s9_an_ome_tiff_takes_no_planes_from_elsewhere(tmp_path, name):
    """OME-TIFF may be spread over files, which its XML names."""
    (tmp_path / "secret").mkdir()
    tifffile.imwrite(
        tmp_path / "secret/s.tif", np.full((4, 8, 8), 99, np.uint8), photometric="minisblack"
    )

    def listed(name):
        one = '<TiffData IFD="{0}" FirstZ="{0}"><UUID FileName="{1}">urn:uuid:2</UUID></TiffData>'
        return "".join(one.format(number, name) for number in range(4))

    path = ome_tiff(tmp_path / "given/a.ome.tif", listed(name.format(tmp_path)))
    assert "not in its folder" in refusal(find_volume, path)
    # Its neighbours are what such a file is made of.
    tifffile.imwrite(
        tmp_path / "given/b.tif", np.full((4, 8, 8), 7, np.uint8), photometric="minisblack"
    )
    path = ome_tiff(tmp_path / "given/a.ome.tif", listed("b.tif"))
    assert read_box(find_volume(path), Box((0, 0, 0), (1, 1, 1))).item() == 7


@pytest.mark.parametrize(
    "name", [*CLIMBING, "...", " ", "orthoflow/run", "a b", "ä", "a\nb", "a\x1b"]
)
def test_s9_labels_have_plain_names(tmp_path, name):
    """Of the option, of the path in the store, whichever comes first; nothing is made."""
    outside = tmp_path / "work"
    outside.mkdir()

    def create():
        options = Options(name=name)
        spec = output_spec(f"labels/{options.name}")
        create_output(outside / "out.zarr", spec, {"fingerprint": "ab" * 32})

    refusal(create)
    assert list(tmp_path.rglob("*")) == [outside]


def output_spec(path):
    level = LevelSpec((4, 4, 4), (1, 1, 1), (4, 4, 4), (4, 4, 4))
    array = ArraySpec(path, "labels", "uint8", 0, (level,))
    return OutputSpec((array,), "0.5", None, None, (0.0, 0.0, 0.0), 1)


@pytest.mark.parametrize("name", [*CLIMBING, "a/../b", "x/..", "\x1b[2J"])
def test_s9_records_and_markers_have_plain_names(tmp_path, name):
    url = tmp_path / "out.zarr"
    for call in (
        lambda: write_record(url, name, {"a": 1}),
        lambda: read_record(url, name),
        lambda: create_marker(
            url,
            Marker(f"blocks/{name}", "ab" * 32, "0:1,0:1,0:1", (Stamp("a/b", 1, "ab" * 16),), {}),
        ),
        lambda: create_marker(
            url,
            Marker("blocks/0-0-0", f"ab{name}", "0:1,0:1,0:1", (Stamp("a/b", 1, "ab" * 16),), {}),
        ),
        lambda: write_failure(
            url, "ab" * 32, f"blocks/{name}", {"block": "b", "reason": "r", "tries": 1}
        ),
        lambda: write_failure(
            url, f"../{name}", "blocks/0-0-0", {"block": "b", "reason": "r", "tries": 1}
        ),
    ):
        refusal(call)
    assert list(tmp_path.iterdir()) == []


def test_s9_a_marker_cannot_name_objects_outside(tmp_path):
    """`verify` reads what markers name."""
    for key in (
        "../secret",
        "/etc/passwd",
        "a/../../secret",
        "labels/../../x",
        "a",
        "a//b",
        "a/b\0",
    ):
        marker = Marker("blocks/0-0-0", "ab" * 32, "0:1,0:1,0:1", (Stamp(key, 1, "ab" * 16),), {})
        refusal(create_marker, tmp_path / "out.zarr", marker)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["there", "not there"])
def test_s9_an_output_that_is_a_link_is_refused(tmp_path, target):
    (tmp_path / "there").mkdir()
    link = tmp_path / "out.zarr"
    link.symlink_to(tmp_path / target)
    for overwrite in (False, True):
        message = refusal(
            create_output,
            link,
            output_spec("labels/a"),
            {"fingerprint": "ab" * 32},
            overwrite=overwrite,
        )
        assert "symbolic link" in message
    assert not list((tmp_path / "there").iterdir())
    assert not (tmp_path / "not there").exists()


def test_s9_replacing_an_output_follows_no_link_out_of_it(tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "data").write_text("kept")
    url = tmp_path / "out.zarr"
    create_output(url, output_spec("labels/a"), {"fingerprint": "ab" * 32})
    for name in ("linked", "labels/linked", "orthoflow/linked"):
        (url / name).symlink_to(outside)
    create_output(url, output_spec("labels/a"), {"fingerprint": "cd" * 32}, overwrite=True)
    assert (outside / "data").read_text() == "kept"
    assert not [path for path in url.rglob("*") if path.is_symlink()]


def test_s9_names_in_a_location_stay_below(tmp_path):
    place = locate(tmp_path)
    for name in (name for name in CLIMBING if name and "\0" not in name):
        assert "'..' parts" in refusal(place.child, name)


@pytest.mark.parametrize("command", ["info", "plan"])
def test_s9_names_command_no_terminal(tmp_path, capsys, command):
    """What hostile metadata calls its arrays is shown in messages."""
    owned = "\x1b]0;owned\x07\x1b[2Jname"
    group = zarr.create_group(tmp_path / "in.zarr")
    for name in ("other", owned):
        group.create_array(name, data=ramp((4, 4, 4)))
    more = ["--divisor", "8"] if command == "plan" else []
    with suppress(SystemExit):
        cli.main([command, str(tmp_path / "in.zarr"), *more])
    printed = "".join(capsys.readouterr())
    assert "name" in printed
    assert all(one.isprintable() or one == "\n" for one in printed)
