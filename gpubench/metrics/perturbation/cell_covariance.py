"""Correlations of genes over the cells of a perturbation, real and predicted."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.metrics.perturbation._statistics import pearson
from gpubench.metrics.perturbation._values import FEW_CELLS, FEW_EXPRESSED, FEW_PAIRS, Reason, Values, for_each
from gpubench.metrics.perturbation.cells import dense, divide_rows, row_totals

if TYPE_CHECKING:
    from gpubench.core.types import F32, F64, I64
    from gpubench.metrics.perturbation.streaming import Cells

MAX_CELLS, MIN_CELLS = 500, 50
MIN_EXPRESSING_CELLS, N_VARIED, MIN_GENES = 10, 100, 20
MIN_DEVIATION = 1e-6
MIN_ENTRIES = 6
BLOCK_VALUES = 1 << 22
ALPHA = 0.05


@dataclass(frozen=True)
class CellPair:
    """Real and predicted cells of P perturbations, with the same genes.

    Attributes
    ----------
    real, predicted : cells with counts
    perturbations : (P,) names
    control : label of the real control cells
    own : (P,) column of the gene that a perturbation targets, -1 where there is none
    """

    real: Cells
    predicted: Cells
    perturbations: tuple[str, ...]
    control: str
    own: I64

    @cached_property
    def control_profile(self) -> F64:
        """Mean counts per 10,000 over the real control cells; (G,)."""
        return _mean_per_10k(self.real.control_cells(self.control).x)

    @cached_property
    def _drawn(self) -> dict[int, tuple[F32, F32] | None]:
        return {}

    def drawn(self, p: int) -> tuple[F32, F32] | None:
        """Draw equally many real and predicted cells of perturbation number p, at most 500.

        Returns (real, predicted) values as log1p of counts per 10,000, or None with fewer than 50 cells of either.
        """
        if p not in self._drawn:
            name = self.perturbations[p]
            sides = [side.values_of(name) for side in (self.real, self.predicted)]
            n = min(MAX_CELLS, *(side.shape[0] for side in sides))
            self._drawn.clear()  # one perturbation at a time
            if n < MIN_CELLS:
                self._drawn[p] = None
            else:
                real, predicted = (
                    _log_values(x[_draw(x.shape[0], n, f"0:{name}|{key}")])
                    for x, key in zip(sides, ("real", "pred"), strict=True)
                )
                self._drawn[p] = real, predicted
        return self._drawn[p]

    def varied_genes(self, p: int) -> I64:
        """Return the columns, ascending, of the at most 100 expressed genes with the largest real fold change.

        The gene that the perturbation targets is not among them.
        """
        x = self.real.values_of(self.perturbations[p])
        expressed = np.asarray((x != 0).sum(axis=0)).ravel() >= MIN_EXPRESSING_CELLS
        if self.own[p] >= 0:
            expressed[self.own[p]] = False
        genes = np.flatnonzero(expressed)
        folds = np.log2((_mean_per_10k(x) + 1) / (self.control_profile + 1))
        order = np.argsort(-np.abs(folds[genes]), kind="stable")
        return np.sort(genes[order[:N_VARIED]])


def _mean_per_10k(x: Any) -> F64:
    totals = row_totals(x)
    scaled = divide_rows(x, np.where(totals > 0, totals, 1) / 1e4)
    return np.asarray(scaled.mean(axis=0, dtype=np.float64)).ravel()


def _draw(n_cells: int, n: int, key: str) -> I64:
    """Draw the numbers of n cells without replacement, with a seed derived from the key; ascending."""
    if n_cells <= n:
        return np.arange(n_cells)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return np.sort(np.random.default_rng(seed).choice(n_cells, size=n, replace=False))


def _log_values(x: Any) -> F32:
    block = dense(x, np.float32)
    totals = block.sum(axis=1, dtype=np.float64)
    shares = block / np.where(totals > 0, totals, 1).astype(np.float32)[:, None]
    values: F32 = np.log1p(np.float32(1e4) * shares)
    return values


def gene_correlations(pair: CellPair, *, kind: Literal["corr", "eig_ratio"] = "corr") -> Values:
    """Compare the correlation matrices of the most changed genes over the cells of each perturbation.

    Parameters
    ----------
    pair : real and predicted cells
    kind : "corr" for Pearson's correlation of the entries above the diagonals, "eig_ratio" for the largest eigenvalue
        of the predicted matrix divided by that of the real one

    Returns
    -------
    Values
        Undefined with fewer than 50 real or predicted cells, or fewer than 20 genes that vary in both.
    """

    def value(p: int) -> float | Reason:
        drawn = pair.drawn(p)
        if drawn is None:
            return FEW_CELLS
        genes = pair.varied_genes(p)
        real, predicted = (values[:, genes].astype(np.float64) for values in drawn)
        vary = (real.std(axis=0) > MIN_DEVIATION) & (predicted.std(axis=0) > MIN_DEVIATION)
        if vary.sum() < MIN_GENES:
            return FEW_EXPRESSED
        matrices = [np.atleast_2d(np.corrcoef(values[:, vary], rowvar=False)) for values in (real, predicted)]
        if kind == "eig_ratio":
            largest = [float(np.linalg.eigvalsh(matrix)[-1]) for matrix in matrices]
            return largest[1] / largest[0]
        upper = np.triu_indices(int(vary.sum()), 1)
        return pearson(matrices[0][upper], matrices[1][upper])

    return for_each(len(pair.perturbations), value)


def correlation_concordance(pair: CellPair) -> Values:
    r"""Compute Lin's concordance of real and predicted correlations of genes over cells.

    .. math:: \frac{2 \mathrm{cov}(a, b)}{\mathrm{var}(a) + \mathrm{var}(b) + (\bar a - \bar b)^2}

    Parameters
    ----------
    pair : real and predicted cells

    Returns
    -------
    Values
        In [-1, 1], over the entries of the correlation matrices that are significant in both. Undefined with fewer than
        50 real or predicted cells, or fewer than 6 such entries.

    References
    ----------
    Lin (1989), doi:10.2307/2532051.
    """

    def value(p: int) -> float | Reason:
        drawn = pair.drawn(p)
        if drawn is None:
            return FEW_CELLS
        return _concordance(*(values.astype(np.float64) for values in drawn))

    return for_each(len(pair.perturbations), value)


def _concordance(a: F64, b: F64) -> float | Reason:
    """Concordance of the correlation matrices of two sets of cells, computed in blocks that are not kept."""
    n = len(a)
    least = _critical_correlation(n)
    vary = (a.std(axis=0) > MIN_DEVIATION) & (b.std(axis=0) > MIN_DEVIATION)
    a, b = _standardised(a[:, vary]), _standardised(b[:, vary])
    sums, n_pairs = np.zeros(5), 0
    step = max(1, BLOCK_VALUES // max(1, a.shape[1]))
    for start in range(0, a.shape[1], step):
        x, y = (z[:, start : start + step].T @ z[:, start:] / n for z in (a, b))
        both = np.triu((np.abs(x) >= least) & (np.abs(y) >= least), 1)  # each pair once
        x, y = x[both], y[both]
        n_pairs += len(x)
        sums += (x.sum(), y.sum(), x @ x, y @ y, x @ y)
    if 2 * n_pairs < MIN_ENTRIES:
        return FEW_PAIRS
    mean_x, mean_y, xx, yy, xy = sums / n_pairs
    spread = (xx - mean_x**2) + (yy - mean_y**2) + (mean_x - mean_y) ** 2
    return float(2 * (xy - mean_x * mean_y) / spread)


def _standardised(x: F64) -> F64:
    scores: F64 = (x - x.mean(axis=0)) / x.std(axis=0)
    return scores


def _critical_correlation(n: int) -> float:
    """Smallest correlation over n cells that is significant in a two-sided test."""
    from scipy.special import stdtrit

    t = float(stdtrit(n - 2, 1 - ALPHA / 2))
    return t / math.sqrt(n - 2 + t * t)
