"""Patches of pdex and cell_eval: tests of expression and metrics of predicted perturbations, in the same tables.

cell_eval's `MetricsEvaluator` reads the cells, keeps its tables and writes its files as before. gpubench computes the
tests, which cell_eval leaves to pdex, and each metric of its registry.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench import metrics
from gpubench.accel.calls import NotCovered, Patch, Start
from gpubench.metrics.perturbation import (
    PERTURBATION_METRICS,
    CellEvalSettings,
    ExpressionTable,
    PerturbedCells,
    Values,
    expression_table,
    perturbed_cells,
    prepare,
)
from gpubench.metrics.perturbation.pairing import PairedSides
from gpubench.metrics.perturbation.tables import TablePair, pair_tables

if TYPE_CHECKING:
    from gpubench.core.types import I64
    from gpubench.engines.base import Engine

SEED = 0
"""The seed of neighbours and communities in scanpy, which cell_eval clusters with."""


def _pdex(
    start: Start,
    adata: Any,
    groupby: str,
    mode: str,
    threads: int,
    is_log1p: bool | None,
    geometric_mean: bool,
    as_pandas: bool,
    epsilon: float,
    cpm_filter: float | None,
    kwargs: dict[str, Any],
) -> Any:
    """Test each group of cells against the reference; the table of pdex, with its columns, types and order."""
    reference = kwargs.get("reference", "non-targeting")
    if mode != "ref" or set(kwargs) - {"reference"}:
        raise NotCovered(f"mode={mode!r} with {sorted(kwargs)}; gpubench has mode 'ref'")
    if is_log1p is None:
        raise NotCovered("is_log1p=None; say whether values are log1p")
    if not epsilon >= 0 or groupby not in adata.obs:
        raise NotCovered(f"epsilon={epsilon}, groupby={groupby!r}")
    values, names, codes = _groups(adata, groupby)
    if cpm_filter is not None and (values.data if hasattr(values, "indptr") else values).min(initial=0) < 0:
        raise NotCovered("negative values, with a filter of counts per million")
    table = metrics.differential_expression(
        values,
        np.asarray(names, dtype=str)[codes],
        reference,
        genes=[str(gene) for gene in adata.var_names],
        mean="geometric" if geometric_mean else "arithmetic",
        is_log1p=is_log1p,
        epsilon=epsilon,
        cpm_filter=cpm_filter,
        engine=start(),
    )
    frame = _to_polars(table, [name for name in names if name != reference])
    if _averaged_in_float32(values, is_log1p=is_log1p, geometric=geometric_mean):
        import polars as pl

        frame = frame.with_columns(pl.col("target_mean", "ref_mean").cast(pl.Float32))
    return frame.to_pandas() if as_pandas else frame


def _groups(adata: Any, groupby: str) -> tuple[Any, list[str], I64]:
    """Return values, names of groups in pdex's order, and the group of each cell, without cells that have none."""
    import pandas as pd

    labels = pd.Categorical(adata.obs[groupby])
    labels = labels.remove_categories([name for name in labels.categories if name == "" or pd.isna(name)])
    if not all(isinstance(name, str) for name in labels.categories):
        raise NotCovered(f"obs[{groupby!r}] holds values that are not text")
    codes = np.asarray(labels.codes, np.int64)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels.categories))
    if (counts == 0).any():
        raise NotCovered(f"obs[{groupby!r}] has {int((counts == 0).sum()):,} categories without cells")
    values = _in_memory(adata)
    rows = np.flatnonzero(codes >= 0)
    return (values if len(rows) == len(codes) else values[rows]), list(labels.categories), codes[rows]


def _in_memory(adata: Any) -> Any:
    """Return the values of an AnnData that is not backed by a file."""
    if getattr(adata, "isbacked", False) or adata.X is None:
        raise NotCovered("cells that are not in memory")
    return adata.X


def _to_polars(table: Any, order: list[str]) -> Any:
    """Convert the table to polars, with targets in the given order."""
    import polars as pl

    codes, names = table["target"].cat.codes.to_numpy(), list(table["target"].cat.categories)
    rows: Any = slice(None)
    if names != order:
        rank = np.array([order.index(name) for name in names])
        rows = np.argsort(rank[codes], kind="stable")
    columns: dict[str, Any] = {}
    for name in table.columns:
        if name in ("target", "feature"):
            categories = pl.Series(list(map(str, table[name].cat.categories)), dtype=pl.String)
            columns[name] = categories.gather(table[name].cat.codes.to_numpy()[rows].astype(np.uint32))
        else:
            columns[name] = table[name].to_numpy()[rows]
    return pl.DataFrame(columns)


