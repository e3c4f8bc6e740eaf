"""Preparation of a run: check the arguments, start the engine, read the data and choose the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.core.errors import InputError, close_matches
from gpubench.core.timeline import Timeline
from gpubench.core.types import check_seed
from gpubench.datasets.lookup import RunData, look_up
from gpubench.engines import get_engine
from gpubench.running.interrupt import run_interruptible
from gpubench.running.options import BASELINES, RunOptions
from gpubench.running.runner import PERTURBATION, Inputs, choose_tasks
from gpubench.tasks import TASKS
from gpubench.tasks._task import Task

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.core.types import Dataset
    from gpubench.engines.base import Engine

SCIB = "scib"
"""The one task that compares with cells before integration."""

COLUMNS = ("label", "batch", "time", "species", "sample")


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before computing starts.

    Attributes
    ----------
    run : options of the run, with files in place of names of datasets, and the columns that their catalogue names
    source : the data as the user named it, if that is a dataset
    files : facts about the file of each dataset
    baselines : names of the baselines to score as well
    """

    engine: Engine
    run: RunOptions
    source: str | None
    files: list[dict[str, Any]]
    dataset: Dataset | None
    inputs: Inputs
    tasks: list[Task]
    skipped: list[dict[str, str]]
    baselines: list[str]


def prepare(run: RunOptions, listener: Listener | None = None) -> Prepared:
    """Check the options of a run, start its engine and read its data; nothing is computed.

    Raises
    ------
    InputError, EngineUnavailable
        As `gpubench.score`.
    """
    wanted = _wanted_tasks(run.tasks)
    baselines = _baselines(run.baseline)
    run = replace(run, seed=check_seed(run.seed))
    _check_combination(run, wanted, baselines)
    given = look_up(
        RunData(run.data, {role: getattr(run, role) for role in COLUMNS}, run.condition, run.control),
        obs=run.obs,
        listener=listener,
    )
    run = replace(run, data=given.data, condition=given.condition, control=given.control, **given.columns)
    engine = run.engine
    if isinstance(engine, str):
        engine = get_engine(
            engine,
            seed=run.seed,
            threads=run.threads,
            memory_bytes=run.memory,
            timeline=Timeline(listener),
            knn=run.knn,
            precision=run.precision,
            exact=run.exact,
            cluster=run.cluster,
        )
    with engine.timeline.stage("read"):
        dataset, inputs = run_interruptible(lambda: _read(run, wanted), engine.timeline)
    tasks, skipped = choose_tasks(wanted, inputs)
    return Prepared(engine, run, given.source, given.files, dataset, inputs, tasks, skipped, baselines)


def _read(run: RunOptions, wanted: list[str] | None) -> tuple[Dataset | None, Inputs]:
    """Read the inputs that the wanted tasks need."""
    columns = {role: getattr(run, role) for role in COLUMNS if getattr(run, role) is not None}
    perturbation = None
    if run.predictions is not None:
        perturbation = readers.read_perturbation(
            run.data, run.predictions, condition=run.condition or "condition", control=run.control, seed=run.seed
        )
    dataset = None
    if wanted != [PERTURBATION] and not (wanted is None and perturbation and not columns):
        read = readers.read_species if _is_one_per_species(run.data) else readers.read
        dataset = read(run.data, embeddings=run.embeddings, columns=columns, obs=run.obs)
    before = None
    if run.pre_integrated is not None:
        before = readers.read_matrix(run.data, run.pre_integrated, "pre_integrated")
    return dataset, Inputs.of(dataset, perturbation, run.options, run.scorers or {}, before)


def _check_combination(run: RunOptions, wanted: list[str] | None, baselines: list[str]) -> None:
    """Refuse options that contradict each other.

    Raises
    ------
    InputError
        A baseline, or cells before integration, of several sources; or cells before integration that no task uses.
    """
    if run.pre_integrated is not None and SCIB not in (wanted or []):
        raise InputError(
            f"pre_integrated is used by the task {SCIB!r} only; name the task with `tasks`, or leave it out",
            argument="pre_integrated",
        )
    if not _is_one_per_species(run.data):
        return
    if baselines:
        raise InputError(
            "baseline cannot be computed from one file per species; leave it out, or merge the files",
            argument="baseline",
        )
    if run.pre_integrated is not None:
        raise InputError(
            "pre_integrated cannot be one file per species; leave it out, or merge the files",
            argument="pre_integrated",
        )


def _wanted_tasks(tasks: str | Sequence[str]) -> list[str] | None:
    """Return ids in the order of TASKS; None for "auto"."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if names == ["auto"]:
        return None
    if not names:
        raise InputError("tasks is empty; name at least one, or 'auto' for all whose inputs are given")
    for name in names:
        if name not in TASKS:
            raise InputError(f"task {name!r} is unknown{close_matches(name, list(TASKS))}")
    return [name for name in TASKS if name in names]


def _baselines(baseline: str | Sequence[str] | None) -> list[str]:
    names = [] if baseline is None else [baseline] if isinstance(baseline, str) else list(baseline)
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baseline={name!r} is unknown; use 'pca' or 'expression'", argument="baseline")
    return names


def _is_one_per_species(data: Any) -> bool:
    """Whether `data` is several datasets: a list of paths or AnnData objects, or a dict of them by species."""
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    parts = list(parts)
    return bool(parts) and all(
        isinstance(part, str) or hasattr(part, "__fspath__") or hasattr(part, "obs") for part in parts
    )
