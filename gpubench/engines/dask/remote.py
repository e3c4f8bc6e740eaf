"""Arrays that stay on the workers: matrices of cells, tables of neighbours, and the arrays of graphs.

NumPy functions and operators on such a matrix run on the workers. If the result is a matrix, it stays there as well;
vectors and numbers are returned as NumPy arrays.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpubench.core.errors import InputError
from gpubench.core.types import Knn
from gpubench.core.units import bytes_text
from gpubench.engines.dask.cluster import Cluster, RemoteArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gpubench.core.types import F32, I32, I64

BLOCKS_PER_WORKER = 4

DIGEST_ROWS = 256
"""Rows that are hashed together. Blocks hold a multiple of them, so that the digest does not depend on the blocks."""

WHOLE_COPIES = 2.5
"""Matrices that a worker holds which receives all cells: they, their blocks, and what is computed from them."""


KnnBlock = tuple["I64 | None", "I32", "F32"]
"""Rows of a neighbour graph: cells to which they belong (None if all, in order), indices and distances."""


class KnnTable(RemoteArray):
    """The table of indices or of distances of a neighbour graph, (n, k), in blocks of rows on the workers.

    Attributes
    ----------
    blocks : futures of `KnnBlock`s, which contain both tables
    item : position of the table in a `KnnBlock`: 1 for indices, 2 for distances
    """

    def __init__(self, cluster: Cluster, blocks: list[Any], shape: tuple[int, int], item: int) -> None:
        super().__init__(cluster)
        self.blocks, self.shape, self.item = blocks, shape, item

    @property
    def future(self) -> Any:
        """Future of the whole table on one worker, with rows in the order of the cells."""
        return self.cluster.submit("whole", join_table, self.blocks, *self.shape, self.item)

    def __getitem__(self, key: Any) -> Any:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        if rows == slice(None) and isinstance(columns, slice) and columns.start in (None, 0) and columns.step is None:
            k = len(range(*columns.indices(self.shape[1])))
            return KnnTable(self.cluster, self.blocks, (self.shape[0], k), self.item)
        return np.asarray(self)[key]

    def __len__(self) -> int:
        return self.shape[0]


def remote_knn(cluster: Cluster, blocks: list[Any], shape: tuple[int, int], *facts: Any) -> Knn:
    """Return a neighbour graph whose tables stay on the workers; `facts` are method, parameters and recall."""
    return Knn(KnnTable(cluster, blocks, shape, 1), KnnTable(cluster, blocks, shape, 2), *facts)


def join_table(blocks: list[tuple[Any, ...]], n: int, k: int, item: int) -> NDArray[Any]:
    """Join the table at position `item` of all `KnnBlock`s into one array (n, k)."""
    return np.ascontiguousarray(in_order([(block[0], block[item][:, :k]) for block in blocks], (n, k)))


def in_order(found: list[tuple[I64 | None, NDArray[Any]]], shape: tuple[int, ...]) -> NDArray[Any]:
    """Join pieces of an array in order; each piece has the row numbers of its rows and the rows.

    If the row numbers of the first piece are None, that piece is the whole array.
    """
    if found and found[0][0] is None:
        return found[0][1]
    out = np.empty(shape, found[0][1].dtype if found else np.float32)
    for where, rows in found:
        out[where] = rows
    return out


@dataclass(frozen=True, slots=True)
class MatrixLimits:
    """Memory limits of tasks on a matrix.

    Attributes
    ----------
    name : name of the matrix in messages
    worker_bytes : memory that may be used on one worker
    part_bytes : largest size of a part of the cells
    """

    name: str
    worker_bytes: int
    part_bytes: int


class ClusterMatrix(RemoteArray, NDArrayOperatorsMixin):
    """A matrix on the workers, in blocks of rows or whole on one worker; each form is made from the other when needed.

    Dask transfers the blocks that a task needs between workers. A block that is lost with its worker is read again.
    In-place operators and item assignment replace the whole matrix.

    Attributes
    ----------
    shape, dtype : shape and dtype of the matrix
    limits : memory limits of tasks
    key : identifier of the copies that workers keep on their GPUs; empty if they keep none
    sorted : cells in the order of the last silhouette computation, for reuse; see `silhouette.sort`
    """

    def __init__(
        self,
        cluster: Cluster,
        shape: tuple[int, int],
        dtype: Any,
        limits: MatrixLimits,
        *,
        blocks: tuple[list[Any], list[int]] | None = None,
        whole: Any = None,
    ) -> None:
        """Make a matrix from the future of the whole, or from `blocks`: their futures, and their first rows and n."""
        super().__init__(cluster, whole)
        self.shape, self.dtype, self.limits = shape, np.dtype(dtype), limits
        self.key = ""
        self.sorted: Any = None
        self._blocks = blocks

    ndim = 2

    @property
    def future(self) -> Any:
        """Future of the whole matrix on one worker; raises InputError if no worker has enough memory."""
        if self._future is None:
            self.require_one_worker("this needs")
            self._future = self.cluster.submit("whole", np.concatenate, self.blocks)
        return self._future

    @property
    def blocks(self) -> list[Any]:
        """Futures of the blocks, which are float32 arrays of consecutive rows."""
        return self._in_blocks()[0]

    @property
    def edges(self) -> list[int]:
        """First row of each block, and n as the last entry."""
        return self._in_blocks()[1]

    def _in_blocks(self) -> tuple[list[Any], list[int]]:
        if self._blocks is None:
            edges = block_edges(*self.shape, len(self.cluster.workers()), self.limits.part_bytes)
            calls = [(self._future, slice(*span)) for span in pairwise(edges)]
            self._blocks = self.cluster.submit_each("rows", take_rows, calls), edges
        return self._blocks

    def spans(self) -> list[tuple[Any, int, int]]:
        """Return (future, start, stop) for each block, with the range of its rows."""
        return [(block, *span) for block, span in zip(self.blocks, pairwise(self.edges), strict=True)]

    def require_one_worker(self, who: str, remedy: str = "") -> None:
        """Raise InputError if no worker has enough memory for all cells; `who` is the subject of the message."""
        n, d = self.shape
        needs = int(WHOLE_COPIES * 4 * n * d)
        if self._future is None and needs > self.limits.worker_bytes:
            raise InputError(
                f"{self.limits.name} ({n:,} x {d}) is in blocks on the workers, and {who} all cells on one:"
                f" {bytes_text(needs)}, but {bytes_text(self.limits.worker_bytes)} may be used; start workers with more"
                f" memory{f', or {remedy}' if remedy else ''}"
            )

    def digest(self) -> str:
        """Return a SHA-256 of all values, which does not depend on the blocks; 64 hexadecimal digits."""
        hashes = self.cluster.submit_each("digest", hash_rows, [(block,) for block in self.blocks])
        return str(self.cluster.fetch(self.cluster.submit("digest", join_hashes, hashes, self.shape)))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        is_column = isinstance(key, np.ndarray) and key.ndim == 1
        if self._blocks is not None:
            if isinstance(key, slice) and key.step in (None, 1):
                start, stop, _ = key.indices(self.shape[0])
                return self._select([slice(max(start - a, 0), max(min(stop, b) - a, 0)) for _, a, b in self.spans()])
            if is_column and key.dtype == np.bool_ and len(key) == len(self):
                return self._select([key[a:b] for _, a, b in self.spans()])
            if is_column and key.dtype.kind in "iu":
                return self._gather(key)
        return self._apply(operator.getitem, self, key)

    def __setitem__(self, key: Any, values: Any) -> None:
        self.replace(self._apply(_with_items, self, key, values))

    def _select(self, keys: list[Any]) -> ClusterMatrix:
        """Return a matrix of the rows that `keys` selects from each block; they stay on the block's worker."""
        counts = [len(np.arange(b - a)[key]) for key, (_, a, b) in zip(keys, self.spans(), strict=True)]
        some = [i for i, count in enumerate(counts) if count] or [0]
        edges = np.cumsum([0, *(counts[i] for i in some)]).tolist()
        blocks = self.cluster.submit_each("rows", take_rows, [(self.blocks[i], keys[i]) for i in some])
        return ClusterMatrix(self.cluster, (edges[-1], self.shape[1]), self.dtype, self.limits, blocks=(blocks, edges))

    def _gather(self, cells: NDArray[Any]) -> ClusterMatrix:
        """Return a matrix of the given rows in the given order, whole on one worker."""
        n, d = self.shape
        if 4 * len(cells) * d * 2 > self.limits.worker_bytes:
            raise InputError(
                f"{len(cells):,} cells of {self.limits.name} take {bytes_text(8 * len(cells) * d)} on one worker, but"
                f" {bytes_text(self.limits.worker_bytes)} may be used; start workers with more memory"
            )
        wanted = np.where(cells < 0, cells + n, cells).astype(np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < n):
            raise IndexError(f"cells {cells.min()} ... {cells.max()} of {n}")
        block_of = np.searchsorted(self.edges, wanted, "right") - 1
        places = [(i, np.flatnonzero(block_of == i)) for i in range(len(self.blocks))]
        places = [(i, where) for i, where in places if len(where)]
        calls = [(self.blocks[i], wanted[where] - self.edges[i]) for i, where in places]
        rows = self.cluster.submit_each("rows", take_rows, calls)
        found = [(where, some) for (_, where), some in zip(places, rows, strict=True)]
        future = self.cluster.submit("rows", in_order, found, (len(cells), d))
        return ClusterMatrix(self.cluster, (len(cells), d), self.dtype, self.limits, whole=future)

    @property
    def T(self) -> Any:  # noqa: N802 - as NumPy calls it
        """The transposed matrix."""
        return self._apply(np.transpose, self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        if method != "__call__":
            return NotImplemented
        if out is None:
            return self._apply(ufunc, *inputs, **kwargs)
        if not isinstance(out[0], ClusterMatrix):
            return NotImplemented
        return out[0].replace(self._apply(_ufunc_as, ufunc, out[0].dtype, inputs, kwargs))

    def replace(self, other: ClusterMatrix) -> ClusterMatrix:
        """Replace all values by those of another matrix of the same shape and dtype; return self."""
        self._future, self._blocks, self.sorted, self.key = other.future, None, None, ""
        return self

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return self._apply(function, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return a function that runs the NumPy array method of this name on the worker."""
        if name.startswith("_") or not callable(getattr(np.ndarray, name, None)):
            raise AttributeError(name)
        return partial(self._apply, getattr(np.ndarray, name), self)

    def _apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function with the whole matrix on a worker; a resulting matrix stays there, others are fetched."""
        name = getattr(function, "__name__", "array").strip("_")
        future = self.cluster.submit(name, function, *args, **kwargs)
        shape, value = self.cluster.fetch(self.cluster.submit("describe", describe, future))
        if shape is None:
            return value
        return ClusterMatrix(self.cluster, shape, value, self.limits, whole=future)


def block_edges(n: int, d: int, n_workers: int, part_bytes: int) -> list[int]:
    """Return the first row of each block, and n; blocks have a multiple of `DIGEST_ROWS` rows, evenly per worker."""
    per_worker = BLOCKS_PER_WORKER if n_workers <= 32 else 2 if n_workers <= 256 else 1
    rows = min(-(-n // (per_worker * n_workers)), max(1, 2 * part_bytes // (4 * d)))
    rows = -(-rows // DIGEST_ROWS) * DIGEST_ROWS
    return [*range(0, n, rows), n]


def describe(result: Any) -> tuple[tuple[int, ...] | None, Any]:
    """Return the shape and dtype of a result that is a matrix, else None and the result itself."""
    is_matrix = isinstance(result, np.ndarray) and result.ndim == 2
    return (result.shape, result.dtype) if is_matrix else (None, result)


def take_rows(block: F32, key: Any) -> F32:
    """Return a copy of the rows that `key` selects; a view would keep the whole block in memory."""
    return np.array(block[key])


def hash_rows(block: F32) -> bytes:
    """Return the concatenated SHA-256 hashes of every `DIGEST_ROWS` rows of a block."""
    starts = range(0, len(block), DIGEST_ROWS)
    return b"".join(hashlib.sha256(block[start : start + DIGEST_ROWS].data).digest() for start in starts)


def join_hashes(hashes: list[bytes], shape: tuple[int, int]) -> str:
    """Return one digest of a matrix from the hashes of all its blocks and its shape."""
    n, d = shape
    return hashlib.sha256(f"{n} x {d} in {DIGEST_ROWS}".encode() + b"".join(hashes)).hexdigest()


def _ufunc_as(ufunc: np.ufunc, dtype: Any, inputs: Any, kwargs: Any) -> Any:
    return ufunc(*inputs, **kwargs).astype(dtype, copy=False)


def _with_items(array: NDArray[Any], key: Any, values: Any) -> NDArray[Any]:
    changed = array.copy()  # a task must not write to its arguments
    changed[key] = values
    return changed
