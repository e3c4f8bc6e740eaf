"""Run files: several runs in one YAML file, checked as a whole before anything is computed.

::

    defaults:                 # of every run below
      label: cell_type
      tasks: [clustering, embedding]
    runs:
      pbmc:
        data: pbmc3k.h5ad     # beside the run file, or the name of a dataset
        embeddings: [X_pca, scvi.npy]
      blood:
        data: tsv2_blood
        embeddings: {scgpt: blood_scgpt.npy}
        options: {resolution: 0.5}
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from gpubench import data as readers
from gpubench.core.errors import InputError, close_matches
from gpubench.core.units import parse_bytes
from gpubench.core.yaml_document import Value, read_document
from gpubench.data.urls import is_url
from gpubench.datasets.lookup import is_dataset_name
from gpubench.engines import ENGINES, KNN_METHODS
from gpubench.engines.base import Precision
from gpubench.running.prepare import BASELINES
from gpubench.tasks import TASKS, Options
from gpubench.tasks._scorers import parse_scorers

_NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")
_COLUMNS = ("label", "batch", "time", "species", "sample", "condition", "control")
_FILES = ("obs", "predictions")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a run file.

    Attributes
    ----------
    name : of the run; its results go into a folder of this name
    where : file and line, for messages
    arguments : of `gpubench.score`
    """

    name: str
    where: str
    arguments: dict[str, Any]


def read_run_file(path: str | os.PathLike[str]) -> list[PlannedRun]:
    """Read a run file and check all that can be checked without reading the data.

    Raises
    ------
    InputError
        What is wrong, with file and line, and the names that may have been meant; or two runs that would compute the
        same.
    """
    document = read_document(path, "run file")
    top = document.mapping(("defaults", "runs"))
    if "runs" not in top:
        raise document.error("a run file has its runs under the key 'runs'; add that")
    folder = Path(path).parent
    defaults = _arguments(top["defaults"], folder) if "defaults" in top else {}
    plans = []
    for name, value in top["runs"].mapping(what="run").items():
        if not _NAME.fullmatch(name):
            raise value.error(f"run {name!r} cannot name a folder; use letters, digits, and _ . + -")
        arguments = _merged(defaults, _arguments(value, folder))
        if "data" not in arguments:
            raise value.error(f"run {name!r} has no data; give a path, or the name of a dataset")
        plans.append(PlannedRun(name, value.where, arguments))
    if not plans:
        raise top["runs"].error("there is no run; write at least one")
    _refuse_doubles(plans)
    return plans


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run: its own, and those of the defaults that it does not have; options one by one."""
    return {**defaults, **own, "options": {**defaults.get("options", {}), **own.get("options", {})}}


def _arguments(value: Value, folder: Path) -> dict[str, Any]:
    return {key: _READ[key](given, key, folder) for key, given in value.mapping(tuple(_READ)).items()}


def _text(value: Value, key: str, _: Path) -> str:
    return value.text(key)


def _file(value: Value, key: str, folder: Path) -> str:
    if is_url(value.text(key)):
        return value.text(key)
    path = folder / value.text(key)
    if not path.exists():
        raise value.error(f"{key}: {path} does not exist; check the path")
    return str(path)


def _one_of(known: tuple[str, ...]) -> Callable[[Value, str, Path], str]:
    def read(value: Value, key: str, _: Path) -> str:
        text = value.text(key)
        if text not in known:
            raise value.error(f"{key} {text!r} is unknown{close_matches(text, known)}; use one of: {', '.join(known)}")
        return text

    return read


def _names_of(known: tuple[str, ...]) -> Callable[[Value, str, Path], list[str]]:
    def read(value: Value, key: str, folder: Path) -> list[str]:
        return list(dict.fromkeys(_one_of(known)(item, key.removesuffix("s"), folder) for item in value.items()))

    return read


def _tasks(value: Value, key: str, folder: Path) -> list[str]:
    names = _names_of(("auto", *TASKS))(value, key, folder)
    if "auto" in names and len(names) > 1:
        raise value.error("tasks: auto is all whose inputs are given; leave it out, or the others")
    return names


def _of_type(kind: type, noun: str) -> Callable[[Value, str, Path], Any]:
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
        raise value.error(str(error).removeprefix("--")) from error


def _scorers(value: Value, key: str, _: Path) -> dict[str, Any] | None:
    try:
        return parse_scorers([item.text(key) for item in value.items()])
    except InputError as error:
        raise value.error(str(error).removeprefix("--")) from error


def _options(value: Value, _key: str, _: Path) -> dict[str, Any]:
    known = tuple(field.name for field in fields(Options))
    options = {}
    for name, given in value.mapping(known, "option").items():
        options[name] = given.plain()
        try:
            Options(**{name: options[name]})
        except (InputError, TypeError) as error:
            raise given.error(str(error)) from error
    return options


def _data(value: Value, _key: str, folder: Path) -> Any:
    if value.is_mapping:
        return {name: _source(item, folder) for name, item in value.mapping(what="species").items()}
    if value.is_list:
        return [_source(item, folder) for item in value.items()]
    return _source(value, folder)


def _source(value: Value, folder: Path) -> str:
    """A path from the run file's folder, or the name of a dataset that is known."""
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
    """Name -> key, or path from the run file's folder."""
    if value.is_mapping:
        return {name: _embedding(item, folder) for name, item in value.mapping(what="embedding").items()}
    found: dict[str, str] = {}
    for item in value.items():
        name, _ = readers.split_name(item.text("embedding"))
        if name in found:
            raise item.error(f"two embeddings are called {name!r}; write them as name: path")
        found[name] = _embedding(item, folder)
    return found


