"""Connect to a Dask cluster or start one on this machine, and check that its workers compute the same numbers."""

from __future__ import annotations

import json
import platform
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from gpubench.core.checkpoint import digest_of_code
from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.machine import usable_cores
from gpubench.core.units import bytes_text
from gpubench.engines import planner
from gpubench.engines.cpu import compiled
from gpubench.engines.cuda.device import count_gpus, driver_version
from gpubench.engines.dask import worker as dask_worker
from gpubench.engines.dask.cluster import DEFAULT_TUNING, DaskTuning

COMPARED = ("numpy", "scipy", "scikit-learn", "dask", "distributed", "igraph")
"""Packages whose versions decide numbers, or whether workers understand each other.

`Client.get_versions(check=True)` compares others, and only warns where NumPy differs.
"""

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": 1 << 28, "MALLOC_MMAP_THRESHOLD_": 1 << 25}
"""Environment of processes started here, so that memory of freed arrays is used again. With Dask's default, 64 KiB,
each temporary array gets new pages, and neighbours take a fifth longer."""

TICK = "200ms"
"""Interval of Dask's profiler in processes started here; by default it samples a hundred times a second."""

MIN_WORKER_BYTES = 250 * 10**6
"""Memory of a worker: its process takes 100 MB before it has cells, tasks have at least 67 MB, and Dask pauses a worker
that uses more than 80% of its memory, possibly for ever."""


def client_arguments(cluster: str) -> dict[str, str]:
    """Return the arguments of Dask's `Client` for an address or the path of a scheduler file."""
    host, _, port = cluster.rpartition(":")
    if "://" in cluster or (host and port.isdigit()):
        _check_address(cluster, f"cluster={cluster!r}")
        return {"address": cluster}
    if not Path(cluster).is_file():
        raise InputError(
            f"cluster={cluster!r} is neither an address nor an existing file; give tcp://host:8786 or a scheduler file",
            argument="cluster",
        )
    _check_address(_read_address(Path(cluster)), f"the address in the scheduler file {cluster}")
    return {"scheduler_file": cluster}


def _check_address(address: str, name: str) -> None:
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    protocol, location = parse_address(address)
    try:
        get_backend(protocol)
        port = 0 if protocol == "inproc" else parse_host_port(location)[1]
        fault = f"port {port} is above 65535" if port >= 1 << 16 else ""
    except ValueError as error:
        fault = str(error)
    if fault:
        raise InputError(
            f"{name} is not an address of a Dask scheduler ({fault}); write it as tcp://host:8786, as the scheduler"
            " prints it when it starts",
            argument="cluster",
        )
    if protocol in ("tls", "wss"):
        _check_certificates(name)


def _check_certificates(name: str) -> None:
    """Raise an error for a TLS address without certificates, because Dask's client fails only after half a minute."""
    from distributed.security import Security

    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except OSError as error:
        raise InputError(
            f"{name}: certificates of Dask's distributed.comm.tls cannot be read ({_one_line(error)})",
            argument="cluster",
        ) from error
    if context is None:
        raise InputError(
            f"{name} needs certificates, and Dask's configuration has none; set distributed.comm.tls.ca-file,"
            " distributed.comm.tls.client.cert and distributed.comm.tls.client.key",
            argument="cluster",
        )


def _read_address(file: Path) -> str:
    try:
        address = json.loads(file.read_text())["address"]
    except OSError as error:
        raise InputError(
            f"cluster={str(file)!r} cannot be read ({error.strerror}); check its permissions", argument="cluster"
        ) from error
    except (ValueError, TypeError, KeyError):
        address = None
    if not isinstance(address, str):
        raise InputError(
            f"cluster={str(file)!r} is not a scheduler file, because it holds no address; give the one that"
            " dask scheduler --scheduler-file FILE has written",
            argument="cluster",
        )
    return address


