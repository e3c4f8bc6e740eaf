"""Mean Euclidean distances between cells of groups, without holding the distances: in NumPy or CuPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.engines.common import flop_counts
from gpubench.engines.common.blas import one_blas_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Work
    from gpubench.core.types import F32, F64, I32, I64

TILE = 1536
"""Number of rows and of columns of a tile of distances."""

CLOSE = 1e-4
"""Share of the squared lengths below which squared distances are recomputed in float64, without cancellation."""

VALUES_PER_STEP = 1 << 22
"""Number of differences of close pairs in memory at a time."""

VALUES_PER_BATCH = 1 << 24
"""Number of dense values of the groups that are compared at a time."""


def mean_distances(engine: Any, values: Any, codes: I32, n_groups: int, reference: int | None) -> F64:
    """Compute the mean distance of the cells of each group; see `Engine.mean_distances`."""
    xp = engine.xp
    rows = rows_of_groups(values, codes, n_groups, reference)
    center = np.zeros(values.shape[1]) if reference is None else _mean(engine, values, rows[reference])
    other = None if reference is None else _Group.of(values, rows[reference], center, xp)
    means = np.full(n_groups, np.nan)
    for batch in batches(rows, values.shape[1], reference):
        groups = [_Group.of(values, rows[g], center, xp) for g in batch]
        if other is None:
            means[batch] = _within(engine, [group.centred(xp) for group in groups])
        else:
            means[batch] = _between(engine, groups, other)
    engine.timeline.count(work(rows, reference, values.shape[1]))
    return means


def rows_of_groups(values: Any, codes: I32, n_groups: int, reference: int | None) -> list[I64]:
    """Return the row numbers of the cells of each group, ascending.

    Raises
    ------
    InputError
        There is not one code per row, or `reference` is not a group with cells.
    """
    codes = np.asarray(codes)
    if codes.shape != (values.shape[0],):
        raise InputError(f"codes has shape {codes.shape}; give one for each of {values.shape[0]:,} cells")
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(n_groups + 1))
    rows = [order[start:stop] for start, stop in pairwise(bounds)]
    if reference is not None and not (0 <= reference < n_groups and len(rows[reference])):
        raise InputError(f"reference={reference} is not a group with cells", argument="reference")
    return rows


def batches(rows: list[I64], n_genes: int, reference: int | None) -> Iterator[list[int]]:
    """Yield lists of groups whose cells together fit one dense block, without the reference and empty groups."""
    limit, held, batch = max(1, VALUES_PER_BATCH // max(1, n_genes)), 0, list[int]()
    for group, own in enumerate(rows):
        if not len(own) or group == reference:
            continue
        if batch and held + len(own) > limit:
            yield batch
            held, batch = 0, []
        held += len(own)
        batch.append(group)
    if batch:
        yield batch


def work(rows: list[I64], reference: int | None, n_genes: int) -> Work:
    """Count the work of `Engine.mean_distances`, of all genes whether they are 0 or not."""
    n_cells = [len(own) for own in rows]
    if reference is None:
        return flop_counts.leaves(n_cells, n_genes)
    n_other = n_cells.pop(reference)
    return flop_counts.search(sum(n_cells), n_other, n_genes, 1, symmetric=False)


def distinct_rows(block: F32) -> tuple[F32, F64]:
    """Return the distinct rows and how often each occurs; rows are compared by their bytes."""
    first, counts = first_of_each([row.tobytes() for row in block])
    return block[first] if len(first) < len(block) else block, counts


def first_of_each(keys: list[bytes]) -> tuple[I64, F64]:
    """Return the position at which each distinct key first occurs, and how often it occurs."""
    places: dict[bytes, int] = {}
    index = np.fromiter((places.setdefault(key, len(places)) for key in keys), np.int64, len(keys))
    first = np.full(len(places), len(keys))
    np.minimum.at(first, index, np.arange(len(keys)))
    return first, np.bincount(index, minlength=len(places)).astype(np.float64)


def _mean(engine: Any, values: Any, rows: I64) -> F64:
    codes = np.full(values.shape[0], -1, np.int32)
    codes[rows] = 0
    means: F64 = engine.group_means(values, codes, 1)[0]
    return means


def _dense(x: Any) -> F32:
    block: NDArray[Any] = x if isinstance(x, np.ndarray) else x.toarray()
    return block.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Group:
    """Distinct cells of a group on the device, minus a centre.

    Attributes
    ----------
    x : (m, G) float32
    squared : (m,) float32, squared lengths
    weights : (m,) float64 number of times that each cell occurs; if None, once
    n : number of cells
    """

    x: Any
    squared: Any
    weights: Any
    n: int

    @classmethod
    def of(cls, values: Any, rows: I64, center: F64, xp: Any) -> _Group:
        distinct, counts = distinct_rows(_dense(values[rows]))
        weights = None if len(distinct) == len(rows) else xp.asarray(counts)
        return cls._at(xp.asarray((distinct - center).astype(np.float32)), weights, len(rows), xp)

    @classmethod
    def _at(cls, x: Any, weights: Any, n: int, xp: Any) -> _Group:
        squared = xp.square(x).sum(axis=1, dtype=np.float64).astype(np.float32)
        return cls(x, squared, weights, n)

    def centred(self, xp: Any) -> _Group:
        """Return the group centred at its own mean, which loses the fewest digits of small distances."""
        sums = self.x.sum(axis=0, dtype=np.float64) if self.weights is None else self.weights @ self.x
        return self._at((self.x - sums / self.n).astype(np.float32), self.weights, self.n, xp)

    def tile(self, start: int) -> _Group:
        """Return the tile of cells that begins at `start`."""
        taken = slice(start, start + TILE)
        weights = None if self.weights is None else self.weights[taken]
        return _Group(self.x[taken], self.squared[taken], weights, self.n)


def _between(engine: Any, groups: list[_Group], reference: _Group) -> F64:
    """Compute the mean distance of the cells of each group to those of the reference; (groups,)."""
    xp = engine.xp
    rows = _Group(xp.concatenate([g.x for g in groups]), xp.concatenate([g.squared for g in groups]), None, 0)
    tiles = [(i, j) for i in range(0, len(rows.x), TILE) for j in range(0, len(reference.x), TILE)]
    sums = np.zeros((len(range(0, len(reference.x), TILE)), len(rows.x)))

    def run(start: int, stop: int) -> None:
        for i, j in tiles[start:stop]:
            distances = _row_sums(xp, rows.tile(i), reference.tile(j), diagonal=False)
            sums[j // TILE, i : i + len(distances)] = engine.to_host(distances)

    with one_blas_thread():
        engine.over_rows(len(tiles), run, TILE * TILE)
    by_cell = np.split(sums.sum(axis=0), np.cumsum([len(g.x) for g in groups])[:-1])
    totals = [
        part.sum() if g.weights is None else part @ engine.to_host(g.weights)
        for part, g in zip(by_cell, groups, strict=True)
    ]
    return np.array([total / (g.n * reference.n) for total, g in zip(totals, groups, strict=True)])


def _within(engine: Any, groups: list[_Group]) -> F64:
    """Compute the mean distance of pairs of cells in each group, a cell with itself included; (groups,)."""
    xp = engine.xp
    tiles = [
        (g, i, j)
        for g, group in enumerate(groups)
        for i in range(0, len(group.x), TILE)
        for j in range(i, len(group.x), TILE)
    ]
    sums = np.zeros(len(tiles))

    def run(start: int, stop: int) -> None:
        for t in range(start, stop):
            g, i, j = tiles[t]
            rows = groups[g].tile(i)
            distances = _row_sums(xp, rows, groups[g].tile(j), diagonal=i == j)
            total = distances.sum() if rows.weights is None else distances @ rows.weights
            sums[t] = float(total) * (1 if i == j else 2)  # each pair of tiles once

    with one_blas_thread():
        engine.over_rows(len(tiles), run, TILE * TILE)
    owners = np.array([g for g, _, _ in tiles])
    means: F64 = np.bincount(owners, sums, len(groups)) / np.array([group.n**2 for group in groups], np.float64)
    return means


def _row_sums(xp: Any, a: _Group, b: _Group, *, diagonal: bool) -> Any:
    """Compute the sum, weighted by those of b, of the Euclidean distances of each row of a to the rows of b."""
    squared = a.x @ (b.x * np.float32(-2)).T
    squared += a.squared[:, None]
    squared += b.squared[None, :]
    own = xp.arange(len(squared))
    if diagonal:
        squared[own, own] = np.inf
    limit = xp.minimum(a.squared.max(), b.squared.max()) * np.float32(CLOSE)
    near = xp.flatnonzero(squared < limit) if bool(squared.min() < limit) else None
    if diagonal:
        squared[own, own] = 0
    distances = xp.sqrt(xp.maximum(squared, 0, out=squared), out=squared)
    if near is not None:
        _set_exactly(xp, distances, a.x, b.x, near)
    if b.weights is None:
        return distances.sum(axis=1, dtype=np.float64)
    return distances.astype(np.float64) @ b.weights


def _set_exactly(xp: Any, distances: Any, a: Any, b: Any, pairs: Any) -> None:
    """Replace the distances at some flat positions by those from differences in float64, without cancellation."""
    step = max(1, VALUES_PER_STEP // a.shape[1])
    for start in range(0, len(pairs), step):
        at = pairs[start : start + step]
        i, j = at // len(b), at % len(b)
        difference = a[i].astype(np.float64) - b[j]
        distances[i, j] = xp.sqrt((difference * difference).sum(axis=1))
