"""Leaderboards: ranks against plain loops, intervals, what is missing, tables of other packages, and the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.results.score_table import mean_ranks
from gpubench.standings.leaderboard import Leaderboard
from gpubench.standings.ranks import RankDraws
from gpubench.standings.scored import ScoredMetric, collect

TASKS = ("embedding", "clustering")


def score(seed: int, models: dict[str, float], tasks: tuple[str, ...] = TASKS) -> gb.Result:
    """Score models whose cells have more or less noise, on a dataset of their own."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 150 + seed)
    centres = rng.normal(size=(3, 4))
    cells = {name: (centres[label] + rng.normal(size=(len(label), 4)) * sd).astype("f4") for name, sd in models.items()}
    return gb.score(cells, label=label.astype(str), tasks=list(tasks), engine="cpu")


@pytest.fixture(scope="module")
def results() -> list[gb.Result]:
    noise = {"good": 0.2, "fair": 0.6, "poor": 3.0}
    return [score(i, noise) for i in range(4)]


def table(path: Path, rows: list[tuple[object, ...]], columns: list[str]) -> Path:
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_ranks_are_those_of_each_task_and_dataset(results: list[gb.Result]) -> None:
    board = gb.leaderboard(results)
    assert board.models == ["good", "fair", "poor"]
    assert len(board.datasets) == 4
    for result, dataset in zip(results, board.datasets, strict=True):
        for task in board.tasks:
            expected = mean_ranks([row for row in result.results if row.task == task])
            assert {name: board.rank(name, task, dataset) for name in expected} == pytest.approx(expected)
    each = [[board.rank("fair", task, name) for name in board.datasets] for task in board.tasks]
    (fair,) = [one for one in board.standings["overall"] if one.model == "fair"]
    assert fair.rank == pytest.approx(np.mean(each))


def test_intervals_are_those_of_drawn_datasets() -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    scored = [
        ScoredMetric(f"data {i}", "embedding", "silhouette_score", "", dict(zip("abc", row, strict=True)), {})
        for i, row in enumerate(values)
    ]
    draws = RankDraws(scored, list("abc"), seed=1)
    ranks = rankdata(-values, axis=1)
    rng = np.random.default_rng(5)
    means = np.array([ranks[rng.integers(0, 6, 6)].mean(axis=0) for _ in range(20_000)])
    for one in draws.standings["overall"]:
        own = means[:, "abc".index(one.model)]
        assert one.rank == pytest.approx(ranks[:, "abc".index(one.model)].mean())
        np.testing.assert_allclose(one.interval, np.percentile(own, [2.5, 97.5]), atol=0.2)


def test_errors_of_scores_widen_the_intervals_and_tie_models() -> None:
    values = {"a": 0.80, "b": 0.79, "c": 0.10}
    certain = [ScoredMetric("data", "embedding", "silhouette_score", "", values, {})]
    assert all(
        one.interval is None and not one.ties_with_best
        for one in RankDraws(certain, list("abc"), 0).standings["overall"]
    )
    errors = dict.fromkeys("abc", 0.02)
    a, b, c = RankDraws(
        [ScoredMetric("data", "embedding", "silhouette_score", "", values, errors)], "abc", 0
    ).standings["overall"]
    assert (a.interval, b.interval, c.interval) == ((1, 2), (1, 2), (3, 3))
    assert (a.ties_with_best, b.ties_with_best, c.ties_with_best) == (False, True, False)


def test_same_seed_gives_the_same_board(results: list[gb.Result]) -> None:
    assert gb.leaderboard(results, seed=3).to_dict() == gb.leaderboard(results, seed=3).to_dict()


def test_lower_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    rows = [("a", "mae", 0.5), ("b", "mae", 0.1)]
    assert gb.leaderboard(table(tmp_path / "x.csv", rows, ["model", "metric", "value"])).models == ["b", "a"]


def test_undefined_scores_rank_last_and_equal_ones_share_a_rank(tmp_path: Path) -> None:
    rows = [(name, "silhouette_score", value) for name, value in zip("abcd", (0.5, None, 0.5, 0.1), strict=True)]
    board = gb.leaderboard(table(tmp_path / "x.csv", rows, ["model", "metric", "value"]))
    assert {one.model: one.rank for one in board.standings["overall"]} == {"a": 1.5, "c": 1.5, "d": 3, "b": 4}


def test_models_that_miss_a_dataset_are_last_and_named(results: list[gb.Result]) -> None:
    board = gb.leaderboard([*results, score(9, {"good": 0.2, "poor": 3.0})])
    assert board.models == ["good", "poor", "fair"]
    assert board.rank("fair", "embedding", board.datasets[-1]) is None
    assert "Not scored everywhere, and listed last: 'fair'" in str(board)
    last = board.standings["overall"][-1]
    assert (last.model, last.is_complete, last.n_datasets) == ("fair", False, 4)


