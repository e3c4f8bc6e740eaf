"""Why an argument of another package's function is not for gpubench; None where it is."""

from __future__ import annotations

from typing import Any

import numpy as np


def first_reason(*reasons: str | None) -> str | None:
    """The first that there is."""
    return next((reason for reason in reasons if reason is not None), None)


def matrix_reason(X: Any, name: str = "X") -> str | None:
    """Only dense arrays of numbers: what the originals make of other types, their errors too, is theirs."""
    if not isinstance(X, np.ndarray) or isinstance(X, np.matrix):
        return f"{name} is a {type(X).__name__}, not an array of NumPy"
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        return f"{name} has {X.ndim} dimensions of {X.dtype}, not 2 of numbers"
    return None


def labels_reason(labels: Any, name: str = "labels") -> str | None:
    """Only columns with values of one kind: gpubench compares labels as text, where 1 and "1" are the same."""
    import pandas as pd

    if not isinstance(labels, np.ndarray | pd.Series | pd.Categorical | pd.Index | list | tuple):
        return f"{name} is a {type(labels).__name__}, not a column"
    if getattr(labels, "ndim", 1) != 1:
        return f"{name} has {labels.ndim} dimensions"  # type: ignore[union-attr]
    dtype = getattr(labels, "dtype", None)
    values = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else labels
    if getattr(getattr(values, "dtype", None), "kind", "O") == "O":
        kind = pd.api.types.infer_dtype(values, skipna=False)
        if kind not in ("string", "integer", "floating", "boolean"):
            return f"{name} holds values of several types ({kind})"
    return None


def column_reason(labels: Any, name: str = "labels") -> str | None:
    """As `labels_reason`, for originals that take no lists."""
    return f"{name} is a {type(labels).__name__}" if isinstance(labels, list | tuple) else labels_reason(labels, name)


def is_categorical(labels: Any) -> bool:
    """Whether a column says which values there could be."""
    import pandas as pd

    return isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype)
