"""Reports of many embeddings and data sets: what comes first, what is folded, and figures that do not collapse."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import pytest
from cell_cases import cells_result
from report_cases import Page, make_result, row

from gpubench.reporting.page import render
from gpubench.results.result import Result

METRICS = ("adjusted_rand_index", "normalized_mutual_info")


def result_of(n: int, source: str = "cells.h5ad", shift: int = 0) -> Result:
    rows = [
        row(metric, value=((i + shift) % n) / n, embedding=f"X_model_{i}", stderr=0.01)
        for i in range(n)
        for metric in METRICS
    ]
    return make_result(*rows, source=source)


def test_many_embeddings_are_rows_in_the_order_of_their_ranks() -> None:
    page = Page(render({"": result_of(20)}))
    summary = page.text[page.text.index("embedding mean rank") :]
    assert re.match(r"embedding mean rank Adjusted Rand index Normalised mutual information X_model_19 1\.0", summary)
    names = re.findall(r"X_model_(\d+) \d+\.0", summary)[:20]
    assert names == [str(i) for i in range(19, -1, -1)]


def test_several_datasets_begin_with_ranks_and_are_folded() -> None:
    page = Page(render({f"run{i}": result_of(4, f"data{i}.h5ad", shift=i) for i in range(10)}))
    overview = page.text[page.text.index("All datasets Mean rank") :]
    assert re.search(r"X_model_\d 2\.\d( [\d.]+){10} X_model_", overview)
    details = [attributes for attributes in page.all("details") if attributes.get("class") == "dataset"]
    assert len(details) == 10
    assert all("open" not in attributes for attributes in details)
    ids = {attributes.get("id") for _, attributes in page.elements}
    links = [(attributes.get("href") or "").removeprefix("#") for attributes in page.all("a")]
    assert (
        {f"data-{i}" for i in range(1, 11)}
        <= set(links)
        <= ids | {link for link in links if link.startswith("https://")}
    )


def test_one_dataset_has_no_overview() -> None:
    assert "All datasets" not in Page(render({"": result_of(3)})).text


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 8, 20])
def test_figures_of_many_embeddings_do_not_collapse(n: int) -> None:
    result = cells_result(200, ["a", "b", "c"], embeddings=[f"X_model_number_{i}" for i in range(n)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = render({"": result})
    drawn = len(set(re.findall(r">(X_model_number_\d+)</text>", text)))
    assert drawn == (0 if n == 1 else min(n, 8))
    assert ("with the best mean ranks" in text) == (n > 8)


def test_the_command_is_there_to_copy() -> None:
    result = result_of(2)
    result = replace(result, provenance={**result.provenance, "command": "gpubench score 'a b.h5ad' -e X"})
    page = Page(render({"": result}))
    assert "To repeat the run: gpubench score 'a b.h5ad' -e X" in page.text
    assert [tag for tag, _ in page.elements].count("pre") == 1


def test_options_have_the_names_under_which_they_are_given() -> None:
    result = result_of(2)
    options = {**result.provenance["options"], "n_cluster_neighbors": 15}
    text = Page(render({"": replace(result, provenance={**result.provenance, "options": options})})).text
    assert "options n_cluster_neighbors 15" in text


def test_predictions_are_not_called_embeddings() -> None:
    result = make_result(row(embedding="mine", task="perturbation_expression_prediction"))
    dataset = {**result.provenance["dataset"], "n_cells": None}
    text = Page(render({"": replace(result, provenance={**result.provenance, "dataset": dataset})})).text
    assert "1 set of predictions." in text


def test_wide_tables_say_that_they_scroll() -> None:
    assert "the table scrolls sideways" in Page(render({"": result_of(4)})).text
    assert "the table scrolls sideways" not in Page(render({"": result_of(2)})).text
