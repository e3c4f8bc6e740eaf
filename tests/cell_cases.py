"""Results that keep cells, made up: of any number of cells and labels, with names of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from report_cases import make_result, row

from gpubench.core.scores import CLUSTER, PREDICTED, CellColumn, CellScores, CellView, MetricResult
from gpubench.core.types import Labels
from gpubench.results.result import Result
from gpubench.running.views import COMPONENTS, drawn_cells

SCORES = {
    "embedding": ("silhouette_score",),
    "batch_integration": ("entropy_per_cell", "batch_silhouette"),
    "sequential_organization": ("silhouette_score", "sequential_alignment"),
}


def cells_result(
    n: int,
    labels: Sequence[str],
    *,
    embeddings: Sequence[str] = ("X_pca",),
    batches: Sequence[str] = (),
    times: int = 0,
) -> Result:
    """A run of n cells; labels grow rarer, and the first of several has no values at all."""
    rng = np.random.default_rng(0)
    share = 0.9 ** np.arange(len(labels))
    codes = rng.choice(len(labels), n, p=share / share.sum()).astype(np.int32)
    codes[: len(labels)] = np.arange(len(labels))
    cells = CellScores(n, {"label": Labels(codes, tuple(labels), "cell_type")})
    if batches:
        cells.groups["batch"] = Labels(rng.integers(0, len(batches), n).astype(np.int32), tuple(batches), "batch")
    if times:
        points = rng.integers(0, times, n).astype(np.int32)
        points[:times] = np.arange(times)
        cells.times = points * 12.0
        cells.groups["time"] = Labels(points, tuple(f"{12.0 * point:g}" for point in range(times)), "time")
    rows: list[MetricResult] = []
    for name in embeddings:
        _add(cells, name, codes, rng)
        rows += [_row(cells, column) for column in cells.columns if column.embedding == name]
    result = make_result(*rows, cells=cells)
    result.provenance.update(seed=42)
    result.provenance["dataset"]["n_cells"] = n
    return result


def _add(cells: CellScores, name: str, codes: np.ndarray, rng: np.random.Generator) -> None:
    """All that a run would keep of one embedding."""
    n, labels = cells.n_cells, cells.groups["label"]
    for task, metrics in SCORES.items():
        for metric in metrics:
            values = rng.beta(2 + codes % 5, 3).astype(np.float32)
            if labels.n_classes > 1:
                values[codes == 0] = np.nan
            cells.columns.append(CellColumn(name, task, metric, values))
    n_clusters = labels.n_classes + 3
    clusters = ((codes + rng.integers(0, 4, n)) % n_clusters).astype(np.int32)
    cells.columns.append(CellColumn(name, "clustering", CLUSTER, clusters, names=tuple(map(str, range(n_clusters)))))
    for classifier, wrong in (("lr", 0.3), ("rf", 0.1)):
        given = np.where(rng.random(n) < wrong, rng.integers(0, labels.n_classes, n), codes).astype(np.int32)
        given[::50] = -1
        params = {"classifier": classifier}
        cells.columns.append(CellColumn(name, "label_prediction", PREDICTED, given, params, labels.names))
    drawn = drawn_cells(n, 42)
    xy = rng.normal(size=(labels.n_classes, 2))[codes[drawn]] * 5 + rng.normal(size=(len(drawn), 2))
    cells.views[name] = CellView(COMPONENTS, drawn, xy.astype(np.float32))


def _row(cells: CellScores, column: CellColumn) -> MetricResult:
    metric = {CLUSTER: "adjusted_rand_index", PREDICTED: "mean_fold_accuracy"}.get(column.metric, column.metric)
    defined = column.values[~np.isnan(column.values)]
    value = 0.5 if column.names or not len(defined) else float(defined.mean())
    return row(metric, value, embedding=column.embedding, task=column.task, n=cells.n_cells, params=dict(column.params))
