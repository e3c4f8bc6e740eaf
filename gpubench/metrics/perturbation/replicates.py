"""Scores that a repeated experiment would have, estimated from one half of the real cells against the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.metrics.perturbation._values import FEW_GENES, Reason, Values, for_each
from gpubench.metrics.perturbation.cells import PerturbedCells
from gpubench.metrics.perturbation.evaluation import Options, PerturbationScores, evaluate_pair
from gpubench.metrics.perturbation.expression_tests import Scaled, fold_changes
from gpubench.metrics.perturbation.pairing import PairedSides
from gpubench.metrics.perturbation.registry import PERTURBATION_METRICS, metrics_of
from gpubench.metrics.perturbation.sides import RealSide
from gpubench.metrics.perturbation.significant_genes import MIN_GENES
from gpubench.metrics.perturbation.streaming import derived
from gpubench.metrics.perturbation.tables import pair_tables

if TYPE_CHECKING:
    from gpubench.core.types import F64
    from gpubench.metrics.perturbation.streaming import Cells

FOLD_CHANGE_ERROR = "de_wilcoxon_lfc_nmae"
"""Metric that is computed over the significant genes of all real cells, since half of the cells would find fewer."""


def halves(cells: Cells, *, seed: int = 0) -> tuple[Cells, Cells]:
    """Split the cells of every perturbation, and of the control, at random into two halves of the same size.

    Parameters
    ----------
    cells : the cells to split; one cell is left out of an odd number, and names with one cell are dropped
    seed : random seed of the permutations of the cells of each name

    Returns
    -------
    two `Cells`
        In memory if the cells are.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> cells = perturbed_cells([[1.0], [2.0], [3.0], [4.0], [5.0]], ["A", "A", "A", "B", "B"], ["G"])
    >>> [half.n_cells for half in halves(cells)]
    [array([1, 1]), array([1, 1])]
    """
    random = np.random.default_rng(seed)
    orders = {name: random.permutation(n) for name, n in zip(cells.names, cells.n_cells.tolist(), strict=True)}
    sizes = {name: len(order) // 2 for name, order in orders.items() if len(order) > 1}

    def half(second: int) -> Cells:
        def chosen(name: str) -> Any:
            return orders[name][second * sizes[name] : (second + 1) * sizes[name]]

        if isinstance(cells, PerturbedCells):
            return cells.select(np.concatenate([cells.rows_of(name)[chosen(name)] for name in sizes]))
        return derived(cells, sizes, lambda name: cells.values_of(name)[chosen(name)], counts=cells.counts)

    return half(0), half(1)


def compare_halves(
    real: RealSide, metrics: Sequence[str], *, seed: int = 0, options: Options | None = None
) -> PerturbationScores:
    """Score one half of the real cells as the prediction of the other, each with its own control cells.

    Parameters
    ----------
    real : the real data
    metrics : ids of the metrics
    seed : random seed of the split
    options : as in `evaluate`

    Returns
    -------
    PerturbationScores

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> counts = np.repeat([[4, 0], [0, 9]], 4, axis=0)
    >>> real = prepare(perturbed_cells(counts, ["KLF1"] * 4 + ["control"] * 4, "AB"), control="control", engine="cpu")
    >>> compare_halves(real, ["expr_mae"]).means()
    {'expr_mae': 0.0}
    """
    chosen = metrics_of(None, list(metrics))
    values: dict[str, Values] = {}
    names: tuple[str, ...] = ()
    for generation in (1, 2):
        mine = [m for m in chosen if m.generation == generation]
        if mine:
            comparison = _half_comparison(real, generation, seed)
            names = comparison.real.perturbations
            values |= evaluate_pair(comparison, mine, options or {}).values
            if FOLD_CHANGE_ERROR in values and generation == 2:
                values[FOLD_CHANGE_ERROR] = replicate_fold_change_error(real, comparison)
    return PerturbationScores(names, {m.id: values[m.id] for m in chosen})


def _half_comparison(real: RealSide, generation: int, seed: int) -> PairedSides:
    """Pair two halves as real data and prediction; for metrics of cell-eval, counts are normalised before the split."""
    first, second = halves(_log_cells(real) if generation == 1 else real.cells, seed=seed)
    settings = replace(real.cell_eval2, control_source="pred")
    side = RealSide(first, real.control, real.cell_eval, settings, real.engine)
    return PairedSides(side, second)


def _log_cells(real: RealSide) -> Cells:
    if isinstance(real.cells, PerturbedCells):
        return real.log_cells
    given, read = real.cells, real.cells.read
    return replace(given, read=lambda names: real.to_log(read(names)), counts=None if given.counts is None else False)


def replicate_fold_change_error(real: RealSide, comparison: PairedSides) -> Values:
    r"""Compute the difference of the log2 fold changes of two halves relative to those of all cells.

    .. math:: \sum_g |l^B_g - l^A_g| / \sum_g |l_g|

    over the significant genes of all real cells, without the gene that the perturbation targets. l is computed from all
    cells, l^A and l^B from one half each with its own control cells. If a gene is not expressed enough in the control
    cells of a half to be tested, its change in that half is 0.

    Parameters
    ----------
    real : the real data
    comparison : the two halves of the real cells, paired

    Returns
    -------
    Values
        Undefined with fewer than 10 genes.
    """
    table, names = real.cell_eval2_table, comparison.real.perturbations
    pair = pair_tables(table, table, {p: real.own_gene(p) for p in names}, names, alpha=real.cell_eval2.p_adj_threshold)
    place = {gene: i for i, gene in enumerate(real.cells.genes)}
    columns = [place[gene] for gene in pair.real.genes]
    first, second = (_tested_changes(real, side.cells)[:, columns] for side in (comparison.real, comparison.predicted))
    keep = pair.real_significant & pair.not_own & np.isfinite(pair.real.log2_fold_change)

    def error(p: int) -> float | Reason:
        genes = keep[p]
        if genes.sum() < MIN_GENES:
            return FEW_GENES
        difference = np.abs(second[p, genes] - first[p, genes])
        return float(difference.sum() / np.abs(pair.real.log2_fold_change[p, genes]).sum())

    return for_each(len(names), error)


def _tested_changes(real: RealSide, half: Cells) -> F64:
    changes = []
    for part in half.parts(real.control):
        scaled = Scaled(part, counts=real.has_counts, target_sum=real.target_sum)
        change = fold_changes(scaled, real.control, real.cell_eval2, real.engine)
        tested = np.isfinite(change) & scaled.expressed(real.control, real.cell_eval2.min_control_cpm)
        changes.append(np.where(tested, change, 0.0))
    return np.concatenate(changes)


def ceiling(
    real: RealSide, metrics: Sequence[str], *, seed: int = 0, strict: bool = False
) -> tuple[dict[str, float], PerturbationScores]:
    r"""Estimate the best value that a prediction can reach on data as noisy as these.

    .. math:: 2 v / (1 + v)

    with v the value of one half of the cells scored against the other; this is what all cells would reach
    (Spearman-Brown).

    Parameters
    ----------
    real : the real data
    metrics : ids of the metrics
    seed : random seed of the split
    strict : make the mean NaN because of undefined values wherever cell-eval does

    Returns
    -------
    ceilings : metric -> value; NaN for metrics without a ceiling, and where v is not positive
    scores : scores of one half against the other

    References
    ----------
    Spearman (1910), doi:10.1111/j.2044-8295.1910.tb00206.x; Brown (1910), doi:10.1111/j.2044-8295.1910.tb00207.x.

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> counts = np.repeat([[4, 0], [0, 9]], 4, axis=0)
    >>> real = prepare(perturbed_cells(counts, ["KLF1"] * 4 + ["control"] * 4, "AB"), control="control", engine="cpu")
    >>> ceiling(real, ["discrimination_score_l1", "mae"])[0]
    {'discrimination_score_l1': 1.0, 'mae': nan}
    """
    scores = compare_halves(real, metrics, seed=seed)
    out = {}
    for metric in metrics:
        v = scores.mean(metric, strict=strict)
        out[metric] = 2 * v / (1 + v) if PERTURBATION_METRICS[metric].ceiling and v > 0 else math.nan
    return out, scores


@dataclass(frozen=True)
class Replicates:
    """Scores of halves of the real cells against each other, for several random splits.

    Attributes
    ----------
    seeds : random seed of each split
    splits : scores of each split
    """

    seeds: tuple[int, ...]
    splits: tuple[PerturbationScores, ...]

    def means(self) -> dict[str, float]:
        """Return for each metric the mean of its aggregate over the splits."""
        return {m: float(np.mean([split.mean(m) for split in self.splits])) for m in self.splits[0].values}


def replicates(real: RealSide, metrics: Sequence[str], *, n_splits: int = 5, seed: int = 0) -> Replicates:
    """Score halves of the real cells against each other in several random splits.

    Parameters
    ----------
    real : the real data
    metrics : ids of the metrics
    n_splits : number of splits
    seed : random seed from which those of the splits are derived

    Returns
    -------
    Replicates

    Examples
    --------
    >>> import numpy as np
    >>> from gpubench.metrics.perturbation import perturbed_cells, prepare
    >>> counts = np.repeat([[4, 0], [0, 9]], 4, axis=0)
    >>> real = prepare(perturbed_cells(counts, ["KLF1"] * 4 + ["control"] * 4, "AB"), control="control", engine="cpu")
    >>> replicates(real, ["expr_mae"], n_splits=2).means()
    {'expr_mae': 0.0}
    """
    seeds = tuple(int(s) for s in np.random.SeedSequence(seed).generate_state(n_splits))
    return Replicates(seeds, tuple(compare_halves(real, metrics, seed=s) for s in seeds))
