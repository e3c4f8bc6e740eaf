"""Results for tests of the report: all kinds of rows, and hostile names."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from gpubench.core.scores import EffectExample, MetricResult, PerturbationTable
from gpubench.results.result import Result

HOSTILE = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(1)>\x07$\\frac{</style></svg>"
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


def row(metric: str = "adjusted_rand_index", value: float = 0.5, **fields: Any) -> MetricResult:
    """Make a row, by default of X_pca and the task clustering."""
    return MetricResult(
        **{"embedding": "X_pca", "task": "clustering", "n": 100, **fields, "metric": metric, "value": value}
    )


def stage(path: str, start_s: float, seconds: float, peak_bytes: int | None = 1_000_000) -> dict[str, Any]:
    return {"path": path, "start_s": start_s, "seconds": seconds, "put_bytes": 2_000_000, "peak_bytes": peak_bytes}


def make_result(*rows: MetricResult, source: str | None = "cells.h5ad", **fields: Any) -> Result:
    """Make a result of these rows, with the options of a run."""
    options = {"tasks": ["clustering"], "embeddings": ["X_pca"], "label": "cell_type", "k": 15}
    dataset = {"source": source, "fingerprint": "f00d", "n_cells": 100}
    content = {
        "provenance": {"gpubench": "0.1.0", "options": options, "dataset": dataset, "packages": {"numpy": "2.1.0"}},
        "timeline": [],
        "skipped": [],
        "failures": [],
    }
    return Result(list(rows), **{**content, **fields})


def full_result() -> Result:
    """Make a result with two embeddings, means, standard errors, notes, undefined scores, failures, a timeline."""
    rows = []
    for name, shift in (("X_pca", 0.0), ("X_scvi", 0.1)):
        rows += [row(value=0.5 + shift, embedding=name), row("normalized_mutual_info", 0.8 - shift, embedding=name)]
        for classifier in ("lr", "knn", "rf", "MEAN(knn,lr,rf)"):
            for metric in ("mean_fold_accuracy", "mean_fold_f1"):
                params = {"classifier": classifier}
                fields = {"embedding": name, "task": "label_prediction", "params": params, "stderr": 0.012}
                rows.append(row(metric, 0.7 + shift, note="left out: 'AWC' (9)", **fields))
    undefined = row("batch_silhouette", math.nan, task="batch_integration", note="undefined: each label has one batch")
    return make_result(
        *rows,
        undefined,
        replace(undefined, embedding="X_scvi"),
        row("entropy_per_cell", 0.3, task="batch_integration", approximate=True),
        timeline=[
            stage("read", 0, 1),
            stage("X_pca", 1, 9),
            stage("X_pca/knn", 1, 2, 3_000_000),
            stage("X_pca/rf", 4, 6),
        ],
        skipped=[{"task": "sequential_organization", "reason": "needs time"}],
        failures=[{"task": "embedding", "embedding": "X_scvi", "error": "out of memory"}],
    )


def hostile_result() -> Result:
    """Make a result in which all text from data is hostile."""
    rows = [
        row(metric, 0.1 * i, embedding=name, task=task, params={HOSTILE: HOSTILE + str(i)}, note=HOSTILE)
        for name in (HOSTILE, "_hidden")
        for task, metric in (("label_prediction", "mean_fold_f1"), (HOSTILE, HOSTILE))
        for i in range(4)
    ]
    return make_result(
        *rows,
        row(HOSTILE, math.nan, task="scib", note=HOSTILE),
        source=HOSTILE,
        timeline=[stage(HOSTILE, 0, 1), stage(f"{HOSTILE}/{HOSTILE}", 0, 1, None)],
        skipped=[{"task": HOSTILE, "reason": HOSTILE}],
        failures=[{"task": HOSTILE, "embedding": HOSTILE, "error": HOSTILE}],
    )


def many_conditions() -> Result:
    """Make a perturbation result of 60 conditions and their mean."""
    task, metric = "perturbation_expression_prediction", "spearman_correlation_calculation"
    rows = [row(metric, i / 60, task=task, params={"condition": f"gene {i}"}) for i in range(60)]
    return make_result(*rows, row(metric, 0.49, task=task, params={"condition": "MEAN"}, note="mean of 60 conditions"))


class Page(HTMLParser):
    """Parsed page: its elements and text; raises if elements are not nested correctly."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.goes_on = False  # after an element at which a word may be broken
        self.feed(page)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.goes_on = tag == "wbr"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            start = self.texts.pop() if self.goes_on else ""
            self.texts.append(start + data)
        self.goes_on = False

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def predictions_result(n: int = 30, n_predictions: int = 3) -> Result:
    """Make a result of predicted perturbations, with baselines, values of each perturbation and effects."""
    random = np.random.default_rng(0)
    metrics = {"pearson_delta": 0.5, "discrimination_score_l1": 0.8, "overlap_at_N": 0.2, "mae": 0.1}
    names = [f"perturbation {i}" for i in range(n)]
    table, rows = PerturbationTable(), []
    fields: dict[str, Any] = {"task": "perturbation_prediction"}
    for i in range(n_predictions):
        name = f"model {i}"
        for metric, middle in metrics.items():
            values = middle + 0.1 * i + random.normal(0, 0.1, n)
            values[0] = math.nan
            reasons = ["constant", *[""] * (n - 1)]
            table.add(name, "", zip(names, [metric] * n, values.tolist(), reasons, strict=True))
            mean = float(np.nanmean(values))
            rows.append(row(metric, mean, embedding=name, params={"interval": [mean - 0.05, mean + 0.05]}, **fields))
        for rank in ("best", "median", "worst"):
            real = random.normal(0, 1, 150).round(3)
            predicted = (real + random.normal(0, 1, 150)).round(3)
            genes = tuple(f"G{gene}" for gene in range(150))
            effect = tuple(real.tolist()), tuple(predicted.tolist())
            table.examples.append(EffectExample(name, "", f"perturbation {rank}", rank, 0.7, genes, *effect))
    for metric, middle in metrics.items():
        interval = {"interval": [middle - 0.1, middle]}
        rows.append(row(metric, middle - 0.05, embedding="baseline_mean", params=interval, **fields))
        rows.append(row(metric, middle + 0.1, embedding="replicate", **fields))
    return make_result(*rows, perturbations=table)
