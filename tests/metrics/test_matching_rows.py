"""Metric functions match the rows of Series and DataFrames by their index."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.core.errors import InputError

N = 60
RNG = np.random.default_rng(2)
NAMES = [f"c{i}" for i in RNG.permutation(N)]
X = pd.DataFrame(RNG.normal(size=(N, 3)), index=NAMES)
LABELS = pd.Series(RNG.choice(list("abc"), N), index=NAMES)
BATCH = pd.Series(RNG.choice(list("xy"), N), index=NAMES)
ORDER = RNG.permutation(N)


def test_metric_shuffled_series_gives_the_aligned_score() -> None:
    expected = gb.metrics.silhouette_batch(X.to_numpy(), LABELS.to_numpy(), BATCH.to_numpy(), engine="cpu")
    assert gb.metrics.silhouette_batch(X, LABELS.iloc[ORDER], BATCH.iloc[::-1], engine="cpu") == expected
    assert gb.metrics.silhouette_batch(X, labels=LABELS.iloc[ORDER], batch=BATCH, engine="cpu") == expected
    assert gb.metrics.adjusted_rand_index(LABELS, LABELS.iloc[ORDER]) == 1


def test_metric_columns_without_names_are_taken_in_order() -> None:
    moved = LABELS.iloc[ORDER]
    expected = gb.metrics.adjusted_rand_index(LABELS.to_numpy(), moved.to_numpy())
    for other in (moved.to_numpy(), moved.reset_index(drop=True), pd.Categorical(moved), moved.tolist()):
        assert gb.metrics.adjusted_rand_index(LABELS, other) == expected


def test_metric_other_rows_raise() -> None:
    with pytest.raises(InputError, match=r"labels_pred, with 59 rows, lacks 1 of the 60 rows of labels_true"):
        gb.metrics.adjusted_rand_index(LABELS, LABELS.iloc[1:])


def test_metric_of_sets_and_of_scores_ignores_the_index() -> None:
    assert gb.metrics.jaccard(pd.Series(["a", "b"], index=["x", "y"]), pd.Series(["b", "a"], index=["u", "v"])) == 1
    bio, batch = pd.Series([0.5, 0.7], index=["nmi", "ari"]), pd.Series([0.2, 0.4], index=["ilisi", "kbet"])
    assert gb.metrics.total(bio, batch) == pytest.approx(0.6 * 0.6 + 0.4 * 0.3)


def test_drop_in_ignores_the_index_as_the_original_does() -> None:
    from gpubench.accel.calls import _by_position

    assert list(_by_position(LABELS.iloc[ORDER]).index) == list(range(N))
    assert _by_position(NAMES) is NAMES
