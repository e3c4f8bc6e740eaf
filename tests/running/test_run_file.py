"""Run files: what they may say, what is refused with its line, and what a run of them leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import gpubench as gb
from gpubench.cli.main import main
from gpubench.datasets import demo_path
from gpubench.engines.cpu.rates import FEATURES
from gpubench.results.result import Result
from gpubench.running.options import SPECS, RunOptions
from gpubench.running.run_file import READERS, read_run_file
from gpubench.running.score import score_run
from gpubench.tasks import Options

RUNS = """
defaults:
  label: cell_type
  tasks: [embedding, batch_integration]
  options: {n_neighbors: 20}
runs:
  lines:
    data: cells/lines.h5ad
    embeddings: [X_pca, emb.npy]
    batch: batch
  named:
    data: cells/lines.h5ad
    embeddings: {mine: emb.npy}
    batch: batch
    options: {n_neighbors: 30}
    seed: 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cells and a run file; commands are written as from elsewhere."""
    project = tmp_path / "project"
    (project / "cells").mkdir(parents=True)
    cells = ad.read_h5ad(demo_path())[::4].copy()
    cells.write_h5ad(project / "cells" / "lines.h5ad")
    np.save(project / "emb.npy", cells.obsm["X_pca"][:, :5])
    (project / "run.yaml").write_text(RUNS)
    monkeypatch.chdir(tmp_path)
    for name in ("GPUBENCH_CATALOGUE", "GPUBENCH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return project


@pytest.fixture
def write(folder: Path) -> Callable[[str], Path]:
    """Write another run file."""

    def write_text(text: str) -> Path:
        path = folder / "other.yaml"
        path.write_text(text)
        return path

    return write_text


def test_runs_merge_defaults_and_their_own_options(folder: Path) -> None:
    lines, named = read_run_file(folder / "run.yaml")
    assert (lines.name, lines.where) == ("lines", f"{folder / 'run.yaml'}:8")
    assert lines.options == RunOptions(
        label="cell_type",
        batch="batch",
        tasks=["embedding", "batch_integration"],
        data=str(folder / "cells" / "lines.h5ad"),
        embeddings={"X_pca": "X_pca", "emb": str(folder / "emb.npy")},
        options=Options(n_neighbors=20),
    )
    assert named.options == replace(
        lines.options, options=Options(n_neighbors=30), seed=7, embeddings={"mine": str(folder / "emb.npy")}
    )


def test_every_option_of_a_run_file_can_be_read() -> None:
    assert {spec.kind for spec in SPECS.values() if spec.in_run_file} == set(READERS)


def run_of(**lines: str) -> str:
    """A run file of one good run, with some lines added."""
    given = {"data": "cells/lines.h5ad", "label": "cell_type", **lines}
    return "runs:\n  a:\n" + "".join(f"    {key}: {value}\n" for key, value in given.items())


WRONG = {
    "top": ("rums: {}\n", r":1: key 'rums' is unknown \(did you mean 'runs'\?\)"),
    "no runs": ("defaults: {}\n", ":1: a run file has its runs under the key 'runs'"),
    "empty": ("runs: {}\n", ":1: there is no run; write at least one"),
    "no models": ("datasets: {a: {data: cells/lines.h5ad}}\n", ":1: a run file has its runs .*; add models"),
    "models of no dataset": (
        "datasets:\n  a: {data: cells/lines.h5ad}\nmodels:\n  m: {b: X_pca}\n",
        ":4: dataset 'b' is unknown",
    ),
    "dataset without a model": (
        "datasets:\n  a: {data: cells/lines.h5ad}\n  b: {data: cells/lines.h5ad}\nmodels:\n  m: {a: X_pca}\n",
        ":3: no model has an embedding of dataset 'b'",
    ),
    "no file for a dataset": (
        'datasets:\n  a: {data: cells/lines.h5ad}\nmodels:\n  m: "{dataset}.npy"\n',
        r":4: embedding: .*a.npy does not exist; check the path",
    ),
    "embeddings of a dataset": (
        "datasets:\n  a: {data: cells/lines.h5ad, embeddings: X_pca}\nmodels:\n  m: X_pca\n",
        ":2: dataset 'a' has embeddings; give them under models",
    ),
    "default embeddings of a matrix": (
        "defaults: {embeddings: X_pca}\ndatasets:\n  a: {data: cells/lines.h5ad}\nmodels:\n  m: X_pca\n",
        ":1: defaults have embeddings, but those of datasets are under models",
    ),
    "list": ("runs:\n  - data: x\n", ":2: expected a mapping, lines of 'run: ...', not a list"),
    "name": ("runs:\n  ../a: {data: emb.npy}\n", r":2: run '../a' cannot name a folder"),
    "no data": ("runs:\n  a: {label: x}\n", ":2: run 'a' has no data; give a path"),
    "no file": (run_of(data="gone.h5ad"), ":3: data: .*gone.h5ad does not exist; check the path"),
    "no dataset": (
        run_of(data="tsv2_blod"),
        r":3: data: there is no file .*in no catalogue \(did you mean 'tsv2_blood'",
    ),
    "key": (run_of(lable="x"), r":5: key 'lable' is unknown \(did you mean 'label'\?\)"),
    "task": (run_of(tasks="[embedding, clusterin]"), r":5: task 'clusterin' is unknown \(did you mean 'clustering'"),
    "auto and more": (run_of(tasks="[auto, embedding]"), ":5: tasks: auto means all tasks whose inputs are given"),
    "option": (run_of(options="{resolutoin: 1}"), r":5: option 'resolutoin' is unknown \(did you mean 'resolution'"),
    "option's value": (run_of(options="{k: 0}"), r":5: k=0 cannot be used; give a whole number of at least 1"),
    "option's type": (run_of(options="{k: many}"), r":5: k='many' cannot be used"),
    "engine": (run_of(engine="gpu"), r":5: engine 'gpu' is unknown.*; use one of: auto, cpu, cuda"),
    "search": (run_of(knn="ivff"), r":5: knn 'ivff' is unknown \(did you mean 'ivf'\?\)"),
    "precision": (run_of(precision="fst"), r":5: precision 'fst' is unknown \(did you mean 'fast'"),
    "seed": (run_of(seed="1.5"), ":5: seed must be a whole number"),
    "exact": (run_of(exact="1"), ":5: exact must be true or false"),
    "memory": (run_of(memory="lots"), ":5: memory='lots' is not an amount of memory; write it as 4GB"),
    "scorer": (run_of(scorers="[acuracy]"), r":5: scorers='acuracy' is not a scorer .*did you mean 'accuracy'"),
    "baseline": (run_of(baseline="pac"), r":5: baseline 'pac' is unknown \(did you mean 'pca'"),
    "embedding file": (run_of(embeddings="gone.npy"), ":5: embedding: .*gone.npy does not exist; check the path"),
    "two of a name": (run_of(embeddings="[emb.npy, emb.npy]"), ":5: two embeddings are called 'emb'"),
    "number": (run_of(batch="3"), r":5: batch must be a text, not a number \(3\); put it in quotes"),
    "species": (run_of(data="{human: gone.h5ad}"), ":3: data: .*gone.h5ad does not exist"),
    "syntax": ("runs: {a: [}\n", ":1: this is not YAML"),
    "double": (
        "runs:\n  a: {data: emb.npy}\n  b: {data: emb.npy, tasks: embedding}\n",
        r":3: run 'b' computes the same as 'a' \(.*other.yaml:2\): the only embedding on embedding; leave one out",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_invalid_run_file_is_refused_with_its_line(
    text: str,
    message: str,
    write: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpubench.running.score.score_run", lambda *_, **__: pytest.fail("nothing may be computed"))
    path = write(text)
    assert main(["score", str(path), "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch(rf"gpubench: {re.escape(str(path))}{message}.*\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


MATRIX = """
defaults: {label: cell_type, tasks: [embedding]}
datasets:
  all: {data: cells/lines.h5ad}
  part: {data: part.h5ad, label: label}
