"""What a score says of the neighbour search behind it."""

from __future__ import annotations

from typing import Any

from gpubench.types import Knn


def search_params(knn: Knn) -> dict[str, Any]:
    """Nothing where the neighbours are exact; else the method and the recall that was measured."""
    return {} if knn.exact else {"knn": knn.method, "recall": knn.recall}
