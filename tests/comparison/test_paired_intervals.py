"""Paired intervals: plain loops over the same draws, coverage in simulations, reasons for none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cells import make_cells
from sklearn import metrics

import gpubench as gb
from gpubench.comparison import resampling
from gpubench.comparison.paired_intervals import PairedInterval, _categories, paired_intervals
from gpubench.comparison.resampling import CHUNK, Resampler, cut_into_blocks, jackknife_interval, percentile_interval
from gpubench.core.scores import CLUSTER, FOLD, PREDICTED, CellColumn, CellScores, MetricResult
from gpubench.core.types import Labels
from gpubench.results.result import Result

N, N_RESAMPLES = 300, 120
CELLS = make_cells(N, 6, n_labels=3, n_batches=4, seed=1)
TASKS = ["clustering", "embedding", "batch_integration", "sequential_organization", "label_prediction"]


@pytest.fixture(scope="module")
def results() -> tuple[Result, Result]:
    """The same cells in six dimensions and in three."""
    columns = {"label": CELLS.label, "batch": CELLS.batch, "time": CELLS.time}
    species = np.where(np.arange(N) % 2, "human", "mouse")

    def score(x: np.ndarray) -> Result:
        tasks = [*TASKS, "cross_species_label_prediction"]
        given = {**columns, "species": species, "tasks": tasks}
        # forests would take a minute
        return gb.score({"X": np.ascontiguousarray(x)}, **given, classifiers=("lr", "knn"), engine="cpu")

    return score(CELLS.x), score(CELLS.x[:, :3])


def draw(results: tuple[Result, Result], resampler: Resampler) -> dict[tuple[Any, ...], tuple[float, PairedInterval]]:
    """Return the difference of each row of the two results, and its interval."""
    pairs = list(zip(results[0].results, results[1].results, strict=True))
    found = paired_intervals(results[0].cells, results[1].cells, pairs, resampler)
    return {
        (a.task, a.metric, *map(a.params.get, ("classifier", "train_species", "test_species"))): (
            b.value - a.value,
            one,
        )
        for (a, b), one in zip(pairs, found, strict=True)
    }


def plain_weights(resampler: Resampler, strata: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the weights of all cells for each resample."""
    order, blocks = cut_into_blocks(strata, int(strata.max()) + 1)
    for r in range(resampler.n_resamples):
        chunk, row = divmod(r, CHUNK)
        size = min(CHUNK, resampler.n_resamples - chunk * CHUNK)
        weights = np.empty(len(strata))
        for block, (_, start, stop) in enumerate(blocks):
            weights[order[start:stop]] = resampler.cell_weights(chunk, block, size, stop - start)[row]
        yield weights


def test_scores_of_cells_have_an_interval_around_the_difference(results: tuple[Result, Result]) -> None:
    drawn = draw(results, Resampler(N))
    without = {key for key, (_, one) in drawn.items() if one.interval is None}
    assert without == {key for key in drawn if "auroc" in key[1]}
    assert {drawn[key][1].reason for key in without} == {"it has no value for each cell"}
    for key, (value, one) in drawn.items():
        if one.interval is not None:
            low, high = one.interval
            assert low <= value <= high, key
            assert high - low < 0.6, key
    assert {key[0] for key in drawn.keys() - without} == {*TASKS, "cross_species_label_prediction"}


def test_interval_of_means_equals_that_of_a_plain_loop(results: tuple[Result, Result]) -> None:
    resampler = Resampler(N, n_resamples=N_RESAMPLES)
    drawn = draw(results, resampler)
    for task, metric, by_label in (
        ("embedding", "silhouette_score", False),
        ("batch_integration", "entropy_per_cell", False),
        ("batch_integration", "batch_silhouette", True),
    ):
        one, two = (result.cells.find(metric, task=task).values.astype(float) for result in results)
        groups = [CELLS.label == label for label in range(3)] if by_label else [np.ones(N, bool)]
        replicates = []
        for weights in plain_weights(resampler, CELLS.label):
            means = [[np.average(v[g], weights=weights[g]) for g in groups] for v in (one, two)]
            replicates.append(np.mean(means[1]) - np.mean(means[0]))
        value, one = drawn[task, metric, None, None, None]
        assert one.interval == pytest.approx(percentile_interval(value, np.array(replicates)), abs=1e-6), metric


def test_interval_of_clusterings_equals_that_of_a_plain_loop(results: tuple[Result, Result]) -> None:
    resampler = Resampler(N, n_resamples=N_RESAMPLES)
    drawn = draw(results, resampler)
    clusters = [result.cells.find(CLUSTER).values for result in results]
    codes, firsts = _categories([CELLS.label, clusters[0], CELLS.label, clusters[1]])
    without = []
    for weights in np.concatenate(list(resampler.tables_without(codes, len(firsts))), axis=1).T:
        cells = firsts.repeat(weights.astype(int))
        one, two = (metrics.adjusted_rand_score(CELLS.label[cells], found[cells]) for found in clusters)
        without.append(two - one)
    value, one = drawn["clustering", "adjusted_rand_index", None, None, None]
    assert one.method == "jackknife"
    assert one.interval == pytest.approx(jackknife_interval(value, np.array(without)), abs=1e-9)


