"""The plain data that travels between layers: frozen dataclasses without logic.

Letters are the same everywhere: n cells, d dimensions, k neighbours, L labels, B batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from gpubench.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LARGEST_SEED = 2**32 - 1
"""Of NumPy's older generators, which igraph and scikit-learn are seeded through."""


def check_seed(seed: Any) -> int:
    """Return the seed as an integer.

    Raises
    ------
    InputError
        It is no whole number from 0 to `LARGEST_SEED`.
    """
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST_SEED:
        raise InputError(f"seed={seed!r} is no whole number from 0 to {LARGEST_SEED}; give one that is")
    return number


Array: TypeAlias = Any
"""An array of the running engine: NumPy on the CPU, CuPy on CUDA."""


@runtime_checkable
class RowSource(Protocol):
    """A matrix that is read in row blocks: a file on disk, or anything that does not fit in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A label column as integer codes. Only values that occur are counted, so no class is empty.

    Attributes
    ----------
    codes : (n,) int32 in [0, L), on the host
    names : the L values as strings, in the order of the codes
    key : what the user calls this column, for messages
    """

    codes: NDArray[np.int32]
    names: tuple[str, ...]
    key: str = "labels"

    @property
    def n_classes(self) -> int:
        """L, the number of distinct values."""
        return len(self.names)

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cells to score: one or more embeddings of the same cells, and the columns that describe them.

    Attributes
    ----------
    embeddings : name -> (n, d) array or `RowSource`; nothing is read before it is needed
    obs : role ("label", "batch" ...) -> (n,) values as stored, which `encode_labels` takes; only the columns asked for
    n_cells : n
    cell_ids : (n,) names of the cells, or None where the source has none
    source : where the data came from, for provenance
    """

    embeddings: Mapping[str, Any]
    obs: Mapping[str, Any]
    n_cells: int
    cell_ids: NDArray[Any] | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Knn:
    """The k nearest neighbours of each cell: the cell itself is left out by id, distances ascend.

    Attributes
    ----------
    indices : (n, k) int32
    distances : (n, k) float32, Euclidean, not squared
    method : "exact", or the name of the approximate method
    params : parameters of the method, empty for exact search
    recall : measured share of true neighbours found, None where the search is exact
    """

    indices: Array
    distances: Array
    method: str = "exact"
    params: Mapping[str, Any] = field(default_factory=dict)
    recall: float | None = None

    @property
    def k(self) -> int:
        """The number of neighbours of each cell."""
        return int(self.indices.shape[1])

    @property
    def exact(self) -> bool:
        """Whether every true neighbour was found."""
        return self.recall is None

    def head(self, k: int) -> Knn:
        """Return the nearest k neighbours as views of this graph.

        Raises
        ------
        ValueError
            If k is below 1 or exceeds the neighbours that were searched.
        """
        if not 1 <= k <= self.k:
            raise ValueError(f"head({k}): this graph holds {self.k} neighbours a cell")
        return Knn(self.indices[:, :k], self.distances[:, :k], self.method, self.params, self.recall)


@dataclass(frozen=True, slots=True)
class Graph:
    """A weighted undirected graph of cells as CSR; both directions of an edge are stored.

    Attributes
    ----------
    indptr : (n + 1,) int64
    indices : (nnz,) int32, ascending inside a row
    weights : (nnz,) float64
    """

    indptr: Array
    indices: Array
    weights: Array

    @property
    def n(self) -> int:
        """The number of cells."""
        return int(self.indptr.shape[0]) - 1
