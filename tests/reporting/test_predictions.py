"""The section of a report on predicted perturbations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_cases import Page, make_result, predictions_result, row

from gpubench.core.scores import PerturbationTable
from gpubench.reporting.page import render
from gpubench.reporting.perturbation_views import MAX_ROWS, perturbation_view
from gpubench.results.result import Result


def test_the_section_says_what_scores_are_worth() -> None:
    text = Page(render({"": predictions_result()})).text
    for said in (
        "has 1 in pearson_delta, discrimination_score_l1 and overlap_at_N",
        "has 0 in mae",
        "baseline_mean predicts the mean of all perturbations",
        "replicate is one half of the real cells",
        "whose perturbations are shuffled",
        "pearson_delta of each perturbation",
        "Predicted and real effects",
    ):
        assert said in text


def test_metrics_that_tell_nothing_are_last_and_named() -> None:
    view = perturbation_view({"": predictions_result()}, "key")
    assert view is not None
    assert [power.metric for power in view.powers][-1] == "mae"
    assert view.powers[-1].is_blind
    assert ">none<" in render({"": predictions_result()})


def test_a_perfect_score_is_not_promised_where_there_is_none() -> None:
    fields = {"task": "perturbation_prediction"}
    rows = [row(name, 0.5, **fields) for name in ("expr_mse_unbiased_capped_norm", "expr_mae")]
    table = PerturbationTable()
    table.add("X_pca", "", [("P", "expr_mae", 0.5, "")])
    view = perturbation_view({"": make_result(*rows, perturbations=table)}, "key")
    assert view is not None
    assert view.landmarks[0].endswith("has 0 in expr_mae.")
    assert "less than 0 in expr_mse_unbiased_capped_norm" in view.landmarks[1]


def test_places_are_those_of_the_sorted_values() -> None:
    view = perturbation_view({"": predictions_result(12)}, "key")
    assert view is not None
    column = view.metrics[0].columns[1]
    ordered = [text for _, text in sorted(zip(column.places, column.texts, strict=True))]
    assert ordered[-1] == "—"
    assert ordered[:-1] == sorted(ordered[:-1], key=float, reverse=True)
    assert sorted(column.places) == list(range(12))


def test_many_perturbations_are_cut_and_said_to_be() -> None:
    view = perturbation_view({"": predictions_result(MAX_ROWS + 40, 1)}, "key")
    assert view is not None
    assert {metric.n_left_out for metric in view.metrics} == {40}
    assert len(view.metrics[0].perturbations) == MAX_ROWS


@pytest.mark.slow
def test_the_page_is_bounded_for_many_perturbations() -> None:
    assert len(render({"": predictions_result(300, 4)}).encode()) < 2_500_000


def test_there_is_no_section_without_values_of_perturbations() -> None:
    result = replace(predictions_result(), perturbations=PerturbationTable())
    assert "of each perturbation" not in render({"": result})


def test_values_and_effects_survive_the_files(tmp_path: Path) -> None:
    result = predictions_result()
    result.to_json(tmp_path / "results.json")
    result.perturbations_to_parquet(tmp_path / "perturbations.parquet")
    found = Result.from_json(tmp_path / "results.json")
    assert found.perturbations.examples == result.perturbations.examples
    assert render({"": found}).count("<svg") == render({"": result}).count("<svg")


def test_runs_of_one_prediction_each_are_put_side_by_side() -> None:
    one = predictions_result(12, 1)
    view = perturbation_view({"first": one, "second": one}, "key")
    assert view is not None
    assert [column.name for column in view.metrics[0].columns] == ["model 0 (first)", "model 0 (second)"]
    assert len(view.effects) == 2