def test_interval_of_predictions_over_donors_equals_that_of_a_plain_loop(results: tuple[Result, Result]) -> None:
    resampler = Resampler(N, n_resamples=N_RESAMPLES, donors=CELLS.batch)
    drawn = draw(results, resampler)
    answers = [
        [column.values for column in result.cells.select(task="label_prediction", metric=PREDICTED)]
        for result in results
    ]
    folds = results[0].cells.find(FOLD, task="label_prediction").values
    without = []
    for donor in range(4):
        cells = np.flatnonzero(CELLS.batch != donor)
        one, two = (
            np.mean(
                [
                    metrics.accuracy_score(CELLS.label[inside], said[inside])
                    for said in predicted
                    for fold in range(5)
                    if len(inside := cells[folds[cells] == fold])
                ]
            )
            for predicted in answers
        )
        without.append(two - one)
    key = ("label_prediction", "mean_fold_accuracy", "MEAN(knn,lr)", None, None)
    value, one = drawn[key]
    assert one.method == "jackknife"
    expected = jackknife_interval(value, np.array(without), np.bincount(CELLS.batch) / N)
    assert one.interval == pytest.approx(expected, abs=1e-9)


def test_interval_of_means_over_donors_equals_that_of_a_plain_loop(results: tuple[Result, Result]) -> None:
    drawn = draw(results, Resampler(N, donors=CELLS.batch))
    for task, metric, by_label in (
        ("embedding", "silhouette_score", False),
        ("batch_integration", "batch_silhouette", True),
    ):
        one, two = (result.cells.find(metric, task=task).values.astype(float) for result in results)
        groups = [CELLS.label == label for label in range(3)] if by_label else [np.ones(N, bool)]
        without = [
            np.mean([v[g & (CELLS.batch != donor)].mean() for g in groups]) for v in (one, two) for donor in range(4)
        ]
        shares = np.mean([np.bincount(CELLS.batch[g], minlength=4) / g.sum() for g in groups], axis=0)
        value, one = drawn[task, metric, None, None, None]
        apart = np.array(without[4:]) - without[:4]
        assert one.interval == pytest.approx(jackknife_interval(value, apart, shares), abs=1e-6), metric
        assert one.method == "jackknife"


@pytest.mark.slow
def test_intervals_do_not_depend_on_the_size_of_chunks(
    results: tuple[Result, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for donors in (None, CELLS.batch):
        resampler = Resampler(N, n_resamples=N_RESAMPLES, donors=donors)
        whole = draw(results, resampler)
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "MAX_COUNTS", 100)
            for key, (_, one) in draw(results, resampler).items():
                assert (one.interval is None) == (whole[key][1].interval is None)
                assert one.interval is None or one.interval == pytest.approx(whole[key][1].interval, abs=1e-12)


def simulated(values: np.ndarray) -> tuple[CellScores, MetricResult]:
    """Make a run whose score is the mean of some values."""
    values = values.astype(np.float32)
    column = CellColumn("X", "embedding", "silhouette_score", values)
    row = MetricResult("X", "embedding", "silhouette_score", float(np.nanmean(values.astype(float))))
    return CellScores(len(values), {}, None, [column]), row


def interval_of(one: np.ndarray, two: np.ndarray, resampler: Resampler) -> tuple[float, float]:
    (first, a), (other, b) = simulated(one), simulated(two)
    (drawn,) = paired_intervals(first, other, [(a, b)], resampler)
    assert drawn.interval is not None, drawn.reason
    return drawn.interval


@pytest.mark.slow
def test_intervals_cover_the_true_difference_in_95_percent() -> None:
    rng = np.random.default_rng(0)
    n, true, n_worlds, hits = 200, 0.1, 300, 0
    for world in range(n_worlds):
        hard = rng.gamma(2.0, 1.0, n)  # how hard a cell is, for both
        one, two = hard + rng.normal(0, 0.3, n), hard + true + rng.normal(0, 0.3, n)
        low, high = interval_of(one, two, Resampler(n, n_resamples=200, seed=world, threads=1))
        hits += low <= true <= high
        assert high - low < 2 * np.sqrt((one.var() + two.var()) / n), "the same cells are drawn for both"
    # 95% less what 200 resamples cost, within four standard errors of a share of 300
    assert 0.89 <= hits / n_worlds <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_donors", "uneven", "effect"),
    [
        (3, 1.0, "normal"),
        (6, 0.0, "normal"),
        (6, 1.0, "normal"),
        (9, 1.0, "skewed"),
        (12, 1.5, "normal"),
        (12, 1.0, "of size"),
    ],
)
def test_intervals_over_few_donors_cover_in_95_percent(n_donors: int, uneven: float, effect: str) -> None:
    rng = np.random.default_rng(1)
    n_worlds, hits = 500, {"cells": 0, "donors": 0}

    def make_donors(n: int) -> tuple[np.ndarray, np.ndarray]:
        """Sizes, and by how much a donor's cells score better in the second run."""
        log_sizes = 3 + uneven * rng.standard_normal(n)
        apart = rng.exponential(size=n) - 1 if effect == "skewed" else rng.standard_normal(n)
        return np.exp(log_sizes).astype(int) + 1, apart + (0.5 * (log_sizes - 3) if effect == "of size" else 0)

    sizes, apart = make_donors(1_000_000)
    true = (sizes * apart).sum() / sizes.sum()
    for world in range(n_worlds):
        sizes, apart = make_donors(n_donors)
        donors = np.repeat(np.arange(n_donors, dtype=np.int32), sizes)
        other = apart[donors] + rng.normal(0, 0.5, len(donors))
        for what, left_out in (("cells", None), ("donors", donors)):
            if what == "donors" or world < 50:
                resampler = Resampler(len(donors), n_resamples=100, seed=world, threads=1, donors=left_out)
                low, high = interval_of(np.zeros(len(donors)), other, resampler)
                hits[what] += low <= true <= high
    assert hits["donors"] / n_worlds >= 0.93, "95% less two standard errors of a share of 500"
    assert hits["cells"] / 50 < 0.7, "cells of a donor are alike, which their draws do not know"


