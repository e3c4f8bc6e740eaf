"""Where a run happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubench.errors import EngineUnavailable, InputError

if TYPE_CHECKING:
    from gpubench.engines.base import Engine
    from gpubench.timeline import Timeline

ENGINES = ("cpu", "cuda")
KNN_METHODS = ("auto", "exact", "ivf")


def get_engine(
    name: str = "auto",
    *,
    seed: int = 42,
    threads: int | None = None,
    memory_bytes: int | None = None,
    timeline: Timeline | None = None,
    knn: str = "auto",
) -> Engine:
    """Start an engine.

    Parameters
    ----------
    name : "auto" (the best that works here), "cpu" or "cuda". A named engine starts or raises.
    seed : seed of everything random
    threads : CPU threads; None: all that this process may use
    memory_bytes : what the run may use beyond its input; None: 80% of what is free
    timeline : records stages; None: a new one
    knn : how neighbours are searched: "exact", "ivf" (approximate, by faiss), or "auto": exact up to 300,000 cells,
        then approximate where faiss is installed; results say which, and the recall

    Raises
    ------
    InputError
        Unknown engine or search method.
    EngineUnavailable
        The named engine cannot start here.
    """
    if name not in ("auto", *ENGINES):
        raise InputError(f"engine={name!r} is unknown; use one of: auto, {', '.join(ENGINES)}")
    if knn not in KNN_METHODS:
        raise InputError(f"knn={knn!r} is unknown; use one of: {', '.join(KNN_METHODS)}")
    if name == "cuda":
        raise EngineUnavailable("engine 'cuda' is not part of this release; use 'cpu' or 'auto'")
    from gpubench.engines.cpu import CpuEngine

    return CpuEngine(seed=seed, threads=threads, memory_bytes=memory_bytes, timeline=timeline, knn=knn)
