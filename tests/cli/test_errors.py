"""Messages name arguments in Python and flags on the command line."""

from __future__ import annotations

import pickle

import pytest
import typer

import gpubench as gb
from gpubench.cli.errors import complain, flag_of
from gpubench.cli.main import app
from gpubench.core.errors import EngineUnavailable, GpubenchError, InputError
from gpubench.running.options import SPECS

MESSAGES = {
    "value": (InputError("label='celltype' is not a column", argument="label"), "--label 'celltype' is not a column"),
    "two words": (InputError("pre_integrated has 3 rows", argument="pre_integrated"), "--pre-integrated has 3 rows"),
    "list": (InputError("cells=[5] cannot be profiled", argument="cells"), "--cells [5] cannot be profiled"),
    "plural": (InputError("embeddings: two are called 'a'", argument="embeddings"), "--embedding: two are called 'a'"),
    "other flag": (InputError("cluster='a' is not a file", argument="cluster"), "--scheduler 'a' is not a file"),
    "parameter": (InputError("k=0 cannot be used", argument="k"), "--option k=0 cannot be used"),
    "not at the start": (InputError("label=3: too few", argument="batch"), "label=3: too few"),
    "remedy": (InputError("a.h5ad: name one with `embeddings`"), "a.h5ad: name one with --embedding"),
    "remedy of a task": (InputError("too few cells; lower `n_folds`"), "too few cells; lower --option n_folds"),
    "several": (
        EngineUnavailable("knn='ivf' is approximate, which `exact` forbids", argument="knn"),
        "--knn 'ivf' is approximate, which --exact forbids",
    ),
    "names of data": (InputError("'label=3' is in seed=1.h5ad, `a b` too"), "'label=3' is in seed=1.h5ad, `a b` too"),
}


@pytest.mark.parametrize(("error", "message"), MESSAGES.values(), ids=MESSAGES.keys())
def test_arguments_become_flags(error: GpubenchError, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(error) == 2
    assert capsys.readouterr().err == f"gpubench: {message}\n"


def test_run_files_keep_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(InputError("label='x' is not a column", argument="label"), with_flags=False) == 2
    assert capsys.readouterr().err == "gpubench: label='x' is not a column\n"


def test_errors_carry_their_argument_through_pickling() -> None:
    error = pickle.loads(pickle.dumps(InputError("seed=-1 cannot be used", argument="seed")))
    assert (str(error), error.argument) == ("seed=-1 cannot be used", "seed")


def test_every_flag_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    flags = {flag for parameter in commands["score"].params for flag in parameter.opts}
    assert {flag_of(name) for name in SPECS} - {"DATA"} <= flags


def test_score_errors_carry_their_argument() -> None:
    x = [[0.0], [1.0], [2.0], [3.0]]
    wrong = {"label": "x", "engine": "gpu", "knn": "hnsw", "precision": "low", "seed": -1, "baseline": "mean", "k": 0}
    for name, value in wrong.items():
        with pytest.raises(InputError) as raised:
            gb.score(x, **{"label": [0, 0, 1, 1], "tasks": "embedding", "engine": "cpu", name: value})
        assert raised.value.argument == name
        assert str(raised.value).startswith(f"{name}=")