def _embedding(value: Value, folder: Path) -> str:
    text = value.text("embedding")
    return _file(value, "embedding", folder) if readers.split_name(text)[0] != text else text


_READ: dict[str, Callable[[Value, str, Path], Any]] = {
    "data": _data,
    "embeddings": _embeddings,
    **dict.fromkeys(_COLUMNS, _text),
    **dict.fromkeys(_FILES, _file),
    "pre_integrated": lambda value, _, folder: _embedding(value, folder),
    "tasks": _tasks,
    "baseline": _names_of(BASELINES),
    "scorers": _scorers,
    "engine": _one_of(("auto", *ENGINES)),
    "knn": _one_of(KNN_METHODS),
    "precision": _one_of(get_args(Precision)),
    "seed": _of_type(int, "a whole number"),
    "threads": _of_type(int, "a whole number"),
    "exact": _of_type(bool, "true or false"),
    "memory": _memory,
    "options": _options,
}
"""What a run may say, and how it is read."""


def _refuse_doubles(plans: list[PlannedRun]) -> None:
    """Make sure that no two runs compute the same."""
    for i, plan in enumerate(plans):
        for other in plans[:i]:
            both = _shared(plan.arguments, other.arguments)
            if both is not None:
                raise InputError(
                    f"{plan.where}: run {plan.name!r} computes what {other.name!r} ({other.where}) does: {both}; leave"
                    " one out"
                )


def _shared(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """What two runs both compute, if they differ in no more than embeddings and tasks; else None."""
    apart = ("embeddings", "tasks")
    if any(a.get(key) != b.get(key) for key in (a.keys() | b.keys()) - set(apart)):
        return None
    either = [set((x.get("embeddings") or {"the only embedding": ""}).items()) for x in (a, b)]
    embeddings = [name for name, _ in either[0] & either[1]]
    meant = [x.get("tasks", ["auto"]) for x in (a, b)]
    tasks = [[task.id for task in TASKS.values() if task.in_auto] if one == ["auto"] else one for one in meant]
    both = set(tasks[0]) & set(tasks[1])
    if not embeddings or not both:
        return None
    return f"{', '.join(sorted(embeddings))} on {', '.join(task for task in TASKS if task in both)}"
