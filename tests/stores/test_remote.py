"""An S3 server and a web server on this machine: the same volumes, other ways."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading

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
from orthoflow.stores.pyramid import build_level_box, level_boxes, reduce_labels
from orthoflow.stores.urls import exists, probe_write
from orthoflow.stores.volumes import describe, find_volume, read_box, summarize
from tests.s3 import SECRET, close_sessions, free_port

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
    create_output(url, spec, {"run": 1})
    for box in split(Box.whole(SHAPE), levels[0].shard):
        write_box(url, array.path, 0, box, volume()[box.slices])
    for box in level_boxes(levels[1]):
        build_level_box(url, array.path, 1, box)
    np.testing.assert_array_equal(read_level(url, array.path, 0), volume())
    np.testing.assert_array_equal(
        read_level(url, array.path, 1), reduce_labels(volume(), levels[1].factors)
    )
    assert read_record(url, "run") == {"run": 1}
    with pytest.raises(BadInput, match="exists already"):
        create_output(url, spec, {})
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{bucket}/out.zarr2/keep", b"another's")
    create_output(url, spec, {"run": 2}, overwrite=True)
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
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    nobody = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    with pytest.raises(StoreRefused, match="does not answer"):
        find_volume(f"{bucket}/v.zarr", storage_options=nobody)


@pytest.fixture
def web(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
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
