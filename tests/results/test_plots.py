"""Figures of results: values, intervals, order, errors and files."""

from __future__ import annotations

import io
import math
import pickle
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_cases import cells_result
from matplotlib import rcParams
from matplotlib.figure import Figure
from report_cases import full_result, make_result, many_conditions, row

from gpubench.core.errors import InputError
from gpubench.core.scores import CellColumn, CellScores, MetricResult
from gpubench.core.types import Labels
from gpubench.results.figures import COLORS
from gpubench.results.result import Result
from gpubench.results.statistics import standard_error


@pytest.fixture(scope="module")
def result() -> Result:
    return cells_result(600, ["nan", "a", "$b", "_c"], embeddings=("X", "_Y"), batches=("u", "v"), times=3)


def names_of(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_scores_figure_draws_values_and_intervals() -> None:
    result = make_result(row(value=0.5, stderr=0.01), row("normalized_mutual_info", 0.25, embedding="X_scvi"))
    figure = result.plot()
    bars = [bar for container in figure.axes[0].containers for bar in getattr(container, "patches", ())]
    assert sorted(bar.get_width() for bar in bars) == [0.25, 0.5]
    (whisker, none) = (line.get_segments()[0][:, 0] for line in figure.axes[0].collections)
    assert np.allclose(whisker, [0.5 - 0.0196, 0.5 + 0.0196])
    assert none[0] == none[1] == 0.25
    assert names_of(figure) == ["Adjusted Rand index", "Normalised mutual\ninformation"]


def test_scores_figure_shows_means_and_no_undefined_rows() -> None:
    names = names_of(full_result().plot())
    assert names.count("Accuracy, mean over folds") == 1
    assert "Label prediction" in names, "tasks are headings"
    assert not [name for name in names if name.startswith("Silhouette (batches")]
    assert names_of(many_conditions().plot()) == ["Spearman correlation"]
    assert names_of(full_result().plot(task="clustering")) == ["Adjusted Rand index", "Normalised mutual\ninformation"]


@pytest.mark.parametrize("mean_over", ["cells", "labels"])
def test_standard_error_equals_that_of_the_scatter(mean_over: Any) -> None:
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat([0, 1, 2, 3], [50, 30, 20, 1])).astype(np.int32)
    values = rng.normal(codes, 1 + codes).astype(np.float32)
    values[::7] = np.nan
    labels = Labels(codes, ("a", "b", "c", "d"))
    found = standard_error(CellColumn("X", "t", "m", values, mean_over=mean_over), labels)
    groups = [values[(codes == c) & ~np.isnan(values)].astype(float) for c in range(4)]
    if mean_over == "cells":
        everything = np.concatenate(groups)
        expected = everything.std(ddof=1) / np.sqrt(len(everything))
    else:
        variances = [group.var(ddof=1) / len(group) if len(group) > 1 else 0.0 for group in groups if len(group)]
        expected = np.sqrt(sum(variances)) / len(variances)
    assert found == pytest.approx(expected, rel=1e-6)


def test_standard_error_of_too_few_values_is_none() -> None:
    one = CellColumn("X", "t", "m", np.array([np.nan, 1], np.float32))
    assert standard_error(one, None) is None
    assert standard_error(CellColumn("X", "t", "m", np.ones(3, np.float32), mean_over="labels"), None) is None


def test_breakdown_by_time_is_in_order_of_time() -> None:
    result = cells_result(600, ["a", "b"], times=12)
    metric = next(column.metric for column in result.cells.columns if column.task == "sequential_organization")
    figure = result.plot("breakdown", task="sequential_organization", metric=metric, by="time")
    assert names_of(figure) == [f"{time:g}" for time in sorted(set(result.cells.times.tolist()))]


