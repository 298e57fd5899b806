"""The doctor finds what is wrong, says what to do, and never stumbles over it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import types
from dataclasses import asdict
from pathlib import Path

import pytest

import orthoflow
from orthoflow import doctor
from tests.s3 import SECRET, free_port

ROOT = Path(__file__).parents[1]


def by_name(checks, topic):
    return {check.name: check for check in checks if check.topic == topic}


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr("orthoflow.cluster._TIMEOUT", 0.2)


@pytest.fixture
def versions(monkeypatch):
    """Versions that are stated in place of what is installed; None for absent."""
    stated = {}
    real = importlib.metadata.version

    def version(name):
        if name not in stated:
            return real(name)
        if stated[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return stated[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return stated


# ------------------------------------------------------------------------------------- software


def test_what_is_installed_here_is_well():
    checks = doctor.examine()
    assert [check for check in checks if check.verdict == "fails"] == []
    software = by_name(checks, "software")
    assert software["orthoflow"].found == orthoflow.__version__
    assert software["zarr"].verdict == "ok"
    assert ">=3.1" in software["zarr"].found
    absent = importlib.util.find_spec("torch") is None
    assert software["[inference]"].verdict == ("absent" if absent else "ok")
    assert not {"[all]", "[light]", "[test]"} & set(software)
    assert {check.topic for check in checks} == {"software", "machine"}
    assert json.loads(json.dumps([asdict(check) for check in checks]))


def test_versions_out_of_bounds_and_absent_packages_are_found(versions):
    versions |= {"zarr": "2.18.7", "rich": None, "torch": "2.4.0", "gcsfs": None, "s3fs": None}
    software = by_name(doctor.examine(), "software")
    assert software["zarr"].verdict == "fails"
    assert "2.18.7" in software["zarr"].found
    assert software["zarr"].remedy.startswith("pip install 'zarr")
    assert ">=3.1" in software["zarr"].remedy
    assert (software["rich"].verdict, software["numpy"].verdict) == ("fails", "ok")
    assert software["[inference]"].verdict == "fails"
    for extra in ("[gcs]", "[s3]"):
        assert software[extra].verdict == "absent"
        assert f"pip install 'orthoflow{extra}'" in software[extra].remedy


def test_a_folder_that_is_not_installed_is_found(monkeypatch):
    def metadata(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    software = by_name(doctor.examine(), "software")
    assert software["packages"].verdict == "fails"
    assert "pip install" in software["packages"].remedy


def test_an_old_python_is_found(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    python = by_name(doctor.examine(), "software")["Python"]
    assert python.verdict == "fails"
    assert ">=3.11" in python.remedy


# -------------------------------------------------------------------------------------- machine


def test_few_open_files_are_a_warning():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        check = by_name(doctor.examine(), "machine")["open files"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert check.verdict == "warning"
    assert check.found.startswith("512 ")
    assert check.remedy.startswith("ulimit -n 1024")
    assert by_name(doctor.examine(), "machine")["open files"].verdict == "ok"


def test_without_torch_everything_else_is_looked_at(versions, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    versions["torch"] = None
    checks = doctor.examine(tmp_path)
    gpu = by_name(checks, "machine")["GPU"]
    assert (gpu.verdict, gpu.found) == ("absent", "torch is not installed")
    assert "orthoflow[inference]" in gpu.remedy
    assert by_name(checks, "store")["write"].verdict == "ok"


def test_a_torch_that_cannot_be_loaded_is_found(versions, monkeypatch):
    versions["torch"] = "2.13.0"
    monkeypatch.setitem(sys.modules, "torch", None)
    gpu = by_name(doctor.examine(), "machine")["GPU"]
    assert gpu.verdict == "fails"
    assert "cannot be loaded" in gpu.found


def torch_with(monkeypatch, *, cuda, gpus=(), built=("sm_90", "compute_90")):
    """A torch that sees these GPUs: name, capability."""
    facts = [
        types.SimpleNamespace(name=name, total_memory=80 * 2**30, major=major, minor=minor)
        for name, major, minor in gpus
    ]
    torch = types.ModuleType("torch")
    torch.__version__ = "2.13.0"
    torch.version = types.SimpleNamespace(cuda=cuda)
    torch.backends = types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: False))
    torch.cuda = types.SimpleNamespace(
        is_available=lambda: bool(facts),
        device_count=lambda: len(facts),
        get_arch_list=lambda: list(built),
        get_device_properties=lambda number: facts[number],
    )
    torch.set_num_threads = lambda _: None
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


def test_gpus_are_listed_and_one_that_torch_has_no_code_for_is_found(monkeypatch):
    torch_with(monkeypatch, cuda="13.0", gpus=[("New", 9, 0), ("Old", 5, 2)])
    machine = by_name(doctor.examine(), "machine")
    assert machine["cuda:0"].verdict == "ok"
    assert "New, 80 GiB" in machine["cuda:0"].found
    assert "CUDA 13.0" in machine["cuda:0"].found
    assert machine["cuda:1"].verdict == "fails"
    assert "sm_5" in machine["cuda:1"].remedy
    assert "GPU" not in machine


@pytest.mark.parametrize(
    ("cuda", "verdict", "words"),
    [(None, "warning", "built for the CPU"), ("13.0", "fails", "The NVIDIA driver is too old")],
)
def test_a_driver_that_torch_cannot_use_is_found(monkeypatch, cuda, verdict, words):
    torch = torch_with(monkeypatch, cuda=cuda)

    def warn():
        import warnings

        warnings.warn("The NVIDIA driver is too old", stacklevel=1)
        return False

    torch.cuda.is_available = warn
    monkeypatch.setattr(doctor, "_gpu_driver", lambda: "470.1")
    gpu = by_name(doctor.examine(), "machine")["GPU"]
    assert gpu.verdict == verdict
    assert words in gpu.found
    assert "470.1" in gpu.found
    assert gpu.remedy


@pytest.mark.gpu
def test_a_real_gpu_is_listed():
    machine = by_name(doctor.examine(), "machine")
    assert machine["cuda:0"].verdict == "ok"


# -------------------------------------------------------------------------------------- cluster


def worker_with(folder, address, *, without=()):
    """A worker's process in which packages have other versions, or cannot be imported."""
    for name, version in {"zarr": "9.9.9", "s3fs": "2020.1"}.items():
        (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(text)
    hidden = "".join(f"sys.modules[{name!r}] = None; " for name in without)
    code = f"import sys; {hidden}from distributed.cli.dask_worker import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, address, "--no-nanny", "--no-dashboard"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("name", ["fsspec", "distributed", "zarr"])
def test_without_a_package_the_rest_is_looked_at(versions, monkeypatch, tmp_path, name):
    """orthoflow cannot work without these, and says so itself."""
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    versions[name] = None
    checks = doctor.examine(tmp_path, scheduler=f"tcp://127.0.0.1:{free_port()}")
    assert by_name(checks, "software")[name].verdict == "fails"
    store, cluster = by_name(checks, "store"), by_name(checks, "cluster")
    if name == "fsspec":
        assert store["reach"].verdict == "fails"
    else:
        assert store["write"].verdict == "ok"
    assert cluster["scheduler"].verdict == "fails"
    assert all(check.remedy for check in checks if check.verdict == "fails")


@pytest.mark.slow
def test_workers_with_other_versions_are_named(tmp_path):
    from distributed import Client, LocalCluster

    arguments = {"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **arguments) as cluster:
        address = cluster.scheduler_address
        alone = by_name(doctor.examine(scheduler=address), "cluster")
        assert list(alone) == ["workers", "versions"]
        assert alone["workers"].found.startswith("1: 2 threads")
        assert "zarr" in alone["versions"].found
        process = worker_with(tmp_path, address, without=["orthoflow"])
        try:
            with Client(address) as client:
                client.wait_for_workers(2, timeout=60)
            found = by_name(doctor.examine(scheduler=address), "cluster")
        finally:
            process.kill()
            process.wait()
    assert found["workers"].found.startswith("2: ")
    assert (found["zarr"].verdict, found["s3fs"].verdict) == ("fails", "warning")
    assert "9.9.9 on 1 of 2 workers (tcp://" in found["zarr"].found
    assert found["zarr"].remedy
    assert "numpy" in found["versions"].found


def test_a_scheduler_with_another_dask_is_named():
    class Client:
        def scheduler_info(self, **_):
            return {"workers": {"tcp://w": {"nthreads": 1, "memory_limit": 0}}}

        def run(self, function, *arguments, on_error):
            assert on_error == "return"
            try:
                return {"tcp://w": function(*arguments)}
            except importlib.metadata.PackageNotFoundError as error:  # torch, where it is absent
                return {"tcp://w": error}

        def run_on_scheduler(self, function, *arguments):
            if arguments == ("cloudpickle",):
                raise importlib.metadata.PackageNotFoundError("cloudpickle")
            return "2001.1" if arguments == ("dask",) else function(*arguments)

    found = {check.name: check for check in doctor._members(Client())}
    assert found["dask"].verdict == "fails"
    assert "2001.1 on the scheduler" in found["dask"].found
    assert "absent on the scheduler" in found["cloudpickle"].found
    assert "no memory limit" in found["workers"].found
    assert "distributed" not in found


@pytest.mark.usefixtures("short_waits")
def test_a_scheduler_that_does_not_answer_is_a_verdict():
    for address in (f"tcp://127.0.0.1:{free_port()}", "nonsense"):
        found = by_name(doctor.examine(scheduler=address), "cluster")
        assert found["scheduler"].verdict == "fails"
        assert address in found["scheduler"].found
        assert found["scheduler"].remedy


# --------------------------------------------------------------------------------------- report


def test_the_report_shows_every_check_and_its_remedy(tmp_path, versions):
    versions["gcsfs"] = None
    checks = doctor.examine(tmp_path)
    lines = doctor.report(checks)
    text, words = "\n".join(lines), " ".join(" ".join(lines).split())
    for check in checks:
        assert " ".join([check.verdict, check.name, check.found]) in words
        assert check.remedy in words
    assert max(map(len, lines)) <= 100
    assert text.startswith("software\n  ok")
    assert "\n\nmachine\n" in text
    assert "\n\nstore\n" in text
    assert doctor.report([]) == []


@pytest.mark.s3
def test_no_secret_is_shown(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    text = "\n".join(doctor.report(doctor.examine(bucket)))
    assert "store" in text
    assert SECRET not in text
    assert "canary-key" not in text


def test_the_doctor_itself_is_cheap():
    heavy = ("torch", "dask", "distributed", "zarr", "fsspec", "xarray")
    code = f"import sys, orthoflow.doctor; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_page_shows_what_is_printed(tmp_path):
    page = " ".join((ROOT / "docs/doctor.md").read_text("utf-8").split())
    for check in doctor.examine(tmp_path):
        if check.topic != "software":
            assert f"`{check.name}`" in page
        if check.topic == "store" and check.name not in {"reach", "write", "latency"}:
            assert f"ok {check.name} {check.found}" in page
