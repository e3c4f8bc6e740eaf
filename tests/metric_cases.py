"""The table of all metrics: their arguments, their oracle, and what must not change them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import reference
import reference_integration as integration
from cells import Cells
from numpy.typing import NDArray

from gpubench.core.scores import Score
from gpubench.engines.base import Engine
from gpubench.metrics import METRICS

Args = dict[str, Any]
Change = Callable[[Args], Args]


@dataclass(frozen=True)
class Case:
    """A metric with some options.

    Attributes
    ----------
    metric : its id
    args : makes its arguments from cells; each has one entry a cell
    oracle : the same value from the same arguments
    unchanged_by : changes of the arguments that must not change the value
    options : further arguments
    call : how the metric is called with its arguments
    tolerance : between value and oracle
    any_cells : whether the oracle has the value of any cells; False where it depends on what cells may leave open
    """

    metric: str
    args: Callable[[Cells], Args]
    oracle: Callable[..., float]
    unchanged_by: tuple[Change, ...]
    options: Args = field(default_factory=dict)
    call: Callable[..., Score] = lambda metric, /, **args: metric(**args)
    tolerance: float = 1e-12
    any_cells: bool = True

    def __str__(self) -> str:
        return " ".join([self.metric, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the metric, or none where it is asked for a mean distance instead of a score."""
        return METRICS[self.metric].spec.bounds if self.options.get("normalize", True) else (0, math.inf)

    def score(self, engine: Engine, args: Args) -> Score:
        metric = METRICS[self.metric]
        on = {"engine": engine} if "engine" in inspect.signature(metric).parameters else {}
        return self.call(metric, **args, **self.options, **on)

    def exact(self, args: Args) -> float:
        return self.oracle(*args.values())


# What must not change a score


def permute(args: Args) -> Args:
    """The same cells in another order."""
    order = np.random.default_rng(1).permutation(len(next(iter(args.values()))))
    return {name: values[order] for name, values in args.items()}


def double(args: Args) -> Args:
    """Every cell twice."""
    return {name: np.concatenate([values, values]) for name, values in args.items()}


def swap(args: Args) -> Args:
    """The two arguments exchanged."""
    (a, x), (b, y) = args.items()
    return {a: y, b: x}


def rename(*names: str) -> Change:
    """Other names for the labels, in another order; the same names in all these columns."""

    def change(args: Args) -> Args:
        new_names = np.array([f"type {c}" for c in np.random.default_rng(2).permutation(10)])
        return args | {name: new_names[args[name]] for name in names}

    change.__name__ = f"rename {' and '.join(names)}"
    return change


def move(what: str, by: Callable[[NDArray[np.float64]], NDArray[np.float64]], *names: str) -> Change:
    """Other numbers that mean the same."""

    def change(args: Args) -> Args:
        return args | {name: by(args[name].astype(np.float64)).astype(args[name].dtype) for name in names}

    change.__name__ = f"{what} {' and '.join(names)}"
    return change


