"""`orthoflow doctor`: what is installed, what machine and workers have, what a store does.

Nothing here stops at the first trouble: each look ends in a verdict, with a remedy where it is
needed. Libraries are loaded inside the looks, so that one that is absent or broken is reported.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import textwrap
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import orthoflow
from orthoflow.cluster import connect, cores
from orthoflow.errors import BadInput
from orthoflow.options import Options
from orthoflow.stores.probes import Check, probe_store
from orthoflow.versions import PACKAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distributed import Client

    from orthoflow.stores.probes import Verdict

_DEVELOPERS = {"all", "light", "test"}
_FILES = 1024
_WIDTH = 100
# The scheduler computes nothing; it only has to understand what is said.
_EXCHANGED = ("python", "dask", "distributed", "cloudpickle")
_READERS = ("fsspec", "s3fs")


def examine(
    url: str | os.PathLike[str] | None = None,
    *,
    scheduler: str | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> list[Check]:
    """Look at everything that a run depends on.

    Parameters
    ----------
    url
        A volume, or the place that outputs go to; None to look at no store.
    scheduler
        Address of a Dask scheduler; None to look at no cluster.
    storage_options
        Public options of the store.

    Returns
    -------
    Checks in the order of the report: software, machine, cluster, store.
    """
    checks = [*_software(), *_machine()]
    if scheduler is not None:
        checks += _cluster(scheduler)
    if url is not None:
        checks += probe_store(url, storage_options)
    return checks


def report(checks: list[Check]) -> list[str]:
    """The checks as lines of text."""
    wide = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    topic = ""
    for check in checks:
        if check.topic != topic:
            topic = check.topic
            lines += [*([""] if lines else []), topic]
        head = f"  {check.verdict:<7}  {check.name:<{wide}}  "
        lines += _folded(check.found, head)
        if check.remedy:
            lines += _folded(f"-> {check.remedy}", " " * len(head))
    return lines


def _folded(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


# -------------------------------------------------------------------------------------- software


def _software() -> Iterator[Check]:
    topic = "software"
    yield Check(topic, "orthoflow", "ok", orthoflow.__version__)
    try:
        stated = importlib.metadata.metadata("orthoflow")
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install orthoflow, or pip install -e . in its folder"
        yield Check(topic, "packages", "fails", "orthoflow is not installed, only found", remedy)
        return
    python = platform.python_version()
    needs = SpecifierSet(stated["Requires-Python"] or "")
    fits = needs.contains(python, prereleases=True)
    remedy = "" if fits else f"use Python {needs}"
    yield Check(topic, "Python", "ok" if fits else "fails", f"{python} ({needs})", remedy)
    requirements = [Requirement(text) for text in stated.get_all("Requires-Dist") or []]
    for one in requirements:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield _package(one)
    for extra in stated.get_all("Provides-Extra") or []:
        if extra not in _DEVELOPERS:
            asked = [one for one in requirements if _belongs(one, extra)]
            yield _extra(extra, asked)


def _belongs(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and "extra" in str(marker)


def _package(requirement: Requirement) -> Check:
    verdict, found = _installed(requirement)
    if verdict == "ok":
        return Check("software", requirement.name, verdict, found)
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    return Check("software", requirement.name, "fails", found, remedy)


def _extra(extra: str, requirements: list[Requirement]) -> Check:
    looks = [(one.name, *_installed(one)) for one in requirements]
    verdicts = {verdict for _, verdict, _ in looks}
    worst: tuple[Verdict, ...] = ("fails", "absent", "ok")
    verdict = next(one for one in worst if one in verdicts)
    found = ", ".join(f"{name} {found}" for name, _, found in looks)
    remedy = "" if verdict == "ok" else f"if you need it: pip install 'orthoflow[{extra}]'"
    return Check("software", f"[{extra}]", verdict, found, remedy)


def _installed(requirement: Requirement) -> tuple[Verdict, str]:
    bounds = f" ({requirement.specifier})" if requirement.specifier else ""
    version = _version(requirement.name)
    if version is None:
        return "absent", f"absent{bounds}"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "ok" if fits else "fails", f"{version}{bounds}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# --------------------------------------------------------------------------------------- machine


def _machine() -> Iterator[Check]:
    topic = "machine"
    release = platform.release().partition("-")[0]
    yield Check(topic, "system", "ok", f"{platform.system()} {release} {platform.machine()}")
    yield Check(topic, "cores", "ok", f"{cores()} for this process, {os.cpu_count()} in all")
    yield Check(topic, "memory", "ok", _memory())
    yield from _open_files()
    yield from _devices()


def _memory() -> str:
    names = getattr(os, "sysconf_names", {})
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return "not known on this system"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # A container may be allowed less than the machine has.
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return f"{total / 2**30:.1f} GiB"


def _open_files() -> Iterator[Check]:
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "no limit" if hard == resource.RLIM_INFINITY else str(hard)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        found = f"{soft} files and sockets at once; many workers or readers need {_FILES} or more"
        yield Check(
            "machine", "open files", "warning", found, f"ulimit -n {_FILES} (at most {most})"
        )
        return
    yield Check("machine", "open files", "ok", f"{soft} at once (at most {most})")


def _devices() -> Iterator[Check]:
    driver = _gpu_driver()
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            import torch  # noqa: PLC0415 - slow, and may be absent

            available = torch.cuda.is_available()
    except ImportError as error:
        if _version("torch") is None:
            remedy = "if networks are to run here: pip install 'orthoflow[inference]'"
            yield Check("machine", "GPU", "absent", "torch is not installed", remedy)
        else:
            reason = str(error).partition("\n")[0]
            yield Check(
                "machine", "GPU", "fails", f"torch cannot be loaded: {reason}", "reinstall it"
            )
        return
    if available:
        yield from _gpus(torch)
    elif driver:
        yield _unusable(torch, driver, [str(one.message).partition("\n")[0] for one in said])
    else:
        mps = torch.backends.mps.is_available()
        found = "Apple GPU (device mps)" if mps else "none; networks run on the CPU"
        yield Check("machine", "GPU", "ok" if mps else "absent", found)


def _gpus(torch: Any) -> Iterator[Check]:
    built = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found = (
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability "
            f"{facts.major}.{facts.minor}; torch is built for CUDA {torch.version.cuda}"
        )
        # Code for one capability runs on later ones of the same generation.
        served = any(one.startswith(f"sm_{facts.major}") for one in built)
        remedy = "" if served or not built else f"install a torch built for sm_{facts.major}x"
        yield Check("machine", f"cuda:{number}", "fails" if remedy else "ok", found, remedy)


def _unusable(torch: Any, driver: str, said: list[str]) -> Check:
    if torch.version.cuda is None:
        found = f"NVIDIA driver {driver}, but torch {torch.__version__} is built for the CPU"
        return Check("machine", "GPU", "warning", found, "install torch from its CUDA index")
    found = f"NVIDIA driver {driver}, torch for CUDA {torch.version.cuda}, and no usable GPU"
    found += f": {said[0]}" if said else ""
    remedy = "update the driver or install a torch for an older CUDA; see CUDA_VISIBLE_DEVICES too"
    return Check("machine", "GPU", "fails", found, remedy)


def _gpu_driver() -> str:
    """Version of the NVIDIA driver that is loaded; empty where there is none."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


