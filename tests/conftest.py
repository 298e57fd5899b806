"""What every test gets: one thread, no network, a plain word about services that are missing."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys

# Read by the libraries when they are imported, so set before anything imports them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.s3", "tests.ceph", "tests.rclone", "tests.proxy", "tests.commands"]

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", parent=settings.get_profile("ci"), max_examples=3000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def require_service():
    """Say why a service is missing: a skip on a developer's machine, a failure in CI.

    ``require_service("sbatch", None if shutil.which("sbatch") else "not on PATH")``
    """

    def check(name, reason):
        if reason is None:
            return
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"{name} is required (REQUIRE_SERVICES=1): {reason}", pytrace=False)
        pytest.skip(f"{name}: {reason}")

    return check


@pytest.fixture(autouse=True)
def _one_torch_thread():
    """Bits of float32 convolutions depend on the threads; a test may change them for itself."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


def _is_local(address):
    if not isinstance(address, tuple):  # a path: Unix sockets
        return True
    host = address[0]
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Refuse connections that leave this machine.

    Datagram sockets pass: Dask "connects" one, sending nothing, to learn its own address.
    """

    def guarded(original):
        def connect(self, address):
            if self.type & socket.SOCK_STREAM and not _is_local(address):
                raise PermissionError(f"tests may not connect to {address}")
            return original(self, address)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        yield
