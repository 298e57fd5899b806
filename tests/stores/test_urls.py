"""Addresses: what is accepted, what is shown, what lies inside what, what a probe leaves."""

from __future__ import annotations

import os
import pickle

import fsspec
import pytest

from orthoflow.errors import BadInput, StoreRefused
from orthoflow.stores import urls
from orthoflow.stores.urls import display_url, exists, is_inside, locate, probe_write
from orthoflow.stores.volumes import find_volume

CANARY = "hunter2"
CLIENT = {"config_kwargs": {"connect_timeout": 10.0, "read_timeout": 30.0}, "max_concurrency": 1}


@pytest.mark.parametrize(
    ("url", "kept", "protocol"),
    [
        ("/a/b.zarr/", "/a/b.zarr", "file"),
        ("file:///a/b%20c.zarr", "/a/b c.zarr", "file"),
        ("file://localhost/a", "/a", "file"),
        ("/odd?name#1", "/odd?name#1", "file"),
        ("s3://bucket/a.zarr/", "s3://bucket/a.zarr", "s3"),
        ("S3://bucket/a.zarr", "s3://bucket/a.zarr", "s3"),
        ("https://host/a.tif?download=1", "https://host/a.tif?download=1", "https"),
        ("memory://a", "memory://a", "memory"),
    ],
)
def test_accepted_addresses(url, kept, protocol):
    place = locate(url)
    assert (place.url, place.protocol) == (kept, protocol)


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate("in.zarr").url == str(tmp_path / "in.zarr")
    assert locate("~/in.zarr").url == os.path.expanduser("~/in.zarr")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a\0b",
        "simplecache::s3://b/a.zarr",
        "zip://a.zarr::/tmp/a.zip",
        "reference://x",
        "github://owner:repo@main/x",
        "ftp://host/x",
        "s3://",
        "s3://bucket/../other",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://metadata.google.internal/x",
        "http://[broken/x",
        f"https://me:{CANARY}@host/a.zarr",
        f"s3://me:{CANARY}@bucket/a.zarr",
        f"https://host/a.tif?X-Amz-Signature={CANARY}",
        f"https://host/a.tif?sv=1&sig={CANARY}",
        f"https://host/a.tif?access_token={CANARY}",
    ],
)
def test_refused_addresses(url):
    with pytest.raises(BadInput) as caught:
        locate(url)
    assert CANARY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "package"), [("gs://b/a", "gcsfs"), ("gcs://b/a", "gcsfs"), ("az://c/a", "adlfs")]
)
def test_a_missing_package_is_named(monkeypatch, url, package):
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=f"pip install {package}"):
        locate(url)
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda _: object())
    assert locate(url).protocol in {"gs", "abfs"}


def test_what_is_shown_has_no_credentials():
    assert display_url(f"https://me:{CANARY}@host/a?sig={CANARY}") == "https://host/a?..."
    assert display_url("s3://bucket/a.zarr") == "s3://bucket/a.zarr"
    assert display_url("/local?path@x") == "/local?path@x"


@pytest.mark.parametrize("name", ["key", "secret", "token", "password", "aws_secret_access_key"])
def test_secret_options_are_refused(name):
    with pytest.raises(BadInput, match="in the environment or a profile") as caught:
        locate("s3://b/a", {name: CANARY})
    assert CANARY not in str(caught.value)


def test_options_are_checked_and_travel_as_text():
    place = locate("s3://b/a", {"endpoint_url": "http://127.0.0.1:9", "anon": True})
    assert place.options == (("anon", "true"), ("endpoint_url", "http://127.0.0.1:9"))
    assert place.keywords() == {"anon": True, "endpoint_url": "http://127.0.0.1:9", **CLIENT}
    for options in (
        {"unheard_of": 1},
        {"anon": "perhaps"},
        {"endpoint_url": f"http://a:{CANARY}@h"},
    ):
        with pytest.raises(BadInput) as caught:
            locate("s3://b/a", options)
        assert CANARY not in str(caught.value)
    assert locate("s3://b/a", {"region": "eu"}).keywords() == {
        "client_kwargs": {"region_name": "eu"},
        **CLIENT,
    }


