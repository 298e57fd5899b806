"""An S3 server and a web server on this machine: the same volumes, other ways."""

from __future__ import annotations

import functools
import http.server
import pickle

import fsspec
import numpy as np
import pytest
import tifffile
import zarr

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.geometry.box import Box, split
from orthoflow.geometry.levels import pyramid_levels
from orthoflow.geometry.output import ArraySpec, OutputSpec
from orthoflow.stores.ome import create_output, read_level, read_record, write_box
from orthoflow.stores.patience import patiently
from orthoflow.stores.pyramid import build_level_box, level_boxes, reduce_labels
from orthoflow.stores.urls import exists, probe_write
from orthoflow.stores.volumes import describe, find_volume, read_box, summarize
from tests.s3 import SECRET, close_sessions, free_port
from tests.web import served

SHAPE = (9, 40, 30)


def volume(dtype="uint8"):
    return np.random.default_rng(5).integers(0, 200, SHAPE).astype(dtype)


@pytest.mark.s3
def test_a_zarr_in_a_bucket_is_read(bucket):
    zarr.create_array(
        f"{bucket}/v.zarr",
        data=volume(),
        chunks=(4, 16, 16),
        shards=(8, 32, 32),
        dimension_names=["z", "y", "x"],
    )
    ref = find_volume(f"{bucket}/v.zarr")
    box = Box((1, 3, 5), (8, 39, 21))
    np.testing.assert_array_equal(read_box(ref, box)[0], volume()[box.slices])
    assert describe(ref).chunks == (4, 16, 16)
    assert SECRET.encode() not in pickle.dumps(ref)
    assert summarize(f"{bucket}/v.zarr")["kind"] == "zarr"
    with pytest.raises(BadInput, match="no array at s3://"):
        find_volume(f"{bucket}/nothing.zarr")


@pytest.mark.s3
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_an_output_in_a_bucket_is_written(bucket, version):
    url = f"{bucket}/out.zarr"
    shard = (8, 32, 32) if version == "0.5" else (8, 16, 16)
    levels = pyramid_levels(SHAPE, None, (8, 16, 16), shard, count=2)
    array = ArraySpec("labels/cells", "labels", "uint8", 0, levels)
    spec = OutputSpec((array,), version, None, None, (0.0, 0.0, 0.0), 1)
    probe_write(url)
    assert not exists(url)
    create_output(url, spec, {"run": 1, "fingerprint": "ab"})
    for box in split(Box.whole(SHAPE), levels[0].shard):
        write_box(url, spec, array.path, 0, box, volume()[box.slices])
    for box in level_boxes(levels[1]):
        build_level_box(url, spec, array.path, 1, box)
    np.testing.assert_array_equal(read_level(url, array.path, 0), volume())
    np.testing.assert_array_equal(
        read_level(url, array.path, 1), reduce_labels(volume(), levels[1].factors)
    )
    assert read_record(url, "run")["run"] == 1
    with pytest.raises(BadInput, match="exists already"):
        create_output(url, spec, {"fingerprint": "ab"})
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{bucket}/out.zarr2/keep", b"another's")
    create_output(url, spec, {"run": 2, "fingerprint": "ab"}, overwrite=True)
    assert fs.cat_file(f"{bucket}/out.zarr2/keep") == b"another's"
    assert (read_level(url, array.path, 0) == 0).all()
    fs.invalidate_cache()
    stored = b"".join(fs.cat_file(path) for path in fs.find(url))
    assert b"labels/cells/0" in stored
    assert SECRET.encode() not in stored


@pytest.mark.s3
def test_files_in_a_bucket_are_read(bucket, tmp_path):
    fs = fsspec.filesystem("s3")
    np.save(tmp_path / "v.npy", volume())
    tifffile.imwrite(tmp_path / "v.tif", volume(), compression="zlib")
    for name in ("v.npy", "v.tif"):
        fs.put_file(str(tmp_path / name), f"{bucket}/{name}")
        ref = find_volume(f"{bucket}/{name}")
        box = Box((2, 3, 4), (5, 20, 30))
        np.testing.assert_array_equal(read_box(ref, box)[0], volume()[box.slices])
    for number, plane in enumerate(volume()):
        tifffile.imwrite(tmp_path / "plane.tif", plane)
        fs.put_file(str(tmp_path / "plane.tif"), f"{bucket}/planes/p{number}.tif")
    ref = find_volume(f"{bucket}/planes")
    assert ref.kind == "tiff_folder"
    np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE))[0], volume())