def test_unknown_metrics_are_shown_but_not_ranked(tmp_path: Path) -> None:
    rows = [(m, name, v) for m, v in (("a", 1.0), ("b", 2.0)) for name in ("silhouette_score", "my_metric")]
    board = gb.leaderboard(table(tmp_path / "x.csv", rows, ["model", "metric", "value"]))
    assert board.models == ["b", "a"]
    assert "Not ranked, as neither higher nor lower is known to be better: my_metric." in board.notes
    assert "my_metric" in set(board.to_frame().metric)


def test_table_of_scib_metrics_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"Isolated labels": [0.6, 0.5, "Bio conservation"], "KMeans NMI": [0.7, 0.4, "Bio conservation"],
         "iLISI": [0.1, 0.2, "Batch correction"], "Total": [0.5, 0.4, "Aggregate score"]},
        index=pd.Index(["X_pca", "X_scvi", "Metric Type"], name="Embedding"),
    )  # fmt: skip
    frame.to_csv(tmp_path / "lung.csv")
    scored = collect([tmp_path / "lung.csv"])
    assert {one.dataset for one in scored} == {"lung"}
    assert {one.task for one in scored} == {"scib"}
    assert [one.metric for one in scored] == [
        "isolated_labels", "nmi_ari_cluster_labels_kmeans_nmi", "ilisi_knn", "total",
    ]  # fmt: skip
    assert scored[2].values == {"X_pca": 0.1, "X_scvi": 0.2}
    assert all(one.higher_is_better for one in scored)


def test_own_csv_gives_the_same_ranks(results: list[gb.Result], tmp_path: Path) -> None:
    results[0].to_csv(tmp_path / "results.csv")
    board, expected = gb.leaderboard(tmp_path / "results.csv"), gb.leaderboard(results[0])
    for task in TASKS:
        for name in expected.models:
            assert board.rank(name, task, "results") == expected.rank(name, task, expected.datasets[0])


@pytest.mark.parametrize(
    ("columns", "rows", "fault"),
    [
        (["model", "score"], [("a", 1.0)], "'x.csv' has the columns 'model', 'score'; give the columns model, metric"),
        (["model", "metric", "value"], [("a", "mae", 1.0), ("a", "mae", 2.0)], "'a' has several values of 'mae'"),
        (
            ["model", "metric", "value"],
            [("a", "mae", "x"), ("b", "mae", 2.0)],
            "1 values that are no finite numbers ('x')",
        ),
        (["model", "metric", "value"], [("a", "mae", np.inf), ("b", "mae", 2.0)], "no finite numbers ('inf')"),
        (
            ["model", "metric", "value", "stderr"],
            [("a", "mae", 1.0, "small"), ("b", "mae", 2.0, "0.1")],
            "column 'stderr' has 1 values that are no finite numbers ('small')",
        ),
        (
            ["model", "metric", "value", "dataset"],
            [("a", "mae", 1.0, "x"), ("b", "mae", 2.0, None)],
            "x.csv: 1 of 2 rows have no dataset",
        ),
        (["KMeans NMI", "Total"], [(0.5, 0.4), (0.4, 0.3)], "the names of the embeddings are missing"),
        (["model", "metric", "value"], [("a", "mae", 1.0)], "no dataset was scored for two models"),
    ],
)
def test_tables_that_cannot_be_ranked_are_refused(
    columns: list[str], rows: list[tuple[object, ...]], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path("x.csv"), rows, columns)
    with pytest.raises(InputError) as error:
        gb.leaderboard("x.csv")
    assert fault in str(error.value)


