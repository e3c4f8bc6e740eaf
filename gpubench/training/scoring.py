"""Score the embedding of a subset of cells again and again, within a limit of time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.core.types import Labels, check_seed
from gpubench.core.units import parse_bytes
from gpubench.data.columns import take_values
from gpubench.engines import get_engine
from gpubench.engines.base import Engine
from gpubench.engines.embedding import Embedding
from gpubench.results.score_table import summarize
from gpubench.running.prepare import check_columns, encode_columns
from gpubench.tasks import TASKS, Options
from gpubench.tasks._folds import draw_in_shares
from gpubench.tasks._task import Task, TaskInput

if TYPE_CHECKING:
    from gpubench.core.scores import MetricResult
    from gpubench.core.types import I64

ROLES = ("label", "batch", "time", "species")
"""Columns that a monitor takes, the first of which that is given decides the shares of the subset."""

DEFAULT_TASKS = ("embedding", "batch_integration")
"""Tasks of a monitor that was not given any, those whose inputs it has: they take well under a second."""

MIN_MEASURED = 2
"""Number of times that a task is measured before a budget rules it out; the first time includes imports."""


@dataclass(slots=True)
class ScoredStep:
    """What one `Monitor.compute` scored.

    Attributes
    ----------
    values : key, such as "embedding/silhouette_score" -> value
    notes : remarks on the scores, without those in `left_out`
    left_out : kind of omission -> sentence on it
    n_cells : number of cells that were scored
    """

    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    n_cells: int = 0


class SubsetScorer:
    """Scores of embeddings of a fixed subset of cells.

    Parameters
    ----------
    columns : role, such as "label" -> values of all n cells
    tasks : ids of the tasks, or None for `DEFAULT_TASKS`
    sample, seed, engine : see `gpubench.Monitor`
    engine_options : further arguments of `get_engine`
    options : parameters of the tasks

    Attributes
    ----------
    n_cells : number of all cells n
    subset : (m,) cells of the subset, ascending
    task_ids : chosen tasks, in the order in which their scores are listed
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        tasks: str | Sequence[str] | None,
        *,
        sample: int | None,
        seed: int,
        engine: str | Engine,
        engine_options: Mapping[str, Any],
        options: Options,
    ) -> None:
        self.task_ids = _choose_tasks(tasks, columns)
        self._seed = check_seed(seed)
        self._engine, self._engine_options, self._options = engine, dict(engine_options), options
        first = next(iter(columns))
        self._columns = encode_columns({first: columns[first]}, None)
        self.n_cells = len(self._columns[first])
        self._columns |= encode_columns(
            {role: values for role, values in columns.items() if role != first}, self.n_cells
        )
        strata = self._columns["time_label" if first == "time" else first]
        self.subset = _draw_subset(strata, sample, self._seed)
        self._subset_columns = self._taken(self.subset)
        self._seconds: dict[str, list[float]] = {}

    @property
    def tasks(self) -> list[Task]:
        """The chosen tasks; they are not attributes, since tasks cannot be pickled."""
        return [TASKS[task_id] for task_id in self.task_ids]

    @property
    def engine(self) -> Engine:
        """The engine that scores; reading it for the first time starts it."""
        if isinstance(self._engine, str):
            options = dict(self._engine_options)
            memory = options.pop("memory")
            options["memory_bytes"] = parse_bytes(memory) if isinstance(memory, str) else memory
            self._engine = get_engine(self._engine, seed=self._seed, **options)
        if not self._engine.policy.saves_neighbors:
            raise InputError(
                f"engine={self._engine.name!r} computes elsewhere, which takes longer than a step of training; use"
                " 'cpu' or 'cuda'",
                argument="engine",
            )
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies, which start an engine of their own."""
        return {**self.__dict__, "_engine": self._engine if isinstance(self._engine, str) else self._engine.name}

    def score(self, rows: Any, positions: I64, *, budget_s: float | None = None) -> ScoredStep:
        """Score the embedding of cells of the subset.

        Parameters
        ----------
        rows : (k, d) float32 embedding, on the host or on the engine's device
        positions : (k,) positions of these cells in the subset, ascending
        budget_s : seconds that this may take; tasks that are expected to take longer are left out. The tasks that took
            least run first. If None, all tasks run

        Raises
        ------
        InputError
            The embedding is not finite, or too few cells are left to score.
        """
        begin = time.perf_counter()
        whole = len(positions) == len(self.subset)
        columns = self._subset_columns if whole else self._taken(self.subset[positions])
        step = ScoredStep(n_cells=len(positions))
        embedding = Embedding.put(self.engine, rows, "embedding")
        results: dict[str, list[MetricResult]] = {}
        for task in sorted(self.tasks, key=self._expected_s):
            spent, expected = time.perf_counter() - begin, self._expected_s(task)
            if budget_s is not None and spent + expected > budget_s:
                why = f"takes {expected:.2g} s" if expected else "was not begun"
                step.left_out[task.id] = (
                    f"{task.id} was left out: it {why}, and {max(0.0, budget_s - spent):.2g} s are left of"
                    f" budget_s={budget_s:g}"
                )
                continue
            results[task.id] = self._run(task, embedding, columns)
            self._seconds.setdefault(task.id, []).append(time.perf_counter() - begin - spent)
        embedding.release()
        listed = [row for task in self.tasks for row in results.get(task.id, ())]
        step.values = keyed(listed)
        step.notes = list(dict.fromkeys(f"{row.task}/{row.metric}: {row.note}" for row in listed if row.note))
        return step

    def _run(self, task: Task, embedding: Embedding, columns: Mapping[str, Any]) -> list[MetricResult]:
        wanted = (one.graph_k(self._options, self.engine, embedding.n, embedding.d) for one in self.tasks)
        if (k := min(max(wanted), embedding.n - 1)) > 0 and task.graph_k(
            self._options, self.engine, embedding.n, embedding.d
        ):
            embedding.plan_knn(k)
        given = TaskInput(self.engine, self._options, embedding.name, embedding, **columns)
        return list(task.run(given))

    def _expected_s(self, task: Task) -> float:
        """Return the seconds that a task takes; 0 as long as it was measured too few times."""
        seconds = self._seconds.get(task.id, [])
        return min(seconds) if len(seconds) >= MIN_MEASURED else 0.0

    def _taken(self, cells: I64) -> dict[str, Any]:
        taken = {
            role: take_values(values, cells, role) if isinstance(values, Labels) else values[cells]
            for role, values in self._columns.items()
        }
        check_columns(taken)
        return taken


def keyed(rows: Iterable[MetricResult]) -> dict[str, float]:
    """Return "task/metric" -> value; parameters that tell rows of a metric apart follow after another slash.

    Rows over which a mean was taken are left out.
    """
    return {
        "/".join(filter(None, (row.task, row.metric, row.setting))): row.cells[0].value
        for row in summarize(list(rows)).rows
        if row.cells[0] is not None
    }


def _choose_tasks(tasks: str | Sequence[str] | None, columns: Mapping[str, Any]) -> list[str]:
    possible = {task.id: task for task in TASKS.values() if set(task.needs) <= set(ROLES)}
    if not columns:
        raise InputError(f"no column is given; give at least one of: {', '.join(ROLES)}")
    if tasks is None or tasks == "auto":
        names = list(DEFAULT_TASKS) if tasks is None else [task.id for task in possible.values() if task.in_auto]
        chosen = [name for name in names if set(possible[name].needs) <= set(columns)]
        if not chosen:
            raise InputError(f"tasks: none of {quoted(names)} has its inputs; name one with `tasks`", argument="tasks")
        return chosen
    names = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
    if not names:
        raise InputError("tasks is empty; name at least one", argument="tasks")
    for name in names:
        if name not in possible:
            raise InputError(
                f"task {name!r} does not score an embedding{close_matches(name, possible)}", argument="tasks"
            )
        missing = [need for need in possible[name].needs if need not in columns]
        if missing:
            needed = " and ".join(f"`{need}`" for need in missing)
            raise InputError(f"task {name!r} needs {needed}; give one value for each cell", argument="tasks")
    return [name for name in possible if name in names]


def _draw_subset(strata: Labels, sample: int | None, seed: int) -> I64:
    n = len(strata)
    if sample is not None and sample < 2:
        raise InputError(f"sample={sample} cannot be used; give a number of cells, at least 2", argument="sample")
    if sample is None or sample >= n:
        return np.arange(n)
    if strata.n_classes > sample:
        raise InputError(
            f"sample={sample}: {strata.key} has {strata.n_classes:,} values, each of which needs a cell; give a larger"
            " sample",
            argument="sample",
        )
    return draw_in_shares(strata.codes, int(sample), seed)
