"""The cells of other folds that vote, from one graph of all cells, against the oracle and the search of each fold."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from gpubench.engines.base import Engine
from gpubench.engines.common.knn_classifier import MAX_SHORT_SHARE, N_VOTES, graph_neighbors, nearest_in_other_folds
from gpubench.engines.cpu.engine import CpuEngine


def cells(n: int, d: int, seed: int) -> np.ndarray:
    """Cells of which some are copies."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x[: n // 10] = x[n // 2 : n // 2 + n // 10]
    return x


def test_voters_are_those_of_the_oracle(engine: Engine) -> None:
    x, folds = cells(300, 4, 0), np.random.default_rng(1).integers(0, 5, 300)
    voters = nearest_in_other_folds(engine, engine.put(x), folds)
    np.testing.assert_array_equal(engine.to_host(voters.nearest), reference.nearest_in_other_folds(x, folds, N_VOTES))
    assert (voters.method, voters.recall) == ("exact", None)


@given(
    n=st.integers(8, 60),
    n_folds=st.integers(2, 6),
    n_votes=st.integers(1, 4),
    uneven=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_cells_with_too_few_neighbors_are_searched_again(
    n: int, n_folds: int, n_votes: int, uneven: float, seed: int
) -> None:
    """Most cells may be in one fold, or all that are near each other."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.standard_normal((n, 1)).astype(np.float32), axis=0)
    folds = np.where(rng.random(n) < uneven, np.arange(n) * n_folds // n, rng.integers(0, n_folds, n))
    folds[:n_votes], folds[-n_votes:] = 0, 1  # each fold has as many outside
    voters = nearest_in_other_folds(CpuEngine(threads=1), x, folds, n_votes)
    np.testing.assert_array_equal(voters.nearest, reference.nearest_in_other_folds(x, folds, n_votes))


def test_vote_shares_equal_those_of_a_classifier_per_fold(engine: Engine) -> None:
    x, rng = cells(300, 4, 2), np.random.default_rng(3)
    codes, folds = rng.integers(0, 3, 300).astype(np.int32), rng.integers(0, 4, 300)
    voters = nearest_in_other_folds(engine, engine.put(x), folds)
    for fold in range(4):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        classifier = engine.classifier("knn").fit(engine.put(x[train]), codes[train], 3)
        expected = engine.to_host(classifier.predict_proba(engine.put(x[test])))
        np.testing.assert_array_equal(engine.to_host(voters.vote_shares(engine, test, codes, 3)), expected)


@pytest.mark.parametrize("n_folds", [2, 3, 5, 10, 100])
def test_graph_neighbors_leaves_few_cells_with_too_few_neighbors(n_folds: int) -> None:
    k = graph_neighbors(n_folds)
    rng = np.random.default_rng(0)
    short = [(rng.random((200_000, j)) > 1 / n_folds).sum(axis=1) < N_VOTES for j in (k, max(N_VOTES, k - 1))]
    assert short[0].mean() < 1.5 * MAX_SHORT_SHARE
    assert short[1].mean() > MAX_SHORT_SHARE or k == N_VOTES
