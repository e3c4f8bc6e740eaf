"""E-distance of each perturbation to the control over all pairs of cells, without holding their distances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.engines.common.blas import one_blas_thread
from gpubench.metrics.perturbation._statistics import pearson
from gpubench.metrics.perturbation._values import CONSTANT, FEW_PERTURBATIONS, Reason, Values, overall_value
from gpubench.metrics.perturbation.cells import PerturbedCells, dense, distinct_rows

if TYPE_CHECKING:
    from gpubench.core.types import F64, I64
    from gpubench.engines.base import Engine

TILE = 1536
"""Number of rows and of columns of a tile of distances."""

CLOSE = 1e-4
"""Share of the squared lengths below which squared distances are recomputed in float64, without cancellation."""

VALUES_PER_STEP = 1 << 22
"""Number of differences of close pairs in memory at a time."""

VALUES_PER_BATCH = 1 << 24
"""Number of dense values of the perturbations that are compared with the control at a time."""

SAME = 1e-9
"""Relative difference below which E-distances are equal up to rounding."""

CellDistance = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class EnergyPair:
    """E-distances of P perturbations to the control, in the real data and in the prediction.

    Attributes
    ----------
    real, predicted : (P,) float64
    """

    real: F64
    predicted: F64


def energy_correlation(pair: EnergyPair) -> Values:
    """Compute Pearson's correlation over perturbations of real and predicted E-distances.

    Parameters
    ----------
    pair : real and predicted E-distances

    Returns
    -------
    Values
        One value in [-1, 1]; undefined for fewer than two perturbations, or if the real or the predicted E-distances
        are constant up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> round(energy_correlation(EnergyPair(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 3.0]))).whole, 6)
    1.0
    """
    n = len(pair.real)

    def correlate(rows: I64) -> float:
        return pearson(pair.real[rows], pair.predicted[rows])

    answer: float | Reason
    if n < 2:
        answer = FEW_PERTURBATIONS
    elif any(np.ptp(side) <= SAME * np.abs(side).max() for side in (pair.real, pair.predicted)):
        answer = CONSTANT
    else:
        answer = correlate(np.arange(n))
    return overall_value(n, answer, correlate)


def energy_distances(
    parts: PerturbedCells | Iterable[PerturbedCells],
    control: str,
    engine: Engine,
    *,
    distance: CellDistance = "euclidean",
) -> dict[str, float]:
    r"""Compute the E-distance of every perturbation to the control.

    .. math:: E = 2 \overline{d(x, c)} - \overline{d(x, x')} - \overline{d(c, c')}

    with means over all pairs of cells x of the perturbation and c of the control, including pairs of a cell with
    itself.

    Parameters
    ----------
    parts : cells, whose values are used as they are; or several parts, each with all cells of some perturbations and
        all control cells
    control : label of the control
    engine : engine that computes tiles of distances, in float32 after centring
    distance : "euclidean", or "cosine" for 1 - cosine similarity

    Returns
    -------
    dict
        Perturbation -> E-distance, relative error about 1e-7.

    References
    ----------
    Székely & Rizzo (2013), doi:10.1016/j.jspi.2013.03.018.

    Examples
    --------
    >>> import gpubench as gb
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> cells = perturbed_cells([[0.0], [2.0], [5.0], [5.0]], ["control", "control", "A", "A"], ["G"])
    >>> energy_distances(cells, "control", gb.get_engine("cpu"))
    {'A': 7.0}
    """
    energies: dict[str, float] = {}
    reference: _Reference | None = None
    for cells in [parts] if isinstance(parts, PerturbedCells) else parts:
        names = [name for name in cells.names if name != control]
        if distance == "cosine":
            energies |= _cosine_energies(cells, control, names)
            continue
        reference = reference or _Reference.of(cells, control, engine)  # the first part has all control cells
        for batch in _batches(cells, names):
            groups = [_Group.of(cells, name, reference.center, engine.xp) for name in batch]
            between = _between(engine, groups, reference.cells)
            within = _within(engine, [group.centred(engine.xp) for group in groups])
            for name, cross, own in zip(batch, between, within, strict=True):
                energies[name] = float(2 * cross - own - reference.within)
    return energies


def _batches(cells: PerturbedCells, names: list[str]) -> Iterator[list[str]]:
    """Yield lists of perturbations whose cells together fit one dense block."""
    limit, held, batch = max(1, VALUES_PER_BATCH // len(cells.genes)), 0, list[str]()
    for name in names:
        n = int(cells.n_cells[cells.names.index(name)])
        if batch and held + n > limit:
            yield batch
            held, batch = 0, []
        held += n
        batch.append(name)
    if batch:
        yield batch


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
    def of(cls, cells: PerturbedCells, name: str, center: F64, xp: Any) -> _Group:
        mine = cells.rows_of(name)
        rows, counts = distinct_rows(dense(cells.x[mine], np.float32))
        weights = None if len(rows) == len(mine) else xp.asarray(counts)
        return cls._at(xp.asarray((rows - center).astype(np.float32)), weights, len(mine), xp)

    @classmethod
    def _at(cls, x: Any, weights: Any, n: int, xp: Any) -> _Group:
        squared = xp.einsum("ij,ij->i", x, x, dtype=xp.float64).astype(xp.float32)
        return cls(x, squared, weights, n)

    def centred(self, xp: Any) -> _Group:
        """Return the group centred at its own mean, which loses the fewest digits of small distances."""
        sums = self.x.sum(axis=0, dtype=xp.float64) if self.weights is None else self.weights @ self.x
        return self._at((self.x - sums / self.n).astype(xp.float32), self.weights, self.n, xp)

    def tile(self, start: int) -> _Group:
        """Return the tile of cells that begins at `start`."""
        taken = slice(start, start + TILE)
        weights = None if self.weights is None else self.weights[taken]
        return _Group(self.x[taken], self.squared[taken], weights, self.n)


@dataclass(frozen=True, eq=False)
class _Reference:
    """The control cells.

    Attributes
    ----------
    center : (G,) mean of the control cells
    cells : the control cells minus `center`
    within : mean distance of pairs of control cells
    """

    center: F64
    cells: _Group
    within: float

    @classmethod
    def of(cls, cells: PerturbedCells, control: str, engine: Engine) -> _Reference:
        center = cells.means(engine)[cells.code(control)]
        group = _Group.of(cells, control, center, engine.xp)
        return cls(center, group, float(_within(engine, [group])[0]))


def _between(engine: Engine, groups: list[_Group], reference: _Group) -> F64:
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


def _within(engine: Engine, groups: list[_Group]) -> F64:
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
    squared = a.x @ (b.x * xp.float32(-2)).T
    squared += a.squared[:, None]
    squared += b.squared[None, :]
    if diagonal:
        xp.fill_diagonal(squared, xp.inf)
    limit = xp.float32(CLOSE) * xp.minimum(a.squared.max(), b.squared.max())
    near = xp.nonzero(squared < limit) if squared.min() < limit else None
    if diagonal:
        xp.fill_diagonal(squared, 0)
    distances = xp.sqrt(xp.maximum(squared, 0, out=squared), out=squared)
    if near is not None:
        _set_exactly(xp, distances, a.x, b.x, near)
    return distances.sum(axis=1, dtype=xp.float64) if b.weights is None else distances.astype(xp.float64) @ b.weights


def _set_exactly(xp: Any, distances: Any, a: Any, b: Any, pairs: tuple[Any, Any]) -> None:
    """Replace the distances of some pairs by those computed from differences in float64, without cancellation."""
    step = max(1, VALUES_PER_STEP // a.shape[1])
    for start in range(0, len(pairs[0]), step):
        i, j = pairs[0][start : start + step], pairs[1][start : start + step]
        difference = a[i].astype(xp.float64) - b[j]
        distances[i, j] = xp.sqrt((difference * difference).sum(axis=1))


def _cosine_energies(cells: PerturbedCells, control: str, names: list[str]) -> dict[str, float]:
    """E-distances of 1 - cosine: squared distances of the mean directions; a cell of zeros has no direction."""
    mean, empty = {}, {}
    for name in cells.names:
        total, zeros, n = np.zeros(len(cells.genes)), 0, 0
        for block in cells.blocks(cells.rows_of(name)):
            length = np.sqrt((block * block).sum(axis=1))
            total += (block / np.where(length > 0, length, 1)[:, None]).sum(axis=0)
            zeros, n = zeros + int((length == 0).sum()), n + len(block)
        mean[name], empty[name] = total / n, zeros / n**2
    # A cell of zeros is at distance 1 from every other cell and at 0 from itself
    return {name: float(((mean[name] - mean[control]) ** 2).sum() + empty[name] + empty[control]) for name in names}
