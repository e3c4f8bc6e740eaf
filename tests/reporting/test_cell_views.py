"""Views: legends, signs, captions and size of the page."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from cell_cases import cells_result
from report_cases import HOSTILE, Page

from gpubench.core.scores import CellView
from gpubench.reporting.cell_views import ReportedView, cell_views
from gpubench.reporting.content import comparable_runs
from gpubench.reporting.page import render
from gpubench.results.result import Result
from gpubench.running import views


def views_of(result: Result) -> list[ReportedView]:
    comparison = comparable_runs({"": result})[0]
    return cell_views(comparison.cells, comparison.seed, "key")[0]


def test_panels_have_legends() -> None:
    result = cells_result(500, ["a", "b", "c"], batches=("u", "v"), times=3)
    (view,) = views_of(result)
    assert view.name == "X_pca"
    assert view.caption == "First two principal components; 500 cells."
    assert [panel.title for panel in view.panels] == ["label", "batch", "time", "cluster"]
    label, _, time, cluster = view.panels
    sizes = np.bincount(result.cells.groups["label"].codes)
    assert [(entry.sign, entry.name, entry.n) for entry in label.legend] == [
        (str(i), "abc"[c], sizes[c]) for i, c in enumerate(np.argsort(-sizes, kind="stable"), 1)
    ]
    assert len({entry.color for entry in label.legend}) == 3
    assert time.legend == ()
    assert "From 0 to 24" in time.svg
    assert {entry.sign for entry in cluster.legend} == {str(c) for c in range(6)}, "their names are their signs"


def test_many_groups_are_grey() -> None:
    (view,) = views_of(cells_result(3000, [f"l{i}" for i in range(100)]))
    assert len(view.panels[0].legend) == 40
    assert view.panels[0].others == 60


def test_signs_do_not_hide_each_other() -> None:
    result = cells_result(400, ["a", "b"])
    alike = CellView("t", np.arange(400), np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32))
    apart = replace(alike, xy=alike.xy + 20 * result.cells.groups["label"].codes[:, None].astype(np.float32))
    for view, signs in ((alike, ["1"]), (apart, ["1", "2"])):
        result.cells.views["X_pca"] = view
        assert re.findall(r"<text[^>]*>(\d+)</text>", views_of(result)[0].panels[0].svg) == signs


def test_embeddings_share_given_coordinates() -> None:
    result = cells_result(300, ["a", "b"], embeddings=("X", "Y"))
    result.cells.views = {"": replace(result.cells.views["X"], title="X_umap")}
    (view,) = views_of(result)
    assert view.name == "X_umap"
    assert view.caption == "Coordinates of the data; 300 cells."
    assert [panel.title for panel in view.panels] == ["label", "cluster of X", "cluster of Y"]


def test_caption_names_a_sample_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "CELLS", 50)
    (view,) = views_of(cells_result(300, ["a", "b"]))
    assert view.caption.endswith("50 of 300 cells, drawn at random (seed 42).")


def test_names_are_escaped_in_figures() -> None:
    names = [HOSTILE, f"{HOSTILE}2", "$\\frac{"]
    page = render({"": cells_result(200, names, embeddings=(HOSTILE,), batches=(HOSTILE, "_b"), times=2)})
    assert "<script" not in page
    assert "<img" not in page
    assert Page(page).text.count("alert(1)") > 10


@pytest.mark.slow
def test_a_million_cells_make_a_small_file() -> None:
    labels = [f"type {i}" for i in range(60)]
    result = cells_result(1_000_000, labels, batches=[f"b{i}" for i in range(12)])
    page = render({"": result})
    assert len(page.encode()) < 3e6, "an embedding takes its share of 8 MB"
    assert "20,000 of 1,000,000 cells, drawn at random (seed 42)" in page


def test_result_without_cells_has_a_caption() -> None:
    result = cells_result(100, ["a", "b"])
    bare = replace(result, cells=type(result.cells)())
    page = Page(render({"": bare})).text
    assert "Confusion matrix" not in page
    assert "There are no views and breakdowns of X_pca" in page
    assert "There are no views" not in Page(render({"": result})).text


def test_embeddings_that_are_not_drawn_are_named_once() -> None:
    result = cells_result(60, ["a", "b"], embeddings=[f"X{i}" for i in range(8)])
    assert [bool(view.panels) for view in views_of(result)] == [True] * 6
    page = Page(render({"": result}))
    (caption,) = re.findall(r"Not drawn, to keep the page small: (X\d), (X\d)\.", page.text)
    assert len(set(caption)) == 2
