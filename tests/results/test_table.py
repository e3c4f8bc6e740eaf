"""Tables of results as text, HTML and on terminals."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.cli.score import ROWS_ON_TERMINAL, print_result, stages_text
from gpubench.core.scores import MetricResult
from gpubench.results.result import Result
from gpubench.results.table import (
    TextTable,
    format_value,
    print_blocks,
    printable,
    result_blocks,
    score_tables,
    to_text,
)

ROW = MetricResult("X_pca", "embedding", "silhouette_score", 0.535146, n=2638, seconds=0.123)
LONG_NOTE = "left out: " + ", ".join(f"cell type {i} (1 cell)" for i in range(12))


class Terminal(io.StringIO):
    """Stream that reports to be a terminal."""

    def isatty(self) -> bool:
        return True


def text_of(rows: list[MetricResult], *, width: int | None = None, limit: int | None = None) -> str:
    return to_text(result_blocks(rows, limit=limit), width)


def conditions(count: int) -> list[MetricResult]:
    """Make rows of one metric for many conditions, and their mean."""
    row = MetricResult("pred", "perturbation_expression_prediction", "spearman_correlation_calculation", 0.1)
    conditions = (replace(row, params={"condition": f"gene{i}", "effect": "ratio"}) for i in range(count))
    return [*conditions, replace(row, value=0.7, params={"condition": "MEAN"})]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.535146, "0.5351"),
        (-0.5, "-0.5000"),
        (0.0, "0.0000"),
        (1.0, "1.0000"),
        (0.0001234, "1.234e-04"),
        (1234567.0, "1.235e+06"),
        (math.nan, "undefined"),
    ],
)
def test_format_value_chooses_digits_by_size(value: float, text: str) -> None:
    assert format_value(value) == text


def test_to_text_of_a_result() -> None:
    rows = [
        ROW,
        replace(ROW, task="label_prediction", metric="mean_fold_f1", params={"classifier": "lr"}, note="a"),
        replace(ROW, task="label_prediction", metric="mean_fold_f1", params={"classifier": "rf"}, note="a"),
        replace(ROW, task="label_prediction", metric="mean_fold_f1", value=math.nan, note="b", stderr=0.012),
    ]
    skipped = [{"task": "batch_integration", "reason": "it needs batch"}]
    failures = [{"task": "clustering", "embedding": "X_pca", "error": "no memory"}]
    assert to_text(result_blocks(rows, skipped, failures)) == (
        "X_pca: embedding\n"
        "  metric             value      n  seconds\n"
        "  silhouette_score  0.5351  2,638     0.12\n"
        "\n"
        "X_pca: label_prediction\n"
        "  metric        classifier      value  stderr      n  seconds  note\n"
        "  mean_fold_f1  lr             0.5351          2,638     0.12  [1]\n"
        "  mean_fold_f1  rf             0.5351          2,638     0.12  [1]\n"
        "  mean_fold_f1              undefined   0.012  2,638     0.12  [2]\n"
        "  [1] a\n"
        "  [2] b\n"
        "\n"
        "Failed:\n"
        "  clustering on X_pca: no memory\n"
        "\n"
        "Not run:\n"
        "  batch_integration (it needs batch)"
    )


def test_constant_parameters_have_no_column() -> None:
    (table,) = score_tables([replace(ROW, params={"k": 15}), replace(ROW, metric="other", params={"k": 10})]).values()
    assert table.header == ("metric", "value", "n", "seconds")


def test_each_distinguishing_parameter_has_a_column() -> None:
    rows = [replace(ROW, params={"train": a, "classifier": name, "k": 5}) for a in ("x", "y") for name in ("lr", "knn")]
    assert text_of(rows).splitlines()[1:3] == [
        "  metric            train  classifier   value      n  seconds",
        "  silhouette_score  x      lr          0.5351  2,638     0.12",
    ]
    assert " param_n " in text_of([replace(ROW, params={"n": count}) for count in (1, 2)])


def test_rows_that_differ_only_in_having_a_parameter_are_distinguished() -> None:
    (table,) = score_tables([ROW, replace(ROW, params={"classifier": "lr"})]).values()
    assert table.header[1] == "classifier"


def test_approximate_values_are_marked() -> None:
    assert "~0.5351" in text_of([replace(ROW, approximate=True)])
    assert "~" not in text_of([replace(ROW, approximate=True, value=math.nan)])


def test_notes_are_wrapped_only_where_a_width_is_given() -> None:
    row = replace(ROW, note=LONG_NOTE)
    assert LONG_NOTE in text_of([row])
    wrapped = text_of([row], width=60)
    assert max(map(len, wrapped.splitlines())) <= 60
    assert LONG_NOTE in " ".join(wrapped.split())


def test_many_rows_of_one_metric_are_folded_except_their_mean() -> None:
    rows = conditions(100)
    text = text_of(rows, limit=10)
    assert "gene8" in text
    assert "gene9" not in text
    assert "MEAN" in text
    assert "effect" not in text, "it is the same wherever it is given"
    assert "and 91 more rows of spearman_correlation_calculation" in text
    assert "gene99" in text_of(rows)
    assert "more rows" not in text_of(rows)


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()


def test_control_characters_in_names_are_escaped() -> None:
    evil = "\x1b[31mred\nline"
    row = replace(ROW, embedding=evil, note=evil, params={"label": evil})
    blocks = result_blocks([row, replace(row, params={"label": "b"})], [{"task": evil, "reason": evil}])
    text = to_text(blocks)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\\x1b[31mred\\nline" in text
    assert "\x1b" not in replace(result_of(row), skipped=[{"task": evil, "reason": evil}])._repr_html_()


def result_of(*rows: MetricResult) -> Result:
    timeline = [
        {"path": "X_pca", "start_s": 0.0, "seconds": 1.5, "put_bytes": 2_000_000, "peak_bytes": 3_000_000_000},
        {"path": "X_pca/knn", "start_s": 0.1, "seconds": 0.25, "put_bytes": 0, "peak_bytes": None},
    ]
    return Result(list(rows), {}, timeline, [{"task": "clustering", "reason": "needs label"}], [])


def test_print_result_to_a_pipe_writes_plain_text() -> None:
    stream = io.StringIO()
    result = result_of(*conditions(100), replace(ROW, note=LONG_NOTE))
    print_result(result, ["Wrote results.json"], stream)
    text = stream.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    assert "perturbation_expression_prediction, mean over conditions\n" in text
    assert "gene99" not in text
    assert "100 more rows, such as those of each classifier: add -v" in text
    assert LONG_NOTE in " ".join(text.split())
    assert text.endswith("  clustering (needs --label)\n\nTook 1.5 s (knn 0.2)\nWrote results.json\n")
    stream = io.StringIO()
    print_result(result, [], stream, details=True)
    assert "gene99" in stream.getvalue()


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_print_result_to_a_terminal_shows_numbers_at_any_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    print_result(result_of(*conditions(100), ROW), ["Wrote results.json"], stream, details=True)
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "0.5351" in text
    assert "Wrote results.json" in text
    assert f"and {101 - ROWS_ON_TERMINAL} more rows" in " ".join(text.split())


def test_stages_text_indents_nested_stages() -> None:
    assert stages_text(result_of()) == (
        "stage  seconds  copied MB  peak MB\nX_pca    1.500        2.0    3,000\n  knn    0.250        0.0"
    )


WIDE = TextTable(
    "wide",
    ("stage", *(f"{n},000 cells" for n in range(1, 8)), "of the limit"),
    tuple((f"a_stage_with_a_long_name_{i}", *(f"{n}2.34{i}" for n in range(1, 8)), "12.3% memory") for i in range(3)),
    numbers=frozenset(f"{n},000 cells" for n in range(1, 8)),
)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_table_on_a_terminal_shows_all_text_at_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    print_blocks([WIDE], stream)
    lines = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns
    shown = Counter("".join(lines))
    expected = Counter("".join([WIDE.title, *WIDE.header, *(cell for row in WIDE.rows for cell in row)]))
    assert all(shown[c] >= n for c, n in expected.items() if c != " "), "a cell was cut"


def test_table_on_a_terminal_does_not_fold_numbers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    rows = tuple((f"a_stage_with_a_very_long_name_of_its_own_{i}", "123,456.789", "9,876.54") for i in range(2))
    print_blocks([TextTable("", ("stage", "seconds", "peak MB"), rows, frozenset({"seconds", "peak MB"}))], stream)
    assert stream.getvalue().count("123,456.789") == stream.getvalue().count("9,876.54") == 2


def test_table_in_a_pipe_has_no_title_line_without_a_title() -> None:
    table = TextTable("", ("name", "n"), (("a", "1"), ("bc", "10")), numbers=frozenset({"n"}))
    assert table.to_text() == "name   n\na      1\nbc    10"
