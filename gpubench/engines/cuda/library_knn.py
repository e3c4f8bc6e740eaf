"""Neighbours that faiss or cuVS propose on the GPU, ordered by exact distances.

Up to `CudaTuning.exact_knn_cells` cells the library compares all pairs in float32; above that faiss searches an
inverted file, and cuVS builds the graph by NN-descent. The library gets centred and scaled cells, so that its float32
distances lose few digits, and is asked for some more cells than are needed. Their distances in float64 give the order,
as in the exact search, and the recall is measured on a sample. Results depend on the library only by what it misses.

Both libraries work on the stream of the calling thread, on arrays of CuPy, without copies on the host. cuVS allocates
from the pool that CuPy and RMM share; faiss takes temporary memory of its own, whose size is limited here.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from gpubench.core.types import Array, Knn
from gpubench.engines import planner
from gpubench.engines.common import flop_counts
from gpubench.engines.cuda import exact_knn
from gpubench.engines.cuda.arithmetic import padded
from gpubench.engines.cuda.memory import import_problem
from gpubench.engines.cuda.workspace import Workspace, row_blocks

MAX_CANDIDATES = 2048
"""Most neighbours that faiss returns on a GPU."""

MAX_QUERIES = 1 << 16
"""Most cells that are searched for in one call."""

MAX_TEMPORARY_BYTES = 512 << 20
"""Most memory that faiss may keep for temporary arrays."""

BYTES_PER_CANDIDATE = 48
"""Memory for a candidate while a block of cells is searched for and ordered: ids, distances, sorted copies, masks."""


def library_problem(name: str) -> str:
    """Try to import the library "faiss" or "cuvs"; return "" if it can be used, else what is wrong with it."""
    problem = import_problem(name)
    if not problem and name == "faiss" and not hasattr(import_module(name), "StandardGpuResources"):
        return "is not installed (the faiss here has no GPU functions)"
    return problem


class Library(Protocol):
    """A library's index of all cells.

    Attributes
    ----------
    params : settings of the index, for the provenance of the graph
    n_compared : number of cells with which a cell is compared; 0 if unknown
    """

    params: dict[str, Any]
    n_compared: int

    def propose(self, rows: slice) -> Array:
        """Return indices of cells near the cells `rows`, (m, n_candidates) int64; -1 where too few were found."""


def n_candidates(n: int, k: int) -> int:
    """Return the number of candidates to ask for: the cell itself, k others, and spare ones, as float32 misorders."""
    return min(n, MAX_CANDIDATES, k + 1 + max(8, k // 6))


def needed_bytes(n: int, d: int, k: int) -> int:
    """Return the bytes of a scaled copy of the cells, of the graph, and of the library's ids or candidates."""
    return 4 * n * (padded(d) + 2) + 8 * n * k + 8 * n * n_candidates(n, k)


