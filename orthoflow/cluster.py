"""A client to work with: the user's, an address, or a local cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import urllib.parse
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.hosts import is_this_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

    from orthoflow.options import Options

_log = logging.getLogger("orthoflow")

_TIMEOUT = 20.0
_GPU_THREADS = 3
_LOOPBACK = "127.0.0.1"
_LOOPBACK_PORT = f"{_LOOPBACK}:0"
# Messages to and from a scheduler, each with its tasks, that Dask keeps to look at afterwards.
_MESSAGES_KEPT = 50
_CERTIFICATES = ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY")
# Files and sockets: connections to stores and a scheduler; pipes and connections of a worker that
# is started here (9 measured). Workers inherit the limit, and talk to each other.
_FILES, _FILES_PER_WORKER = 128, 16


@contextlib.contextmanager
def connect(options: Options, client: Client | None = None) -> Iterator[Client | None]:
    """The client that runs the work; None where the work runs in this thread.

    A client that is passed in is used and left open. Everything else is closed at the end.

    Raises
    ------
    BadInput
        If the scheduler does not answer, has no workers, there is no GPU for a GPU cluster, or too
        few files may be open at a time.
    """
    if client is not None:
        yield client
        return
    allow_open_files(_FILES)
    if options.scheduler is not None:
        with _hushed(), _existing(options.scheduler) as found:
            yield found
    elif options.cluster == "synchronous":
        yield None
    else:
        with _hushed(), _local(options) as found:
            yield found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep Dask's client from printing tracebacks when its scheduler goes; we say it in a line.

    And from keeping the last thousand messages, with their tasks, to look at them afterwards.
    """
    import dask  # noqa: PLC0415 - planning needs no Dask
    import distributed  # noqa: F401, PLC0415 - what is set before it brings its settings undoes them

    logs = [logging.getLogger(f"distributed.{name}") for name in ("client", "batched")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({"distributed.admin.low-level-log-length": _MESSAGES_KEPT}):
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextlib.contextmanager
def _existing(address: str) -> Iterator[Client]:
    from distributed import Client  # noqa: PLC0415 - slow to import

    _warn_of_open(address)
    try:
        # As the default it would stay that, for all of this process's own work with Dask, if
        # nobody answers.
        client = Client(address, timeout=_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"scheduler {address} did not answer within {_TIMEOUT:g} s; check the address (as in "
            "tcp://10.0.0.1:8786) and that it can be reached from here"
        ) from error
    except TypeError as error:  # Dask's way to miss certificates
        names = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in _CERTIFICATES)
        raise BadInput(
            f"scheduler {address} wants TLS, and no certificates are configured here; set {names}"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_TIMEOUT)
        except TimeoutError as error:
            raise BadInput(
                f"scheduler {address} has no worker after {_TIMEOUT:g} s; start some with "
                f"dask worker {address}"
            ) from error
        yield client


def _warn_of_open(address: str) -> None:
    """Say that a scheduler is neither encrypted nor asks who is there, where others may reach it.

    It is there already, so refusing it would protect nobody: whoever reaches it can run code on
    its workers, whether or not this run uses it.
    """
    protocol, _, place = address.rpartition("://")
    if protocol in {"tls", "wss", "inproc"}:
        return
    try:
        host = urllib.parse.urlsplit(f"//{place}").hostname or ""
    except ValueError:  # Dask says what is wrong with it
        return
    if not is_this_machine(host):
        _log.warning(
            "scheduler %s uses no TLS: whoever reaches it can run code as you and read your data; "
            "on a network that you share with others start it with certificates "
            "(docs/security.md)",
            address,
        )


@contextlib.contextmanager
def _local(options: Options) -> Iterator[Client]:
    from distributed import Client, LocalCluster  # noqa: PLC0415 - slow to import

    kind = local_kind(options) if options.cluster == "auto" else options.cluster
    # Whoever reaches a port of Dask can run code: all are on the loopback address. No free port is
    # no reason to fail: port 0 lets the system choose one.
    arguments: dict[str, Any] = {
        "dashboard_address": _LOOPBACK_PORT,
        # A worker's log of a task that failed is a traceback; the run says which and why.
        "silence_logs": logging.CRITICAL,
    }
    make: Callable[..., Any] = LocalCluster
    count = options.workers or _usual_workers(options)
    if kind == "cuda":
        make = _cuda_cluster
        arguments |= {} if options.workers is None else {"n_workers": options.workers}
        arguments |= {"host": _LOOPBACK}
    elif kind == "processes":
        arguments |= {"n_workers": count, "threads_per_worker": 1, "host": _LOOPBACK}
    else:
        arguments |= {"n_workers": 1, "threads_per_worker": count, "processes": False}
        # Inside one process there is no host; left alone, the worker's page would be everybody's.
        arguments |= {"worker_dashboard_address": _LOOPBACK_PORT}
    if kind != "threads":
        allow_open_files(_FILES + _FILES_PER_WORKER * count)
    # The plan says what a worker needs; Dask's own limits would pause it for torch's memory.
    with make(**arguments, memory_limit=0) as cluster, Client(cluster) as client:
        if kind != "threads":
            client.register_plugin(_deaf(), name="deaf")
        yield client


def _deaf() -> Any:
    """A plugin by which workers ignore Ctrl-C, which a terminal sends to them too.

    The driver hears it, and closes them.
    """
    from distributed import WorkerPlugin  # noqa: PLC0415 - slow to import

    class Deaf(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            del worker
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Deaf()


def allow_open_files(needed: int) -> None:
    """See to it that this process may have `needed` files and sockets open; its workers inherit it.

    Raises
    ------
    BadInput
        If the system allows fewer.
    """
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    if hard != unlimited and hard < needed:
        raise BadInput(
            f"{hard} open files are allowed here (ulimit -Hn), and {needed} are needed; let the "
            "administrator allow more, or start fewer workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    _log.info("allowed this process %d open files instead of %d", needed, soft)


def local_kind(options: Options, *, otherwise: str = "threads") -> str:
    """What "auto" stands for: a worker per GPU where there are any, `otherwise` without.

    Without dask-cuda the threads of one process share one GPU.
    """
    if not _has_gpu(options):
        return otherwise
    return "cuda" if importlib.util.find_spec("dask_cuda") else "threads"


def _has_gpu(options: Options) -> bool:
    if options.device == "cpu" or importlib.util.find_spec("torch") is None:
        return False
    import torch  # noqa: PLC0415 - slow to import

    return torch.cuda.is_available()


def _usual_workers(options: Options) -> int:
    """A worker per core; on one GPU enough to read ahead and write behind."""
    return _GPU_THREADS if _has_gpu(options) else cores()


def cores() -> int:
    """Cores that this process may use; where the system does not say, all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cuda_cluster(**arguments: Any) -> Any:
    try:
        from dask_cuda import LocalCUDACluster  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BadInput(
            "cluster cuda needs dask-cuda; install it with pip install 'orthoflow[cuda]'"
        ) from error
    import torch  # noqa: PLC0415 - slow to import

    if not torch.cuda.is_available():
        raise BadInput("cluster cuda: torch finds no GPU here; use cluster threads or processes")
    return LocalCUDACluster(threads_per_worker=_GPU_THREADS, **arguments)