def test_donors_without_values_do_not_count() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 400)
    donors = np.repeat(np.arange(8), 50).astype(np.int32)
    some = donors < 6
    all_values = np.where(some, values, np.nan)
    found = interval_of(np.where(some, 0, np.nan), all_values, Resampler(400, donors=donors))
    assert found == pytest.approx(interval_of(np.zeros(300), values[some], Resampler(300, donors=donors[some])))


def test_a_score_that_needs_one_donor_has_no_interval() -> None:
    donors = np.repeat([0, 1], N // 2).astype(np.int32)
    (first, a), (other, b) = simulated(np.where(donors, np.nan, 0.3)), simulated(np.linspace(0, 1, N))
    (drawn,) = paired_intervals(first, other, [(a, b)], Resampler(N, donors=donors))
    assert drawn == PairedInterval(None, reason="it is undefined without 1 of the 2 donors", by_donor=True)
    (drawn,) = paired_intervals(first, first, [(a, a)], Resampler(N, donors=donors))
    assert drawn == PairedInterval(None, reason="all cells that count are of one donor", by_donor=True)


def test_cells_without_a_value_do_not_count() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0, 1, 400), rng.normal(1, 1, 400)
    two[::2] = np.nan
    low, high = interval_of(one, two, Resampler(400))
    assert low < np.nanmean(two) - one.mean() < high
    expected = 2 * 1.96 * np.sqrt(one.var() / 400 + two[1::2].var() / 200)
    assert high - low == pytest.approx(expected, rel=0.15)


REASONS = {
    "no cells": (lambda cells, row: (replace(cells, columns=[]), row), "not both results have values of cells"),
    "other number": (lambda cells, row: (replace(cells, n_cells=N + 1), row), "the results are not of the same cells"),
    "other labels": (
        lambda cells, row: (replace(cells, groups={"label": Labels(np.ones(N, np.int32), ("a", "b"), "label")}), row),
        "the results are not of the same cells",
    ),
    "other value": (lambda cells, row: (cells, replace(row, value=0.9)), "the values of its cells do not make it up"),
    "sampled": (lambda cells, row: (cells, replace(row, stderr=0.1)), "it is estimated from a sample of the cells"),
    "other metric": (lambda cells, row: (cells, replace(row, metric="bras")), "it has no value for each cell"),
}


@pytest.mark.parametrize(("change", "reason"), REASONS.values(), ids=REASONS.keys())
def test_missing_interval_has_a_reason(change: Any, reason: str) -> None:
    first, row = simulated(np.linspace(0.4, 0.6, N))
    first.groups["label"] = Labels(np.zeros(N, np.int32), ("a", "b"), "label")
    other, changed = change(first, row)
    (drawn,) = paired_intervals(first, other, [(row, changed)], Resampler(N, n_resamples=100))
    assert drawn == PairedInterval(None, reason=reason)


def test_cells_of_one_donor_have_no_interval() -> None:
    labels = Labels(np.arange(N, dtype=np.int32) % 2, ("a", "b"), "label")
    column = CellColumn("X", "clustering", CLUSTER, labels.codes, names=("0", "1"))
    cells = CellScores(N, {"label": labels}, None, [column])
    row = MetricResult("X", "clustering", "adjusted_rand_index", 1.0)
    (drawn,) = paired_intervals(cells, cells, [(row, row)], Resampler(N, donors=np.zeros(N, np.int32)))
    assert drawn == PairedInterval(None, reason="all cells that count are of one donor", by_donor=True)


def test_difference_undefined_in_many_draws_has_no_interval() -> None:
    values = np.full(N, np.nan)
    values[0] = 0.5  # is drawn in two of three resamples
    (first, row), (other, same) = simulated(values), simulated(values)
    (drawn,) = paired_intervals(first, other, [(row, same)], Resampler(N))
    assert drawn.interval is None
    assert "undefined in 3" in drawn.reason