def _averaged_in_float32(values: Any, *, is_log1p: bool, geometric: bool) -> bool:
    """Whether pdex averages such values in float32: float32 that is sparse, or dense and averaged as it is."""
    return bool(values.dtype == np.float32 and (hasattr(values, "indptr") or is_log1p == geometric))


Answer = float | dict[str, float] | dict[str, dict[str, int]]

RENAMED = {
    "clustering_agreement": {"pred_resolutions": "predicted_resolutions"},
    "pearson_edistance": {"metric": "distance"},
}
"""Metric -> its keyword arguments by name in cell_eval -> their names here."""

DISTANCES = {"manhattan": "l1", "cityblock": "l1", "euclidean": "l2"}
"""Further names of distances of the discrimination score."""


def _compute(start: Start, self: Any, name: str, data: Any, kwargs: dict[str, Any] | None) -> Answer:
    """Compute a metric of the registry for a pair of data sets, or of tables."""
    info = self.get_metric(name)
    if name not in ORIGINALS or not str(getattr(info.func, "__module__", "")).startswith("cell_eval.metrics."):
        raise NotCovered(f"{name!r} is not a metric of cell_eval itself")
    given = {**(info.kwargs or {}), **(kwargs or {})}
    ids, options = ORIGINALS[name](name, given)
    pair = _prepared(data, start)
    answers = [pair(metric, dict(options)) for metric in ids]
    if name == "de_nsig_counts":
        real, predicted = answers
        counts = zip(pair.names, real.values.tolist(), predicted.values.tolist(), strict=True)
        return {p: {"real": int(a), "pred": int(b)} for p, a, b in counts}
    (values,) = answers
    if values.whole is not None:
        if values.reason is not None and values.reason.no_row:
            raise NotCovered(f"{name}: {values.reason}")
        return float(values.whole)
    rows = zip(pair.names, values.values.tolist(), values.reasons, strict=True)
    return {p: value for p, value, reason in rows if reason is None or not reason.no_row}


