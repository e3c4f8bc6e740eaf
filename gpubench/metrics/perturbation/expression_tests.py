"""Tests of expression of every perturbation against the control, by the rules of cell-eval and of cell-eval2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.metrics.differential_expression import (
    benjamini_hochberg,
    expression_means,
    log2_fold_changes,
    mann_whitney_p,
)
from gpubench.metrics.perturbation.cells import (
    PerturbedCells,
    divide_rows,
    map_stored,
    row_totals,
    stored_values,
)
from gpubench.metrics.perturbation.tables import ExpressionTable

if TYPE_CHECKING:
    from gpubench.core.types import F64, I32, I64, Bools
    from gpubench.engines.base import Engine
    from gpubench.metrics.differential_expression import Mean
    from gpubench.metrics.perturbation.settings import CellEval2Settings, CellEvalSettings


def _p_values(x: Any, codes: I32, n_groups: int, control: int, engine: Engine) -> F64:
    """Compute two-sided p-values of every group except the control; (P, G)."""
    sums = engine.rank_sums(x, codes, n_groups, control)
    others = np.delete(np.arange(n_groups), control)
    return mann_whitney_p(sums.u[others], sums.ties[others], sums.n_cells[others], sums.n_cells[control])


def cell_eval_table(
    cells: PerturbedCells, control: str, settings: CellEvalSettings, engine: Engine, *, log: bool = True
) -> ExpressionTable:
    """Test every perturbation against the control of the same data, as cell-eval does with pdex.

    Parameters
    ----------
    cells : cells with the values to test
    control : label of the control
    settings : settings of fold changes and of the filter of genes
    engine : engine that sums the ranks
    log : whether values are log1p
    """
    codes, n_groups, reference = cells.labels.codes, cells.labels.n_classes, cells.code(control)
    others = np.delete(np.arange(n_groups), reference)
    p = _p_values(cells.x, codes, n_groups, reference, engine)
    given: dict[str, Any] = {"is_log1p": log, "engine": engine}
    mean: Mean = "geometric" if settings.geometric_mean else "arithmetic"
    means = expression_means(cells.x, codes, n_groups, mean=mean, **given)
    if settings.cpm_filter is not None:
        natural = expression_means(cells.x, codes, n_groups, mean="arithmetic", **given)
        low = 1e6 * natural / natural.sum(axis=1, keepdims=True) <= settings.cpm_filter
        p[low[others] & low[reference]] = np.nan
    tested = ~np.isnan(p)
    change = log2_fold_changes(means[others], means[reference], epsilon=settings.epsilon)
    names = tuple(cells.names[i] for i in others)
    return ExpressionTable(names, cells.genes, np.where(tested, change, np.nan), p, benjamini_hochberg(p), tested)


class Scaled:
    """Cells of one data set, scaled by cell-eval2's rules.

    Attributes
    ----------
    cells : values for the test: log1p of scaled counts, or log values as they are
    natural : values for fold changes: scaled counts, or expm1 of log values
    counts : whether the cells were counts
    """

    def __init__(self, cells: PerturbedCells, *, counts: bool, target_sum: float) -> None:
        self.counts, self._given, self._target_sum = counts, cells, target_sum
        if counts:
            self.natural = self._scale(target_sum)
            self.cells = cells.with_values(map_stored(self.natural, np.log1p(stored_values(self.natural))))
        else:
            self.cells = cells
            self.natural = map_stored(cells.x, np.expm1(stored_values(cells.x).astype(np.float64)))

    def _scale(self, total: float) -> Any:
        totals = row_totals(self._given.x) / total  # in this order: rounding decides which cells tie
        return divide_rows(self._given.x, np.where(totals > 0, totals, 1))

    def expressed(self, control: str, least: float | None) -> Bools:
        """Return which genes have a mean over the control cells above `least` counts per million.

        All genes are returned if `least` is None, or if the cells were not counts.
        """
        if least is None or not self.counts:
            return np.ones(len(self.cells.genes), bool)
        cpm = self.natural if self._target_sum == 1e6 else self._scale(1e6)
        means = np.asarray(cpm[self.cells.rows_of(control)].mean(axis=0)).ravel()
        above: Bools = means > least
        return above


def cell_eval2_table(
    parts: Iterable[Scaled],
    reference: Scaled | None,
    control: str,
    genes: Bools,
    settings: CellEval2Settings,
    engine: Engine,
) -> ExpressionTable:
    """Test every perturbation against control cells, which may be those of another data set, as cell-eval2 does.

    Parameters
    ----------
    parts : perturbed cells, with all cells of a perturbation in one part; their control cells are not tested
    reference : cells that include the control cells to compare with; if None, those of each part
    control : label of the control
    genes : (G,) whether a gene is tested
    settings : settings of fold changes and corrections
    engine : engine that sums the ranks
    """
    columns = np.flatnonzero(genes)
    names: list[str] = []
    changes, p_values = [], []
    kept: tuple[str, ...] = ()
    for part in parts:
        own = [name for name in part.cells.names if name != control]
        values, natural, codes = _against_control(part, reference or part, control, own, columns)
        p_values.append(_p_values(values, codes, len(own) + 1, len(own), engine))
        changes.append(_fold_changes(natural, codes, settings, engine))
        names += own
        kept = tuple(part.cells.genes[i] for i in columns)
    p, change = np.concatenate(p_values), np.concatenate(changes)
    every = settings.fdr_scope == "global"
    adjusted = benjamini_hochberg(p.reshape(1, -1)).reshape(p.shape) if every else benjamini_hochberg(p)
    adjusted[np.abs(change) < settings.min_abs_log2fc] = 1.0
    if settings.nan_lfc_policy == "mask":
        adjusted[np.isnan(change)] = 1.0
    return ExpressionTable(tuple(names), kept, change, p, adjusted, np.ones(p.shape, bool))


def _against_control(
    cells: Scaled, reference: Scaled, control: str, names: list[str], columns: I64
) -> tuple[Any, Any, I32]:
    """Return values to test, values for fold changes, and groups, of perturbed cells followed by control cells."""
    rank = {name: i for i, name in enumerate(names)}
    codes = np.array([rank.get(name, -1) for name in cells.cells.names], np.int32)[cells.cells.labels.codes]
    mine, theirs = np.flatnonzero(codes >= 0), reference.cells.rows_of(control)

    def together(own: Any, other: Any) -> Any:
        parts = own[mine][:, columns], other[theirs][:, columns]
        if isinstance(own, np.ndarray) and isinstance(other, np.ndarray):
            return np.concatenate(parts)
        from scipy.sparse import csr_array, vstack

        return vstack([csr_array(part) for part in parts], format="csr")

    all_codes = np.concatenate([codes[mine], np.full(len(theirs), len(names), np.int32)])
    return together(cells.cells.x, reference.cells.x), together(cells.natural, reference.natural), all_codes


def _fold_changes(natural: Any, codes: I32, settings: CellEval2Settings, engine: Engine) -> F64:
    """Compute log2 fold changes of every group against the last one; (P, G)."""
    n_groups = int(codes.max()) + 1
    means = expression_means(natural, codes, n_groups, mean=settings.mean_calc, is_log1p=False, engine=engine)
    change = log2_fold_changes(means[:-1], means[-1], epsilon=settings.epsilon)
    return change if settings.clip_value is None else np.clip(change, -settings.clip_value, settings.clip_value)


def fold_changes(cells: Scaled, control: str, settings: CellEval2Settings, engine: Engine) -> F64:
    """Return log2 fold changes of every perturbation against the control of the same data, for all genes; (P, G)."""
    last = len(cells.cells.names) - 1
    code = cells.cells.code(control)
    order = np.array([i if i < code else i - 1 for i in range(last + 1)], np.int32)
    order[code] = last
    return _fold_changes(cells.natural, order[cells.cells.labels.codes], settings, engine)
