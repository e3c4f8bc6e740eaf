"""One run: read the data, put each embedding on the engine once, and answer the tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gpubench import data as readers
from gpubench.engines import get_engine
from gpubench.engines.embedding import Embedding
from gpubench.errors import InputError
from gpubench.metrics._checks import check_groups, check_several
from gpubench.provenance import provenance
from gpubench.result import Result
from gpubench.tasks import TASKS
from gpubench.tasks._task import Options, Task, TaskInput
from gpubench.timeline import Timeline

if TYPE_CHECKING:
    from gpubench.data.perturbation import PerturbationData
    from gpubench.engines.base import Engine
    from gpubench.timeline import Listener
    from gpubench.types import Dataset, MetricResult

T = TypeVar("T")

logger = logging.getLogger("gpubench")

BASELINES = ("pca", "expression")
LARGEST_SEED = 2**32 - 1


def score(
    data: Any,
    embeddings: str | Sequence[str] | None = None,
    *,
    label: Any = None,
    batch: Any = None,
    time: Any = None,
    species: Any = None,
    sample: Any = None,
    obs: Any = None,
    predictions: Any = None,
    condition: str = "condition",
    control: str | None = None,
    baseline: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] = "auto",
    scorers: Mapping[str, Any] | None = None,
    engine: str | Engine = "auto",
    seed: int = 42,
    threads: int | None = None,
    memory: int | None = None,
    knn: str = "auto",
    listener: Listener | None = None,
    **options: Any,
) -> Result:
    """Score embeddings of cells on every task whose inputs are given.

    Parameters
    ----------
    data : path (h5ad, zarr, npy, npz, parquet, csv), AnnData, (n, d) array of any library, dict name -> array, or
        several of these: one for each species, as a list or as a dict species -> data
    embeddings : keys of `obsm`, or "X"; None: the only one there is
    label, batch, time, species, sample : name of a column of `obs`, or an array of n values
    obs : path or DataFrame with the columns, row by row, where `data` is an array
    predictions : predicted expression (path of an h5ad, or AnnData), with its own order of cells and genes
    condition, control : the column of `obs` with the perturbation, and its value for untreated cells
    baseline : "pca" (50 components of the 3,000 most variable genes) or "expression" (X itself), scored beside the
        embeddings
    tasks : ids of the tasks, or "auto": all whose inputs are given
    scorers : further scores of the prediction tasks: name -> f(y_true, y_pred), or a scikit-learn scorer
    engine : "auto", "cpu", "cuda", or an engine already started
    seed : of everything random
    threads : CPU threads; None: all
    memory : bytes to use at most beyond the input; None: 80% of what is free
    knn : how neighbours are searched: "auto", "exact" or "ivf", see `gpubench.get_engine`
    listener : hears of the stages of the run
    **options : parameters of the tasks, see `gpubench.tasks.Options`

    Returns
    -------
    Result
        Every number with its parameters and notes, the tasks left out and why, the timeline, and the provenance.

    Raises
    ------
    InputError
        An argument or a file cannot be scored. Nothing has been computed then: an embedding that is refused after
        others were scored is listed in the failures instead.
    EngineUnavailable
        The named engine cannot start here.
    """
    chosen = _options(options)
    wanted = _wanted_tasks(tasks)
    baselines = _baselines(baseline)
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed={seed!r} is no whole number from 0 to {LARGEST_SEED}")
    columns = {"label": label, "batch": batch, "time": time, "species": species, "sample": sample}
    timeline = Timeline(listener)
    if isinstance(engine, str):
        engine = get_engine(engine, seed=seed, threads=threads, memory_bytes=memory, timeline=timeline, knn=knn)
    else:
        timeline = engine.timeline

    with timeline.stage("read"):
        perturbation = None
        if predictions is not None:
            perturbation = readers.read_perturbation(data, predictions, condition=condition, control=control, seed=seed)
        dataset = None
        if wanted != [_PERTURBATION] and not (wanted is None and perturbation and not any(_given(columns))):
            dataset = _read(data, embeddings, columns, obs)
        inputs = _Inputs.of(dataset, perturbation, chosen, scorers or {})
    tasks_to_run, skipped = _choose(wanted, inputs)

    run = _Run(engine, inputs, skipped)
    run.finish_or_keep(run.everything(dataset, tasks_to_run, data, baselines))
    return Result(
        results=run.rows,
        provenance=provenance(
            engine,
            options={
                "tasks": [task.id for task in tasks_to_run],
                "embeddings": list(dataset.embeddings) if dataset else [],
                **{role: value if isinstance(value, str) else "array" for role, value in _given(columns)},
                **{field.name: getattr(chosen, field.name) for field in fields(chosen)},
            },
            source=dataset.source if dataset else str(data) if isinstance(data, str) else None,
            fingerprint=readers.fingerprint(dataset) if dataset else None,
            n_cells=dataset.n_cells if dataset else None,
        ),
        timeline=timeline.to_dicts(),
        skipped=run.skipped,
        failures=run.failures,
        interrupted=run.interrupted,
    )


_PERTURBATION = "perturbation_expression_prediction"


def _given(columns: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(role, value) for role, value in columns.items() if value is not None]


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
    names = [embeddings] if isinstance(embeddings, str) else list(embeddings) if embeddings is not None else None
    given = dict(_given(columns))
    if _one_for_each_species(data):
        return readers.read_species(data, embeddings=names, columns=given, obs=obs)
    return readers.read(data, embeddings=names, columns=given, obs=obs)


def _one_for_each_species(data: Any) -> bool:
    """Whether `data` is several datasets: a list of paths or AnnData objects, or a dict of them by species."""
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    parts = list(parts)
    return bool(parts) and all(
        isinstance(part, str) or hasattr(part, "__fspath__") or hasattr(part, "obs") for part in parts
    )


@dataclass(frozen=True)
class _Inputs:
    """What tasks can be given, checked."""

    options: Options
    scorers: Mapping[str, Any]
    columns: Mapping[str, Any]  # the label-like fields of TaskInput
    perturbation: PerturbationData | None

    @classmethod
    def of(
        cls,
        dataset: Dataset | None,
        perturbation: PerturbationData | None,
        options: Options,
        scorers: Mapping[str, Any],
    ) -> _Inputs:
        """Encode the columns and refuse what no task could score.

        Raises
        ------
        InputError
            Missing values, one value, all values different, times that are no numbers, too few cells.
        """
        columns: dict[str, Any] = {}
        if dataset is not None:
            if dataset.n_cells < 2:
                raise InputError(f"the data has {dataset.n_cells} cell; at least two are needed")
            columns = {
                role: readers.encode_labels(values, role, dataset.n_cells) for role, values in dataset.obs.items()
            }
            if "time" in columns:
                columns["time_label"] = columns["time"]
                columns["time"] = readers.as_numeric(dataset.obs["time"], "time", dataset.n_cells)
            for role in columns.keys() & {"label", "time_label"}:
                check_groups(columns[role])
            for role in columns.keys() & {"batch", "species"}:
                check_several(columns[role])
        return cls(options, scorers, columns, perturbation)

    def has(self, need: str) -> bool:
        """Whether this input of a task is given."""
        return self.perturbation is not None if need == "predictions" else need in self.columns


def _choose(wanted: list[str] | None, inputs: _Inputs) -> tuple[list[Task], list[dict[str, str]]]:
    """The tasks to run, and those left out with the reason."""
    run: list[Task] = []
    skipped: list[dict[str, str]] = []
    for task in TASKS.values():
        if wanted is not None and task.id not in wanted:
            continue
        missing = [need for need in task.needs if not inputs.has(need)]
        if not missing:
            run.append(task)
        elif wanted is None:
            skipped.append({"task": task.id, "reason": f"{' and '.join(missing)} not given"})
        else:
            raise InputError(
                f"task {task.id!r} needs {' and '.join(missing)}; give {'it' if len(missing) == 1 else 'them'}"
            )
    if not run:
        raise InputError("no task can run: give label (and batch, time or species), or predictions")
    return run, skipped


class _Run:
    """Runs tasks and keeps what is finished, whatever happens later."""

    def __init__(self, engine: Engine, inputs: _Inputs, skipped: list[dict[str, str]]) -> None:
        self._engine = engine
        self._inputs = inputs
        self.rows: list[MetricResult] = []
        self.skipped = skipped
        self.failures: list[dict[str, str]] = []
        self.interrupted = False

    def finish_or_keep(self, steps: Iterable[Callable[[], None]]) -> None:
        """Work through the steps; on Ctrl-C stop and keep the rows so far."""
        try:
            for step in steps:
                step()
        except KeyboardInterrupt:
            self.interrupted = True

    def everything(
        self, dataset: Dataset | None, tasks: list[Task], data: Any, baselines: list[str]
    ) -> Iterable[Callable[[], None]]:
        """All embeddings, then the baselines, then the predictions; a step a task."""
        of_embeddings = [task for task in tasks if task.id != _PERTURBATION]
        if dataset is not None and of_embeddings:
            for name, matrix in dataset.embeddings.items():
                yield from self._embedding(name, matrix, of_embeddings)
            for baseline in baselines:
                yield from self._baseline(baseline, data, of_embeddings)
        for task in tasks:
            if task.id == _PERTURBATION:
                given = TaskInput(
                    self._engine, self._inputs.options, "predictions", perturbation=self._inputs.perturbation
                )
                yield partial(self._task, task, given)

    def _embedding(self, name: str, matrix: Any, tasks: list[Task]) -> Iterable[Callable[[], None]]:
        timeline, options = self._engine.timeline, self._inputs.options
        with timeline.stage(name):
            x = self._unless_refused(lambda: self._engine.put(matrix, name), name, tasks)
            if x is None:
                return
            embedding = Embedding(self._engine, x, name)
            k = min(max(task.knn_k(options) for task in tasks), embedding.n - 1)
            if k > 0:
                embedding.plan_knn(k)
                embedding.knn(k)
            for task in tasks:
                given = TaskInput(
                    self._engine, options, name, embedding, scorers=self._inputs.scorers, **self._inputs.columns
                )
                yield partial(self._task, task, given)

    def _baseline(self, baseline: str, data: Any, tasks: list[Task]) -> Iterable[Callable[[], None]]:
        """Score PCA on every task that has a baseline in cz-benchmarks, expression where that is the baseline."""
        compute: Callable[[Any], Any]
        if baseline == "pca":
            tasks = [task for task in tasks if task.baseline is not None]
            compute = readers.pca_baseline
        else:
            tasks = [task for task in tasks if task.baseline == "expression"]
            compute = readers.expression_baseline
        if not tasks:
            self.skipped.append({"task": f"baseline_{baseline}", "reason": "no chosen task has this baseline"})
            return
        name = f"baseline_{baseline}"
        with self._engine.timeline.stage(name):
            matrix = self._unless_refused(lambda: compute(data), name, tasks)
        if matrix is not None:
            yield from self._embedding(name, matrix, tasks)

    def _unless_refused(self, make: Callable[[], T], name: str, tasks: list[Task]) -> T | None:
        """Make what tasks need; None where it is refused and others were scored before, whose numbers are kept.

        Raises
        ------
        InputError
            It is refused, and nothing is lost by stopping.
        """
        try:
            return make()
        except InputError as error:
            if not self.rows:
                raise
            self.failures += [{"task": task.id, "embedding": name, "error": str(error)} for task in tasks]
            return None

    def _task(self, task: Task, given: TaskInput) -> None:
        with self._engine.timeline.stage(task.id):
            try:
                for row in task.run(given):
                    self.rows.append(row)
            except Exception as error:
                logger.debug("task %s failed", task.id, exc_info=True)
                reason = str(error) or type(error).__name__
                if not isinstance(error, InputError):
                    reason = f"{type(error).__name__}: {reason}"
                self.failures.append({"task": task.id, "embedding": given.name, "error": reason})
