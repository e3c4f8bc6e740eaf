"""Resampled intervals in comparisons: over cells, over donors, and their verdicts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cells import make_cells

import gpubench as gb
from gpubench.cli.main import main
from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.results.result import Result

N = 240
CELLS = make_cells(N, 5, n_labels=3, n_batches=12, seed=2)
DONOR = np.array([f"d{code}" for code in CELLS.batch])


def score(x: np.ndarray, folder: Path) -> Result:
    """Write three scores, the last a mean over labels, with the values of the cells."""
    obs = pd.DataFrame({"kind": CELLS.label, "donor": DONOR})
    folder.mkdir()
    obs.to_csv(folder / "obs.csv", index=False)
    result = gb.score(
        {"X": np.ascontiguousarray(x)},
        label="kind",
        batch="donor",
        obs=obs,
        tasks=["embedding", "batch_integration"],
        engine="cpu",
        n_neighbors=20,
    )
    result.to_json(folder / "results.json")
    result.cells_to_parquet(folder / "cells.parquet")
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make results of an embedding, of one with other noise, and of one with much more noise."""
    place = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    for name, size in {"good": 0.4, "close": 0.4, "bad": 2.0}.items():
        score(CELLS.x + size * rng.standard_normal(CELLS.x.shape).astype(np.float32), place / name)
    (place / "alone").mkdir()
    (place / "alone" / "results.json").write_bytes((place / "bad" / "results.json").read_bytes())
    return place


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def differences(**options: Any) -> dict[str, Any]:
    return {row.metric: row.differences[1] for row in gb.compare(["good", "bad"], **options).rows}


def test_intervals_contain_the_differences() -> None:
    found = differences(resamples=200)
    assert set(found) == {"silhouette_score", "entropy_per_cell", "batch_silhouette"}
    for apart in found.values():
        assert apart.method == "bootstrap"
        assert apart.interval[0] < apart.value < apart.interval[1]
    assert found["silhouette_score"].beyond_noise is True
    assert differences(resamples=200) == found
    assert differences(resamples=200, seed=1) != found
    assert {apart.method for apart in differences(resamples=0).values()} == {None}


def test_donors_come_from_the_results_or_a_table() -> None:
    over_cells, over_donors = differences(resamples=200), differences(resamples=200, donor="donor")
    assert over_donors != over_cells
    assert differences(resamples=200, donor="batch") == over_donors, "its role"
    assert differences(resamples=200, donor="donor", obs="good/obs.csv") == over_donors
    assert gb.compare(["good", "bad"], donor="donor").draws == "leaving out each of the 12 donors of 'donor' in turn"


def test_donors_never_fall_back_to_standard_errors() -> None:
    result = Result.from_json("good/results.json")
    result.results.append(MetricResult("X", "label_prediction", "mean_fold_auroc", 0.8, stderr=0.01))
    by_cells, by_donors = (
        gb.compare([result, result], donor=donor).rows[-1].differences[1] for donor in (None, "donor")
    )
    assert by_cells.method == "standard errors"
    assert (by_donors.interval, by_donors.reason) == (None, "it has no value for each cell")


def test_table_shows_intervals_or_reasons() -> None:
    text = re.sub(" +", " ", str(gb.compare(["good", "bad"])))
    assert re.search(r"silhouette_score 0\.\d{4} \* 0\.\d{4} -", text)
    assert re.search(r"silhouette_score -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\] worse", text)
    assert "95% interval of the difference by a paired bootstrap, 1,000 draws of cells, seed 42." in " ".join(
        text.split()
    )
    text = re.sub(" +", " ", str(gb.compare(["good", "bad"], donor="donor")))
    assert re.search(r"silhouette_score -0\.\d{4} \(-0\.\d{4}, -0\.\d{4}\) worse", text)
    legend = "95% interval by a paired jackknife, leaving out each of the 12 donors of 'donor' in turn."
    assert legend in " ".join(text.split())
    text = str(gb.compare(["good", "alone"]))
    assert re.search(r"worse \[1\]\n.*\[1\] no interval: not both results have values of cells", text, re.DOTALL)
    assert "bootstrap" not in text


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["close", "--fail-if-worse"], 0),
        (["close", "--fail-if-worse", "--resamples", "0"], 1),  # without intervals a difference counts
        (["bad", "--fail-if-worse"], 1),
        (["bad", "--fail-if-worse", "--donor", "donor", "--seed", "7", "--resamples", "200"], 1),
    ],
)
def test_difference_within_noise_does_not_fail(flags: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    worse = {row.metric: row.differences[1].better for row in gb.compare(["good", "close"], resamples=0).rows}
    assert False in worse.values(), "or else nothing is shown"
    assert main(["compare", "good", *flags]) == code
    capsys.readouterr()


def test_json_names_the_method_of_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "good", "bad", "--format", "json", "--donor", "donor", "--obs", "good/obs.csv"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["draws"] == "leaving out each of the 12 donors of 'donor' in turn"
    for row in content["rows"]:
        assert row["differences"][1]["method"] == "jackknife"
        assert len(row["differences"][1]["interval"]) == 2


def test_donors_of_other_cells_are_not_used() -> None:
    """A third file, of other cells, has a column of the requested name."""
    without = gb.score(CELLS.x, label=CELLS.label, tasks=["embedding"], engine="cpu")
    some = {"label": CELLS.label[:200], "batch": CELLS.batch[:200]}
    others = gb.score(CELLS.x[:200], **some, tasks=["embedding"], engine="cpu")
    assert "batch" in others.cells.groups
    with pytest.raises(InputError, match="donor='batch' is not among the columns of the results"):
        gb.compare([without, without, others], donor="batch")


BAD = {
    "donor": ({"donor": "doner"}, "donor='doner' is not among the columns of the results .*did you mean 'donor'"),
    "column": ({"donor": "x", "obs": "good/obs.csv"}, "donor='x' is not a column of good/obs.csv"),
    "one": ({"donor": "all", "obs": {"all": ["a"] * N}}, "donor='all' has one value, and an interval needs two"),
    "length": ({"donor": "all", "obs": {"all": ["a", "b"]}}, "donor has 2 values but the embedding has 240 rows"),
    "obs": ({"obs": "good/obs.csv"}, "obs is the table of the donors; name their column with `donor`"),
    "resamples": ({"resamples": 10}, "resamples=10 cannot be used; give at least 100, or 0 for none"),
    "none": ({"resamples": 0, "donor": "donor"}, "donor='donor' asks for intervals, but `resamples` is 0"),
    "seed": ({"seed": -1}, "seed=-1 is out of range; it must be an integer from 0"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD.keys())
def test_wrong_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gb.compare(["good", "bad"], **options)


def test_donors_without_cells_raise() -> None:
    with pytest.raises(InputError, match=r"donor='donor' needs results with a cells.parquet next to them"):
        gb.compare(["alone", "alone"], donor="donor")
