"""Cells that are read in parts are scored as cells in memory are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from perturbation_cases import CONTROL, GENES, PERTURBATIONS, make_sides

from gpubench.core.errors import InputError
from gpubench.metrics.perturbation import (
    PROFILES,
    CellEval2Settings,
    PerturbationScores,
    PerturbedCells,
    StreamedCells,
    ceiling,
    control_baseline,
    dispersed_mean_baseline,
    evaluate,
    mean_baseline,
    prepare,
    replicates,
)


def streamed(cells: PerturbedCells, cells_per_part: int = 150) -> tuple[StreamedCells, list[int]]:
    """The same cells, and how many were read at a time."""
    held: list[int] = []

    def read(names: Sequence[str]) -> PerturbedCells:
        part = cells.select(np.concatenate([cells.rows_of(name) for name in names]))
        held.append(part.n)
        return part

    return StreamedCells(cells.names, cells.n_cells, cells.genes, read, cells_per_part=cells_per_part), held


def assert_same(a: PerturbationScores, b: PerturbationScores) -> None:
    assert a.perturbations == b.perturbations
    for metric, values in a.values.items():
        assert_allclose(b.values[metric].values, values.values, rtol=1e-9, atol=1e-7, err_msg=metric)
        if values.whole is not None:
            assert_allclose(b.values[metric].whole, values.whole, rtol=1e-9, atol=1e-7, err_msg=metric)


@pytest.mark.parametrize(
    ("profile", "log"), [("cell_eval", True), ("cell_eval", False), ("full", False), ("full", True)]
)
def test_streamed_cells_have_the_values_of_cells_in_memory(profile: str, log: bool) -> None:
    real, predicted = make_sides().cells(log=log)
    (a, held), (b, _) = streamed(real), streamed(predicted)
    got = evaluate(a, b, control=CONTROL, profile=profile, engine="cpu")
    assert_same(evaluate(real, predicted, control=CONTROL, profile=profile, engine="cpu"), got)
    assert max(held) <= 150
    assert len(held) > 5


@pytest.mark.parametrize(
    "settings", [CellEval2Settings(fdr_scope="global"), CellEval2Settings(control_source="pred", target_sum=None)]
)
def test_settings_over_the_whole_table_hold_across_parts(settings: CellEval2Settings) -> None:
    real, predicted = make_sides().cells()
    both = [
        evaluate(*sides, control=CONTROL, profile="full", cell_eval2=settings, engine="cpu")
        for sides in ((real, predicted), (streamed(real)[0], streamed(predicted)[0]))
    ]
    assert_same(*both)


@pytest.mark.parametrize("log", [True, False])
def test_baselines_and_replicates_of_streamed_cells_are_the_same(log: bool) -> None:
    real = make_sides().cells(log=log)[0]
    sides = [prepare(cells, control=CONTROL, engine="cpu") for cells in (real, streamed(real)[0])]
    profile = "cell_eval" if log else "vcc2026"
    for baseline in (control_baseline, mean_baseline if log else dispersed_mean_baseline):
        assert_same(*(evaluate(side, baseline(side), profile=profile) for side in sides))
    first, second = (ceiling(side, PROFILES[profile])[1] for side in sides)
    assert_same(first, second)
    a, b = (replicates(side, PROFILES["vcc2026" if not log else "vcc2025"], n_splits=2).means() for side in sides)
    assert a == pytest.approx(b, rel=1e-9, nan_ok=True)


def test_streamed_counts_are_normalised_by_the_median_of_all_cells() -> None:
    real = make_sides().cells()[0]
    assert streamed(real)[0].median_total == real.median_total


def test_genes_of_streamed_cells_are_aligned_or_refused() -> None:
    real, predicted = make_sides().cells(log=True)
    turned = predicted.with_genes(GENES[::-1])
    want = evaluate(real, predicted, control=CONTROL, metrics=["mae"], engine="cpu")
    assert_same(want, evaluate(real, streamed(turned)[0], control=CONTROL, metrics=["mae"], engine="cpu"))
    fewer = PerturbedCells(predicted.x[:, :50], predicted.labels, predicted.genes[:50])
    with pytest.raises(InputError, match="10 of the real data only"):
        evaluate(real, streamed(fewer)[0], control=CONTROL, engine="cpu")
    with pytest.raises(InputError, match="no cell has this label"):
        evaluate(streamed(real)[0], predicted, control="ctrl", engine="cpu")


def test_a_prediction_without_control_cells_can_be_streamed() -> None:
    real, predicted = make_sides().cells()
    alone = predicted.select(np.flatnonzero(predicted.labels.codes != predicted.code(CONTROL)))
    want = evaluate(real, predicted, control=CONTROL, profile="vcc2026", engine="cpu")
    assert_same(want, evaluate(real, streamed(alone)[0], control=CONTROL, profile="vcc2026", engine="cpu"))
    assert alone.names == tuple(PERTURBATIONS)
