"""S5: whoever reaches a port of Dask can run code, so none of ours is open to others.

A scheduler that somebody else started may be open; that is said (see docs/decisions).
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from orthoflow import cluster
from orthoflow.cluster import connect
from orthoflow.doctor import examine
from orthoflow.options import Options
from tests.s3 import free_port
from tests.security.hostile import refusal

CA = "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"


def listening():
    """Addresses that this process and its children accept connections at."""
    found = set()
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                found.add((process.pid, one.laddr.ip, one.laddr.port))
    return found


@pytest.mark.parametrize("kind", ["threads", "processes", "auto"])
def test_s5_local_clusters_listen_to_this_machine_only(kind):
    before = listening()
    options = Options(cluster=kind, workers=1, device="cpu")
    with connect(options) as client:
        assert client.submit(sum, (1, 2)).result() == 3
        opened = listening() - before
    assert opened  # a page of the scheduler at least
    assert {ip for _, ip, _ in opened} == {"127.0.0.1"}
    assert not listening() - before


def test_s5_a_cluster_of_gpus_is_told_to_listen_to_this_machine_only(monkeypatch):
    """Made here without GPUs: dask-cuda's cluster takes the arguments of Dask's."""
    told = []

    def cuda(**arguments):
        told.append(arguments)
        return LocalCluster(n_workers=0, **arguments)

    monkeypatch.setattr(cluster, "_cuda_cluster", cuda)
    before = listening()
    with connect(Options(cluster="cuda")):
        assert {ip for _, ip, _ in listening() - before} == {"127.0.0.1"}
    assert told[0]["host"] == "127.0.0.1"
    assert told[0]["dashboard_address"].startswith("127.0.0.1:")


def test_s5_synchronous_work_opens_nothing():
    before = listening()
    with connect(Options(cluster="synchronous")) as client:
        assert client is None
        assert listening() == before


# ------------------------------------------------------------------- schedulers that are there


@pytest.fixture
def warnings_of(caplog):
    """Warnings of connecting to an address where nobody is."""
    caplog.set_level(logging.INFO, "orthoflow")

    def warned(address):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("distributed.Client", unreachable)
            refusal(entered, address)
        assert all("\n" not in message for message in caplog.messages)
        return caplog.messages

    return warned


def unreachable(*arguments, **options):
    del arguments, options
    raise OSError("nobody is there")


def entered(address):
    with connect(Options(scheduler=address)):
        pytest.fail("there is no scheduler")


@pytest.mark.parametrize(
    "address",
    [
        *("tcp://10.0.0.1:8786", "10.0.0.1:8786", "tcp://node17:8786", "node17:8786"),
        *("ucx://10.0.0.1:8786", "ws://10.0.0.1:8786", "tcp://[2001:db8::1]:8786", "tcp://8.8.8.8"),
        "tcp://127.0.0.1.example.org:8786",
    ],
)
def test_s5_a_scheduler_that_anybody_may_reach_is_warned_of(address, warnings_of):
    (message,) = warnings_of(address)
    assert address in message
    assert "no TLS" in message
    assert "docs/security.md" in message


@pytest.mark.parametrize(
    "address",
    [
        *("tls://10.0.0.1:8786", "tls://node17:8786", "wss://node17:8786"),
        *("tcp://127.0.0.1:8786", "127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786"),
        "tcp://[broken:8786",
    ],
)
def test_s5_others_are_not(address, warnings_of):
    assert warnings_of(address) == []


def test_s5_the_warning_comes_once_and_the_work_is_done(caplog, monkeypatch):
    """The usual case of a private cluster: it works, and one line says what it is."""
    with LocalCluster(
        n_workers=1,
        processes=False,
        scheduler_port=0,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as found:
        monkeypatch.setattr(cluster, "is_this_machine", lambda _: False)
        with connect(Options(scheduler=found.scheduler_address)) as client:
            assert client.submit(sum, (1, 2)).result() == 3
    assert len([one for one in caplog.messages if "no TLS" in one]) == 1


# ------------------------------------------------------------------------------------------- TLS


def documented(folder):
    """Variables, and a certificate in `folder`, as the page on security has them made."""
    page = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    script = "\n".join(blocks).partition("\ndask scheduler")[0]
    assert "openssl" in script
    command = ["bash", "-eu", "-c", f"{script}\nenv -0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = dict(line.partition("=")[::2] for line in done.stdout.split("\0"))
    assert (folder / "dask.key").stat().st_mode & 0o077 == 0
    return {name: value for name, value in found.items() if name.startswith("DASK_")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory, require_service):
    """Variables of two certificates, of which each signs itself."""
    require_service("openssl", None if shutil.which("openssl") else "not on PATH")
    return {name: documented(tmp_path_factory.mktemp(name)) for name in ("ours", "theirs")}


def configured(variables, **more):
    """Dask's configuration as Dask reads it from these variables of the environment."""
    found = dask.config.collect([], {**variables, **more})
    return dask.config.set(dask.config.merge(dask.config.config, found))


