"""Rows of inputs are matched by the names of their cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.core.errors import InputError
from gpubench.data._formats.row_names import names_of_index
from gpubench.data.alignment import NamedRows, align, take_rows
from gpubench.data.matrices import SlicedRows, read_rows

CELLS = ["AAAC-1", "AAAG-1", "AATC-1", "ACCA-1"]


def rows(where: str, names: object = None, n: int | None = None) -> NamedRows:
    return NamedRows(where, n if names is None else len(names), None if names is None else lambda: names)  # type: ignore[arg-type]


def test_align_same_order_changes_nothing() -> None:
    aligned = align([rows("emb.csv", CELLS), rows("obs.csv", np.array(CELLS, "S"))])
    assert aligned.orders == (None, None)
    assert aligned.notes == ()


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(1, 12), st.integers(1, 12))
def test_align_inner_gives_every_cell_its_own_rows(a: list[int], b: list[int], n_a: int, n_b: int) -> None:
    first, second = [[f"c{i}" for i in one[:n]] for one, n in ((a, n_a), (b, n_b))]
    common = [name for name in first if name in second]
    if not common:
        with pytest.raises(InputError):
            align([rows("a", first), rows("b", second)], "inner")
        return
    aligned = align([rows("a", first), rows("b", second)], "inner")
    for names, order in zip((first, second), aligned.orders, strict=True):
        taken = names if order is None else [names[i] for i in order]
        assert taken == common
    assert aligned.names is not None
    assert list(aligned.names) == common


def test_align_unnamed_rows_follow_the_named_ones() -> None:
    aligned = align([rows("emb.npy", n=4), rows("obs.csv", CELLS), rows("b.csv", CELLS[:1:-1])], "inner")
    assert [list(order) for order in aligned.orders if order is not None] == [[2, 3], [2, 3], [1, 0]]
    assert aligned.notes == (
        "emb.npy has no names of cells: its rows are taken in the order of obs.csv",
        "b.csv: 2 of 2 rows were moved to the order of obs.csv, by the names of the cells",
        "2 cells are in all inputs; left out: 2 of obs.csv",
    )


def test_align_unnamed_rows_of_another_number_raise_where_some_are_left_out() -> None:
    with pytest.raises(InputError, match=r"emb.npy has 3 rows without names, but obs.csv has 4 cells, of which 2"):
        align([rows("emb.npy", n=3), rows("obs.csv", CELLS), rows("b.csv", CELLS[:2])], "inner")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (CELLS[1:], "obs, with 3 cells, lacks 1 of the 4 cells of emb ('AAAC-1'); give the same cells, or set `align`"),
        ([*CELLS, "new", "other"], "obs, with 6 cells, has 2 that emb lacks ('new', 'other'); give the same cells"),
        ([*CELLS[1:], "new"], "lacks 1 of the 4 cells of emb ('AAAC-1') and has 1 that emb lacks ('new')"),
        ([f"s1_{name}" for name in CELLS], "obs has 's1_' before the names; use the same names in both"),
        ([name[:-2] for name in CELLS], "emb has '-1' after the names; use the same names in both"),
        (["7", "3", "5", "1"], "if both have the same order, give the values without names, such as .to_numpy()"),
        (["w", "x", "y", "z"], "('w', 'x', 'y', ...); use the same names in both"),
        ([CELLS[1], *CELLS[1:]], "obs has 1 names of cells more than once ('AAAG-1')"),
    ],
)
def test_align_other_names_raise_with_counts_and_examples(names: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        align([rows("emb", CELLS), rows("obs", names)])
    assert message in str(error.value)


def test_align_equal_duplicates_in_one_order_are_accepted() -> None:
    assert align([rows("emb", ["a", "a", "b"]), rows("obs", ["a", "a", "b"])]).orders == (None, None)


def test_align_row_numbers_name_rows_only_beside_numbers() -> None:
    numbers = ["0", "1", "2", "3"]
    assert align([rows("adata", numbers), rows("obs", CELLS)]).orders == (None, None)
    order = align([rows("adata", numbers), rows("obs", [2, 0, 3, 1])]).orders[1]
    assert order is not None
    assert order.tolist() == [1, 3, 0, 2]


def test_align_genes_are_called_genes() -> None:
    with pytest.raises(InputError, match=r"pred, with 2 genes, lacks 1 of the 2 genes of real \('b'\)"):
        align([rows("real", ["a", "b"]), rows("pred", ["a", "c"])], unit="genes")


def test_names_of_index_default_has_none() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
    assert names_of_index(frame.index) is None
    assert list(names_of_index(frame.iloc[::-1].index)) == [2, 1, 0]
    assert list(names_of_index(frame.set_index(pd.Index(["a", "b", "c"])).index)) == ["a", "b", "c"]


@pytest.mark.parametrize("order", [[0, 3, 4, 9], [9, 1, 4, 0, 2]])
@pytest.mark.parametrize("is_stored", [False, True])
def test_take_rows_reads_blocks_of_them(order: list[int], is_stored: bool) -> None:
    x = np.arange(30.0).reshape(10, 3)
    taken = take_rows(SlicedRows(x, "x") if is_stored else x, np.array(order))
    assert taken.shape == (len(order), 3)
    blocks = [read_rows(taken, start, min(start + 2, len(order))) for start in range(0, len(order), 2)]
    np.testing.assert_array_equal(np.concatenate(blocks), x[order])
    assert read_rows(taken, 1, 1).shape == (0, 3)
