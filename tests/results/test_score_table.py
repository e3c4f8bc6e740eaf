"""Scores of embeddings side by side: what is shown, how it is laid out, and that no word is broken."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from gpubench.core.scores import MetricResult
from gpubench.results.runs import rank_blocks
from gpubench.results.score_table import mean_ranks, score_blocks, stage_seconds, summarize
from gpubench.results.table import to_text

ROW = MetricResult("X_pca", "embedding", "silhouette_score", 0.535146, n=2638)
METRICS = ("adjusted_rand_index", "normalized_mutual_info", "nmi_ari_cluster_labels_kmeans_nmi", "bras", "ilisi_knn")


def classifiers(embedding: str, value: float) -> list[MetricResult]:
    row = MetricResult(embedding, "label_prediction", "mean_fold_f1", value)
    names = ("lr", "knn", "MEAN(knn,lr)")
    return [replace(row, value=value + i / 10, params={"classifier": name}) for i, name in enumerate(names)]


def table(rows: list[MetricResult], width: int | None = None, **options: object) -> str:
    return to_text(score_blocks(summarize(rows), width=width, **options), width)  # type: ignore[arg-type]


def test_metrics_are_rows_and_embeddings_are_columns() -> None:
    rows = [ROW, replace(ROW, embedding="X_umap", value=0.25, approximate=True)]
    rows += [*classifiers("X_pca", 0.5), *classifiers("X_umap", 0.7)]
    assert table(rows) == (
        "                                    X_pca   X_umap\n"
        "embedding\n"
        "  silhouette_score                 0.5351  ~0.2500\n"
        "label_prediction, mean of knn, lr\n"
        "  mean_fold_f1                     0.7000   0.9000"
    )
    assert summarize(rows).n_others == 4
    assert "mean_fold_f1 (lr)" in to_text(score_blocks(summarize(rows, all_rows=True)))


def test_best_values_are_marked_and_explained_once() -> None:
    rows = [ROW, replace(ROW, embedding="b", value=0.6), replace(ROW, embedding="c", value=math.nan)]
    text = table(rows, best=[{1}])
    assert re.search(r"0\.5351 +0\.6000\* +undefined", text)
    assert text.count("best beyond noise") == 1
    assert "*" not in table(rows, best=[()])


def test_each_note_is_written_once() -> None:
    rows = [replace(ROW, embedding=name, metric=metric, note="sampled") for name in "ab" for metric in METRICS]
    text = table([*rows, replace(ROW, embedding="b", metric="mine", note="other")])
    assert text.count("sampled") == 1
    assert text.count(" [1]") == len(METRICS)
    assert "mine [2]" in text


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("n", [1, 4, 20])
def test_any_number_of_embeddings_fits_without_broken_words(n: int, width: int) -> None:
    names = [f"X_model_{i}_of_somebody_with_a_long_name" for i in range(n)]
    rows = [
        replace(ROW, embedding=name, metric=metric, task="scib", value=i + j / 100)
        for i, name in enumerate(names)
        for j, metric in enumerate(METRICS)
    ]
    text = table(rows, width)
    assert max(map(len, text.splitlines())) <= width
    words = {word for line in text.splitlines() for word in re.split(r"[\s_]+", line)}
    assert {word for metric in METRICS for word in metric.split("_")} <= words
    for i in range(n):
        assert all(f"{i + j / 100:.4f}" in text for j in range(1, len(METRICS)))
    assert len({line.split()[0] for line in text.splitlines() if re.match(r"\S*X_mod", line)}) in (0, n)


def test_a_metric_of_two_tasks_is_told_apart_where_metrics_are_columns() -> None:
    rows = [
        replace(ROW, embedding=f"model {i}", task=task, value=value)
        for i in range(9)
        for task, value in (("embedding", 0.5), ("sequential_organization", 0.25))
    ]
    text = table(rows, 70)
    assert "embedding" in text
    assert "sequential_" in text


def test_mean_ranks_follow_the_better_end_and_share_ties() -> None:
    rows = [
        MetricResult(name, "t", metric, value)
        for metric, values in {
            "silhouette_score": (0.9, 0.5, 0.5),
            "mean_squared_error": (3.0, 1.0, math.nan),
            "mine": (1.0, 2.0, 3.0),
        }.items()
        for name, value in zip("abc", values, strict=True)
    ]
    assert mean_ranks(rows) == pytest.approx({"a": (1 + 2) / 2, "b": (2.5 + 1) / 2, "c": (2.5 + 3) / 2})
    text = to_text(rank_blocks({"one": rows, "two": rows[:1]}, 80), 80)
    assert re.search(r"^a +1\.2 +1\.5 +1\.0$", text, re.MULTILINE)
    assert re.search(r"^c +2\.8 +2\.8 +-$", text, re.MULTILINE)


def test_seconds_are_those_of_whole_stages() -> None:
    paths = {"read": 1, "a": 5, "a/knn": 2, "a/label_prediction": 3, "a/label_prediction/rf": 2, "b": 4, "b/knn": 4}
    stages = [{"path": path, "start_s": i, "seconds": seconds} for i, (path, seconds) in enumerate(paths.items())]
    assert stage_seconds(stages) == {"knn": 6, "label_prediction": 3, "read": 1, "total": 10}
