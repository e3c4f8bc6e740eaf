"""Exponents: exact powers are found, standard errors are those of the linear model and cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from gpubench.profiling.profile import Exponent, ProfiledStage, Run, fit_powers, fit_scaling

SIZES = [(n, d) for n in (1000, 3000, 10_000, 30_000) for d in (20, 100)]


def test_fit_powers_exact_data_finds_the_exponents() -> None:
    by_cells, by_dims = fit_powers([(n, d, 3e-9 * n**1.7 * d**0.4) for n, d in SIZES])
    assert (by_cells.value, by_dims.value) == pytest.approx((1.7, 0.4))
    assert max(by_cells.stderr, by_dims.stderr) < 1e-9


def test_fit_powers_noise_gives_standard_errors_of_the_linear_model() -> None:
    rng = np.random.default_rng(0)
    y = np.exp(rng.normal(0, 0.3, len(SIZES))) * [n**1.5 for n, _ in SIZES]
    design = np.array([[1, np.log(n), np.log(d)] for n, d in SIZES])
    inverse = np.linalg.inv(design.T @ design)
    slopes = inverse @ design.T @ np.log(y)
    residuals = np.log(y) - design @ slopes
    errors = np.sqrt(residuals @ residuals / (len(y) - 3) * np.diag(inverse))
    fitted = fit_powers([(*size, seconds) for size, seconds in zip(SIZES, y, strict=True)])
    assert [(one.value, one.stderr) for one in fitted] == [
        pytest.approx(pair) for pair in zip(slopes[1:], errors[1:], strict=True)
    ]


def test_fit_powers_standard_errors_cover_the_true_exponent() -> None:
    rng = np.random.default_rng(1)
    true, n_within = 1.3, 0
    for _ in range(400):
        by_cells, _ = fit_powers([(n, d, n**true * np.exp(rng.normal(0, 0.2))) for n, d in SIZES])
        n_within += abs(by_cells.value - true) <= 2.571 * by_cells.stderr  # Student's t with 5 degrees of freedom
    assert 0.92 <= n_within / 400 <= 0.98


def test_fit_powers_constant_size_has_no_exponent() -> None:
    assert fit_powers([]) == (None, None)
    assert fit_powers([(1000, 50, 1.0)]) == (None, None)
    by_cells, by_dims = fit_powers([(1000, 50, 1.0), (10_000, 50, 100.0)])
    assert by_cells == Exponent(pytest.approx(2.0), None), "two points lie on any line"
    assert by_dims is None
    assert fit_powers([(1000, 10, 1.0), (10_000, 100, 10.0)]) == (None, None), "n and d vary together only"


def run(n: int, seconds: float, peak_bytes: int | None = None, dims: int = 50) -> Run:
    return Run(
        n, dims, 1.0, 100_000_000, (ProfiledStage("whole run", seconds, 0, 0, 0, peak_bytes, seconds, innermost=True),)
    )


def test_fit_scaling_short_stages_and_base_memory_are_left_out() -> None:
    runs = [run(100, 0.049, 100_000_001), run(1000, 1.0, 200_000_000), run(10_000, 10.0, 1_100_000_000)]
    assert fit_scaling(runs, "x").seconds_by_cells is None
    growth = fit_scaling(runs, "whole run")
    assert growth.seconds_by_cells.value == pytest.approx(1.0)
    assert growth.memory_by_cells.value == pytest.approx(1.0), "of 100 and 1,000 MB beyond the 100 MB before"


def test_fit_scaling_narrow_span_has_no_exponent() -> None:
    assert fit_scaling([run(10_000, 1.0), run(29_000, 2.0)], "whole run").seconds_by_cells is None
    assert fit_scaling([run(10_000, 1.0), run(30_000, 3.0)], "whole run").seconds_by_cells.value == pytest.approx(1.0)
    growth = fit_scaling([run(n, 1e-8 * n**2 * d, dims=d) for n in (10_000, 90_000) for d in (50, 60)], "whole run")
    assert growth.seconds_by_cells.value == pytest.approx(2.0), "the dimensions are taken into account all the same"
    assert growth.seconds_by_dims is None
