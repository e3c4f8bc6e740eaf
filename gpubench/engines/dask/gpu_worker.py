"""GPUs of workers: what a worker does where all of them have one, by the operations of the CUDA engine.

The embedding is on the host of each worker and, from its first use on, on its GPU. Answers are brought to the host, so
that what the Dask engine does with answers is as on workers without GPUs. A GPU does one operation at a time.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import EngineUnavailable
from gpubench.core.types import Graph, Knn
from gpubench.engines.dask.worker import Description, Held, kept, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.engines.cuda.engine import CudaEngine
    from gpubench.engines.dask.array import Block
    from gpubench.engines.dask.worker import Recipe

COMPARED = tuple(f"{name}{cuda}" for cuda in ("12", "13") for name in ("cupy-cuda", "cuml-cu", "pylibcugraph-cu"))
"""Packages of which all workers must have the same version, or none."""

one_at_a_time = Lock()
"""Held by whoever uses the GPU."""


def gpu_here() -> dict[str, str]:
    """What this worker has: "gpu" (empty where none works), "place", "packages"; and "why" there is none."""
    from gpubench.engines.cuda.device import Device

    try:
        device = Device.find()
    except EngineUnavailable as error:
        return {"gpu": "", "why": str(error)}
    place = f"{platform.node()} {device.xp.cuda.runtime.deviceGetPCIBusId(device.number)}"
    return {"gpu": device.name, "place": place, "packages": ", ".join(filter(None, map(_installed, COMPARED)))}


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def check_alike(found: dict[str, dict[str, str]]) -> str:
    """The GPU that all workers have; empty: none has one.

    Parameters
    ----------
    found : address -> what `gpu_here` says there

    Raises
    ------
    EngineUnavailable
        Some have one and others have not, GPUs or packages differ, or several workers have the same one.
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


@cache
def engine_of(recipe: Recipe) -> CudaEngine:
    """The CUDA engine of this worker."""
    from gpubench.engines.cuda.engine import CudaEngine

    return CudaEngine(seed=recipe.seed, threads=recipe.threads, knn=recipe.knn)


@dataclass(frozen=True, slots=True)
class OnGpu(Description):
    """Cells on the GPU of the worker, to which they are copied once."""

    held: Held
    recipe: Recipe

    def load(self) -> Any:
        """The array of the GPU; `dask_worker.forget` lets it go."""
        return kept(("device", self.held.key), lambda: _put(engine_of(self.recipe), value_of(self.held)))


def knn_method_here(engine: CudaEngine, n: int, d: int, k: int) -> str:
    """How this worker's engine searches neighbours."""
    return engine.policy.knn_method_for(n, d, k)


def notes_here(recipe: Recipe) -> list[str]:
    """What did not run as asked on this worker's GPU."""
    return list(engine_of(recipe).notes)


def on_gpu(recipe: Recipe, operation: str, args: Any, kwargs: Any = MappingProxyType({})) -> Any:
    """Run an operation of the CUDA engine; its answer is on the host."""
    engine = engine_of(recipe)
    with one_at_a_time:
        return on_host(engine, getattr(engine, operation)(*(on_device(engine, given) for given in args), **kwargs))


def rank(recipe: Recipe, values: Any) -> NDArray[Any]:
    """See `Engine.rank`."""
    engine = engine_of(recipe)
    with one_at_a_time:
        ranks: NDArray[Any] = engine.to_host(engine.rank(engine.xp.asarray(values)))
        return ranks


def on_device(engine: CudaEngine, given: Any) -> Any:
    """An argument as the CUDA engine takes it: cells and graphs on the GPU, columns on the host."""
    if isinstance(given, Knn | Graph):
        return _mapped(given, engine.xp.asarray)
    is_cells = isinstance(given, np.ndarray) and given.ndim == 2
    return _put(engine, given) if is_cells else given


def _put(engine: CudaEngine, cells: NDArray[np.float32]) -> Any:
    array = engine.put(cells)
    engine.release(array)  # whoever asked holds it
    return array


def on_host(engine: CudaEngine, found: Any) -> Any:
    """An answer as it leaves the worker."""
    if isinstance(found, Knn | Graph):
        return _mapped(found, lambda array: on_host(engine, array))
    return engine.to_host(found) if isinstance(found, engine.xp.ndarray) else found


def _mapped(given: Knn | Graph, function: Callable[[Any], Any]) -> Knn | Graph:
    """A graph with each of its arrays replaced."""
    if isinstance(given, Graph):
        return Graph(function(given.indptr), function(given.indices), function(given.weights))
    return Knn(function(given.indices), function(given.distances), given.method, given.params, given.recall)


def search_rows(
    queries: Any,
    x: Any,
    rows: tuple[int, int],
    k: int,
    recipe: Recipe,
    themselves: bool,  # noqa: FBT001 - of a task
) -> Block:
    """The nearest of all cells to some queries; where the queries are the cells themselves, the nearest others.

    Of these one more is searched, and the cell left out, or the last one where copies of the cell have pushed it out.
    """
    engine = engine_of(recipe)
    cells = np.arange(*rows)
    with one_at_a_time:
        asked, among = on_device(engine, queries), on_device(engine, x)
        found = engine.knn_between(asked[slice(*rows)], among, k + themselves)
        indices, distances = engine.to_host(found.indices), engine.to_host(found.distances)
    if not themselves:
        return cells, indices, distances
    is_own = indices == cells[:, None]
    left_out = np.where(is_own.any(axis=1), is_own.argmax(axis=1), k)
    stays = np.arange(k + 1) != left_out[:, None]
    return cells, indices[stays].reshape(-1, k), distances[stays].reshape(-1, k)


def whole_search(x: Any, k: int, recipe: Recipe) -> tuple[Any, ...]:
    """A block of all cells, found on one GPU, and how it was found."""
    found = on_gpu(recipe, "knn", (x, k))
    return None, found.indices, found.distances, (found.method, dict(found.params), found.recall)
