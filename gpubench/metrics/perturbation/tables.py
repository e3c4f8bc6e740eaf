"""Tables of differential expression: fold change and p-values of every perturbation and gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64, I64, Bools

SORT_KEYS = ("abs_log2_fold_change", "log2_fold_change", "p_value", "fdr", "p_adj")


@dataclass(frozen=True)
class ExpressionTable:
    """Tests of every perturbation against the control; rows are perturbations, columns are genes.

    Attributes
    ----------
    perturbations : (P,) names
    genes : (G,) names
    log2_fold_change, p_value, p_adjusted : (P, G) float64; NaN where a gene was not tested
    tested : (P, G) whether the table has this pair of perturbation and gene
    position : (P, G) rank of the gene in the original order of the table, used to break ties in sorting; if None, the
        order of `genes`
    """

    perturbations: tuple[str, ...]
    genes: tuple[str, ...]
    log2_fold_change: F64
    p_value: F64
    p_adjusted: F64
    tested: Bools
    position: I64 | None = None

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the table as arrays, from which `from_arrays` makes it again."""
        columns = {name: getattr(self, name) for name in ("log2_fold_change", "p_value", "p_adjusted", "tested")}
        position = {} if self.position is None else {"position": self.position}
        return {"perturbations": np.array(self.perturbations), "genes": np.array(self.genes), **columns, **position}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ExpressionTable:
        """Return the table of which `to_arrays` returned these arrays."""
        names: dict[str, Any] = {name: tuple(map(str, arrays[name])) for name in ("perturbations", "genes")}
        return cls(**{**arrays, **names})

    def digest(self) -> str:
        """Return a hash of the table."""
        digest = blake2b(digest_size=16)
        for name, array in self.to_arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def to_float32(self) -> ExpressionTable:
        """Return the table with its numbers rounded to float32, as in cell-eval."""

        def rounded(values: F64) -> F64:
            return values.astype(np.float32).astype(np.float64)

        return replace(
            self,
            log2_fold_change=rounded(self.log2_fold_change),
            p_value=rounded(self.p_value),
            p_adjusted=rounded(self.p_adjusted),
        )

    def on(self, perturbations: Sequence[str], genes: Sequence[str]) -> ExpressionTable:
        """Return the table with these perturbations and genes; pairs that it lacks count as not tested."""
        if tuple(perturbations) == self.perturbations and tuple(genes) == self.genes:
            return self
        shape = len(perturbations), len(genes)
        rows, own_rows = _matches(perturbations, self.perturbations)
        columns, own_columns = _matches(genes, self.genes)

        def spread(values: Any, missing: Any) -> Any:
            out = np.full(shape, missing, values.dtype)
            out[np.ix_(rows, columns)] = values[np.ix_(own_rows, own_columns)]
            return out

        return ExpressionTable(
            tuple(perturbations),
            tuple(genes),
            spread(self.log2_fold_change, np.nan),
            spread(self.p_value, np.nan),
            spread(self.p_adjusted, np.nan),
            spread(self.tested, missing=False),
            spread(np.broadcast_to(np.arange(len(self.genes)), self.tested.shape) if self.position is None
                   else self.position, np.iinfo(np.int64).max),
        )  # fmt: skip


def stacked(tables: Sequence[ExpressionTable]) -> ExpressionTable:
    """Concatenate tables of different perturbations and the same genes."""
    return ExpressionTable(
        tuple(name for table in tables for name in table.perturbations),
        tables[0].genes,
        *(
            np.concatenate([getattr(table, column) for table in tables])
            for column in ("log2_fold_change", "p_value", "p_adjusted", "tested")
        ),
    )


