"""Marks of the best column: those of all resamples, at a fraction of the cost, for cells and for perturbations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpubench.comparison import best
from gpubench.comparison.best import mark_best
from gpubench.comparison.resampling import Resampler
from gpubench.core.scores import CellColumn, CellScores, MetricResult, PerturbationTable


def columns_of(*values: np.ndarray[Any, Any]) -> tuple[list[CellScores], list[MetricResult]]:
    """Return runs whose scores are the means of some values."""
    cells, row = [], []
    for one in values:
        column = CellColumn("X", "embedding", "silhouette_score", one.astype(np.float32))
        cells.append(CellScores(len(one), {}, None, [column]))
        row.append(MetricResult("X", "embedding", "silhouette_score", float(column.values.mean(dtype=np.float64))))
    return cells, row


def pairs_of_runs() -> Iterator[tuple[list[CellScores], list[MetricResult]]]:
    """Yield pairs whose difference is between 0 and 5 standard errors, most of them near the edge of noise."""
    rng = np.random.default_rng(7)
    n, spread = 600, 0.1
    for times in np.concatenate([np.linspace(0, 5, 20), np.linspace(1.5, 2.5, 30)]):
        one = rng.uniform(0.3, 0.6, n)
        difference = rng.normal(0, spread, n)
        yield columns_of(one, one + difference - difference.mean() + times * spread / np.sqrt(n))


def test_marks_by_few_resamples_are_those_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    chunks = Resampler._chunks
    monkeypatch.setattr(
        Resampler, "_chunks", lambda self, *args: [drawn.append(one[1]) or one for one in chunks(self, *args)]
    )

    def marks() -> list[list[frozenset[int]]]:
        drawn.clear()
        return [
            mark_best([row], cells, resampler=Resampler(len(cells[0].columns[0].values)))
            for cells, row in pairs_of_runs()
        ]

    found, cost = marks(), sum(drawn)
    monkeypatch.setattr(best, "FEW_RESAMPLES", 1000)
    assert found == marks()
    assert {len(one[0]) for one in found} == {0, 1}
    assert cost < 0.8 * sum(drawn)


def test_a_clear_difference_needs_few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    chunks = Resampler._chunks
    monkeypatch.setattr(Resampler, "_chunks", lambda self, *args: asked.append(self.n_resamples) or chunks(self, *args))
    values = np.random.default_rng(0).uniform(0, 0.5, 400)
    cells, row = columns_of(values, values + 0.2)
    assert mark_best([row], cells, resampler=Resampler(400)) == [frozenset({1})]
    assert asked == [best.FEW_RESAMPLES]


def test_predictions_are_marked_by_their_perturbations() -> None:
    rng = np.random.default_rng(1)
    names = [f"g{i}" for i in range(30)]
    base = rng.uniform(0.2, 0.5, 30)
    table = PerturbationTable()
    rows = []
    for name, values in {"a": base, "b": base + 0.1, "c": base + rng.normal(0.1, 0.3, 30)}.items():
        table.add(name, "", [(gene, "pearson_delta", float(v), "") for gene, v in zip(names, values, strict=True)])
        rows.append(MetricResult(name, "perturbation_prediction", "pearson_delta", float(values.mean()), n=30))

    def mark(*which: int) -> frozenset[int]:
        chosen = [rows[i] for i in which]
        (found,) = mark_best(
            [chosen], [CellScores()] * len(chosen), resampler=Resampler(0), tables=[table] * len(chosen)
        )
        return found

    assert mark(0, 1) == {1}
    assert mark(1, 2) == frozenset()