def test_breakdown_has_the_lowest_mean_first(result: Result) -> None:
    figure = result.plot("breakdown", task="batch_integration", metric="entropy_per_cell")
    values = result.cells.find("entropy_per_cell", embedding="X").values
    other = result.cells.find("entropy_per_cell", embedding="_Y").values
    codes = result.cells.groups["label"].codes
    means = {
        name: np.nanmean(values[codes == c]) + np.nanmean(other[codes == c])
        for c, name in enumerate(("a", "$b", "_c"), 1)
    }
    assert names_of(figure) == sorted(means, key=means.__getitem__)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["X", "_Y"]
    by_batch = result.plot("breakdown", task="batch_integration", metric="entropy_per_cell", by="batch", embedding="X")
    assert set(names_of(by_batch)) == {"u", "v"}
    assert by_batch.legends == []


@pytest.mark.parametrize("by", ["label", "batch", "time", "cluster"])
def test_view_shows_every_cell(result: Result, by: str) -> None:
    figure = result.plot("view", embedding="X", by=by)
    points = figure.axes[0].collections[0]
    assert len(points.get_offsets()) == 600
    if by == "label":
        labels = result.cells.groups["label"]
        by_size = np.argsort(-np.bincount(labels.codes), kind="stable")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [labels.names[c] for c in by_size]
        assert {tuple(color) for color in points.get_facecolor()} <= {
            (*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0) for color in COLORS
        }


def test_many_groups_are_grey() -> None:
    figure = cells_result(300, [f"l{i}" for i in range(20)]).plot("view")
    assert len(figure.legends[0].get_texts()) == len(COLORS)


WRONG = {
    "kind": ({"kind": "bars"}, "kind='bars' is unknown; use 'table', 'scores', 'breakdown' or 'view'"),
    "metric": ({"metric": "none"}, "plot: no number is left to show"),
    "which": ({"kind": "breakdown", "metric": "silhouette_score"}, "one task and metric can be drawn; name it, of: "),
    "by": ({"kind": "breakdown", "task": "embedding", "by": "donor"}, "by='donor' is not known of the cells; there"),
    "embedding": ({"kind": "view"}, "one embedding can be drawn; name it, of: X, _Y"),
    "view": ({"kind": "view", "embedding": "Z"}, "there is no view of 'Z'"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_plot_of_wrong_options_raises(result: Result, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        result.plot(**options)
    assert message in str(raised.value)


def test_breakdown_without_cells_raises(result: Result) -> None:
    bare = Result(result.results, result.provenance, [], [], [], cells=CellScores())
    assert bare.plot().axes
    with pytest.raises(InputError, match=r"score again, or keep cells.parquet next to the JSON"):
        bare.plot("breakdown", metric="silhouette_score")


@pytest.mark.parametrize("name", ["figure.pdf", "figure.svg", "figure.png"])
def test_figures_are_written_and_not_shown(result: Result, name: str, tmp_path: Path) -> None:
    before = dict(rcParams)
    for figure in (result.plot(), result.plot("view", embedding="X")):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    assert dict(rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_long_names_fit_without_layout_warnings() -> None:
    names = [f"a name that goes on and on, and does not end before it has to, {i}" for i in range(12)]
    figure = cells_result(300, names).plot("breakdown", metric="entropy_per_cell")
    figure.savefig(io.BytesIO())  # a layout that does not fit warns, which is an error here


def test_table_figure_has_every_metric_and_the_best_embedding_first() -> None:
    rows = [
        MetricResult(f"model_{i}", task, metric, value=0.1 * i)
        for i in range(20)
        for task, metric in (("embedding", "silhouette_score"), ("scib", "bio_conservation"), ("scib", "total"))
    ]
    rows.append(MetricResult("model_0", "mine", "$my_score", value=math.nan))
    figure = Result(rows, {}, [], [], []).plot("table")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"model_{i}" for i in range(19, -1, -1)]
    texts = [text.get_text() for text in axes.texts]
    assert {"Silhouette (labels)", "Bio conservation", "Total", "Mean rank"} <= set(texts)
    assert texts.count("1.90") == 3
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes)), "names overprint each other"


def test_notebooks_show_figures_without_pyplot() -> None:
    rows = [MetricResult("X", "embedding", "silhouette_score", value=0.5)]
    for kind in ("table", "scores"):
        figure = Result(rows, {}, [], [], []).plot(kind)
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert pickle.loads(pickle.dumps(figure))._repr_png_()
