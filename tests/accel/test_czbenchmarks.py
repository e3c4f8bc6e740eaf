"""czbenchmarks with gpubench in place of its steps: the same numbers, types and parameters as without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import Cells, make_cells

import gpubench as gb
from gpubench import accel
from gpubench.engines.cpu import compiled

pytest.importorskip("czbenchmarks", reason="czbenchmarks is not installed; pip install '.[cpu,test,parity]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from czbenchmarks import tasks
    from czbenchmarks.datasets.types import Organism
    from czbenchmarks.metrics import metrics_registry
    from czbenchmarks.metrics.types import MetricResult, MetricType
    from czbenchmarks.tasks.utils import cluster_embedding

pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = {
    "silhouette_score": 1e-5,
    "batch_silhouette": 1e-5,
    "entropy_per_cell": 1e-3,
    "sequential_alignment": 3e-3,
    "adjusted_rand_index": 0.02,
    "normalized_mutual_info": 0.02,
}
SAME_CLASSIFIERS = 2e-3
"""Label prediction, without our compiled code: its forests are those of scikit-learn then."""


@pytest.fixture(scope="module")
def cells() -> Cells:
    return make_cells(400, 8, n_labels=4, n_batches=2, duplicates=0, seed=5)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    accel.uninstall()
    accel.report().clear()
    yield
    accel.uninstall()
    accel.report().clear()


def text(codes: np.ndarray) -> pd.Series:
    return pd.Series([f"type {code}" for code in codes], name="cell_type")


def clustering(cells: Cells) -> list[MetricResult]:
    given = tasks.ClusteringTaskInput(
        obs=pd.DataFrame({"label": cells.label.astype(str)}), input_labels=text(cells.label)
    )
    return tasks.ClusteringTask().run(cells.x, given)


def embedding(cells: Cells) -> list[MetricResult]:
    return tasks.EmbeddingTask().run(cells.x, tasks.EmbeddingTaskInput(input_labels=text(cells.label)))


def batch_integration(cells: Cells) -> list[MetricResult]:
    given = tasks.BatchIntegrationTaskInput(labels=text(cells.label), batch_labels=text(cells.batch))
    return tasks.BatchIntegrationTask().run(cells.x, given)


def batch_integration_of_categories(cells: Cells) -> list[MetricResult]:
    """A label lacks the first batch; scib-metrics counts it as perfectly mixed."""
    batch = np.where(cells.label == 2, 1 + cells.batch, cells.batch)
    given = tasks.BatchIntegrationTaskInput(
        labels=text(cells.label).astype("category"), batch_labels=text(batch).astype("category")
    )
    return tasks.BatchIntegrationTask().run(cells.x, given)


def sequential_organization(cells: Cells) -> list[MetricResult]:
    np.random.seed(0)  # noqa: NPY002 - its baseline is drawn from the global generator
    given = tasks.SequentialOrganizationTaskInput(obs=pd.DataFrame({"t": cells.time}), input_labels=cells.time)
    return tasks.SequentialOrganizationTask().run(cells.x, given)


def label_prediction(cells: Cells) -> list[MetricResult]:
    given = tasks.MetadataLabelPredictionTaskInput(labels=text(cells.label))
    return tasks.MetadataLabelPredictionTask().run(cells.x, given)


def halves(cells: Cells) -> tuple[list[np.ndarray], list[pd.Series]]:
    parts = [cells.label != 3, cells.label != 3]
    parts[0] &= cells.batch == 0
    parts[1] &= cells.batch == 1
    return [cells.x[part] for part in parts], [text(cells.label[part]) for part in parts]


def cross_species_integration(cells: Cells) -> list[MetricResult]:
    x, labels = halves(cells)
    given = tasks.CrossSpeciesIntegrationTaskInput(labels=labels, organism_list=[Organism.HUMAN, Organism.MOUSE])
    return tasks.CrossSpeciesIntegrationTask().run(x, given)


def cross_species_label_prediction(cells: Cells) -> list[MetricResult]:
    x, labels = halves(cells)
    given = tasks.CrossSpeciesLabelPredictionTaskInput(
        labels=labels, organisms=[Organism.HUMAN, Organism.MOUSE], aggregation_method="none", n_folds=2
    )
    return tasks.CrossSpeciesLabelPredictionTask().run(x, given)


def perturbation(cells: Cells) -> list[MetricResult]:
    """Three conditions; the second has means that are not positive, the third a constant prediction."""
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(12)]
    names = [f"cell {i}" for i in range(90)]
    truth = anndata.AnnData(
        np.zeros((90, 12), np.float32), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes)
    )
    conditions = [f"c{i}" for i in range(3)]
    truth.uns["config"] = {"condition_key": "condition"}
    truth.uns["de_results"] = pd.DataFrame(
        {"condition": np.repeat(conditions, 12), "gene_id": genes * 3, "logfoldchange": rng.normal(size=36)}
    )
    truth.uns["target_conditions_dict"] = {name: list(rng.permutation(genes)[:7]) for name in conditions}
    truth.uns["control_cells_map"] = {
        name: {names[30 * c + i]: names[rng.integers(90)] for i in range(30)} for c, name in enumerate(conditions)
    }
    predicted = rng.gamma(2.0, size=(90, 12)).astype(np.float32)
    predicted[30:60] -= 5
    predicted[60:90] = 1
    given = tasks.PerturbationExpressionPredictionTaskInput(adata=truth)
    return tasks.PerturbationExpressionPredictionTask().run(predicted, given)


TASKS = (
    clustering,
    embedding,
    batch_integration,
    batch_integration_of_categories,
    sequential_organization,
    label_prediction,
    cross_species_integration,
    cross_species_label_prediction,
    perturbation,
)


@pytest.mark.parametrize("run", TASKS, ids=lambda run: run.__name__)
def test_tasks_equal_those_of_czbenchmarks(
    run: Callable[[Cells], list[MetricResult]], cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run in (label_prediction, cross_species_label_prediction):
        monkeypatch.setenv(compiled.VARIABLE, compiled.NUMPY)
    theirs = run(cells)
    with accel.accelerated(engine="cpu") as report:
        ours = run(cells)
    assert [(row.metric_type, row.params) for row in ours] == [(row.metric_type, row.params) for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert type(a) is MetricResult
        assert a.value == pytest.approx(
            b.value, abs=TOLERANCE.get(a.metric_type.value, SAME_CLASSIFIERS), nan_ok=True
        ), a
    assert len(report)
    assert not any(report[name].reasons for name, *_ in report.rows()), report


def test_tasks_equal_gpubench_score(cells: Cells) -> None:
    given = {"label": text(cells.label), "batch": text(cells.batch), "time": cells.time}
    result = gb.score(
        cells.x,
        **given,
        tasks=["clustering", "batch_integration", "sequential_organization", "label_prediction"],
        engine="cpu",
    )
    with accel.accelerated(engine="cpu"):
        rows = [
            *clustering(cells),
            *batch_integration(cells),
            *sequential_organization(cells),
            *label_prediction(cells),
        ]
    for row in rows:
        expected = result.value(row.metric_type.value, **row.params)
        # scib-metrics returns its silhouettes in float32
        assert row.value == pytest.approx(expected, rel=1e-6 if "silhouette" in row.metric_type.value else 1e-12), row


ARGUMENTS: dict[str, dict[str, Any]] = {
    "adjusted_rand_index": {"labels_true": ["a", "b", "a", "c"], "labels_pred": [0, 1, 0, 0]},
    "normalized_mutual_info": {"labels_true": ["a", "b", "a", "c"], "labels_pred": [0, 1, 0, 0]},
    "spearman_correlation_calculation": {"a": [1.0, 2, 4, 3], "b": [0.1, 0.2, 0.2, 0.5]},
    "mean_squared_error": {"y_true": [1.0, 2, 4], "y_pred": [0.1, 0.2, 0.2]},
    "accuracy_calculation": {"y_true": ["a", "b", "a"], "y_pred": ["a", "a", "c"]},
    "f1_calculation": {"y_true": [0, 1, 1, 0, 1], "y_pred": [0, 1, 0, 1, 1]},
    "precision_calculation": {"y_true": [0, 1, 2, 0], "y_pred": [0, 2, 2, 1], "average": "macro"},
    "recall_calculation": {"y_true": [0, 1, 2, 0], "y_pred": [0, 2, 2, 1], "average": "macro"},
}


@pytest.mark.parametrize("metric", ARGUMENTS)
def test_registry_metrics_equal_those_of_czbenchmarks(metric: str) -> None:
    theirs = metrics_registry.compute(MetricType(metric), **ARGUMENTS[metric])
    with accel.accelerated(engine="cpu") as report:
        ours = metrics_registry.compute(MetricType(metric), **ARGUMENTS[metric])
    assert type(ours) is type(theirs)
    assert ours == pytest.approx(theirs, abs=1e-12)
    assert report[f"czbenchmarks {metric}"].ran == 1


NOT_COVERED: list[tuple[str, dict[str, Any]]] = [
    ("spearman_correlation_calculation", {"a": [1.0, np.nan, 2], "b": [1, 2, 3]}),
    ("mean_squared_error", {"y_true": [[1.0], [2]], "y_pred": [[1.0], [3]]}),
    ("mean_squared_error", {"y_true": [1.0, 2], "y_pred": [1.0, 3], "sample_weight": [1, 3]}),
    ("normalized_mutual_info", {**ARGUMENTS["normalized_mutual_info"], "average_method": "max"}),
    ("adjusted_rand_index", {"labels_true": [0, 1], "labels_pred": [0, 1, 2]}),
    ("accuracy_calculation", {"y_true": [0, 1, 1], "y_pred": [0.0, 1.0, 0.0]}),
    ("accuracy_calculation", {"y_true": [0, 1, 1], "y_pred": [0, 1, 0], "normalize": False}),
    ("f1_calculation", {"y_true": [1, 1], "y_pred": [1, 1]}),
    ("f1_calculation", {"y_true": [0, 1, 2], "y_pred": [0, 1, 2]}),
    ("f1_calculation", {"y_true": [0, 1, 1], "y_pred": [0, 1, 0], "average": "macro"}),
    ("precision_calculation", {"y_true": [0, 1, 1], "y_pred": [0, 1, 0], "pos_label": 0}),
    ("recall_calculation", {"y_true": ["a", "b"], "y_pred": ["a", "b"]}),
    ("sequential_alignment", {"X": np.zeros((3, 2)), "labels": [1, 2, 3]}),
    ("sequential_alignment", {"X": np.zeros((3, 2)), "labels": ["a", "b", "c"], "k": 1}),
    ("entropy_per_cell", {"X": np.eye(5), "labels": [0, 0, 0, 0, 0]}),
    ("silhouette_score", {"X": np.eye(5), "labels": [0, 0, 0, 1, 1]}),
    ("batch_silhouette", {"X": np.eye(4), "labels": np.array([0, 0, 0, 0]), "batch": np.array([1, 1, 1, 1])}),
]


@pytest.mark.parametrize(("metric", "arguments"), NOT_COVERED)
def test_uncovered_call_goes_to_the_original(metric: str, arguments: dict[str, Any]) -> None:
    def answer() -> Any:
        try:
            return metrics_registry.compute(MetricType(metric), **arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is
            return type(error), str(error)

    theirs = answer()
    with accel.accelerated(engine="cpu") as report:
        ours = answer()
    assert type(ours) is type(theirs)
    np.testing.assert_equal(ours, theirs)
    assert all(ran == 0 for _, ran, *_ in report.rows())
    assert len(report)


def test_cluster_embedding_writes_what_scanpy_writes(cells: Cells) -> None:
    def cluster() -> tuple[anndata.AnnData, list[Any]]:
        data = anndata.AnnData(cells.x, obs=pd.DataFrame(index=[str(i) for i in range(cells.n)]))
        return data, cluster_embedding(data, key_added="found")

    theirs, their_codes = cluster()
    with accel.accelerated(engine="cpu"):
        # by its module: the name in this test was taken before the block, and is patched all the same
        ours, our_codes = cluster()
    assert list(ours.obs["found"]) == our_codes
    assert set(our_codes) == set(their_codes)
    assert type(our_codes[0]) is type(their_codes[0])
    assert list(ours.obs["found"].cat.categories) == list(theirs.obs["found"].cat.categories)
    assert ours.uns["found"] == theirs.uns["found"]
    assert ours.uns["neighbors"] == theirs.uns["neighbors"]
    for key in ("distances", "connectivities"):
        assert type(ours.obsp[key]) is type(theirs.obsp[key])
        assert ours.obsp[key].dtype == theirs.obsp[key].dtype
        assert abs(ours.obsp[key] - theirs.obsp[key]).max() < 2e-3
    gb_score = gb.metrics.adjusted_rand_index(our_codes, their_codes)
    assert gb_score > 0.98


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"flavor": "leidenalg"}, "flavor='leidenalg'"),
        ({"n_iterations": -1}, "n_iterations=-1"),
        ({"use_rep": "none"}, "use_rep='none'"),
    ],
    ids=str,
)
def test_uncovered_clustering_goes_to_scanpy(cells: Cells, options: dict[str, Any], reason: str) -> None:
    data = anndata.AnnData(cells.x[:100], obs=pd.DataFrame(index=[str(i) for i in range(100)]))
    with accel.accelerated(engine="cpu") as report:
        try:
            cluster_embedding(data, **options)
        except (KeyError, ValueError) as error:
            assert "none" in str(error)  # noqa: PT017
    calls = report["czbenchmarks.tasks.utils.cluster_embedding"]
    assert calls.ran == 0
    assert reason in next(iter(calls.reasons))