def test_wrong_arguments_are_refused(results: list[gb.Result], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no results"):
        gb.leaderboard([])
    with pytest.raises(InputError, match=r"task 'embeding' was not scored .did you mean 'embedding'"):
        gb.leaderboard(results, tasks="embeding")
    with pytest.raises(InputError, match="holds no result"):
        gb.leaderboard(tmp_path)


def test_command_writes_page_table_and_json(results: list[gb.Result], tmp_path: Path) -> None:
    for i, result in enumerate(results):
        (tmp_path / "runs" / str(i)).mkdir(parents=True)
        result.to_json(tmp_path / "runs" / str(i) / "results.json")
    command = [sys.executable, "-m", "gpubench", "leaderboard", tmp_path / "runs", "--out", tmp_path / "board"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert max(map(len, ran.stdout.split("Wrote")[0].splitlines())) <= 80
    content = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert content["models"] == ["good", "fair", "poor"]
    assert len(pd.read_csv(tmp_path / "board" / "leaderboard.csv")) == len(content["scores"])
    page = (tmp_path / "board" / "leaderboard.html").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 1 + len(TASKS)


def test_names_from_the_data_are_escaped_on_the_page(tmp_path: Path) -> None:
    rows = [(name, "<i>data</i>", "silhouette_score", value) for name, value in (("<b>a", 1.0), ("c", 0.5))]
    board = gb.leaderboard(table(tmp_path / "x.csv", rows, ["model", "dataset", "metric", "value"]))
    board.to_html(tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert "<b>a" not in page
    assert "<i>data" not in page


def test_notebook_shows_ranks_intervals_and_notes(results: list[gb.Result]) -> None:
    board = gb.leaderboard(results)
    page = board._repr_html_()
    first = board.standings["overall"][0]
    assert f"{first.rank:.1f}<small>[{first.interval[0]:.1f}, {first.interval[1]:.1f}]</small>" in page
    assert all(name in page for name in (*board.models, *board.tasks))
    assert "95% intervals" in page


COLUMNS = ["model", "dataset", "metric", "value"]


def ranks_of(board: Leaderboard) -> dict[str, float]:
    return {one.model: one.rank for one in board.standings["overall"]}


def test_models_in_several_tables_of_a_dataset_are_ranked_together(tmp_path: Path) -> None:
    scores = {"A": 0.5, "B": 0.4, "C": 0.2, "D": 0.1}
    files = [
        table(tmp_path / f"{name}.csv", [(name, "lung", "silhouette_score", value)], COLUMNS)
        for name, value in scores.items()
    ]
    assert ranks_of(gb.leaderboard(files)) == {"A": 1, "B": 2, "C": 3, "D": 4}


def test_files_of_one_name_are_different_datasets(tmp_path: Path) -> None:
    for folder, (a, b) in {"lung": (0.9, 0.1), "liver": (0.1, 0.8)}.items():
        (tmp_path / folder).mkdir()
        rows = [("A", "silhouette_score", a), ("B", "silhouette_score", b)]
        table(tmp_path / folder / "scores.csv", rows, ["model", "metric", "value"])
    board = gb.leaderboard([tmp_path / "lung" / "scores.csv", tmp_path / "liver" / "scores.csv"])
    assert len(board.datasets) == 2
    assert ranks_of(board) == {"A": 1.5, "B": 1.5}


def test_a_model_that_was_scored_twice_is_refused(results: list[gb.Result], tmp_path: Path) -> None:
    rows = [("A", "lung", "silhouette_score", 0.5), ("B", "lung", "silhouette_score", 0.4)]
    files = [table(tmp_path / f"{name}.csv", rows, COLUMNS) for name in "xy"]
    with pytest.raises(InputError, match=r"model 'A' was scored twice in 'silhouette_score' on 'lung', in .*x.csv.*y"):
        gb.leaderboard(files)
    with pytest.raises(InputError, match=r"model 'good' was scored twice .* in 'result 1' and 'result 2'"):
        gb.leaderboard([results[0], results[0]])


def test_runs_of_one_model_on_one_dataset_are_one_model() -> None:
    label = np.repeat(["a", "b"], 60)
    cells = np.random.default_rng(0).normal(size=(120, 4)).astype("f4")
    models = {"P": cells, "Q": cells + 2 * (label == "b")[:, None].astype("f4")}
    runs = [gb.score(models, label=label, tasks=task, engine="cpu") for task in TASKS]
    together = gb.leaderboard(gb.score(models, label=label, tasks=TASKS, engine="cpu"))
    apart = gb.leaderboard(runs)
    assert apart.models == together.models == ["Q", "P"]
    assert ranks_of(apart) == ranks_of(together)
    assert all(one.is_complete for one in apart.standings["overall"])


def test_a_model_with_only_some_metrics_is_incomplete(tmp_path: Path) -> None:
    rows = [(m, "lung", "silhouette_score", v) for m, v in (("A", 0.5), ("B", 0.4), ("C", 0.9))]
    rows += [(m, "lung", "adjusted_rand_index", v) for m, v in (("A", 0.5), ("B", 0.4))]
    board = gb.leaderboard(table(tmp_path / "x.csv", rows, COLUMNS))
    assert board.models == ["A", "B", "C"]
    assert not board.standings["overall"][-1].is_complete


def test_a_model_without_another_one_has_no_rank_and_is_named(tmp_path: Path) -> None:
    rows = [("A", "lung", "silhouette_score", 0.5), ("B", "lung", "silhouette_score", 0.4)]
    board = gb.leaderboard(table(tmp_path / "x.csv", [*rows, ("C", "liver", "silhouette_score", 0.9)], COLUMNS))
    assert board.models == ["A", "B", "C"]
    assert "Without a rank, as no other model was scored in the same metrics there: 'C'." in board.notes


def test_aggregates_do_not_count_next_to_their_parts(tmp_path: Path) -> None:
    rows = [("A", "lung", "isolated_labels", 0.5), ("B", "lung", "isolated_labels", 0.4)]
    rows += [("A", "lung", "ilisi_knn", 0.1), ("B", "lung", "ilisi_knn", 0.3)]
    totals = [("A", "lung", "total", 0.4), ("B", "lung", "total", 0.3)]
    assert ranks_of(gb.leaderboard(table(tmp_path / "x.csv", rows + totals, COLUMNS))) == {"A": 1.5, "B": 1.5}
    assert ranks_of(gb.leaderboard(table(tmp_path / "x.csv", totals, COLUMNS))) == {"A": 1, "B": 2}