def test_timeouts_are_public_options_of_s3():
    options = {"connect_timeout": 2, "read_timeout": "0.5"}
    place = locate("s3://b/a", options)
    assert place.options == (("connect_timeout", "2"), ("read_timeout", "0.5"))
    assert place.keywords()["config_kwargs"] == {"connect_timeout": 2.0, "read_timeout": 0.5}
    fs, _ = place.filesystem()
    assert fs._prepare_config_kwargs() == {"connect_timeout": 2.0, "read_timeout": 0.5}
    assert fs.retries == 1
    for wrong in ("soon", "0", "-1", "nan", "inf", "3601", ""):
        with pytest.raises(BadInput, match=r"option read_timeout=.* up to 3600; leave it out"):
            locate("s3://b/a", {"read_timeout": wrong})


def test_each_store_takes_its_own_options(monkeypatch):
    """One list serves an input in one store and an output in another."""
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda _: object())
    every = {"region": "eu", "read_timeout": 5, "project": "p", "account_name": "n", "anon": True}
    assert locate("memory://a", every).keywords() == {}
    assert locate("https://host/a", every).keywords() == {}
    assert locate("gs://b/a", every).keywords() == {"project": "p", "token": "anon"}
    assert locate("az://c/a", every).keywords() == {"account_name": "n", "anon": True}
    assert set(locate("s3://b/a", every).keywords()) == {"anon", "client_kwargs", *CLIENT}


def test_no_secret_of_the_environment_is_in_a_ref(tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    np.save(tmp_path / "v.npy", np.ones((2, 2, 2)))
    ref = find_volume(tmp_path / "v.npy")
    assert CANARY.encode() not in pickle.dumps(ref)


def test_children_stay_below():
    place = locate("s3://b/a")
    assert place.child("x/0").url == "s3://b/a/x/0"
    assert place.child("x").parent == place
    assert place.child("") == place
    for path in ("..", "a/../b", "/abs", "a//b", "."):
        with pytest.raises(BadInput):
            place.child(path)
    with pytest.raises(BadInput, match="query"):
        locate("https://h/a?x=1").child("0")


@pytest.mark.parametrize(
    ("inner", "outer", "inside"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b/c", "/a/b/", True),
        ("/a/bc", "/a/b", False),
        ("/a", "/a/b", False),
        ("/a/x/../b", "/a/b", True),
        ("file:///a/b/c", "/a/b", True),
        ("s3://b/k/x", "s3://b/k", True),
        ("s3://b/kx", "s3://b/k", False),
        ("s3://b/k", "memory://b/k", False),
    ],
)
def test_inside(inner, outer, inside):
    assert is_inside(inner, outer) is inside


def test_inside_follows_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert is_inside(tmp_path / "link" / "out.zarr", tmp_path / "real")


def test_a_probe_leaves_nothing(tmp_path):
    probe_write(tmp_path / "new" / "out.zarr")
    assert list(tmp_path.iterdir()) == []
    probe_write("memory://probe/out.zarr")
    assert fsspec.filesystem("memory").find("/probe") == []


def test_a_probe_says_what_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        probe_write(tmp_path / "file" / "out.zarr")
    with pytest.raises(BadInput, match="read only over https"):
        probe_write("https://example.org/out.zarr")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), OSError(30, "ro"), OSError(28, "full")]
)
def test_refusals_of_a_disk_are_one_error(tmp_path, monkeypatch, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr(urls.tempfile, "TemporaryFile", refuse)
    with pytest.raises(StoreRefused, match="check permissions and free space"):
        probe_write(tmp_path / "out.zarr")


def test_exists(tmp_path):
    assert exists(tmp_path)
    assert not exists(tmp_path / "nope")
    assert not exists("memory://nope/at/all")
