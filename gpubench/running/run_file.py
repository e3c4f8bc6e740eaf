"""Read run files: YAML files with several runs, all of which are checked before anything is computed.

::

    defaults:                 # for all runs
      label: cell_type
      tasks: [clustering, embedding]
    runs:
      pbmc:
        data: pbmc3k.h5ad     # path relative to the run file, or name of a dataset
        embeddings: [X_pca, scvi.npy]
      blood:
        data: tsv2_blood
        embeddings: {scgpt: blood_scgpt.npy}
        options: {resolution: 0.5}

Every model on every dataset can be written as a matrix, which adds a run for each dataset::

    datasets:
      lung: {data: lung.h5ad, label: cell_type}
      liver: {data: liver.h5ad, label: celltype}
    models:
      pca: X_pca                        # key of obsm in each file
      scvi: "scvi/{dataset}.npy"        # a file for each dataset
      scgpt: {lung: scgpt_lung.npy}     # not scored on the others

The keys of a run and of a dataset are the fields of `gpubench.running.options.RunOptions`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from gpubench import data as readers
from gpubench.core.errors import InputError, close_matches
from gpubench.core.units import parse_bytes
from gpubench.core.yaml_document import Value, read_document
from gpubench.data.urls import is_url
from gpubench.datasets.lookup import is_dataset_name
from gpubench.running.options import SPECS, Kind, RunOptions
from gpubench.tasks import TASKS, Options

_NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a run file: its name, its place in the file, and its options."""

    name: str  # name of the run, and of the folder of its results
    where: str  # file and line, for messages
    options: RunOptions  # what to score, and how

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """In a `with` block, begin the messages of errors with the place and the name of the run."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.where}: run {self.name!r}: {error}") from error


def read_run_file(path: str | os.PathLike[str]) -> list[PlannedRun]:
    """Read a run file, and check everything that can be checked without reading the data.

    Messages of errors name the file and the line.
    """
    document = read_document(path, "run file")
    top = document.mapping(("defaults", "runs", "models", "datasets"))
    if "runs" not in top and not {"models", "datasets"} <= top.keys():
        lacks = {"models", "datasets"} - top.keys()
        fault = "a run file has its runs under the key 'runs', or 'models' and 'datasets'"
        raise document.error(f"{fault}; add {min(lacks) if len(lacks) == 1 else 'that'}")
    folder = Path(path).parent
    defaults = _arguments(top["defaults"], folder) if "defaults" in top else {}
    given = {name: (value, _arguments(value, folder)) for name, value in _named(top, "runs", "run").items()}
    if "datasets" in top or "models" in top:
        given |= _matrix_runs(document, top, folder)
    runs = []
    for name, (value, own) in given.items():
        if not _NAME.fullmatch(name):
            raise value.error(f"run {name!r} cannot name a folder; use letters, digits, and _ . + -")
        parameters = {**defaults.get("options", {}), **own.get("options", {})}
        arguments = {**defaults, **own, "options": Options(**parameters)}
        if "data" not in arguments:
            raise value.error(f"run {name!r} has no data; give a path, or the name of a dataset")
        runs.append(PlannedRun(name, value.where, RunOptions(**arguments)))
    if not runs:
        raise document.error("there is no run; write at least one")
    _refuse_doubles(runs)
    return runs


def _named(top: Mapping[str, Value], key: str, what: str) -> Mapping[str, Value]:
    return top[key].mapping(what=what) if key in top else {}


def _matrix_runs(document: Value, top: Mapping[str, Value], folder: Path) -> dict[str, tuple[Value, dict[str, Any]]]:
    """Return dataset -> its place in the file and its arguments, with the models that have an embedding of it."""
    if not {"models", "datasets"} <= top.keys():
        raise document.error("models and datasets belong together; give both, or neither")
    if "defaults" in top and "embeddings" in top["defaults"].mapping():
        raise top["defaults"].error("defaults have embeddings, but those of datasets are under models; leave them out")
    data = top["datasets"].mapping(what="dataset")
    for name, value in data.items():
        if name in _named(top, "runs", "run"):
            raise value.error(f"dataset {name!r} is also the name of a run; rename one of them")
    embeddings: dict[str, dict[str, str]] = {name: {} for name in data}
    for model, value in top["models"].mapping(what="model").items():
        places = value.mapping(tuple(data), "dataset") if value.is_mapping else dict.fromkeys(data, value)
        for name, place in places.items():
            embeddings[name][model] = _matrix(place, "embedding", folder, dataset=name)
    runs = {}
    for name, value in data.items():
        arguments = _arguments(value, folder)
        if "embeddings" in arguments:
            raise value.error(f"dataset {name!r} has embeddings; give them under models")
        if not embeddings[name]:
            raise value.error(f"no model has an embedding of dataset {name!r}; add one, or leave out the dataset")
        runs[name] = value, {**arguments, "embeddings": embeddings[name]}
    return runs


def _arguments(value: Value, folder: Path) -> dict[str, Any]:
    """Read the keys of a run as option -> value; parameters of tasks stay a dict, so that defaults can be merged."""
    known = [name for name, spec in SPECS.items() if spec.in_run_file]
    return {name: READERS[SPECS[name].kind](given, name, folder) for name, given in value.mapping(known).items()}


def _file(value: Value, key: str, folder: Path, dataset: str | None = None) -> str:
    text = value.text(key) if dataset is None else value.text(key).replace("{dataset}", dataset)
    if is_url(text):
        return text
    path = folder / text
    if not path.exists():
        raise value.error(f"{key}: {path} does not exist; check the path")
    return str(path)


def _choice(value: Value, key: str, _: Path) -> str:
    text, known = value.text(key), SPECS[key].choices()
    if text not in known:
        what = f"{key.removesuffix('s')} {text!r}"
        raise value.error(f"{what} is unknown{close_matches(text, known)}; use one of: {', '.join(known)}")
    return text


def _choices(value: Value, key: str, folder: Path) -> list[str]:
    return list(dict.fromkeys(_choice(item, key, folder) for item in value.items()))


def _tasks(value: Value, key: str, folder: Path) -> list[str]:
    names = _choices(value, key, folder)
    if "auto" in names and len(names) > 1:
        raise value.error("tasks: auto means all tasks whose inputs are given; leave out auto, or the others")
    return names


def _plain(kind: type, noun: str) -> Callable[[Value, str, Path], Any]:
    def read(value: Value, key: str, _: Path) -> Any:
        plain = value.plain()
        if not isinstance(plain, kind) or (kind is not bool and isinstance(plain, bool)):
            raise value.error(f"{key} must be {noun}")
        return plain

    return read


def _memory(value: Value, _key: str, _: Path) -> int:
    try:
        return parse_bytes(str(value.plain()))
    except InputError as error:
        raise value.error(str(error)) from error


def _scorers(value: Value, key: str, _: Path) -> dict[str, Any] | None:
    from gpubench.tasks._scorers import parse_scorers  # imports scikit-learn

    try:
        return parse_scorers([item.text(key) for item in value.items()])
    except InputError as error:
        raise value.error(str(error)) from error


def _parameters(value: Value, _key: str, _: Path) -> dict[str, Any]:
    known = tuple(field.name for field in fields(Options))
    parameters = {}
    for name, given in value.mapping(known, "option").items():
        parameters[name] = given.plain()
        try:
            Options(**{name: parameters[name]})
        except (InputError, TypeError) as error:
            raise given.error(str(error)) from error
    return parameters


def _data(value: Value, _key: str, folder: Path) -> Any:
    if value.is_mapping:
        return {name: _source(item, folder) for name, item in value.mapping(what="species").items()}
    if value.is_list:
        return [_source(item, folder) for item in value.items()]
    return _source(value, folder)


def _source(value: Value, folder: Path) -> str:
    """Read the data of a run: a URL, a path relative to `folder`, or the name of a known dataset."""
    text = value.text("data")
    if is_url(text):
        return text
    path = folder / text
    if path.exists():
        return str(path)
    if not is_dataset_name(text):
        raise value.error(f"data: {path} does not exist; check the path")
    from gpubench.datasets.catalogue import find, read_catalogues

    try:
        find(text, read_catalogues())
    except InputError as error:
        raise value.error(f"data: there is no file {text!r}, and {error}") from error
    return text


def _embeddings(value: Value, _key: str, folder: Path) -> dict[str, str]:
    """Read the embeddings of a run as name -> key of `obsm`, or path; paths are relative to `folder`."""
    if value.is_mapping:
        return {name: _matrix(item, "embedding", folder) for name, item in value.mapping(what="embedding").items()}
    found: dict[str, str] = {}
    for item in value.items():
        name, _ = readers.split_name(item.text("embedding"))
        if name in found:
            raise item.error(f"two embeddings are called {name!r}; write them as name: path")
        found[name] = _matrix(item, "embedding", folder)
    return found


def _predictions(value: Value, key: str, folder: Path) -> str | dict[str, str]:
    """Read the predictions of a run as one path, or as name -> path; paths are relative to `folder`."""
    if value.is_mapping:
        return {name: _file(item, key, folder) for name, item in value.mapping(what="prediction").items()}
    return _file(value, key, folder)


def _matrix(value: Value, key: str, folder: Path, dataset: str | None = None) -> str:
    """Read an embedding: a key of `obsm`, or a path; {dataset} in it stands for the name of the dataset."""
    text = value.text(key) if dataset is None else value.text(key).replace("{dataset}", dataset)
    return _file(value, key, folder, dataset) if readers.split_name(text)[0] != text else text


READERS: dict[Kind, Callable[[Value, str, Path], Any]] = {
    "data": _data,
    "embeddings": _embeddings,
    "predictions": _predictions,
    "file": _file,
    "matrix": _matrix,
    "text": lambda value, key, _: value.text(key),
    "tasks": _tasks,
    "choices": _choices,
    "choice": _choice,
    "scorers": _scorers,
    "parameters": _parameters,
    "whole number": _plain(int, "a whole number"),
    "switch": _plain(bool, "true or false"),
    "memory": _memory,
}
"""Kind of an option -> function that reads its value."""


def _refuse_doubles(runs: list[PlannedRun]) -> None:
    """Raise `InputError` if two runs would compute the same scores."""
    for other, run in combinations(runs, 2):
        embeddings = _embedding_items(run.options) & _embedding_items(other.options)
        tasks = _task_ids(run.options) & _task_ids(other.options)
        rest, rest_of_other = (replace(one.options, embeddings=None, tasks="auto") for one in (run, other))
        if embeddings and tasks and rest == rest_of_other:
            names = ", ".join(sorted(name for name, _ in embeddings))
            both = f"{names} on {', '.join(task for task in TASKS if task in tasks)}"
            same = f"computes the same as {other.name!r} ({other.where}): {both}"
            raise InputError(f"{run.where}: run {run.name!r} {same}; leave one out")


def _embedding_items(run: RunOptions) -> set[tuple[str, str]]:
    embeddings = run.embeddings if isinstance(run.embeddings, Mapping) else {}
    return set((embeddings or {"the only embedding": ""}).items())


def _task_ids(run: RunOptions) -> set[str]:
    if "auto" in run.tasks:
        return {task.id for task in TASKS.values() if task.in_auto}
    return set(run.tasks)
