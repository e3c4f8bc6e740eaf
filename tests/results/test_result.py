"""Results: files with full precision, tables and look-up of values."""

from __future__ import annotations

import csv
import json
import math
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult, plain
from gpubench.results.result import Result
from gpubench.results.table import to_columns

LR = MetricResult(
    "X_pca", "label_prediction", "mean_fold_accuracy", 0.85, params={"classifier": "lr"}, n=90, seconds=1.5
)
KNN = replace(LR, value=0.8512345678901234, params={"classifier": "knn", "n": 5})
UNDEFINED = MetricResult("X_scvi", "batch_integration", "batch_silhouette", math.nan, note="each label has one batch")
ESTIMATE = MetricResult("X_scvi", "embedding", "silhouette_score", 0.5, stderr=0.01, approximate=True)


def make_result(*rows: MetricResult, **changes: Any) -> Result:
    """Make a result with these rows."""
    content = {"provenance": {"seed": 42}, "timeline": [], "skipped": [], "failures": []} | changes
    return Result(list(rows), **content)


names = st.text(string.printable + "äβ細胞\u2028", min_size=1, max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = finite | st.just(math.nan)
params = st.dictionaries(names, st.booleans() | st.integers(-(2**53), 2**53) | finite | names | st.none(), max_size=3)
metric_results = st.builds(
    MetricResult,
    embedding=names,
    task=names,
    metric=names,
    value=values,
    stderr=st.none() | finite,
    params=params,
    n=st.integers(0, 2**40),
    seconds=st.floats(0, 1e6),
    approximate=st.booleans(),
    note=names,
)


def same_row(a: MetricResult, b: MetricResult) -> bool:
    """Whether rows are equal in every field, with NaN equal to NaN."""
    return (math.isnan(a.value) and math.isnan(b.value) and replace(a, value=0.0) == replace(b, value=0.0)) or a == b


@pytest.mark.slow
@given(rows=st.lists(metric_results, max_size=4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_round_trip_preserves_every_row(rows: list[MetricResult], tmp_path: Path) -> None:
    """Rows read back are equal to the last bit."""
    result = make_result(*rows, skipped=[{"task": "embedding", "reason": "no label"}], interrupted=True)
    result.to_json(tmp_path / "r.json")
    back = Result.from_json(tmp_path / "r.json")
    assert len(back.results) == len(rows)
    assert all(map(same_row, back.results, rows))
    assert back.skipped == result.skipped
    assert back.interrupted


@pytest.mark.slow
@given(rows=st.lists(metric_results, min_size=1, max_size=4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_and_parquet_have_full_precision(rows: list[MetricResult], tmp_path: Path) -> None:
    result = make_result(*rows)
    result.to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["value"] for row in read] == ["" if math.isnan(row.value) else repr(row.value) for row in rows]
    assert [row["note"] for row in read] == [row.note for row in rows]
    result.to_parquet(tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet")
    np.testing.assert_array_equal(table["value"].to_numpy(), [row.value for row in rows])
    assert table["note"].to_pylist() == [row.note for row in rows]
    assert table.column_names == list(result.to_frame().columns)


def test_json_is_strict_and_has_the_documented_layout(tmp_path: Path) -> None:
    make_result(KNN, UNDEFINED, ESTIMATE).to_json(tmp_path / "results.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert content["schema"] == 1
    assert set(content) == {"schema", "provenance", "results", "timeline", "skipped", "failures", "interrupted"}
    assert content["results"][1] == {
        "embedding": "X_scvi",
        "task": "batch_integration",
        "metric": "batch_silhouette",
        "value": None,
        "stderr": None,
        "stderr_df": None,
        "params": {},
        "n": 0,
        "seconds": 0.0,
        "approximate": False,
        "note": "each label has one batch",
    }


def test_numpy_values_are_written_as_plain_values(tmp_path: Path) -> None:
    row = replace(
        ESTIMATE,
        value=np.float32(0.5),
        n=np.int64(7),
        approximate=np.bool_(True),
        params={"k": np.int32(3), "share": np.array([0.5, np.nan]), "where": Path("a")},
    )
    make_result(row, provenance={"seed": np.int64(1)}).to_json(tmp_path / "r.json")
    back = Result.from_json(tmp_path / "r.json")
    assert back.results[0] == replace(ESTIMATE, n=7, params={"k": 3, "share": [0.5, None], "where": "a"})
    assert back.provenance == {"seed": 1}
    frame = make_result(row).to_frame()
    assert frame["k"].tolist() == [3]
    assert frame["share"].tolist() == ["[0.5, null]"]


def test_value_without_json_raises_with_its_type() -> None:
    with pytest.raises(TypeError, match="object has no place in a result"):
        plain({"a": [object()]})


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_value_becomes_undefined_with_the_reason(value: float) -> None:
    (row,) = make_result(replace(LR, value=value, note="2 labels left out")).results
    assert math.isnan(row.value)
    assert row.note == f"2 labels left out; undefined: the value was {value}"


def test_frame_has_a_column_for_each_parameter() -> None:
    frame = make_result(LR, KNN, UNDEFINED).to_frame()
    assert list(frame.columns) == [
        *("embedding", "task", "metric", "value", "stderr", "n", "seconds", "approximate", "note", "stderr_df"),
        *("classifier", "param_n"),
    ]
    assert frame["value"].tolist()[:2] == [LR.value, KNN.value]
    assert math.isnan(frame["value"][2])
    assert frame["classifier"].tolist() == ["lr", "knn", None]
    assert frame["stderr"].dtype == np.float64
    assert frame["n"].tolist() == [90, 90, 0]


def test_a_parameter_of_several_types_is_text_in_tables(tmp_path: Path) -> None:
    rows = [replace(LR, params={"k": value}) for value in (3, "auto", True, None)]
    assert to_columns(rows)["k"] == ["3", "auto", "True", None]
    make_result(*rows).to_parquet(tmp_path / "r.parquet")
    assert pq.read_table(tmp_path / "r.parquet")["k"].to_pylist() == ["3", "auto", "True", None]
    assert to_columns([replace(LR, params={"k": value}) for value in (3, 0.5)])["k"] == [3.0, 0.5]


def test_an_empty_result_can_be_written_and_shown(tmp_path: Path) -> None:
    result = make_result(skipped=[{"task": "embedding", "reason": "it needs label"}])
    for write in (result.to_json, result.to_csv, result.to_parquet):
        write(tmp_path / "r")
    assert pd.read_parquet(tmp_path / "r").shape == (0, 10)
    assert result.to_frame().shape == (0, 10)
    assert "embedding (it needs label)" in str(result)


def test_value_returns_the_matching_row() -> None:
    result = make_result(LR, KNN, ESTIMATE)
    assert result.value("silhouette_score") == 0.5
    assert result.value("mean_fold_accuracy", classifier="knn", embedding="X_pca") == KNN.value


def test_value_without_one_match_raises_with_choices() -> None:
    result = make_result(LR, KNN, replace(LR, embedding="X_scvi"))
    with pytest.raises(InputError, match=r"value\('silhouette'\): no such row.*its metrics are: mean_fold_accuracy"):
        result.value("silhouette")
    with pytest.raises(InputError, match="3 rows match; tell them apart by embedding, classifier"):
        result.value("mean_fold_accuracy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is not a JSON file"),
        ("[1]", "is not a result of gpubench; this version"),
        ('{"schema": 99}', "has schema 99; this version of gpubench reads results.json of schema 1"),
        ('{"schema": 1, "results": []}', "is not a whole result: it has no 'provenance'; pass a results.json"),
        ("\x00\xff", "is not a JSON file"),
    ],
)
def test_from_json_of_another_file_raises_with_its_name(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as error:
        Result.from_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_half_a_character_in_a_name_is_escaped(tmp_path: Path) -> None:
    result = make_result(LR, provenance={"source": "caf\udce9.h5ad"})
    result.to_json(tmp_path / "r.json")
    assert Result.from_json(tmp_path / "r.json").provenance == {"source": "caf\udce9.h5ad"}


def test_an_embedding_of_a_result_is_a_result() -> None:
    result = make_result(LR, KNN, replace(LR, embedding="X_scvi", value=0.1))
    assert len(result) == 3
    assert list(result) == result.results
    assert result["X_pca"].results == [LR, KNN]
    assert result["X_scvi"].value("mean_fold_accuracy") == 0.1
    assert make_result(), "a result without scores is a result"
    with pytest.raises(KeyError, match="there is no embedding 'X_umap'; there are: 'X_pca', 'X_scvi'"):
        result["X_umap"]


def test_an_embedding_and_a_metric_give_a_number() -> None:
    mean = replace(LR, value=0.7, params={"classifier": "MEAN(lr,knn)"})
    estimate = replace(ESTIMATE, embedding="X_pca")
    result = make_result(LR, KNN, mean, estimate, replace(LR, embedding="X_scvi", value=0.1))
    assert result["X_pca", "silhouette_score"] == ESTIMATE.value
    assert result["X_pca", "mean_fold_accuracy"] == 0.7
    assert result["X_scvi", "mean_fold_accuracy"] == 0.1
    with pytest.raises(InputError, match="2 rows match; tell them apart by classifier"):
        make_result(LR, KNN)["X_pca", "mean_fold_accuracy"]
    with pytest.raises(KeyError, match="there is no embedding 'X_umap'"):
        result["X_umap", "silhouette_score"]
    with pytest.raises(InputError, match="no such row"):
        result["X_scvi", "silhouette_score"]


def test_df_is_the_frame() -> None:
    result = make_result(LR, KNN)
    assert result.df.equals(result.to_frame())


def test_html_is_one_table_with_a_column_for_each_embedding() -> None:
    page = make_result(LR, replace(LR, embedding="X_scvi", value=0.1), ESTIMATE)._repr_html_()
    assert page.count("<table>") == 1
    assert '<th scope="col">X_pca</th><th scope="col">X_scvi</th>' in page
    cells = re.findall(r"<td>([^<]*)(?:<span[^>]*><i style=\"width:(\d+)%)?", page)
    assert cells == [("0.8500", "85"), ("0.1000", "10"), ("–", ""), ("~0.5000", "50")]


def test_html_has_each_note_once_and_rows_of_classifiers_folded() -> None:
    mean = replace(LR, value=0.7, params={"classifier": "MEAN(lr,knn)"}, note="2 labels left out")
    page = make_result(*(replace(row, note="2 labels left out") for row in (LR, KNN)), mean)._repr_html_()
    shown, _, folded = page.partition("<details>")
    assert shown.count("2 labels left out") == 1
    assert "mean_fold_accuracy [1]" in shown
    assert "label_prediction, mean of lr, knn" in shown
    assert "2 more rows, such as those of each classifier" in folded
    assert folded.count("<td>") == 3
    assert "<details>" not in make_result(ESTIMATE)._repr_html_()


def test_html_has_failures_and_skipped_tasks() -> None:
    failure = {"task": "clustering", "embedding": "X_pca", "error": "too <few> cells"}
    page = make_result(LR, failures=[failure], skipped=[{"task": "embedding", "reason": "needs label"}])._repr_html_()
    assert "<b>Failed:</b><br>clustering on X_pca: too &lt;few&gt; cells" in page
    assert "<b>Not run:</b><br>embedding (needs label)" in page


def test_repr_is_the_table_and_html_is_escaped() -> None:
    result = make_result(LR, replace(UNDEFINED, note="<b> & co"))
    assert repr(result) == str(result)
    assert "mean_fold_accuracy" in repr(result)
    page = result._repr_html_()
    assert "&lt;b&gt; &amp; co" in page
    assert "<b> & co" not in page
