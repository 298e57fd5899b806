"""The doctor's look at a store: the verdict that each store gets, and what is left behind."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import uuid
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import fsspec
import numpy as np
import pytest
import tifffile
import zarr

from orthoflow.stores.probes import probe_store
from orthoflow.stores.urls import locate
from tests.s3 import SECRET, close_sessions, free_port, new_bucket

WRITES = [
    *("write", "read", "suffix range", "list", "create only", "overwrite", "delete many"),
    *("clock", "latency"),
]


def verdicts(checks):
    """By name, after a look at what holds for all checks."""
    assert SECRET not in json.dumps([asdict(check) for check in checks])
    for check in checks:
        assert "\n" not in check.found + check.remedy
        assert check.topic == "store"
        assert check.found
        assert check.verdict == "ok" or (check.verdict != "absent" and check.remedy), check
    return {check.name: check.verdict for check in checks}


def named(checks, name):
    return next(check for check in checks if check.name == name)


def objects_in(bucket):
    return fsspec.filesystem("s3", use_listings_cache=False).find(bucket)


def changes(proxy):
    return proxy.seen("PUT", "POST", "DELETE")


# ----------------------------------------------------------------------- where outputs may go


def test_a_disk_passes_and_nothing_stays(tmp_path):
    (tmp_path / "old").write_text("kept")
    for url in (tmp_path, tmp_path / "not" / "there" / "yet"):
        checks = probe_store(url)
        assert verdicts(checks) == dict.fromkeys(["reach", *WRITES], "ok")
        assert "GiB free" in named(checks, "write").found
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_memory_passes_and_nothing_stays():
    url = f"memory://{uuid.uuid4().hex}"
    assert verdicts(probe_store(url)) == dict.fromkeys(["reach", *WRITES], "ok")
    assert locate(url).filesystem()[0].find(url) == []


@pytest.mark.s3
@pytest.mark.parametrize(
    ("faulty", "doubts"),
    [("ceph", []), ("moto", ["authentication"]), ("rclone", ["create only"])],
    indirect=["faulty"],
)
def test_a_bucket_passes_but_for_what_its_server_does_not_do(faulty, doubts):
    bucket, proxy = faulty
    for url in (bucket, f"{bucket}/new/out.zarr"):
        expected = dict.fromkeys(["reach", "authentication", *WRITES], "ok")
        assert verdicts(probe_store(url)) == expected | dict.fromkeys(doubts, "warning")
    assert objects_in(bucket) == []
    own = [one for one in changes(proxy) if "/.orthoflow-probe-" in one.path]
    assert len(own) > 20
    assert {one.query for one in changes(proxy) if one not in own} <= {"delete", "delete="}


@pytest.mark.s3
def test_a_checksum_that_is_not_of_the_range_has_a_remedy(rclone, monkeypatch):
    with rclone.connected():
        bucket = new_bucket()
        for name in rclone.settings:
            monkeypatch.delenv(name)
        checks = probe_store(bucket)
        assert verdicts(checks)["suffix range"] == "fails"
        for name, value in rclone.settings.items():  # with these it passes, see above
            assert f"{name}={value}" in named(checks, "suffix range").remedy
        assert objects_in(bucket) == []


# ------------------------------------------------------------------------------ what may not be


@pytest.mark.s3
@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_a_verdict(ceph_bucket, monkeypatch, wrong):
    close_sessions("s3")
    monkeypatch.setenv(wrong, "mistyped")
    checks = probe_store(f"{ceph_bucket}/out.zarr")
    assert verdicts(checks) == {"reach": "ok", "authentication": "ok", "read": "fails"}
    assert "credentials rejected" in named(checks, "read").found
    assert "credentials" in named(checks, "read").remedy


@pytest.mark.s3
@pytest.mark.parametrize("server", ["ceph", "moto", "rclone"])
def test_a_missing_bucket_is_a_verdict(request, server):
    with request.getfixturevalue(server).connected():
        checks = probe_store("s3://no-such-bucket-here/out.zarr")
        assert verdicts(checks) == {"reach": "fails"}
        assert "no such bucket" in checks[0].found


@pytest.mark.s3
def test_a_server_that_does_not_answer_is_a_verdict(bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    nobody = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    checks = probe_store(bucket, nobody)
    assert verdicts(checks) == {"reach": "fails"}
    assert "does not answer" in checks[0].found


def test_an_address_that_cannot_be_is_a_verdict(tmp_path):
    for url in ("ftp://host/x", "s3://key:secret@bucket/x", "", "github://a:b@c/d"):
        checks = probe_store(url)
        assert verdicts(checks) == {"address": "fails"}
        assert "secret" not in checks[0].found
    (tmp_path / "file").write_text("x")
    checks = probe_store(tmp_path / "file" / "out.zarr")
    assert verdicts(checks)["write"] == "fails"


@pytest.mark.s3
def test_a_bucket_that_is_read_only_is_a_verdict(faulty):
    bucket, proxy = faulty
    proxy.inject("status", status=403, methods={"PUT"})
    checks = probe_store(f"{bucket}/out.zarr")
    assert verdicts(checks)["write"] == "fails"
    assert list(verdicts(checks)) == ["reach", "authentication", "write"]
    assert "credentials" in named(checks, "write").remedy


@pytest.mark.s3
def test_what_could_not_be_removed_is_named(faulty):
    bucket, proxy = faulty
    fault = proxy.inject("status", status=403, methods={"POST", "DELETE"})
    checks = probe_store(bucket)
    found = verdicts(checks)
    assert {name for name, verdict in found.items() if verdict == "fails"} == {
        "delete many",
        "clean up",
    }
    assert fault.hits >= 2
    assert f"remove {bucket}/.orthoflow-probe-" in named(checks, "clean up").remedy


def test_a_store_that_forgets_is_a_verdict(tmp_path, monkeypatch):
    """By hand: no server here mixes bytes up, or hides what was written."""
    kind = fsspec.get_filesystem_class("file")
    monkeypatch.setattr(kind, "cat_file", lambda *_, **__: b"?" * 64)
    found = verdicts(probe_store(tmp_path))
    assert (found["read"], found["overwrite"], found["create only"]) == (
        "fails",
        "fails",
        "warning",
    )
    monkeypatch.undo()
    monkeypatch.setattr(kind, "cat_file", lambda *_, **asked: b"?" * ("end" not in asked))
    assert verdicts(probe_store(tmp_path))["suffix range"] == "fails"
    monkeypatch.undo()
    monkeypatch.setattr(kind, "ls", lambda *_, **__: [])
    assert verdicts(probe_store(tmp_path))["list"] == "fails"


def test_a_clock_that_is_an_hour_off_is_a_verdict(tmp_path, monkeypatch):
    kind = fsspec.get_filesystem_class("file")
    for hours in (1, -1):
        moment = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(kind, "modified", lambda *_, at=moment: at)
        checks = probe_store(tmp_path)
        assert verdicts(checks)["clock"] == "warning"
        assert 3000 < int(named(checks, "clock").found.split()[0]) <= 3600


# ------------------------------------------------------------------------------------- volumes


@pytest.fixture
def volume(tmp_path):
    zarr.create_array(
        tmp_path / "in" / "v.zarr",
        data=np.arange(4096, dtype="uint8").reshape(16, 16, 16),
        chunks=(8, 8, 8),
        shards=(16, 16, 16),
        overwrite=True,
    )
    return tmp_path / "in" / "v.zarr"


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_nothing_is_written_into_a_volume_or_below_it(volume):
    before = contents(volume.parent)
    for url, what in ((volume, "a Zarr array"), (volume / "c" / "0", "part of the Zarr array")):
        checks = probe_store(url)
        names = ["reach", "place", "list", "read", "suffix range", "latency"]
        assert verdicts(checks) == dict.fromkeys(names, "ok")
        assert what in named(checks, "place").found
        assert "that outputs go to" in named(checks, "place").remedy
    assert contents(volume.parent) == before
    assert "write" in verdicts(probe_store(volume.parent))


def test_files_are_read_only_too(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((4, 5, 6), "uint8"))
    (tmp_path / "planes").mkdir()
    tifffile.imwrite(tmp_path / "planes" / "z0.tif", np.zeros((5, 6), "uint8"))
    before = contents(tmp_path)
    checks = probe_store(tmp_path / "v.npy")
    assert verdicts(checks) == dict.fromkeys(["reach", "place", "list", "read", "latency"], "ok")
    checks = probe_store(tmp_path / "planes")
    assert "folder of TIFF planes" in named(checks, "place").found
    assert contents(tmp_path) == before


@pytest.mark.s3
def test_a_volume_in_a_bucket_is_only_read(faulty, volume):
    bucket, proxy = faulty
    fsspec.filesystem("s3").put(str(volume), f"{bucket}/v.zarr", recursive=True)
    proxy.forget()
    for url in (f"{bucket}/v.zarr", f"{bucket}/v.zarr/c/0"):
        assert {"place": "ok", "suffix range": "ok"}.items() <= verdicts(probe_store(url)).items()
    assert changes(proxy) == []
    assert len(proxy.seen("GET", suffix=True)) == 2


@pytest.mark.s3
def test_a_volume_that_may_not_be_listed_can_be_read(faulty, volume):
    bucket, proxy = faulty
    fsspec.filesystem("s3").put(str(volume), f"{bucket}/v.zarr", recursive=True)
    proxy.inject("status", status=403, keys=bucket[5:])
    found = verdicts(probe_store(f"{bucket}/v.zarr"))
    assert (found["reach"], found["list"], found["read"]) == ("ok", "fails", "ok")


@pytest.fixture
def web(volume):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(volume.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    close_sessions("http")


def test_a_web_server_without_ranges_cannot_serve_shards(web):
    checks = probe_store(f"{web}/v.zarr")
    found = verdicts(checks)
    assert (found["reach"], found["read"], found["suffix range"]) == ("ok", "ok", "fails")
    assert "sharded" in named(checks, "suffix range").remedy
    assert "list" not in found
    found = verdicts(probe_store(f"{web}/nothing.zarr"))
    assert found["read"] == "fails"
