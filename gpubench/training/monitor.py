"""`gpubench.Monitor`: scores of an embedding while its model is trained."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import GpubenchWarning, InputError, close_matches, give_warnings
from gpubench.data import as_rows
from gpubench.data.alignment import take_rows
from gpubench.tasks import Options
from gpubench.training.buffer import EmbeddingBuffer, PickedRows
from gpubench.training.ranks import broadcast, distributed, gather, is_first
from gpubench.training.scoring import ScoredStep, SubsetScorer

if TYPE_CHECKING:
    import pandas as pd

    from gpubench.core.types import I64
    from gpubench.engines.base import Engine

BASELINE = "baseline/"
"""Prefix of the keys of the baseline's values."""


class Monitor:
    """Score the embedding of the same cells again and again while its model is trained.

    A subset of the cells is chosen once. `update` takes the embedding in batches and stores the rows of the subset,
    `compute` scores them, with the numbers that `gpubench.score` gives for these cells, and `reset` begins the next
    pass. With torch on a GPU and the engine "cuda" the embedding does not leave the GPU. If torch.distributed is
    initialised, each process gives its own batches; `compute`, which all processes call, gathers them, and all get the
    same values.

    Parameters
    ----------
    label, batch, time, species : (n,) values for each cell of the validation data, as in `gpubench.score`
    tasks : ids of the tasks; "auto" for all whose inputs are given. If None, "embedding" and "batch_integration", if
        their inputs are given
    sample : number of cells in the subset, in which each label (without labels: batch, time, species) has its share; if
        None, or there are fewer cells, all cells
    seed : random seed of the subset and of the scores
    budget_s : seconds that one `compute` may take. Tasks that do not fit are left out, with a note in `notes` and a
        warning; each task is measured twice before it is ruled out. The baseline is not counted. If None, all tasks run
    engine : "auto", "cpu", "cuda", or a started engine. It starts with the first batch
    baseline : (n, d) embedding of the same cells to compare with, such as the PCA of the inputs; scored once. Its
        values are in those of every `compute`, with the prefix "baseline/"
    log : function that takes the values of each `compute`, or object with such a method `log`, as a run of Weights &
        Biases has; with several processes it is called in the first one
    threads, memory : as in `gpubench.score`
    **options : parameters of the tasks, see `gpubench.tasks.Options`

    Attributes
    ----------
    notes : sentences on what the last `compute` left out, and remarks on its scores
    cost_s : seconds spent in `update` and `compute` so far
    cost_share : share of the time that was spent there, between the last two calls of `compute`; in the first one since
        the monitor was made

    Raises
    ------
    InputError
        If an argument cannot be used, or a task lacks an input.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubench as gb
    >>> label = np.repeat(["B", "T"], 500)
    >>> monitor = gb.Monitor(label=label, tasks=["embedding"], sample=200, engine="cpu")
    >>> for epoch in range(3):
    ...     monitor.reset()
    ...     cells = np.random.default_rng(0).normal(size=(1000, 8)) + epoch * (label == "B")[:, None]
    ...     for start in range(0, 1000, 100):
    ...         monitor.update(cells[start : start + 100])
    ...     values = monitor.compute()
    >>> list(values)
    ['embedding/silhouette_score']
    >>> monitor.trend["embedding/silhouette_score"].is_monotonic_increasing
    True
    """

    def __init__(
        self,
        label: Any = None,
        batch: Any = None,
        *,
        time: Any = None,
        species: Any = None,
        tasks: str | Sequence[str] | None = None,
        sample: int | None = 5000,
        seed: int = 0,
        budget_s: float | None = None,
        engine: str | Engine = "auto",
        baseline: Any = None,
        log: Any = None,
        threads: int | None = None,
        memory: int | str | None = None,
        **options: Any,
    ) -> None:
        given = {"label": label, "batch": batch, "time": time, "species": species}
        for name in options:
            if name not in Options.__dataclass_fields__:
                raise InputError(f"option {name!r} is unknown{close_matches(name, Options.__dataclass_fields__)}")
        if budget_s is not None and not 0 < budget_s < np.inf:
            raise InputError(f"budget_s={budget_s!r} cannot be used; give seconds above 0", argument="budget_s")
        self._scorer = SubsetScorer(
            {role: values for role, values in given.items() if values is not None},
            tasks,
            sample=sample,
            seed=seed,
            engine=engine,
            engine_options={"threads": threads, "memory": memory},
            options=Options(**options),
        )
        self.budget_s = budget_s
        self._buffer = EmbeddingBuffer(self.index, self._scorer.n_cells)
        self._baseline = None if baseline is None else self._taken(baseline)
        self._baseline_values: dict[str, float] = {}
        self._log: Callable[[dict[str, float]], Any] | None = getattr(log, "log", log)
        self.notes: list[str] = []
        self._warned: set[str] = set()
        self._steps: list[dict[str, float]] = []
        self.cost_s = 0.0
        self.cost_share = 0.0
        self._interval_began = clock.perf_counter()
        self._interval_cost_s = 0.0

    @property
    def index(self) -> I64:
        """Cells of the subset, ascending; `update` needs the embedding of these cells only."""
        return self._scorer.subset

    @property
    def tasks(self) -> list[str]:
        """Ids of the tasks."""
        return list(self._scorer.task_ids)

    def update(self, embedding: Any, index: Any = None) -> None:
        """Take a batch of the embedding; rows of cells outside of the subset are not stored.

        Parameters
        ----------
        embedding : (b, d) torch tensor on any device, NumPy or CuPy array
        index : (b,) which cells these are: rows of the label and batch that the monitor was given. If None, the cells
            follow those of the last batch; if several processes train, it must be given

        Raises
        ------
        InputError
            The batch is not a matrix, the index does not fit, or it is missing.
        """
        with self._counted():
            self._buffer.add(self.pick(embedding, index), self._scorer.engine.xp)

    def compute(self, step: float | None = None) -> dict[str, float]:
        """Score the collected cells.

        Parameters
        ----------
        step : number of the step or epoch in `trend`; if None, the number of earlier calls

        Returns
        -------
        dict
            Task and metric, such as "embedding/silhouette_score" -> value, which is NaN if it is undefined. Where
            scores of several classifiers are averaged, it is the mean. If several processes train, all get the same.

        Raises
        ------
        InputError
            Fewer than two cells of the subset were given, or the embedding cannot be scored, as one with NaN.
        """
        with self._counted():
            dist = distributed()
            picked = self._buffer.collected(self._scorer.engine.xp)
            if dist is not None:
                picked = self._merged(gather(dist, picked))
            scored: ScoredStep | BaseException | None = None
            if is_first(dist):
                try:
                    scored = self._scored(picked)
                except Exception as error:
                    if dist is None:
                        raise
                    scored = error  # raised by all processes, since the others wait for this one
            step_scored = broadcast(dist, scored)
        values = self._end_step(step_scored, step)
        if self._log and is_first(dist):
            self._log(dict(values))
        return values

    def reset(self) -> None:
        """Forget the collected embedding, before the next pass over the cells; `trend` stays."""
        self._buffer.reset()

    @property
    def baseline(self) -> dict[str, float]:
        """Values of the baseline, with keys as those of `compute`; empty before the first one or without baseline."""
        return dict(self._baseline_values)

    @property
    def trend(self) -> pd.DataFrame:
        """A row for each `compute`: step, values, n_cells, seconds; NaN where a value was left out."""
        import pandas as pd

        last = ["n_cells", "seconds"]
        names = dict.fromkeys(name for row in self._steps for name in row if name not in last)
        return pd.DataFrame(self._steps, columns=[*(names or ["step"]), *last])

    def pick(self, embedding: Any, index: Any = None) -> PickedRows:
        """Select the rows of a batch that `update` would store, for code that collects them itself."""
        if index is None and distributed():
            raise InputError(
                "index is missing: several processes give batches; say which cells each batch has", argument="index"
            )
        return self._buffer.pick(embedding, index, self._scorer.engine.xp)

    def compute_from(self, parts: Sequence[PickedRows], step: float | None = None) -> dict[str, float]:
        """Score rows from `pick` that the caller has collected, also from other processes; else as `compute`.

        A cell that is in several parts, or several times in one, has its last row.
        """
        with self._counted():
            scored = self._scored(self._merged(parts))
        return self._end_step(scored, step)

    def __repr__(self) -> str:
        cells = f"{len(self.index):,} of {self._scorer.n_cells:,} cells"
        return f"Monitor({', '.join(self.tasks)}; {cells}; computed {len(self._steps):,} times in {self.cost_s:.2f} s)"

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Add the duration of the block to the costs."""
        begin = clock.perf_counter()
        try:
            yield
        finally:
            seconds = clock.perf_counter() - begin
            self.cost_s += seconds
            self._interval_cost_s += seconds

    def _taken(self, baseline: Any) -> Any:
        rows = as_rows(baseline, "baseline")
        if rows.shape[0] != self._scorer.n_cells:
            raise InputError(
                f"baseline has {rows.shape[0]:,} rows, but there are {self._scorer.n_cells:,} cells; give the same"
                " cells in the same order",
                argument="baseline",
            )
        return take_rows(rows, self.index)

    def _merged(self, parts: Sequence[PickedRows]) -> PickedRows:
        xp = self._scorer.engine.xp
        together = EmbeddingBuffer(self.index, self._scorer.n_cells)
        for part in parts:
            together.add(part, xp)
        return together.collected(xp)

    def _scored(self, picked: PickedRows) -> ScoredStep:
        n, m = len(picked.positions), len(self.index)
        if n < 2:
            raise InputError(
                f"embedding: {n} of the {m:,} cells of the subset were given; call update() before compute()",
                argument="embedding",
            )
        if self._baseline is not None:
            self._baseline_values = self._scorer.score(self._baseline, np.arange(m)).values
            self._baseline = None
        scored = self._scorer.score(picked.rows, picked.positions, budget_s=self.budget_s)
        scored.values |= {BASELINE + key: value for key, value in self._baseline_values.items()}
        if n < m:
            scored.left_out["cells"] = f"{m - n:,} of the {m:,} cells of the subset were not given, and not scored"
        return scored

    def _end_step(self, scored: ScoredStep, step: float | None) -> dict[str, float]:
        """Record the values, warn of what was left out for the first time, and begin the next interval."""
        now = clock.perf_counter()
        self.cost_share = self._interval_cost_s / (now - self._interval_began)
        values = dict(scored.values)
        self._baseline_values = {
            key.removeprefix(BASELINE): value for key, value in values.items() if key.startswith(BASELINE)
        }
        row = {"step": len(self._steps) if step is None else step, **values}
        self._steps.append({**row, "n_cells": scored.n_cells, "seconds": self._interval_cost_s})
        self._interval_began, self._interval_cost_s = now, 0.0
        self.notes = [*scored.left_out.values(), *scored.notes]
        new = {kind: note for kind, note in scored.left_out.items() if kind not in self._warned}
        self._warned |= new.keys()
        give_warnings(GpubenchWarning(f"Monitor: {note}") for note in new.values())
        return values
