"""Cells of results, and rows of tables of donors, are matched by the names of the cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.comparison.compare import find_donors
from gpubench.core.errors import InputError

N = 90
RNG = np.random.default_rng(4)
NAMES = np.array([f"c{i}" for i in RNG.permutation(N)], object)
LABEL = np.array(["a", "b", "c"], object)[np.arange(N) % 3]
DONOR = pd.Series(RNG.choice(["d1", "d2", "d3", "d4"], N), index=NAMES, name="donor")
X = RNG.normal(size=(N, 3)).astype(np.float32) + (LABEL == "a")[:, None]


def score(rows: Any = slice(None), *, noise: float = 0.0) -> gb.Result:
    x = X + noise * np.random.default_rng(1).normal(size=X.shape)
    frame = pd.DataFrame(x, index=NAMES)
    return gb.score(
        {"X": frame.iloc[rows]}, label=pd.Series(LABEL, NAMES), tasks=["embedding"], engine="cpu", align="inner"
    )


def test_compare_results_in_another_order_pairs_the_same_cells() -> None:
    first, same = score(), score(noise=0.5)
    moved = score(RNG.permutation(N), noise=0.5)
    compared, expected = (gb.compare([first, other], resamples=200) for other in (moved, same))
    assert compared.rows[0].differences[1] is not None
    assert compared.rows[0].differences[1].interval == pytest.approx(expected.rows[0].differences[1].interval, rel=1e-4)
    assert any("rows were moved to the order of result 1" in line for line in compared.warnings)
    assert not expected.warnings


def test_compare_other_cells_are_not_paired() -> None:
    other = score(noise=0.5)
    other.cells.names = np.array([f"new{i}" for i in range(N)], object)
    (row,) = gb.compare([score(), other], resamples=200).rows
    assert row.differences[1] is not None
    assert row.differences[1].interval is None
    assert "not of the same cells" in row.differences[1].reason


def test_cells_in_another_order_keep_what_belongs_together() -> None:
    cells = score().cells
    order = RNG.permutation(N)
    moved = cells.taken(order)
    assert moved.names is not None
    for i in (0, 7, N - 1):
        at = int(np.flatnonzero(moved.names == NAMES[i])[0])
        assert moved.columns[0].values[at] == cells.columns[0].values[i]
        assert moved.groups["label"].codes[at] == cells.groups["label"].codes[i]
        for name, view in moved.views.items():
            np.testing.assert_array_equal(view.xy[view.rows == at], cells.views[name].xy[cells.views[name].rows == i])


@pytest.mark.parametrize("order", [np.arange(N), RNG.permutation(N)])
def test_donors_of_a_table_are_matched_by_name(order: np.ndarray[Any, Any]) -> None:
    notes: list[str] = []
    donors = find_donors([score()], "donor", DONOR.iloc[order].to_frame(), notes)
    assert [donors.names[code] for code in donors.codes] == DONOR.tolist()
    assert bool(notes) == bool(np.any(np.diff(order) < 0))


def test_donors_of_results_without_names_are_taken_in_order_with_a_note() -> None:
    result = score()
    result = replace(result, cells=replace(result.cells, names=None))
    notes: list[str] = []
    donors = find_donors([result], "donor", DONOR.to_frame(), notes)
    assert [donors.names[code] for code in donors.codes] == DONOR.tolist()
    assert notes == ["cells.parquet has no names of cells: its rows are taken in the order of obs"]


def test_donors_of_other_cells_raise() -> None:
    with pytest.raises(InputError, match=r"obs, with 80 cells, lacks 10 of the 90 cells of cells.parquet"):
        find_donors([score()], "donor", DONOR.iloc[10:].to_frame())


def test_two_donors_warn() -> None:
    table = {"donor": np.where(np.arange(N) % 2, "a", "b")}
    with pytest.warns(gb.GpubenchWarning, match=r"donor='donor' has two donors, too few"):
        find_donors([score()], "donor", table)
