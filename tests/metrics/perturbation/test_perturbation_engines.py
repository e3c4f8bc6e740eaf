"""Metrics of predicted perturbations on every engine: the bits of the CPU engine on Dask, its values on CUDA."""

from __future__ import annotations

from functools import cache

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from perturbation_cases import CONTROL, make_sides

import gpubench as gb
from gpubench.engines.base import Engine
from gpubench.metrics.perturbation import PROFILES, PerturbationScores, evaluate


@cache
def on_the_cpu(profile: str) -> PerturbationScores:
    return computed(profile, gb.get_engine("cpu", threads=1))


def computed(profile: str, engine: Engine) -> PerturbationScores:
    real, predicted = make_sides(n=20, n_control=50).cells(log=profile == "cell_eval")
    metrics = [metric for metric in PROFILES[profile] if metric != "clustering_agreement"]  # minutes on the emulation
    return evaluate(real, predicted, control=CONTROL, metrics=metrics, engine=engine)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["cell_eval", "full", "vcc2026"])
def test_values_are_those_of_the_cpu(engine: Engine, profile: str) -> None:
    expected, found = on_the_cpu(profile), computed(profile, engine)
    assert found.values.keys() == expected.values.keys()
    for metric, values in expected.values.items():
        if engine.name == "dask":
            assert_array_equal(found.values[metric].values, values.values, err_msg=metric)
        else:
            assert_allclose(found.values[metric].values, values.values, rtol=1e-6, atol=1e-9, err_msg=metric)
        assert found.values[metric].reasons == values.reasons
