"""Run the tasks of a prepared run, and collect every finished score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gpubench import data as readers
from gpubench.core.checkpoint import CheckpointScope
from gpubench.core.errors import InputError, explaining_memory_errors, message_of
from gpubench.engines.embedding import Embedding
from gpubench.running.interrupt import run_interruptible
from gpubench.running.prepare import PERTURBATION
from gpubench.running.views import given_view, principal_view
from gpubench.tasks._task import Task, TaskInput, with_note

if TYPE_CHECKING:
    from gpubench.core.scores import MetricResult
    from gpubench.core.types import Array
    from gpubench.data.expression import Baseline
    from gpubench.running.prepare import Prepared

T = TypeVar("T")
logger = logging.getLogger("gpubench")

Step = Callable[[], None]


class Runner:
    """Runs the tasks of a prepared run and collects finished scores, which later failures do not lose."""

    def __init__(self, prepared: Prepared, scope: CheckpointScope | None = None) -> None:
        self._prepared = prepared
        self._engine = prepared.engine
        self._inputs = prepared.inputs
        self._scope = scope or CheckpointScope(prepared.engine.timeline)
        self.rows: list[MetricResult] = []
        self.cells = prepared.inputs.cells()
        self.skipped = list(prepared.skipped)
        self.failures: list[dict[str, str]] = []
        self.interrupted = False
        self._refusals: list[InputError] = []
        self._pre_integrated: Embedding | None = None

    def run(self) -> None:
        """Run all tasks; on Ctrl-C stop, and keep the scores so far.

        Raises
        ------
        InputError
            Every task refused its input, so that there is no score.
        """

        def work() -> None:
            for step in self._steps():
                step()

        try:
            run_interruptible(work, self._engine.timeline)
        except KeyboardInterrupt:
            self.interrupted = True
        if not self.rows and self._refusals and len(self._refusals) == len(self.failures):
            raise self._refusals[0]

    def _steps(self) -> Iterator[Step]:
        """Yield one step per task: for each embedding, then each baseline, then the predictions."""
        dataset, data, tasks = self._prepared.dataset, self._prepared.run.data, self._prepared.tasks
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
            for baseline in self._prepared.baselines:
                yield from self._baseline(baseline, data, embedding_tasks)
        for task in tasks:
            if task.id == PERTURBATION:
                options, perturbation = self._prepared.run.options, self._inputs.perturbation
                yield partial(
                    self._task, task, TaskInput(self._engine, options, "predictions", perturbation=perturbation)
                )

    def _embedding(self, name: str, matrix: Any, tasks: list[Task], note: str = "") -> Iterator[Step]:
        timeline, run = self._engine.timeline, self._prepared.run
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
                    run.options,
                    name,
                    embedding,
                    pre_integrated=self._pre_integrated,
                    scorers=run.scorers or {},
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
        """Return the checkpoint scope of scores, which depend on all inputs of a task."""
        if not self._scope.checkpoint:
            return self._scope
        before = self._pre_integrated and self._pre_integrated.scope.depends_on
        return embedding.scope.keyed(
            embedding.name, embedding.planned_k, before, self._inputs.digest(self._prepared.run.options)
        )

    def _with_graph(self, embedding: Embedding, tasks: list[Task]) -> list[Task]:
        """Compute the neighbour graph that tasks share; return the tasks that can run."""
        options, engine = self._prepared.run.options, self._engine
        wanted = {task.id: task.graph_k(options, engine, embedding.n, embedding.d) for task in tasks}
        k = min(max(wanted.values()), embedding.n - 1)
        if k <= 0:
            return tasks
        embedding.plan_knn(k)
        graph_tasks = [task for task in tasks if wanted[task.id] > 0]
        if self._unless_refused(lambda: embedding.knn(k), embedding.name, graph_tasks) is not None:
            return tasks
        return [task for task in tasks if wanted[task.id] == 0]

    def _baseline(self, baseline: str, data: Any, tasks: list[Task]) -> Iterator[Step]:
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
            with explaining_memory_errors():
                return make()
        except (InputError, MemoryError) as error:
            if not self.rows:
                raise
            self.failures += [{"task": task.id, "embedding": name, "error": message_of(error)} for task in tasks]
            return None

    def _task(self, task: Task, given: TaskInput, note: str = "") -> None:
        with self._engine.timeline.stage(task.id):
            try:
                with explaining_memory_errors():
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
