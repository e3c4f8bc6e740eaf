"""An embedding on the device, with the one neighbour graph that all its metrics share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gpubench.engines import get_engine
from gpubench.errors import InputError
from gpubench.types import Array, Knn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpubench.engines.base import Engine

T = TypeVar("T")


class Embedding:
    """Cells on an engine's device. Made once, handed to every metric.

    Attributes
    ----------
    engine : where it is
    x : (n, d) float32, C-contiguous, on the device
    name : what the user calls it, for messages
    """

    def __init__(self, engine: Engine, x: Array, name: str = "X") -> None:
        self.engine = engine
        self.x = x
        self.name = name
        self._planned_k = 0
        self._knn: Knn | None = None
        self._shared: dict[Hashable, Any] = {}

    @property
    def n(self) -> int:
        """The number of cells."""
        return int(self.x.shape[0])

    @property
    def d(self) -> int:
        """The number of dimensions."""
        return int(self.x.shape[1])

    def plan_knn(self, k: int) -> None:
        """Say that k neighbours will be asked for, so that the first search finds enough for every metric."""
        self._planned_k = max(self._planned_k, min(k, self.n - 1))

    def knn(self, k: int) -> Knn:
        """Return the nearest k other cells of each cell, from the shared graph.

        Raises
        ------
        InputError
            k below 1, or more than the n - 1 other cells.
        """
        if not 1 <= k < self.n:
            raise InputError(f"k={k} neighbours cannot be found among {self.n} cells; use 1 to {self.n - 1}")
        if self._knn is None or self._knn.k < k:
            self._planned_k = max(self._planned_k, k)
            with self.engine.timeline.stage("knn"):
                self._knn = self.engine.knn(self.x, self._planned_k)
        return self._knn.head(k)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what several metrics need of these cells, made by the first that asks.

        Parameters
        ----------
        key : says what it is, with everything that decides it
        """
        if key not in self._shared:
            self._shared[key] = make()
        return cast("T", self._shared[key])


def fingerprint_of(codes: NDArray[np.int32]) -> bytes:
    """A key for a column of codes: equal for equal columns alone."""
    return hashlib.sha256(codes.data).digest()


def on_engine(x: Any, engine: Engine | str | None = None, name: str = "X") -> Embedding:
    """Put a matrix on an engine (None: "auto"); an `Embedding` is returned as it is.

    Raises
    ------
    InputError
        The matrix cannot be scored (see `Engine.put`), or it is already on another engine.
    """
    if isinstance(x, Embedding):
        if engine not in (None, x.engine):
            raise InputError(f"{name} is already on the engine {x.engine.name!r}; leave `engine` out or pass that one")
        return x
    if engine is None or isinstance(engine, str):
        engine = get_engine(engine or "auto")
    return Embedding(engine, engine.put(x, name), name)
