"""The same workloads in the peer packages, called as their documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[Mapping[str, Any]], float]


def silhouette_label() -> Call:
    """scib-metrics, as cz-benchmarks calls it."""
    import scib_metrics

    return lambda cells: scib_metrics.silhouette_label(cells["x"], cells["label"])


def silhouette_batch() -> Call:
    """scib-metrics, as cz-benchmarks calls it."""
    import scib_metrics

    return lambda cells: scib_metrics.silhouette_batch(cells["x"], cells["label"], cells["batch"])


def entropy_per_cell() -> Call:
    """cz-benchmarks: neighbours by hnswlib."""
    from czbenchmarks.metrics.utils import compute_entropy_per_cell

    return lambda cells: compute_entropy_per_cell(cells["x"], cells["batch"])


def sequential_alignment() -> Call:
    """cz-benchmarks: neighbours by scikit-learn, a loop over the cells, a drawn baseline."""
    from czbenchmarks.metrics.utils import sequential_alignment as theirs

    return lambda cells: theirs(cells["x"], cells["time"])


def clustering() -> Call:
    """cz-benchmarks: scanpy's neighbours and Leiden, scikit-learn's ARI and NMI."""
    import pandas as pd
    from czbenchmarks.tasks import ClusteringTask, ClusteringTaskInput

    def call(cells: Mapping[str, Any]) -> float:
        label = cells["label"].astype(str)
        given = ClusteringTaskInput(obs=pd.DataFrame({"label": label}), input_labels=label)
        return _value(ClusteringTask().run(cells["x"], given), "adjusted_rand_index")

    return call


def suite() -> Call:
    """cz-benchmarks: all tasks of one embedding; the value is the mean of the scores."""
    return _suite(label_prediction=True)


def suite_without_prediction() -> Call:
    """The same without label prediction."""
    return _suite(label_prediction=False)


def _suite(*, label_prediction: bool) -> Call:
    import numpy as np
    import pandas as pd
    from czbenchmarks import tasks

    def call(cells: Mapping[str, Any]) -> float:
        label, batch = (pd.Series(cells[name].astype(str)) for name in ("label", "batch"))
        obs = pd.DataFrame({"label": label})
        runs: list[tuple[Any, Any]] = [
            (tasks.ClusteringTask(), tasks.ClusteringTaskInput(obs=obs, input_labels=label)),
            (tasks.EmbeddingTask(), tasks.EmbeddingTaskInput(input_labels=label)),
            (tasks.BatchIntegrationTask(), tasks.BatchIntegrationTaskInput(batch_labels=batch, labels=label)),
            (
                tasks.SequentialOrganizationTask(),
                tasks.SequentialOrganizationTaskInput(obs=obs, input_labels=cells["time"]),
            ),
        ]
        if label_prediction:
            runs.append((tasks.MetadataLabelPredictionTask(), tasks.MetadataLabelPredictionTaskInput(labels=label)))
        return float(np.mean([row.value for task, given in runs for row in task.run(cells["x"], given)]))

    return call


def knn() -> Call:
    """faiss, exact search; the cell itself comes first and is excluded from the mean distance."""
    import faiss
    import numpy as np

    def call(cells: Mapping[str, Any]) -> float:
        index = faiss.IndexFlatL2(cells["x"].shape[1])
        index.add(cells["x"])
        squares, _ = index.search(cells["x"], 16)
        return float(np.sqrt(squares[:, 1:].clip(min=0)).mean(dtype="float64"))

    return call


def score_file() -> Call:
    """cz-benchmarks: the tasks clustering and embedding on an h5ad."""
    import anndata
    from czbenchmarks.tasks import ClusteringTask, ClusteringTaskInput, EmbeddingTask, EmbeddingTaskInput

    def call(cells: Mapping[str, Any]) -> float:
        data = anndata.read_h5ad(cells["file"])
        label = data.obs["cell_type"].astype(str).to_numpy()
        x = data.obsm["X_pca"]
        clusters = ClusteringTask().run(x, ClusteringTaskInput(obs=data.obs, input_labels=label))
        EmbeddingTask().run(x, EmbeddingTaskInput(input_labels=label))
        return _value(clusters, "adjusted_rand_index")

    return call


def _value(results: Any, metric: str) -> float:
    return next(float(row.value) for row in results if row.metric_type.value == metric)
