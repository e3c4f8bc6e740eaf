"""Patches of czbenchmarks: its metrics, and the slow steps of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel.calls import Function, LocalName, NotCovered, Patch, Start, check_column, check_matrix, dispatcher
from gpubench.core.errors import InputError
from gpubench.data.expression import Expression
from gpubench.data.matrices import as_rows
from gpubench.data.offsets import without_large_offsets
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
    check_matrix(X)
    check_column(labels, lists=True)
    return np.float64(metrics.entropy_per_cell(X, labels, n_neighbors=n_neighbors, engine=start(exact=False)))


def _sequential_alignment(
    start: Start, X: Any, labels: Any, k: int, normalize: bool, adaptive_k: bool
) -> float | np.float64:
    check_matrix(X)
    check_column(labels, lists=True)
    score = metrics.sequential_alignment(X, labels, k=k, normalize=normalize, adaptive_k=adaptive_k, engine=start())
    return float(score) if normalize or len(np.unique(labels)) == 1 else np.float64(score)


def _spearman(start: Start, a: ArrayLike, b: ArrayLike) -> np.float64 | int:
    _check_vectors(a=a, b=b)
    score = metrics.spearman_correlation(a, b, engine=start())
    return 0 if np.isnan(score) else np.float64(score)  # czbenchmarks has 0 where no correlation is defined


def _mean_squared_error(
    start: Start, y_true: ArrayLike, y_pred: ArrayLike, *, sample_weight: Any, multioutput: Any
) -> float:
    if sample_weight is not None or multioutput != "uniform_average":
        raise NotCovered("sample_weight or multioutput")
    _check_vectors(y_true=y_true, y_pred=y_pred)
    return float(metrics.mean_squared_error(y_true, y_pred))


def _check_vectors(**vectors: Any) -> None:
    for name, values in vectors.items():
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise NotCovered(f"{name} is not a vector of numbers")


def _adjusted_rand_index(start: Start, labels_true: Any, labels_pred: Any) -> float:
    _check_partitions(labels_true, labels_pred)
    return float(metrics.adjusted_rand_index(labels_true, labels_pred, engine=start()))


def _normalized_mutual_info(start: Start, labels_true: Any, labels_pred: Any, *, average_method: str) -> float:
    if average_method != "arithmetic":
        raise NotCovered(f"average_method={average_method!r}; gpubench has 'arithmetic'")
    _check_partitions(labels_true, labels_pred)
    return float(metrics.normalized_mutual_info(labels_true, labels_pred, engine=start()))


def _check_partitions(labels_true: Any, labels_pred: Any) -> None:
    check_column(labels_true, "labels_true", lists=True)
    check_column(labels_pred, "labels_pred", lists=True)


def _accuracy(start: Start, y_true: Any, y_pred: Any, *, normalize: bool, sample_weight: Any) -> float:
    if sample_weight is not None or normalize is not True:
        raise NotCovered("sample_weight or normalize")
    _check_classes(y_true, y_pred)
    return float(metrics.accuracy_calculation(y_true, y_pred, engine=start()))


def _class_score(score: Function) -> Function:
    """Return the replacement of F1, precision or recall: "binary" for classes 0 and 1, "macro" for more classes."""

    def ours(start: Start, y_true: Any, y_pred: Any, kwargs: dict[str, Any]) -> float:
        average = kwargs.get("average", "binary")
        if set(kwargs) - {"average"} or average not in ("binary", "macro"):
            raise NotCovered(f"the parameters {kwargs}")
        _check_classes(y_true, y_pred)
        classes = np.union1d(y_true, y_pred)
        if not (np.array_equal(classes, [0, 1]) if average == "binary" else len(classes) > 2):
            raise NotCovered(f"average={average!r} of {len(classes)} classes")
        return float(score(y_true, y_pred, engine=start()))

    return ours


def _check_classes(y_true: Any, y_pred: Any) -> None:
    kinds = {np.asarray(values).dtype.kind for values in (y_true, y_pred)}
    if len(kinds) > 1 or not kinds <= set("iuU"):
        raise NotCovered("labels that are not all text or all whole numbers")
    _check_partitions(y_true, y_pred)


N_NEIGHBORS = 15
"""scanpy's default, which counts the cell itself."""


