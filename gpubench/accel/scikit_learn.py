"""sklearn.metrics: the silhouettes. `silhouette_score` calls `silhouette_samples` itself, and goes with it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from gpubench.accel._inputs import first_reason, labels_reason, matrix_reason
from gpubench.accel.calls import Start
from gpubench.accel.patching import Patch
from gpubench.data import encode_labels
from gpubench.engines.base import Distance
from gpubench.metrics._metric import check_groups
from gpubench.metrics.silhouette import silhouette_widths


def _silhouette_samples(start: Start, X: Any, labels: Any, *, metric: str, kwds: dict[str, Any]) -> Any:
    X = _as_array(X)
    dtype = X.dtype if X.dtype in (np.float32, np.float64) else np.float64
    engine = start()
    # scikit-learn computes in the precision of X; widths do not change with the origin, and around it float32 is enough
    x = engine.put(X - X.mean(axis=0) if metric == "euclidean" and X.dtype == np.float64 else X)
    encoded = encode_labels(labels, "labels", len(X))
    check_groups(encoded)
    return silhouette_widths(engine, x, encoded.codes, metric=cast("Distance", metric)).astype(dtype)


def _covers_silhouette(X: Any, labels: Any, *, metric: Any, kwds: dict[str, Any]) -> str | None:
    if metric not in ("euclidean", "cosine"):
        return f"metric={metric!r}; gpubench has 'euclidean' and 'cosine'"
    if kwds:
        return f"the parameters {', '.join(kwds)} of the distance"
    return first_reason(matrix_reason(_as_array(X)), labels_reason(labels))


def _as_array(X: Any) -> Any:
    import pandas as pd

    return np.asarray(X) if isinstance(X, list | tuple | pd.DataFrame) else X


PATCHES = (
    Patch(
        "sklearn.metrics.cluster._unsupervised",
        "silhouette_samples",
        _silhouette_samples,
        _covers_silhouette,
        "sklearn.metrics.silhouette_samples",
    ),
)
