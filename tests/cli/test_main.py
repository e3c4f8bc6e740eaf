"""The command line: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from stores import zarr_writer

import gpubench as gb
from gpubench.cli import errors
from gpubench.cli import main as cli_main
from gpubench.cli.main import main
from gpubench.core.scores import MetricResult
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.results.result import Result
from gpubench.tasks import TASKS

N = 60
OLD = b"an older result\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good cells in several formats, and everything that can be wrong with them."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    label = np.repeat(["T cell", "B cell", "NK cell"], N // 3)
    obs = pd.DataFrame(
        {
            "cell_type": label,
            "donor": np.tile(["a", "b"], N // 2),
            "day": np.repeat([0, 1, 2], N // 3),
            "unused": pd.Categorical(label, categories=["T cell", "B cell", "NK cell", "monocyte"]),
            "no_donor": pd.Categorical(np.tile(["a", "b"], N // 2), categories=["a", "b", "c"]),
            "one": "same",
            "single": [f"cell {i}" for i in range(N)],
            "some_missing": np.where(np.arange(N) < 2, None, label),
            "day_missing": np.where(np.arange(N) == 4, np.nan, 1.0),
            "words": np.tile(["early", "late"], N // 2),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    x = rng.normal(size=(N, 5)).astype(np.float32) + np.repeat([[0], [3], [6]], N // 3, axis=0).astype(np.float32)
    nan, inf = x.copy(), x.copy()
    nan[[1, 5, 7, 20], 0] = np.nan
    inf[2, 1] = np.inf
    cells = ad.AnnData(obs=obs, obsm={"X_pca": x, "X_nan": nan, "X_inf": inf, "X_other": x + 1})
    cells.write_h5ad(folder / "cells.h5ad")
    cells[:0].copy().write_h5ad(folder / "none.h5ad")
    cells[:1].copy().write_h5ad(folder / "one.h5ad")
    content = (folder / "cells.h5ad").read_bytes()
    (folder / "truncated.h5ad").write_bytes(content[: len(content) // 2])
    (folder / "text.h5ad").write_text("not cells\n")
    (folder / "empty.h5ad").touch()
    (folder / "empty.npy").touch()
    np.save(folder / "emb.npy", x)
    (folder / "emb.pt").write_text("no tensor")
    np.save(folder / "complex.npy", x + 1j)
    np.save(folder / "object.npy", x.astype(object), allow_pickle=True)
    np.save(folder / "flat.npy", x[:, 0])
    obs[["cell_type", "donor", "day"]].to_parquet(folder / "obs.parquet")
    obs[["cell_type"]].head(N - 10).to_parquet(folder / "short.parquet")
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are written as a user in that folder would."""
    monkeypatch.chdir(folder)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with an older result in it."""
    (tmp_path / "results.json").write_bytes(OLD)
    return tmp_path


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())


CELLS = ["cells.h5ad", "-e", "X_pca", "--label", "cell_type"]
SEPARATION = [*CELLS, "-t", "embedding"]
CLUSTERING = [*CELLS, "-t", "clustering"]
MIXING = [*CELLS, "--batch", "donor", "-t", "batch_integration"]
ORDER = ["cells.h5ad", "-e", "X_pca", "--time", "day"]
ARRAY = ["--obs", "obs.parquet", "--label", "cell_type", "-t", "embedding"]

BAD_INPUT = {
    "NaN embedding": (
        ["cells.h5ad", "-e", "X_nan", "--label", "cell_type", "-t", "embedding"],
        r"X_nan: 4 of 60 rows hold NaN or infinite values \(first: 1, 5, 7\); remove or impute",
    ),
    "infinite embedding": (
        ["cells.h5ad", "-e", "X_inf", "--label", "cell_type", "-t", "embedding"],
        r"X_inf: 1 of 60 rows .* 2\)",
    ),
    "NaN labels": (["cells.h5ad", "-e", "X_pca", "--label", "some_missing"], r"label: 2 of 60 rows .*0, 1.*leave"),
    "NaN times": (["cells.h5ad", "-e", "X_pca", "--time", "day_missing"], r"time: 1 of 60 rows .*4"),
    "lengths that differ": (
        ["emb.npy", "--obs", "short.parquet", "--label", "cell_type"],
        r"label has 50 values .* 60 rows; give one value per cell",
    ),
    "unknown embedding": (["cells.h5ad", "-e", "X_pc", "--label", "cell_type"], "'X_pc' .*did you mean 'X_pca'"),
    "unknown column": (["cells.h5ad", "-e", "X_pca", "--label", "celltype"], "'celltype' .*did you mean 'cell_type'"),
    "unknown batch": ([*CELLS, "--batch", "doner"], "--batch 'doner' .*did you mean 'donor'"),
    "a choice of embeddings": (
        ["cells.h5ad", "--label", "cell_type"],
        "several embeddings; name one or more with --embedding: .*'X_pca'",
    ),
    "missing file": (["cels.h5ad", "--label", "cell_type"], "cels.h5ad does not exist .*'cells.h5ad'"),
    "missing table": (["emb.npy", "--obs", "no.parquet", "--label", "cell_type"], "obs: no.parquet does not exist"),
    "truncated file": (["truncated.h5ad", "--label", "cell_type"], "truncated.h5ad .*copy or download it again"),
    "not HDF5": (["text.h5ad", "--label", "cell_type"], "text.h5ad is not an HDF5 file"),
    "empty file": (["empty.h5ad", "--label", "cell_type"], "empty.h5ad is empty"),
    "empty array": (["empty.npy", *ARRAY], "empty.npy is empty; check the path, or copy it again"),
    "a folder": ([".", "--label", "cell_type"], r"\. is a folder, and not a zarr group of AnnData; give a file"),
    "no expression": (
        ["cells.h5ad", "--predictions", "cells.h5ad", "--control", "x"],
        "cells.h5ad has no expression in X; give a file that has it",
    ),
    "little memory": ([*SEPARATION, "--memory", "10kB"], r"--memory 10,000 bytes is too little .*67.1 MB"),
    "a name that is too long": ([*SEPARATION, "--trace", "x" * 300], "'x+' cannot be used: File name too long; check"),
    "zero cells": (["none.h5ad", "-e", "X_pca", "--label", "cell_type"], "no (rows|cells)"),
    "one cell": (["one.h5ad", "-e", "X_pca", "--label", "cell_type"], "1 cell; at least two are needed"),
    "one label": (["cells.h5ad", "-e", "X_pca", "--label", "one"], "label has one value .'same'. in all 60 rows"),
    "one batch": ([*CELLS, "--batch", "one"], "batch has one value .'same'. in all 60 rows"),
    "all labels singletons": (
        ["cells.h5ad", "-e", "X_pca", "--label", "single"],
        "label has a different value in each",
    ),
    "non-numeric time": (["cells.h5ad", "-e", "X_pca", "--time", "words"], "time is not numeric.*'early'.*such as '"),
    "k of 0": ([*ORDER, "-o", "k=0"], "k=0 cannot be used; give a whole number of at least 1"),
    "negative k": ([*ORDER, "-o", "k=-3"], "k=-3 cannot be used"),
    "n_neighbors of 1": ([*MIXING, "-o", "n_neighbors=1"], "n_neighbors=1 cannot be used"),
    "resolution of 0": ([*CLUSTERING, "-o", "resolution=0"], "resolution=0.0 cannot be used"),
    "one fold": ([*CELLS, "-t", "label_prediction", "-o", "n_folds=1"], "n_folds=1 cannot be used"),
    "k that is no number": ([*ORDER, "-o", "k=many"], "--option k='many' is not a whole number"),
    "unknown option": ([*ORDER, "-o", "resolutoin=1"], "'resolutoin' .*did you mean 'resolution'"),
    "unknown task": ([*CELLS, "-t", "clusterin"], "task 'clusterin' .*did you mean 'clustering'"),
    "unknown scorer": ([*SEPARATION, "--scorer", "acuracy"], "--scorer 'acuracy' .*did you mean 'accuracy'"),
    "unknown engine": ([*SEPARATION, "--engine", "gpu"], "--engine 'gpu' is unknown; use one of: auto, cpu, cuda"),
    "unknown baseline": ([*SEPARATION, "--baseline", "pc"], "--baseline 'pc' is unknown; use one of: 'pca'"),
    "unknown format": ([*SEPARATION, "--format", "xml"], "--format 'xml' is unknown"),
    "negative seed": ([*SEPARATION, "--seed", "-1"], "--seed -1 is out of range; it must be an integer"),
    "huge seed": ([*SEPARATION, "--seed", "99999999999"], "--seed 99999999999 is out of range; it must be"),
    "seed that is no number": ([*SEPARATION, "--seed", "x"], "'--seed'.*see gpubench score --help"),
    "unknown search": ([*SEPARATION, "--knn", "hnsw"], "'hnsw'"),
    "no threads": ([*SEPARATION, "--threads", "0"], "--threads 0: at least one thread is needed"),
    "no amount of memory": ([*SEPARATION, "--memory", "lots"], "--memory 'lots' .*write it as 4GB"),
    "complex dtype": (["complex.npy", *ARRAY], "complex"),
    "object dtype": (["object.npy", *ARRAY], "object"),
    "one dimension": (["flat.npy", *ARRAY], r"must be a matrix .* shape \(60,\)"),
    "array without table": (
        ["emb.npy", "--label", "cell_type"],
        "--label 'cell_type' names a column, but .* give --obs, the",
    ),
    "no task possible": (["cells.h5ad", "-e", "X_pca"], "no task can run: give --label"),
    "task without input": (
        [*CELLS, "-t", "batch_integration"],
        "task 'batch_integration' needs --batch; name a column of obs: 'cell_type', 'donor'",
    ),
    "flag of a parameter": ([*CLUSTERING, "--n-iterations", "3"], "write it as -o n_iterations=VALUE"),
    "flag of another program": ([*CELLS, "--batch_key", "donor"], "--batch_key; write --batch"),
    "unknown classifier": (
        [*CELLS, "-o", "classifiers=lr,tree"],
        "classifiers: 'tree' is unknown; name one or several",
    ),
    "embeddings with commas": (
        ["cells.h5ad", "-e", "X_pca, X_other", "--label", "cell_type"],
        "one by one: -e X_pca -e X_other",
    ),
    "unknown task among others": (
        [*CELLS, "-t", "embedding,clusterin"],
        "task 'clusterin' .*did you mean 'clustering'",
    ),
    "an embedding as a species": (
        ["emb.npy", "cells.h5ad", "--label", "cell_type"],
        "emb.npy is one matrix; .* give cells.h5ad alone and emb.npy with --embedding",
    ),
    "another format": (["cells.h5ad", "-e", "emb.pt", "--label", "cell_type"], r"emb.pt is a pickle.*numpy.save"),
    "unknown flag": ([*SEPARATION, "--lable", "x"], "No such option:? '?--lable.*see gpubench score --help"),
    "no data": ([], "Missing argument.*see gpubench score --help"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_loses_nothing(
    arguments: list[str], message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["score", *arguments, "--out", str(out), "--force"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"gpubench: .*{message}.*\n", printed.err), printed.err
    assert code == 2
    assert names(out) == ["results.json"]
    assert (out / "results.json").read_bytes() == OLD


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret.h5ad"
    secret.write_bytes(Path("cells.h5ad").read_bytes())
    secret.chmod(0)
    assert main(["score", str(secret), "--label", "cell_type"]) == 2
    assert "permission denied" in capsys.readouterr().err


def test_an_unwritable_folder_is_found_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpubench.running.score.score_run", lambda *_, **__: pytest.fail("nothing may be computed"))
    (tmp_path / "file").touch()
    assert main(["score", *SEPARATION, "--out", str(tmp_path / "file" / "results")]) == 2
    assert "part of that path is a file; choose another folder" in capsys.readouterr().err
    (tmp_path / "results.json").mkdir()
    assert main(["score", *SEPARATION, "--out", str(tmp_path)]) == 2
    assert "has a folder called results.json" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--quiet"], ["--format", "csv"], ["--report"]])
def test_flags_without_an_output_folder_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *SEPARATION, *flags]) == 2
    assert f"{flags[0]} without --out" in (message := capsys.readouterr().err)
    assert "would save nothing" in message


def test_quiet_with_a_trace_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *SEPARATION, "--quiet", "--trace", str(tmp_path / "trace.json")]) == 0
    assert capsys.readouterr() == ("", "")
    assert names(tmp_path) == ["trace.json"]


def test_trace_may_be_written_to_the_new_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, elsewhere = tmp_path / "r", tmp_path / "none" / "trace.json"
    assert main(["score", *SEPARATION, "--quiet", "--out", str(out), "--trace", str(out / "trace.json")]) == 0
    assert "trace.json" in names(out)
    assert main(["score", *SEPARATION, "--quiet", "--out", str(out), "--trace", str(elsewhere)]) == 2
    assert "make it first" in capsys.readouterr().err


def test_scores_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["score", *SEPARATION, "--out", str(tmp_path / "new" / "r"), "--format", "json,csv", "--format", "parquet"]
    )
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert re.search(r"^ +X_pca\nembedding\n  silhouette_score +0\.\d{4}$", printed.out, re.MULTILINE)
    assert printed.out.isprintable() or set(filter(lambda c: not c.isprintable(), printed.out)) == {"\n"}
    assert f"Wrote {tmp_path / 'new' / 'r' / 'results.json'}\n" in printed.out
    written = names(tmp_path / "new" / "r")
    assert written == ["cells.parquet", "results.csv", "results.json", "results.parquet"]
    result = Result.from_json(tmp_path / "new" / "r" / "results.json")
    frame = pd.read_parquet(tmp_path / "new" / "r" / "results.parquet")
    assert frame["value"].tolist() == [result.value("silhouette_score")]
    assert result.provenance["dataset"]["source"] == "cells.h5ad"
    assert result.provenance["seed"] == 42
    assert {"read", "X_pca", "X_pca/embedding"} <= {stage["path"] for stage in result.timeline}


def test_a_trace_is_written_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, out = tmp_path / "trace.json", tmp_path / "r"
    assert main(["score", *SEPARATION, "--out", str(out), "--trace", str(trace)]) == 0
    assert f"Wrote {trace}\n" in capsys.readouterr().out
    stages = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [stage["args"]["path"] for stage in stages] == [
        stage["path"] for stage in Result.from_json(out / "results.json").timeline
    ]
    written = trace.read_bytes()
    monkeypatch.setattr("gpubench.results.result.chrome_trace", lambda _: {"half": Path()})
    with pytest.raises(TypeError):
        main(["score", *SEPARATION, "--trace", str(trace)])
    assert trace.read_bytes() == written
    assert names(tmp_path) == ["r", "trace.json"]


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpubench.running.score.score_run", lambda *_, **__: pytest.fail("nothing may be computed"))
    for path, message in ((tmp_path, "is a folder; name a file"), (tmp_path / "no" / "t.json", "there is no folder")):
        assert main(["score", *SEPARATION, "--trace", str(path)]) == 2
        assert message in capsys.readouterr().err


def test_results_of_another_run_are_replaced_by_force_alone(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(CpuEngine, "put", lambda *_: pytest.fail("nothing may be computed"))
        assert main(["score", *SEPARATION, *given]) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(
        r"gpubench: --out '.*' holds results.json of another run \(.*cannot be read\);.*--force\n", message
    )
    assert (out / "results.json").read_bytes() == OLD
    assert main(["score", *SEPARATION, *given, "--force"]) == 0
    assert f"Overwrote {out / 'results.json'}\n" in capsys.readouterr().out
    assert main(["score", *SEPARATION, *given]) == 0, "the same run may be repeated"
    for other, expected in (
        (["cells.h5ad", "-e", "X_pca", "--label", "donor", "-t", "embedding"], "label cell_type instead of donor"),
        ([*SEPARATION, "-e", "X_other"], r"embeddings \['X_pca'\] instead of \['X_pca', 'X_other'\]"),
        ([*SEPARATION, "--seed", "7"], "seed 42 instead of 7"),
        ([*SEPARATION, "-o", "resolution=2"], "resolution 1.0 instead of 2.0"),
        ([*SEPARATION, "--scorer", "accuracy"], r"scorers None instead of \['accuracy'\]"),
        (["cells.h5ad", "-e", "X_pca=emb_shifted.npy", *SEPARATION[3:]], "other values of the same names"),
    ):
        np.save("emb_shifted.npy", np.load("emb.npy") + 1)
        written = (out / "results.json").read_bytes()
        assert main(["score", *other, *given]) == 2
        assert re.search(expected, capsys.readouterr().err), other
        assert (out / "results.json").read_bytes() == written


def test_files_of_an_earlier_run_are_removed_with_new_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *SEPARATION, "--out", str(tmp_path), "--format", "json,csv,parquet", "--report"]) == 0
    (tmp_path / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(["score", *MIXING, "--out", str(tmp_path), "--force"]) == 0
    assert names(tmp_path) == ["cells.parquet", "notes.txt", "results.json"]
    printed = capsys.readouterr().out
    for name in ("report.html", "results.csv", "results.parquet"):
        assert f"Removed {tmp_path / name} of the earlier run" in printed
    (tmp_path / "report.html").write_text("<h1>my own page</h1>")
    assert main(["score", *MIXING, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == "<h1>my own page</h1>"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["results.csv", "--label", "cell_type"], "data"),
        (["cells.h5ad", "-e", "mine=results.csv", "--label", "cell_type"], "embeddings"),
        (["cells.h5ad", "-e", "linked.csv", "--label", "cell_type"], "embeddings"),
        (["emb.npy", "--obs", "cells.parquet", "--label", "cell_type"], "obs"),
        (
            ["cells.h5ad", "-e", "X_pca", "--label", "cell_type", "--trace", "results.csv", "--obs", "results.csv"],
            "obs",
        ),
    ],
)
def test_an_input_is_never_an_output(
    arguments: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pd.DataFrame(np.eye(N, 3)).to_csv(tmp_path / "results.csv")
    (tmp_path / "linked.csv").hardlink_to(tmp_path / "results.csv")
    for file in ("obs.parquet", "cells.h5ad", "emb.npy"):
        (tmp_path / {"obs.parquet": "cells.parquet"}.get(file, file)).write_bytes(Path(file).read_bytes())
    monkeypatch.chdir(tmp_path)
    before = {file: (tmp_path / file).read_bytes() for file in names(tmp_path)}
    assert main(["score", *arguments, "--out", ".", "--force"]) == 2
    assert re.fullmatch(
        rf"gpubench: --out '.*' is the input '.*' \({name}\).*overwritten[^\n]*\n", capsys.readouterr().err
    )
    assert {file: (tmp_path / file).read_bytes() for file in names(tmp_path)} == before


def test_results_are_not_written_into_a_store_that_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = zarr_writer(2)(ad.read_h5ad("cells.h5ad"), tmp_path)
    arguments = ["score", str(store), "-e", "X_pca", "--label", "cell_type", "-t", "embedding"]
    assert main([*arguments, "--out", str(store / "results")]) == 2
    assert "is inside of the input" in capsys.readouterr().err


def test_a_trace_replaces_no_result_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "results.json"
    assert main(["score", *SEPARATION, "--out", str(tmp_path), "--trace", str(trace)]) == 2
    assert "--trace" in (message := capsys.readouterr().err)
    assert "is a result file of the run" in message


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["score", *SEPARATION, "--label", "donor"], "--label"),
        (["score", *SEPARATION, "--seed=1", "--seed", "2"], "--seed"),
        (["score", *SEPARATION, "--exact", "--no-exact"], "--no-exact"),
        (["report", "a.json", "-o", "x.html", "-o", "y.html"], "-o"),
        (["compare", "a.json", "--donor", "x", "--donor", "y"], "--donor"),
        (["profile", "--cells", "1k", "--cells=2k"], "--cells"),
    ],
)
def test_a_flag_with_one_value_is_given_once(
    arguments: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == (
        "",
        f"gpubench: {flag} is given more than once, and takes one value; leave out all but one\n",
    )


def test_switches_may_be_repeated() -> None:
    assert main(["score", *SEPARATION, "-v", "-v", "-e", "X_other", "-o", "k=5", "-o", "resolution=1"]) == 0


def test_help_names_no_type_of_a_switch(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["score"], ["compare"], ["datasets", "list"]):
        assert main([*command, "--help"]) == 0
        printed = capsys.readouterr().out
        assert "<bool>" not in printed
        assert "list[str]" not in printed


def test_a_report_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *SEPARATION, "--out", str(tmp_path), "--report"]) == 0
    assert f"Wrote {tmp_path / 'report.html'}\n" in capsys.readouterr().out
    assert names(tmp_path) == ["cells.parquet", "report.html", "results.json"]
    assert "Are labels separated in the embedding?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_wrong_name_is_refused_before_scikit_learn_is_imported(folder: Path) -> None:
    arguments = ["score", "cells.h5ad", "-e", "X_pcaa", "--label", "cell_type"]
    code = f"import sys; from gpubench.cli.main import main; assert main({arguments!r}) == 2; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "did you mean 'X_pca'" in done.stderr
    assert not {"sklearn", "scipy.stats"} & set(done.stdout.split())


@pytest.mark.slow
def test_scores_without_a_report_do_not_load_what_draws_it(tmp_path: Path) -> None:
    arguments = ["score", *SEPARATION, "--out", str(tmp_path), "-q"]
    code = f"import sys; from gpubench.cli.main import main; main({arguments!r}); "
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert "gpubench.results.result" in loaded.stdout.split()
    assert not {"matplotlib", "jinja2", "markupsafe"} & set(loaded.stdout.split())


def test_without_a_folder_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    before = names(Path())
    assert main(["score", *SEPARATION]) == 0
    assert "Results were not saved; add --out" in capsys.readouterr().out
    assert names(Path()) == before


def test_quiet_prints_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *SEPARATION, "--out", str(out), "--force", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (out / "results.json").read_bytes() != OLD


def test_verbose_shows_stages_and_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *SEPARATION, "--verbose"]) == 0
    assert re.search(r"stage +seconds +copied MB +peak MB", capsys.readouterr().out)
    assert main(["score", *SEPARATION, "--seed", "-1", "--verbose"]) == 2
    assert re.search(r"Traceback.*\ngpubench: --seed -1 is out of range[^\n]*\n$", capsys.readouterr().err, re.DOTALL)


def test_the_command_line_is_in_the_provenance(tmp_path: Path) -> None:
    given = ["cells.h5ad", "-e", "X_pca", "-e", "mine=emb.npy", "--label", "cell_type", "-t", "embedding", "-o", "k=7"]
    assert main(["score", *given, "--seed", "3", "--exact", "--memory", "4GB", "--out", str(tmp_path / "a"), "-q"]) == 0
    first = Result.from_json(tmp_path / "a" / "results.json")
    words = shlex.split(first.provenance["command"])
    assert words[:2] == ["gpubench", "score"]
    assert main([*words[1:], "--out", str(tmp_path / "b"), "-q"]) == 0
    again = Result.from_json(tmp_path / "b" / "results.json")
    assert [(row.embedding, row.value) for row in again.results] == [
        (row.embedding, row.value) for row in first.results
    ]
    assert again.provenance["command"] == first.provenance["command"]
    assert "command" not in gb.score(np.load("emb.npy"), label=["a", "b"] * (N // 2), tasks="embedding").provenance


def test_datasets_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    assert "fetch" in capsys.readouterr().out


def test_skipped_tasks_are_listed_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *ORDER]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Not run:\n  clustering \(needs --label\)\n", printed, re.DOTALL)


@pytest.mark.parametrize(("column", "same_as"), [("unused", "cell_type"), ("no_donor", "donor")])
def test_only_categories_that_occur_count(column: str, same_as: str, tmp_path: Path) -> None:
    """A category without cells changes no number."""
    label, batch = (column, "donor") if same_as == "cell_type" else ("cell_type", column)
    values = []
    for run, columns in enumerate([(label, batch), ("cell_type", "donor")]):
        given = ["--label", columns[0], "--batch", columns[1], "-t", "batch_integration", "-t", "embedding"]
        folder = tmp_path / str(run)
        assert main(["score", "cells.h5ad", "-e", "X_pca", *given, "--out", str(folder), "-q"]) == 0
        values.append([row.value for row in Result.from_json(folder / "results.json").results])
    assert values[0] == values[1]


def test_more_neighbours_than_cells_are_cut_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *MIXING, "-o", "n_neighbors=1000"]) == 0
    assert "n_neighbors cut from 1000 to 60" in capsys.readouterr().out


def test_an_array_with_a_table_gives_the_numbers_of_the_h5ad(tmp_path: Path) -> None:
    assert main(["score", *SEPARATION, "--out", str(tmp_path / "h5ad"), "-q"]) == 0
    assert main(["score", "emb.npy", *ARRAY, "--out", str(tmp_path / "npy"), "-q"]) == 0
    values = [Result.from_json(tmp_path / name / "results.json").value("silhouette_score") for name in ("h5ad", "npy")]
    assert values[0] == values[1]


def test_several_embeddings_are_scored_in_one_run(tmp_path: Path) -> None:
    cells = ad.read_h5ad("cells.h5ad")
    cells.obsm["X_scvi"] = cells.obsm["X_pca"][:, :2]
    cells.write_h5ad(tmp_path / "two.h5ad")
    arguments = [str(tmp_path / "two.h5ad"), "-e", "X_pca", "-e", "X_scvi", "--label", "cell_type", "-t", "embedding"]
    assert main(["score", *arguments, "--out", str(tmp_path), "-q"]) == 0
    assert [row.embedding for row in Result.from_json(tmp_path / "results.json").results] == ["X_pca", "X_scvi"]


def test_one_file_for_each_species(tmp_path: Path) -> None:
    cells = ad.read_h5ad("cells.h5ad")
    cells[::2].copy().write_h5ad(tmp_path / "human.h5ad")
    cells[1::2].copy().write_h5ad(tmp_path / "mouse.h5ad")
    files = [str(tmp_path / "human.h5ad"), str(tmp_path / "mouse.h5ad")]
    arguments = [*files, "-e", "X_pca", "--label", "cell_type", "-t", "cross_species_integration"]
    assert main(["score", *arguments, "--out", str(tmp_path), "-q"]) == 0
    result = Result.from_json(tmp_path / "results.json")
    assert {row.task for row in result.results} == {"cross_species_integration"}
    assert result.provenance["dataset"]["n_cells"] == N


KNN = "gpubench.engines.cpu.engine.CpuEngine.knn"
NO_ROOM = "out of memory (no room); use fewer cells, or smaller blocks with --memory 4GB (in Python memory, in bytes)"


def raise_no_room(*_: Any, **__: Any) -> Any:
    raise MemoryError("no room")


def replace_task(monkeypatch: pytest.MonkeyPatch, name: str, run: Any) -> None:
    """Let a task run something else."""
    monkeypatch.setitem(TASKS, name, type(TASKS[name])(**{**_fields(TASKS[name]), "run": run}))


def _fields(task: Any) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


@pytest.mark.parametrize("where", ["gpubench.data.read", "gpubench.engines.cpu.engine.CpuEngine.put", KNN])
def test_running_out_of_memory_is_one_line(
    where: str, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, raise_no_room)
    assert main(["score", *CLUSTERING, "--out", str(out), "--force"]) == 2
    assert capsys.readouterr() == ("", f"gpubench: {NO_ROOM}\n")
    assert (out / "results.json").read_bytes() == OLD
    assert main(["score", *CLUSTERING, "--verbose"]) == 2
    assert re.fullmatch(r"Traceback.*\ngpubench: out of memory[^\n]*\n", capsys.readouterr().err, re.DOTALL)


def test_out_of_memory_has_a_remedy_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubench.engines.cpu.engine.CpuEngine.put", raise_no_room)
    with pytest.raises(MemoryError, match=re.escape(NO_ROOM)) as raised:
        gb.score(np.eye(40), label=["a", "b"] * 20, tasks="embedding", engine="cpu")
    assert isinstance(raised.value, gb.GpubenchError)


@pytest.mark.parametrize("method", ["put", "knn"])
def test_finished_scores_are_kept_if_the_next_embedding_does_not_fit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    do = getattr(CpuEngine, method)

    def once(*args: Any) -> Any:
        calls.append(1)
        return do(*args) if len(calls) == 1 else raise_no_room()

    monkeypatch.setattr(CpuEngine, method, once)
    given = ["-e", "X_other", "-t", "embedding", "-o", "n_cluster_neighbors=5"]
    assert main(["score", *CLUSTERING, *given, "--out", str(tmp_path)]) == 1
    result = Result.from_json(tmp_path / "results.json")
    scored = [(row.embedding, row.task) for row in result.results]
    failed = [(failure["embedding"], failure["task"]) for failure in result.failures]
    first_scores = [("X_pca", "clustering"), ("X_pca", "clustering"), ("X_pca", "embedding")]
    if method == "put":
        assert (scored, failed) == (first_scores, [("X_other", "clustering"), ("X_other", "embedding")])
    else:  # silhouettes need no neighbours
        assert (scored, failed) == ([*first_scores, ("X_other", "embedding")], [("X_other", "clustering")])
    assert {failure["error"] for failure in result.failures} == {NO_ROOM}


def test_failed_task_exits_with_1_and_other_scores_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(given: Any) -> Iterator[MetricResult]:
        yield MetricResult(given.name, "clustering", "adjusted_rand_index", 0.5)
        raise MemoryError("no room")

    replace_task(monkeypatch, "clustering", fail)
    assert main(["score", *CLUSTERING, "-t", "embedding", "--out", str(tmp_path)]) == 1
    assert "Failed:\n  clustering on X_pca: out of memory (no room); use fewer cells" in capsys.readouterr().out
    result = Result.from_json(tmp_path / "results.json")
    assert [row.metric for row in result.results] == ["adjusted_rand_index", "silhouette_score"]
    assert result.failures == [{"task": "clustering", "embedding": "X_pca", "error": NO_ROOM}]


@pytest.mark.parametrize("second", [["-e", "X_nan"], ["--baseline", "pca"]], ids=["NaN embedding", "no expression"])
def test_finished_scores_are_kept_if_the_next_embedding_is_refused(
    second: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", *SEPARATION, *second, "--out", str(tmp_path)]) == 1
    assert "Failed:\n  embedding on " in capsys.readouterr().out
    result = Result.from_json(tmp_path / "results.json")
    assert [row.embedding for row in result.results] == ["X_pca"]
    assert [failure["task"] for failure in result.failures] == ["embedding"]


def test_ctrl_c_keeps_finished_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(given: Any) -> Iterator[MetricResult]:
        yield MetricResult(given.name, "embedding", "silhouette_score", 0.5)
        signal.raise_signal(signal.SIGINT)

    replace_task(monkeypatch, "embedding", interrupt)
    assert main(["score", *SEPARATION, "-t", "clustering", "--out", str(tmp_path)]) == 130
    printed = capsys.readouterr()
    assert "Interrupted: the scores above were finished before." in printed.out
    assert printed.err == ""
    result = Result.from_json(tmp_path / "results.json")
    assert result.interrupted
    assert "silhouette_score" in [row.metric for row in result.results]


def test_an_interrupted_run_does_not_replace_complete_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["score", *SEPARATION, "-t", "clustering", "--out", str(tmp_path)]
    assert main(given) == 0
    written = (tmp_path / "results.json").read_bytes()

    def interrupt(given: Any) -> Iterator[MetricResult]:
        yield MetricResult(given.name, "embedding", "silhouette_score", 0.5)
        signal.raise_signal(signal.SIGINT)

    replace_task(monkeypatch, "embedding", interrupt)
    capsys.readouterr()
    assert main(given) == 130
    assert f"Kept the complete results in {tmp_path}; those of the interrupted run" in capsys.readouterr().out
    assert (tmp_path / "results.json").read_bytes() == written


@pytest.mark.parametrize("where", ["gpubench.data.read", "gpubench.engines.cpu.engine.CpuEngine.knn"])
def test_ctrl_c_before_the_first_score_leaves_the_older_result(
    where: str, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    assert main(["score", *CLUSTERING, "--out", str(out), "--force"]) == 130
    assert capsys.readouterr() == ("", "gpubench: interrupted before any task was finished\n")
    assert (out / "results.json").read_bytes() == OLD


def test_a_full_disk_at_the_end_still_shows_the_scores(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["score", *SEPARATION, "--out", str(out), "--force"]) == 2
    printed = capsys.readouterr()
    assert "silhouette_score" in printed.out
    assert re.fullmatch(r"gpubench: results.json cannot be written .*free some space[^\n]*\n", printed.err)
    assert (out / "results.json").read_bytes() == OLD


@pytest.mark.slow
def test_the_demo_scores_cells_that_come_with_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert names(tmp_path) == ["cells.parquet", "report.html", "results.csv", "results.json"]
    result = Result.from_json(tmp_path / "results.json")
    assert {row.task for row in result.results} == {"clustering", "embedding", "label_prediction", "batch_integration"}
    assert result.failures == []
    assert str(Path(cli_main.__file__).parents[1]) not in json.dumps(result.provenance), (
        "where gpubench is installed is private"
    )
    meanings = printed.partition("What the numbers mean:\n")[2]
    for metric in {row.metric for row in result.results}:
        assert re.search(rf"^  {metric}\n    \w", meanings, re.MULTILINE), metric
    assert max(map(len, meanings.splitlines())) < 80


@pytest.mark.slow
def test_the_demo_of_predictions_says_what_scores_are_worth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--task", "perturbation_prediction", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert names(tmp_path) == ["perturbations.parquet", "report.html", "results.csv", "results.json"]
    result = Result.from_json(tmp_path / "results.json")
    rank = {name: result.value("discrimination_score_l1", embedding=name) for name in ("replicate 2", "linear", "mean")}
    assert rank["replicate 2"] > rank["linear"] > rank["mean"]
    assert str(Path(cli_main.__file__).parents[1]) not in json.dumps(result.provenance)
    for said in (
        "control cells differ from",
        "hardly depend on the perturbation",
        "  [controls]",
        "  [effects]",
        "  pearson_delta\n    Pearson over genes",
        "mae: A repeated experiment (0.0600) is no better than the mean of all",
        "of the way to a perfect prediction",
    ):
        assert re.search(re.escape(said).replace(r"\ ", r"\s+"), printed), said


def test_there_is_no_demo_of_other_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--task", "perturbation"]) == errors.EXIT_BAD_INPUT
    assert "did you mean 'perturbation_prediction'" in capsys.readouterr().err


def test_doctor_says_whether_scoring_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Scoring works here.\n")
    monkeypatch.setattr("gpubench.cli.doctor.works", lambda _: False)
    assert main(["doctor"]) == 1


def test_tasks_and_metrics_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    listed = capsys.readouterr().out
    for task in TASKS.values():
        assert f"{task.id}\n  {task.question}\n" in listed
    assert "n_cluster_neighbors=15" in listed, "the options and their defaults"
    assert main(["metrics"]) == 0
    assert "silhouette_score  [0, 1]\n" in capsys.readouterr().out


COMMANDS = ("score", "demo", "audit", "doctor", "prepare", "report", "compare", "datasets", "tasks", "metrics")


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert command in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "-h"]) == 0
    assert f"gpubench {command}" in capsys.readouterr().out


def test_several_tasks_may_be_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", *CELLS, "--batch", "donor", "-t", "embedding,batch_integration"]) == 0
    printed = capsys.readouterr().out
    assert "silhouette_score" in printed
    assert "entropy_per_cell" in printed


@pytest.mark.parametrize("name", ["ARI", "adjusted_rand_index", "adjusted rand index"])
def test_one_metric_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", name]) == 0
    printed = capsys.readouterr().out
    for text in ("Adjusted Rand index (adjusted_rand_index)", "higher is better", "ARI = ", "doi:10.1007/BF01908075"):
        assert text in printed
    assert main(["metrics", "purity"]) == 2
    assert "metric 'purity' is unknown" in capsys.readouterr().err


def test_a_file_in_place_of_a_command_is_meant_for_score(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cells.h5ad"]) == 2
    assert capsys.readouterr().err.endswith("did you mean: gpubench score cells.h5ad?\n")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scor"]) == 2
    assert re.fullmatch(r"gpubench: .*'scor'.*'score'.*\n", capsys.readouterr().err)


def in_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "-m", "gpubench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["score", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from gpubench.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'numpy', 'pandas', 'numba', 'scipy', 'sklearn', 'h5py', 'anndata'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_version() -> None:
    done = in_process("--version")
    assert re.fullmatch(r"gpubench \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.slow
def test_a_real_process_scores_into_a_pipe(tmp_path: Path) -> None:
    done = in_process("score", *SEPARATION, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
def test_a_real_process_refuses_bad_input() -> None:
    done = in_process("score", "cells.h5ad", "-e", "X_nan", "--label", "cell_type", "-t", "embedding")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpubench: X_nan: 4 of 60 rows")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_store_with_much_damage_is_one_line_in_a_real_process(tmp_path: Path) -> None:
    """zarr reads the parts at once, and each that fails would have something to say."""
    store = zarr_writer(2)(ad.read_h5ad("cells.h5ad"), tmp_path)
    (store / ".zmetadata").unlink()
    for file in store.rglob(".zarray"):
        file.write_text("")
    command = [sys.executable, "-m", "gpubench", "score", store, "--label", "cell_type"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"gpubench: .* cannot be read .*copy or download it again\n", done.stderr)


@pytest.mark.slow
def test_terminal_gets_colour_and_the_progress_line_is_removed(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "gpubench", "score", *SEPARATION]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[1m" in shown, "bold"
    assert b"silhouette_score" in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h"), "the cursor is shown again"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other side is closed
        return b""
