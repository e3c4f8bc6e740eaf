"""What a run and its plan begin with: arguments that were checked, data that was read, tasks that were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.core.errors import InputError
from gpubench.core.timeline import Timeline
from gpubench.core.types import check_seed
from gpubench.data.urls import shown
from gpubench.datasets.lookup import Given, look_up
from gpubench.engines import get_engine
from gpubench.running.interrupt import answering
from gpubench.running.runner import PERTURBATION, Inputs, choose_tasks
from gpubench.tasks import TASKS
from gpubench.tasks._task import Options, Task

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.core.types import Dataset
    from gpubench.engines.base import Engine, Precision

SCIB = "scib"
"""The one task that compares with cells before integration."""

BASELINES = ("pca", "expression")


@dataclass(frozen=True)
class Prepared:
    """Everything that is settled before anything is computed.

    Attributes
    ----------
    given : the data, with datasets looked up by name
    asked : columns and cells before integration as the user named them
    baselines : names of the baselines to score as well
    """

    engine: Engine
    given: Given
    asked: dict[str, str]
    options: Options
    dataset: Dataset | None
    inputs: Inputs
    tasks: list[Task]
    skipped: list[dict[str, str]]
    baselines: list[str]


def prepare(
    data: Any,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None,
    *,
    label: Any,
    batch: Any,
    time: Any,
    species: Any,
    sample: Any,
    obs: Any,
    pre_integrated: Any,
    predictions: Any,
    condition: str | None,
    control: str | None,
    baseline: str | Sequence[str] | None,
    tasks: str | Sequence[str],
    scorers: Mapping[str, Any] | None,
    engine: str | Engine,
    seed: int,
    threads: int | None,
    memory: int | None,
    knn: str,
    precision: Precision,
    exact: bool,
    cluster: Any,
    listener: Listener | None,
    options: Mapping[str, Any],
) -> Prepared:
    """Check, start and read what `gpubench.score` takes; nothing is computed.

    Raises
    ------
    InputError, EngineUnavailable
        As `gpubench.score`.
    """
    chosen = _options(options)
    wanted = _wanted_tasks(tasks)
    baselines = _baselines(baseline)
    seed = check_seed(seed)
    if baselines and _one_for_each_species(data):
        raise InputError("baseline cannot be computed from one file for each species; leave it out, or merge the files")
    if pre_integrated is not None:
        _check_pre_integrated(wanted, data)
    columns = {"label": label, "batch": batch, "time": time, "species": species, "sample": sample}
    given = look_up(Given(data, columns, condition, control), obs=obs, listener=listener)
    data, columns = given.data, given.columns
    timeline = Timeline(listener)
    if isinstance(engine, str):
        engine = get_engine(
            engine,
            seed=seed,
            threads=threads,
            memory_bytes=memory,
            timeline=timeline,
            knn=knn,
            precision=precision,
            exact=exact,
            cluster=cluster,
        )
    else:
        timeline = engine.timeline

    def read() -> tuple[Dataset | None, Inputs]:
        perturbation = None
        if predictions is not None:
            perturbation = readers.read_perturbation(
                data, predictions, condition=given.condition or "condition", control=given.control, seed=seed
            )
        dataset = None
        if wanted != [PERTURBATION] and not (wanted is None and perturbation and not any(_given(columns))):
            dataset = _read(data, embeddings, columns, obs)
        before = None if pre_integrated is None else readers.read_matrix(data, pre_integrated, "pre_integrated")
        return dataset, Inputs.of(dataset, perturbation, chosen, scorers or {}, before)

    with timeline.stage("read"):
        dataset, inputs = answering(read, timeline)
    tasks_to_run, skipped = choose_tasks(wanted, inputs)
    asked = {
        **({} if pre_integrated is None else {"pre_integrated": _named(pre_integrated)}),
        **{role: _named(value) for role, value in _given(columns)},
    }
    return Prepared(engine, given, asked, chosen, dataset, inputs, tasks_to_run, skipped, baselines)


def _check_pre_integrated(wanted: list[str] | None, data: Any) -> None:
    """Refuse it where nothing would use it, or where it is not clear whose it is."""
    if SCIB not in (wanted or []):
        raise InputError(f"pre_integrated is used by the task {SCIB!r} alone; name it in tasks, or leave it out")
    if _one_for_each_species(data):
        raise InputError("pre_integrated cannot be one file for each species; leave it out, or merge the files")


def _given(columns: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(role, value) for role, value in columns.items() if value is not None]


def _named(value: Any) -> str:
    return shown(value) if isinstance(value, str) else "array"


def _options(options: Mapping[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    for name in options:
        if name not in known:
            raise InputError(f"option {name!r} is unknown{readers.close_matches(name, known)}")
    return Options(**options)


def _wanted_tasks(tasks: str | Sequence[str]) -> list[str] | None:
    """Ids in the order of TASKS; None for "auto"."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if names == ["auto"]:
        return None
    if not names:
        raise InputError("tasks is empty; name at least one, or 'auto' for all whose inputs are given")
    for name in names:
        if name not in TASKS:
            raise InputError(f"task {name!r} is unknown{readers.close_matches(name, list(TASKS))}")
    return [name for name in TASKS if name in names]


def _baselines(baseline: str | Sequence[str] | None) -> list[str]:
    names = [] if baseline is None else [baseline] if isinstance(baseline, str) else list(baseline)
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baseline={name!r} is unknown; use 'pca' or 'expression'")
    return names


def _read(data: Any, embeddings: Any, columns: Mapping[str, Any], obs: Any) -> Dataset:
    given = dict(_given(columns))
    if _one_for_each_species(data):
        return readers.read_species(data, embeddings=embeddings, columns=given, obs=obs)
    return readers.read(data, embeddings=embeddings, columns=given, obs=obs)


def _one_for_each_species(data: Any) -> bool:
    """Whether `data` is several datasets: a list of paths or AnnData objects, or a dict of them by species."""
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    parts = list(parts)
    return bool(parts) and all(
        isinstance(part, str) or hasattr(part, "__fspath__") or hasattr(part, "obs") for part in parts
    )
