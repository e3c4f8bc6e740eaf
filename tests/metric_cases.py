"""The table of all metrics: their arguments, their oracle, and what must not change them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
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
COSINE: dict[str, Any] = {"moves": (permute, *TURNED, *SCALED), "tolerance": 1e-6, "any_cells": False}
"""Between cells in line cosine distances are nothing but rounding."""

MOVED_BEFORE_AND_AFTER = (
    move("rotate", rotation, "X_pre", "X_post"),
    move("shift", lambda x: x + 300, "X_pre"),
    move("enlarge", lambda x: x * 2**20, "X_post"),
)
CLUSTERINGS = (permute, swap, rename("labels_true"), rename("labels_pred"))


# Arguments


def plain(
    metric: str,
    oracle: Callable[..., float],
    *options: Args,
    columns: Mapping[str, str] | None = None,
    args: Callable[[Cells], Args] | None = None,
    moves: tuple[Change, ...] = EUCLIDEAN,
    changes: tuple[Change, ...] = (),
    **attributes: Any,
) -> list[Case]:
    """Make the cases of a metric that scores an embedding by its columns, from the declaration of the metric.

    Parameters
    ----------
    oracle : takes the embedding, the columns, and the options by name
    options : of each case; none: one case without options
    columns : column that the metric needs -> column of the cells that it gets instead
    args : makes the arguments, where they are not the cells as they are
    moves, changes : of the embedding and of the columns, that must not change the value; new names of labels are added
    """
    needs = METRICS[metric].spec.needs
    names = list(inspect.signature(METRICS[metric]).parameters)[1 : 1 + len(needs)]
    column_of = {name: (columns or {}).get(need, need) for name, need in zip(names, needs, strict=True)}
    renamed = [rename(name) for name, need in zip(names, needs, strict=True) if need != "time"]
    return [
        Case(
            metric,
            args or (lambda c: {"X": c.x} | {name: getattr(c, column) for name, column in column_of.items()}),
            partial(oracle, **own),
            (*moves, *changes, *renamed),
            own,
            **attributes,
        )
        for own in options or ({},)
    ]


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


def jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return reference.jaccard(set(a), set(b))


def prediction_score(which: int) -> Callable[..., float]:
    return lambda true, predicted: reference.precision_recall_f1(true, predicted)[which]


def auroc(true: NDArray[np.int64], proba: NDArray[np.float64]) -> float:
    return reference.auroc_macro(np.unique(true, return_inverse=True)[1], proba)


def over_folds(oracle: Callable[..., float], *args: NDArray[Any]) -> float:
    """Mean over the folds in which the value is defined; the last argument numbers the folds."""
    *values, fold = args
    fold_values = np.array([oracle(*(v[fold == f] for v in values)) for f in np.unique(fold)])
    return float(np.nanmean(fold_values)) if np.isfinite(fold_values).any() else math.nan


PREDICTION_ORACLES = {
    "accuracy": reference.accuracy,
    "precision": prediction_score(0),
    "recall": prediction_score(1),
    "f1": prediction_score(2),
}

# The table. Silhouettes come from float32 distances, and moved matrices are rounded to float32.

LISI_OPTIONS: tuple[Args, ...] = ({}, {"n_neighbors": 20}, {"n_neighbors": 40, "perplexity": 7.5})

EMBEDDING = [
    *plain("silhouette_score", reference.silhouette_label, {"metric": "euclidean"}, tolerance=1e-6),
    *plain("silhouette_score", reference.silhouette_label, {"metric": "cosine"}, **COSINE),
    *plain("batch_silhouette", reference.silhouette_batch, {"metric": "euclidean"}, tolerance=1e-6),
    *plain("batch_silhouette", reference.silhouette_batch, {"metric": "cosine"}, **COSINE),
    *plain("bras", integration.bras, {"metric": "euclidean"}, tolerance=1e-6),
    *plain("bras", integration.bras, {"metric": "cosine"}, **COSINE),
    *plain("isolated_labels", integration.isolated_labels, {}, {"iso_threshold": 3}, tolerance=1e-6),
    *plain("entropy_per_cell", reference.entropy_per_cell, *({"n_neighbors": k} for k in (2, 30, 200, 10_000))),
    *plain(
        "sequential_alignment",
        reference.sequential_alignment,
        *({"k": k} for k in (1, 15)),
        changes=(move("scale and shift", lambda t: 5 - 2 * t, "labels"),),
    ),
    *plain(
        "sequential_alignment",
        lambda x, time, adaptive_k, k: reference.sequential_alignment(x, time, k, adaptive=adaptive_k),
        *({"k": k, "adaptive_k": True} for k in (1, 15)),
        # Density is the inverse of a distance plus 1e-10, and so not free of the unit of X.
        moves=(permute, *TURNED, *SHIFTED),
        changes=(move("scale and shift", lambda t: 5 - 2 * t, "labels"),),
    ),
    *plain(
        "sequential_alignment",
        reference.sequential_alignment,
        {"normalize": False},
        changes=(move("shift", lambda t: t + 2024, "labels"),),
    ),
    # weights depend on differences of distances, which are float32
    *plain("ilisi_knn", integration.ilisi, *LISI_OPTIONS, tolerance=1e-5),
    *plain("clisi_knn", integration.clisi, *LISI_OPTIONS, columns={"label": "batch"}, tolerance=1e-5),
    *plain("kbet", integration.kbet, {}, {"n_neighbors": 20, "alpha": 0.3}),
    # a cell whose neighbours are equally far in the diffusion map
    *plain("kbet_per_label", integration.kbet_per_label, tolerance=0.01, any_cells=False),
    *plain("graph_connectivity", integration.graph_connectivity, *({"n_neighbors": k} for k in (2, 5, 15))),
    *plain("nmi_ari_cluster_labels_kmeans_nmi", integration.KMEANS_NMI, args=few_groups, any_cells=False),
    *plain("nmi_ari_cluster_labels_kmeans_ari", integration.KMEANS_ARI, args=few_groups, any_cells=False),
    *plain("nmi_ari_cluster_labels_leiden_nmi", integration.LEIDEN_NMI, args=many_groups, any_cells=False),
    *plain("nmi_ari_cluster_labels_leiden_ari", integration.LEIDEN_ARI, args=many_groups, any_cells=False),
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
    Case("jaccard", two_lists, jaccard, (permute, double, swap)),
]

CLASSIFICATION = [
    *(
        Case(metric, predictions, oracle, (permute, double, rename("y_true", "y_pred")))
        for name, oracle in PREDICTION_ORACLES.items()
        for metric in (name, f"{name}_calculation")
    ),
    Case("auroc", probabilities, auroc, (permute, double, move("square", lambda p: p**2, "y_proba"))),
    *(
        Case(
            f"mean_fold_{name}", with_folds(args), partial(over_folds, oracle), (permute, double), call=call_with_folds
        )
        for name, oracle, args in (
            *((name, oracle, predictions) for name, oracle in PREDICTION_ORACLES.items()),
            ("auroc", auroc, probabilities),
        )
    ),
]

INTEGRATION = [
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

CASES = [*EMBEDDING, *AGREEMENT, *CLASSIFICATION, *INTEGRATION]
