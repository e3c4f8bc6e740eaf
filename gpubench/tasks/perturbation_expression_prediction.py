"""Is the response to a perturbation predicted?"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import quoted
from gpubench.core.scores import MEAN, MetricResult, Score
from gpubench.data.expression import check_finite
from gpubench.data.matrices import FiniteCheck
from gpubench.data.perturbation.predictions import PerturbationData, PerturbedCondition
from gpubench.metrics.correlation import spearman_correlation
from gpubench.tasks._task import Effect, Task, TaskInput, require, to_row

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csc_array

ID = "perturbation_expression_prediction"
METRIC = "spearman_correlation_calculation"

_OFFSET = 1e-8
"""Number added to both means of a ratio, as in cz-benchmarks."""


def _run(given: TaskInput) -> Iterator[MetricResult]:
    """Yield a row for each condition with enough masked genes, then the mean over the defined ones."""
    data = require(given.perturbation)
    with given.engine.timeline.stage("predicted_means"):
        means = predicted_means(data)
    scores = []
    for condition, (treated, control) in zip(data.conditions, means, strict=True):
        begin = time.perf_counter()
        scores.append(_score(given, condition, treated, control))
        yield to_row(given.name, ID, METRIC, scores[-1], seconds=time.perf_counter() - begin)
    yield to_row(given.name, ID, METRIC, _mean(scores, data))


def predicted_means(data: PerturbationData) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Average the predictions of masked genes over the treated cells of each condition, and over their paired controls.

    Returns (treated means, control means) of each condition, each over the masked genes of the condition; 0 if a
    condition has no pairs of cells. The predictions are read once, in blocks of rows, each multiplied by a sparse
    matrix of (group, cell) weights, since a cell may be in many groups: conditions share controls.
    """
    n_cells = data.predictions.shape[0]
    genes = np.unique(np.concatenate([np.empty(0, np.intp), *(condition.columns for condition in data.conditions)]))
    weights = _weights(_groups(data), n_cells)
    means = np.zeros((weights.shape[0], len(genes)))
    finite = FiniteCheck(data.predictions.name)
    for start, block in data.predictions.blocks():
        values = block[:, genes]
        if check_finite(finite, values, start):
            block_weights = weights[:, start : start + values.shape[0]].tocsr()
            groups = np.flatnonzero(np.diff(block_weights.indptr))
            sums = block_weights[groups] @ values
            means[groups] += sums if isinstance(sums, np.ndarray) else sums.toarray()
    finite.finish(n_cells)
    columns = [np.searchsorted(genes, condition.columns) for condition in data.conditions]
    return [(means[2 * i, own], means[2 * i + 1, own]) for i, own in enumerate(columns)]


def _groups(data: PerturbationData) -> list[NDArray[np.intp]]:
    """List row numbers: for each condition the treated cells, then the control cells."""
    return [rows for condition in data.conditions for rows in (condition.treated, condition.control)]


def _weights(groups: Sequence[NDArray[np.intp]], n_cells: int) -> csc_array:
    """Return a sparse matrix with 1 / size of the group at (group, cell), for each cell of each group."""
    from scipy.sparse import csc_array

    sizes = np.array([len(rows) for rows in groups], np.intp)
    each = np.repeat(1 / np.maximum(sizes, 1), sizes)
    cells = np.concatenate([np.empty(0, np.intp), *groups])
    return csc_array((each, (np.repeat(np.arange(len(groups)), sizes), cells)), shape=(len(groups), n_cells))


def _score(
    given: TaskInput, condition: PerturbedCondition, treated: NDArray[np.float64], control: NDArray[np.float64]
) -> Score:
    effect, notes = given.options.effect, [condition.note]
    n_cells = len(np.union1d(condition.treated, condition.control))
    if condition.undefined:
        value, why = math.nan, f"undefined: {condition.undefined}"
    else:
        change, effect = predicted_change(treated, control, effect)
        if effect != given.options.effect:
            notes.append("difference of means, for some are not positive and have no ratio")
        correlation = spearman_correlation(condition.true_change, change, engine=given.engine)
        value, why = float(correlation), correlation.note
        if why:
            why += " (a is the true, b the predicted change)"
    params = {"condition": condition.name, "effect": effect, "n_genes": len(condition.genes)}
    return Score(value, n=n_cells, params=params, note="; ".join(filter(None, [why, *notes])))


def predicted_change(
    treated: NDArray[np.float64], control: NDArray[np.float64], effect: Effect
) -> tuple[NDArray[np.float64], Effect]:
    """Return the change from the mean expression of control cells to that of treated cells, and how it was computed.

    `effect` is "ratio" for the logarithm of treated over control, or "difference". Where a mean is zero or negative and
    has no logarithm, the difference is returned instead; the second value says which of the two it is.
    """
    if effect == "difference" or min(treated.min(), control.min()) <= 0:
        return treated - control, "difference"
    return np.log((treated + _OFFSET) / (control + _OFFSET)), "ratio"


def _mean(scores: Sequence[Score], data: PerturbationData) -> Score:
    defined = [score for score in scores if not math.isnan(score)]
    notes = [f"mean of {len(defined):,} conditions" if defined else "undefined: no condition could be scored"]
    undefined = [str(score.params["condition"]) for score in scores if math.isnan(score)]
    if undefined and defined:
        notes.append(f"{len(undefined):,} undefined: {quoted(undefined)}")
    if data.note:
        notes.append(data.note)
    cells = _groups(data)
    return Score(
        float(np.mean(defined)) if defined else math.nan,
        n=len(np.unique(np.concatenate(cells))) if cells else 0,
        params={"condition": MEAN},
        note="; ".join(notes),
    )


TASK = Task(
    id=ID,
    title="Perturbation expression prediction",
    question="Is the response to a perturbation predicted?",
    needs=("predictions",),
    metrics=(METRIC,),
    run=_run,
    baseline=None,
)
