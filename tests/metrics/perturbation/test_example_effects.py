"""Effects of a few perturbations, as examples for a figure."""

from __future__ import annotations

import numpy as np
import pytest

from gpubench.metrics.perturbation.effects import MAX_EXAMPLE_GENES, EffectPair, example_effects


def pair(n: int, n_genes: int = 4000) -> EffectPair:
    """Perturbation i is predicted with noise that grows with i; the last one is predicted to have no effect."""
    random = np.random.default_rng(0)
    real = random.normal(0, 1, (n, n_genes))
    predicted = real + np.arange(n)[:, None] * random.normal(0, 1, real.shape)
    predicted[-1] = 0
    zero, names = np.zeros(n_genes), tuple(f"P{i}" for i in range(n))
    return EffectPair(names, real, predicted, zero, zero, np.full(n, -1))


def test_best_median_and_worst_are_chosen_by_the_correlation() -> None:
    given = pair(8)
    genes = [f"G{i}" for i in range(4000)]
    found = example_effects(given, genes)
    assert [(example["perturbation"], example["rank"]) for example in found] == [
        ("P0", "best"),
        ("P3", "median"),
        ("P6", "worst"),
    ], "the last one has no correlation"
    for example in found:
        p = given.perturbations.index(example["perturbation"])
        expected = np.corrcoef(given.real[p], given.predicted[p])[0, 1]
        assert example["correlation"] == pytest.approx(expected)
        size = np.maximum(np.abs(given.real[p]), np.abs(given.predicted[p]))
        kept = np.sort(np.argsort(-size)[:MAX_EXAMPLE_GENES])
        assert example["genes"] == tuple(genes[g] for g in kept)
        np.testing.assert_allclose(example["real"], given.real[p][kept], rtol=5e-3)
        np.testing.assert_allclose(example["predicted"], given.predicted[p][kept], rtol=5e-3)


@pytest.mark.parametrize(
    ("n", "ranks"), [(1, []), (2, ["best"]), (3, ["best", "worst"]), (4, ["best", "median", "worst"])]
)
def test_few_perturbations_have_fewer_examples(n: int, ranks: list[str]) -> None:
    assert [example["rank"] for example in example_effects(pair(n, 5), "abcde")] == ranks
