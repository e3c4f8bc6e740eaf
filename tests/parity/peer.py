"""What cz-benchmarks itself answers: one function a task, AnnData in, numbers out.

Everything of cz-benchmarks is imported inside the functions, so that this file can be read where it is not installed.
Its warnings are ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

VERSION = "0.15.1"
"""The release that gpubench agrees with."""

SPECIES = {"human": "HUMAN", "mouse": "MOUSE"}
"""Values of a species column, and the organisms that cz-benchmarks knows them as."""

Numbers = dict[tuple[str, ...], float]
"""(metric, parameters that tell rows apart...) -> value."""


@contextmanager
def _unheard() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_unheard()
def clustering(cells: AnnData, label: str) -> Numbers:
    """ARI and NMI of Leiden clusters."""
    from czbenchmarks.tasks import ClusteringTask, ClusteringTaskInput

    given = ClusteringTaskInput(obs=cells.obs, input_labels=_strings(cells, label))
    return _numbers(ClusteringTask().run(_embedding(cells), given))


@_unheard()
def embedding(cells: AnnData, label: str) -> Numbers:
    """The silhouette of the labels."""
    from czbenchmarks.tasks import EmbeddingTask, EmbeddingTaskInput

    return _numbers(EmbeddingTask().run(_embedding(cells), EmbeddingTaskInput(input_labels=_strings(cells, label))))


@_unheard()
def batch_integration(cells: AnnData, label: str, batch: str) -> Numbers:
    """Entropy and silhouette of the batches."""
    from czbenchmarks.tasks import BatchIntegrationTask, BatchIntegrationTaskInput

    given = BatchIntegrationTaskInput(labels=_strings(cells, label), batch_labels=_strings(cells, batch))
    return _numbers(BatchIntegrationTask().run(_embedding(cells), given))


@_unheard()
def sequential_organization(cells: AnnData, time: str, **options: Any) -> Numbers:
    """Silhouette and alignment of the time points; its baseline is drawn from NumPy's global generator, seeded here."""
    from czbenchmarks.tasks import SequentialOrganizationTask, SequentialOrganizationTaskInput

    np.random.seed(0)  # noqa: NPY002 - the generator that cz-benchmarks draws from
    given = SequentialOrganizationTaskInput(obs=cells.obs, input_labels=cells.obs[time].to_numpy(), **options)
    return _numbers(SequentialOrganizationTask().run(_embedding(cells), given))


@_unheard()
def label_prediction(cells: AnnData, label: str, *, seed: int = 42) -> Numbers:
    """Means over five folds of five metrics, for each classifier and for all three."""
    from czbenchmarks.tasks import MetadataLabelPredictionTask, MetadataLabelPredictionTaskInput

    given = MetadataLabelPredictionTaskInput(labels=cells.obs[label].astype(str))
    return _numbers(MetadataLabelPredictionTask(random_seed=seed).run(_embedding(cells), given), "classifier")


@_unheard()
def cross_species_integration(cells: AnnData, label: str, species: str) -> Numbers:
    """Entropy and silhouette of the species."""
    from czbenchmarks.datasets.types import Organism
    from czbenchmarks.tasks.single_cell import CrossSpeciesIntegrationTask, CrossSpeciesIntegrationTaskInput

    parts = _by_species(cells, species)
    given = CrossSpeciesIntegrationTaskInput(
        labels=[_strings(part, label) for part in parts.values()],
        organism_list=[Organism[SPECIES[name]] for name in parts],
    )
    return _numbers(CrossSpeciesIntegrationTask().run([_embedding(part) for part in parts.values()], given))


@_unheard()
def cross_species_label_prediction(
    cells: AnnData, label: str, species: str, sample: str | None = None, *, seed: int = 42, aggregation: str = "none"
) -> Numbers:
    """Five metrics for each ordered pair of species and each classifier."""
    from czbenchmarks.datasets.types import Organism
    from czbenchmarks.tasks.single_cell import CrossSpeciesLabelPredictionTask, CrossSpeciesLabelPredictionTaskInput

    parts = _by_species(cells, species)
    given = CrossSpeciesLabelPredictionTaskInput(
        labels=[_strings(part, label) for part in parts.values()],
        organisms=[Organism[SPECIES[name]] for name in parts],
        sample_ids=[_strings(part, sample) for part in parts.values()] if sample else None,
        aggregation_method=aggregation,
    )
    task = CrossSpeciesLabelPredictionTask(random_seed=seed)
    results = task.run([_embedding(part) for part in parts.values()], given)
    ours = {str(Organism[theirs]): name for name, theirs in SPECIES.items()}
    return {
        (metric, ours[train], ours[test], classifier): value
        for (metric, train, test, classifier), value in _numbers(
            results, "train_species", "test_species", "classifier"
        ).items()
    }


@_unheard()
def perturbation(dataset: Path, predictions: AnnData, *, condition: str, control: str, effect: str) -> Numbers:
    """Spearman correlation of each condition."""
    from czbenchmarks.datasets import SingleCellPerturbationDataset
    from czbenchmarks.datasets.types import Organism
    from czbenchmarks.tasks.single_cell import PerturbationExpressionPredictionTask
    from czbenchmarks.tasks.single_cell.perturbation_expression_prediction import build_task_input_from_predictions

    truth = SingleCellPerturbationDataset(
        dataset, Organism.HUMAN, condition_key=condition, control_name=control, de_gene_col="gene_id"
    )
    truth.load_data()
    given = build_task_input_from_predictions(predictions, truth.adata, effect)
    return _numbers(PerturbationExpressionPredictionTask().run(predictions.X, given), "condition")


@_unheard()
def pca_baseline(cells: AnnData) -> Any:
    """Its PCA of the expression."""
    from czbenchmarks.tasks import EmbeddingTask

    return EmbeddingTask().compute_baseline(cells.X)


@_unheard()
def silhouette_label(x: Any, label: Any) -> float:
    """The metric by itself."""
    from czbenchmarks.metrics import metrics_registry
    from czbenchmarks.metrics.types import MetricType

    return float(metrics_registry.compute(MetricType.SILHOUETTE_SCORE, X=x, labels=label))


@_unheard()
def silhouette_batch(x: Any, label: Any, batch: Any) -> float:
    """The metric by itself."""
    from czbenchmarks.metrics import metrics_registry
    from czbenchmarks.metrics.types import MetricType

    return float(metrics_registry.compute(MetricType.BATCH_SILHOUETTE, X=x, labels=label, batch=batch))


@_unheard()
def spearman(a: Any, b: Any) -> float:
    """The metric by itself."""
    from czbenchmarks.metrics import metrics_registry
    from czbenchmarks.metrics.types import MetricType

    return float(metrics_registry.compute(MetricType.SPEARMAN_CORRELATION_CALCULATION, a=a, b=b))


def _numbers(results: Iterable[Any], *params: str) -> Numbers:
    return {(row.metric_type.value, *_values(row.params, params)): float(row.value) for row in results}


def _values(params: Mapping[str, Any] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str((params or {})[name]) for name in names)


def _embedding(cells: AnnData) -> Any:
    return np.asarray(cells.obsm["X_pca"])


def _strings(cells: AnnData, column: str) -> Any:
    return cells.obs[column].astype(str).to_numpy()


def _by_species(cells: AnnData, species: str) -> dict[str, AnnData]:
    """Cells of each species; the names in the order in which gpubench pairs them."""
    return {name: cells[(cells.obs[species] == name).to_numpy()] for name in sorted(cells.obs[species].unique())}
