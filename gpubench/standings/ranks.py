"""Mean ranks of models over the metrics of a task and over datasets, with intervals by resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpubench.core.types import F64
from gpubench.standings.scored import ScoredMetric

N_DRAWS = 1000
"""Number of draws from which intervals are computed."""

MIN_DATASETS = 3
"""Number of datasets from which on datasets are drawn: of two, a draw would often have one twice."""

OVERALL = "overall"
"""Name of the ranking over all tasks."""

_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Standing:
    """Place of one model in a task, or over all tasks.

    Attributes
    ----------
    model : name of the model
    rank : mean rank, 1 is best; over the datasets on which the model was scored
    interval : ends of the 95% interval of the mean rank; None if nothing was drawn
    n_datasets : number of datasets on which it was scored
    is_complete : whether it was scored in every metric on every dataset on which models are ranked
    ties_with_best : whether its mean rank is not distinguishable from that of the first model: the 95%
        interval of the difference contains 0. False for the first model, and without intervals
    """

    model: str
    rank: float
    interval: tuple[float, float] | None
    n_datasets: int
    is_complete: bool
    ties_with_best: bool


class RankDraws:
    """Ranks of models in each task on each dataset, as they are and in draws.

    In a draw each score is replaced by a normal number around it with its standard error, and datasets are drawn with
    replacement if there are `MIN_DATASETS`. Errors of models on the same cells are taken as independent although they
    are positively correlated, so the intervals are somewhat too wide.

    Parameters
    ----------
    scored : scores of the models
    models : names of the models
    seed : random seed of the draws
    """

    def __init__(self, scored: Sequence[ScoredMetric], models: Sequence[str], seed: int) -> None:
        self.models = tuple(models)
        self.datasets = tuple(dict.fromkeys(one.dataset for one in scored))
        self.tasks = tuple(dict.fromkeys(one.task for one in scored))
        rng = np.random.default_rng(seed)
        shape = (len(self.tasks), len(self.datasets), N_DRAWS + 1, len(models))
        sums, counts = np.zeros(shape, np.float32), np.zeros(shape[:2] + shape[3:], np.float32)
        self.n_metrics = np.zeros(shape[:2], np.int64)
        self.has_errors = False
        has_parts = {(one.task, one.dataset) for one in scored if not one.is_aggregate}
        for one in scored:
            if one.is_aggregate and (one.task, one.dataset) in has_parts:
                continue
            at = self.tasks.index(one.task), self.datasets.index(one.dataset)
            rows = [self.models.index(name) for name in one.values]
            if one.higher_is_better is None or len(rows) < 2:
                continue
            sums[*at][:, rows] += self._ranks(one, rng)
            counts[*at][rows] += 1
            self.n_metrics[at] += 1
        with np.errstate(invalid="ignore"):
            self.ranks = sums / counts[:, :, None]  # (tasks, datasets, draws, models); NaN if not scored
        self._is_whole = counts == self.n_metrics[:, :, None]  # scored in every metric that is ranked there
        self._weights = self._drawn_datasets(rng)

    def _ranks(self, one: ScoredMetric, rng: np.random.Generator) -> F64:
        """Return the ranks of the models of one metric, (draws + 1, models); the first row is without noise."""
        from scipy.stats import rankdata

        values = np.array(list(one.values.values()), float)
        keys = np.where(np.isnan(values), np.inf, -values if one.higher_is_better else values)
        errors = np.array([one.errors.get(name, 0.0) for name in one.values])
        self.has_errors |= bool(errors.any())
        noise = rng.standard_normal((N_DRAWS + 1, len(keys))) * errors
        noise[0] = 0
        return np.asarray(rankdata(keys + noise, axis=1), np.float64)

    def _drawn_datasets(self, rng: np.random.Generator) -> F64:
        """Return how often each dataset is in each draw, (draws + 1, datasets); the first row has each once."""
        n = len(self.datasets)
        weights = np.ones((N_DRAWS + 1, n))
        if self.draws_datasets:
            weights[1:] = rng.multinomial(n, np.full(n, 1 / n), size=N_DRAWS)
        return weights

    @property
    def draws_datasets(self) -> bool:
        """Whether datasets are drawn."""
        return len(self.datasets) >= MIN_DATASETS

    @property
    def method(self) -> str:
        """What varies between draws, such as "datasets"; empty if nothing does, so that there are no intervals."""
        over = ["datasets"] * self.draws_datasets + ["the standard errors of scores"] * self.has_errors
        return " and ".join(over)

    def task_ranks(self, task: int) -> F64:
        """Return the mean ranks over datasets in one task, (draws + 1, models)."""
        ranks = self.ranks[task]
        known = ~np.isnan(ranks)
        weights = self._weights.T[:, :, None] * known
        with np.errstate(invalid="ignore"):
            means: F64 = (weights * np.where(known, ranks, 0)).sum(axis=0) / weights.sum(axis=0)
        return means

    def overall_ranks(self) -> F64:
        """Return the means over tasks of the mean ranks over datasets, (draws + 1, models)."""
        ranks = np.stack([self.task_ranks(i) for i in range(len(self.tasks))])
        known = ~np.isnan(ranks)
        with np.errstate(invalid="ignore"):
            means: F64 = np.where(known, ranks, 0).sum(axis=0) / known.sum(axis=0)
        return means

    @cached_property
    def standings(self) -> dict[str, list[Standing]]:
        """Task -> places of the models, the best complete one first; the first entry, "overall", is over all tasks."""
        return {OVERALL: self._places(None), **{task: self._places(i) for i, task in enumerate(self.tasks)}}

    @property
    def ordered_models(self) -> list[str]:
        """Names of the models, by their place over all tasks; those without a rank last."""
        ranked = [one.model for one in self.standings[OVERALL]]
        return [*ranked, *(name for name in self.models if name not in ranked)]

    def rank(self, model: str, task: str, dataset: str) -> float | None:
        """Return the mean rank of a model over the metrics of a task on a dataset; None if it has none there."""
        at = self.tasks.index(task), self.datasets.index(dataset), 0, self.models.index(model)
        rank = float(self.ranks[at])
        return None if math.isnan(rank) else rank

    def _places(self, task: int | None) -> list[Standing]:
        draws = self.overall_ranks() if task is None else self.task_ranks(task)
        own = self.ranks[:, :, 0] if task is None else self.ranks[task : task + 1, :, 0]
        scored = np.asarray(~np.isnan(own))  # (tasks, datasets, models)
        whole = self._is_whole if task is None else self._is_whole[task : task + 1]
        complete = whole.all(axis=(0, 1))
        ranked = [i for i in range(len(self.models)) if not np.isnan(draws[0, i])]
        order = sorted(ranked, key=lambda i: (not complete[i], draws[0, i]))
        return [
            Standing(
                self.models[i],
                float(draws[0, i]),
                self._interval(draws[1:, i]),
                int(scored[:, :, i].any(axis=0).sum()),
                bool(complete[i]),
                i != order[0] and self._contains_zero(draws[1:, i] - draws[1:, order[0]]),
            )
            for i in order
        ]

    def _interval(self, draws: F64) -> tuple[float, float] | None:
        if not self.method:
            return None
        low, high = np.nanpercentile(draws, _PERCENTILES)
        return float(low), float(high)

    def _contains_zero(self, differences: F64) -> bool:
        interval = self._interval(differences)
        return interval is not None and interval[0] <= 0 <= interval[1]