# --------------------------------------------------------------------------------------- cluster


def _cluster(address: str) -> list[Check]:
    try:
        with connect(Options(scheduler=address)) as client:
            assert client is not None
            return list(_members(client))
    except ImportError as error:
        found, remedy = f"the cluster cannot be asked: {error}", "see software, above"
    except (BadInput, OSError) as error:
        found, _, remedy = str(error).rpartition("; ")
    return [Check("cluster", "scheduler", "fails", found or remedy, remedy)]


def _members(client: Client) -> Iterator[Check]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = sum(one["nthreads"] for one in workers.values())
    memory = sum(one["memory_limit"] or 0 for one in workers.values())
    limit = f"{memory / 2**30:.1f} GiB" if memory else "no memory limit"
    yield Check("cluster", "workers", "ok", f"{len(workers)}: {threads} threads, {limit}")
    same = []
    for name in ("python", *PACKAGES, *_READERS):
        here, apart = _versions(client, name)
        if apart:
            verdict: Verdict = "warning" if name in _READERS else "fails"
            found = f"{here} here, {', '.join(apart)}"
            yield Check("cluster", name, verdict, found, "install the same version everywhere")
        else:
            same.append(f"{name} {here}")
    yield Check("cluster", "versions", "ok", f"the same everywhere: {', '.join(same)}")


def _versions(client: Client, name: str) -> tuple[str, list[str]]:
    """Version here, and who has another one.

    The question is the standard library's, so workers without orthoflow can answer it.
    """
    question: tuple[Any, ...] = (importlib.metadata.version, name)
    if name == "python":
        question = (platform.python_version,)
    here = _answer(name, platform.python_version() if name == "python" else _version(name))
    workers: dict[str, list[str]] = {}
    for worker, answer in client.run(*question, on_error="return").items():
        workers.setdefault(_answer(name, answer), []).append(worker)
    count = sum(map(len, workers.values()))
    apart = [
        f"{version} on {len(having)} of {count} workers ({having[0]})"
        for version, having in workers.items()
        if version != here
    ]
    if name in _EXCHANGED:
        try:
            on_scheduler = _answer(name, client.run_on_scheduler(*question))
        except importlib.metadata.PackageNotFoundError:
            on_scheduler = "absent"
        apart += [f"{on_scheduler} on the scheduler"] if on_scheduler != here else []
    return here, apart


def _answer(name: str, version: object) -> str:
    if not isinstance(version, str):  # the error, or nothing
        return "absent"
    return ".".join(version.split(".")[:2]) if name == "python" else version
