"""Ceph's RADOS gateway on loopback: a real object store, with real authentication, in a second.

One monitor, one daemon that keeps objects in memory, one gateway; no systemd, no root, and
everything in one folder. Without the Debian packages ceph-mon, ceph-osd and radosgw the tests
that need it are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.s3 import Endpoint, free_port, new_bucket, serving

_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# The last block is about speed: nothing here need wait for votes, or five seconds until it asks
# again.
_CONFIGURATION = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{v2}/0,v1:127.0.0.1:{v1}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_cluster_mode = crc
ms_service_mode = crc
ms_client_mode = crc
ms_mon_cluster_mode = crc
ms_mon_service_mode = crc
ms_mon_client_mode = crc

run_dir = {folder}
admin_socket = {folder}/$name.sock
log_file = {folder}/$name.log
crash_dir = {folder}
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1

osd_objectstore = memstore
memstore_device_bytes = 8G
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false

paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_tick_interval = 1
objecter_tick_interval = 0.1
"""


@pytest.fixture(scope="session")
def ceph(require_service):
    """An empty Ceph object store with one user."""
    # Debian puts daemons where an ordinary user's PATH does not look.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])
    missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    require_service("Ceph", f"{', '.join(missing)} not installed" if missing else None)
    # A socket's path has at most 107 bytes, so not below pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="ceph-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        with _cluster(folder) as endpoint:
            yield endpoint


@pytest.fixture
def ceph_bucket(ceph):
    """A bucket's URL on Ceph; credentials and address are in the environment only."""
    with ceph.connected():
        yield new_bucket()


@contextmanager
def _cluster(folder):
    port, v1, v2 = free_port(), free_port(), free_port()
    fsid, disk = uuid.uuid4(), uuid.uuid4()
    settings = folder / "ceph.conf"
    settings.write_text(_CONFIGURATION.format(fsid=fsid, folder=folder, port=port, v1=v1, v2=v2))
    (folder / "osd").mkdir()
    endpoint = Endpoint("ceph", f"http://127.0.0.1:{port}")

    def call(program, *arguments):
        _call([program, "-c", str(settings), *map(str, arguments)])

    def daemon(program, name, **more):
        command = [program, "-c", settings, "-n", name, "-f"]
        stack.enter_context(serving(command, log=folder / f"{program}.out", **more))

    address = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    _call(["monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, folder / "map"])
    with ExitStack() as stack:
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "map")
        daemon("ceph-mon", "mon.a", port=v2, folder=folder)
        call("ceph", "--connect-timeout", 30, "osd", "new", disk)
        call("ceph-osd", "-i", 0, "--mkfs", "--osd-uuid", disk)
        daemon("ceph-osd", "osd.0")
        user = ["--uid", "tests", "--display-name", "tests"]
        keys = ["--access-key", endpoint.key, "--secret-key", endpoint.secret]
        call("radosgw-admin", "user", "create", *user, *keys)
        daemon("radosgw", "client.rgw", port=port)
        yield endpoint


def _call(command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=90, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-2000:]}")
