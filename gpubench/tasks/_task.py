"""A task: a question, the inputs that it needs, and the metrics that answer it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, get_args

from gpubench.core.checkpoint import CheckpointEntry, CheckpointScope, Codec
from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import CellColumn, CellScores, MetricResult, Score, score_from_dict, score_to_dict
from gpubench.core.types import Labels
from gpubench.engines.base import Backend, ClassifierKind
from gpubench.engines.embedding import Embedding
from gpubench.metrics._metric import Metric, MetricSpec
from gpubench.metrics.perturbation.registry import metrics_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpubench.data.perturbation.predictions import PerturbationData
    from gpubench.engines.base import Engine
    from gpubench.engines.costs import Cost, CostModel, Sizes
    from gpubench.tasks._screens import ScreenColumn

T = TypeVar("T")
P = ParamSpec("P")
Need = Literal["label", "batch", "time", "species", "predictions", "control"]
Aggregation = Literal["none", "mean", "median"]
Effect = Literal["ratio", "difference"]

_MIN_VALUES = {"n_neighbors": 2, "k": 1, "n_cluster_neighbors": 2, "n_iterations": 1, "n_folds": 2, "min_class_size": 1,
               "n_splits": 1}  # fmt: skip
"""Option -> smallest value, for options that are counts."""


@dataclass(frozen=True, slots=True)
class Options:
    """Parameters of the tasks; the defaults are those of cz-benchmarks.

    Attributes
    ----------
    n_neighbors : number of cells in a neighbourhood of entropy_per_cell, the cell itself included
    k : number of neighbours of sequential_alignment
    adaptive_k : choose k for each cell from its local density
    normalize : scale sequential_alignment to [0, 1]; if False, report the mean distance in time
    n_cluster_neighbors : number of neighbours in the clustering graph, the cell itself included
    resolution, n_iterations : parameters of the Leiden algorithm
    n_folds : number of folds in cross-validation
    min_class_size : labels with fewer cells are left out of label_prediction
    classifiers : classifiers of the label prediction tasks, over which means are taken as well: one or several of "lr",
        "knn" and "rf", also as "lr,knn"
    aggregation : how cells of one sample are merged before cross-species prediction: "none", "mean", "median"
    effect : how a predicted change is computed from means: log "ratio" or "difference"
    profile : set of metrics of perturbation_prediction: "cell_eval", "full" (of cell-eval2), "vcc2026", "vcc2025",
        "minimal"
    metrics : ids of metrics of perturbation_prediction, instead of a profile; also as "mae,pearson_delta"
    strict_mean : make means NaN because of perturbations without a value wherever cell-eval does
    backend : what computes the classifiers and the silhouettes of labels: "gpubench", or a library that the engine has,
        to compare; see `gpubench.engines.base.Backend`
    n_splits : number of random splits of the real cells into halves for the baseline "replicate"
    de_real, de_predicted : differential expression of the real data and of the predictions of perturbation_prediction,
        in place of tests: paths of CSV or Parquet files, or DataFrames, with the columns target, feature,
        log2_fold_change, p_value and fdr (or p_adj); for several predictions a mapping, also as "NAME=FILE,NAME=FILE"
    target_genes : the gene that each perturbation targets, if that is not its name: a mapping, or the path of a table
        with the columns perturbation and gene
    embed_key : key of obsm in which discrimination_score_l2 and _cosine are computed, as in cell-eval; other metrics
        by a mapping, also as "pearson_edistance=X_pca"

    Raises
    ------
    InputError
        A value that no task can use.
    """

    n_neighbors: int = 200
    k: int = 15
    adaptive_k: bool = False
    normalize: bool = True
    n_cluster_neighbors: int = 15
    resolution: float = 1.0
    n_iterations: int = 2
    n_folds: int = 5
    min_class_size: int = 10
    classifiers: tuple[ClassifierKind, ...] = get_args(ClassifierKind)
    aggregation: Aggregation = "mean"
    effect: Effect = "ratio"
    profile: str = "cell_eval"
    metrics: tuple[str, ...] = ()
    strict_mean: bool = False
    backend: Backend = "gpubench"
    n_splits: int = 5
    de_real: Any = ""
    de_predicted: Any = ""
    target_genes: Any = ""
    embed_key: Any = ""

    def __post_init__(self) -> None:
        """Check every value before anything is computed."""
        for name, minimum in _MIN_VALUES.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < minimum:
                raise InputError(
                    f"{name}={value!r} cannot be used; give a whole number of at least {minimum}", argument=name
                )
        resolution: Any = self.resolution
        if not (isinstance(resolution, Real) and 0 < float(resolution) < math.inf):
            raise InputError(f"resolution={resolution!r} cannot be used; give a number above 0", argument="resolution")
        for name, choices in (("aggregation", Aggregation), ("effect", Effect), ("backend", Backend)):
            if getattr(self, name) not in get_args(choices):
                listed = ", ".join(map(repr, get_args(choices)))
                raise InputError(f"{name}={getattr(self, name)!r} is unknown; use one of: {listed}", argument=name)
        object.__setattr__(self, "classifiers", _classifiers(self.classifiers))
        metrics: Any = self.metrics
        object.__setattr__(
            self, "metrics", tuple(filter(None, metrics.split(",") if isinstance(metrics, str) else metrics))
        )
        metrics_of(self.profile, self.metrics or None)

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        given = {name: _as_json(values[name]) for name in ("de_real", "de_predicted", "target_genes", "embed_key")}
        return {**values, "classifiers": list(self.classifiers), "metrics": list(self.metrics), **given}


def _as_json(given: Any) -> Any:
    """Return a path or a mapping of texts as it is, and "table" for a DataFrame."""
    if given is None or isinstance(given, str | os.PathLike):
        return "" if given is None else os.fspath(given)
    if isinstance(given, Mapping):
        return {str(name): _as_json(value) for name, value in given.items()}
    return "table"


def _classifiers(given: Any) -> tuple[ClassifierKind, ...]:
    """Return the chosen classifiers, each once, in the order in which they run."""
    known = get_args(ClassifierKind)
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, (list, tuple)) or not names or not set(names) <= set(known):
        listed = ", ".join(map(repr, known))
        wrong = [name for name in names if name not in known] if isinstance(names, list | tuple) else []
        fault = f"classifiers: {quoted(wrong)} is unknown" if wrong else f"classifiers={given!r} cannot be used"
        raise InputError(f"{fault}; name one or several of: {listed}", argument="classifiers")
    return tuple(kind for kind in known if kind in names)


@dataclass(frozen=True, slots=True)
class TaskInput:
    """Input of a task: one embedding on its engine, columns of the cells as codes or numbers, and options."""

    engine: Engine
    options: Options
    name: str  # the embedding's (or the predictions') name in the results
    embedding: Embedding | None = None  # None for the perturbation task, which scores predicted expression
    label: Labels | None = None
    batch: Labels | None = None
    species: Labels | None = None
    sample: Labels | None = None
    clusters: Labels | None = None  # given clusters, for agreement with the labels
    time: NDArray[np.float64] | None = None  # (n,)
    time_label: Labels | None = None  # the time points as labels
    perturbation: PerturbationData | None = None  # predictions and the differential expression of the dataset
    screen: ScreenColumn | None = None  # a prediction of perturbations, or a baseline, and the real data
    pre_integrated: Embedding | None = None  # the same cells before their batches were integrated
    scorers: Mapping[str, Any] = field(default_factory=dict)  # name -> the user's own callable or scikit-learn scorer
    cells: CellScores = field(default_factory=CellScores)  # stores the values of cells that the scores are made of
    scope: CheckpointScope | None = None  # checkpoint entries that depend on all of this, or None

    @property
    def checkpoint_scope(self) -> CheckpointScope:
        """The scope whose entries results are read from and written to."""
        return self.scope or CheckpointScope(self.engine.timeline)


@dataclass(frozen=True, slots=True)
class Task:
    """One question, and the metrics that answer it."""

    id: str  # as in cz-benchmarks
    title: str
    question: str
    needs: tuple[Need, ...]  # inputs without which the task is left out
    metrics: tuple[str, ...]  # the metrics it reports
    # yields rows as they are ready, so that a failure does not lose the rows before it
    run: Callable[[TaskInput], Iterator[MetricResult]]
    # neighbours of each cell, itself not counted, that its metrics ask of the shared graph; 0: none
    neighbors: Callable[[Options], int] = lambda _: 0
    # the same if the engine estimates means over neighbourhoods from a sample; if None, as `neighbors`
    sampled_neighbors: Callable[[Options], int] | None = None
    # what cz-benchmarks compares with: "pca", "expression", or None
    baseline: Literal["pca", "expression"] | None = "pca"
    # what its engine imports ahead, see `Engine.preload`
    operations: Callable[[Options], tuple[str, ...]] = lambda _: ()
    # stage -> its cost in addition to the shared graph, for plans; None if it is not known
    costs: Callable[[CostModel, Sizes, Options], Mapping[str, Cost]] | None = None
    in_auto: bool = True  # whether tasks="auto" includes it; True for the tasks of cz-benchmarks

    def graph_k(self, options: Options, engine: Engine, n: int, d: int) -> int:
        """Return how many neighbours of each cell the task takes from the shared graph of n cells with d dimensions."""
        sampled = self.sampled_neighbors if engine.policy.samples_neighborhoods(n, d) else None
        return (sampled or self.neighbors)(options)


def _pack(timed: tuple[Score, float]) -> CheckpointEntry:
    score, seconds = timed
    return CheckpointEntry([score_to_dict(score), seconds], {} if score.cells is None else {"cells": score.cells})


def _unpack(entry: CheckpointEntry) -> tuple[Score, float]:
    score = score_from_dict(entry.value[0])
    score.cells = entry.arrays.get("cells")
    return score, entry.value[1]


SCORE: Codec[tuple[Score, float]] = Codec(_pack, _unpack)
"""Checkpoint format of a score and the seconds that it took."""


def require(value: T | None) -> T:
    """Return an input that the runner has checked; raises ValueError if it is None."""
    if value is None:
        raise ValueError("the task was started without an input that it declares in `needs`")
    return value


def measure(given: TaskInput, task: str, metric: Metric[P], *args: P.args, **kwargs: P.kwargs) -> MetricResult:
    """Compute one metric in its own stage, or read it from the checkpoint, and make its row.

    If the score is a mean over cells, the values of the cells are appended to `given.cells`.
    """
    spec = metric.spec

    def compute() -> tuple[Score, float]:
        begin = time.perf_counter()
        score = metric(*args, **kwargs)
        return score, time.perf_counter() - begin

    score, seconds = given.checkpoint_scope.cached(spec.id, compute, SCORE, task)
    if score.cells is not None:
        column = CellColumn(given.name, task, spec.id, score.cells, mean_over=spec.mean_over)
        given.cells.columns.append(column)
    return to_row(given.name, task, spec.id, score, seconds=seconds)


def score_metric(given: TaskInput, task: str, metric: Metric[...], roles: Mapping[str, str]) -> MetricResult:
    """Score the embedding by the columns and options that a metric declares; `roles` as in `task_of_metrics`."""
    embedding, spec = require(given.embedding), metric.spec
    columns = [require(getattr(given, roles.get(need, need))) for need in spec.needs]
    options = {name: getattr(given.options, name) for name in spec.options}
    note = ""
    if options.get("k", 0) >= embedding.n:
        note = f"k cut from {options['k']} to {embedding.n - 1}, the number of other cells"
        options["k"] = embedding.n - 1
    row = with_note(measure(given, task, metric, embedding, *columns, **options), note)
    samples = spec.sampled and embedding.engine.policy.samples_neighborhoods(embedding.n, embedding.d)
    return with_note(row, embedding.neighbors_note) if spec.neighbors and not samples else row


def task_of_metrics(
    id: str,  # noqa: A002 - as in `Task`
    title: str,
    question: str,
    metrics: Sequence[Metric[...]],
    *,
    roles: Mapping[str, str] = MappingProxyType({}),
    **attributes: Any,
) -> Task:
    """Make a task of metrics that score an embedding by its columns; the rest follows from their declarations.

    `roles` maps a column that a metric needs to the column that it gets instead, such as {"batch": "species"}.
    `attributes` of the `Task` replace those that are derived.
    """
    specs = [metric.spec for metric in metrics]
    columns = {spec.id: [roles.get(need, need) for need in spec.needs] for spec in specs}
    needed = {"time" if column == "time_label" else column for own in columns.values() for column in own}

    def run(given: TaskInput) -> Iterator[MetricResult]:
        return (score_metric(given, id, metric, roles) for metric in metrics)

    def asked(spec: MetricSpec, options: Options) -> int:
        return spec.neighbors(options) if spec.neighbors else 0

    def costs(model: CostModel, sizes: Sizes, options: Options) -> dict[str, Cost]:
        return {
            spec.id: require(spec.cost)(model, sizes, min(asked(spec, options), sizes.n - 1), *columns[spec.id])
            for spec in specs
        }

    derived: dict[str, Any] = {
        "needs": tuple(need for need in get_args(Need) if need in needed),
        "metrics": tuple(spec.id for spec in specs),
        "run": run,
        "neighbors": lambda options: max(asked(spec, options) for spec in specs),
        "sampled_neighbors": lambda options: max(0 if spec.sampled else asked(spec, options) for spec in specs),
        "costs": costs if all(spec.cost for spec in specs) else None,
    }
    return Task(id, title, question, **{**derived, **attributes})


def with_note(row: MetricResult, note: str) -> MetricResult:
    """Return the row with a note added to its own."""
    return replace(row, note="; ".join(filter(None, (row.note, note))))


def to_row(
    name: str, task: str, metric: str, score: Score, *, seconds: float = 0.0, params: Mapping[str, Any] | None = None
) -> MetricResult:
    """Return the row of results for a score; `params` are added to those of the score."""
    return MetricResult(
        embedding=name,
        task=task,
        metric=metric,
        value=float(score),
        stderr=score.stderr,
        stderr_df=score.stderr_df,
        params={**score.params, **(params or {})},
        n=score.n,
        seconds=seconds,
        approximate=score.approximate,
        note=score.note,
    )
