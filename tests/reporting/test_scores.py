"""Rows of scores: alignment, best values, bars, comparable runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from report_cases import make_result, row

from gpubench.reporting.content import comparable_runs, score_rows
from gpubench.results.result import Result


def best(metric: str, *values: float, stderr: float | None = 1e-6) -> list[bool]:
    (line,) = score_rows(metric, [[row(metric, value, stderr=stderr)] for value in values])
    return [cell is not None and cell.best for cell in line.cells]


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("adjusted_rand_index", (0.1, 0.5, 0.3), [False, True, False]),
        ("mean_squared_error", (0.1, 0.5, 0.3), [True, False, False]),
        ("adjusted_rand_index", (0.1, math.nan, -0.3), [True, False, False]),
        ("adjusted_rand_index", (0.5, 0.5 + 1e-9, 0.3), [True, True, False]),  # equal but for rounding
        ("adjusted_rand_index", (0.5, 0.5), [False, False]),
        ("adjusted_rand_index", (0.5,), [False]),
        ("a scorer of the user's", (0.1, 0.5), [False, False]),  # nobody knows which end is better
    ],
)
def test_best_scores_are_marked(metric: str, values: tuple[float, ...], expected: list[bool]) -> None:
    assert best(metric, *values) == expected


@pytest.mark.parametrize("stderr", [0.2, None])
def test_no_score_is_marked_within_noise_or_without_an_interval(stderr: float | None) -> None:
    assert best("adjusted_rand_index", 0.1, 0.5, 0.3, stderr=stderr) == [False, False, False]


@pytest.mark.parametrize(
    ("metric", "value", "bar"),
    [
        ("normalized_mutual_info", 0.25, (0, 0.25)),
        ("spearman_correlation_calculation", 0.5, (0.5, 0.25)),
        ("spearman_correlation_calculation", -0.5, (0.25, 0.25)),
        ("adjusted_rand_index", 1.0, (1 / 3, 2 / 3)),
        ("mean_squared_error", 4.0, None),  # its range has no end
        ("normalized_mutual_info", math.nan, None),
        ("a scorer of the user's", 0.5, None),
    ],
)
def test_a_bar_begins_at_zero_within_the_bounds(metric: str, value: float, bar: tuple[float, float] | None) -> None:
    (line,) = score_rows(metric, [[row(metric, value)]])
    cell = line.cells[0]
    assert cell is not None
    assert cell.bar == (None if bar is None else pytest.approx(bar))


def test_rows_are_aligned_by_distinguishing_parameters() -> None:
    lr = row("mean_fold_f1", 0.5, params={"classifier": "lr", "n_folds": 5}, n=90)
    mean = replace(lr, params={"classifier": "MEAN(lr)", "n_folds": 5})
    lines = score_rows("mean_fold_f1", [[lr, mean], [replace(mean, value=0.7, n=1_080)]])
    assert [line.params for line in lines] == [(("classifier", "lr"),), (("classifier", "mean of lr"),)]
    assert [line.headline for line in lines] == [False, True]
    assert lines[0].cells[1] is None
    assert [line.n for line in lines] == ["90", "90–1,080"]


def test_rows_with_equal_parameters_are_all_shown() -> None:
    lines = score_rows("mean_fold_f1", [[row("mean_fold_f1", 0.5), row("mean_fold_f1", 0.6)]])
    assert [line.cells[0].value for line in lines if line.cells[0]] == [0.5, 0.6]


def test_runs_on_the_same_cells_share_a_table() -> None:
    runs = {
        "a": make_result(row()),
        "b": make_result(row(embedding="X_scvi"), row(embedding="X_b")),
        "c": make_result(row(), source="others.h5ad"),
    }
    first, second = comparable_runs(runs)
    assert (first.source, first.embeddings) == ("cells.h5ad", ("X_pca", "X_scvi", "X_b"))
    assert (second.source, second.embeddings) == ("others.h5ad", ("X_pca",))


def test_files_of_the_same_cells_share_a_table() -> None:
    def result_from(source: str, columns: str) -> Result:
        result = make_result(row(embedding=source.partition(".")[0]), source=source)
        dataset = {**result.provenance["dataset"], "columns": columns}
        return replace(result, provenance={**result.provenance, "dataset": dataset})

    runs = {"a": result_from("pca.npy", "c1"), "b": result_from("scvi.npy", "c1"), "c": result_from("pca.npy", "c2")}
    first, second = comparable_runs(runs)
    assert (first.source, first.embeddings) == ("pca.npy, scvi.npy", ("pca", "scvi"))
    assert second.source == "pca.npy", "the same name, but other cells"


def test_embedding_of_two_runs_is_named_with_the_run() -> None:
    (found,) = comparable_runs({"a": make_result(row()), "b": make_result(row())})
    assert found.embeddings == ("X_pca (a)", "X_pca (b)")


@pytest.mark.parametrize("change", [{"k": 30}, {"label": "other"}])
def test_runs_with_other_options_are_not_compared(change: dict[str, object]) -> None:
    other = make_result(row(embedding="X_scvi"))
    options = {**other.provenance["options"], **change}
    other = replace(other, provenance={**other.provenance, "options": options})
    assert len(comparable_runs({"a": make_result(row()), "b": other})) == 2


def test_a_task_that_one_run_scored_is_not_left_out() -> None:
    skipped = [{"task": "clustering", "reason": "label not given"}, {"task": "scib", "reason": "batch not given"}]
    runs = {"a": make_result(row()), "b": make_result(row("silhouette_score", task="embedding"), skipped=skipped)}
    (found,) = comparable_runs(runs)
    assert [item["task"] for item in found.skipped] == ["scib"]
