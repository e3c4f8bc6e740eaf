"""Small data sets of perturbations, real and predicted, for tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gpubench.metrics.perturbation import PerturbationScores, PerturbedCells, perturbed_cells

GENES = [f"G{i:02d}" for i in range(60)]
CONTROL = "control"
PERTURBATIONS = [*GENES[3:40:4], "drug A", "drug B"]


@dataclass(frozen=True)
class Sides:
    """Counts and labels of both sides."""

    real: NDArray[np.float64]
    real_labels: NDArray[Any]
    predicted: NDArray[np.float64]
    predicted_labels: NDArray[Any]

    def cells(self, *, log: bool = False, sparse: bool = True, dtype: Any = np.float64) -> list[PerturbedCells]:
        """Real and predicted cells, as counts or log1p of counts per 10,000."""
        out = []
        for x, labels in ((self.real, self.real_labels), (self.predicted, self.predicted_labels)):
            values = (log_values(x) if log else x).astype(dtype)
            out.append(perturbed_cells(csr_array(values) if sparse else values, labels, GENES))
        return out


def log_values(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def make_sides(seed: int = 0, n: int = 60, n_control: int = 130) -> Sides:
    """Twelve perturbations of different strength; on purpose:

    - "drug B" has no effect in the real data, the first has none in the prediction, the second is reversed
    - one has 30 cells, one gene is never expressed, one only under one perturbation, one rarely
    """
    random = np.random.default_rng(seed)
    base = random.normal(0.3, 0.9, len(GENES))
    base[[44, 45, 46]] = -30, -30, -5
    effects = {p: random.normal(0, 0.9, len(GENES)) * (random.random(len(GENES)) < 0.1 + 0.07 * i)
               for i, p in enumerate(PERTURBATIONS)}  # fmt: skip
    effects["drug B"] = np.zeros(len(GENES))
    effects[PERTURBATIONS[3]][45] = 30.5
    for p in PERTURBATIONS[:-2]:
        effects[p][GENES.index(p)] = -2
    guesses = {p: 0.6 * e + random.normal(0, 0.4, len(GENES)) * (random.random(len(GENES)) < 0.4)
               for p, e in effects.items()}  # fmt: skip
    guesses[PERTURBATIONS[0]] = np.zeros(len(GENES))
    guesses[PERTURBATIONS[1]] = -effects[PERTURBATIONS[1]]
    for guess in guesses.values():
        guess[[44, 45]] = 0
    guesses[PERTURBATIONS[3]][45] = 30.5
    sides = []
    for which, size in ((effects, 1.0), (guesses, 1.2)):
        blocks, labels = [], []
        for p, effect in {CONTROL: np.zeros(len(GENES)), **which}.items():
            m = n_control if p == CONTROL else 30 if p == PERTURBATIONS[5] else int(n * size) + len(labels) % 7
            mean = np.exp(base + effect) * random.lognormal(0, 0.3, (m, 1))
            blocks.append(random.poisson(mean * random.gamma(2.5, 0.4, mean.shape)).astype(float))
            labels += [p] * m
        order = random.permutation(len(labels))
        sides += [np.concatenate(blocks)[order], np.array(labels)[order]]
    return Sides(*sides)


Table = Mapping[str, Mapping[str, Any]]
"""Perturbation -> metric -> value, "nan" or None where there is no row."""


def largest_difference(want: Table, got: PerturbationScores) -> float:
    """Largest difference of all values; infinite where one side is undefined and the other is not."""
    largest = 0.0
    for metric, values in got.values.items():
        for name, value, reason in zip(got.perturbations, values.values, values.reasons, strict=True):
            theirs = want.get(name, {}).get(metric)
            if theirs is None:
                same = not values.rows or bool(reason and reason.no_row)
                largest = max(largest, 0.0 if same else math.inf)
            elif math.isnan(float(theirs)) or math.isnan(value):
                largest = max(largest, 0.0 if math.isnan(float(theirs)) and math.isnan(value) else math.inf)
            else:
                largest = max(largest, abs(float(theirs) - value))
    return largest


def assert_means(want: Mapping[str, Any], got: Mapping[str, float], tolerance: float) -> None:
    for metric, value in want.items():
        if value is not None and metric in got:
            assert got[metric] == pytest.approx(float(value), abs=tolerance, nan_ok=True), metric
