"""Mean distances between cells of groups, by compiled functions that make use of zeros; the bits of any threads.

Genes that many cells of the reference express become columns of a dense block, centred so that products lose few
digits. A rare gene needs no centring: where at most half of the cells have a value, squared distances are of the size
of its squares. Products with rare genes cost time only for nonzero values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.engines.common.mean_distances import CLOSE, batches, first_of_each, rows_of_groups, work

if TYPE_CHECKING:
    from gpubench.core.types import F32, F64, I32, I64
    from gpubench.engines.cpu.compiled import Tiles
    from gpubench.engines.cpu.threads import WorkerThreads

COMMON_SHARE = 0.3
"""Share of cells with a value from which on a gene is common; below it, products with its nonzero values are faster."""

ROWS_PER_TASK, COLUMNS_PER_TASK = 2048, 192
"""Numbers of cells of the two sides of a task: multiples of the numbers that the compiled functions pack together."""


@dataclass(frozen=True)
class _Genes:
    """Division of genes into common and rare ones.

    Attributes
    ----------
    place : (G,) column of a common gene in a dense block; -1 - number of a rare gene
    center : (d,) float32, values of the common genes to subtract
    n_rare : number of rare genes
    """

    place: I32
    center: F32
    n_rare: int

    @classmethod
    def of(cls, x: Any) -> _Genes:
        """Divide the genes by the cells in `x`, a CSR matrix, whose mean becomes the centre."""
        n, n_genes = x.shape
        expressed = np.bincount(x.indices, minlength=n_genes)
        common = expressed > COMMON_SHARE * n
        sums = np.bincount(x.indices, x.data, n_genes)
        place = np.where(common, np.cumsum(common) - 1, -np.cumsum(~common))
        return cls(place.astype(np.int32), (sums[common] / n).astype(np.float32), int((~common).sum()))


@dataclass(frozen=True, eq=False)
class _Side:
    """Distinct cells of a group: a dense block of common genes, and nonzero values of rare ones.

    Attributes
    ----------
    common : (m, d) float32
    starts, genes, values : (m + 1,) first value of each cell, rare genes and their values
    squares : (m,) float32, squared norms over all genes
    weights : (m,) number of times that each cell occurs
    """

    common: F32
    starts: I64
    genes: I32
    values: F32
    squares: F32
    weights: F64

    @classmethod
    def of(cls, x: Any, rows: I64, weights: F64, genes: _Genes, tiles: Tiles) -> _Side:
        """Make a side of rows of a CSR matrix."""
        m, d = len(rows), len(genes.center)
        n_stored = int((x.indptr[rows + 1] - x.indptr[rows]).sum())
        side = cls(
            np.empty((m, d), np.float32),
            np.empty(m + 1, np.int64),
            np.empty(n_stored, np.int32),
            np.empty(n_stored, np.float32),
            np.empty(m, np.float32),
            weights,
        )
        written = side.common, side.starts, side.genes, side.values, side.squares
        indices, indptr = x.indices.astype(np.int32, copy=False), x.indptr.astype(np.int64, copy=False)
        tiles.split_genes(x.data, indices, indptr, rows, m, genes.place, genes.center, d, *written)
        return side

    def strips(self, tiles: Tiles) -> F32:
        """Return the dense block packed as the left side of products."""
        m, d = self.common.shape
        width = tiles.strip_rows()
        packed = np.empty((-(-m // width) * width, d), np.float32)
        tiles.pack_strips(self.common, m, d, packed)
        return packed


def mean_distances(
    values: Any, codes: I32, n_groups: int, reference: int | None, tiles: Tiles, workers: WorkerThreads
) -> F64:
    """Compute the mean distance of the cells of each group; see `Engine.mean_distances`."""
    rows = rows_of_groups(values, codes, n_groups, reference)
    means = np.full(n_groups, np.nan)
    other = None
    if reference is not None:
        x, own, weights = _distinct(values, [rows[reference]])
        genes = _Genes.of(x)
        other = genes, _Side.of(x, own[0], weights[0], genes, tiles)
    for batch in batches(rows, values.shape[1], reference):
        x, own, weights = _distinct(values, [rows[g] for g in batch])
        if other is None:
            totals = _within(x, own, weights, tiles, workers)
            n_pairs = [len(rows[g]) ** 2 for g in batch]
        else:
            totals = _between(x, own, weights, *other, tiles, workers)
            n_pairs = [len(rows[g]) * len(rows[reference]) for g in batch]  # type: ignore[index]
        means[batch] = totals / np.array(n_pairs, np.float64)
    workers.timeline.count(work(rows, reference, values.shape[1]))
    return means


def _distinct(values: Any, groups: list[I64]) -> tuple[Any, list[I64], list[F64]]:
    """Return the cells of groups as a CSR matrix, the distinct rows of each group in it, and how often each occurs."""
    from scipy.sparse import csr_array

    taken = values[np.concatenate(groups)]
    if not isinstance(taken, np.ndarray):
        taken = taken.tocsr()
    x = csr_array(taken.astype(np.float32, copy=False))
    if not x.has_canonical_format:
        x.sum_duplicates()
    ends = np.cumsum([0, *map(len, groups)])
    totals = np.asarray(x.sum(axis=1, dtype=np.float64))
    found = [_first_of_each(x, totals, start, stop) for start, stop in pairwise(ends)]
    return x, [start + first for start, (first, _) in zip(ends, found, strict=False)], [n for _, n in found]


def _first_of_each(x: Any, totals: F64, start: int, stop: int) -> tuple[I64, F64]:
    """Return the first of each set of equal rows among rows `start` to `stop`, and how many rows are equal to it."""
    if len(np.unique(totals[start:stop])) == stop - start:  # no two rows can be equal
        return np.arange(stop - start), np.ones(stop - start)
    rows = (slice(x.indptr[row], x.indptr[row + 1]) for row in range(start, stop))
    return first_of_each([x.indices[row].tobytes() + x.data[row].tobytes() for row in rows])


def _within(x: Any, groups: list[I64], weights: list[F64], tiles: Tiles, workers: WorkerThreads) -> F64:
    """Sum the distances of all pairs of cells of each group; (groups,)."""
    sides, strips, n_rare = [], [], []
    for rows, own in zip(groups, weights, strict=True):
        genes = _Genes.of(x[rows])
        sides.append(_Side.of(x, rows, own, genes, tiles))
        strips.append(sides[-1].strips(tiles))
        n_rare.append(genes.n_rare)
    tasks = [
        (g, i, j)
        for g, rows in enumerate(groups)
        for i in range(0, len(rows), ROWS_PER_TASK)
        for j in range(i // COLUMNS_PER_TASK * COLUMNS_PER_TASK, len(rows), COLUMNS_PER_TASK)
    ]
    sums = np.zeros(len(tasks))

    def run(t: int) -> None:
        g, i, j = tasks[t]
        by_cell = _sums(sides[g], strips[g], sides[g], i, j, n_rare[g], tiles, same=True)
        sums[t] = 2 * (by_cell @ sides[g].weights[i : i + ROWS_PER_TASK])  # each pair once

    workers.run(range(len(tasks)), lambda: run)
    totals = np.zeros(len(groups))
    np.add.at(totals, [g for g, _, _ in tasks], sums)
    return totals


def _between(
    x: Any, groups: list[I64], weights: list[F64], genes: _Genes, other: _Side, tiles: Tiles, workers: WorkerThreads
) -> F64:
    """Sum the distances of the cells of each group to those of another side; (groups,)."""
    rows = np.concatenate(groups)
    side = _Side.of(x, rows, np.concatenate(weights), genes, tiles)
    strips, n_other = side.strips(tiles), len(other.squares)
    tasks = [(i, j) for j in range(0, n_other, COLUMNS_PER_TASK) for i in range(0, len(rows), ROWS_PER_TASK)]
    sums = np.zeros((-(-n_other // COLUMNS_PER_TASK), len(rows)))

    def run(t: int) -> None:
        i, j = tasks[t]
        found = _sums(side, strips, other, i, j, genes.n_rare, tiles, same=False)
        sums[j // COLUMNS_PER_TASK, i : i + ROWS_PER_TASK] = found

    workers.run(range(len(tasks)), lambda: run)
    starts = np.cumsum([0, *map(len, groups[:-1])])
    totals: F64 = np.add.reduceat(sums.sum(axis=0) * side.weights, starts)
    return totals


def _sums(
    left: _Side, strips: F32, right: _Side, row: int, column: int, n_rare: int, tiles: Tiles, *, same: bool
) -> F64:
    """Sum the distances of the cells of a task from `row` on to the right cells from `column` on; (rows,)."""
    row_stop = min(row + ROWS_PER_TASK, len(left.squares))
    column_stop = min(column + COLUMNS_PER_TASK, len(right.squares))
    sums = np.empty(row_stop - row)
    tiles.distance_sums(
        *(strips, left.squares, left.starts, left.genes, left.values, row, row_stop),
        *(right.common, right.squares, right.starts, right.genes, right.values),
        *(right.weights.astype(np.float32), column, column_stop, right.common.shape[1], n_rare, same, CLOSE, sums),
    )
    return sums
