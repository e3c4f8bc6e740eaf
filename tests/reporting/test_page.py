"""The page: completeness, validity, escaping, reproducibility."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import pytest
from cell_cases import cells_result
from report_cases import HOSTILE, Page, full_result, hostile_result, make_result, many_conditions, row

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.metrics import METRICS
from gpubench.reporting.content import describe_metric
from gpubench.reporting.page import render
from gpubench.results.result import Result
from gpubench.tasks import TASKS


def two_embeddings() -> Result:
    return cells_result(300, ["a", "b", "c"], embeddings=("X", "Y"), batches=("u", "v"), times=3)


RESULTS = {
    "full": full_result,
    "hostile": hostile_result,
    "many": many_conditions,
    "empty": make_result,
    "cells": two_embeddings,
}


def digest(result: Result) -> str:
    """Digest of the page to compare, because pytest takes minutes to show how long lines differ."""
    return hashlib.sha256(render({"": result}).encode()).hexdigest()


@pytest.fixture(scope="module")
def full() -> Page:
    return Page(render({"": full_result()}))


def test_page_contains_everything(full: Page) -> None:
    for text in (
        TASKS["label_prediction"].question,
        METRICS["mean_fold_f1"].spec.description,
        "From −0.5 to 1; higher is better.",
        "doi:10.1007/BF01908075",
        "± 0.012",
        "~0.3000",
        "left out: 'AWC' (9)",
        "undefined: each label has one batch",
        "needs time",
        "on X_scvi: out of memory",
        "100 cells, 2 embeddings",
        "numpy 2.1.0",
        "gpubench 0.1.0",
    ):
        assert text in full.text, text


def test_best_of_a_row_is_marked_in_words(full: Page) -> None:
    assert re.search(r"Accuracy, mean over folds .*?0\.7000 ± 0\.012 ★ 0\.8000 \(best\) ± 0\.012 100", full.text)
    assert re.search(r"Adjusted Rand index 0\.5000 0\.6000 100", full.text), "there is no interval"


def test_summary_has_means_and_no_single_classifiers() -> None:
    page = Page(render({"": full_result()})).text
    summary = page[page.index("Summary 100 cells") : page.index("Not run")]
    assert "mean of knn, lr, rf" in summary
    assert "lr 0.7" not in summary
    assert "Silhouette" not in summary  # undefined


@pytest.mark.slow
@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS.keys())
def test_page_is_valid_and_loads_nothing(make: object) -> None:
    assert callable(make)
    text = render({"": make()})
    page = Page(text)
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "img", "object", "embed", "form", "base"} & {
        tag for tag, _ in page.elements
    }
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
        target = attributes.get("href") or attributes.get("xlink:href") or ""
        known = ("https://doi.org/", "data:image/png;base64,")
        assert target == "" or target.startswith(known) or target.removeprefix("#") in ids
    policy = [found["content"] for found in page.all("meta") if found.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not re.search(r"@import|url\((?!#)", text)


def test_figures_have_titles_and_descriptions(full: Page) -> None:
    figures = full.all("svg")
    assert len(figures) == 3  # clustering, label prediction, timeline
    ids = {found.get("id") for _, found in full.elements}
    for figure in figures:
        assert figure["role"] == "img"
        assert set((figure["aria-labelledby"] or "").split()) <= ids


def test_hostile_names_are_escaped() -> None:
    page = Page(render({HOSTILE: hostile_result(), "b": hostile_result()}))
    assert "<script>alert(1)</script>" in page.text
    assert "<img src=x onerror=alert(1)>\\x07$\\frac{</style></svg>" in page.text
    assert len(page.all("style")) == 1


def test_many_rows_are_folded_under_their_mean() -> None:
    page = Page(render({"": many_conditions()}))
    assert "All 61 rows" in page.text
    assert page.text.count("gene 7 ") == 1
    assert len(page.all("svg")) == 1


def test_undefined_rows_have_one_reason() -> None:
    rows = [row("mean_fold_f1", math.nan, task="scib", params={"classifier": c}, note="one label") for c in "abcdef"]
    text = Page(render({"": make_result(*rows)})).text
    assert text.count("one label") == 1
    assert "6 numbers mean_fold_f1 (a), mean_fold_f1 (b)" in text
    assert "No score could be computed" in text


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_defined(metric: str) -> None:
    text = describe_metric(metric)
    assert text.definition.endswith(".")
    assert text.scale.endswith("better.")
    assert all(doi.count("(") == doi.count(")") for doi in text.dois)
    assert len(text.dois) == len(set(re.findall(r"doi:10", METRICS[metric].__doc__ or ""))) or len(text.dois) > 1


@pytest.mark.slow
def test_report_is_reproducible() -> None:
    assert digest(full_result()) == digest(full_result())


@pytest.mark.slow
def test_user_settings_of_matplotlib_do_not_change_figures() -> None:
    import matplotlib as mpl

    plain = digest(full_result())
    with mpl.rc_context({"text.usetex": True, "font.size": 30, "axes.grid": True, "svg.fonttype": "path"}):
        assert digest(full_result()) == plain


@pytest.mark.slow
def test_report_is_written_atomically(tmp_path: Path) -> None:
    gb.report(full_result(), tmp_path / "r.html")
    assert "Adjusted Rand index" in (tmp_path / "r.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        gb.report(full_result(), tmp_path / "no" / "r.html")


def test_half_a_character_in_a_name_is_escaped(tmp_path: Path) -> None:
    gb.report(make_result(row(), source="caf\udce9.h5ad"), tmp_path / "r.html")
    assert "caf\\udce9.h5ad" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_report_of_a_file_equals_that_of_the_result(tmp_path: Path) -> None:
    full_result().to_json(tmp_path / "r.json")
    assert digest(Result.from_json(tmp_path / "r.json")) == digest(full_result())


def test_a_task_shows_the_embeddings_that_it_scored() -> None:
    task, metric = "perturbation_expression_prediction", "spearman_correlation_calculation"
    per_cell = row(value=0.5)
    per_gene = [
        row(metric, 0.1 * i, embedding="predictions", task=task, params={"condition": name, "n_genes": 5 + i})
        for i, name in enumerate(("JAK2", "STAT1"))
    ]
    text = Page(render({"": make_result(per_cell, *per_gene)})).text
    summary, sections = text.split("Do clusters of the embedding match")
    assert "metric X_pca predictions cells" in summary
    assert "metric X_pca cells" in sections
    assert "metric predictions cells" in sections
    assert "JAK2 0.0000" in sections, "the number of genes does not tell conditions apart"
