"""czbenchmarks: its metrics, and the slow steps of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel._inputs import first_reason, labels_reason, matrix_reason
from gpubench.accel.calls import Function, Start, dispatcher
from gpubench.accel.patching import LocalName, Patch
from gpubench.core.errors import InputError
from gpubench.data.expression.matrix import Expression
from gpubench.data.matrices import as_rows
from gpubench.data.perturbation.predictions import align
from gpubench.data.perturbation.truth import Criteria, read_truth
from gpubench.tasks.perturbation_expression_prediction import predicted_change, predicted_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.types import Graph, Knn
    from gpubench.engines.base import Engine

    Changes = dict[str, NDArray[np.floating]]

REGISTRY = "czbenchmarks.metrics.implementations"


def _entropy_per_cell(start: Start, X: Any, labels: Any, n_neighbors: int, random_seed: int) -> np.float64:
    return np.float64(metrics.entropy_per_cell(X, labels, n_neighbors=n_neighbors, engine=start(exact=False)))


def _sequential_alignment(
    start: Start, X: Any, labels: Any, k: int, normalize: bool, adaptive_k: bool
) -> float | np.float64:
    score = metrics.sequential_alignment(X, labels, k=k, normalize=normalize, adaptive_k=adaptive_k, engine=start())
    return float(score) if normalize or len(np.unique(labels)) == 1 else np.float64(score)


def _covers_cells(X: Any, labels: Any) -> str | None:
    return first_reason(matrix_reason(X), labels_reason(labels))


def _spearman(start: Start, a: ArrayLike, b: ArrayLike) -> np.float64 | int:
    score = metrics.spearman_correlation(a, b, engine=start())
    return 0 if np.isnan(score) else np.float64(score)  # czbenchmarks has 0 where no correlation is defined


def _covers_vectors(a: Any, b: Any) -> str | None:
    return first_reason(_vector_reason(a, "a"), _vector_reason(b, "b"))


def _vector_reason(values: Any, name: str) -> str | None:
    array = np.asarray(values)
    return None if array.ndim == 1 and array.dtype.kind in "fiu" else f"{name} is not a vector of numbers"


def _mean_squared_error(
    start: Start, y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: Any, multioutput: Any
) -> float:
    return float(metrics.mean_squared_error(y_true, y_pred))


def _covers_mean_squared_error(y_true: Any, y_pred: Any, sample_weight: Any, multioutput: Any) -> str | None:
    if sample_weight is not None or multioutput != "uniform_average":
        return "sample_weight or multioutput"
    return first_reason(_vector_reason(y_true, "y_true"), _vector_reason(y_pred, "y_pred"))


def _adjusted_rand_index(start: Start, labels_true: Any, labels_pred: Any) -> float:
    return float(metrics.adjusted_rand_index(labels_true, labels_pred, engine=start()))


def _covers_partitions(labels_true: Any, labels_pred: Any) -> str | None:
    return first_reason(labels_reason(labels_true, "labels_true"), labels_reason(labels_pred, "labels_pred"))


def _normalized_mutual_info(start: Start, labels_true: Any, labels_pred: Any, *, average_method: str) -> float:
    return float(metrics.normalized_mutual_info(labels_true, labels_pred, engine=start()))


def _covers_mutual_info(labels_true: Any, labels_pred: Any, average_method: Any) -> str | None:
    if average_method != "arithmetic":
        return f"average_method={average_method!r}; gpubench has 'arithmetic'"
    return _covers_partitions(labels_true, labels_pred)


def _accuracy(start: Start, y_true: Any, y_pred: Any, *, normalize: bool, sample_weight: Any) -> float:
    return float(metrics.accuracy_calculation(y_true, y_pred, engine=start()))


def _covers_accuracy(y_true: Any, y_pred: Any, normalize: Any, sample_weight: Any) -> str | None:
    if sample_weight is not None or normalize is not True:
        return "sample_weight or normalize"
    return _classes_reason(y_true, y_pred)


def _class_score(score: Function) -> Function:
    def ours(start: Start, y_true: Any, y_pred: Any, kwargs: dict[str, Any]) -> float:
        return float(score(y_true, y_pred, engine=start()))

    return ours


def _covers_averages(y_true: Any, y_pred: Any, kwargs: dict[str, Any]) -> str | None:
    """Accept the averages that gpubench has: the second of two classes is positive, and more classes are averaged."""
    average = kwargs.get("average", "binary")
    if set(kwargs) - {"average"} or average not in ("binary", "macro"):
        return f"the parameters {kwargs}"
    reason = _classes_reason(y_true, y_pred)
    if reason is None:
        classes = np.union1d(y_true, y_pred)
        fits = np.array_equal(classes, [0, 1]) if average == "binary" else len(classes) > 2
        reason = None if fits else f"average={average!r} of {len(classes)} classes"
    return reason


def _classes_reason(y_true: Any, y_pred: Any) -> str | None:
    kinds = {np.asarray(values).dtype.kind for values in (y_true, y_pred)}
    if len(kinds) > 1 or not kinds <= set("iuU"):
        return "labels that are not all text or all whole numbers"
    return _covers_partitions(y_true, y_pred)


N_NEIGHBORS = 15
"""scanpy's default; the cell itself counts."""