@pytest.mark.s3
@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_said_before_any_work():
    with pytest.raises(StoreRefused, match="no such bucket"):
        probe_write("s3://no-such-bucket-here/out.zarr")


@pytest.mark.s3
def test_missing_credentials_are_one_line(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    other = {"region": "eu-west-1"}  # another file system than that of the other tests
    for call in (probe_write, find_volume):
        with pytest.raises(StoreRefused, match="credentials of the environment") as caught:
            call(f"{bucket}/out.zarr", storage_options=other)
        assert "\n" not in str(caught.value)


@pytest.mark.s3
def test_a_server_that_does_not_answer_is_one_line(bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("orthoflow.stores.volumes.START_PATIENCE", 0)
    nobody = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(StoreRefused, match="does not answer"):
        find_volume(f"{bucket}/v.zarr", storage_options=nobody)


def requests_of(proxy, url, call):
    """Method, key below `url` and range of every request that `call` makes."""
    proxy.forget()
    call()
    below = f"{url.removeprefix('s3://')}/"
    return sorted((one.method, one.path.removeprefix(below), one.range) for one in proxy.seen())


def stored(url, **how):
    zarr.create_array(url, data=volume(), **{"chunks": (4, 16, 16), **how})
    return find_volume(url)


@pytest.mark.s3
@pytest.mark.parametrize(("how", "prefix"), [({}, "c/"), ({"zarr_format": 2}, "")])
def test_a_chunk_is_one_request_and_metadata_none(faulty, how, prefix):
    url, proxy = faulty
    ref = stored(f"{url}/v.zarr", **how)
    box = Box((1, 3, 5), (8, 33, 16))
    got = []
    seen = requests_of(proxy, ref.url, lambda: got.append(read_box(ref, box)))
    np.testing.assert_array_equal(got[0][0], volume()[box.slices])
    join = "/" if prefix else "."
    keys = [f"{prefix}{z}{join}{y}{join}0" for z in (0, 1) for y in (0, 1, 2)]
    assert seen == [("GET", key, None) for key in keys]


@pytest.mark.s3
def test_a_shard_is_its_index_and_its_chunks_or_all_at_once(faulty):
    url, proxy = faulty
    ref = stored(f"{url}/v.zarr", shards=(8, 32, 32), filters=None, compressors=None)
    got = []

    def spans(box):
        return requests_of(proxy, ref.url, lambda: got.append((box, read_box(ref, box)[0])))

    index = 16 * 8 + 4
    suffix = ("GET", "c/0/0/0", f"bytes=-{index}")
    one = spans(Box((0, 0, 0), (4, 16, 16)))
    assert one == [suffix, ("GET", "c/0/0/0", "bytes=0-1023")]
    half = spans(Box((0, 0, 0), (4, 17, 17)))  # 4 of 8 chunks
    assert suffix in half
    assert len(half) <= 1 + 4
    assert {method for method, _, _ in half} == {"GET"}
    most = spans(Box((0, 0, 0), (8, 20, 17)))
    assert most == [("GET", "c/0/0/0", None)]
    # Beyond the volume a shard holds nothing: of the last one 2 chunks of 2 are wanted.
    edge = spans(Box((8, 32, 0), (9, 40, 20)))
    assert edge == [("GET", "c/1/1/0", None)]
    everything = spans(Box.whole(SHAPE))
    assert everything == [("GET", f"c/{z}/{y}/0", None) for z in (0, 1) for y in (0, 1)]
    for box, voxels in got:
        np.testing.assert_array_equal(voxels, volume()[box.slices])


@pytest.mark.s3
def test_rows_of_a_file_are_one_request(faulty, tmp_path):
    url, proxy = faulty
    np.save(tmp_path / "v.npy", volume())
    fsspec.filesystem("s3").put_file(str(tmp_path / "v.npy"), f"{url}/v.npy")
    ref = find_volume(f"{url}/v.npy")
    box = Box((2, 3, 4), (5, 20, 30))
    got = []
    seen = requests_of(proxy, url, lambda: got.append(read_box(ref, box)))
    np.testing.assert_array_equal(got[0][0], volume()[box.slices])
    assert seen == [("GET", "v.npy", "bytes=2528-6127")]


SHARDS = {"shards": (8, 32, 32)}
FAULTS = {
    "slow down": {"kind": "status", "status": 503},
    "internal": {"kind": "status", "status": 500},
    "gateway": {"kind": "status", "status": 502, "code": "BadGateway"},
    "reset": {"kind": "reset"},
    "lost": {"kind": "lose"},
    "cut off": {"kind": "truncate"},
    "hung": {"kind": "hang", "seconds": 60},
}


@pytest.mark.s3
@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, {}) for name in FAULTS), *((name, SHARDS) for name in ("slow down", "cut off"))],
    ids=lambda one: one if isinstance(one, str) else "shards" if one else "chunks",
)
def test_a_fault_that_passes_is_outlived(faulty, monkeypatch, name, how):
    url, proxy = faulty
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # or the client below repeats most of it alone
    stored(f"{url}/v.zarr", **how)
    ref = find_volume(f"{url}/v.zarr", storage_options={"read_timeout": 0.5})
    box = Box((0, 0, 0), (4, 20, 20))
    # aiohttp asks a second time when a connection was reset that it had used before.
    fault = proxy.inject(**FAULTS[name], keys="*/c/*", count=6)
    calls = []

    def read():
        calls.append(1)
        return read_box(ref, box)

    got = patiently(read, seconds=60, doing="read", sleep=lambda _: None)
    np.testing.assert_array_equal(got[0], volume()[box.slices])
    assert fault.hits == 6
    assert len(calls) > 1


