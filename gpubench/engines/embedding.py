"""An embedding on the device, and the neighbour graph that all metrics of the embedding share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError
from gpubench.core.types import Array, Knn, RowSource
from gpubench.data import DeviceRows
from gpubench.data.matrices import comes_from
from gpubench.data.offsets import MAX_COSINE_ROUNDING, OffsetRows, without_large_offsets
from gpubench.engines import get_engine

if TYPE_CHECKING:
    from gpubench.core.types import I32
    from gpubench.engines.base import Distance, Engine

T = TypeVar("T")


class Embedding:
    """Cells on an engine's device, created once and passed to every metric.

    Attributes
    ----------
    engine : the engine that holds the cells
    x : (n, d) float32, C-contiguous, on the device; without large offsets, see `put`
    name : name of the embedding in messages
    scope : access to the checkpoint entries of these cells
    planned_k : number of neighbours that the next search finds at least, set by `plan_knn`
    neighbors_note : description of the neighbours given by `use_knn`, for notes; empty if they are searched
    """

    def __init__(
        self,
        engine: Engine,
        x: Array,
        name: str = "X",
        scope: CheckpointScope | None = None,
        centred: OffsetRows | None = None,
    ) -> None:
        self.engine = engine
        self.x = x
        self.name = name
        self.scope = scope or CheckpointScope(engine.timeline)
        self._centred = centred  # the rows that were put, if offsets were subtracted
        self.planned_k = 0
        self.neighbors_note = ""
        self._knn: Knn | None = None
        self._shared: dict[Hashable, Any] = {}
        self._uncentred: Array | None = None

    @classmethod
    def put(cls, engine: Engine, x: Any, name: str = "X", scope: CheckpointScope | None = None) -> Self:
        """Put a matrix on an engine, without the large offsets that float32 cannot hold.

        Raises
        ------
        InputError
            The matrix cannot be scored; see `Engine.put`.
        """
        if comes_from(x, "gpubench") and not isinstance(x, RowSource):  # on the workers of a cluster already
            return cls(engine, engine.put(x, name), name, scope)
        rows = without_large_offsets(x, name)
        array = engine.put(x if isinstance(rows, DeviceRows) else rows, name)
        return cls(engine, array, name, scope, rows if isinstance(rows, OffsetRows) else None)

    @property
    def offsets(self) -> str:
        """The offsets that were subtracted, as text that identifies them; empty if there are none."""
        return "" if self._centred is None else hashlib.sha256(np.float64(self._centred.offsets).data).hexdigest()

    def for_distance(self, metric: Distance) -> Array:
        """Return the cells for a distance: `x`, or for cosine the cells with the offsets that `x` lacks.

        Raises
        ------
        InputError
            Rounded to float32, cells with their offsets differ too little for cosines.
        """
        if metric == "euclidean" or self._centred is None:
            return self.x
        if self._centred.rounding > MAX_COSINE_ROUNDING:
            raise InputError(
                f"{self.name} has dimensions whose mean is so large that float32, in which cosine distances are"
                " computed, cannot tell cells apart; subtract the means of the dimensions, or use metric='euclidean'"
            )
        if self._uncentred is None:
            self._uncentred = self.engine.put(self._centred.rows, self.name)
        return self._uncentred

    def release(self) -> None:
        """Release the cells; see `Engine.release`."""
        for x in (self.x, self._uncentred):
            if x is not None:
                self.engine.release(x)

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

    def use_knn(self, knn: Knn, note: str) -> None:
        """Use these neighbours instead of a search; `note` describes them."""
        self._knn, self.neighbors_note = knn, note

    def knn(self, k: int) -> Knn:
        """Return the nearest k other cells of each cell, from the shared graph.

        Raises
        ------
        InputError
            k below 1, more than the n - 1 other cells, or more neighbours than were given by `use_knn`.
        """
        if not 1 <= k < self.n:
            raise InputError(f"k={k} neighbours cannot be found among {self.n} cells; use 1 to {self.n - 1}")
        if self.neighbors_note and self._knn and self._knn.k < k:
            raise InputError(too_few_neighbors(self._knn.k, k))
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


def too_few_neighbors(given: int, wanted: int) -> str:
    """Return the message for given neighbours that are fewer than are needed."""
    return (
        f"neighbors_key has {given} neighbours of each cell, and {wanted} are needed (n_neighbors={wanted + 1} in"
        " scanpy); give more, lower the option of the task, or leave it out"
    )


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
    return Embedding.put(start_engine(engine), x, name)
