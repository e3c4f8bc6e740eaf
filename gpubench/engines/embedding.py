"""An embedding on the device, and the neighbour graph that all metrics of the embedding share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn
from gpubench.engines import get_engine

if TYPE_CHECKING:
    from gpubench.core.types import I32
    from gpubench.engines.base import Engine

T = TypeVar("T")


class Embedding:
    """Cells on an engine's device, created once and passed to every metric.

    Attributes
    ----------
    engine : the engine that holds the cells
    x : (n, d) float32, C-contiguous, on the device
    name : name of the embedding in messages
    scope : access to the checkpoint entries of these cells
    planned_k : number of neighbours that the next search finds at least, set by `plan_knn`
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
        """Announce that k neighbours will be needed, so that the first search finds enough for every metric."""
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
        """Return a result that several metrics use, computed by the first one that requests it.

        Parameters
        ----------
        name : name of the result in the checkpoint
        make : function that computes the result
        codec : conversion of the result to and from a checkpoint entry
        facts : hashable values that identify the result, in addition to the cells and the name, such as parameters
        """
        key = (name, *facts)
        if key not in self._shared:
            # an approximate search for more neighbours may find other nearest ones
            self._shared[key] = self.scope.cached(name, make, codec, *facts, self.planned_k)
        return cast("T", self._shared[key])


def _knn_codec(engine: Engine) -> Codec[Knn]:
    def pack(knn: Knn) -> CheckpointEntry:
        arrays = {"indices": engine.to_host(knn.indices), "distances": engine.to_host(knn.distances)}
        return CheckpointEntry({"method": knn.method, "params": knn.params, "recall": knn.recall}, arrays)

    def unpack(entry: CheckpointEntry) -> Knn:
        return Knn(*(engine.xp.asarray(entry.arrays[name]) for name in ("indices", "distances")), **entry.value)

    return Codec(pack, unpack)


def codes_fingerprint(codes: I32) -> str:
    """Return the SHA-256 of a column of codes (n,) as text."""
    return hashlib.sha256(codes.data).hexdigest()


def start_engine(engine: Engine | str | None) -> Engine:
    """Start the engine with the given name, or "auto" if None; return an `Engine` unchanged."""
    return get_engine(engine or "auto") if engine is None or isinstance(engine, str) else engine


def on_engine(x: Any, engine: Engine | str | None = None, name: str = "X") -> Embedding:
    """Put a matrix on an engine, by default on "auto"; return an `Embedding` unchanged.

    Raises
    ------
    InputError
        The matrix cannot be scored (see `Engine.put`), or it is already on another engine.
    """
    if isinstance(x, Embedding):
        if engine not in (None, x.engine):
            raise InputError(f"{name} is already on the engine {x.engine.name!r}; omit `engine` or pass that engine")
        return x
    engine = start_engine(engine)
    return Embedding(engine, engine.put(x, name), name)
