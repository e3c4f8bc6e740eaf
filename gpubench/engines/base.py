"""The contract between metrics and engines: fourteen operations, a policy and a few services.

A metric is written once, in array code over `engine.xp` and the operations of `Engine`. Their docstrings are the
specification that every engine is tested against; an engine overrides a default where it has something faster.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.types import Array, Graph, Knn, RankSums
from gpubench.engines.common import flop_counts, mean_distances, rank_sums
from gpubench.engines.common.knn_classifier import KnnClassifier
from gpubench.engines.common.neighborhoods import BYTES_PER_NEIGHBOR, NeighborKernel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import F64, I32, I64, RowSource

T = TypeVar("T")

Distance = Literal["euclidean", "cosine"]
ClassifierKind = Literal["lr", "knn", "rf"]
Precision = Literal["exact", "fast"]
Backend = Literal["gpubench", "cuml"]
"""Who computes classifiers and silhouettes: the engine itself, or cuML, which only the engine "cuda" has."""

DIGEST_BLOCK_BYTES = 64 << 20


class Classifier(Protocol):
    """A classifier on the engine's device; classes are the codes 0 ... n_classes - 1.

    Attributes
    ----------
    note : message about the training for readers of the scores, such as the package or that the optimiser stopped
        early; empty if there is none. If the training runs in the background, reading `note` waits for it and raises
        its errors
    """

    @property
    def note(self) -> str:
        """Message about the training; see the attributes of the class."""

    def fit(self, x: Array, codes: Array, n_classes: int) -> Classifier:
        """Train on cells x (n, d) float32 with class codes (n,) int32; return self. A class may have no cells."""

    def predict_proba(self, x: Array) -> Array:
        """Return class probabilities (m, n_classes) float64 for cells x (m, d); 0 for a class without training cells.

        The predicted class is the one with the largest probability, the first of them if several are equal.
        """


@dataclass(frozen=True)
class Policy:
    """Decisions of an engine that depend on the number of cells. By default all results are exact and use all cells.

    Attributes
    ----------
    knn_method : requested method of the neighbour search, the argument `knn` of `gpubench.get_engine`
    precision : "exact", or "fast" if distances in silhouettes may be rounded; neighbours are exact in both cases
    max_exact_pair_dims : limit of (pairs of cells to compare) * (dimensions), above which silhouettes are estimated
        from a sample of cells
    saves_neighbors : whether neighbour graphs are on this machine, so that they can be written to a checkpoint
    """

    knn_method: str = "auto"
    precision: Precision = "exact"
    max_exact_pair_dims: float = np.inf
    saves_neighbors: bool = True

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:  # noqa: ARG002 - for engines that choose by them
        """Return the method of `Engine.knn` for k neighbours of n cells with d dimensions.

        "exact", or the name of an approximate method.
        """
        return "exact"

    def samples_neighborhoods(self, n: int, d: int) -> bool:  # noqa: ARG002 - by default never
        """Return whether means over the neighbourhoods of n cells are estimated from a sample of the cells.

        The neighbours of the sampled cells are exact. This replaces an approximate search for many neighbours of all
        cells.
        """
        return False

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:  # noqa: ARG002 - by default all
        """Return how many of n training cells to use for a kind of classifier, so that training does not take hours."""
        return n


class Engine(ABC):
    """Base class of the engines, which compute on a device with one seed, timeline and memory limit per run.

    The operations are put, to_host, release, knn, knn_between, cluster_distances, map_neighbors, fuzzy_graph, leiden,
    classifier, group_means, rank, rank_sums and mean_distances.

    Attributes
    ----------
    name : "cpu", "cuda", "dask"
    device : description of the device, for provenance
    xp : array module of the engine, NumPy or CuPy
    seed : random seed; the same seed gives the same bits for any number of threads
    timeline : record of stages, amounts of work and bytes transferred by `put`
    memory_bytes : memory that the run may use beyond its input
    policy : decisions that depend on the number of cells
    notes : messages about steps that did not run as requested, such as one that had to leave the device
    chosen : reason why this engine was chosen; empty if the user named it
    packages : packages whose versions a result records in addition to those of `gpubench.core.machine`
    """

    name: str
    device: str
    xp: ModuleType
    seed: int
    timeline: Timeline
    memory_bytes: int
    policy: Policy
    notes: list[str]
    chosen: str = ""
    packages: ClassVar[tuple[str, ...]] = ()

    # Operations

    @abstractmethod
    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """Put a matrix on the device as (n, d) float32, C-contiguous; an array already there is returned as it is.

        Rows are read in blocks, so that a file is never in memory twice. The bytes are counted in the timeline. The
        array has the user's values; a caller that needs centred columns centres them itself.

        Raises
        ------
        InputError
            NaN or infinite values (how many rows, the first few), complex or object dtype, not two-dimensional, no
            rows, no columns. The message calls the matrix `name`.
        """

    @abstractmethod
    def to_host(self, x: Array) -> NDArray[Any]:
        """Copy an array of this engine to the host; on the CPU return the array itself."""

    @abstractmethod
    def release(self, x: Array) -> None:
        """Drop the engine's references to an array from `put`, so its memory is freed with the caller's last one."""

    @abstractmethod
    def knn(self, x: Array, k: int) -> Knn:
        """Find the k nearest other cells of each cell of x (n, d) by Euclidean distance.

        A cell is excluded from its own neighbours by its index, so copies of it may be neighbours. The search is exact
        unless the policy chooses an approximate method. Exact neighbours are ordered by (distance in float64, index),
        so ties and duplicates give the same neighbours on every engine and for any number of threads.

        Raises
        ------
        ValueError
            k is less than 1 or greater than n - 1.
        """

    @abstractmethod
    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """Find the k nearest cells in `x` (n, d) to each row of `queries` (m, d); exact, ordered as in `knn`.

        Raises
        ------
        ValueError
            k is less than 1 or greater than n.
        """

    @abstractmethod
    def cluster_distances(
        self,
        x: Array,
        clusters: I32,
        groups: I32 | None = None,
        metric: Distance = "euclidean",
        cells: I64 | None = None,
    ) -> tuple[F64, F64]:
        """Compute the terms a and b of the silhouette width of each cell: mean distances to clusters within its group.

        a is the mean distance of a cell to the other cells of its cluster in its group (divisor n_own - 1), b its
        smallest mean distance to another cluster of the group. Cosine distance is 1 - cos; the cosine with a zero
        vector is 0.

        Parameters
        ----------
        x : (n, d) float32
        clusters : (n,) int32 codes
        groups : (n,) int32 codes; only cells of the same group are compared. If None, all cells are one group
        cells : (m,) int64, distinct indices of the cells to return distances for. If None, all n cells

        Returns
        -------
        a : (n,) or (m,) float64 on the host; NaN for the only cell of a cluster within a group
        b : (n,) or (m,) float64 on the host; infinite in a group with a single cluster

        References
        ----------
        Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7.
        """

    def map_neighbors(
        self, knn: Knn, kernel: NeighborKernel, *columns: Any, cells: I64 | None = None, width: int = 1
    ) -> F64:
        """Compute one value per neighbourhood with a function of `gpubench.engines.common.neighborhoods`.

        Rows are processed in blocks: `kernel(xp, block, cells, *columns)` returns the (rows,) values of a block of
        `knn`.

        Parameters
        ----------
        knn : neighbours of m cells
        kernel : function that works with any array module; an engine may replace one it knows by its own implementation
        columns : further arguments of the kernel, such as arrays with a value per cell; host arrays are copied to the
            device
        cells : (m,) int64, index of the cell that each row of `knn` belongs to. If None, m = n and row i is cell i
        width : number of temporary values that the kernel allocates per row in addition to the k neighbours; larger
            values make blocks smaller

        Returns
        -------
        (m,) float64 on the host
        """
        xp, m = self.xp, len(knn.indices)
        own = None if cells is None else xp.asarray(cells)
        given = [xp.asarray(column) if isinstance(column, np.ndarray) else column for column in columns]
        out = xp.empty(m)

        def run(start: int, stop: int) -> None:
            rows = slice(start, stop)
            block = Knn(knn.indices[rows], knn.distances[rows])
            out[rows] = kernel(xp, block, xp.arange(start, stop) if own is None else own[rows], *given)

        self.timeline.count(flop_counts.look_up(knn.indices.shape, BYTES_PER_NEIGHBOR.get(kernel.__name__, 8)))
        self.over_rows(m, run, max(knn.k + 1, width))
        return self.to_host(out)

    @abstractmethod
    def fuzzy_graph(self, knn: Knn) -> Graph:
        """Build UMAP's fuzzy simplicial set of a neighbour graph, symmetrised by w + w' - w w'.

        Membership exp(-(d - rho) / sigma) with rho the distance to the nearest neighbour that is not at distance 0, and
        sigma such that the sum over the k neighbours is log2(k + 1); the cell itself counts as a neighbour at
        distance 0 in the k + 1, as in UMAP. Local connectivity 1, set-operation mix ratio 1.

        References
        ----------
        McInnes, Healy & Melville (2018), arXiv:1802.03426.
        """

    @abstractmethod
    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> I32:
        """Find communities that maximise modularity with the Leiden algorithm and the engine's seed.

        Returns (n,) int32 codes, numbered in order of decreasing community size.

        References
        ----------
        Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
        """

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """Make an untrained classifier: "lr" logistic regression, "knn" k nearest neighbours, "rf" random forest.

        The parameters are scikit-learn's, of the same names and defaults: lr takes `max_iter` (100) and `C` (1.0), knn
        `n_neighbors` (5), rf `n_estimators` (100). No classifier scales its input. Any other kind raises ValueError.
        """
        if kind == "knn":
            return KnnClassifier(self, **params)
        raise ValueError(f"there is no classifier {kind!r}; there are 'lr', 'knn' and 'rf'")

    def require_backend(self, backend: Backend) -> None:
        """Check that this engine can compute classifiers and silhouettes by a library instead of by itself.

        Raises
        ------
        InputError
            It cannot; the message says why.
        """
        if backend != "gpubench":
            raise InputError(
                f"backend={backend!r} needs the engine 'cuda', this one is {self.name!r}; leave out backend",
                argument="backend",
            )

    def library_classifier(self, kind: ClassifierKind, backend: Backend, **params: Any) -> Classifier:
        """Make an untrained classifier of a library; the parameters are those of `classifier`.

        Raises
        ------
        InputError
            See `require_backend`.
        """
        self.require_backend(backend)
        return self.classifier(kind, **params)

    def library_silhouettes(
        self,
        x: Array,  # noqa: ARG002 - for engines that have a library
        clusters: I32,  # noqa: ARG002
        metric: Distance,  # noqa: ARG002
        backend: Backend,
    ) -> F64:
        """Compute the silhouette widths of all cells by a library: (n,) on the host, 0 for the only cell of a cluster.

        Raises
        ------
        InputError
            See `require_backend`; or the library cannot handle so many cells.
        """
        self.require_backend(backend)
        raise ValueError(f"backend={backend!r} is no library; use cluster_distances")

    @abstractmethod
    def group_means(self, x: Any, codes: I32, n_groups: int) -> F64:
        """Compute the mean of the rows of each group, (n_groups, d) float64, summed in float64; NaN for an empty group.

        x is an array from `put`, or a dense or SciPy sparse matrix on the host, whose values are not rounded to float32
        before they are summed. Rows with code -1 are left out.
        """

    @abstractmethod
    def rank(self, values: Array) -> Array:
        """Rank the values (m, n) within each row, from 1; (m, n) float64. Equal values get their average rank."""

    def rank_sums(
        self, values: Any, groups: ArrayLike, n_groups: int, control: int, *, float32_ties: bool = False
    ) -> RankSums:
        """Compute Mann-Whitney's U and the tie term of every group against the control group, for every gene.

        U = R - m (m + 1) / 2, where R is the sum of the average ranks of the m cells of a group, ranked together with
        the control cells. U and the tie term are exact integers or halves, so every engine returns the same bits.

        Parameters
        ----------
        values : (n_cells, n_genes) on the host or the device: an array, or a sparse matrix of SciPy (or CuPy), whose
            absent entries are 0, whose repeated entries are added up, and whose rows may be in any order. Integers up
            to 2^53, float32 and float64 are compared exactly; values may be negative; 0 and -0 are equal
        groups : (n_cells,) integers, the group of each cell in [0, n_groups); -1 leaves a cell out
        control : index of the group that every group is compared with
        float32_ties : whether to round values to float32 before they are ranked, which makes some of them equal

        Raises
        ------
        InputError
            NaN or infinite values in cells of a group (how many rows, the first few), values that are not a matrix of
            numbers, groups outside of their range, or a group and the control of more than 2,097,151 cells, whose ties
            could exceed 64 bits.

        References
        ----------
        Mann & Whitney (1947), doi:10.1214/aoms/1177730491.
        """
        cells = rank_sums.group_cells(groups, n_groups, control, np.shape(values))
        matrix = rank_sums.as_matrix(values, float32_ties=float32_ties)
        rank_sums.require_finite(matrix, cells)
        self.timeline.count(rank_sums.work(matrix, n_groups))
        return rank_sums.rank_sums(matrix, cells, self.over_rows)

    def mean_distances(self, values: Any, codes: I32, n_groups: int, reference: int | None = None) -> F64:
        """Compute the mean Euclidean distance of the cells of each group to the cells of one group, or to each other.

        The mean is over all pairs of a cell of the group and one of the reference group, with relative error about
        1e-7. If `reference` is None, it is over all pairs of cells of the same group, a cell with itself included.

        Parameters
        ----------
        values : (n_cells, n_genes) on the host, an array or a sparse matrix of SciPy; computed in float32
        codes : (n_cells,) int32, the group of each cell in [0, n_groups); -1 leaves a cell out
        reference : index of the group that every other group is compared with

        Returns
        -------
        (n_groups,) float64 on the host; NaN for the reference group and for empty groups

        Raises
        ------
        InputError
            There is not one code per row, or the reference group has no cells.
        """
        return mean_distances.mean_distances(self, values, codes, n_groups, reference)

    # Services

    @property
    def cost_model(self) -> Any:
        """The `gpubench.engines.costs.CostModel` to predict time and memory of operations; None if there is none."""
        return None

    def preload(self, operations: Collection[str]) -> None:  # noqa: B027 - nothing need be imported
        """Import the packages for these operations in the background; by default import nothing.

        `operations` are names of methods of this class, kinds of classifiers, and "folds" for splitting cells into
        folds. Preloading only shortens the first call of an operation.
        """

    def verified(self) -> dict[str, str]:
        """Return which methods of the device's operations were checked, "operation/method" -> "right" or what is wrong.

        Methods that this engine has not used yet are left out. By default nothing is checked.
        """
        return {}

    def digest(self, x: Array) -> str:
        """Return a digest of all values of an array from `put`, as 64 hexadecimal digits.

        Equal arrays have equal digests on the same kind of engine; CPU and CUDA engines compute different digests.
        """
        n, d = x.shape
        digest = hashlib.sha256(f"{n} x {d}".encode())
        step = max(1, DIGEST_BLOCK_BYTES // (4 * d))
        for start in range(0, n, step):
            digest.update(self.to_host(x[start : start + step]).data)
        return digest.hexdigest()

    @abstractmethod
    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """Call `kernel(start, stop)` for blocks that together cover n rows of `width` values each, on all threads."""

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(engine, *args)` on the device that holds the arrays; on a cluster, on one worker."""
        return function(self, *args)

    def map(self, functions: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Call independent functions in order and yield their results.

        An engine with several workers calls later functions before the first result is requested, one per worker. They
        run at the same time if they start operations without waiting for them, as `Classifier.fit` on a cluster does.
        """
        return (function() for function in functions)
