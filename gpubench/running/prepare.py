"""Prepare a run: check the arguments, start the engine, read the data and choose the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.core.checkpoint import digest_of
from gpubench.core.errors import GpubenchWarning, InputError, close_matches, give_warnings, quoted
from gpubench.core.scores import MAX_NAMES, CellScores
from gpubench.core.timeline import Timeline
from gpubench.core.types import Labels, check_seed
from gpubench.core.units import parse_bytes
from gpubench.data.neighbors import StoredNeighbors, read_neighbors
from gpubench.data.read import numeric_columns
from gpubench.datasets.lookup import RunData, look_up
from gpubench.engines import get_engine
from gpubench.engines.embedding import codes_fingerprint
from gpubench.metrics._metric import check_groups, check_several
from gpubench.running.given_neighbors import check_use
from gpubench.running.interrupt import run_interruptible
from gpubench.running.options import BASELINES, EMBEDDING_BASELINES, SCREEN_BASELINES, RunOptions
from gpubench.running.plausibility import Given, implausible
from gpubench.running.screens import ScreenInputs, read_screens
from gpubench.tasks import TASKS
from gpubench.tasks._task import Task
from gpubench.tasks.metric_tasks import CLUSTERING_GIVEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Listener
    from gpubench.core.types import Dataset
    from gpubench.data import Rows
    from gpubench.data.perturbation.predictions import PerturbationData
    from gpubench.engines.base import Engine
    from gpubench.tasks import Options

PERTURBATION = "perturbation_expression_prediction"
"""The task that scores predicted expression instead of an embedding."""

SCREEN = "perturbation_prediction"
"""The task that scores predicted perturbations by groups of cells, with other metrics."""

SCIB = "scib"
"""The only task that compares an embedding with the cells before integration."""

COLUMNS = ("label", "batch", "time", "species", "sample")

CLUSTERING = "clustering"
"""The only task that compares clusters with labels."""


@dataclass(frozen=True)
class Inputs:
    """Checked inputs of all tasks of a run."""

    columns: Mapping[str, Any]  # role, such as "label" -> encoded labels; "time" -> numbers
    perturbation: PerturbationData | None = None
    pre_integrated: Rows | None = None
    screens: ScreenInputs | None = None
    names: NDArray[Any] | None = None  # names of the cells
    neighbors: StoredNeighbors | None = None  # neighbours of the cells, instead of a search

    def has(self, need: str) -> bool:
        """Whether an input in the `needs` of tasks is given: "predictions", "control", or the role of a column."""
        if need == "predictions":
            return self.perturbation is not None or self.screens is not None
        return self.screens is not None if need == "control" else need in self.columns

    def cells(self) -> CellScores:
        """Return a collection for per-cell values, with the columns of these inputs and no values yet."""
        groups = {
            "time" if role == "time_label" else role: labels
            for role, labels in self.columns.items()
            if role not in ("time", "clusters")
        }
        n = len(next(iter(groups.values()), ()))
        return CellScores(n, groups, self.columns.get("time"), names=self.names if n else None)

    def digest(self, options: Options) -> str:
        """Return a digest of the parameters of the tasks and of all values of the columns."""
        columns = {
            role: [column.key, column.names, codes_fingerprint(column.codes)]
            if isinstance(column, Labels)
            else [sha256(column.tobytes()).hexdigest()]
            for role, column in sorted(self.columns.items())
        }
        return digest_of(options.to_dict(), columns)


@dataclass(frozen=True)
class Prepared:
    """Engine, data and tasks of a run, as they are before computing starts."""

    engine: Engine
    # options of the run; names of datasets are replaced by their files, and columns that were not given by those that
    # the catalogue names
    run: RunOptions
    source: str | None  # name that the user gave as the data, if it is the name of a dataset
    files: list[dict[str, Any]]  # facts about the file of each dataset
    dataset: Dataset | None
    inputs: Inputs
    tasks: list[Task]
    skipped: list[dict[str, str]]
    baselines: list[str]  # names of the baselines to score as well
    warnings: tuple[str, ...] = ()  # messages about inputs that are probably a mistake


def prepare(run: RunOptions, listener: Listener | None = None) -> Prepared:
    """Check the options of a run, start its engine, read its data and choose its tasks, without computing anything."""
    run, wanted, baselines, given = _resolve(run, listener)
    engine = run.engine
    if isinstance(engine, str):
        engine = get_engine(
            engine,
            seed=run.seed,
            threads=run.threads,
            memory_bytes=parse_bytes(run.memory) if isinstance(run.memory, str) else run.memory,
            timeline=Timeline(listener),
            knn=run.knn,
            precision=run.precision,
            exact=run.exact,
            cluster=run.cluster,
        )
    engine.require_backend(run.options.backend)
    with engine.timeline.stage("read"):
        dataset, inputs, found = run_interruptible(lambda: _read_and_check(run, wanted, baselines), engine.timeline)
    give_warnings(found, strict=run.strict)
    if dataset is not None:
        dataset = replace(dataset, notes=_with_dataset_names(dataset.notes, given))
    tasks, skipped = _choose_tasks(run, wanted, inputs)
    if inputs.neighbors is not None and dataset is not None:
        check_use(inputs.neighbors, list(dataset.embeddings), tasks, run.options, engine)
        note = f"neighbours are not searched, but those of {inputs.neighbors}"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    findings = () if inputs.screens is None else inputs.screens.audit.findings
    warnings = (*map(str, found), *map(str, findings))
    return Prepared(engine, run, given.source, given.files, dataset, inputs, tasks, skipped, baselines, warnings)


def _with_dataset_names(notes: Sequence[str], given: RunData) -> tuple[str, ...]:
    """Name datasets in place of their files in the cache, whose path is private."""
    paths = given.data.values() if isinstance(given.data, Mapping) else [given.data]
    ids = {str(path): file["id"] for path, file in zip(paths, given.files, strict=False)}
    for path, dataset_id in ids.items():
        notes = [note.replace(path, dataset_id) for note in notes]
    return tuple(notes)


def _read_and_check(
    run: RunOptions, wanted: list[str] | None, baselines: list[str]
) -> tuple[Dataset | None, Inputs, list[GpubenchWarning]]:
    """Read the inputs; also return warnings about inputs that are probably a mistake."""
    dataset, inputs = _read(run, wanted)
    if dataset is None:
        return None, inputs, []
    named = {role: getattr(run, role) for role in COLUMNS if isinstance(getattr(run, role), str)}
    return dataset, inputs, implausible(Given(dataset, inputs.columns, named, run.data, baselines))


def _resolve(run: RunOptions, listener: Listener | None) -> tuple[RunOptions, list[str] | None, list[str], RunData]:
    """Check the options and look up datasets; return options with files, ids of tasks, baselines, and dataset facts."""
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
    return run, wanted, baselines, given


def read_inputs(run: RunOptions) -> tuple[RunOptions, Dataset | None, Inputs, list[Task]]:
    """Read and check the inputs of a run without starting an engine.

    Returns
    -------
    run, dataset, inputs, tasks
        The options with the files of datasets in place of their names; embeddings and columns, None if only predictions
        are scored; inputs of the tasks; tasks that can run.
    """
    run, wanted, _, _ = _resolve(run, None)
    dataset, inputs = _read(run, wanted)
    tasks, _ = _choose_tasks(run, wanted, inputs)
    return run, dataset, inputs, tasks


def _read(run: RunOptions, wanted: list[str] | None) -> tuple[Dataset | None, Inputs]:
    """Read the inputs that the wanted tasks need; `wanted` has their ids, None for "auto"."""
    columns = {role: getattr(run, role) for role in (*COLUMNS, "clusters") if getattr(run, role) is not None}
    perturbation = screens = None
    if run.predictions is not None and SCREEN in (wanted or ()):
        screens = read_screens(run)
    if run.predictions is not None and not (screens and set(wanted or ()) == {SCREEN}):
        if isinstance(run.predictions, Mapping):
            raise InputError(
                f"predictions: {len(run.predictions):,} are named, which only the task {SCREEN!r} takes; choose it with"
                " `tasks`, or give one file without a name",
                argument="predictions",
            )
        perturbation = readers.read_perturbation(
            run.data, run.predictions, condition=run.condition or "condition", control=run.control, seed=run.seed
        )
    dataset = None
    has_cells = wanted is None or set(wanted) - {PERTURBATION, SCREEN}
    if has_cells and not (wanted is None and perturbation and not columns):
        read = readers.read_species if _is_one_per_species(run.data) else readers.read
        given: dict[str, Any] = {"align": run.align, "where": run.where, "drop_missing": run.drop_missing}
        given["cell_ids"] = MAX_NAMES
        if run.pre_integrated is not None:
            given["matrices"] = {"pre_integrated": run.pre_integrated}
        dataset = read(run.data, embeddings=run.embeddings, columns=columns, obs=run.obs, **given)
    before = dataset.matrices.get("pre_integrated") if dataset else None
    names = dataset.cell_ids if dataset else None
    encoded = _encode(dataset, before, run) if dataset else {}
    if "clusters" in encoded:
        name = run.clusters if isinstance(run.clusters, str) else "array"
        encoded["clusters"] = replace(encoded["clusters"], key=name)
    neighbors = None
    if run.neighbors_key is not None:
        if dataset is None or dataset.rows is not None:
            why = "only predictions are scored" if dataset is None else "cells are left out or reordered"
            raise InputError(f"neighbors_key cannot be used, since {why}; leave it out", argument="neighbors_key")
        neighbors = read_neighbors(run.data, run.neighbors_key, dataset.n_cells)
    return dataset, Inputs(encoded, perturbation, before, screens, names, neighbors)


def _encode(dataset: Dataset, before: Rows | None, run: RunOptions) -> dict[str, Any]:
    """Return role -> encoded column; raise `InputError` for data that no task can score."""
    n = dataset.n_cells
    if n < 2:
        raise InputError(f"the data has {n} cell; at least two are needed")
    try:
        columns = encode_columns(dataset.obs, n)
    except InputError as error:
        if error.argument != "time" or not isinstance(run.time, str):
            raise
        numeric = numeric_columns(run.data, run.obs)
        raise InputError(f"{error}, such as {quoted(numeric)}" if numeric else str(error), argument="time") from error
    if before is not None and before.shape[0] != n:
        raise InputError(
            f"pre_integrated has {before.shape[0]:,} rows but the data has {n:,}; give the same cells in the same"
            " order",
            argument="pre_integrated",
        )
    return columns


def encode_columns(given: Mapping[str, Any], n: int | None) -> dict[str, Any]:
    """Return role -> encoded column of n cells, and for "time" also the time points as labels, "time_label".

    Raises
    ------
    InputError
        A column does not group the cells, has missing values, or does not have n values (if n is not None).
    """
    columns: dict[str, Any] = {role: readers.encode_labels(values, role, n) for role, values in given.items()}
    if "time" in columns:
        columns["time_label"] = columns["time"]
        columns["time"] = readers.as_numeric(given["time"], "time", n)
    check_columns(columns)
    return columns


def check_columns(columns: Mapping[str, Any]) -> None:
    """Raise `InputError` if an encoded column does not group the cells; `columns` are as from `encode_columns`."""
    for role in columns.keys() & {"label", "time_label"}:
        check_groups(columns[role])
    for role in columns.keys() & {"batch", "species"}:
        check_several(columns[role])


def _columns_there_are(run: RunOptions) -> str:
    """Return the end of an error message, which lists the columns of the data if they are known."""
    try:
        names = readers.column_names(run.data, run.obs)
    except InputError:  # such as arrays without a table
        return "; give the values, or a table that has them with `obs`"
    return f"; name a column of obs: {quoted(names)}" if names else ""


def _choose_tasks(run: RunOptions, wanted: list[str] | None, inputs: Inputs) -> tuple[list[Task], list[dict[str, str]]]:
    """Return tasks to run, and skipped tasks with reasons; raise `InputError` if a wanted task lacks an input."""
    chosen: list[Task] = []
    skipped: list[dict[str, str]] = []
    for task in TASKS.values():
        if not task.in_auto if wanted is None else task.id not in wanted:
            continue
        missing = " and ".join(need for need in task.needs if not inputs.has(need))
        if not missing:
            chosen.append(CLUSTERING_GIVEN if task.id == CLUSTERING and inputs.has("clusters") else task)
        elif wanted is None:
            skipped.append({"task": task.id, "reason": f"needs {missing}"})
        else:
            absent = [need for need in task.needs if not inputs.has(need)]
            needs = " and ".join(f"`{need}`" for need in absent)
            pronoun = "it" if len(absent) == 1 else "them"
            remedy = _columns_there_are(run) if {*absent} <= {*COLUMNS} else f"; give {pronoun}"
            raise InputError(f"task {task.id!r} needs {needs}{remedy}")
    if not chosen:
        raise InputError("no task can run: give `label` (and `batch`, `time` or `species`), or `predictions`")
    return chosen, skipped


def _check_combination(run: RunOptions, wanted: list[str] | None, baselines: list[str]) -> None:
    """Raise `InputError` for options that cannot be combined."""
    if run.pre_integrated is not None and SCIB not in (wanted or []):
        raise InputError(
            f"pre_integrated is used by the task {SCIB!r} only; name the task with `tasks`, or leave it out",
            argument="pre_integrated",
        )
    if run.clusters is not None and wanted is not None and CLUSTERING not in wanted:
        raise InputError(
            f"clusters are used by the task {CLUSTERING!r} only; name the task with `tasks`, or leave them out",
            argument="clusters",
        )
    if baselines and wanted is not None:
        check_baselines(wanted, baselines)
    if run.predictions is not None and (run.where or run.drop_missing):
        argument = "where" if run.where else "drop_missing"
        raise InputError(f"{argument} does not go with predictions; leave one of them out", argument=argument)
    if not _is_one_per_species(run.data):
        return
    if baselines:
        raise InputError(
            "baseline cannot be computed from one file per species; leave it out, or merge the files",
            argument="baseline",
        )
    if run.neighbors_key is not None:
        raise InputError(
            "neighbors_key cannot be used with one file per species; leave it out, or merge the files",
            argument="neighbors_key",
        )
    if run.pre_integrated is not None:
        raise InputError(
            "pre_integrated cannot be used with one file per species; leave it out, or merge the files",
            argument="pre_integrated",
        )


def check_baselines(wanted: list[str], baselines: list[str]) -> None:
    """Raise `InputError` for a baseline that none of the wanted tasks has."""
    own = set(SCREEN_BASELINES if SCREEN in wanted else ())
    if set(wanted) - {SCREEN}:
        own |= set(EMBEDDING_BASELINES)
    for name in baselines:
        if name not in own:
            raise InputError(
                f"baseline={name!r} is none of the tasks {quoted(wanted)}; use one of: {', '.join(sorted(own))}",
                argument="baseline",
            )


def _wanted_tasks(tasks: str | Sequence[str]) -> list[str] | None:
    """Return the ids of the given tasks in the order of TASKS; None for "auto"."""
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
            listed = ", ".join(map(repr, BASELINES))
            raise InputError(f"baseline={name!r} is unknown; use one of: {listed}", argument="baseline")
    return names


def _is_one_per_species(data: Any) -> bool:
    """Whether `data` is a list of paths or AnnData objects, one per species, or a dict species -> path or AnnData."""
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    parts = list(parts)
    return bool(parts) and all(
        isinstance(part, str) or hasattr(part, "__fspath__") or hasattr(part, "obs") for part in parts
    )