def _matches(wanted: Sequence[str], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions in `wanted`, and in `names`, of the names that are in both."""
    place = {name: i for i, name in enumerate(names)}
    found = [(i, place[name]) for i, name in enumerate(wanted) if name in place]
    return [i for i, _ in found], [j for _, j in found]


def expression_table(columns: Mapping[str, Any]) -> ExpressionTable:
    """Make an `ExpressionTable` from a table with one row for each perturbation and gene.

    Parameters
    ----------
    columns : the columns "target", "feature", "log2_fold_change", "p_value" and "fdr" (or "p_adj"); each (rows,)

    Returns
    -------
    ExpressionTable
        Perturbations sorted, genes in the order in which they occur first.

    Raises
    ------
    InputError
        A column is missing, or a pair of perturbation and gene occurs twice.

    Examples
    --------
    >>> rows = {"target": ["A", "A"], "feature": ["x", "y"], "log2_fold_change": [1, -2], "p_value": [0.1, 0.2],
    ...         "fdr": [0.2, 0.2]}
    >>> expression_table(rows).log2_fold_change
    array([[ 1., -2.]])
    """
    adjusted = "fdr" if "fdr" in columns else "p_adj"
    needed = ("target", "feature", "log2_fold_change", "p_value", adjusted)
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(f"table: no column {quoted(missing)}; give {quoted(needed)}", argument="table")
    targets = np.asarray(columns["target"], dtype=str)
    features = np.asarray(columns["feature"], dtype=str)
    perturbations, rows = np.unique(targets, return_inverse=True)
    by_name, first, inverse = np.unique(features, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    column_of = np.empty(len(order), np.int64)
    column_of[order] = np.arange(len(order))
    places = column_of[inverse]
    shape = len(perturbations), len(order)
    pairs = rows * shape[1] + places
    if len(np.unique(pairs)) < len(pairs):
        n = len(pairs) - len(np.unique(pairs))
        raise InputError(
            f"table: {n:,} pairs of target and feature occur twice; keep one row of each", argument="table"
        )

    def spread(values: Any, missing: Any = np.nan, dtype: Any = np.float64) -> Any:
        out = np.full(shape, missing, dtype)
        out.reshape(-1)[pairs] = np.asarray(values, dtype)
        return out

    return ExpressionTable(
        tuple(map(str, perturbations)),
        tuple(map(str, by_name[order])),
        spread(columns["log2_fold_change"]),
        spread(columns["p_value"]),
        spread(columns[adjusted]),
        spread(np.ones(len(pairs)), missing=False, dtype=np.bool_),
        spread(np.arange(len(pairs)), np.iinfo(np.int64).max, np.int64),
    )


@dataclass(frozen=True)
class TablePair:
    """Real and predicted tables with the same perturbations and genes; made by `pair_tables`.

    Attributes
    ----------
    real, predicted : tables with the same perturbations and genes
    own : (P,) column of the gene that a perturbation targets, -1 where there is none
    alpha : a gene is significant if its adjusted p-value is below; compared as float32 if `float32`
    sort_by : column by which significant genes are sorted for overlaps
    auc_floor : replacement of adjusted p-values of 0 for areas under curves, see `CellEval2Settings.auc_pval_floor`
    float32 : whether the numbers of the tables were rounded to float32
    """

    real: ExpressionTable
    predicted: ExpressionTable
    own: I64
    alpha: float = 0.05
    sort_by: str = "abs_log2_fold_change"
    auc_floor: str = "clip"
    float32: bool = False

    @property
    def n(self) -> int:
        """Number of perturbations P."""
        return len(self.real.perturbations)

    @cached_property
    def real_significant(self) -> Bools:
        """Whether a gene is significant in the real data; (P, G)."""
        return self._significant(self.real)

    @cached_property
    def predicted_significant(self) -> Bools:
        """Whether a gene is significant in the prediction; (P, G)."""
        return self._significant(self.predicted)

    def _significant(self, table: ExpressionTable) -> Bools:
        alpha = float(np.float32(self.alpha)) if self.float32 else self.alpha
        with np.errstate(invalid="ignore"):
            return table.tested & (table.p_adjusted < alpha)

    @cached_property
    def either_tested(self) -> I64:
        """Number of genes that either table has, for each perturbation; (P,)."""
        counts: I64 = (self.real.tested | self.predicted.tested).sum(axis=1)
        return counts

    @cached_property
    def not_own(self) -> Bools:
        """Whether a gene is not the one that the perturbation targets; (P, G)."""
        keep = np.ones(self.real.tested.shape, bool)
        mine = np.flatnonzero(self.own >= 0)
        keep[mine, self.own[mine]] = False
        return keep

    @cached_property
    def real_sign(self) -> F64:
        """Sign of the real fold change, NaN if there is none; (P, G)."""
        return np.sign(self.real.log2_fold_change)

    @cached_property
    def predicted_sign(self) -> F64:
        """Sign of the predicted fold change; (P, G)."""
        return np.sign(self.predicted.log2_fold_change)

    @cached_property
    def adjudicable(self) -> Bools:
        """Whether a gene has a real fold change other than 0, so that a sign can be right; (P, G)."""
        defined: Bools = np.isfinite(self.real_sign) & (self.real_sign != 0)
        return defined

    @cached_property
    def matches(self) -> Bools:
        """Whether an adjudicable gene is predicted with the right sign; (P, G)."""
        right: Bools = self.adjudicable & (self.real_sign == self.predicted_sign)
        return right

    @cached_property
    def name_rank(self) -> I64:
        """Rank of each gene in the sorted names; (G,)."""
        rank = np.empty(len(self.real.genes), np.int64)
        rank[np.argsort(np.array(self.real.genes, dtype=str), kind="stable")] = np.arange(len(rank))
        return rank

    @cached_property
    def real_ranked(self) -> list[I64]:
        """Columns of the significant genes of the real table for each perturbation, sorted by `sort_by`."""
        return ranked(self.real, self.real_significant, self.sort_by)

    @cached_property
    def predicted_ranked(self) -> list[I64]:
        """Columns of the significant genes of the predicted table for each perturbation, sorted by `sort_by`."""
        return ranked(self.predicted, self.predicted_significant, self.sort_by)

    @cached_property
    def evidence(self) -> F64:
        """Scores of genes for areas under curves: -log10 of the predicted adjusted p-value, 0 if missing; (P, G)."""
        p = np.where(np.isnan(self.predicted.p_adjusted), 1.0, self.predicted.p_adjusted)
        if self.auc_floor == "clip":
            p = np.clip(p, 1e-10, 1)
        else:
            positive = p[self.real.tested & (p > 0)]
            floor = positive.min() if self.auc_floor == "min_nonzero" and len(positive) else 1e-10
            p = np.where(p == 0, floor, p)
        return -np.log10(p) + 0.0

    @cached_property
    def by_confidence(self) -> list[I64]:
        """All genes of each perturbation, sorted by the confidence of the prediction.

        Significant genes come first, then the order is by adjusted p-value, p-value, size of the fold change, and
        name.
        """
        table, orders = self.predicted, []
        for p in range(self.n):
            size = np.abs(table.log2_fold_change[p])
            orders.append(
                np.lexsort(
                    (
                        self.name_rank,
                        -np.where(np.isnan(size), -1.0, size),
                        _last(table.p_value[p]),
                        _last(table.p_adjusted[p]),
                        ~self.predicted_significant[p],
                    )
                )
            )
        return orders

    def with_settings(self, **changes: Any) -> TablePair:
        """Return the pair with another `alpha` or `sort_by`."""
        return replace(self, **changes)


def _last(values: F64) -> F64:
    """Replace NaN by infinity, so that it is sorted last."""
    return np.where(np.isnan(values), np.inf, values)


def pair_tables(
    real: ExpressionTable,
    predicted: ExpressionTable,
    own_gene: Mapping[str, str | None],
    perturbations: Sequence[str] | None = None,
    **settings: Any,
) -> TablePair:
    """Pair two tables, extended to the genes that either has.

    Parameters
    ----------
    real, predicted : tables
    own_gene : perturbation -> the gene that it targets, or None
    perturbations : the perturbations to include, in this order; if None, those of the real table
    settings : further attributes of the `TablePair`
    """
    genes = real.genes
    if predicted.genes != genes:
        known = set(genes)
        genes = (*genes, *(gene for gene in predicted.genes if gene not in known))
    rows = real.perturbations if perturbations is None else tuple(perturbations)
    column = {gene: i for i, gene in enumerate(genes)}
    own = np.array([column.get(own_gene.get(p) or "", -1) for p in rows], np.int64)
    return TablePair(real.on(rows, genes), predicted.on(rows, genes), own, **settings)


def ranked(table: ExpressionTable, significant: Bools, sort_by: str) -> list[I64]:
    """Return the significant genes of each perturbation, sorted by a column; ties keep the order of the table.

    Fold changes are sorted from the largest, with NaN first; p-values from the smallest.
    """
    if sort_by not in SORT_KEYS:
        raise InputError(f"sort_by={sort_by!r} is unknown; use one of {quoted(SORT_KEYS)}", argument="sort_by")
    descending = sort_by.endswith("fold_change")
    if descending:
        change = table.log2_fold_change
        keys = -np.abs(change) if sort_by.startswith("abs") else -change
    else:
        keys = table.p_value if sort_by == "p_value" else table.p_adjusted
    orders = []
    for p in range(len(keys)):
        genes = np.flatnonzero(significant[p])
        if table.position is not None:
            genes = genes[np.argsort(table.position[p, genes], kind="stable")]
        key = keys[p, genes]
        key = np.where(np.isnan(key), -np.inf if descending else np.inf, key)
        is_number = ~np.isnan(keys[p, genes]) if descending else np.zeros(len(genes), bool)
        orders.append(genes[np.lexsort((key, is_number))])
    return orders
