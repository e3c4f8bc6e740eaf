"""Users' scripts without gpubench: every task of czbenchmarks, and scib-metrics' Benchmarker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[Mapping[str, Any]], float]


def czbenchmarks_tasks() -> Call:
    """All eight tasks; the value is the mean of the scores."""
    import pandas as pd
    from czbenchmarks import tasks
    from czbenchmarks.datasets.types import Organism

    species = [Organism.HUMAN, Organism.MOUSE]

    def call(cells: Mapping[str, Any]) -> float:
        x, time = cells["x"], cells["time"]
        label, batch = (pd.Series(cells[name].astype(str)) for name in ("label", "batch"))
        obs = pd.DataFrame({"label": label})
        halves = np.flatnonzero(cells["batch"] % 2 == 0), np.flatnonzero(cells["batch"] % 2 == 1)
        parts, labels = [x[half] for half in halves], [label[half] for half in halves]
        truth, predicted = _perturbation(len(x))
        runs = (
            (tasks.ClusteringTask(), x, tasks.ClusteringTaskInput(obs=obs, input_labels=label)),
            (tasks.EmbeddingTask(), x, tasks.EmbeddingTaskInput(input_labels=label)),
            (tasks.BatchIntegrationTask(), x, tasks.BatchIntegrationTaskInput(batch_labels=batch, labels=label)),
            (tasks.MetadataLabelPredictionTask(), x, tasks.MetadataLabelPredictionTaskInput(labels=label)),
            (
                tasks.SequentialOrganizationTask(),
                x,
                tasks.SequentialOrganizationTaskInput(obs=obs, input_labels=time),
            ),
            (
                tasks.CrossSpeciesIntegrationTask(),
                parts,
                tasks.CrossSpeciesIntegrationTaskInput(labels=labels, organism_list=species),
            ),
            (
                tasks.CrossSpeciesLabelPredictionTask(),
                parts,
                tasks.CrossSpeciesLabelPredictionTaskInput(labels=labels, organisms=species, aggregation_method="none"),
            ),
            (
                tasks.PerturbationExpressionPredictionTask(),
                predicted,
                tasks.PerturbationExpressionPredictionTaskInput(adata=truth),
            ),
        )
        return float(np.mean([row.value for task, given, options in runs for row in task.run(given, options)]))

    return call


def _perturbation(n: int, n_genes: int = 300, n_conditions: int = 20) -> tuple[Any, Any]:
    """Return a perturbation dataset as czbenchmarks loads it, and predictions for it."""
    import anndata
    import pandas as pd

    rng = np.random.default_rng(0)
    cells, genes = [f"cell {i}" for i in range(n)], [f"gene {i}" for i in range(n_genes)]
    conditions = [f"condition {i}" for i in range(n_conditions)]
    predicted = rng.gamma(2.0, size=(n, n_genes)).astype(np.float32)
    truth = anndata.AnnData(predicted, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    treated = np.array_split(rng.permutation(n // 2), n_conditions)
    controls = n // 2 + rng.integers(0, n - n // 2, n)
    truth.uns["config"] = {"condition_key": "condition"}
    truth.uns["de_results"] = pd.DataFrame(
        {
            "condition": np.repeat(conditions, n_genes),
            "gene_id": genes * n_conditions,
            "logfoldchange": rng.normal(size=n_genes * n_conditions),
        }
    )
    truth.uns["target_conditions_dict"] = dict.fromkeys(conditions, genes[: n_genes // 2])
    truth.uns["control_cells_map"] = {
        name: {cells[i]: cells[controls[i]] for i in rows} for name, rows in zip(conditions, treated, strict=True)
    }
    return truth, predicted


def scib_benchmarker() -> Call:
    """scib-metrics' Benchmarker with its defaults, on one embedding; the value is its total."""
    import anndata
    import pandas as pd
    from scib_metrics.benchmark import Benchmarker

    def call(cells: Mapping[str, Any]) -> float:
        obs = pd.DataFrame({name: cells[name].astype(str) for name in ("label", "batch")})
        data = anndata.AnnData(cells["x"], obs=obs.set_index(obs.index.astype(str)))
        data.obsm["X_emb"] = cells["x"]
        benchmarker = Benchmarker(data, "batch", "label", ["X_emb"], progress_bar=False)
        benchmarker.benchmark()
        return float(benchmarker.get_results().loc["X_emb", "Total"])

    return call
