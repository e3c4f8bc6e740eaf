"""The contract between what is measured and where it runs.

A metric is written once, in plain array code over `engine.xp` and the operations below, those on neighbour graphs in
`gpubench.engines.base`. Only these operations have a CPU and a CUDA version, and their docstrings are the
specification that both are tested against.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gpubench.core.types import Array, Graph, Knn

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.timeline import Timeline
    from gpubench.core.types import RowSource


class GraphOperations(ABC):
    """What an engine does with neighbours that it has found; the docstrings are the specification."""

    @abstractmethod
    def neighbor_entropy(
        self, knn: Knn, codes: NDArray[np.int32], n_codes: int, cells: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Entropy (nats) of the codes in each neighbourhood of k + 1 cells: the cell itself and its k neighbours.

        H_i = -sum_c p_ic log p_ic with p_ic the share of code c.

        Parameters
        ----------
        knn : neighbours of m cells
        codes : (n,) int32 in [0, n_codes), of all cells
        cells : (m,) int64, the cell that each row of `knn` is of; None: m = n, each row is of the cell of its number

        Returns
        -------
        (m,) float64
        """

    @abstractmethod
    def neighbor_value_distance(
        self, knn: Knn, values: NDArray[np.float64], k_per_cell: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Mean absolute difference between a cell's value and its neighbours'; (n,) float64.

        Parameters
        ----------
        values : (n,) float64
        k_per_cell : (n,) how many of its nearest neighbours count for each cell, in [1, knn.k]; None: all.
        """

    @abstractmethod
    def neighbor_simpson(
        self, knn: Knn, codes: NDArray[np.int32], n_codes: int, perplexity: float
    ) -> NDArray[np.float64]:
        """Simpson's index of the codes around each cell: the chance that two weighted neighbours share a code.

        sum_c (sum_{j in N_i, c_j = c} w_ij)^2 with w_ij proportional to exp(-beta_i d_ij) over the k neighbours, and
        beta_i such that the entropy of the weights is log(perplexity). Where no beta does that it is the limit: equal
        weights, of all neighbours if k <= perplexity, of the nearest if as many or more are at the same smallest
        distance. The cell itself has no weight.

        Parameters
        ----------
        codes : (n,) int32 in [0, n_codes)
        perplexity : effective number of neighbours, at least 1

        Returns
        -------
        (n,) float64 in [1 / n_codes, 1]

        References
        ----------
        Korsunsky et al. (2019), doi:10.1038/s41592-019-0619-0.
        """

    @abstractmethod
    def neighbor_chi_square(
        self, knn: Knn, codes: NDArray[np.int32], shares: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Pearson's statistic of the codes in each neighbourhood of k + 1 cells against shares of all cells.

        sum_c (o_ic - e_c)^2 / e_c with o_ic the cells of code c among the cell itself and its k neighbours, and
        e_c = (k + 1) shares_c; (n,) float64.

        Parameters
        ----------
        codes : (n,) int32 codes
        shares : (n_codes,) float64, each above 0
        """

    @abstractmethod
    def fuzzy_graph(self, knn: Knn) -> Graph:
        """UMAP's fuzzy simplicial set of a neighbour graph, symmetrised by w + w' - w w'.

        Membership exp(-(d - rho) / sigma) with rho the distance to the nearest neighbour that is not at distance 0, and
        sigma such that the sum over the k neighbours is log2(k + 1); the cell itself counts as a neighbour at
        distance 0 in the k + 1, as in UMAP. Local connectivity 1, set-operation mix ratio 1.

        References
        ----------
        McInnes, Healy & Melville (2018), arXiv:1802.03426.
        """

    @abstractmethod
    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """Leiden communities by modularity; (n,) int32 codes in order of decreasing size. Seeded.

        References
        ----------
        Traag, Waltman & van Eck (2019), doi:10.1038/s41598-019-41695-z.
        """


Distance = Literal["euclidean", "cosine"]
ClassifierKind = Literal["lr", "knn", "rf"]
Precision = Literal["exact", "fast"]

DIGEST_BLOCK_BYTES = 64 << 20


class Classifier(Protocol):
    """A classifier on the engine's device; classes are the codes 0 ... n_classes - 1.

    Attributes
    ----------
    note : what a reader of its scores should know once it is trained (which package, stopped early); may be empty.
        Where training has only begun it is waited for here, and fails here
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


class Engine(GraphOperations):
    """One device, one seed, one timeline and one memory budget, for one run.

    Attributes
    ----------
    name : "cpu", "cuda", "dask"
    device : the device in words, for provenance
    xp : the array module
    seed : seed of everything random; the same seed gives the same bits whatever the number of threads
    timeline : records stages and bytes put
    memory_bytes : what the run may use beyond its input
    precision : "exact", or "fast" where distances between many cells may be rounded to what is fastest; neighbours are
        exact in either
    knn_method : how neighbours are searched, see `gpubench.get_engine`
    exact_products : silhouettes whose distances take more differences of two values (pairs of cells times dimensions)
        are estimated from a sample of cells; infinite: never
    notes : what did not run as asked, such as a step that had to leave the device
    chosen : why this engine, where it was not named
    brings_neighbors : whether neighbour graphs are on this machine, so that they can be kept for a restart
    trainings : classifiers that are trained at the same time: `fit` and `predict_proba` of more than one only begin
    """

    name: str
    device: str
    xp: ModuleType
    seed: int
    timeline: Timeline
    memory_bytes: int
    precision: Precision
    knn_method: str
    exact_products: float
    notes: list[str]
    chosen: str = ""
    brings_neighbors: bool = True
    trainings: int = 1

    def get_ready(self, operations: Collection[str], n: int) -> None:
        """Begin to load, in the background, what will be needed for n cells: packages take long to import.

        Operations are named as here, classifiers by their kind, and cutting cells into folds is "folds".

        Nothing depends on it but the time that the first call takes. By default nothing is loaded.
        """

    def beside(self, i: int) -> AbstractContextManager[None]:  # noqa: ARG002 - by default there is one place
        """Where the engine has several `trainings`: all that begins in this context does so at one place.

        Parameters
        ----------
        i : counts contexts, which get the places in turn
        """
        return nullcontext()

    def estimates_neighborhoods(self, n: int, d: int) -> bool:  # noqa: ARG002 - of any size it does not, by default
        """Whether means over large neighbourhoods of n cells are estimated from some cells with their exact neighbours.

        That is where `knn` would be approximate, and hold many neighbours of every cell.
        """
        return False

    @abstractmethod
    def put(self, x: ArrayLike | RowSource, name: str = "X") -> Array:
        """Put a matrix on the device as (n, d) float32, C-contiguous; an array already there is returned as it is.

        Rows are read in blocks, so a file larger than the block never stands in memory twice. Bytes are counted in the
        timeline. Columns are centred by the caller that needs it, not here: a put array has the user's values.

        Raises
        ------
        InputError
            NaN or infinite values (how many rows, the first few), complex or object dtype, not two-dimensional, no
            rows, no columns. `name` is the argument that the message names.
        """

    @abstractmethod
    def release(self, x: Array) -> None:
        """Forget an array that was put, so that its memory is free once nobody else holds it."""

    @abstractmethod
    def to_host(self, x: Array) -> NDArray[Any]:
        """Copy an array of this engine to the host; on the CPU the array itself."""

    def digest(self, x: Array) -> str:
        """Tell cells that were put from any others; every value counts. 64 hexadecimal digits."""
        n, d = x.shape
        digest = hashlib.sha256(f"{n} x {d}".encode())
        step = max(1, DIGEST_BLOCK_BYTES // (4 * d))
        for start in range(0, n, step):
            digest.update(self.to_host(x[start : start + step]).data)
        return digest.hexdigest()

    @abstractmethod
    def knn(self, x: Array, k: int) -> Knn:
        """Find the k nearest other cells of each cell, Euclidean; itself is left out by id.

        Exact: order is by (distance in float64, index), so ties and duplicates give the same neighbours on every
        engine and for any number of threads. Needs 1 <= k < n (ValueError).
        """

    def method(self, n: int, d: int, k: int = 1) -> str:  # noqa: ARG002 - for engines that choose by them
        """How `knn` searches the k neighbours of n cells of d dimensions: "exact", or the name of another method."""
        return "exact"

    @abstractmethod
    def knn_between(self, queries: Array, x: Array, k: int) -> Knn:
        """Find the k nearest cells of `x` (n, d) for each row of `queries` (m, d); (m, k), same order as `knn`.

        Needs 1 <= k <= n (ValueError).
        """

    @abstractmethod
    def silhouette_widths(
        self,
        x: Array,
        clusters: NDArray[np.int32],
        groups: NDArray[np.int32] | None = None,
        metric: Distance = "euclidean",
        cells: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Silhouette width of each cell among the cells of its group, s = (b - a) / max(a, b).

        a is the mean distance to the other cells of its cluster in the group (divisor n_own - 1), b the smallest mean
        distance to another cluster of the group. Cosine distance is 1 - cos; the cosine with a zero vector is 0.

        Parameters
        ----------
        x : (n, d) float32
        clusters : (n,) int32 codes
        groups : (n,) int32 codes; only cells of the same group see each other. None: one group.
        cells : (m,) int64, the cells whose widths are asked for, each once, among all n; None: all

        Returns
        -------
        (n,) or (m,) float64; 0 for a cell alone in its cluster, and where a = b = 0; NaN in a group of one cluster.

        References
        ----------
        Rousseeuw (1987), doi:10.1016/0377-0427(87)90125-7.
        """

    @abstractmethod
    def mean_distances(
        self, x: Array, clusters: NDArray[np.int32], metric: Distance = "euclidean"
    ) -> NDArray[np.float64]:
        """Mean distance of each cell to the other cells of its cluster: a of `silhouette_widths`.

        Parameters
        ----------
        x : (n, d) float32
        clusters : (n,) int32 codes

        Returns
        -------
        (n,) float64; NaN for a cell alone in its cluster.
        """

    @abstractmethod
    def kmeans(self, x: Array, n_clusters: int) -> NDArray[np.int32]:
        """Cluster cells around their means; (n,) int32 codes below `n_clusters`. Seeded.

        Centres start by k-means++, each the best of 2 + floor(log n_clusters) draws, and Lloyd's steps follow until no
        cell changes its cluster, 300 at most. A cluster that loses its cells stays empty.

        References
        ----------
        Arthur & Vassilvitskii (2007), doi:10.5555/1283383.1283494. Lloyd (1982), doi:10.1109/TIT.1982.1056489.
        """

    @abstractmethod
    def rank(self, values: Array) -> Array:
        """Average ranks, from 1, inside each row of `values` (m, n); (m, n) float64. Equal values share a rank."""

    @abstractmethod
    def group_means(self, x: Array, codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """Mean of the rows of each group; (n_groups, d) float64, summed in float64. An empty group has NaN."""

    @abstractmethod
    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """Make an untrained classifier: "lr" logistic regression, "knn" k nearest neighbours, "rf" random forest.

        The parameters are scikit-learn's, of the same names and defaults: lr takes `max_iter` (100) and `C` (1.0), knn
        `n_neighbors` (5), rf `n_estimators` (100). None of them scales its input.
        """

    def most_training_cells(self, kind: ClassifierKind, n: int) -> int:  # noqa: ARG002 - for engines that choose by it
        """How many of n cells a classifier should be trained on at most; all of them where that takes no hours."""
        return n
