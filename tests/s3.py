"""A moto server on loopback as an object store: fixtures for every test that needs one."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import fsspec
import pytest

SECRET = "canary-secret-7d1f"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def s3_endpoint():
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    close_sessions("s3")
    server.terminate()
    server.wait(10)


def close_sessions(protocol):
    """Forget the file systems of this server; zarr's run in its own loop and close there."""
    from zarr.core.sync import sync

    kind = fsspec.get_filesystem_class(protocol)
    for fs in list(kind._cache.values()):
        session = getattr(fs, "_s3creator", None) or getattr(fs, "_session", None)
        if fs.asynchronous and session is not None:
            sync(session.__aexit__(None, None, None))
    kind.clear_instance_cache()


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, request):
    """A bucket's URL; credentials and address are in the environment only."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "canary-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3")
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    fs.mkdir(name)
    return f"s3://{name}"
