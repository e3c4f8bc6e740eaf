"""Rank sums and sums of groups of rows, computed by compiled functions with the same bits for any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.types import RankSums
from gpubench.engines.common.rank_sums import n_stored, require_finite, work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64, I32
    from gpubench.engines.common.rank_sums import GroupedCells, Matrix
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads

BLOCK_BYTES = 3 << 17
"""Values of a block of genes and their groups; they stay in a core's second-level cache from reading to sorting."""

MIN_WIDTH, MAX_WIDTH = 16, 128
"""Genes of a block: enough to read whole lines of memory of a row, and few enough to append to all at once."""

GENES_PER_TASK = 1024
"""Largest number of genes per task of a thread, which has to find where the genes begin in each row."""

TASKS_PER_THREAD = 4

ROWS_PER_TASK = 8192
"""Number of rows that are summed at a time; the sums are added in order."""


def rank_sums(matrix: Matrix, cells: GroupedCells, tiles: Tiles, workers: WorkerThreads) -> RankSums:
    """Compute U and the tie term of each group in every gene; see `Engine.rank_sums`."""
    n_genes = matrix.shape[1]
    # the control is group 0 of the compiled functions
    names = np.concatenate([[cells.control], np.delete(np.arange(cells.n_groups), cells.control)])
    codes = _renumbered(cells.codes, names)
    order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(cells.sizes[names])])
    u, ties = np.empty((cells.n_groups, n_genes)), np.empty((cells.n_groups, n_genes), np.int64)

    count, arguments = _counting(matrix, codes, tiles)
    n_bytes = (16 if matrix.dtype == np.float64 else 8) * max(1, n_stored(matrix) // max(1, n_genes))
    width = int(np.clip(BLOCK_BYTES // n_bytes, MIN_WIDTH, MAX_WIDTH))
    step = min(GENES_PER_TASK, max(width, -(-n_genes // (TASKS_PER_THREAD * workers.n_threads))))
    bad: list[int] = []

    def run(start: int) -> None:
        stop = min(start + step, n_genes)
        if not count(*arguments, start, stop, width, order, starts, names, cells.n_groups, n_genes, u, ties):
            bad.append(start)

    workers.timeline.count(work(matrix, cells.n_groups))
    workers.run(range(0, n_genes, step), lambda: run)
    if bad:
        require_finite(matrix, cells)
    return RankSums(u, ties, cells.sizes, cells.control)


def _renumbered(codes: I32, names: NDArray[np.intp]) -> I32:
    """Replace each code by its position in `names`; -1 stays -1."""
    positions = np.empty(len(names) + 1, np.int32)
    positions[names] = np.arange(len(names))
    positions[-1] = -1
    return positions[codes]


def _counting(matrix: Matrix, codes: I32, tiles: Tiles) -> tuple[Callable[..., int], tuple[Any, ...]]:
    """Return the compiled function for the format and types of a matrix, and the function's first arguments."""
    kind = "f32" if matrix.dtype == np.float32 else "f64"
    if isinstance(matrix, np.ndarray):
        size = matrix.itemsize
        if not matrix.flags.aligned or any(stride % size for stride in matrix.strides):
            matrix = np.ascontiguousarray(matrix)
        by_row, by_column = (stride // size for stride in matrix.strides)
        return getattr(tiles, f"rank_dense_{kind}"), (matrix, by_row, by_column)
    direction = "columns" if matrix.format == "csc" else "rows"
    arrays = _parts(matrix)
    return getattr(tiles, f"rank_{direction}_{_types(matrix)}"), (*arrays, codes) if direction == "columns" else arrays


def _types(matrix: Any) -> str:
    """Return the suffix of compiled functions' names for the value and index types of a sparse matrix."""
    return f"{'f32' if matrix.dtype == np.float32 else 'f64'}_{'i64' if matrix.indices.dtype == np.int64 else 'i32'}"


def _parts(matrix: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Return the arrays data, indices and indptr of a sparse matrix in types that the compiled functions accept."""
    return np.ascontiguousarray(matrix.data), np.ascontiguousarray(matrix.indices), matrix.indptr.astype(np.int64)


def group_sums(matrix: Any, codes: I32, n_groups: int, tiles: Tiles, workers: WorkerThreads) -> F64:
    """Sum the rows of each group of a sparse matrix in float64, (n_groups, d); rows with code -1 are left out."""
    matrix = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
    if matrix.dtype != np.float32:
        matrix = matrix.astype(np.float64, copy=False)
    n_genes, sums = matrix.shape[1], np.zeros((n_groups, matrix.shape[1]))
    if matrix.format == "csc":
        add = getattr(tiles, f"sum_columns_{_types(matrix)}")
        arrays, own = _parts(matrix), np.ascontiguousarray(codes, np.int32)

        def run(start: int) -> None:
            add(*arrays, own, n_genes, start, min(start + GENES_PER_TASK, n_genes), sums)

        workers.run(range(0, n_genes, GENES_PER_TASK), lambda: run)
    else:
        for group, partial in _sum_rows(matrix, codes, tiles, workers):
            sums[group] += partial
    return sums


def _sum_rows(matrix: Any, codes: I32, tiles: Tiles, workers: WorkerThreads) -> list[tuple[int, F64]]:
    """Return pairs of a group and a sum of some of its rows, by group and row; a group may have several pairs."""
    add, arrays = getattr(tiles, f"sum_rows_{_types(matrix)}"), _parts(matrix)
    order = np.argsort(codes, kind="stable").astype(np.int32)
    bounds = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))
    pieces = [
        (group, order[first : min(first + ROWS_PER_TASK, stop)])
        for group, (start, stop) in enumerate(pairwise(bounds))
        for first in range(start, stop, ROWS_PER_TASK)
    ]
    sums: list[F64] = [np.empty(0)] * len(pieces)

    def run(i: int) -> None:
        sums[i] = np.zeros(matrix.shape[1])
        add(*arrays, pieces[i][1], len(pieces[i][1]), sums[i])

    workers.run(range(len(pieces)), lambda: run)
    return [(group, partial) for (group, _), partial in zip(pieces, sums, strict=True)]
