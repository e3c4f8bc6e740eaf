"""Finding a Dask cluster or starting one on this machine, and comparing what runs on its workers."""

from __future__ import annotations

import atexit
import json
import platform
import warnings
from collections import Counter
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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

WRITTEN = "write it as tcp://host:8786, as the scheduler prints it when it starts"


def client_arguments(named: str) -> dict[str, str]:
    """What Dask's `Client` is given for an address or the path of a scheduler file.

    Raises
    ------
    InputError
        It is neither, or what it says is no address.
    """
    if "://" in named or _has_port(named):
        _check_address(named, f"cluster={named!r}")
        return {"address": named}
    file = Path(named)
    if not file.is_file():
        raise InputError(
            f"cluster={named!r} is neither an address (tcp://host:8786) nor a scheduler file: there is no such file",
            argument="cluster",
        )
    _check_address(_address_in(file), f"the address in the scheduler file {named}")
    return {"scheduler_file": named}


def _has_port(named: str) -> bool:
    host, _, port = named.rpartition(":")
    return bool(host) and port.isdigit()


def _check_address(address: str, what: str) -> None:
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    protocol, place = parse_address(address)
    try:
        get_backend(protocol)
        port = 0 if protocol == "inproc" else parse_host_port(place)[1]
    except ValueError as error:
        raise _no_address(what, str(error)) from error
    if port >= 1 << 16:
        raise _no_address(what, f"port {port} is above 65535")
    if protocol in ("tls", "wss"):
        _check_certificates(what)


def _check_certificates(what: str) -> None:
    """Refuse TLS without certificates: Dask's client does so as well, but is then waited for while it ends."""
    from distributed.security import Security

    try:
        context = Security().get_connection_args("client").get("ssl_context")
    except OSError as error:
        told = " ".join(str(error).split())
        raise InputError(f"{what}: certificates of Dask's distributed.comm.tls cannot be read ({told})") from error
    if context is None:
        raise InputError(
            f"{what} needs certificates, and Dask's configuration has none; set distributed.comm.tls.ca-file,"
            " distributed.comm.tls.client.cert and distributed.comm.tls.client.key",
            argument="cluster",
        )


def _no_address(what: str, why: str) -> InputError:
    return InputError(f"{what} is not an address of a Dask scheduler ({why}); {WRITTEN}", argument="cluster")