def rotation(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn about the origin, all axes at once."""
    return x @ np.linalg.qr(np.random.default_rng(3).normal(size=(x.shape[1], x.shape[1])))[0]


TURNED = (move("rotate", rotation, "X"), move("mirror", lambda x: -x[:, ::-1], "X"))
SCALED = (move("shrink", lambda x: x / 2**20, "X"), move("enlarge", lambda x: x * 2**20, "X"))
SHIFTED = (move("shift", lambda x: x + 300, "X"),)
EUCLIDEAN = (permute, *TURNED, *SCALED, *SHIFTED)
COSINE = (permute, *TURNED, *SCALED)
MOVED_BEFORE_AND_AFTER = (
    move("rotate", rotation, "X_pre", "X_post"),
    move("shift", lambda x: x + 300, "X_pre"),
    move("enlarge", lambda x: x * 2**20, "X_post"),
)
CLUSTERINGS = (permute, swap, rename("labels_true"), rename("labels_pred"))


# Arguments


def embedding_and(**columns: str) -> Callable[[Cells], Args]:
    """The embedding, and columns of the cells under the metric's names for them."""
    return lambda c: {"X": c.x} | {name: getattr(c, column) for name, column in columns.items()}


def few_groups(c: Cells) -> Args:
    """Cells far apart by label, and labels that are others in one batch."""
    return {"X": apart(c.x, c.label), "labels": np.where(c.batch == 1, (c.label + 1) % (c.label.max() + 1), c.label)}


def many_groups(c: Cells) -> Args:
    """Groups of 16 cells far apart, and labels that hold several groups, other ones in one batch."""
    group = np.arange(c.n) % 25
    return {"X": apart(c.x, group), "labels": np.where(c.batch == 1, c.label, group // 5)}


def apart(x: NDArray[np.float32], group: NDArray[np.integer]) -> NDArray[np.float32]:
    """Cells of each group 64 from the next."""
    moved = x.copy()
    moved[:, 0] += 64 * group
    return moved


def before_and_after(covariate: str) -> Callable[[Cells], Args]:
    """An embedding, one in which some dimensions are smaller, and a column."""
    return lambda c: {
        "X_pre": c.x + c.batch[:, None] + c.time[:, None].astype(np.float32),
        "X_post": c.x,
        "covariate": getattr(c, covariate),
    }


def score_like(c: Cells) -> NDArray[np.float64]:
    """Numbers between 0 and 1."""
    return (c.label + c.time + 1) / (c.label + c.time + 3)


def two_clusterings(c: Cells) -> Args:
    return {"labels_true": c.label, "labels_pred": (c.label // 2 + c.batch) % 4}


def two_vectors(*names: str) -> Callable[[Cells], Args]:
    return lambda c: dict(zip(names, (c.x[:, 0].astype(np.float64), np.round(c.x[:, 0] + c.time)), strict=True))


def two_lists(c: Cells) -> Args:
    return {"y_true": c.label * 3 + c.batch, "y_pred": c.label * 2 + c.batch}


def predictions(c: Cells) -> Args:
    return {"y_true": c.label, "y_pred": np.where(c.time % 1 == 0, c.label, c.batch)}


def probabilities(c: Cells) -> Args:
    names, truth = np.unique(c.label, return_inverse=True)
    hint = np.eye(len(names))[truth] + np.abs(c.x[:, :1]) + np.arange(len(names)) % 3 * c.batch[:, None]
    return {"y_true": c.label, "y_proba": (hint / hint.sum(axis=1, keepdims=True)).round(2)}


def with_folds(args: Callable[[Cells], Args]) -> Callable[[Cells], Args]:
    return lambda c: args(c) | {"fold": np.arange(c.n) % 2}


def call_with_folds(metric: Callable[..., Score], /, *, fold: NDArray[np.int64], engine: Engine, **args: Any) -> Score:
    """Give a mean_fold_* metric the two arguments of each fold."""
    return metric([tuple(values[fold == f] for values in args.values()) for f in np.unique(fold)], engine=engine)


# Oracles, where `reference` has them under other arguments


def of_sets(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return reference.jaccard(set(a), set(b))


def of_predictions(which: int) -> Callable[..., float]:
    return lambda true, predicted: reference.precision_recall_f1(true, predicted)[which]


def of_probabilities(true: NDArray[np.int64], proba: NDArray[np.float64]) -> float:
    return reference.auroc_macro(np.unique(true, return_inverse=True)[1], proba)


def over_folds(oracle: Callable[..., float], *args: NDArray[Any]) -> float:
    """Mean over the folds in which the value is defined; the last argument numbers the folds."""
    *values, fold = args
    of_folds = np.array([oracle(*(v[fold == f] for v in values)) for f in np.unique(fold)])
    return float(np.nanmean(of_folds)) if np.isfinite(of_folds).any() else math.nan


OF_PREDICTIONS = {
    "accuracy": reference.accuracy,
    "precision": of_predictions(0),
    "recall": of_predictions(1),
    "f1": of_predictions(2),
}

# The table. Silhouettes come from float32 distances, and moved matrices are rounded to float32.

SILHOUETTES = [
    Case(
        metric,
        embedding_and(**columns),
        partial(oracle, metric=distance),
        (*moves, *map(rename, columns)),
        {"metric": distance},
        tolerance=1e-6,
        any_cells=distance != "cosine",  # between cells in line cosine distances are nothing but rounding
    )
    for metric, oracle, columns in (
        ("silhouette_score", reference.silhouette_label, {"labels": "label"}),
        ("batch_silhouette", reference.silhouette_batch, {"labels": "label", "batch": "batch"}),
    )
    for distance, moves in (("euclidean", EUCLIDEAN), ("cosine", COSINE))
]

NEIGHBORHOODS = [
    *(
        Case(
            "entropy_per_cell",
            embedding_and(labels="batch"),
            partial(reference.entropy_per_cell, n_neighbors=k),
            (*EUCLIDEAN, rename("labels")),
            {"n_neighbors": k},
        )
        for k in (2, 30, 200, 10_000)
    ),
    *(
        Case(
            "sequential_alignment",
            embedding_and(labels="time"),
            partial(reference.sequential_alignment, k=k, adaptive=adaptive),
            (*moves, move("scale and shift", lambda t: 5 - 2 * t, "labels")),
            {"k": k, "adaptive_k": adaptive},
        )
        for k in (1, 15)
        # Density is the inverse of a distance plus 1e-10, and so not free of the unit of X.
        for adaptive, moves in ((False, EUCLIDEAN), (True, (permute, *TURNED, *SHIFTED)))
    ),
    Case(
        "sequential_alignment",
        embedding_and(labels="time"),
        partial(reference.sequential_alignment, normalize=False),
        (*EUCLIDEAN, move("shift", lambda t: t + 2024, "labels")),
        {"normalize": False},
    ),
]

AGREEMENT = [
    Case("adjusted_rand_index", two_clusterings, reference.adjusted_rand_index, CLUSTERINGS),
    Case("normalized_mutual_info", two_clusterings, reference.normalized_mutual_info, (*CLUSTERINGS, double)),
    Case(
        "spearman_correlation_calculation",
        two_vectors("a", "b"),
        reference.spearman_correlation,
        (permute, double, swap, move("cube", lambda a: a**3, "a"), move("scale", lambda b: 3 * b - 7, "b")),
    ),
    Case(
        "pearson_correlation",
        two_vectors("a", "b"),
        reference.pearson_correlation,
        (permute, double, swap, move("scale", lambda a: 3 * a - 7, "a"), move("scale", lambda b: 3 * b - 7, "b")),
    ),
    Case(
        "mean_squared_error",
        two_vectors("y_true", "y_pred"),
        reference.mean_squared_error,
        (permute, double, swap, move("shift", lambda a: a + 5, "y_true", "y_pred")),
    ),
    Case("jaccard", two_lists, of_sets, (permute, double, swap)),
]

CLASSIFICATION = [
    *(
        Case(metric, predictions, oracle, (permute, double, rename("y_true", "y_pred")))
        for name, oracle in OF_PREDICTIONS.items()
        for metric in (name, f"{name}_calculation")
    ),
    Case("auroc", probabilities, of_probabilities, (permute, double, move("square", lambda p: p**2, "y_proba"))),
    *(
        Case(
            f"mean_fold_{name}", with_folds(args), partial(over_folds, oracle), (permute, double), call=call_with_folds
        )
        for name, oracle, args in (
            *((name, oracle, predictions) for name, oracle in OF_PREDICTIONS.items()),
            ("auroc", of_probabilities, probabilities),
        )
    ),
]

INTEGRATION = [
    *(
        Case(
            "bras",
            embedding_and(labels="label", batch="batch"),
            partial(integration.bras, metric=distance),
            (*moves, rename("labels"), rename("batch")),
            {"metric": distance},
            tolerance=1e-6,
            any_cells=distance != "cosine",
        )
        for distance, moves in (("euclidean", EUCLIDEAN), ("cosine", COSINE))
    ),
    *(
        Case(
            "isolated_labels",
            embedding_and(labels="label", batch="batch"),
            partial(integration.isolated_labels, **options),
            (*EUCLIDEAN, rename("labels"), rename("batch")),
            options,
            tolerance=1e-6,
        )
        for options in ({}, {"iso_threshold": 3})
    ),
    *(
        Case(
            metric,
            embedding_and(**{column: column_of}),
            partial(oracle, **options),
            (*EUCLIDEAN, rename(column)),
            options,
            tolerance=1e-5,  # weights depend on differences of distances, which are float32
        )
        for metric, oracle, column, column_of in (
            ("ilisi_knn", integration.ilisi, "batches", "batch"),
            ("clisi_knn", integration.clisi, "labels", "batch"),
        )
        for options in ({}, {"n_neighbors": 20}, {"n_neighbors": 40, "perplexity": 7.5})
    ),
    *(
        Case(
            "kbet",
            embedding_and(batches="batch"),
            partial(integration.kbet, **options),
            (*EUCLIDEAN, rename("batches")),
            options,
        )
        for options in ({}, {"n_neighbors": 20, "alpha": 0.3})
    ),
    Case(
        "kbet_per_label",
        embedding_and(batches="batch", labels="label"),
        integration.kbet_per_label,
        (*EUCLIDEAN, rename("batches"), rename("labels")),
        tolerance=0.01,  # a cell whose neighbours are equally far in the diffusion map
        any_cells=False,
    ),
    *(
        Case(
            "graph_connectivity",
            embedding_and(labels="label"),
            partial(integration.graph_connectivity, n_neighbors=k),
            (*EUCLIDEAN, rename("labels")),
            {"n_neighbors": k},
        )
        for k in (2, 5, 15)
    ),
    *(
        Case(metric, args, oracle, (*EUCLIDEAN, rename("labels")), any_cells=False)
        for metric, args, oracle in (
            ("nmi_ari_cluster_labels_kmeans_nmi", few_groups, integration.KMEANS_NMI),
            ("nmi_ari_cluster_labels_kmeans_ari", few_groups, integration.KMEANS_ARI),
            ("nmi_ari_cluster_labels_leiden_nmi", many_groups, integration.LEIDEN_NMI),
            ("nmi_ari_cluster_labels_leiden_ari", many_groups, integration.LEIDEN_ARI),
        )
    ),
    *(
        Case(
            "pcr_comparison",
            before_and_after(column),
            partial(integration.pcr_comparison, categorical=categorical),
            (permute, double, *MOVED_BEFORE_AND_AFTER, change),
            {"categorical": categorical},
            tolerance=1e-5,
        )
        for column, categorical, change in (
            ("batch", True, rename("covariate")),
            ("time", False, move("scale and shift", lambda t: 5 - 2 * t, "covariate")),
        )
    ),
    *(
        Case(metric, lambda c: {"scores": score_like(c)}, integration.mean_score, (permute, double))
        for metric in ("bio_conservation", "batch_correction")
    ),
    Case(
        "total",
        lambda c: {"bio_scores": score_like(c), "batch_scores": score_like(c) ** 2},
        integration.total,
        (permute, double),
    ),
]

CASES = [*SILHOUETTES, *NEIGHBORHOODS, *AGREEMENT, *CLASSIFICATION, *INTEGRATION]
