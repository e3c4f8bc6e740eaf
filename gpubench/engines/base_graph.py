"""The operations on neighbour graphs that an engine has: a part of the contract in `gpubench.engines.base`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from gpubench.types import Array, Graph, Knn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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

    @abstractmethod
    def strong_components(self, edges: Knn | Graph, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Number the strongly connected components of a directed graph; (n,) int32 codes.

        Edges lead from a cell to its neighbours; only those between cells of the same code count. In a `Graph`, which
        has both directions of an edge, these are the connected components.
        """

    @abstractmethod
    def diffusion_map(self, graph: Graph, cells: NDArray[np.int64], n_components: int) -> Array:
        r"""Diffusion components of the graph of some cells.

        With W the weights between these cells, q the sums of its rows and K = diag(1/q) W diag(1/q), of row sums z, the
        eigenvectors of diag(z)^(-1/2) K diag(z)^(-1/2) with the eigenvalues l of largest magnitude, each times
        l / (1 - l), so that the steps of a random walk of any length count. Vectors whose eigenvalue is 1 in float32,
        those of the connected components, are left as they are.

        Parameters
        ----------
        cells : (m,) indices; each has an edge to another of them
        n_components : cut to m - 1

        Returns
        -------
        (m, components) float32 on the device; a component is determined up to its sign.

        References
        ----------
        Coifman & Lafon (2006), doi:10.1016/j.acha.2006.04.006. Haghverdi et al. (2016), doi:10.1038/nmeth.3971.
        """
