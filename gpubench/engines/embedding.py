"""An embedding on the device, with the one neighbour graph that all its metrics share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn
from gpubench.engines import get_engine

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
    scope : checkpoint entries that depend on these cells
    planned_k : neighbours that the first search finds at least
    """

    def __init__(self, engine: Engine, x: Array, name: str = "X", scope: CheckpointScope | None = None) -> None:
        self.engine = engine
        self.x = x
        self.name = name
        self.scope = scope or CheckpointScope(engine.timeline)
        self.planned_k = 0
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
        self.planned_k = max(self.planned_k, min(k, self.n - 1))

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
            self.planned_k = planned = max(self.planned_k, k)
            scope = self.scope if self.engine.policy.saves_neighbors else self.scope.disabled()
            self._knn = scope.cached("knn", lambda: self.engine.knn(self.x, planned), _knn_codec(self.engine), planned)
        return self._knn.head(k)

    def shared(self, name: str, make: Callable[[], T], codec: Codec[T], *facts: Hashable) -> T:
        """Return what several metrics need of these cells, made by the first that asks.

        Parameters
        ----------
        name : of its stage
        codec : how it is kept for a restart
        facts : with the name everything that decides it
        """
        key = (name, *facts)
        if key not in self._shared:
            # an approximate graph that was searched for more neighbours has other nearest ones
            self._shared[key] = self.scope.cached(name, make, codec, *facts, self.planned_k)
        return cast("T", self._shared[key])


def _knn_codec(engine: Engine) -> Codec[Knn]:
    def pack(knn: Knn) -> CheckpointEntry:
        arrays = {"indices": engine.to_host(knn.indices), "distances": engine.to_host(knn.distances)}
        return CheckpointEntry({"method": knn.method, "params": knn.params, "recall": knn.recall}, arrays)

    def unpack(entry: CheckpointEntry) -> Knn:
        return Knn(*(engine.xp.asarray(entry.arrays[name]) for name in ("indices", "distances")), **entry.value)

    return Codec(pack, unpack)


def fingerprint_of(codes: NDArray[np.int32]) -> str:
    """A key for a column of codes: equal for equal columns alone."""
    return hashlib.sha256(codes.data).hexdigest()


def start_engine(engine: Engine | str | None) -> Engine:
    """Return an engine as it is, or start the one of this name (None: "auto")."""
    return get_engine(engine or "auto") if engine is None or isinstance(engine, str) else engine


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
    engine = start_engine(engine)
    return Embedding(engine, engine.put(x, name), name)
