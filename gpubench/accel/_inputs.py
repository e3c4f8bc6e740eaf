"""Reasons why gpubench does not cover an argument of another package's function; None where it does."""

from __future__ import annotations

from typing import Any

import numpy as np


def first_reason(*reasons: str | None) -> str | None:
    """Return the first reason that is not None."""
    return next((reason for reason in reasons if reason is not None), None)


def matrix_reason(X: Any, name: str = "X") -> str | None:
    """Accept dense numeric arrays only; the originals handle other types, with their own errors."""
    if not isinstance(X, np.ndarray) or isinstance(X, np.matrix):
        return f"{name} is a {type(X).__name__}, not a NumPy array"
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        return f"{name} has {X.ndim} dimensions of {X.dtype}, not 2 of numbers"
    return None


def labels_reason(labels: Any, name: str = "labels") -> str | None:
    """Accept columns whose values have one type: gpubench compares labels as text, where 1 equals "1"."""
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
    """Accept what `labels_reason` does except lists and tuples, for originals that take none."""
    return f"{name} is a {type(labels).__name__}" if isinstance(labels, list | tuple) else labels_reason(labels, name)


def is_categorical(labels: Any) -> bool:
    """Whether a column is a pandas categorical."""
    import pandas as pd

    return isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype)
