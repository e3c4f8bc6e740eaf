"""Run tasks on the data: check the columns, choose the tasks, collect every finished score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from gpubench import data as readers
from gpubench.core.checkpoint import CheckpointScope, digest_of
from gpubench.core.errors import InputError, message_of
from gpubench.core.scores import CellScores
from gpubench.core.types import Labels
from gpubench.engines.embedding import Embedding, codes_fingerprint
from gpubench.metrics._metric import check_groups, check_several
from gpubench.running.interrupt import run_interruptible
from gpubench.running.views import given_view, principal_view
from gpubench.tasks import TASKS
from gpubench.tasks._task import Options, Task, TaskInput, with_note

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpubench.core.scores import MetricResult
    from gpubench.core.types import Array, Dataset
    from gpubench.data import Rows
    from gpubench.data.expression.baseline import Baseline
    from gpubench.data.perturbation.predictions import PerturbationData
    from gpubench.engines.base import Engine

T = TypeVar("T")
logger = logging.getLogger("gpubench")

PERTURBATION = "perturbation_expression_prediction"
"""The one task that scores predicted expression instead of an embedding."""


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of all tasks."""

    options: Options
    scorers: Mapping[str, Any]
    columns: Mapping[str, Any]  # the label-like fields of TaskInput
    perturbation: PerturbationData | None
    pre_integrated: Rows | None = None

    @classmethod
    def of(
        cls,
        dataset: Dataset | None,
        perturbation: PerturbationData | None,
        options: Options,
        scorers: Mapping[str, Any],
        pre_integrated: Rows | None = None,
    ) -> Inputs:
        """Encode the columns and refuse data that no task can score.

        Raises
        ------
        InputError
            Missing values, one value, all values different, times that are not numbers, too few cells.
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
            if pre_integrated is not None and pre_integrated.shape[0] != dataset.n_cells:
                raise InputError(
                    f"pre_integrated has {pre_integrated.shape[0]:,} rows but the data has {dataset.n_cells:,};"
                    " give the same cells in the same order",
                    argument="pre_integrated",
                )
        return cls(options, scorers, columns, perturbation, pre_integrated)

    def cells(self) -> CellScores:
        """Return an empty collection of per-cell values for a run on these inputs."""
        groups = {
            "time" if role == "time_label" else role: labels for role, labels in self.columns.items() if role != "time"
        }
        n_cells = len(next(iter(groups.values()), ()))
        return CellScores(n_cells, groups, self.columns.get("time"))

    def digest(self) -> str:
        """Return a digest of the options and of all values of the columns."""
        columns = {role: _facts(column) for role, column in sorted(self.columns.items())}
        return digest_of(self.options.to_dict(), columns)

    def has(self, need: str) -> bool:
        """Whether an input that tasks need is given."""
        return self.perturbation is not None if need == "predictions" else need in self.columns


def _facts(column: Labels | NDArray[np.float64]) -> list[Any]:
    if isinstance(column, Labels):
        return [column.key, column.names, codes_fingerprint(column.codes)]
    return [sha256(column.tobytes()).hexdigest()]


def choose_tasks(wanted: list[str] | None, inputs: Inputs) -> tuple[list[Task], list[dict[str, str]]]:
    """Return the tasks to run, and the skipped ones with reasons.

    Raises
    ------
    InputError
        A wanted task lacks an input, or no task can run.
    """
    run: list[Task] = []
    skipped: list[dict[str, str]] = []
    for task in TASKS.values():
        if not task.in_auto if wanted is None else task.id not in wanted:
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
        raise InputError("no task can run: give `label` (and `batch`, `time` or `species`), or `predictions`")
    return run, skipped


class Runner:
    """Runs tasks and collects finished scores, which later failures do not lose."""

    def __init__(
        self, engine: Engine, inputs: Inputs, skipped: list[dict[str, str]], scope: CheckpointScope | None = None
    ) -> None:
        self._engine = engine
        self._inputs = inputs
        self._scope = scope or CheckpointScope(engine.timeline)
        self.rows: list[MetricResult] = []
        self.cells = inputs.cells()
        self.skipped = skipped
        self.failures: list[dict[str, str]] = []
        self.interrupted = False
        self._refusals: list[InputError] = []
        self._pre_integrated: Embedding | None = None

    def run(self, steps: Iterable[Callable[[], None]]) -> None:
        """Run the steps; on Ctrl-C stop, and keep the scores so far.

        Raises
        ------
        InputError
            Every task refused its input, so that there is no score.
        """

        def work() -> None:
            for step in steps:
                step()

        try:
            run_interruptible(work, self._engine.timeline)
        except KeyboardInterrupt:
            self.interrupted = True
        if not self.rows and self._refusals and len(self._refusals) == len(self.failures):
            raise self._refusals[0]

    def steps(
        self, dataset: Dataset | None, tasks: list[Task], data: Any, baselines: list[str]
    ) -> Iterable[Callable[[], None]]:
        """Yield one step per task: for each embedding, then each baseline, then the predictions."""
        embedding_tasks = [task for task in tasks if task.id != PERTURBATION]
        if dataset is not None and embedding_tasks:
            if self._inputs.pre_integrated is not None:
                before = self._engine.put(self._inputs.pre_integrated, "pre_integrated")
                self._pre_integrated = self._on_engine(before, "pre_integrated")
            with self._engine.timeline.stage("view"):
                view = given_view(data, dataset.n_cells, self._engine.seed)
            if view is not None:
                self.cells.views[""] = view
            for name, matrix in dataset.embeddings.items():
                yield from self._embedding(name, matrix, embedding_tasks)
            for baseline in baselines:
                yield from self._baseline(baseline, data, embedding_tasks)
        for task in tasks:
            if task.id == PERTURBATION:
                given = TaskInput(
                    self._engine, self._inputs.options, "predictions", perturbation=self._inputs.perturbation
                )
                yield partial(self._task, task, given)

    def _embedding(self, name: str, matrix: Any, tasks: list[Task], note: str = "") -> Iterable[Callable[[], None]]:
        timeline, options = self._engine.timeline, self._inputs.options
        with timeline.stage(name):
            x = self._unless_refused(lambda: self._engine.put(matrix, name), name, tasks)
            if x is None:
                return
            embedding = self._on_engine(x, name)
            tasks = self._with_graph(embedding, tasks)
            if "" not in self.cells.views:
                with timeline.stage("view"):
                    self.cells.views[name] = principal_view(embedding, self._engine.seed)
            scope = self._row_scope(embedding)
            for task in tasks:
                given = TaskInput(
                    self._engine,
                    options,
                    name,
                    embedding,
                    pre_integrated=self._pre_integrated,
                    scorers=self._inputs.scorers,
                    cells=self.cells,
                    scope=scope,
                    **self._inputs.columns,
                )
                yield partial(self._task, task, given, note)
            self._engine.release(x)

    def _on_engine(self, x: Array, name: str) -> Embedding:
        scope = self._scope
        if scope.checkpoint:
            with self._engine.timeline.stage("digest"):
                scope = scope.keyed(self._engine.digest(x))
        return Embedding(self._engine, x, name, scope)

    def _row_scope(self, embedding: Embedding) -> CheckpointScope:
        """The parts that depend on everything that a task is given."""
        if not self._scope.checkpoint:
            return self._scope
        before = self._pre_integrated and self._pre_integrated.scope.depends_on
        return embedding.scope.keyed(embedding.name, embedding.planned_k, before, self._inputs.digest())

    def _with_graph(self, embedding: Embedding, tasks: list[Task]) -> list[Task]:
        """Compute the neighbour graph that tasks share; return the tasks that can run."""
        options, engine = self._inputs.options, self._engine
        wanted = {task.id: task.graph_k(options, engine, embedding.n, embedding.d) for task in tasks}
        k = min(max(wanted.values()), embedding.n - 1)
        if k <= 0:
            return tasks
        embedding.plan_knn(k)
        graph_tasks = [task for task in tasks if wanted[task.id] > 0]
        if self._unless_refused(lambda: embedding.knn(k), embedding.name, graph_tasks) is not None:
            return tasks
        return [task for task in tasks if wanted[task.id] == 0]

    def _baseline(self, baseline: str, data: Any, tasks: list[Task]) -> Iterable[Callable[[], None]]:
        """Score "pca" on the tasks with a baseline in cz-benchmarks, "expression" on those whose baseline it is."""
        compute: Callable[[Any], Baseline]
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
            yield from self._embedding(name, matrix, tasks, matrix.note)

    def _unless_refused(self, make: Callable[[], T], name: str, tasks: list[Task]) -> T | None:
        """Return what tasks need; None, with failures, if that is refused after others were scored.

        Raises
        ------
        InputError, MemoryError
            It is refused or does not fit, and nothing was scored before.
        """
        try:
            return make()
        except (InputError, MemoryError) as error:
            if not self.rows:
                raise
            self.failures += [{"task": task.id, "embedding": name, "error": message_of(error)} for task in tasks]
            return None

    def _task(self, task: Task, given: TaskInput, note: str = "") -> None:
        with self._engine.timeline.stage(task.id):
            try:
                for row in task.run(given):
                    self._engine.timeline.cancel_token.check()
                    self.rows.append(with_note(row, note))
            except Exception as error:
                logger.debug("task %s failed", task.id, exc_info=True)
                reason = message_of(error) or type(error).__name__
                if isinstance(error, InputError):
                    self._refusals.append(error)
                elif not isinstance(error, MemoryError):
                    reason = f"{type(error).__name__}: {reason}"
                self.failures.append({"task": task.id, "embedding": given.name, "error": reason})
