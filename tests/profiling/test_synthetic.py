"""Synthetic cells: the same for the same numbers, and hard to score."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gpubench as gb
from gpubench.profiling.synthetic import make


def test_make_same_arguments_give_the_same_cells() -> None:
    a, b, other = make(500, 7), make(500, 7), make(500, 7, seed=1)
    assert a.x.dtype == np.float32
    assert a.x.shape == (500, 7)
    for name in ("x", "label", "batch", "time"):
        assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.x != other.x).any()


def test_make_draws_uneven_labels_and_copies() -> None:
    cells = make(20_000, 5)
    sizes = np.bincount(cells.label)
    assert len(sizes) == 30
    assert sizes.max() > 10 * sizes.min()
    assert len(np.bincount(cells.batch)) == 8
    n_copies = len(cells.x) - len(np.unique(cells.x, axis=0))
    assert n_copies == pytest.approx(200, abs=10)


@pytest.mark.parametrize("d", [50, 512])
def test_make_gives_scores_in_the_middle(d: int) -> None:
    cells = make(2000, d)
    result = gb.score(
        cells.x,
        label=cells.label,
        batch=cells.batch,
        time=cells.time,
        tasks=["clustering", "embedding", "batch_integration", "sequential_organization"],
        engine="cpu",
    )
    assert len(result.results) == 7
    for row in result.results:
        assert 0.3 < row.value < 0.9, row