def _cluster_embedding(
    start: Start,
    adata: Any,
    n_iterations: int,
    flavor: str,
    use_rep: str,
    key_added: str,
    random_seed: int,
) -> list[str]:
    """Cluster, and write to `adata` what scanpy writes; cluster "0" is the largest."""
    import pandas as pd

    engine = start(seed=random_seed, exact=False)
    knn = engine.knn(engine.put(_cells(adata, use_rep)), N_NEIGHBORS - 1)
    graph = engine.fuzzy_graph(knn)
    codes = engine.leiden(graph, n_iterations=n_iterations)
    _write_neighbors(adata, engine, knn, graph, use_rep, random_seed)
    names = pd.Index([str(code) for code in range(int(codes.max()) + 1)])
    adata.obs[key_added] = pd.Categorical.from_codes(codes, categories=names)
    adata.uns[key_added] = {"params": {"resolution": 1, "random_state": random_seed, "n_iterations": n_iterations}}
    return list(adata.obs[key_added])


def _covers_clustering(adata: Any, n_iterations: Any, flavor: Any, use_rep: Any, random_seed: Any) -> str | None:
    """Return why gpubench cannot cluster these cells, or None."""
    if flavor != "igraph":
        return f"flavor={flavor!r}; gpubench runs the Leiden algorithm of igraph"
    if not isinstance(n_iterations, int) or n_iterations < 1:
        return f"n_iterations={n_iterations!r}; gpubench needs a number of iterations"
    if not isinstance(random_seed, int):
        return f"random_seed={random_seed!r}; gpubench needs a number"
    if use_rep != "X" and use_rep not in adata.obsm:
        return f"use_rep={use_rep!r} is not in obsm"
    if adata.n_obs < N_NEIGHBORS:
        return f"{adata.n_obs} cells, fewer than the {N_NEIGHBORS} neighbours"
    return matrix_reason(_cells(adata, use_rep), use_rep)


def _cells(adata: Any, use_rep: str) -> Any:
    return adata.X if use_rep == "X" else adata.obsm[use_rep]


def _write_neighbors(adata: Any, engine: Engine, knn: Knn, graph: Graph, use_rep: str, random_seed: int) -> None:
    from scipy.sparse import csr_matrix

    n = adata.n_obs
    rows = np.arange(0, n * knn.k + 1, knn.k)
    distances = (engine.to_host(knn.distances).ravel().astype(np.float64), engine.to_host(knn.indices).ravel(), rows)
    weights = tuple(map(engine.to_host, (graph.weights, graph.indices, graph.indptr)))
    adata.obsp["distances"] = csr_matrix(distances, shape=(n, n))
    adata.obsp["connectivities"] = csr_matrix(weights, shape=(n, n)).astype(np.float32)
    params = {"n_neighbors": N_NEIGHBORS, "method": "umap", "random_state": random_seed, "metric": "euclidean"}
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": params | {"use_rep": use_rep},
    }


