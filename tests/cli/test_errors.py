"""Messages in the words of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

import gpubench
from gpubench.cli.errors import FLAGS, PHRASES, RENAMED, in_flags
from gpubench.cli.main import app

SAID = {
    "an argument": ("label='celltype' is not a column", "--label 'celltype' is not a column"),
    "two words": ("pre_integrated has 3 rows", "--pre-integrated has 3 rows"),
    "several": ('knn="ivf" is approximate, which exact forbids', '--knn "ivf" is approximate, which --exact forbids'),
    "a list": ("cells=[5] cannot be profiled", "--cells [5] cannot be profiled"),
    "a remedy": ("a.h5ad has several embeddings; name one in embeddings: 'a'", None),
    "another name": ("embeddings: two are called 'a'", "--embedding: two are called 'a'"),
    "another flag": ("cluster='a.json' is no file", "--scheduler 'a.json' is no file"),
    "names of data": ("'label=3' is in embeddings.h5ad, and \"seed=1\", too", "'label=3' is in embeddings.h5ad, and"),
    "a flag": ("--memory 'x' is no amount; relabel=1", "--memory 'x' is no amount; relabel=1"),
}


@pytest.mark.parametrize(("message", "said"), SAID.values(), ids=SAID.keys())
def test_arguments_become_flags(message: str, said: str | None) -> None:
    assert (said or "a.h5ad has several embeddings; name one with --embedding: 'a'") in in_flags(message)


def test_every_flag_exists() -> None:
    commands = typer.main.get_command(app)
    flags = {flag for command in commands.commands.values() for option in command.params for flag in option.opts}
    assert {f"--{name.replace('_', '-')}" for name in (*FLAGS, *RENAMED.values())} <= flags


def test_every_phrase_is_in_a_message() -> None:
    code = "\n".join(
        file.read_text()
        for file in Path(gpubench.__file__).parent.rglob("*.py")
        if file.parts[-2:] != ("cli", "errors.py")
    )
    joined = code.replace('"\n            f"', "").replace('"\n            "', "").replace('"\n                "', "")
    assert [phrase for phrase in PHRASES if phrase not in joined] == []
