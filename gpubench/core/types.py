"""Plain data passed between layers: frozen dataclasses without logic.

Letters mean the same everywhere: n cells, d dimensions, k neighbours, L labels, B batches.
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


MAX_SEED = 2**32 - 1
"""Largest seed of NumPy's legacy generators, through which igraph and scikit-learn are seeded."""


def check_seed(seed: Any) -> int:
    """Return the seed as an integer; InputError if it is not a whole number from 0 to `MAX_SEED`."""
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise InputError(f"seed={seed!r} is out of range; it must be an integer from 0 to {MAX_SEED}", argument="seed")
    return number


Array: TypeAlias = Any
"""An array of the engine in use: NumPy on the CPU, CuPy on CUDA."""

F32: TypeAlias = "NDArray[np.float32]"
F64: TypeAlias = "NDArray[np.float64]"
I32: TypeAlias = "NDArray[np.int32]"
I64: TypeAlias = "NDArray[np.int64]"
Bools: TypeAlias = "NDArray[np.bool_]"
"""Arrays of NumPy by dtype."""


@runtime_checkable
class RowSource(Protocol):
    """A matrix that is read in blocks of rows, such as a file that does not fit in memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (n, d)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the dtype as stored."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of labels as integer codes into class names. Every class has at least one cell."""

    codes: NDArray[np.int32]  # (n,) int32 in [0, L), on the host
    names: tuple[str, ...]  # the L values as strings, in the order of the codes
    key: str = "labels"  # the user's name of the column, for messages

    @property
    def n_classes(self) -> int:
        """Number of classes L."""
        return len(self.names)

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Cells to score: embeddings of the same cells, and columns that describe the cells.

    Attributes
    ----------
    embeddings : name -> (n, d) array or `RowSource`, read only when needed
    obs : role ("label", "batch" ...) -> (n,) values as stored, for `encode_labels`; only the requested columns
    n_cells : number of cells n
    cell_ids : (n,) names of the cells; None if the source has none
    source : path or name of the data, for provenance
    rows : (n,) row of the source of each cell; None if the cells are all rows in their order
    matrices : further matrices of the same cells, such as "pre_integrated", which are not scored
    notes : sentences on how the rows of the inputs were matched and which were left out
    """

    embeddings: Mapping[str, Any]
    obs: Mapping[str, Any]
    n_cells: int
    cell_ids: NDArray[Any] | None = None
    source: str | None = None
    rows: NDArray[np.intp] | None = None
    matrices: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Knn:
    """The k nearest neighbours of each cell, nearest first; a cell is not its own neighbour."""

    indices: Array  # (n, k) int32
    distances: Array  # (n, k) float32, Euclidean, not squared
    method: str = "exact"  # "exact", or the name of the approximate method
    params: Mapping[str, Any] = field(default_factory=dict)  # parameters of the method, empty for exact search
    recall: float | None = None  # measured share of true neighbours found; None if the search is exact

    @property
    def k(self) -> int:
        """Number of neighbours per cell."""
        return int(self.indices.shape[1])

    @property
    def exact(self) -> bool:
        """Whether every true neighbour was found."""
        return self.recall is None

    def head(self, k: int) -> Knn:
        """Return the nearest k neighbours of each cell as views of these arrays; ValueError if there are fewer."""
        if not 1 <= k <= self.k:
            raise ValueError(f"head({k}): this graph has {self.k} neighbours per cell")
        return Knn(self.indices[:, :k], self.distances[:, :k], self.method, self.params, self.recall)


@dataclass(frozen=True, slots=True)
class Graph:
    """A weighted undirected graph of cells in CSR format; both directions of an edge are stored."""

    indptr: Array  # (n + 1,) int64
    indices: Array  # (nnz,) int32, ascending in each row
    weights: Array  # (nnz,) float64

    @property
    def n(self) -> int:
        """Number of cells n."""
        return int(self.indptr.shape[0]) - 1


@dataclass(frozen=True, slots=True)
class RankSums:
    """Rank sums of each group of cells against one control group, for every gene; NumPy arrays on the host.

    Attributes
    ----------
    u : (n_groups, n_genes) float64, exact Mann-Whitney U of each group: the number of pairs of a cell of the group and
        a control cell in which the former has the larger value; ties count one half. 0 for an empty group
    ties : (n_groups, n_genes) int64, exact sum of t^3 - t over the runs of t equal values in the union of the group and
        the control
    n_cells : (n_groups,) int64, number of cells of each group
    control : index of the control group. In the control's own row `u` is half the number of pairs of control cells, as
        if the control were compared with itself, and `ties` are those of the control alone
    """

    u: NDArray[np.float64]
    ties: NDArray[np.int64]
    n_cells: NDArray[np.int64]
    control: int
