"""gpubench: metrics for single-cell embeddings and perturbation predictions, on CPUs, GPUs and Dask clusters.

>>> import gpubench as gb
>>> result = gb.score("data.h5ad", embeddings=["X_pca"], label="cell_type", batch="donor")  # doctest: +SKIP
>>> gb.metrics.silhouette_label(X, labels)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpubench import data, datasets, metrics, tasks
    from gpubench.auditing.audit import audit
    from gpubench.comparison.compare import compare
    from gpubench.core.errors import EngineUnavailable, GpubenchError, GpubenchWarning, InputError
    from gpubench.engines import get_engine
    from gpubench.reporting import report
    from gpubench.results.result import Result
    from gpubench.running.plan import plan
    from gpubench.running.score import score
    from gpubench.standings.leaderboard import leaderboard
    from gpubench.training.monitor import Monitor

__all__ = [
    "EngineUnavailable",
    "GpubenchError",
    "GpubenchWarning",
    "InputError",
    "Monitor",
    "Result",
    "audit",
    "compare",
    "data",
    "datasets",
    "get_engine",
    "leaderboard",
    "metrics",
    "plan",
    "report",
    "score",
    "tasks",
]

__version__ = "0.1.0"

# name -> module, which is imported when the name is first used, so that `import gpubench` is fast
_LAZY = {
    "score": "gpubench.running.score",
    "Monitor": "gpubench.training.monitor",
    "Result": "gpubench.results.result",
    "report": "gpubench.reporting",
    "plan": "gpubench.running.plan",
    "audit": "gpubench.auditing.audit",
    "compare": "gpubench.comparison.compare",
    "leaderboard": "gpubench.standings.leaderboard",
    "get_engine": "gpubench.engines",
    "EngineUnavailable": "gpubench.core.errors",
    "GpubenchError": "gpubench.core.errors",
    "GpubenchWarning": "gpubench.core.errors",
    "InputError": "gpubench.core.errors",
}
_MODULES = ("data", "datasets", "metrics", "tasks")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gpubench.{name}")
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'gpubench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
