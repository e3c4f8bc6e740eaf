"""Comparisons: matching of rows, verdicts, warnings, exit codes."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpubench as gb
from gpubench.cli.main import main
from gpubench.comparison.compare import compare, compare_runs
from gpubench.comparison.comparison import Comparison
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.results.result import Result
from gpubench.results.table import print_blocks, to_text

PROVENANCE = {
    "gpubench": "0.1.0",
    "seed": 42,
    "dataset": {"fingerprint": "f0", "columns": "c0", "n_cells": 60, "source": "cells.h5ad"},
    "options": {"tasks": ["embedding"], "embeddings": ["X_pca"], "resolution": 1.0},
}
ARI = MetricResult("X_pca", "clustering", "adjusted_rand_index", 0.5)
LR = MetricResult("X_pca", "label_prediction", "mean_fold_accuracy", 0.80, stderr=0.01, params={"classifier": "lr"})
KNN = replace(LR, value=0.75, params={"classifier": "knn"})
NO_CELLS = "[1]\n [1] no interval: not both results have values of cells"
ERROR = MetricResult("predictions", "perturbation_expression_prediction", "mean_squared_error", 2.0)


def make(*rows: MetricResult, **changes: Any) -> Result:
    return Result(list(rows), {**PROVENANCE, **changes}, [], [], [])


def pair(first: MetricResult, second: MetricResult) -> Comparison:
    return compare([make(first), make(second)])


def test_rows_match_by_requested_and_not_by_found_parameters() -> None:
    approximate = replace(
        KNN, value=0.76, params={"classifier": "knn", "recall": 0.97, "knn": "leaves"}, approximate=True
    )
    compared = gb.compare([make(ARI, LR, KNN), make(approximate, LR, replace(ARI, value=0.6))])
    assert [(row.metric, row.params) for row in compared.rows] == [
        ("adjusted_rand_index", {}),
        ("mean_fold_accuracy", {"classifier": "lr"}),
        ("mean_fold_accuracy", {"classifier": "knn"}),
    ]
    assert [row.differences[1].value for row in compared.rows] == pytest.approx([0.1, 0.0, 0.01])
    assert compared.warnings == ()


def test_one_result_compares_its_embeddings() -> None:
    other = replace(ARI, embedding="X_scvi", value=0.6)
    both, apart = make(ARI, LR, other), compare([make(ARI, LR), make(other)])
    for compared in (compare(both), compare([both])):
        assert compared.names == ("X_pca", "X_scvi")
        assert compared.rows == apart.rows
        assert compared.warnings == ()


def test_compare_of_nothing_raises() -> None:
    with pytest.raises(InputError, match=r"there is nothing to compare; give results.json files"):
        compare([])
    with pytest.raises(InputError, match=r"result 1 has no numbers; give another result"):
        compare([make()])


def test_row_of_one_file_only_is_included() -> None:
    compared = compare([make(ARI, LR), make(LR, KNN)])
    assert [tuple(result is not None for result in row.results) for row in compared.rows] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert [row.differences[1] is None for row in compared.rows] == [True, False, True]
    text = str(compared)
    assert re.search(r"adjusted_rand_index +missing\n", text)
    assert re.search(r"mean_fold_accuracy \(knn\) +not in the first\n", text)


def test_embeddings_are_compared_by_name_unless_each_file_has_one() -> None:
    other = replace(ARI, embedding="X_scvi", value=0.9)
    (row,) = pair(ARI, other).rows
    assert (row.embedding, row.differences[1].value) == ("X_pca, X_scvi", pytest.approx(0.4))
    both = compare([make(ARI), make(ARI, other)])
    assert [row.embedding for row in both.rows] == ["X_pca", "X_scvi"]


def test_duplicate_rows_of_one_file_are_all_included() -> None:
    compared = compare([make(ARI, replace(ARI, value=0.1)), make(ARI)])
    assert [row.results[0].value for row in compared.rows] == [0.5, 0.1]


@given(*[st.floats(0, 1)] * 2, *[st.floats(0, 0.2)] * 2)
def test_interval_equals_the_formula(a: float, b: float, s: float, t: float) -> None:
    (row,) = pair(replace(LR, value=a, stderr=s), replace(LR, value=b, stderr=t)).rows
    difference = row.differences[1]
    half = 1.959963984540054 * math.sqrt(s * s + t * t)
    assert difference.interval == pytest.approx((b - a - half, b - a + half))
    if abs(abs(b - a) - half) > 1e-6:
        assert difference.beyond_noise == (abs(b - a) > half)
    equal = abs(b - a) <= 1e-6
    assert difference.equal == equal
    assert difference.better == (None if equal else b > a)
    assert row.best == (frozenset({int(b > a)}) if difference.beyond_noise and not equal else frozenset())


def test_interval_of_few_folds_uses_students_t() -> None:
    five = replace(LR, stderr_df=4)
    (row,) = pair(five, replace(five, value=0.83)).rows
    half = 2.306004 * math.sqrt(2) * 0.01  # Student's t with 8 degrees of freedom, for equal errors of 4 each
    assert row.differences[1].interval == pytest.approx((0.03 - half, 0.03 + half))
    assert row.differences[1].beyond_noise is False
    (row,) = pair(five, replace(LR, value=0.83, stderr=1e-9)).rows
    assert row.differences[1].interval[1] == pytest.approx(0.03 + 2.776445 * 0.01)
    assert re.search(r"\+0.0300 +± 0.033 +within noise", str(pair(five, replace(five, value=0.83))))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (LR, replace(LR, value=0.9), "+0.1000 ± 0.028 better"),
        (LR, replace(LR, value=0.7), "-0.1000 ± 0.028 worse"),
        (LR, replace(LR, value=0.81), "+0.0100 ± 0.028 within noise"),
        (
            LR,
            replace(LR, value=0.81, stderr=None),
            f"+0.0100 better {NO_CELLS}",
        ),
        (ARI, ARI, "+0.0000 equal"),
        (ARI, replace(ARI, value=0.5 - 2e-9), "+0.0000 equal"),
        (ARI, replace(ARI, value=math.nan, note="why"), "undefined"),
        (
            ERROR,
            replace(ERROR, value=1.0),
            f"-1.0000 better {NO_CELLS}",
        ),
        (replace(ARI, metric="mine"), replace(ARI, metric="mine", value=0.9), "+0.4000 differs"),
    ],
)
def test_verdict_of_each_kind_of_difference(first: MetricResult, second: MetricResult, verdict: str) -> None:
    assert verdict in re.sub(" +", " ", str(pair(first, second)))


@pytest.mark.parametrize(
    ("value", "signs"),
    [(0.9, ("", "+*")), (0.7, ("*", "-")), (0.81, ("", "=")), (0.8, ("", "="))],
)
def test_signs_of_the_overview_follow_the_intervals(value: float, signs: tuple[str, str]) -> None:
    (line,) = [line for line in str(pair(LR, replace(LR, value=value))).splitlines() if "0.8000" in line]
    first, second = re.fullmatch(
        r" +mean_fold_accuracy +[\d.]+(.*?)0\.\d{4}(.*)", line.replace("0.8000", "0.8000 ", 1)
    ).groups()
    assert (first.strip(), second.replace(" ", "")) == signs


@pytest.mark.parametrize(
    ("values", "stderr", "best"),
    [
        ((2.0, 1.0, 3.0), 0.1, {1}),
        ((2.0, 1.0, 3.0), 1.0, set()),  # within noise
        ((2.0, 1.0, 3.0), None, set()),  # without intervals
        ((2.0, 1.0, 1.0 + 1e-9), 0.1, {1, 2}),
        ((2.0, 2.0, 2.0), 0.1, set()),
        ((2.0, math.nan, 1.0), 0.1, {2}),
    ],
)
def test_the_best_is_marked_where_it_is_beyond_noise(
    values: tuple[float, ...], stderr: float | None, best: set[int]
) -> None:
    compared = compare([make(replace(ERROR, value=value, stderr=stderr)) for value in values])
    assert compared.rows[0].best == best
    assert compared.to_dict()["rows"][0]["best"] == sorted(best)
    (line,) = [line for line in str(compared).splitlines() if "  mean_squared_error  " in line and "." in line][:1]
    assert line.count("*") == len(best)


@pytest.mark.parametrize("columns", [80, 120])
def test_comparison_of_twenty_embeddings_fits_the_terminal(columns: int) -> None:
    metrics = ("adjusted_rand_index", "normalized_mutual_info", "silhouette_score", "graph_connectivity", "bras")
    rows = [
        replace(ARI, metric=metric, embedding=f"X_model_with_a_long_name_{i}", value=0.5 + i / 100)
        for i in range(20)
        for metric in metrics
    ]
    text = to_text(compare(make(*rows)).blocks(columns), columns)
    assert max(map(len, text.splitlines())) <= columns
    for metric in metrics:
        for word in metric.split("_"):
            assert re.search(rf"\b{word}(_|\b)", text), "no word is broken"
    assert all(f"{0.5 + i / 100:.4f}" in text for i in range(20))


def test_a_folder_of_runs_is_compared_dataset_by_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"dataset": {**PROVENANCE["dataset"], "columns": "c1", "source": "others.h5ad"}}
    for name, result in {
        "a": make(ARI),
        "b": make(replace(ARI, embedding="X_scvi", value=0.7)),
        "c/one": make(ARI, replace(ARI, embedding="X_scvi", value=0.4), **other),
        "d": make(ARI, dataset={**PROVENANCE["dataset"], "columns": "c2", "source": "alone.h5ad"}),
    }.items():
        (tmp_path / name).mkdir(parents=True)
        result.to_json(tmp_path / name / "results.json")
    assert main(["compare", str(tmp_path), "--fail-if-worse"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"^cells.h5ad\n=+\n +X_pca +X_scvi\n.*0\.5000 +0\.7000 \?", printed, re.MULTILINE | re.DOTALL)
    assert re.search(r"^others.h5ad\n=+\n.*0\.5000 +0\.4000 \?", printed, re.MULTILINE | re.DOTALL)
    assert re.search(r"^X_scvi +1\.5 +1\.0 +2\.0\nX_pca +1\.5 +2\.0 +1\.0$", printed, re.MULTILINE)
    assert "alone.h5ad" not in printed
    assert "Failed: others.h5ad: X_scvi: adjusted_rand_index" in printed
    assert list(compare_runs(tmp_path)) == ["cells.h5ad", "others.h5ad"]
    assert main(["compare", str(tmp_path), "--format", "json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["runs"]) == {"cells.h5ad", "others.h5ad"}
    assert main(["compare", str(tmp_path / "d"), str(tmp_path)]) == 2
    assert "holds several results; compare it alone" in capsys.readouterr().err
    with pytest.raises(InputError, match="no two embeddings were scored on the same data"):
        compare_runs(tmp_path / "d")


def test_warnings_come_before_the_table() -> None:
    text = str(compare([make(ARI), make(ARI, seed=7)]))
    assert text.startswith("Warning: seed differs")


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"dataset": {"columns": "c1", "n_cells": 60}}, "fingerprint of .* columns .* differs: c0 in result 1, c1 in"),
        ({"dataset": {"columns": "c0", "n_cells": 61}}, "number of cells differs: 60 in result 1, 61 in result 2"),
        ({"seed": 7}, "seed differs: 42 in result 1, 7 in result 2"),
        ({"gpubench": "0.2.0"}, "gpubench version differs: 0.1.0 in result 1, 0.2.0 in result 2"),
        ({"options": {"tasks": [], "resolution": 2.0}}, "resolution differs: 1.0 in result 1, 2.0 in result 2"),
    ],
)
def test_differing_provenance_gives_warnings(changes: dict[str, Any], warning: str) -> None:
    (found,) = compare([make(ARI), make(ARI, **changes)]).warnings
    assert re.search(warning, found)
    with pytest.raises(InputError, match=rf"{warning}.* \(an error because of `strict`\)"):
        compare([make(ARI), make(ARI, **changes)], strict=True)


def test_other_embeddings_of_the_same_cells_are_comparable() -> None:
    cells = {"label": np.repeat(["a", "b"], 8), "tasks": ["embedding"]}
    X = np.random.default_rng(0).normal(size=(2, 16, 3))
    results = [gb.score({"mine": X[i]}, **cells) for i in (0, 1)]
    assert compare(results).warnings == ()
    others = gb.score({"mine": X[0]}, label=np.tile(["a", "b"], 8), tasks=["embedding"])
    assert "columns" in compare([results[0], others]).warnings[0]


def test_worse_lists_rows_beyond_noise() -> None:
    undefined = replace(ARI, value=math.nan, note="why")
    assert pair(ARI, replace(ARI, value=0.45)).worse() == [
        "result 2: adjusted_rand_index (X_pca, clustering) is worse by 0.05"
    ]
    assert pair(ARI, replace(ARI, value=0.45)).worse(tolerance=0.06) == []
    assert pair(LR, replace(LR, value=0.79)).worse() == [], "within noise"
    assert len(pair(LR, replace(LR, value=0.7)).worse()) == 1
    assert len(pair(ERROR, replace(ERROR, value=2.1)).worse()) == 1, "lower is better"
    assert pair(ERROR, replace(ERROR, value=1.9)).worse() == []
    assert pair(ARI, replace(ARI, value=0.5 - 2e-9)).worse() == [], "rounding"
    assert pair(ARI, undefined).worse() == ["result 2: adjusted_rand_index (X_pca, clustering) is undefined"]
    assert pair(undefined, ARI).worse() == []
    assert compare([make(ARI, LR), make(ARI)]).worse()[0].endswith("is missing")
    for tolerance in (-0.1, math.nan):
        with pytest.raises(InputError, match="at least 0"):
            pair(ARI, ARI).worse(tolerance)


def test_below_lists_values_below_their_bound() -> None:
    compared = compare([make(LR), make(LR, KNN, replace(ARI, value=math.nan, note="why"))])
    assert compared.below({"mean_fold_accuracy": 0.75}) == []
    (line,) = compared.below({"mean_fold_accuracy": 0.78})
    assert line == "result 2: mean_fold_accuracy, classifier=knn (X_pca, label_prediction) is 0.75, below 0.78"
    assert compared.below({"adjusted_rand_index": -9})[0].endswith("is undefined")
    assert compared.below({"silhouette_score": 0.1}) == ["result 2: silhouette_score is missing"]
    with pytest.raises(InputError, match=r"'silhouette_scor' is unknown .*did you mean 'silhouette_score'"):
        compared.below({"silhouette_scor": 0.1})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with results, one of them worse, and with other files."""
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("empty").mkdir()
    make(ARI, LR).to_json("a/results.json")
    make(replace(ARI, value=0.4), LR, seed=7).to_json("b.json")
    Path("newer.json").write_text('{"schema": 99}')
    Path("text.json").write_text("text")
    return tmp_path


