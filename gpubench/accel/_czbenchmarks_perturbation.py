"""czbenchmarks' perturbation task: means over the treated cells of a condition and over the controls beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.accel._inputs import first_reason, labels_reason
from gpubench.accel.calls import Start, tell
from gpubench.core.errors import InputError
from gpubench.data.expression.matrix import Expression
from gpubench.data.matrices import as_rows
from gpubench.data.perturbation.predictions import align
from gpubench.data.perturbation.truth import Criteria, read_truth
from gpubench.tasks.perturbation_expression_prediction import predicted_change, predicted_means

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Changes = dict[str, NDArray[np.floating]]


def run_task(start: Start, self: Any, cell_representation: Any, task_input: Any) -> Any:
    """Predicted and true changes of the masked genes, by condition, for `_compute_metrics` of the task."""
    from czbenchmarks.tasks.single_cell.perturbation_expression_prediction import (
        PerturbationExpressionPredictionOutput,
    )

    self.condition_key = task_input.adata.uns["config"].get("condition_key", "condition")
    self._validate(task_input, cell_representation)  # the task's own checks and errors
    predicted, true = _changes(self.condition_key, cell_representation, task_input)
    return PerturbationExpressionPredictionOutput(pred_mean_change_dict=predicted, true_mean_change_dict=true)


def covers(self: Any, cell_representation: Any, task_input: Any) -> str | None:
    """Say what only czbenchmarks reads."""
    from scipy.sparse import issparse

    if not issparse(cell_representation) and type(cell_representation) is not np.ndarray:
        return f"predictions are a {type(cell_representation).__name__}"
    if "config" not in task_input.adata.uns or "target_conditions_dict" not in task_input.adata.uns:
        return "the dataset was not loaded by czbenchmarks"
    return first_reason(*(labels_reason(index, "names") for index in _names(task_input)))


def _names(task_input: Any) -> tuple[Any, Any]:
    """Names of the cells and genes of the predictions: those of the dataset where none are given."""
    cells, genes = task_input.cell_index, task_input.gene_index
    adata = task_input.adata
    return adata.obs.index if cells is None else cells, adata.var.index if genes is None else genes


def _changes(condition_key: str, cell_representation: Any, task_input: Any) -> tuple[Changes, Changes]:
    criteria = Criteria()
    truth = read_truth(task_input.adata, condition=condition_key, seed=0, criteria=criteria)
    if truth is None:
        raise InputError("dataset has no differential expression")
    cells, genes = (list(map(str, names)) for names in _names(task_input))
    data = align(truth, Expression(as_rows(cell_representation, "predictions"), cells, genes, "predictions"), criteria)
    kind = cell_representation.dtype if cell_representation.dtype.kind == "f" else np.float64
    predicted: Changes = {}
    true: Changes = {}
    for condition, (treated, control) in zip(data.conditions, predicted_means(data), strict=True):
        if not len(condition.genes) or not len(condition.treated):
            continue
        change, effect = predicted_change(treated, control, task_input.pred_effect_operation)
        if effect != task_input.pred_effect_operation:
            tell("czbenchmarks perturbation", "conditions with means that are not positive: differences, not ratios")
        predicted[condition.name] = change.astype(kind)
        true[condition.name] = condition.true_change
    return predicted, true