@pytest.mark.s3
def test_a_hung_connection_costs_the_timeout_times_the_tries_of_the_client(faulty, monkeypatch):
    url, proxy = faulty
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    stored(f"{url}/v.zarr")
    ref = find_volume(f"{url}/v.zarr", storage_options={"read_timeout": 0.2})
    fault = proxy.inject("hang", seconds=60, keys="*/c/*")
    with pytest.raises(StoreRefused, match=r"cannot read x: the store does not answer for 0 s \("):
        patiently(lambda: read_box(ref, Box((0, 0, 0), (1, 1, 1))), seconds=0, doing="read x")
    assert fault.hits == 2


@pytest.mark.s3
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch"),
        (400, "ExpiredToken"),
        (400, "InvalidToken"),
        (401, "Unheard"),
    ],
)
def test_rejected_credentials_end_it_at_once(faulty, status, code):
    url, proxy = faulty
    ref = stored(f"{url}/v.zarr")
    proxy.inject("status", status=status, code=code, keys="*/c/*")
    proxy.forget()
    with pytest.raises(StoreRefused) as caught:
        patiently(lambda: read_box(ref, Box((0, 0, 0), (1, 1, 1))), seconds=60, doing="read")
    message = str(caught.value)
    assert f"credentials rejected for {url}: " in message
    assert f"({code}); check the credentials of the environment" in message
    assert "\n" not in message
    assert SECRET not in message
    assert len(proxy.seen()) == 1


@pytest.mark.s3
def test_what_a_user_waits_for_outlives_a_short_fault(faulty, monkeypatch):
    url, proxy = faulty
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    ref = stored(f"{url}/v.zarr")
    fault = proxy.inject("truncate", methods={"GET"}, keys="*/zarr.json", count=2)
    assert describe(ref).shape == SHAPE
    assert fault.hits == 2


@pytest.fixture
def web(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with served(handler) as address:
        yield address
    close_sessions("http")


def test_a_zarr_on_a_web_server_is_read(tmp_path, web):
    zarr.create_array(tmp_path / "v.zarr", data=volume(), chunks=(4, 16, 16), zarr_format=2)
    ref = find_volume(f"{web}/v.zarr")
    box = Box((1, 3, 5), (8, 39, 21))
    np.testing.assert_array_equal(read_box(ref, box)[0], volume()[box.slices])
    with pytest.raises(BadInput, match="no array at http://"):
        find_volume(f"{web}/nothing.zarr")


def test_files_on_a_web_server_without_ranges_are_read(tmp_path, web):
    np.save(tmp_path / "v.npy", volume())
    tifffile.imwrite(tmp_path / "v.tif", volume())
    for name in ("v.npy", "v.tif", "v.tif?download=1"):
        ref = find_volume(f"{web}/{name}")
        np.testing.assert_array_equal(read_box(ref, Box.whole(SHAPE))[0], volume())
    with pytest.raises(BadInput, match="no file at"):
        find_volume(f"{web}/gone.tif")
