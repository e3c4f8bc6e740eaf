"""Tasks that run operations of a worker's engine: the CPU engine, or the CUDA engine if all workers have GPUs.

Cells are in a worker's host memory and are copied to its GPU on first use. Results are copied to the host, so that the
Dask engine handles those of both engines in the same way. A GPU runs one operation at a time.
"""

from __future__ import annotations

import platform
from functools import cache
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.types import Graph, Knn
from gpubench.engines.dask.connect import installed_version
from gpubench.engines.dask.worker import cached

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpubench.core.types import F32
    from gpubench.engines.cuda.engine import CudaEngine
    from gpubench.engines.dask.remote import KnnBlock
    from gpubench.engines.dask.worker import EngineSettings

COMPARED = tuple(f"{name}{cuda}" for cuda in ("12", "13") for name in ("cupy-cuda", "cuml-cu", "pylibcugraph-cu"))
"""Packages that all workers must have in the same version, or none of them may have."""

one_at_a_time = Lock()
"""Lock that a thread holds while it uses the GPU."""


def gpu_here() -> dict[str, str]:
    """Describe this worker's GPU by "gpu", its name (empty if none works), "place" and "packages", or "why" not."""
    from gpubench.engines.cuda.device import Device

    try:
        device = Device.find()
    except EngineUnavailable as error:
        return {"gpu": "", "why": str(error)}
    place = f"{platform.node()} {device.xp.cuda.runtime.deviceGetPCIBusId(device.number)}"
    packages = ", ".join(f"{name} {installed_version(name)}" for name in COMPARED if installed_version(name))
    return {"gpu": device.name, "place": place, "packages": packages}


def check_alike(found: dict[str, dict[str, str]]) -> str:
    """Return the name of the GPU model of all workers, given `gpu_here` by address; empty if no worker has a GPU.

    Raises an error if workers differ.
    """
    without = [address for address, own in found.items() if not own["gpu"]]
    if len(without) == len(found):
        return ""
    if without:
        first = without[0]
        raise EngineUnavailable(
            f"{len(without)} of {len(found)} workers have no GPU that works (first {first}: {found[first]['why']});"
            ' give all workers one, or hide those of the others with CUDA_VISIBLE_DEVICES=""'
        )
    for what in ("gpu", "packages"):
        kinds = sorted({own[what] for own in found.values()})
        if len(kinds) > 1:
            raise EngineUnavailable(
                f"workers have different {'GPUs' if what == 'gpu' else 'packages'} ({'; '.join(kinds)}), whose numbers"
                " may differ; use workers of one kind"
            )
    if len({own["place"] for own in found.values()}) < len(found):
        raise EngineUnavailable(
            "several workers use the same GPU; start one worker for each, as `dask cuda worker` of dask-cuda does"
        )
    return next(iter(found.values()))["gpu"]


def cuda_engine(settings: EngineSettings) -> CudaEngine:
    """Return the CUDA engine of this worker and make its GPU the current device of the calling thread."""
    engine = _start_engine(settings)
    engine.gpu.current()
    return engine


@cache
def _start_engine(settings: EngineSettings) -> CudaEngine:
    from gpubench.engines.cuda.engine import CudaEngine

    return CudaEngine(seed=settings.seed, threads=settings.threads, knn=settings.knn, exact=settings.exact)


def matrix_on_device(key: str, cells: F32, settings: EngineSettings) -> Any:
    """Return cells on this worker's GPU, copied there on the first call; `worker.forget(key)` frees the copy."""
    return cached(("device", key), lambda: _put(cuda_engine(settings), cells))


def policy_here(engine: CudaEngine, method: str, *args: Any) -> Any:
    """Call a method of the policy of this worker's engine."""
    return getattr(engine.policy, method)(*args)


def facts_here(settings: EngineSettings) -> tuple[list[str], dict[str, str]]:
    """Return `notes` and `verified` of this worker's CUDA engine, see `Engine`."""
    engine = cuda_engine(settings)
    return list(engine.notes), engine.verified()


def on_engine(
    settings: EngineSettings, operation: str, args: Any, kwargs: Any = MappingProxyType({}), threads: int | None = None
) -> Any:
    """Run an operation of this worker's engine and return its result on the host; `threads` is for the CPU engine."""
    if settings.engine == "cpu":
        return getattr(settings.start(threads), operation)(*args, **kwargs)
    engine = cuda_engine(settings)
    with one_at_a_time:
        return on_host(engine, getattr(engine, operation)(*(on_device(engine, given) for given in args), **kwargs))


def on_device(engine: CudaEngine, given: Any) -> Any:
    """Return an argument in the form that the CUDA engine expects: cells and graphs on the GPU, columns on the host."""
    if isinstance(given, Knn | Graph):
        return _mapped(given, engine.xp.asarray)
    is_cells = isinstance(given, np.ndarray) and given.ndim == 2
    return _put(engine, given) if is_cells else given


def _put(engine: CudaEngine, cells: F32) -> Any:
    array = engine.put(cells)
    engine.release(array)  # the caller holds it
    return array


def on_host(engine: CudaEngine, found: Any) -> Any:
    """Return a result with its arrays on the host, as it is sent to other workers or the client."""
    if isinstance(found, Knn | Graph):
        return _mapped(found, lambda array: on_host(engine, array))
    return engine.to_host(found) if isinstance(found, engine.xp.ndarray) else found


def _mapped(given: Knn | Graph, function: Callable[[Any], Any]) -> Knn | Graph:
    """Return a copy of a graph with a function applied to each of its arrays."""
    if isinstance(given, Graph):
        return Graph(function(given.indptr), function(given.indices), function(given.weights))
    return Knn(function(given.indices), function(given.distances), given.method, given.params, given.recall)


def search_rows(
    queries: Any,
    x: Any,
    rows: tuple[int, int],
    k: int,
    settings: EngineSettings,
    leave_out_self: bool,  # noqa: FBT001 - an argument of a task
) -> KnnBlock:
    """Find the k nearest cells in x to the queries in the range `rows`.

    If `leave_out_self`, query i is cell i of x and must not be its own neighbour: k + 1 cells are searched, and the
    cell itself is dropped, or the last one if copies of the cell displace it.
    """
    engine = cuda_engine(settings)
    cells = np.arange(*rows)
    with one_at_a_time:
        asked, among = on_device(engine, queries), on_device(engine, x)
        found = engine.knn_between(asked[slice(*rows)], among, k + leave_out_self)
        indices, distances = engine.to_host(found.indices), engine.to_host(found.distances)
    if not leave_out_self:
        return cells, indices, distances
    is_own = indices == cells[:, None]
    left_out = np.where(is_own.any(axis=1), is_own.argmax(axis=1), k)
    stays = np.arange(k + 1) != left_out[:, None]
    return cells, indices[stays].reshape(-1, k), distances[stays].reshape(-1, k)


def search_whole(x: Any, k: int, settings: EngineSettings) -> tuple[Any, ...]:
    """Run `Engine.knn` on one worker; return a `KnnBlock` of all rows, and method, parameters and recall."""
    found = on_engine(settings, "knn", (x, k))
    return None, found.indices, found.distances, (found.method, dict(found.params), found.recall)
