"""A result as text says everything, once, and nothing that a terminal would act on."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.cli.show import ROWS_ON_TERMINAL, show, stages_text
from gpubench.core.scores import MetricResult
from gpubench.results.result import Result
from gpubench.results.table import format_value, printable, sections, to_html, to_text

ROW = MetricResult("X_pca", "embedding", "silhouette_score", 0.535146, n=2638, seconds=0.123)
LONG_NOTE = "left out: " + ", ".join(f"cell type {i} (1 cell)" for i in range(12))


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def conditions(count: int) -> list[MetricResult]:
    """Rows of one metric for many conditions, and their mean."""
    row = MetricResult("pred", "perturbation_expression_prediction", "spearman_correlation_calculation", 0.1)
    of_condition = (replace(row, params={"condition": f"gene{i}", "effect": "ratio"}) for i in range(count))
    return [*of_condition, replace(row, value=0.7, params={"condition": "MEAN"})]


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
def test_values_have_sensible_digits(value: float, text: str) -> None:
    assert format_value(value) == text


def test_plain_text() -> None:
    rows = [
        ROW,
        replace(ROW, task="label_prediction", metric="mean_fold_f1", params={"classifier": "lr"}, note="a"),
        replace(ROW, task="label_prediction", metric="mean_fold_f1", params={"classifier": "rf"}, note="a"),
        replace(ROW, task="label_prediction", metric="mean_fold_f1", value=math.nan, note="b", stderr=0.012),
    ]
    skipped = [{"task": "batch_integration", "reason": "it needs batch"}]
    failures = [{"task": "clustering", "embedding": "X_pca", "error": "no memory"}]
    assert to_text(rows, skipped, failures) == (
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
        "Left out:\n"
        "  batch_integration: it needs batch"
    )


def test_parameters_that_are_the_same_in_all_rows_are_not_shown() -> None:
    (section,) = sections([replace(ROW, params={"k": 15}), replace(ROW, metric="other", params={"k": 10})])
    assert section.header == ("metric", "value", "n", "seconds")


def test_each_parameter_that_tells_rows_apart_has_a_column() -> None:
    rows = [replace(ROW, params={"train": a, "classifier": name, "k": 5}) for a in ("x", "y") for name in ("lr", "knn")]
    assert to_text(rows).splitlines()[1:3] == [
        "  metric            train  classifier   value      n  seconds",
        "  silhouette_score  x      lr          0.5351  2,638     0.12",
    ]
    assert " param_n " in to_text([replace(ROW, params={"n": count}) for count in (1, 2)])


def test_rows_that_differ_only_in_having_a_parameter_are_told_apart() -> None:
    (section,) = sections([ROW, replace(ROW, params={"classifier": "lr"})])
    assert section.header[1] == "classifier"


def test_approximate_values_are_marked() -> None:
    assert "~0.5351" in to_text([replace(ROW, approximate=True)])
    assert "~" not in to_text([replace(ROW, approximate=True, value=math.nan)])


def test_notes_are_wrapped_only_where_a_width_is_given() -> None:
    row = replace(ROW, note=LONG_NOTE)
    assert LONG_NOTE in to_text([row])
    wrapped = to_text([row], width=60)
    assert max(map(len, wrapped.splitlines())) <= 60
    assert LONG_NOTE in " ".join(wrapped.split())


def test_many_rows_of_one_metric_are_folded_but_not_their_mean() -> None:
    rows = conditions(100)
    text = to_text(rows, limit=10)
    assert "gene8" in text
    assert "gene9" not in text
    assert "MEAN" in text
    assert "effect" not in text, "it is the same wherever it is given"
    assert "and 91 more rows of spearman_correlation_calculation" in text
    assert "gene99" in to_text(rows)
    assert "more rows" not in to_text(rows)


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    assert printable(text).isprintable()


def test_names_cannot_write_to_the_terminal() -> None:
    evil = "\x1b[31mred\nline"
    row = replace(ROW, embedding=evil, note=evil, params={"label": evil})
    text = to_text([row, replace(row, params={"label": "b"})], [{"task": evil, "reason": evil}])
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "\\x1b[31mred\\nline" in text
    assert "\x1b" not in to_html([row])


def result_of(*rows: MetricResult) -> Result:
    timeline = [
        {"path": "X_pca", "start_s": 0.0, "seconds": 1.5, "put_bytes": 2_000_000, "peak_bytes": 3_000_000_000},
        {"path": "X_pca/knn", "start_s": 0.1, "seconds": 0.25, "put_bytes": 0, "peak_bytes": None},
    ]
    return Result(list(rows), {}, timeline, [{"task": "clustering", "reason": "it needs label"}], [])


def test_a_pipe_gets_plain_text_in_full() -> None:
    stream = io.StringIO()
    show(result_of(*conditions(100), replace(ROW, note=LONG_NOTE)), ["Wrote results.json"], stream)
    text = stream.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    assert "gene99" in text
    assert LONG_NOTE in text
    assert text.endswith("  clustering: it needs label\n\nWrote results.json\n")


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_a_terminal_of_any_width_gets_the_same_numbers(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(result_of(*conditions(100), ROW), ["Wrote results.json"], stream)
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "0.5351" in text
    assert "Wrote results.json" in text
    assert f"and {101 - ROWS_ON_TERMINAL} more rows" in " ".join(text.split())


def test_stages_are_indented_below_the_one_they_run_inside() -> None:
    assert stages_text(result_of()) == (
        "stage    seconds     put MB    peak MB\nX_pca      1.500        2.0      3,000\n  knn      0.250        0.0"
    )