def _run_perturbation(start: Start, self: Any, cell_representation: Any, task_input: Any) -> Any:
    """Return the predicted and true changes of the masked genes by condition, for `_compute_metrics` of the task."""
    from czbenchmarks.tasks.single_cell.perturbation_expression_prediction import (
        PerturbationExpressionPredictionOutput,
    )

    self.condition_key = task_input.adata.uns["config"].get("condition_key", "condition")
    self._validate(task_input, cell_representation)  # the task's own checks and errors
    predicted, true = _changes(self.condition_key, cell_representation, task_input)
    return PerturbationExpressionPredictionOutput(pred_mean_change_dict=predicted, true_mean_change_dict=true)


def _covers_perturbation(cell_representation: Any, task_input: Any) -> str | None:
    """Return why gpubench cannot read these predictions, or None."""
    from scipy.sparse import issparse

    if not issparse(cell_representation) and type(cell_representation) is not np.ndarray:
        return f"predictions are a {type(cell_representation).__name__}"
    if "config" not in task_input.adata.uns or "target_conditions_dict" not in task_input.adata.uns:
        return "the dataset was not loaded by czbenchmarks"
    return first_reason(*(labels_reason(index, "names") for index in _names(task_input)))


def _names(task_input: Any) -> tuple[Any, Any]:
    """Return the names of the predicted cells and genes; by default those of the dataset."""
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
            dispatcher.warn_once(
                "czbenchmarks perturbation", "conditions with means that are not positive: differences, not ratios"
            )
        predicted[condition.name] = change.astype(kind)
        true[condition.name] = condition.true_change
    return predicted, true


def _registered(metric_id: str, ours: Function, covers: Function) -> Patch:
    return Patch(REGISTRY, f"metrics_registry[{metric_id}]", ours, covers, f"czbenchmarks {metric_id}")


def _pipeline(_: Any) -> type:
    from gpubench.accel._czbenchmarks_classifiers import AcceleratedPipeline

    return AcceleratedPipeline


PATCHES: tuple[Patch | LocalName, ...] = (
    Patch("czbenchmarks.metrics.utils", "compute_entropy_per_cell", _entropy_per_cell, _covers_cells),
    Patch("czbenchmarks.metrics.utils", "sequential_alignment", _sequential_alignment, _covers_cells),
    _registered("adjusted_rand_index", _adjusted_rand_index, _covers_partitions),
    _registered("normalized_mutual_info", _normalized_mutual_info, _covers_mutual_info),
    _registered("spearman_correlation_calculation", _spearman, _covers_vectors),
    _registered("mean_squared_error", _mean_squared_error, _covers_mean_squared_error),
    _registered("accuracy_calculation", _accuracy, _covers_accuracy),
    _registered("f1_calculation", _class_score(metrics.f1_calculation), _covers_averages),
    _registered("precision_calculation", _class_score(metrics.precision_calculation), _covers_averages),
    _registered("recall_calculation", _class_score(metrics.recall_calculation), _covers_averages),
    Patch(
        "czbenchmarks.tasks.utils",
        "cluster_embedding",
        _cluster_embedding,
        _covers_clustering,
    ),
    LocalName("czbenchmarks.tasks.label_prediction", "Pipeline", _pipeline),
    LocalName("czbenchmarks.tasks.single_cell.cross_species_label_prediction", "Pipeline", _pipeline),
    Patch(
        "czbenchmarks.tasks.single_cell.perturbation_expression_prediction",
        "PerturbationExpressionPredictionTask._run_task",
        _run_perturbation,
        _covers_perturbation,
        "czbenchmarks perturbation",
    ),
)
