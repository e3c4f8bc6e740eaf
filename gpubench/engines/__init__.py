"""Where a run happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpubench.errors import EngineUnavailable, InputError
from gpubench.seeds import check_seed

if TYPE_CHECKING:
    from gpubench.engines.base import Engine, Precision
    from gpubench.timeline import Timeline

ENGINES = ("cpu", "cuda")
KNN_METHODS = ("auto", "exact", "leaves", "ivf")
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
) -> Engine:
    """Start an engine.

    Parameters
    ----------
    name : "auto" (the best that works here), "cpu" or "cuda". A named engine starts or raises.
    seed : seed of everything random, from 0 to 2^32 - 1
    threads : CPU threads; None: all that this process may use
    memory_bytes : what the run may use beyond its input; None: 80% of what is free
    timeline : records stages; None: a new one
    knn : how neighbours are searched: "exact", "leaves" or "ivf" (approximate), or "auto": exact up to 316,000 cells of
        50 dimensions, or 100,000 of any number, then leaves; on CUDA exact up to 4,000,000 cells, then ivf. Results say
        which, and the recall
    precision : "exact", or "fast": the CUDA engine may round cells to TF32, which moves silhouette widths by about 1e-3
        each; neighbours stay exact. The CPU engine is exact either way. Results say which they are
    exact : compare all cells with all, however long it takes: neighbours are not approximate, silhouettes are not
        estimated from a sample of the cells, and random forests not trained on one, as only the CPU engine does

    Raises
    ------
    InputError
        Unknown engine or search method, or a seed that is no whole number in its range.
    EngineUnavailable
        The named engine cannot start here.
    """
    if name not in ("auto", *ENGINES):
        raise InputError(f"engine={name!r} is unknown; use one of: auto, {', '.join(ENGINES)}")
    if knn not in KNN_METHODS:
        raise InputError(f"knn={knn!r} is unknown; use one of: {', '.join(KNN_METHODS)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is unknown; use one of: {', '.join(PRECISIONS)}")
    if exact and knn not in ("auto", "exact"):
        raise InputError(f"knn={knn!r} is approximate, which exact forbids; leave one of them out")
    options: dict[str, Any] = {
        "seed": check_seed(seed),
        "threads": threads,
        "memory_bytes": memory_bytes,
        "timeline": timeline,
        "knn": "exact" if exact else knn,
    }
    chosen = ""
    if name == "cuda" or (name == "auto" and knn != "leaves"):  # leaves are of the CPU
        try:
            engine = _start_cuda(precision=precision, **options)
        except EngineUnavailable as error:
            if name == "cuda":
                raise
            chosen = f"auto: {error}"
        else:
            engine.chosen = "auto: there is a GPU" if name == "auto" else ""
            return engine
    from gpubench.engines.cpu import CpuEngine

    engine = CpuEngine(exact=exact, **options)
    engine.chosen = chosen
    return engine


def _start_cuda(**options: Any) -> Engine:
    from gpubench.engines.cuda_device import Device

    device = Device.find()  # before the rest of the engine, which most machines have no use for
    from gpubench.engines.cuda import CudaEngine

    return CudaEngine(device=device, **options)
