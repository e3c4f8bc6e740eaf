"""What runs on one worker of a cluster, as the CPU engine does it there: what needs the whole graph, or all cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines import dask_worker, work
from gpubench.engines.base import Classifier, ClassifierKind, Engine
from gpubench.engines.dask_array import BlockTable, ClusterArray, whole_knn
from gpubench.engines.dask_blocks import BlockRows
from gpubench.engines.dask_classifiers import ClusterClassifier, LinearClusterClassifier
from gpubench.types import Array, Graph, Knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.cpu import CpuEngine
    from gpubench.engines.dask_cluster import Cluster
    from gpubench.engines.dask_worker import Recipe


class OneWorkerEngine(Engine):
    """The operations of the Dask engine that one worker does; see `Engine` for what each computes.

    Attributes
    ----------
    cluster : the workers
    """

    cluster: Cluster
    _recipe: Recipe
    _here: CpuEngine

    def to_host(self, x: Array) -> NDArray[Any]:
        """See `Engine.to_host`."""
        return np.asarray(x)

    def digest(self, x: Array) -> str:
        """See `Engine.digest`; computed by the worker that has the cells."""
        return x.digest() if isinstance(x, BlockRows) else str(self._fetched("digest", x))

    def fuzzy_graph(self, knn: Knn) -> Graph:
        """See `Engine.fuzzy_graph`; on the worker to which the neighbours are brought."""
        self.timeline.work(*work.look_up(knn, 8))
        graph = self._there("fuzzy_graph", self._whole(knn))
        return Graph(*self._fields(graph, "indptr", "indices", "weights"))

    def leiden(self, graph: Graph, resolution: float = 1.0, n_iterations: int = 2) -> NDArray[np.int32]:
        """See `Engine.leiden`; on one worker."""
        return self._codes("leiden", graph, resolution, n_iterations)

    def kmeans(self, x: Array, n_clusters: int) -> NDArray[np.int32]:
        """See `Engine.kmeans`; on one worker."""
        return self._codes("kmeans", self._on(x), n_clusters)

    def strong_components(self, edges: Knn | Graph, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """See `Engine.strong_components`; on one worker."""
        whole = self._whole(edges) if isinstance(edges, Knn) else edges
        return self._codes("strong_components", whole, codes)

    def diffusion_map(self, graph: Graph, cells: NDArray[np.int64], n_components: int) -> Array:
        """See `Engine.diffusion_map`; on one worker."""
        return self._there("diffusion_map", graph, cells, n_components)

    def contingency(
        self, rows: NDArray[np.int32], columns: NDArray[np.int32], n_rows: int, n_columns: int
    ) -> NDArray[np.int64]:
        """See `Engine.contingency`; the columns are here, and counting takes less than sending them."""
        return self._here.contingency(rows, columns, n_rows, n_columns)

    def rank(self, values: Array) -> Array:
        """See `Engine.rank`; where the values are."""
        return self._there("rank", values) if isinstance(values, ClusterArray) else self._here.rank(values)

    def group_means(self, x: Array, codes: NDArray[np.int32], n_groups: int) -> NDArray[np.float64]:
        """See `Engine.group_means`; on one worker."""
        return np.asarray(self._there("group_means", self._on(x), codes, n_groups))

    def classifier(self, kind: ClassifierKind, **params: Any) -> Classifier:
        """See `Engine.classifier`; trained on one worker, and asked where it is."""
        self._here.classifier(kind, **params)  # refuses what cannot be, before anything is sent
        made = LinearClusterClassifier if kind == "lr" else ClusterClassifier
        return made(self.cluster, self._recipe, kind, params)

    def _on(self, x: Array) -> ClusterArray:
        """An array on the cluster."""
        on: ClusterArray = x if isinstance(x, ClusterArray) else self.put(x)
        return on

    def _array(self, future: Any) -> Any:
        return ClusterArray(self.cluster, future)

    def _there(self, operation: str, *args: Any) -> Any:
        """Run an operation on one worker, and leave its answer there."""
        for arg in args:
            if isinstance(arg, BlockRows):
                arg.require_one_worker(f"{operation} needs")
        future = self.cluster.submit(operation, dask_worker.on_engine, self._recipe, operation, args, {})
        self.cluster.wait([future])
        return self._array(future)

    def _fetched(self, operation: str, *args: Any) -> Any:
        return self.cluster.fetch(self._there(operation, *args).argument)

    def _codes(self, operation: str, *args: Any) -> NDArray[np.int32]:
        """Codes of cells, which cross as the smallest integers that hold them."""
        found = self._there(operation, *args)
        return np.asarray(self.cluster.fetch(self.cluster.submit("codes", _smallest, found))).astype(np.int32)

    def _fields(self, found: ClusterArray, *names: str) -> list[ClusterArray]:
        return [self._array(self.cluster.submit(name, getattr, found, name)) for name in names]

    def _whole(self, knn: Knn) -> Any:
        """A neighbour graph on one worker."""
        if not isinstance(knn.indices, BlockTable):
            return knn
        return self._array(self.cluster.submit("whole", whole_knn, knn.indices.blocks, *knn.indices.shape))

    def _of_other_graph(self, operation: str, knn: Knn, *args: Any) -> Any:
        """Of a graph that is not in blocks: where it is."""
        if isinstance(knn.indices, np.ndarray):
            return getattr(self._here, operation)(knn, *args)
        return self._there(operation, knn, *args)


def _smallest(codes: NDArray[np.int32]) -> NDArray[Any]:
    return codes.astype(np.min_scalar_type(int(codes.max(initial=0))))
