"""`Engine.mean_distances` against SciPy's distances in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines.base import Engine
from gpubench.engines.cpu import compiled

FORMS = {
    "dense": np.asarray,
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "csr, float64": lambda x: sparse.csr_array(x.astype(np.float64)),
}


def expression(rng: np.random.Generator, n: int, n_genes: int) -> Any:
    """Logs of counts: some genes in all cells, some in half of them, most in few."""
    rates = rng.gamma(0.3, 3, n_genes) * rng.lognormal(0, 0.3, (n, 1))
    return np.log1p(rng.poisson(rates)).astype(np.float32)


def expected(x: Any, codes: Any, n_groups: int, reference: int | None) -> Any:
    """Return the means in float64; NaN for the reference and for empty groups."""
    x, means = np.asarray(x, np.float64), np.full(n_groups, np.nan)
    for g in range(n_groups):
        own = x[codes == g]
        if len(own) and g != reference:
            means[g] = cdist(own, own if reference is None else x[codes == reference]).mean()
    return means


def check(engine: Engine, x: Any, codes: Any, n_groups: int, form: Callable[[Any], Any] = np.asarray) -> None:
    for reference in (None, 1):
        found = engine.mean_distances(form(x), codes, n_groups, reference)
        np.testing.assert_allclose(found, expected(x, codes, n_groups, reference), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_mean_distances_of_every_format_equal_those_of_scipy(
    engine: Engine, form: str, rng: np.random.Generator
) -> None:
    x, codes = expression(rng, 300, 90), rng.integers(-1, 5, 300)
    codes[codes == 4] = 0  # an empty group
    check(engine, x, codes, 5, FORMS[form])


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 47, 48, 49, 193])
def test_mean_distances_at_the_edges_of_panels_equal_those_of_scipy(
    engine: Engine, n: int, rng: np.random.Generator
) -> None:
    x, codes = expression(rng, 2 * n + 5, 33), np.repeat([0, 1, 2], [n, n, 5])
    check(engine, x, codes, 3, sparse.csr_array)


@pytest.mark.parametrize("tiles", [*compiled.available(), compiled.NUMPY])
def test_mean_distances_of_several_tasks_equal_those_of_scipy(
    tiles: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, tiles)
    monkeypatch.setattr("gpubench.engines.common.mean_distances.TILE", 37)
    monkeypatch.setattr("gpubench.engines.common.mean_distances.VALUES_PER_BATCH", 200 * 40)
    monkeypatch.setattr("gpubench.engines.cpu.mean_distances.ROWS_PER_TASK", 64)
    monkeypatch.setattr("gpubench.engines.cpu.mean_distances.COLUMNS_PER_TASK", 48)
    x, codes = expression(rng, 500, 40), rng.integers(0, 4, 500)
    check(gb.get_engine("cpu", threads=2), x, codes, 4, sparse.csr_array)


def test_repeated_and_nearly_equal_cells_keep_their_digits(engine: Engine, rng: np.random.Generator) -> None:
    x, codes = expression(rng, 240, 60), np.repeat([0, 1, 2, 3], 60)
    x[0:60] = x[0]  # one cell, repeated
    x[60:120] = x[60:65].repeat(12, axis=0)  # repeated cells in the reference
    x[120:180] = x[120] * (1 + 1e-5 * rng.random((60, 60)))  # a collapsed group
    x[180:200] = x[60:80]  # copies of cells of the reference
    check(engine, x, codes, 4, sparse.csr_array)
    assert engine.mean_distances(x, codes, 4)[0] == 0


def test_rare_genes_far_from_zero_keep_their_digits(engine: Engine, rng: np.random.Generator) -> None:
    """Only one group expresses genes that the reference lacks, at large and almost constant values."""
    x, codes = expression(rng, 200, 50), np.repeat([0, 1], 100)
    x[codes == 1, :20] = 0
    x[codes == 0, :20] = 9 + 1e-3 * rng.random((100, 20))
    check(engine, x, codes, 2, sparse.csr_array)


def test_cells_of_zeros_are_at_distance_0(engine: Engine) -> None:
    x = sparse.csr_array((6, 4), dtype=np.float32)
    codes = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(engine.mean_distances(x, codes, 2), [0, 0])
    np.testing.assert_array_equal(engine.mean_distances(x, codes, 2, 1), [0, np.nan])


def test_bits_do_not_depend_on_threads(rng: np.random.Generator) -> None:
    x, codes = sparse.csr_array(expression(rng, 900, 70)), rng.integers(0, 4, 900)
    engines = [gb.get_engine("cpu", threads=n) for n in (1, 2, 3)]
    for reference in (None, 2):
        bits = {engine.mean_distances(x, codes, 4, reference).tobytes() for engine in engines}
        assert len(bits) == 1


@pytest.mark.parametrize(
    ("codes", "reference", "fault"),
    [(np.zeros(3, int), None, "one for each of 4 cells"), (np.zeros(4, int), 1, "not a group with cells")],
)
def test_wrong_groups_are_refused(engine: Engine, codes: Any, reference: int | None, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        engine.mean_distances(np.ones((4, 2), np.float32), codes, 2, reference)
