"""The real data of a screen, prepared once for all predictions: scores of predictions, baselines and replicates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.core.scores import PerturbationTable
from gpubench.data.perturbation.screens import selected_labels
from gpubench.data.perturbation.stored_matrix import StoredMatrix
from gpubench.metrics import perturbation as scoring
from gpubench.metrics.perturbation.effects import example_effects
from gpubench.metrics.perturbation.evaluation import evaluate_pair
from gpubench.metrics.perturbation.pairing import PairedSides

if TYPE_CHECKING:
    from gpubench.core.kept_results import KeptResults
    from gpubench.data.perturbation.screens import Screen
    from gpubench.engines.base import Engine
    from gpubench.metrics.perturbation import PerturbationMetric, PerturbationScores, PerturbedCells, RealSide, Values
    from gpubench.metrics.perturbation.streaming import Cells
    from gpubench.metrics.perturbation.tables import ExpressionTable

Baseline = Literal["mean", "control", "replicate", "ceiling"]

PREFIX = "baseline_"
"""Prefix of the names of baselines in results, as for baselines of embeddings."""


def column_name(baseline: str) -> str:
    """Return the name in results of a baseline ("mean", "control"), of "replicate" or of "ceiling"."""
    return f"{PREFIX}{baseline}" if baseline in ("mean", "control") else baseline


def cells_of(screen: Screen) -> Cells:
    """Return the cells of a screen as metrics take them: in memory, or to be read in parts if the screen is."""
    labels, genes, stored = screen.perturbations, screen.genes, screen.x
    if not isinstance(stored, StoredMatrix):
        return scoring.perturbed_cells(stored, labels, genes, screen.embeddings)

    def read(names: Sequence[str]) -> PerturbedCells:
        wanted = np.isin(labels.codes, [labels.names.index(name) for name in names])
        rows = np.flatnonzero(wanted)
        embeddings = {key: values[rows] for key, values in screen.embeddings.items()}
        return scoring.perturbed_cells(stored.take(rows), selected_labels(labels, rows), genes, embeddings)

    n_cells = np.bincount(labels.codes, minlength=labels.n_classes)
    return scoring.StreamedCells(
        labels.names, n_cells, genes, read, counts=stored.is_whole, cells_per_part=stored.rows_per_part
    )


@dataclass(frozen=True)
class Scored:
    """Scores of one prediction in one context.

    Attributes
    ----------
    scores : values of every metric
    seconds : metric -> seconds that it took, without work that an earlier metric had done
    n : number of predicted cells
    examples : effects of a few perturbations, see `example_effects`; none without a metric of effects
    """

    scores: PerturbationScores
    seconds: Mapping[str, float]
    n: int
    examples: Sequence[Mapping[str, Any]] = ()


class RealScreen:
    """The real data of a screen, prepared once for any number of predictions.

    Parameters
    ----------
    screen : real cells; each context is scored by itself
    control : label of the control
    engine : engine to compute on
    metrics : metrics to compute for each prediction
    n_splits : number of random splits into halves over which the replicate is averaged
    strict_mean : make the means for the ceiling NaN because of undefined values wherever cell-eval does
    kept : results of earlier runs on the same data and engine; if None, everything is computed
    table : differential expression of the real data; if None, it is computed
    target_genes : perturbation -> the gene that it targets, if that is not its name, or None
    embeddings : metric -> the key of the embedding in which it is computed
    """

    def __init__(
        self,
        screen: Screen,
        control: str,
        engine: Engine,
        metrics: list[PerturbationMetric],
        *,
        n_splits: int = 5,
        strict_mean: bool = False,
        kept: KeptResults | None = None,
        table: ExpressionTable | None = None,
        target_genes: Mapping[str, str | None] | None = None,
        embeddings: Mapping[str, str] | None = None,
    ) -> None:
        self.metrics = metrics
        self._given = {"table": table, "cell_eval2": scoring.CellEval2Settings(target_gene_map=target_genes or {})}
        self._options = {metric: {"embed_key": key} for metric, key in (embeddings or {}).items()}
        self._n_splits, self._strict = n_splits, strict_mean
        self._engine, self._control = engine, control
        self.n, self._kept = screen.n, kept
        self._contexts = screen.by_context()
        self._baselines: dict[str, dict[str, Scored]] = {}

    @property
    def contexts(self) -> tuple[str, ...]:
        """Names of the contexts; one without a name if none were given."""
        return tuple(self._contexts)

    @cached_property
    def sides(self) -> dict[str, RealSide]:
        """Context -> real data, prepared for metrics."""
        given: dict[str, Any] = {"control": self._control, "engine": self._engine, **self._given}
        return {
            context: scoring.prepare(cells_of(screen), kept=self._kept and self._kept.keyed(context), **given)
            for context, screen in self._contexts.items()
        }

    @property
    def scale(self) -> str:
        """Scale of the values, "counts" or "log"."""
        return "counts" if next(iter(self.sides.values())).has_counts else "log"

    def score(self, predicted: Screen, table: ExpressionTable | None = None) -> dict[str, Scored]:
        """Score a prediction in every context; context -> scores. `table` is its differential expression, if given."""
        parts = predicted.by_context()
        return {
            context: self._score(side, cells_of(parts[context]), table=table) for context, side in self.sides.items()
        }

    def _score(
        self,
        side: RealSide,
        predicted: Cells,
        metrics: list[PerturbationMetric] | None = None,
        table: ExpressionTable | None = None,
    ) -> Scored:
        comparison, timeline = PairedSides(side, predicted, table), self._engine.timeline
        values: dict[str, Values] = {}
        seconds: dict[str, float] = {}
        for metric in self.metrics if metrics is None else metrics:
            begin = time.perf_counter()
            with timeline.stage(metric.id):
                timeline.cancel_token.check()
                values |= evaluate_pair(comparison, [metric], self._options).values
            seconds[metric.id] = time.perf_counter() - begin
        own = next((m for m in self.metrics if m.needs == "effects"), None)
        examples = () if own is None else example_effects(comparison.pair("effects", own.generation), side.cells.genes)
        return Scored(scoring.PerturbationScores(side.perturbations, values), seconds, predicted.n, examples)

    def baseline(self, name: str) -> dict[str, Scored]:
        """Score the baseline "mean" or "control" in every context; computed once."""
        if name not in self._baselines:
            self._baselines[name] = {context: self._baseline(name, side) for context, side in self.sides.items()}
        return self._baselines[name]

    def _baseline(self, name: str, side: RealSide) -> Scored:
        """Score a baseline; for counts, metrics of cell-eval2 take the mean with the spread of control cells."""
        seed, parts = self._engine.seed, []
        for generation in (1, 2):
            metrics = [metric for metric in self.metrics if metric.generation == generation]
            if not metrics:
                continue
            if name == "control":
                predicted = scoring.control_baseline(side, seed=seed)
            elif generation == 2 and side.has_counts:
                predicted = scoring.dispersed_mean_baseline(side, seed=seed)
            else:
                predicted = scoring.mean_baseline(side)
            parts.append(self._score(side, predicted, metrics))
        values = {metric: own for part in parts for metric, own in part.scores.values.items()}
        seconds = {metric: own for part in parts for metric, own in part.seconds.items()}
        return Scored(scoring.PerturbationScores(side.perturbations, values), seconds, parts[0].n)

    @cached_property
    def replicates(self) -> dict[str, dict[str, float]]:
        """Scores of halves of the real cells against each other: context -> metric -> mean over the splits."""
        seed, n_splits = self._engine.seed, self._n_splits

        def compute(side: RealSide, ids: list[str]) -> dict[str, float]:
            return scoring.replicates(side, ids, n_splits=n_splits, seed=seed).means()

        return {context: self._of_halves("replicate", side, compute, n_splits) for context, side in self.sides.items()}

    @cached_property
    def ceilings(self) -> dict[str, dict[str, float]]:
        """The ceiling that cell-eval extrapolates from halves of the real cells: context -> metric -> value."""
        seed, strict = self._engine.seed, self._strict

        def compute(side: RealSide, ids: list[str]) -> dict[str, float]:
            return scoring.ceiling(side, ids, seed=seed, strict=strict)[0]

        return {context: self._of_halves("ceiling", side, compute, strict) for context, side in self.sides.items()}

    def _of_halves(
        self, name: str, side: RealSide, compute: Callable[[RealSide, list[str]], dict[str, float]], *facts: Any
    ) -> dict[str, float]:
        """Return metric -> value of a function of the real data, or those that an earlier run kept."""
        ids = [metric.id for metric in self.metrics]
        if side.kept is None:
            return compute(side, ids)
        values = side.kept.result(name, lambda: {m: np.array(v) for m, v in compute(side, ids).items()}, ids, *facts)
        return {metric: float(values[metric]) for metric in ids}


@dataclass(frozen=True)
class ScreenColumn:
    """Input of one column of the results: a prediction or a baseline, and the real data.

    Attributes
    ----------
    real : the real data
    predicted : the prediction, or the name of the baseline
    zeros : baselines that get 0 in scaled scores
    has_replicate : whether a repeated experiment gets 1 in further scaled scores
    table : table to which the value of every perturbation is added
    tests : differential expression of the prediction; if None, it is computed
    """

    real: RealScreen
    predicted: Screen | Baseline
    zeros: tuple[str, ...] = ()
    has_replicate: bool = False
    table: PerturbationTable = field(default_factory=PerturbationTable)
    tests: ExpressionTable | None = None