def connect(cluster: Any, memory_bytes: int | None, tuning: DaskTuning = DEFAULT_TUNING) -> tuple[Any, list[Any]]:
    """Return Dask's client, and the objects opened for the connection, in the order in which they must be closed.

    Parameters
    ----------
    cluster : number of workers to start on this machine; address of a scheduler; path of a scheduler file; or a
        `Client` or cluster of Dask to use. If None, as many workers as there are cores are started
    memory_bytes : memory that all started workers together may use. If None, Dask's default, the machine's memory
    tuning : time limits
    """
    from distributed import Client

    if isinstance(cluster, Client):
        if cluster.asynchronous:
            raise InputError(
                "cluster is an asynchronous Client; give one that was made without asynchronous=True",
                argument="cluster",
            )
        return cluster, []
    if cluster is None or (isinstance(cluster, int) and not isinstance(cluster, bool)):
        started = _start(cluster, memory_bytes, tuning)
        client = Client(started, set_as_default=False)
        return client, [client, started]
    if not isinstance(cluster, str | Path) and not hasattr(cluster, "scheduler_address"):
        raise InputError(
            f"cluster={cluster!r} is not a cluster; give an address, a scheduler file, a number or a Client",
            argument="cluster",
        )
    client = _open_client(cluster, tuning)
    return client, [client]