def unconfigured():
    """As it is on a machine where nobody has set anything."""
    roles = [
        f"{role}.{kind}" for role in ("client", "worker", "scheduler") for kind in ("cert", "key")
    ]
    settings = {f"distributed.comm.tls.{name}": None for name in ("ca-file", *roles)}
    return dask.config.set({**settings, "distributed.comm.require-encryption": None})


@pytest.fixture
def encrypted(certificates):
    """Address of a scheduler with TLS, and a worker; configured as any user would."""
    with (
        configured(certificates["ours"]),
        LocalCluster(
            n_workers=1,
            processes=False,
            host="127.0.0.1",
            protocol="tls://",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as found,
    ):
        assert found.scheduler_address.startswith("tls://")
        address = found.scheduler_address
        yield address


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(cluster, "_TIMEOUT", 1.5)


def test_s5_an_encrypted_scheduler_is_used_with_the_certificates_of_the_environment(
    encrypted, certificates, caplog
):
    with configured(certificates["ours"]), connect(Options(scheduler=encrypted)) as client:
        assert client.submit(sum, (1, 2)).result() == 3
        assert client.security.require_encryption
    assert not [one for one in caplog.messages if "no TLS" in one]


def test_s5_doctor_reaches_an_encrypted_scheduler(encrypted, certificates):
    with configured(certificates["ours"]):
        checks = [one for one in examine(scheduler=encrypted) if one.topic == "cluster"]
    assert checks
    assert not [one for one in checks if one.verdict == "fails"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("who", ["plain", "without certificates", "another's certificate"])
def test_s5_nobody_else_gets_in(encrypted, certificates, who):
    """Not by leaving the encryption out, not with another certificate."""
    address = encrypted.replace("tls://", "tcp://") if who == "plain" else encrypted
    with unconfigured():
        if who == "another's certificate":
            ours = {CA: certificates["ours"][CA]}
            with configured(certificates["theirs"], **ours):
                message = refusal(entered, address)
        else:
            message = refusal(entered, address)
    assert address in message
    assert "TLS" in message or "did not answer" in message


@pytest.mark.usefixtures("impatient")
def test_s5_a_certificate_that_is_not_there_is_named(encrypted, tmp_path):
    with configured({CA: str(tmp_path / "gone.crt")}):
        assert encrypted in refusal(entered, encrypted)


def test_s5_local_clusters_are_encrypted_where_the_configuration_says_so(certificates):
    """Against other users of this machine, whom the loopback address does not keep out."""
    with configured(certificates["ours"]):
        for kind in ("processes", "threads"):
            before = listening()
            with connect(Options(cluster=kind, workers=1, device="cpu")) as client:
                assert client.scheduler.address.startswith("tls://127.0.0.1:")
                assert client.submit(os.getpid).result() > 0
                addresses = {ip for _, ip, _ in listening() - before}
                plain = client.scheduler.address.replace("tls://", "tcp://")
                with unconfigured(), pytest.raises(OSError, match=r"(?i)tim|clos|connect"):
                    Client(plain, timeout=1.5, set_as_default=False)
            assert addresses == {"127.0.0.1"}


def test_s5_the_protocol_is_a_modern_one(certificates):
    with configured(certificates["ours"]):
        context = Security().get_connection_args("client")["ssl_context"]
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.slow
def test_s5_the_commands_of_the_page_make_an_encrypted_cluster(certificates, tmp_path):
    """Scheduler and worker as processes of their own, as on several machines."""
    environment = {**os.environ, **certificates["ours"]}
    dask_command = [sys.executable, "-m", "dask"]
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    scheduler = ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", str(port)]
    dashboard = ["--dashboard-address", "127.0.0.1:0"]
    with (tmp_path / "log").open("wb") as log:
        options = {"env": environment, "stdout": log, "stderr": log, "cwd": tmp_path}
        started = [subprocess.Popen([*dask_command, *scheduler, *dashboard], **options)]
        try:
            started.append(subprocess.Popen([*dask_command, "worker", address], **options))
            with configured(certificates["ours"]), connect(Options(scheduler=address)) as client:
                assert client.submit(sum, (1, 2)).result() == 3
                (worker,) = client.scheduler_info(n_workers=-1)["workers"]
            assert worker.startswith("tls://127.0.0.1:")
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)
