"""Columns of every library become the same codes; missing values and wrong lengths are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.core.types import Labels
from gpubench.data import CategoricalColumn, as_numeric, encode_labels
from gpubench.data._formats.row_names import as_array

TEXT = ["B cell", "T cell", "B cell", "NK"]
CODES = [0, 2, 0, 1]
NAMES = ("B cell", "NK", "T cell")

COLUMNS_OF_TEXT: dict[str, Any] = {
    "list": TEXT,
    "tuple": tuple(TEXT),
    "text": np.array(TEXT),
    "object": np.array(TEXT, object),
    "bytes": np.array(TEXT, "S"),
    "list of bytes": [text.encode() for text in TEXT],
    "series": pd.Series(TEXT, index=[5, 6, 5, 7]),
    "series with a row named codes": pd.Series(TEXT, index=["codes", "array", "cat", "values"]),
    "index": pd.Index(TEXT),
    "string extension": pd.Series(TEXT, dtype="string"),
    "arrow extension": pd.Series(TEXT, dtype=pd.ArrowDtype(pa.string())),
    "string array": pd.array(TEXT, dtype="string"),
    "categorical": pd.Categorical(TEXT),
    "ordered, with unused categories": pd.Categorical(TEXT, ["T cell", "none", "NK", "B cell", "all"], ordered=True),
    "categorical series": pd.Series(TEXT, dtype="category"),
    "categorical index": pd.CategoricalIndex(TEXT),
    "arrow": pa.array(TEXT),
    "large arrow": pa.array(TEXT, pa.large_string()),
    "arrow dictionary": pa.array(TEXT).dictionary_encode(),
    "arrow chunks": pa.chunked_array([TEXT[:1], TEXT[1:]]),
    "arrow chunks of dictionaries": pa.chunked_array([pa.array(TEXT[i : i + 2]).dictionary_encode() for i in (0, 2)]),
    "codes": CategoricalColumn(np.array([3, 0, 3, 1], np.int8), ["T cell", "NK", "unused", "B cell"]),
    "unsigned codes": CategoricalColumn(np.array([1, 0, 1, 2], np.uint64), np.array(["T cell", "B cell", "NK"])),
}


@pytest.mark.parametrize("kind", COLUMNS_OF_TEXT)
def test_text_columns_of_every_library_are_encoded(kind):
    labels = encode_labels(COLUMNS_OF_TEXT[kind], "cell_type", 4)
    assert labels.codes.tolist() == CODES
    assert labels.codes.dtype == np.int32
    assert (labels.names, labels.key) == (NAMES, "cell_type")


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", "u8"])
@pytest.mark.parametrize("wrap", [np.asarray, pd.Series, pa.array, list])
def test_integers_are_ordered_as_text(dtype, wrap):
    labels = encode_labels(wrap(np.array([10, 9, 100, 9], dtype)), "label")
    assert (labels.codes.tolist(), labels.names) == ([0, 2, 1, 2], ("10", "100", "9"))


def test_integers_of_other_byte_order_are_encoded():
    assert encode_labels(np.array([10, 9, 100, 9], ">i2"), "label").codes.tolist() == [0, 2, 1, 2]


def test_integers_of_a_wide_range_are_encoded():
    labels = encode_labels(np.array([-(2**62), 2**62, 0, 0]), "label")
    assert labels.names == ("-4611686018427387904", "0", "4611686018427387904")
    assert labels.codes.tolist() == [0, 2, 1, 1]
    assert encode_labels(np.array([2**64 - 1, 0], np.uint64), "label").names == ("0", "18446744073709551615")
    assert encode_labels(np.array([-128, 127], np.int8), "label").names == ("-128", "127")


def test_booleans_and_floats_are_encoded_as_text():
    assert encode_labels(np.array([True, False, True]), "label").names == ("False", "True")
    assert encode_labels(np.array([True, True]), "label").names == ("True",)
    assert encode_labels([1.0, 2.5, 1.0], "label").names == ("1", "2.5")
    assert encode_labels(np.array([0.1], "f4"), "label").names == ("0.1",)
    assert encode_labels(pd.array([3, 1, 3], dtype="Int8"), "label").names == ("1", "3")
    assert encode_labels(pd.array([True, False], dtype="boolean"), "label").names == ("False", "True")
    assert encode_labels(pd.Categorical([3, 1, 3]), "label").codes.tolist() == [1, 0, 1]
    assert encode_labels(np.array(["2020-01-02", "2019-12-31"], "M8[D]"), "label").codes.tolist() == [1, 0]
    assert encode_labels(pd.Series(["a", "b"]).str.upper(), "label").names == ("A", "B")
    if hasattr(np.dtypes, "StringDType"):
        assert encode_labels(np.array(TEXT, np.dtypes.StringDType()), "label").codes.tolist() == CODES


def test_values_with_the_same_text_are_one_class():
    labels = encode_labels(np.array([1, "1", 1.0, "1.0", b"1"], object), "label")
    assert (labels.codes.tolist(), labels.names) == ([0, 0, 0, 1, 0], ("1", "1.0"))
    assert encode_labels([1, True, 1.0], "label").names == ("1", "True")
    labels = encode_labels(pd.Categorical([1, "1", 2], [1, "1", 2]), "label")
    assert (labels.codes.tolist(), labels.names) == ([0, 0, 1], ("1", "2"))


def test_text_that_looks_missing_is_a_label():
    assert encode_labels(["nan", "None", "NaT", "<NA>", ""], "label").n_classes == 5


def test_torch_tensors_are_encoded():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert encode_labels(torch.tensor([10, 9, 10]), "label").codes.tolist() == [0, 1, 0]
    assert as_numeric(torch.tensor([0.5, 1.0], requires_grad=True), "time").tolist() == [0.5, 1.0]


def test_labels_pass_through():
    labels = encode_labels(TEXT, "label")
    assert encode_labels(labels, "batch", 4) is labels
    with pytest.raises(InputError, match=r"^batch has 4 values but the embedding has 5 rows"):
        encode_labels(labels, "batch", 5)


MISSING: dict[str, Any] = {
    "None": ["a", None, "b", None, "a"],
    "NaN in a list": ["a", np.nan, "b", float("nan"), "a"],
    "object": np.array(["a", None, "b", np.nan, "a"], object),
    "pd.NA": pd.array(["a", pd.NA, "b", None, "a"], dtype="string"),
    "NaT": pd.Series(["a", pd.NaT, "b", pd.NaT, "a"], dtype=object),
    "categorical": pd.Categorical(["a", None, "b", None, "a"]),
    "codes": CategoricalColumn(np.array([0, -1, 1, -1, 0], np.int8), ["a", "b"]),
    "a category without a value": CategoricalColumn(np.array([0, 2, 1, 2, 0]), ["a", "b", None]),
    "float": np.array([1.0, np.nan, 2, np.nan, 1]),
    "nullable integer": pd.array([1, None, 2, None, 1], dtype="Int64"),
    "nullable boolean": pd.array([True, None, False, None, True], dtype="boolean"),
    "dates": np.array(["2020", "NaT", "2021", "NaT", "2020"], "M8[Y]"),
    "arrow": pa.array(["a", None, "b", None, "a"]),
    "arrow integers": pa.chunked_array([[1, None, 2], [None, 1]]),
    "arrow dictionary": pa.array(["a", None, "b", None, "a"]).dictionary_encode(),
    "pandas arrow": pd.Series(["a", None, "b", None, "a"], dtype=pd.ArrowDtype(pa.string())),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_counted_and_named(kind):
    with pytest.raises(InputError) as caught:
        encode_labels(MISSING[kind], "cell_type", 5)
    assert str(caught.value) == (
        "cell_type: 2 of 5 rows have no value (first: 1, 3); leave these cells out or give them a name"
    )


def test_unused_category_without_a_value_is_accepted():
    assert encode_labels(CategoricalColumn(np.array([0, 1]), ["a", "b", None]), "label").names == ("a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b"], r"^label has 2 values but the embedding has 3 rows; give one value per cell, in the same order$"),
        ([], r"^label has 0 values but the embedding has 3 rows"),
        (np.zeros((3, 1), int), r"^label must have one value per cell but has shape \(3, 1\)"),
        ([["a"], ["b"], ["c"]], r"^label must have one value per cell but has shape \(3, 1\)"),
        ([["a"], ["b", "c"], ["d"]], r"^label cannot be made an array"),
        (pd.DataFrame({"a": [1, 2, 3]}), r"^label is a DataFrame, not one value per cell; give one column"),
        ("cell_type", r"^label is of type str, not an array"),
        (5, r"^label is of type int, not an array"),
        (np.array([1j, 2, 3]), r"^label has dtype complex128, whose values cannot be labels"),
        (np.zeros(3, [("a", int)]), r"^label has dtype .* cannot be labels"),
        (CategoricalColumn(np.array([0, 1, 7]), ["a", "b"]), r"^label has code 7 but 2 categories; it is damaged"),
    ],
)
def test_invalid_columns_are_refused_by_name(values, message):
    with pytest.raises(InputError, match=message) as caught:
        encode_labels(values, "label", 3)
    assert "\n" not in str(caught.value)


def test_empty_column_is_refused_without_n():
    with pytest.raises(InputError, match=r"^label has no values"):
        encode_labels(np.array([], str), "label")
    with pytest.raises(InputError, match=r"^time has no values"):
        as_numeric([], "time")


VALUES = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False), st.binary(max_size=3))


@given(st.lists(st.text(), min_size=1))
def test_text_is_encoded_as_by_np_unique(values):
    labels = encode_labels(values, "label")
    names, codes = np.unique(np.array(values, object), return_inverse=True)
    assert labels.names == tuple(names)
    np.testing.assert_array_equal(labels.codes, codes)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(0, 62))
def test_integers_are_encoded_as_their_text(values, shift):
    array = np.array(values, np.int64) >> shift
    assume(not np.isin(array, [-(2**31), -(2**63)]).any())  # missing values of R
    expected = encode_labels([str(value) for value in array], "label")
    labels = encode_labels(array, "label")
    assert labels.names == expected.names
    np.testing.assert_array_equal(labels.codes, expected.codes)


def _text(value: object) -> str:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
    return str(int(value) if is_whole else value)


@given(st.lists(VALUES, min_size=1))
def test_mixed_values_keep_their_text(values):
    labels = encode_labels(values, "label")
    texts = [v.decode(errors="backslashreplace") if isinstance(v, bytes) else _text(v) for v in values]
    assert [labels.names[code] for code in labels.codes] == texts
    assert list(labels.names) == sorted(set(texts))


@given(st.lists(st.integers(0, 5), min_size=1), st.permutations(["1", "b", "a", "10", "B", "é"]))
def test_categories_and_their_order_do_not_matter(codes, categories):
    labels = encode_labels(CategoricalColumn(np.array(codes, np.int8), categories), "label")
    expected = encode_labels([categories[code] for code in codes], "label")
    assert labels.names == expected.names
    np.testing.assert_array_equal(labels.codes, expected.codes)


def test_several_blocks_are_encoded_as_one(monkeypatch, rng):
    monkeypatch.setattr("gpubench.data.columns._BLOCK_ROWS", 7)
    values = rng.choice(["a", "b", "c", 5, b"d"], size=100).astype(object)
    labels = encode_labels(values, "label")
    assert [labels.names[code] for code in labels.codes] == [
        v.decode() if isinstance(v, bytes) else str(v) for v in values
    ]


NUMBERS: dict[str, Any] = {
    "integers": np.array([3, 12, 3], np.uint8),
    "floats": [3.0, 12.0, 3.0],
    "text": ["3", " 12.0", "3e0"],
    "bytes": np.array([b"3", b"12", b"3"]),
    "categorical": pd.Categorical(["3", "12", "3"], ["12", "unused", "3"]),
    "numeric categories": pd.Categorical([3, 12, 3]),
    "mixed": np.array([3, "12", 3.0], object),
    "nullable": pd.array([3, 12, 3], dtype="Int16"),
    "arrow": pa.array([3, 12, 3]),
    "arrow text": pa.chunked_array([["3"], ["12", "3"]]),
    "labels": Labels(np.array([1, 0, 1], np.int32), ("12", "3")),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numeric_columns_of_every_library_are_read(kind):
    numbers = as_numeric(NUMBERS[kind], "time", 3)
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [3, 12, 3]


def test_booleans_are_numbers():
    assert as_numeric(np.array([True, False]), "time").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["E6.5", "7", "mixed", "E6.5"],
            r"^time is not numeric: 2 of its 3 distinct values are not numbers \('E6.5', 'mixed'\); give a numeric",
        ),
        (
            [1.0, np.nan, np.inf, 2.0],
            r"^time: 2 of 4 rows hold no finite number \(first: 1, 2\); leave these cells out",
        ),
        (["1", "nan", "2", "-inf"], r"^time: 2 of 4 rows hold no finite number \(first: 1, 3\)"),
        (["1", None, "2", "3"], r"^time: 1 of 4 rows have no value \(first: 1\)"),
        (pd.array([1, None, 2, 3], dtype="Int64"), r"^time: 1 of 4 rows hold no finite number \(first: 1\)"),
        (pa.array([1, None, 2, 3]), r"^time: 1 of 4 rows hold no finite number \(first: 1\)"),
        (np.array(["2020"] * 4, "M8[Y]"), r"^time holds dates or durations; give a numeric column, such as days"),
        (pd.to_datetime(["2020"] * 4), r"^time holds dates or durations"),
        (["8_10", "1", "2", "10_1"], r"^time is not numeric: 2 of its 4 distinct values are not numbers"),
        (np.ones(4, complex), r"^time has dtype complex128"),
        ([1, 2], r"^time has 2 values but the embedding has 4 rows"),
        (np.ones((4, 2)), r"^time must have one value per cell but has shape \(4, 2\)"),
    ],
)
def test_non_numeric_columns_are_refused_by_name(values, message):
    with pytest.raises(InputError, match=message):
        as_numeric(values, "time", 4)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_as_text_are_parsed(values):
    np.testing.assert_array_equal(as_numeric([repr(value) for value in values], "time"), values)


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("X_pcs", ["X_pca", "X_umap"], " (did you mean 'X_pca'?)"),
        ("x_PCA", ["X_pca", "spatial"], " (did you mean 'X_pca'?)"),
        ("celltype", ["batch", "cell_type", "Cell_Type"], " (did you mean 'cell_type', 'Cell_Type'?)"),
        ("zzz", ["X_pca", "X_umap"], " (there are: 'X_pca', 'X_umap')"),
        ("zzz", [], " (there are none)"),
    ],
)
def test_close_matches_are_suggested(word, known, expected):
    assert close_matches(word, known) == expected


def test_long_lists_of_names_are_shortened():
    assert quoted([str(i) for i in range(1234)]).endswith("'9' and 1,224 more")
    assert quoted([str(i) for i in range(11)]).endswith("'9' and 1 more")
    assert quoted([str(i) for i in range(10)]).endswith("'8', '9'")


def test_cells_without_a_category_have_no_value_in_an_array() -> None:
    column = CategoricalColumn(np.array([0, -1, 1]), ["B", "T"])
    assert as_array(column).tolist() == ["B", None, "T"]