def _open_client(cluster: Any, tuning: DaskTuning) -> Any:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    is_named = isinstance(cluster, str | Path)
    arguments = client_arguments(str(cluster)) if is_named else {"address": cluster}
    try:
        with warnings.catch_warnings():  # versions that matter are compared by `check_versions`
            warnings.simplefilter("ignore", VersionMismatchWarning)
            return Client(**arguments, timeout=tuning.connect_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        name = cluster if is_named else type(cluster).__name__
        raise EngineUnavailable(f"no Dask scheduler answers at {name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _start(n_workers: int | None, memory_bytes: int | None, tuning: DaskTuning) -> Any:
    """Start workers with one thread on this machine, each with a GPU if there are any; only local connections."""
    import dask

    if n_workers is not None and n_workers < 1:
        raise InputError(f"workers={n_workers}: at least one is needed", argument="workers")
    n_gpus = usable_gpus()
    if n_gpus and n_workers and n_workers > n_gpus:
        raise InputError(
            f"workers={n_workers}: this machine has {n_gpus} GPU{'s' if n_gpus > 1 else ''}, one for each worker; start"
            ' as many, or hide them with CUDA_VISIBLE_DEVICES=""',
            argument="workers",
        )
    wanted = n_workers or n_gpus or usable_cores()
    _check_memory(wanted, memory_bytes)
    # without a limit Dask divides the memory of the machine
    limit = {} if memory_bytes is None else {"memory_limit": memory_bytes // wanted}
    environment = dask.config.get("distributed.nanny.pre-spawn-environ") | ALLOCATOR
    settings = {
        "distributed.scheduler.allowed-failures": tuning.allowed_failures,
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.admin.tick.interval": TICK,
        "distributed.worker.profile.interval": TICK,
    }
    started = []
    try:
        with dask.config.set(settings), _interrupt_deferred():
            started.append(
                _cluster_class(n_gpus)(
                    n_workers=wanted,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    preload=[dask_worker.__name__],
                    **limit,
                )
            )
    except KeyboardInterrupt:
        for cluster in started:
            cluster.close()
        raise
    return started[0]


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Provide a context that delays Ctrl-C until its end.

    If starting a cluster were interrupted, Dask would leave processes behind, each of which prints a traceback.
    Processes started in the context inherit the blocked signal, so that Ctrl-C in a terminal, which is sent to all
    processes, only reaches the client. Outside the main thread, where Python raises no `KeyboardInterrupt`, the context
    has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # started by the thread of a first worker, it would unblock the signal there
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)  # None: a handler that Python did not install
    if received:
        signal.raise_signal(signal.SIGINT)


def _check_memory(n_workers: int, memory_bytes: int | None) -> None:
    available = planner.free_memory_bytes() if memory_bytes is None else memory_bytes
    max_workers = available // MIN_WORKER_BYTES
    if max_workers >= n_workers:
        return
    remedies = [f"start {max_workers} at most"] if max_workers else []
    if memory_bytes is not None:
        remedies.append(f"raise `memory` to {_megabytes(n_workers * MIN_WORKER_BYTES)}")
    raise InputError(
        f"workers={n_workers}: {bytes_text(available)} of memory are too little, for each needs"
        f" {_megabytes(MIN_WORKER_BYTES)} even for few cells; {' or '.join(remedies) or 'free some memory'}",
        argument="workers",
    )


def check_limits(workers: dict[str, dict[str, Any]]) -> None:
    """Raise an error if a worker has so little memory that Dask would pause it before it has received cells."""
    limits = {address: int(worker["memory_limit"]) for address, worker in workers.items()}
    low = {address: limit for address, limit in limits.items() if 0 < limit < MIN_WORKER_BYTES}
    if low:
        first, limit = next(iter(low.items()))
        raise EngineUnavailable(
            f"{len(low)} of {len(workers)} workers may hold too little memory ({bytes_text(limit)}, first {first});"
            f" start them with --memory-limit {_megabytes(MIN_WORKER_BYTES)} or more"
        )


def _megabytes(n_bytes: int) -> str:
    """Format a size in whole megabytes, rounded down, such as "500MB", as memory options accept it."""
    return f"{n_bytes // 10**6}MB"


def usable_gpus() -> int:
    """Return the number of GPUs that the CUDA engine could use; 0 without a driver or CuPy."""
    if driver_version() is None or find_spec("cupy") is None:
        return 0
    return count_gpus()


def _cluster_class(n_gpus: int) -> Any:
    """Return the class that starts workers on this machine: that of dask-cuda if there are GPUs, else Dask's."""
    if not n_gpus:
        from distributed import LocalCluster

        return LocalCluster
    if find_spec("dask_cuda") is None:
        raise EngineUnavailable(
            "this machine has GPUs, and workers that have one each are started by dask-cuda; install it with:"
            ' pip install "gpubench-sc[dask-cuda]", or hide the GPUs with CUDA_VISIBLE_DEVICES=""'
        )
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster  # without a pool of RMM: the engine of each worker gives CuPy and RMM one pool


def installed_version(name: str) -> str:
    """Return the version of a package; empty if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def versions_here() -> dict[str, str]:
    """Return the versions of the packages on which numerical results of this process depend."""
    own = {"python": ".".join(platform.python_version_tuple()[:2]), "gpubench": digest_of_code()[:12]}
    return own | {name: installed_version(name) or "not installed" for name in COMPARED}


def tiles_here() -> str:
    """Return the instruction set of the compiled functions that this process uses, or "numpy"."""
    found = compiled.load()
    return found.name if found else compiled.NUMPY


def worker_versions(client: Any) -> dict[str, dict[str, str]]:
    """Return `versions_here` of each worker by address; workers that die meanwhile are left out."""
    answers: dict[str, Any] = client.run(versions_here, on_error="return")
    versions = {address: answer for address, answer in answers.items() if isinstance(answer, dict)}
    errors = {address: e for address, e in answers.items() if address not in versions and not isinstance(e, OSError)}
    if errors:
        first, error = next(iter(errors.items()))
        raise EngineUnavailable(
            f"{len(errors)} of {len(answers)} workers cannot run gpubench (first {first}: {_one_line(error)}); install"
            " the same versions everywhere"
        )
    if not versions:
        raise EngineUnavailable("no worker of the cluster says what it runs; look into their logs")
    return versions


def check_versions(versions: dict[str, dict[str, str]], here: dict[str, str]) -> None:
    """Raise an error if the package versions of a worker differ from those of this process, `here`."""
    for name, own in here.items():
        others = {address: found[name] for address, found in versions.items() if found[name] != own}
        if others:
            theirs = ", ".join(f"{found} on {count}" for found, count in Counter(others.values()).items())
            what = "gpubench's code" if name == "gpubench" else name
            raise EngineUnavailable(
                f"{what} differs between this process ({own}) and workers ({theirs} of {len(versions)}, first"
                f" {next(iter(others))}); install the same versions everywhere"
            )


def check_tiles(tiles: dict[str, str]) -> str:
    """Return the instruction set that all workers use; raise an error if workers use different ones."""
    kinds = sorted(set(tiles.values()))
    if len(kinds) > 1:
        raise EngineUnavailable(
            f"workers have processors of several kinds (tiles of {', '.join(kinds)}), whose numbers differ in the last"
            " bits; set GPUBENCH_TILES to one that all have"
        )
    return kinds[0]