models:
  pca: X_pca
  own: "{dataset}.npy"
  other: {part: part.npy}
"""


def test_every_model_is_scored_on_every_dataset(
    folder: Path, write: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ad.read_h5ad(folder / "cells" / "lines.h5ad")
    part = cells[::2].copy()
    part.obs = part.obs.rename(columns={"cell_type": "label"})
    part.write_h5ad(folder / "part.h5ad")
    for name, own in {"all": cells, "part": part}.items():
        np.save(folder / f"{name}.npy", own.obsm["X_pca"][:, :3])
    path = write(MATRIX)
    both, half = read_run_file(path)
    assert (both.name, both.options.embeddings) == ("all", {"pca": "X_pca", "own": str(folder / "all.npy")})
    own = str(folder / "part.npy")
    assert (half.name, half.options.label) == ("part", "label")
    assert half.options.embeddings == {"pca": "X_pca", "own": own, "other": own}
    assert main(["score", str(path), "--out", str(tmp_path / "out")]) == 0
    board = gb.leaderboard(tmp_path / "out")
    assert set(board.models) == {"pca", "own", "other"}
    assert board.models[-1] == "other"  # it was not scored everywhere
    assert len(board.datasets) == 2


def test_names_of_datasets_are_put_into_keys_of_obsm(write: Callable[[str], Path]) -> None:
    text = 'datasets:\n  a: {data: cells/lines.h5ad}\nmodels:\n  m: "X_{dataset}"\n'
    (run,) = read_run_file(write(text))
    assert run.options.embeddings == {"m": "X_a"}


def test_runs_that_differ_are_not_refused_as_doubles(write: Callable[[str], Path]) -> None:
    text = "runs:\n" + "".join(
        f"  {name}: {{data: cells/lines.h5ad, label: cell_type, {more}}}\n"
        for name, more in {
            "a": "embeddings: X_pca, tasks: embedding",
            "b": "embeddings: X_pca, tasks: clustering",
            "c": "embeddings: emb.npy, tasks: embedding",
            "d": "embeddings: X_pca, tasks: embedding, seed: 1",
            "e": "embeddings: X_pca, tasks: scib",
        }.items()
    )
    assert len(read_run_file(write(text))) == 5


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_runs_are_written_to_own_folders_and_one_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["score", "project/run.yaml", "--out", str(out), "--format", "csv", "--report"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert {"lines/results.json", "lines/results.csv", "named/results.json", "named/results.csv"} < set(names(out))
    assert {"runs.csv", "report.html"} < set(names(out))
    assert not [name for name in names(out) if "checkpoint" in name or name.endswith(".tmp")]
    given: dict[str, Any] = {"label": "cell_type", "batch": "batch", "tasks": ["embedding", "batch_integration"]}
    data, emb = "project/cells/lines.h5ad", "project/emb.npy"
    lines = gb.score(data, {"X_pca": "X_pca", "emb": emb}, n_neighbors=20, **given)
    named = gb.score(data, {"mine": emb}, n_neighbors=30, seed=7, **given)
    for name, alone in (("lines", lines), ("named", named)):
        together = Result.from_json(out / name / "results.json")
        assert [(r.embedding, r.metric, r.value) for r in together.results] == [
            (r.embedding, r.metric, r.value) for r in alone.results
        ]
    frame = pd.read_csv(out / "runs.csv")
    assert frame["run"].tolist() == ["lines"] * 6 + ["named"] * 3
    assert frame["value"].tolist() == [row.value for result in (lines, named) for row in result.results]
    assert re.search(r"^ +mine$", printed.out, re.MULTILINE)
    assert re.search(r"^  silhouette_score +0\.\d{4}[ *]* 0\.\d{4}\*?$", printed.out, re.MULTILINE)
    assert "Compare the embeddings with: gpubench compare" in printed.out
    assert "[2/2] named\n" in printed.out


@pytest.mark.slow
def test_complete_runs_are_reused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["score", "project/run.yaml", "--out", str(out)]
    assert main(arguments) == 0
    first, table = (out / "lines" / "results.json").read_bytes(), (out / "runs.csv").read_bytes()
    scored = []

    def spied(run: RunOptions, **given: Any) -> Result:
        scored.append(sorted(run.embeddings or ()))
        return score_run(run, **given)

    monkeypatch.setattr("gpubench.running.score.score_run", spied)
    capsys.readouterr()
    assert main(arguments) == 0
    assert scored == []
    assert f"Reused the complete result in {out / 'lines'}" in capsys.readouterr().out
    assert ((out / "lines" / "results.json").read_bytes(), (out / "runs.csv").read_bytes()) == (first, table)
    emb = folder / "emb.npy"
    np.save(emb, np.load(emb) * 2 + 1)
    (folder / "run.yaml").write_text(RUNS.replace("[X_pca, emb.npy]", "[X_pca]"))
    assert main(arguments) == 2
    arguments.append("--force")
    assert main(arguments) == 0
    assert scored == [["X_pca"], ["mine"]], "one asks for other embeddings, of the other a file has changed"
    (out / "named" / "results.json").write_text(
        json.dumps(json.loads((out / "named" / "results.json").read_text()) | {"interrupted": True})
    )
    assert main(arguments) == 0
    assert scored[2:] == [["mine"]]
    (out / "named" / "results.json").write_text("{")
    assert main(arguments) == 0
    assert scored[3:] == [["mine"]]


@pytest.mark.slow
def test_run_is_scored_again_if_its_dataset_changed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.yaml").write_text("datasets: {mine: {path: cells/lines.h5ad, label: cell_type}}")
    monkeypatch.setenv("GPUBENCH_CATALOGUE", str(folder / "mine.yaml"))
    (folder / "run.yaml").write_text("runs: {all: {data: mine, embeddings: [X_pca], tasks: [embedding]}}")
    arguments = ["score", "project/run.yaml", "--out", str(tmp_path / "out")]
    reused = []
    for _ in range(2):
        assert main(arguments) == 0
        reused.append("Reused" in capsys.readouterr().out)
    assert reused == [False, True]
    cells = ad.read_h5ad(folder / "cells" / "lines.h5ad")[::2].copy()
    cells.write_h5ad(folder / "cells" / "lines.h5ad")
    assert main([*arguments, "--force"]) == 0
    assert "Reused" not in capsys.readouterr().out
    assert Result.from_json(tmp_path / "out" / "all" / "results.json").results[0].n == cells.n_obs


def test_every_run_is_checked_with_its_data_before_anything_is_computed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpubench.running.score.score_run", lambda *_, **__: pytest.fail("nothing may be computed"))
    np.save(folder / "short.npy", np.zeros((3, 2), np.float32))
    cells = ad.read_h5ad(folder / "cells" / "lines.h5ad")
    cells.obs["same"] = "one"
    cells.write_h5ad(folder / "cells" / "lines.h5ad")
    wrong = {
        "batch: bacth": r"batch='bacth' is not a column of .*did you mean 'batch'",
        "embeddings: [X_pac]": r"'X_pac' .*did you mean 'X_pca'",
        "embeddings: [short.npy]": "has 3 rows",
        "label: same": "label has one value",
        "tasks: [sequential_organization]": "needs `time`",
        "pre_integrated: X_pac": "pre_integrated",
    }
    runs = [f"  r{i}: {{data: cells/lines.h5ad, embeddings: [X_pca], {line}}}" for i, line in enumerate(wrong)]
    runs = [re.sub(r"embeddings: \[X_pca\], (?=embeddings)", "", line) for line in runs]
    text = "defaults: {label: cell_type}\nruns:\n  good: {data: cells/lines.h5ad, embeddings: [X_pca], seed: 1}\n"
    (folder / "run.yaml").write_text(text.replace("{label", "{tasks: auto, label") + "\n".join(runs) + "\n")
    assert main(["score", "project/run.yaml", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    for i, (line, message) in enumerate(zip(lines, wrong.values(), strict=True)):
        assert re.match(rf"gpubench: project/run.yaml:{i + 4}: run 'r{i}': .*{message}", line), line
    assert not (tmp_path / "out").exists()


def test_results_of_other_options_are_replaced_by_force_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", "project/run.yaml", "--out", str(tmp_path / "out"), "-q"]
    assert main(arguments) == 0
    written = (tmp_path / "out" / "named" / "results.json").read_bytes()
    (folder / "run.yaml").write_text(RUNS.replace("seed: 7", "seed: 8"))
    assert main(arguments) == 2
    assert re.fullmatch(
        r"gpubench: project/run.yaml:12: run 'named': out='.*named' holds .* of another run \(seed 7 instead of 8\);"
        r" .*--force\n",
        capsys.readouterr().err,
    )
    assert (tmp_path / "out" / "named" / "results.json").read_bytes() == written
    assert main([*arguments, "--force"]) == 0
    assert Result.from_json(tmp_path / "out" / "named" / "results.json").provenance["seed"] == 8


def test_failing_run_does_not_stop_the_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emb = np.load(folder / "emb.npy")
    emb[0, 0] = np.nan
    np.save(folder / "nan.npy", emb)
    (folder / "run.yaml").write_text(RUNS.replace("{mine: emb.npy}", "{mine: nan.npy}"))
    assert main(["score", "project/run.yaml", "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert re.fullmatch(r"gpubench: project/run.yaml:12: run 'named': mine: 1 of .* rows hold NaN.*\n", printed.err)
    assert "silhouette_score" in printed.out
    assert not (tmp_path / "out" / "named").exists()


def test_interrupted_run_file_is_resumed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: RunOptions, **given: Any) -> Result:
        if run.embeddings and "mine" in run.embeddings:
            raise KeyboardInterrupt
        return score_run(run, **given)

    with monkeypatch.context() as patch:
        patch.setattr("gpubench.running.score.score_run", interrupted)
        assert main(["score", "project/run.yaml", "--out", str(tmp_path / "out")]) == 130
    assert "Interrupted: run the same command to continue." in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "runs.csv")["run"]) == {"lines"}
    assert main(["score", "project/run.yaml", "--out", str(tmp_path / "out")]) == 0
    assert "Reused the complete result in" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "out" / "runs.csv")["run"]) == {"lines", "named"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "x", "--out", "o"], "--label does not go with a run file; write it there"),
        (["-t", "embedding", "--out", "o"], "--task does not go with a run file"),
        (["--seed", "42", "--out", "o"], "--seed does not go with a run file"),
        (["--trace", "t.json", "--out", "o"], "--trace does not go with a run file; leave it out"),
        (["--workers", "2", "--out", "o"], "--workers does not go with a run file; leave it out"),
        ([], "a run file needs --out: the folder in which each run gets its own folder"),
        (["more.h5ad", "--out", "o"], "a run file goes alone"),
    ],
)
def test_flags_that_belong_in_the_run_file_are_refused(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "project/run.yaml", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a machine that is not measured."""
    monkeypatch.setattr("gpubench.engines.costs.measure_rates", lambda _: dict.fromkeys(FEATURES, (0.0, 0.0, 0.0)))
    monkeypatch.setenv("GPUBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("rates")
def test_plan_of_a_run_file_has_each_run_and_their_sum(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "project/run.yaml", "--plan"]) == 0
    printed = capsys.readouterr().out
    first, second = printed.split("[2/2] named\n")
    assert first.startswith("[1/2] lines\nstage ")
    assert "X_pca/embedding/silhouette_score" in first
    assert "mine/batch_integration/entropy_per_cell" in second
    assert re.search(r"\n\n2 runs: about [^;]+; at most \d[^,]+B, held by '(lines|named)'\.\n$", second)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("rates")
def test_plan_skips_complete_runs_and_reports_runs_that_cannot_start(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["score", "project/run.yaml", *out, "--quiet"]) == 0
    (folder / "run.yaml").write_text(RUNS.replace("seed: 7", "seed: 7\n    species: spicies"))
    assert main(["score", "project/run.yaml", *out, "--plan"]) == 2
    printed = capsys.readouterr()
    assert "[1/2] lines\nComplete: the result in " in printed.out
    assert "runs:" not in printed.out
    assert re.fullmatch(
        r"gpubench: [^\n]*run.yaml:12: run 'named': species='spicies' is not a column[^\n]*\n", printed.err
    )


def test_quiet_prints_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "project/run.yaml", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["score", "gone.yaml", "--out", str(tmp_path / "out")]) == 2
    assert (
        capsys.readouterr().err
        == "gpubench: run file 'gone.yaml' cannot be read: No such file or directory; check the path\n"
    )
