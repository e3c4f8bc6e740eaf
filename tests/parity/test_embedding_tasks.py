"""Tasks that score one embedding of one file."""

from __future__ import annotations

import pytest
from parity import peer
from parity.conftest import Case, assert_same_mean, cases_with

from gpubench.results.result import Result
from gpubench.running.score import score

TOLERANCE = {
    "silhouette_score": 1e-5,
    "batch_silhouette": 1e-5,
    "entropy_per_cell": 1e-3,  # theirs finds 99% of the neighbours
    "sequential_alignment": 3e-3,  # theirs divides by a drawn baseline
    "adjusted_rand_index": 0.02,  # the order in which Leiden visits the cells
    "normalized_mutual_info": 0.02,
}
SEEDS = (42, 43, 44)  # folds and forests: one draw of a forest says little


def ours(case: Case, task: str, **options: object) -> Result:
    """Score the case's file with gpubench."""
    return score(case.path, ["X_pca"], **case.columns, tasks=[task], **options)


def assert_same(result: Result, theirs: peer.Numbers) -> None:
    """Every number of theirs is in the result, within the tolerance of its metric."""
    assert theirs
    for (metric,), value in theirs.items():
        assert result.value(metric) == pytest.approx(value, abs=TOLERANCE[metric]), metric


@cases_with("label")
def test_clustering(case: Case) -> None:
    assert_same(ours(case, "clustering"), peer.clustering(case.cells, case.columns["label"]))


@cases_with("label")
def test_embedding(case: Case) -> None:
    assert_same(ours(case, "embedding"), peer.embedding(case.cells, case.columns["label"]))


@cases_with("batch")
def test_batch_integration(case: Case) -> None:
    theirs = peer.batch_integration(case.cells, case.columns["label"], case.columns["batch"])
    assert_same(ours(case, "batch_integration"), theirs)


@cases_with("time")
@pytest.mark.parametrize("options", [{}, {"adaptive_k": True}, {"normalize": False, "k": 5}], ids=str)
def test_sequential_organization(case: Case, options: dict[str, object]) -> None:
    theirs = peer.sequential_organization(case.cells, case.columns["time"], **options)
    assert_same(ours(case, "sequential_organization", **options), theirs)


@cases_with("label")
def test_label_prediction(case: Case) -> None:
    theirs = [peer.label_prediction(case.cells, case.columns["label"], seed=seed) for seed in SEEDS]
    results = [ours(case, "label_prediction", seed=seed) for seed in SEEDS]
    for metric, classifier in theirs[0]:
        expected = [numbers[metric, classifier] for numbers in theirs]
        found = [result.value(metric, classifier=classifier) for result in results]
        assert_same_mean(found, expected, classifier)