def _plain(name: str, given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return the metric and its options under the names that they have here."""
    renamed = RENAMED.get(name, {})
    options = {renamed.get(key, key): value for key, value in given.items()}
    if name == "pearson_edistance":
        options.pop("n_jobs", None)
        if options.setdefault("distance", "euclidean") not in ("euclidean", "cosine", "sqeuclidean"):
            raise NotCovered(f"{name} with metric={options['distance']!r}")
    return [name], options


def _overlap(name: str, given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """As `_plain`: which genes are counted stands in the name here."""
    options = dict(given)
    of = options.pop("metric", "overlap")
    if of not in ("overlap", "precision"):
        raise NotCovered(f"{name} with metric={of!r}")
    options["of"] = "real" if of == "overlap" else "predicted"
    options["k"] = options.get("k") or None
    if (order := options.get("sort_by")) is not None:
        options["sort_by"] = getattr(order, "value", order)
    return [name], options


def _discrimination(name: str, given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """As `_plain`, with distances under one name each; the Manhattan distance is always that of expression."""
    options = dict(given)
    distance = options.pop("metric", "l1")
    options["distance"] = DISTANCES.get(distance, distance)
    if options["distance"] not in ("l1", "l2", "cosine"):
        raise NotCovered(f"{name} with metric={distance!r}")
    if options["distance"] == "l1":
        options.pop("embed_key", None)
    return [name], options


def _counts(_: str, given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    if given.get("fdr_threshold", 0.05) != 0.05:
        raise NotCovered("de_nsig_counts with another threshold")
    return ["de_nsig_counts_real", "de_nsig_counts_pred"], {}


Reading = Callable[[str, dict[str, Any]], tuple[list[str], dict[str, Any]]]

ORIGINALS: dict[str, Reading] = {
    "de_nsig_counts": _counts,
    **{
        name: _overlap
        if name.startswith(("overlap", "precision"))
        else _discrimination
        if name.startswith("discrimination")
        else _plain
        for name, metric in PERTURBATION_METRICS.items()
        if metric.generation == 1 and not name.startswith("de_nsig")
    },
}
"""Metric of cell_eval -> function that reads its keyword arguments: which metrics they are here, and their options."""


class _Pair:
    """Real and predicted data of cell_eval, as cells or as tables, and what metrics derive from them.

    Attributes
    ----------
    names : names of the perturbations, in the order of cell_eval's tables
    """

    def __init__(self, data: Any, engine: Engine) -> None:
        self.tables: TablePair | None = None
        self.sides: PairedSides | None = None
        if hasattr(data, "pert_col"):
            self.sides = _paired_cells(data, engine)
            self.names = self.sides.real.perturbations
        else:
            self.tables = _paired_tables(data)
            self.names = self.tables.real.perturbations

    def __call__(self, name: str, options: dict[str, Any]) -> Values:
        """Compute a metric with options."""
        metric = PERTURBATION_METRICS[name]
        if self.tables is not None:
            known = set(metric.function.__kwdefaults__ or {})
            if metric.needs != "tables" or not set(options) <= known:
                raise NotCovered(f"{name} with {sorted(set(options) - known)}")
            return metric(self.tables, **options)
        assert self.sides is not None
        key, distance = options.pop("embed_key", None), "euclidean"
        if metric.needs == "energies":
            distance = options.pop("distance", distance)
        known = set(metric.function.__kwdefaults__ or {})
        if metric.needs == "tables" or not set(options) <= known:
            raise NotCovered(f"{name} with {sorted(set(options) - known)}")
        return metric(self.sides.pair(metric.needs, 1, key or None, distance), **options)  # type: ignore[arg-type]


def _paired_cells(data: Any, engine: Engine) -> PairedSides:
    """Pair the cells, whose values are used as they are: cell_eval has normalised counts before."""
    sides = [_cells(side, data.pert_col) for side in (data.real, data.pred)]
    real = prepare(sides[0], control=data.control_pert, cell_eval=CellEvalSettings(allow_discrete=True), engine=engine)
    return PairedSides(real, sides[1])


def _cells(adata: Any, column: str) -> PerturbedCells:
    labels = adata.obs[column].to_numpy(str)
    embeddings = {key: np.asarray(values) for key, values in adata.obsm.items() if isinstance(values, np.ndarray)}
    return perturbed_cells(_in_memory(adata), labels, list(map(str, adata.var_names)), embeddings)


def _paired_tables(data: Any) -> TablePair:
    """Pair the tables of differential expression, whose numbers are float32."""
    sides = (data.real, data.pred)
    for side in sides:
        named = (side.target_col, side.feature_col, side.log2_fold_change_col, side.pvalue_col, side.fdr_col)
        if named != ("target", "feature", "log2_fold_change", "p_value", "fdr"):
            raise NotCovered(f"columns of other names: {', '.join(named)}")
    real, predicted = (_table(side.data) for side in sides)
    names = tuple(map(str, data.perturbations))
    return pair_tables(real, predicted, {}, names, alpha=0.05, float32=True)


def _table(frame: Any) -> ExpressionTable:
    """Convert a polars table; quickly if it has the same genes in the same order for every target."""
    numbers = {name: frame[name].to_numpy() for name in ("log2_fold_change", "p_value", "fdr")}
    if any(frame[name].null_count() for name in frame.columns):
        raise NotCovered("tables with missing values")
    features, targets = (frame[name].to_physical().to_numpy() for name in ("feature", "target"))
    n = int(np.argmax(features[1:] == features[0])) + 1 if len(features) > 1 else 1
    blocks = features.reshape(-1, n) if n > 1 and len(features) % n == 0 else features[:0].reshape(0, 1)
    own = targets.reshape(-1, n) if len(blocks) else targets[:0].reshape(0, 1)
    regular = len(blocks) > 0 and (blocks == blocks[0]).all() and (own == own[:, :1]).all()
    if not regular or len(np.unique(own[:, 0])) < len(own) or len(np.unique(blocks[0])) < n:
        strings = {name: frame[name].cast(_string()).to_numpy() for name in ("target", "feature")}
        return expression_table({**strings, **numbers})
    names = frame["target"].gather_every(n).cast(_string()).to_list()
    order = np.argsort(np.array(names, dtype=str), kind="stable")
    change, p, adjusted = (numbers[name].astype(np.float64).reshape(-1, n)[order] for name in numbers)
    genes = tuple(frame["feature"].head(n).cast(_string()).to_list())
    return ExpressionTable(tuple(names[i] for i in order), genes, change, p, adjusted, np.ones(change.shape, np.bool_))


def _string() -> Any:
    import polars as pl

    return pl.String


_pairs: dict[int, tuple[weakref.ref[Any], _Pair]] = {}
"""Identity of a pair of cell_eval -> the pair, as long as it lives, and what was derived from it."""


def _prepared(data: Any, start: Start) -> _Pair:
    """Return what was derived from a pair of data sets before, or nothing yet."""
    known = _pairs.get(id(data))
    if known is not None and known[0]() is data:
        return known[1]
    pair, key = _Pair(data, start(seed=SEED)), id(data)
    _pairs[key] = weakref.ref(data, lambda _: _pairs.pop(key, None)), pair
    return pair


PDEX = Patch("pdex", "pdex", _pdex, "pdex.pdex")
PATCHES = (
    PDEX,
    Patch("cell_eval.metrics._registry", "MetricRegistry.compute", _compute, "cell_eval.metrics_registry.compute"),
)
