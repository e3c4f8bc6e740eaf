"""The options of a run are declared once: the Python signature, the flags and the choices follow."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields

import numpy as np
import pytest
import typer

import gpubench as gb
from gpubench.cli.main import app
from gpubench.core.errors import InputError
from gpubench.running.options import SPECS, RunOptions
from gpubench.tasks import Options

OF_THE_CALL = {"checkpoint", "listener", "key_added", "options"}
"""Parameters of `gpubench.score` that say nothing about what is scored, and its parameters of tasks."""


def test_signature_of_score_equals_the_fields() -> None:
    signature = inspect.signature(gb.score).parameters
    parameters = {name: parameter for name, parameter in signature.items() if name not in OF_THE_CALL}
    declared = {field.name: field for field in fields(RunOptions) if field.name != "options"}
    assert set(parameters) == set(declared)
    for name, parameter in parameters.items():
        default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
        assert declared[name].default == default, name
        assert declared[name].type == parameter.annotation, name


def test_every_field_is_described_by_score() -> None:
    described = gb.score.__doc__ or ""
    names = [
        word.strip() for line in described.splitlines() if " : " in line for word in line.split(" : ")[0].split(",")
    ]
    assert set(SPECS) - set(names) == {"options"}


def test_every_field_has_its_flags() -> None:
    command = typer.main.get_command(app).commands["score"]  # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    declared = {name for spec in SPECS.values() for flag in spec.flags for name in flag.names}
    assert {name for flag in declared for name in flag.split("/")} - {"DATA"} <= flags


def test_choices_contain_the_default() -> None:
    choices = {name: spec.choices() for name, spec in SPECS.items() if spec.named_in}
    assert choices["engine"] == ["auto", "cpu", "cuda", "dask"]
    assert choices["precision"] == ["exact", "fast"]
    assert choices["tasks"][:2] == ["auto", "clustering"]
    assert choices["options"] == [field.name for field in fields(Options)]
    assert "accuracy" in choices["scorers"]
    assert all(choices.values())


def test_arguments_are_divided_into_fields_and_parameters_of_tasks() -> None:
    assert RunOptions.of(data="a", seed=7, k=5) == RunOptions("a", seed=7, options=Options(k=5))
    with pytest.raises(InputError, match=r"option 'resolutoin' is unknown .did you mean 'resolution'"):
        RunOptions.of(data="a", resolutoin=1)


def test_provenance_names_columns_and_no_values() -> None:
    recorded = RunOptions("a", label="cell_type", batch=[1, 2]).recorded()
    assert recorded == {"label": "cell_type", "batch": "array", **Options().to_dict()}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("labels", "label"), ("label_key", "label"), ("batch_key", "batch"), ("n_jobs", "threads"), ("batchs", "batch")],
)
def test_names_of_other_packages_are_answered_with_ours(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"option '{name}' is unknown .did you mean '{meant}'"):
        RunOptions.of(data="a", **{name: "cell_type"})


def test_memory_is_bytes_or_text() -> None:
    given = {"data": np.eye(40), "label": ["a", "b"] * 20, "tasks": "embedding", "engine": "cpu"}
    assert gb.score(**given, memory="2GB").provenance["engine"]["memory_bytes"] == 2_000_000_000
    with pytest.raises(InputError, match="much"):
        gb.score(**given, memory="much")
