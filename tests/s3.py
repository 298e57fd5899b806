"""Object stores on loopback: how a test speaks to one, and moto, the quickest of them.

`tests.ceph` and `tests.rclone` start others, `tests.proxy` stands in front of any.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import fsspec
import pytest

SECRET = "canary-secret-7d1f"

# Between a server and whoever started it: when the pipe ends, for whatever reason, so does the
# server, and its folder goes. A test run that is killed leaves nothing behind.
_KEEPER = """
import json, shutil, subprocess, sys
command, folder = json.loads(sys.argv[1])
server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
sys.stdin.buffer.read()
server.kill()
server.wait()
if folder:
    shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks S3, and what it keeps of S3's promises."""

    name: str
    url: str
    key: str = "canary-key"
    secret: str = SECRET
    checks_keys: bool = True
    creates_once: bool = True
    """Whether a conditional put (`If-None-Match: *`) is refused where something is."""
    settings: dict[str, str] = field(default_factory=dict)

    def at(self, url):
        """The same server behind another address."""
        return replace(self, url=url)

    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **self.settings,
        }

    @contextmanager
    def connected(self):
        """Address and credentials are in the environment, and nowhere else."""
        close_sessions("s3")  # of another server
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            yield self
            close_sessions("s3")


def new_bucket():
    """URL of an empty bucket on the server of the environment."""
    name = f"b{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers_at(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(command, *, port=None, log=None, folder=None, seconds=60):
    """Run a server until the end of the block, or of this process; then `folder` goes too.

    Comes back once `port` answers. What the server printed is in `log`.
    """
    wish = json.dumps([[str(part) for part in command], str(folder) if folder else None])
    with open(log or "/dev/null", "wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-c", _KEEPER, wish],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; the server ends with them
        )
    try:
        end = time.monotonic() + seconds
        while port is not None and not answers_at(port):
            if time.monotonic() > end:
                said = Path(log).read_text(errors="replace")[-2000:] if log else ""
                raise TimeoutError(f"{command[0]} is silent after {seconds} s: {said}")
            time.sleep(0.02)
        yield
    finally:
        keeper.stdin.close()
        keeper.wait(20)


def close_sessions(protocol):
    """Forget the file systems of this server; zarr's run in its own loop and close there."""
    from zarr.core.sync import sync

    kind = fsspec.get_filesystem_class(protocol)
    for fs in list(kind._cache.values()):
        session = getattr(fs, "_s3creator", None) or getattr(fs, "_session", None)
        if fs.asynchronous and session is not None:
            sync(session.__aexit__(None, None, None))
    kind.clear_instance_cache()


@pytest.fixture(scope="session")
def moto():
    """Quick, holds everything in memory, checks no key."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, port=port):
        yield Endpoint("moto", f"http://127.0.0.1:{port}", checks_keys=False)


@pytest.fixture
def bucket(moto):
    """A bucket's URL; credentials and address are in the environment only."""
    with moto.connected():
        yield new_bucket()
