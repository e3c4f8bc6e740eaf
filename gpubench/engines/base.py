"""The contract between metrics and engines: thirteen operations, a policy and a few services.

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

from gpubench.core.types import Array, Graph, Knn, RankSums
from gpubench.engines.common import flop_counts, rank_sums
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

DIGEST_BLOCK_BYTES = 64 << 20


class Classifier(Protocol):
    """A classifier on the engine's device; classes are the codes 0 ... n_classes - 1.

    Attributes
    ----------
    note : what a reader of its scores should know once it is trained (which package, stopped early); may be empty.
        If the training runs in the background, reading it waits for the training and raises its errors
    """

    @property
    def note(self) -> str:
        """See above."""

    def fit(self, x: Array, codes: Array, n_classes: int) -> Classifier:
        """Train on x (n, d) float32 with codes (n,) int32; returns itself. A class may have no cells."""

    def predict_proba(self, x: Array) -> Array:
        """(m, n_classes) float64 probabilities for x (m, d); a class that had no cells gets 0.

        The predicted class is the first of the largest probabilities.
        """


@dataclass(frozen=True)
class Policy:
    """What an engine decides by the number of cells. By default everything is exact and computed for all cells.

    Attributes
    ----------
    knn_method : how neighbours are searched, see `gpubench.get_engine`
    precision : "exact", or "fast" if distances between many cells may be rounded; neighbours are exact in either
    max_exact_pair_dims : silhouettes that compare more pairs of cells times dimensions are estimated from a sample
    saves_neighbors : whether neighbour graphs are on this machine, so that a checkpoint can hold them
    """

    knn_method: str = "auto"
    precision: Precision = "exact"
    max_exact_pair_dims: float = np.inf
    saves_neighbors: bool = True

    def knn_method_for(self, n: int, d: int, k: int = 1) -> str:  # noqa: ARG002 - for engines that choose by them
        """Return how `Engine.knn` searches k neighbours of n cells: "exact", or the name of an approximate method."""
        return "exact"

    def samples_neighborhoods(self, n: int, d: int) -> bool:  # noqa: ARG002 - by default never
        """Whether means over neighbourhoods of n cells are estimated from a sample of cells with exact neighbours.

        An engine does so instead of an approximate search for many neighbours of every cell.
        """
        return False

    def max_training_cells(self, kind: ClassifierKind, n: int) -> int:  # noqa: ARG002 - by default all
        """Return how many of n cells a classifier should be trained on, so that training does not take hours."""
        return n


class Engine(ABC):
    """One device, one seed, one timeline and one memory budget, for one run.

    The operations are put, to_host, release, knn, knn_between, cluster_distances, map_neighbors, fuzzy_graph, leiden,
    classifier, group_means, rank and rank_sums.

    Attributes
    ----------
    name : "cpu", "cuda", "dask"
    device : description of the device, for provenance
    xp : the array module
    seed : random seed; the same seed gives the same bits for any number of threads
    timeline : records stages, work and bytes put
    memory_bytes : what the run may use beyond its input
    policy : what is decided by the number of cells
    notes : what did not run as asked, such as a step that had to leave the device
    chosen : why this engine was chosen, if it was not named
    packages : distributions beyond those of `gpubench.core.machine` whose versions a result records
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

        Rows are read in blocks, so a file larger than the block never stands in memory twice. Bytes are counted in the
        timeline. Columns are not centred here, but by the caller that needs it: a put array has the user's values.

        Raises
        ------
        InputError
            NaN or infinite values (how many rows, the first few), complex or object dtype, not two-dimensional, no
            rows, no columns. `name` is the argument that the message names.
        """

    @abstractmethod
    def to_host(self, x: Array) -> NDArray[Any]:
        """Copy an array of this engine to the host; on the CPU return the array itself."""

    @abstractmethod
    def release(self, x: Array) -> None:
        """Forget an array that was put, so that its memory is free once nobody else holds it."""

    @abstractmethod
    def knn(self, x: Array, k: int) -> Knn:
        """Find the k nearest other cells of each cell, Euclidean; the cell itself is left out by id.

        Exact unless the policy chooses an approximate method: order is by (distance in float64, index), so ties and
        duplicates give the same neighbours on every engine and for any number of threads.
        Needs 1 <= k < n (ValueError).
        """

    @abstractmethod
    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """Find the k nearest cells of `x` (n, d) for each row of `queries` (m, d); (m, k), exact, ordered as `knn`.

        Needs 1 <= k <= n (ValueError).
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
        """Compute the mean distances a and b of each cell to clusters of its group, the terms of a silhouette width.

        a is the mean distance to the other cells of its cluster in the group (divisor n_own - 1), b the smallest mean
        distance to another cluster of the group. Cosine distance is 1 - cos; the cosine with a zero vector is 0.

        Parameters
        ----------
        x : (n, d) float32
        clusters : (n,) int32 codes
        groups : (n,) int32 codes; only cells of the same group are compared. None: one group
        cells : (m,) int64, the cells whose distances are asked for, each once, among all n; None: all

        Returns
        -------
        a : (n,) or (m,) float64 on the host; NaN for a cell alone in its cluster
        b : the same; infinite in a group of one cluster

        References
        ----------
        Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7.
        """

    def map_neighbors(
        self, knn: Knn, kernel: NeighborKernel, *columns: Any, cells: I64 | None = None, width: int = 1
    ) -> F64:
        """Compute a value of each neighbourhood by a function of `gpubench.engines.common.neighborhoods`.

        Rows are worked on in blocks: `kernel(xp, block, cells, *columns)` returns the (rows,) values of a block.

        Parameters
        ----------
        knn : neighbours of m cells
        kernel : array code over any array module; an engine may use its own implementation of a function it knows
        columns : what the kernel takes beyond the neighbours; arrays of the host are copied to the device
        cells : (m,) int64, the cell that each row of `knn` belongs to; None: m = n, row i belongs to cell i
        width : values that the kernel makes for each row, beyond those of its neighbours; limits the size of blocks

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
        """Find Leiden communities by modularity; (n,) int32 codes in order of decreasing size. Seeded.

        References
        ----------
        Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
        """

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """Make an untrained classifier: "lr" logistic regression, "knn" k nearest neighbours, "rf" random forest.

        The parameters are scikit-learn's, of the same names and defaults: lr takes `max_iter` (100) and `C` (1.0), knn
        `n_neighbors` (5), rf `n_estimators` (100). None of them scales its input. Another kind is a ValueError.
        """
        if kind == "knn":
            return KnnClassifier(self, **params)
        raise ValueError(f"there is no classifier {kind!r}; there are 'lr', 'knn' and 'rf'")

    @abstractmethod
    def group_means(self, x: Any, codes: I32, n_groups: int) -> F64:
        """Mean of the rows of each group; (n_groups, d) float64, summed in float64. An empty group has NaN.

        x is a put array, or a matrix on the host, dense or a sparse one of SciPy, whose values are not rounded to
        float32 before they are summed. Code -1 leaves a row out.
        """

    @abstractmethod
    def rank(self, values: Array) -> Array:
        """Average ranks, from 1, inside each row of `values` (m, n); (m, n) float64. Equal values share a rank."""

    def rank_sums(
        self, values: Any, groups: ArrayLike, n_groups: int, control: int, *, float32_ties: bool = False
    ) -> RankSums:
        """Count Mann-Whitney's U and the ties of every group against the control group, for every gene.

        U = R - m (m + 1) / 2 with R the sum of the average ranks of the m cells of a group among them and the control
        cells. Both numbers are exact integers or halves, so every engine returns the same bits.

        Parameters
        ----------
        values : (n_cells, n_genes) on the host or the device: an array, or a sparse matrix of SciPy (or CuPy), whose
            absent entries are 0, whose repeated entries are added up, and whose rows may be in any order. Integers up
            to 2^53, float32 and float64 are compared exactly; values may be negative; 0 and -0 are equal
        groups : (n_cells,) integers, the group of each cell in [0, n_groups); -1 leaves a cell out
        control : the group that each is compared with
        float32_ties : round values to float32 first, which makes some of them equal

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

    # Services

    @property
    def cost_model(self) -> Any:
        """Expected time and memory of the operations, a `gpubench.engines.costs.CostModel`; None if not known."""
        return None

    def preload(self, operations: Collection[str]) -> None:  # noqa: B027 - nothing need be imported
        """Import the packages for these operations in the background; by default import nothing.

        Operations are named as here, classifiers by their kind, and splitting cells into folds is "folds". This only
        shortens the first call of an operation.
        """

    def digest(self, x: Array) -> str:
        """Return a digest of all values of a put array, 64 hexadecimal digits; each kind of engine has its own."""
        n, d = x.shape
        digest = hashlib.sha256(f"{n} x {d}".encode())
        step = max(1, DIGEST_BLOCK_BYTES // (4 * d))
        for start in range(0, n, step):
            digest.update(self.to_host(x[start : start + step]).data)
        return digest.hexdigest()

    @abstractmethod
    def over_rows(self, n: int, kernel: Callable[[int, int], None], width: int = 1) -> None:
        """Run `kernel(start, stop)` on blocks that cover n rows, of `width` values each, on all threads."""

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(engine, *args)` on one device that has the arrays; on a cluster on one worker."""
        return function(self, *args)

    def map(self, functions: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Call independent functions in order and yield their results.

        An engine with several workers calls the next functions ahead, each for one worker, where operations only start
        when they are called, as `Classifier.fit` on a cluster does.
        """
        return (function() for function in functions)