def library_knn(workspace: Workspace, x: Array, k: int, method: str, *, seed: int) -> Knn:
    """Find the neighbours of each cell with the library "faiss" or "cuvs".

    Raises
    ------
    InputError
        k is too large, or the index and the graph do not fit in memory.
    OutOfMemory
        The library ran out of memory.
    """
    device, timeline, (n, d) = workspace.device, workspace.timeline, x.shape
    exact_knn.check_k(k + 1)  # one more to measure the recall
    n_bytes = needed_bytes(n, d, k)
    what = f"the graph of {k} neighbours of {n:,} cells by {method}"
    planner.require(n_bytes, workspace.room_bytes, what, "use knn='exact', or fewer neighbours")
    inner = replace(workspace, room_bytes=workspace.room_bytes - n_bytes)
    search = exact_knn.KnnSearch(inner, x, x, k)
    compares_all = n <= workspace.tuning.exact_knn_cells
    width = n_candidates(n, k)
    step = min(MAX_QUERIES, inner.room_bytes // 8 // (BYTES_PER_CANDIDATE * width + 4 * padded(d)))
    uncertain = []
    with device.library():
        library: Library = LIBRARIES[method, compares_all](inner, search, n, width, seed)
        for rows in row_blocks(n, step):
            uncertain.append(search.order_proposed(rows, library.propose(rows)))
            timeline.advance(rows.stop, n)
        params, n_compared = library.params, library.n_compared
        del library
    timeline.count(flop_counts.search(n, n_compared, d, k, symmetric=False))
    search.search_exactly(device.xp.concatenate(uncertain))
    device.synchronize()
    recall = exact_knn.sampled_recall(workspace, x, search.indices, seed)
    return Knn(search.indices, search.distances, method, params, recall)


class _Faiss:
    """What both indices of faiss need: its memory, its stream, and its pointers to arrays of CuPy."""

    def __init__(self, workspace: Workspace, search: exact_knn.KnnSearch, width: int) -> None:
        import faiss as module

        faiss: Any = module  # its types are those of the package for the CPU
        self._faiss = faiss
        self._xp, self._search, self._width = workspace.device.xp, search, width
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(min(MAX_TEMPORARY_BYTES, workspace.room_bytes // 8))
        stream = faiss.cast_integer_to_cudastream_t(int(self._xp.cuda.get_current_stream().ptr))
        self._resources.setDefaultStream(workspace.device.number, stream)

    def _floats(self, array: Array) -> Any:
        """Return a pointer of faiss to an array of float32 on the GPU."""
        return self._faiss.cast_integer_to_float_ptr(_address(array, np.float32))

    def _ids(self, array: Array) -> Any:
        """Return a pointer of faiss to an array of int64 on the GPU."""
        return self._faiss.cast_integer_to_idx_t_ptr(_address(array, np.int64))

    def _results(self, m: int) -> tuple[Array, Array]:
        """Return arrays (m, width) for distances and ids."""
        return self._xp.empty((m, self._width), np.float32), self._xp.empty((m, self._width), np.int64)


class FaissFlat(_Faiss):
    """faiss's search among all cells."""

    def __init__(
        self,
        workspace: Workspace,
        search: exact_knn.KnnSearch,
        n: int,
        width: int,
        seed: int,  # noqa: ARG002 - as the other indices
    ) -> None:
        super().__init__(workspace, search, width)
        self.params: dict[str, Any] = {"index": "flat"}
        self.n_compared = n
        self._number = workspace.device.number
        self._cells = search.scaled(slice(0, n))

    def propose(self, rows: slice) -> Array:
        """See `Library.propose`."""
        faiss, queries = self._faiss, self._cells[rows]
        distances, ids = self._results(len(queries))
        args = faiss.GpuDistanceParams()
        args.metric, args.k, args.dims = faiss.METRIC_L2, self._width, queries.shape[1]
        args.vectors, args.numVectors = self._floats(self._cells), len(self._cells)
        args.queries, args.numQueries = self._floats(queries), len(queries)
        args.vectorsRowMajor = args.queriesRowMajor = True
        args.vectorType = args.queryType = faiss.DistanceDataType_F32
        args.outDistances, args.outIndices = self._floats(distances), self._ids(ids)
        args.outIndicesType = faiss.IndicesDataType_I64
        args.device = self._number
        faiss.bfKnn(self._resources, args)
        return ids


class FaissLists(_Faiss):
    """faiss's inverted file of sqrt(n) lists, of which the `CudaTuning.n_probe` nearest are searched."""

    def __init__(self, workspace: Workspace, search: exact_knn.KnnSearch, n: int, width: int, seed: int) -> None:
        super().__init__(workspace, search, width)
        faiss, tuning, n_lists = self._faiss, workspace.tuning, int(np.sqrt(n))
        random = np.random.default_rng(seed)
        chosen = np.sort(random.choice(n, min(n, tuning.cells_per_centre * n_lists), replace=False))
        sample = search.scaled(self._xp.asarray(chosen))
        config = faiss.GpuIndexIVFFlatConfig()
        config.device = workspace.device.number
        index = faiss.GpuIndexIVFFlat(self._resources, sample.shape[1], n_lists, faiss.METRIC_L2, config)
        index.cp.seed = seed & 0x7FFFFFFF  # a C int
        index.train_c(len(sample), self._floats(sample))
        for rows in row_blocks(n, MAX_QUERIES):
            cells = search.scaled(rows)
            index.add_c(len(cells), self._floats(cells))
        index.nprobe = min(tuning.n_probe, n_lists, MAX_CANDIDATES)
        self._index = index
        self.params: dict[str, Any] = {"n_lists": n_lists, "n_probe": int(index.nprobe)}
        self.n_compared = n_lists + index.nprobe * n // n_lists

    def propose(self, rows: slice) -> Array:
        """See `Library.propose`."""
        queries = self._search.scaled(rows)
        distances, ids = self._results(len(queries))
        self._index.search_c(len(queries), self._floats(queries), self._width, self._floats(distances), self._ids(ids))
        return ids


class _Cuvs:
    """What both methods of cuVS need: a handle on the stream of the thread, and results that are complete."""

    def __init__(self, workspace: Workspace, search: exact_knn.KnnSearch, n: int) -> None:
        from cuvs.common import Resources

        self._device, self._xp = workspace.device, workspace.device.xp
        # for the stream 0 cuVS uses one of its own, so work is completed before and after each call
        self._resources = Resources(stream=int(self._xp.cuda.get_current_stream().ptr))
        self._cells = search.scaled(slice(0, n))
        self._device.synchronize()


class CuvsBruteForce(_Cuvs):
    """cuVS's search among all cells."""

    def __init__(
        self,
        workspace: Workspace,
        search: exact_knn.KnnSearch,
        n: int,
        width: int,
        seed: int,  # noqa: ARG002 - as the other indices
    ) -> None:
        super().__init__(workspace, search, n)
        from cuvs.neighbors import brute_force

        self.params: dict[str, Any] = {"index": "brute_force"}
        self.n_compared = n
        self._width, self._search = width, brute_force.search
        self._index = brute_force.build(self._cells, metric="sqeuclidean", resources=self._resources)

    def propose(self, rows: slice) -> Array:
        """See `Library.propose`."""
        queries = self._cells[rows]
        ids = self._xp.empty((len(queries), self._width), np.int64)
        distances = self._xp.empty(ids.shape, np.float32)
        self._device.synchronize()
        self._search(self._index, queries, self._width, neighbors=ids, distances=distances, resources=self._resources)
        self._resources.sync()
        return ids


class CuvsNnDescent(_Cuvs):
    """cuVS's graph of all neighbours by NN-descent in float32, which takes no seed."""

    n_compared = 0

    def __init__(
        self,
        workspace: Workspace,
        search: exact_knn.KnnSearch,
        n: int,
        width: int,
        seed: int,  # noqa: ARG002 - there is none
    ) -> None:
        super().__init__(workspace, search, n)
        from cuvs.neighbors import all_neighbors, nn_descent

        own = nn_descent.IndexParams(
            metric="sqeuclidean",
            graph_degree=width,
            intermediate_graph_degree=width + width // 2,
            dist_comp_dtype="fp32",
        )
        params = all_neighbors.AllNeighborsParams(algo="nn_descent", metric="sqeuclidean", nn_descent_params=own)
        self.params: dict[str, Any] = {"index": "nn_descent", "graph_degree": width}
        self._ids = self._xp.empty((n, width), np.int64)
        all_neighbors.build(self._cells, width, params, indices=self._ids, resources=self._resources)
        self._resources.sync()

    def propose(self, rows: slice) -> Array:
        """See `Library.propose`."""
        return self._ids[rows]


LIBRARIES: dict[tuple[str, bool], type[FaissFlat | FaissLists | CuvsBruteForce | CuvsNnDescent]] = {
    ("faiss", True): FaissFlat,
    ("faiss", False): FaissLists,
    ("cuvs", True): CuvsBruteForce,
    ("cuvs", False): CuvsNnDescent,
}
"""(method, whether all pairs are compared) -> the library's index."""


def _address(array: Array, dtype: type) -> int:
    """Return the address of an array for a library that sees neither its dtype nor its strides."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise TypeError(f"a C-contiguous array of {np.dtype(dtype)} is needed, not {array.dtype} of {array.strides}")
    return int(array.data.ptr)