BAD = {
    "missing": (["a", "no.json"], "'no.json' cannot be read: No such file"),
    "empty folder": (["a", "empty"], "'empty' is a folder without results.json"),
    "no result": (["a", "text.json"], "'text.json' is not a JSON file"),
    "newer": (["a", "newer.json"], "has schema 99; this version of gpubench reads results.json of schema 1"),
    "one file": (["a"], "compare: a has one embedding, 'X_pca'; give another result"),
    "no file": ([], "Missing argument.*see gpubench compare --help"),
    "format": (["a", "b.json", "--format", "xml"], "--format 'xml' is unknown; use table or json"),
    "no number": (
        ["a", "b.json", "--fail-below", "bras"],
        "--fail-below 'bras' has no number; write it as METRIC=VALUE",
    ),
    "no metric": (["a", "b.json", "--fail-below", "bas=0"], "metric 'bas' is unknown .*did you mean 'bras'"),
    "NaN": (["a", "b.json", "--fail-below", "bras=nan"], "has no number"),
    "tolerance alone": (["a", "b.json", "--tolerance", "1"], "--tolerance needs --fail-if-worse"),
    "negative": (["a", "b.json", "--fail-if-worse", "--tolerance", "-1"], "--tolerance -1.0 cannot be used"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_usage_prints_one_line(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"gpubench: .*{message}.*\n", printed.err), printed.err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ([], 0),
        (["--fail-below", "adjusted_rand_index=0.4"], 0),
        (["--fail-below", "adjusted_rand_index=0.41"], 1),
        (["--fail-below", "adjusted_rand_index=0.41", "--fail-below", "adjusted_rand_index=0"], 1),
        (["--fail-below", "silhouette_score=0"], 1),
        (["--fail-if-worse"], 1),
        (["--fail-if-worse", "--tolerance", "0.2"], 0),
    ],
)
def test_exit_codes(flags: list[str], code: int, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b.json", *flags]) == code
    printed = capsys.readouterr()
    assert ("Failed: b.json: " in printed.out) == (code == 1)
    assert "Warning: seed differs: 42 in a, 7 in b.json" in printed.out


def test_strict_refuses_results_that_are_not_comparable(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b.json", "--strict"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "gpubench: seed differs: 42 in a, 7 in b.json (an error because of --strict)\n"
    assert not printed.out


def test_json_has_all_differences(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b.json", "--format", "json", "--fail-if-worse"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["files"] == ["a", "b.json"]
    assert content["warnings"] == ["seed differs: 42 in a, 7 in b.json"]
    assert len(content["failures"]) == 1
    ari, lr = content["rows"]
    assert (ari["higher_is_better"], ari["best"], [result["value"] for result in ari["results"]]) == (
        True,
        [],
        [0.5, 0.4],
    )
    assert ari["differences"][0] is None
    assert ari["differences"][1] == {
        "value": pytest.approx(-0.1),
        "interval": None,
        "method": None,
        "reason": "not both results have values of cells",
        "equal": False,
        "better": False,
        "beyond_noise": None,
    }
    assert lr["differences"][1]["beyond_noise"] is False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_the_same_text_as_a_pipe() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    compared = compare([make(ARI), make(replace(ARI, value=0.6), seed=7)])
    print_blocks(compared.blocks(100), terminal, 100)
    print_blocks(compared.blocks(100), pipe, 100)
    assert pipe.getvalue() == f"{compared}\n"
    for cell in ("adjusted_rand_index", "0.5000", "0.6000 ?", "+0.1000", "clustering", "seed differs"):
        assert cell in pipe.getvalue()
        assert cell in terminal.getvalue()


def test_html_is_one_table_with_differences_and_warnings_once() -> None:
    other = make(replace(LR, value=0.9), replace(ARI, value=0.4), seed=7)
    page = compare([make(LR, ARI), other])._repr_html_()
    assert page.count("<table>") == 1
    assert page.count("Warning: ") == 1
    assert '<th scope="col">result 1</th><th scope="col">result 2</th>' in page
    assert re.search(r'<td>0\.9000<span.*?</span><small class="gb-good">\+0\.1000 ± 0\.0\d+ better</small></td>', page)
    assert re.search(r"<td>0\.4000<span.*?</span><small>-0\.1000 worse</small></td>", page), (
        "nothing says how sure it is"
    )
    assert "Below each score: its difference from result 1" in page