def _address_in(file: Path) -> str:
    try:
        held: Any = json.loads(file.read_text())
        address = held["address"]
    except OSError as error:
        raise InputError(
            f"cluster={str(file)!r} cannot be read ({error.strerror}); check its permissions", argument="cluster"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise _no_scheduler_file(file) from error
    if not isinstance(address, str):
        raise _no_scheduler_file(file)
    return address


def _no_scheduler_file(file: Path) -> InputError:
    return InputError(
        f"cluster={str(file)!r} is not a scheduler file, because it holds no address; give the one that"
        " dask scheduler --scheduler-file FILE has written",
        argument="cluster",
    )


COMPARED = ("numpy", "scipy", "scikit-learn", "dask", "distributed", "igraph")
"""Packages whose versions decide numbers, or whether workers understand each other."""

CONNECT_S = 15

RMM_POOL_SHARE = 0.25
"""Of a GPU's memory, the pool that cuML and cuGraph begin with; it grows. The rest is for gpubench's own arrays."""

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": 1 << 28, "MALLOC_MMAP_THRESHOLD_": 1 << 25}
"""Of the processes started here: memory that arrays leave is used again. With Dask's default, 64 KiB, each temporary
array is of new pages, and neighbours take a fifth longer."""

TICK = "200ms"
"""How often processes started here look at themselves; by default a hundred times a second, beside the arithmetic."""

MIN_WORKER_BYTES = 250 * 10**6
"""Of a worker: its process takes 100 MB before it has cells, tasks have at least 67 MB, and Dask lets a worker stand
still, for ever if need be, that holds more than 80% of what it may."""

FAILURES = 10
"""Workers that may end with the same task, on a cluster that is started here, before the task counts as the cause."""


def connect(cluster: Any, memory_bytes: int | None) -> tuple[Any, list[Any]]:
    """Dask's client, and what was opened for it and is to be closed, in that order.

    Parameters
    ----------
    cluster : a number of workers to start on this machine; the address of a scheduler; the path of a scheduler file;
        a `Client` or a cluster of Dask, which are used as they are. None: as many workers as there are cores
    memory_bytes : what all workers that are started here may use; None: Dask's default, what there is

    Raises
    ------
    EngineUnavailable
        Dask is not installed, or nothing answers.
    InputError
        It is none of these.
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
        started = _start(cluster, memory_bytes)
        client = Client(started, set_as_default=False)
        return client, [client, started]
    if not isinstance(cluster, str | Path) and not hasattr(cluster, "scheduler_address"):
        raise InputError(
            f"cluster={cluster!r} is not a cluster; give an address, a scheduler file, a number or a Client",
            argument="cluster",
        )
    client = _client_of(cluster)
    return client, [client]


def _client_of(cluster: Any) -> Any:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    named = isinstance(cluster, str | Path)
    given = client_arguments(str(cluster)) if named else {"address": cluster}
    try:
        with warnings.catch_warnings():  # versions that matter are compared by `check_versions`
            warnings.simplefilter("ignore", VersionMismatchWarning)
            return Client(**given, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        what = cluster if named else type(cluster).__name__
        raise EngineUnavailable(f"no Dask scheduler answers at {what}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _start(n_workers: int | None, memory_bytes: int | None) -> Any:
    """Start workers of one thread each on this machine, which listen to it alone; of GPUs each has one."""
    import dask
    from distributed.deploy.spec import close_clusters

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
    _check_room(wanted, memory_bytes)
    # without a limit Dask shares out what the machine has
    limit = {} if memory_bytes is None else {"memory_limit": memory_bytes // wanted}
    environment = dask.config.get("distributed.nanny.pre-spawn-environ") | ALLOCATOR
    settings = {
        "distributed.scheduler.allowed-failures": FAILURES,
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.admin.tick.interval": TICK,
        "distributed.worker.profile.interval": TICK,
    }
    with dask.config.set(settings):
        try:
            return _cluster_class(n_gpus)(
                n_workers=wanted,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                preload=[dask_worker.__name__],
                **limit,
            )
        except KeyboardInterrupt:
            # Dask would close at exit a cluster that is half started, and fail; it ends what processes there are anyway
            atexit.unregister(close_clusters)
            raise


def _check_room(n_workers: int, memory_bytes: int | None) -> None:
    room = planner.free_memory_bytes() if memory_bytes is None else memory_bytes
    enough = room // MIN_WORKER_BYTES
    if enough >= n_workers:
        return
    remedies = [f"start {enough} at most"] if enough else []
    if memory_bytes is not None:
        remedies.append(f"raise `memory` to {_in_mb(n_workers * MIN_WORKER_BYTES)}")
    raise InputError(
        f"workers={n_workers}: {bytes_text(room)} of memory are too little, for each needs {_in_mb(MIN_WORKER_BYTES)}"
        f" even for few cells; {' or '.join(remedies) or 'free some memory'}",
        argument="workers",
    )


def check_limits(workers: dict[str, dict[str, Any]]) -> None:
    """Refuse workers that would stand still before they have cells.

    Raises
    ------
    EngineUnavailable
        How many, how much the first of them may hold, and how much it needs.
    """
    limits = {address: int(worker["memory_limit"]) for address, worker in workers.items()}
    low = {address: limit for address, limit in limits.items() if 0 < limit < MIN_WORKER_BYTES}
    if low:
        first, limit = next(iter(low.items()))
        raise EngineUnavailable(
            f"{len(low)} of {len(workers)} workers may hold too little memory ({bytes_text(limit)}, first {first});"
            f" start them with --memory-limit {_in_mb(MIN_WORKER_BYTES)} or more"
        )


def _in_mb(n_bytes: int) -> str:
    """As flags take it, to the byte."""
    return f"{n_bytes // 10**6}MB"


def usable_gpus() -> int:
    """GPUs that the CUDA engine could use; 0 without a driver or CuPy."""
    if driver_version() is None or find_spec("cupy") is None:
        return 0
    return count_gpus()


def _cluster_class(n_gpus: int) -> Any:
    """What starts workers here.

    Raises
    ------
    EngineUnavailable
        There are GPUs, but nothing that gives each worker its own.
    """
    if not n_gpus:
        from distributed import LocalCluster

        return LocalCluster
    if find_spec("dask_cuda") is None:
        raise EngineUnavailable(
            "this machine has GPUs, and workers that have one each are started by dask-cuda; install it with:"
            ' pip install "gpubench[dask-cuda]", or hide the GPUs with CUDA_VISIBLE_DEVICES=""'
        )
    from dask_cuda import LocalCUDACluster

    return partial(LocalCUDACluster, rmm_pool_size=RMM_POOL_SHARE)


def versions_here() -> dict[str, str]:
    """What decides numbers in this process."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "gpubench": digest_of_code()[:12]}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def versions_of(client: Any) -> dict[str, dict[str, str]]:
    """What decides numbers on each worker; those that end meanwhile are left out.

    Raises
    ------
    EngineUnavailable
        Workers have no gpubench that works, or all have ended.
    """
    answers: dict[str, Any] = client.run(versions_here, on_error="return")
    found = {address: own for address, own in answers.items() if isinstance(own, dict)}
    unable = {address: why for address, why in answers.items() if address not in found and not isinstance(why, OSError)}
    if unable:
        first, why = next(iter(unable.items()))
        raise EngineUnavailable(
            f"{len(unable)} of {len(answers)} workers cannot run gpubench (first {first}: {_one_line(why)}); install"
            " the same versions everywhere"
        )
    if not found:
        raise EngineUnavailable("no worker of the cluster says what it runs; look into their logs")
    return found


def tiles_here() -> str:
    """The compiled tiles that this process uses."""
    found = compiled.load()
    return found.name if found else compiled.NUMPY


def check_versions(of_workers: dict[str, dict[str, str]], here: dict[str, str]) -> None:
    """Refuse workers that would compute with something else.

    Raises
    ------
    EngineUnavailable
        What differs, on how many workers, and on which first.
    """
    for name, own in here.items():
        others = {address: found[name] for address, found in of_workers.items() if found[name] != own}
        if others:
            theirs = ", ".join(f"{found} on {count}" for found, count in Counter(others.values()).items())
            what = "gpubench's code" if name == "gpubench" else name
            raise EngineUnavailable(
                f"{what} differs between this process ({own}) and workers ({theirs} of {len(of_workers)}, first"
                f" {next(iter(others))}); install the same versions everywhere"
            )