def _cluster_embedding(
    start: Start, adata: Any, n_iterations: Any, flavor: str, use_rep: str, key_added: str, random_seed: Any
) -> list[str]:
    """Return the Leiden cluster of each cell, and write to `adata` what scanpy writes; cluster "0" is the largest."""
    import pandas as pd

    if flavor != "igraph":
        raise NotCovered(f"flavor={flavor!r}; gpubench runs the Leiden algorithm of igraph")
    if not isinstance(n_iterations, int) or n_iterations < 1:
        raise NotCovered(f"n_iterations={n_iterations!r}; gpubench needs a number of iterations")
    if not isinstance(random_seed, int):
        raise NotCovered(f"random_seed={random_seed!r}; gpubench needs a number")
    if use_rep != "X" and use_rep not in adata.obsm:
        raise NotCovered(f"use_rep={use_rep!r} is not in obsm")
    if adata.n_obs < N_NEIGHBORS:
        raise NotCovered(f"{adata.n_obs} cells, fewer than the {N_NEIGHBORS} neighbours")
    cells = adata.X if use_rep == "X" else adata.obsm[use_rep]
    check_matrix(cells, use_rep)
    engine = start(seed=random_seed, exact=False)
    knn = engine.knn(engine.put(without_large_offsets(cells)), N_NEIGHBORS - 1)
    graph = engine.fuzzy_graph(knn)
    codes = engine.leiden(graph, n_iterations=n_iterations)
    _write_neighbors(adata, engine, knn, graph, use_rep, random_seed)
    names = pd.Index([str(code) for code in range(int(codes.max()) + 1)])
    adata.obs[key_added] = pd.Categorical.from_codes(codes, categories=names)
    adata.uns[key_added] = {"params": {"resolution": 1, "random_state": random_seed, "n_iterations": n_iterations}}
    return list(adata.obs[key_added])


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
    """Return the predicted and true changes of each condition's masked genes, as `_compute_metrics` expects them."""
    from czbenchmarks.tasks.single_cell.perturbation_expression_prediction import PerturbationExpressionPredictionOutput
    from scipy.sparse import issparse

    if not issparse(cell_representation) and type(cell_representation) is not np.ndarray:
        raise NotCovered(f"predictions are a {type(cell_representation).__name__}")
    adata, cells, genes = task_input.adata, task_input.cell_index, task_input.gene_index
    if "config" not in adata.uns or "target_conditions_dict" not in adata.uns:
        raise NotCovered("the dataset was not loaded by czbenchmarks")
    names = (adata.obs.index if cells is None else cells, adata.var.index if genes is None else genes)
    for index in names:
        check_column(index, "names", lists=True)
    self.condition_key = adata.uns["config"].get("condition_key", "condition")
    self._validate(task_input, cell_representation)  # the task's own checks and errors
    predicted, true = _changes(self.condition_key, cell_representation, names, task_input)
    return PerturbationExpressionPredictionOutput(pred_mean_change_dict=predicted, true_mean_change_dict=true)


def _changes(
    condition_key: str, cell_representation: Any, names: tuple[Any, Any], task_input: Any
) -> tuple[Changes, Changes]:
    criteria = Criteria()
    truth = read_truth(task_input.adata, condition=condition_key, seed=0, criteria=criteria)
    if truth is None:
        raise InputError("dataset has no differential expression")
    cells, genes = (list(map(str, index)) for index in names)
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


def _registered(metric_id: str, ours: Function) -> Patch:
    return Patch(REGISTRY, f"metrics_registry[{metric_id}]", ours, f"czbenchmarks {metric_id}")


def _pipeline(_: Any) -> type:
    from gpubench.accel._czbenchmarks_classifiers import AcceleratedPipeline

    return AcceleratedPipeline


PATCHES = (
    Patch("czbenchmarks.metrics.utils", "compute_entropy_per_cell", _entropy_per_cell),
    Patch("czbenchmarks.metrics.utils", "sequential_alignment", _sequential_alignment),
    _registered("adjusted_rand_index", _adjusted_rand_index),
    _registered("normalized_mutual_info", _normalized_mutual_info),
    _registered("spearman_correlation_calculation", _spearman),
    _registered("mean_squared_error", _mean_squared_error),
    _registered("accuracy_calculation", _accuracy),
    _registered("f1_calculation", _class_score(metrics.f1_calculation)),
    _registered("precision_calculation", _class_score(metrics.precision_calculation)),
    _registered("recall_calculation", _class_score(metrics.recall_calculation)),
    Patch("czbenchmarks.tasks.utils", "cluster_embedding", _cluster_embedding),
    LocalName("czbenchmarks.tasks.label_prediction", "Pipeline", _pipeline),
    LocalName("czbenchmarks.tasks.single_cell.cross_species_label_prediction", "Pipeline", _pipeline),
    Patch(
        "czbenchmarks.tasks.single_cell.perturbation_expression_prediction",
        "PerturbationExpressionPredictionTask._run_task",
        _run_perturbation,
        "czbenchmarks perturbation",
    ),
)
