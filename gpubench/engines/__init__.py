"""Compute engines (CPU, CUDA, Dask) and `get_engine`, which chooses one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.types import check_seed
from gpubench.engines import knn_methods

if TYPE_CHECKING:
    from gpubench.core.timeline import Timeline
    from gpubench.engines.base import Engine, Precision

ENGINES = ("cpu", "cuda", "dask")
PRECISIONS = ("exact", "fast")


def get_engine(
    name: str = "auto",
    *,
    seed: int = 42,
    threads: int | None = None,
    memory_bytes: int | None = None,
    timeline: Timeline | None = None,
    knn: str = "auto",
    precision: Precision = "exact",
    exact: bool = False,
    cluster: Any = None,
) -> Engine:
    """Start an engine.

    Parameters
    ----------
    name : "auto" (the best one that works here; "dask" if a cluster is given), "cpu", "cuda" or "dask". A named engine
        starts or raises.
    seed : random seed, from 0 to 2^32 - 1
    threads : number of CPU threads. If None, all that this process may use
    memory_bytes : memory that the run may use beyond its input, in bytes. If None, 80% of the free memory
    timeline : object that records the stages of the run. If None, a new one
    knn : method of the neighbour search: "exact"; "leaves", "ivf", "faiss", "cuvs" or "nn_descent", which are
        approximate, see `gpubench.engines.knn_methods.KNN_METHODS`; or "auto": exact up to 316,000 cells of 50
        dimensions, or 100,000 of any number of dimensions, then leaves; on CUDA exact up to 4,000,000 cells, then ivf.
        Results name the method and its recall
    precision : "exact", or "fast": the CUDA engine may round cells to TF32, which changes silhouette widths by about
        1e-3 each; neighbours stay exact. The CPU engine is exact either way. Results name the precision
    exact : compare all cells with all, however long it takes: neighbours are not approximate, silhouettes are not
        estimated from a sample of cells, and random forests are trained on all cells
    cluster : cluster on which the engine "dask" runs: the address of a scheduler, the path of a scheduler file, the
        number of workers to start on this machine, or a `Client` or cluster of Dask. If None, workers are started on
        all cores of this machine

    Raises
    ------
    InputError
        Unknown engine or search method, a search method that the engine does not have or whose package is not
        installed, or a seed that is not an integer in its range.
    EngineUnavailable
        The named engine cannot start here.

    Examples
    --------
    >>> from gpubench import get_engine
    >>> engine = get_engine("cpu", threads=1)
    >>> engine.name, engine.seed
    ('cpu', 42)
    """
    _check(name, knn, precision, exact=exact, has_cluster=cluster is not None)
    options: dict[str, Any] = {
        "seed": check_seed(seed),
        "threads": threads,
        "memory_bytes": memory_bytes,
        "timeline": timeline,
        "knn": "exact" if exact else knn,
    }
    if name == "dask" or cluster is not None:
        return _start_dask(cluster=cluster, exact=exact, **options)
    why_not_cuda = ""
    if name == "cuda" or (name == "auto" and _has(knn, "cuda")):
        try:
            from gpubench.engines.cuda.device import Device

            device = Device.find()  # before the rest of the engine, which most machines do not need
            from gpubench.engines.cuda.engine import CudaEngine

            engine: Engine = CudaEngine(device=device, precision=precision, exact=exact, **options)
        except EngineUnavailable as error:
            if name == "cuda":
                raise
            why_not_cuda = f"auto: {error}"
        else:
            engine.chosen = "auto: there is a GPU" if name == "auto" else ""
            return engine
    from gpubench.engines.cpu.engine import CpuEngine

    engine = CpuEngine(exact=exact, **options)
    engine.chosen = why_not_cuda
    return engine


def _check(name: str, knn: str, precision: str, *, exact: bool, has_cluster: bool) -> None:
    """Raise InputError if an argument has an unknown value or two arguments contradict each other."""
    if name not in ("auto", *ENGINES):
        raise InputError(f"engine={name!r} is unknown; use one of: auto, {', '.join(ENGINES)}", argument="engine")
    if knn not in knn_methods.KNN_CHOICES:
        choices = ", ".join(knn_methods.KNN_CHOICES)
        raise InputError(f"knn={knn!r} is unknown; use one of: {choices}", argument="knn")
    if precision not in PRECISIONS:
        raise InputError(
            f"precision={precision!r} is unknown; use one of: {', '.join(PRECISIONS)}", argument="precision"
        )
    if exact and knn not in ("auto", "exact"):
        raise InputError(f"knn={knn!r} is approximate, which `exact` forbids; leave out one of them", argument="knn")
    if has_cluster and name not in ("auto", "dask"):
        raise InputError(f"a Dask cluster needs the engine dask, not {name}; leave out one of them")


def _start_dask(**options: Any) -> Engine:
    if find_spec("distributed") is None:
        raise EngineUnavailable(
            'engine="dask" needs Dask; install it with: pip install "gpubench-sc[dask]"', argument="engine"
        )
    from gpubench.engines.dask.engine import DaskEngine
    from gpubench.engines.dask.gpu_engine import on_gpus

    engine, knn = DaskEngine(**options), options["knn"]
    found = on_gpus(engine) if _has(knn, "cuda") else engine
    if found is engine:
        knn_methods.require(knn, "cpu")
    return found


def _has(knn: str, engine: str) -> bool:
    return knn == "auto" or engine in knn_methods.KNN_METHODS[knn].backends
