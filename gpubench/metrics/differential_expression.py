"""Differential expression of groups of cells against a control: Mann-Whitney tests, fold changes, their table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.data import encode_labels
from gpubench.data.perturbation.differential_expression import benjamini_hochberg as _adjust_rows
from gpubench.engines.embedding import start_engine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from gpubench.core.types import F64
    from gpubench.engines.base import Engine

Mean: TypeAlias = Literal["geometric", "arithmetic"]
MEANS: tuple[Mean, ...] = ("geometric", "arithmetic")

PER_MILLION = 1e6


def mann_whitney_p(u: ArrayLike, ties: ArrayLike, n1: ArrayLike, n0: ArrayLike) -> F64:
    r"""Compute two-sided p-values of Mann-Whitney's U by its normal approximation.

    .. math:: z = \frac{\max(U, n_1 n_0 - U) - n_1 n_0 / 2 - 1/2}{\sigma}, \quad
       \sigma^2 = \frac{n_1 n_0}{12} \left(N + 1 - \frac{\sum_t (t^3 - t)}{N (N - 1)}\right), \quad
       p = \min(1, 2 \Phi(-z))

    with N = n1 + n0: corrected for ties, and for continuity by 1/2.

    Parameters
    ----------
    u : (..., genes) U statistic of each group, see `RankSums.u`
    ties : (..., genes) sums of t^3 - t over the runs of t equal values, as `RankSums.ties`
    n1 : number of cells of the group: one number, or one for each row of u
    n0 : number of control cells: one number, or one for each row of u

    Returns
    -------
    float64 of the shape of u; 1 where all values of a gene are equal, NaN where the group or the control has no cells

    Raises
    ------
    ValueError
        The shapes do not agree.

    Notes
    -----
    The same values as `scipy.stats.mannwhitneyu(method="asymptotic", use_continuity=True)`, except that SciPy returns
    NaN if all values are equal.

    References
    ----------
    Mann & Whitney (1947), doi:10.1214/aoms/1177730491.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.mann_whitney_p([0.0, 4.5], ties=[0, 210], n1=3, n0=3).round(4).tolist()
    [0.0809, 1.0]
    """
    from scipy.special import ndtr

    u, ties = np.asarray(u, np.float64), np.asarray(ties, np.float64)
    group_sizes, control_sizes = (np.asarray(n, np.float64) for n in (n1, n0))
    n1, n0 = (n[..., None] if n.ndim else n for n in (group_sizes, control_sizes))
    pairs, pooled = n1 * n0, n1 + n0
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = pairs / 12 * ((pooled + 1) - ties / (pooled * (pooled - 1)))
        z = (np.maximum(u, pairs - u) - pairs / 2 - 0.5) / np.sqrt(variance)
    p = np.minimum(1.0, 2 * ndtr(-z))
    return np.where(pairs > 0, np.where(variance > 0, p, 1.0), np.nan)


def benjamini_hochberg(p: ArrayLike) -> F64:
    r"""Compute p-values adjusted for the false discovery rate over the last axis, the genes.

    The adjusted value of the i-th smallest of m is :math:`\min_{j \ge i} \min(1, m p_{(j)} / j)`.

    Parameters
    ----------
    p : (..., genes) p-values; NaN is not counted as a test

    Returns
    -------
    float64 of the same shape, in [0, 1]; NaN where p is NaN

    Raises
    ------
    ValueError
        p is a single number.

    References
    ----------
    Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.benjamini_hochberg([0.01, 0.02, 0.03, 0.5]).tolist()
    [0.04, 0.04, 0.04, 0.5]
    """
    values = np.asarray(p, np.float64)
    if values.ndim == 0:
        raise ValueError("p is a single number; give the p-values of all genes")
    return _adjust_rows(values)


def log2_fold_changes(target_means: ArrayLike, control_means: ArrayLike, *, epsilon: float = 0.0) -> F64:
    r"""Compute log2 fold changes of mean expression, :math:`\log_2((t + \epsilon) / (c + \epsilon))`.

    Parameters
    ----------
    target_means, control_means : mean expression, not log-transformed; arrays that broadcast to the same shape
    epsilon : number added to both means; 0 in cell-eval, 1e-9 in pdex and cell-eval2

    Returns
    -------
    float64; 0 where both are 0, infinite where one is, NaN where they have different signs

    Raises
    ------
    ValueError
        The shapes do not agree.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.metrics.log2_fold_changes([2.0, 1.0, 0.0], [1.0, 0.0, 0.0]).tolist()
    [1.0, inf, 0.0]
    """
    targets, controls = (np.asarray(means, np.float64) + epsilon for means in (target_means, control_means))
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = np.log2(targets / controls)
    return np.where((targets == 0) & (controls == 0), 0.0, changes)


def expression_means(
    values: Any,
    groups: NDArray[np.int32],
    n_groups: int,
    *,
    mean: Mean = "geometric",
    is_log1p: bool = True,
    engine: Engine | str | None = None,
) -> F64:
    """Compute the mean expression of each group of cells in every gene, on the scale of counts.

    Parameters
    ----------
    values : (n_cells, n_genes) array or sparse matrix
    groups : (n_cells,) int32 in [0, n_groups); -1 leaves a cell out
    n_groups : number of groups
    mean : "geometric", exp(mean of log(1 + x)) - 1, or "arithmetic", the mean of x
    is_log1p : whether `values` are log(1 + x); otherwise they are x
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    (n_groups, n_genes) float64, summed in float64; NaN for an empty group

    Raises
    ------
    InputError
        `mean` is unknown.

    Examples
    --------
    >>> import gpubench as gb
    >>> import numpy as np
    >>> values, groups = np.log1p([[0.0], [8.0], [3.0]]), np.array([0, 0, 1], np.int32)
    >>> gb.metrics.expression_means(values, groups, 2, engine="cpu").round(6).tolist()
    [[2.0], [3.0]]
    >>> gb.metrics.expression_means(values, groups, 2, mean="arithmetic", engine="cpu").round(6).tolist()
    [[4.0], [3.0]]
    """
    if mean not in MEANS:
        raise InputError(f"mean={mean!r} is unknown; use one of: {', '.join(MEANS)}", argument="mean")
    on = start_engine(engine)
    if mean == "geometric":
        logs = values if is_log1p else _apply_to_values(np.log1p, values)
        return np.expm1(on.group_means(logs, groups, n_groups))
    return on.group_means(_apply_to_values(np.expm1, values) if is_log1p else values, groups, n_groups)


def _apply_to_values(function: Any, values: Any) -> Any:
    """Apply a function that maps 0 to 0 to all values of a matrix, in float64."""
    if not hasattr(values, "tocsr"):
        return function(np.asarray(values), dtype=np.float64)
    matrix = values.tocsr() if values.format != "csc" else values
    return type(matrix)((function(matrix.data, dtype=np.float64), matrix.indices, matrix.indptr), shape=matrix.shape)


def differential_expression(
    values: Any,
    targets: ArrayLike,
    control: str,
    *,
    genes: Sequence[str] | None = None,
    mean: Mean = "geometric",
    is_log1p: bool = True,
    epsilon: float = 0.0,
    cpm_filter: float | None = None,
    float32_ties: bool = False,
    engine: Engine | str | None = None,
) -> pd.DataFrame:
    r"""Test every gene of every group of cells against the control cells, by two-sided Mann-Whitney tests.

    P-values are those of the normal approximation, corrected for ties and continuity (`mann_whitney_p`). False
    discovery rates are computed over the genes of each group, by Benjamini and Hochberg.

    Parameters
    ----------
    values : (n_cells, n_genes) expression: an array or a sparse matrix, float32, float64 or integers
    targets : (n_cells,) the group of each cell, such as the perturbed gene
    control : the value of `targets` that the others are compared with
    genes : names of the genes; if None, 0, 1, 2 ...
    mean : kind of mean over cells from which fold changes are computed: "geometric", exp(mean of log(1 + x)) - 1 as in
        cell-eval, or "arithmetic" as in cell-eval2
    is_log1p : whether `values` are log(1 + x); otherwise they are x
    epsilon : number added to both means of a fold change: 0 in cell-eval, 1e-9 in pdex and cell-eval2
    cpm_filter : expression threshold in counts per million of the sum over all genes. For each group, genes whose
        arithmetic mean does not exceed it in the group nor in the control are left out of the table, and of the false
        discovery rate. If None, all genes are kept
    float32_ties : round values to float32 before they are ranked
    engine : engine to compute on, or its name; if None, the best available one

    Returns
    -------
    DataFrame with one row for each target and gene, targets sorted, genes in their order, and the columns

    - target, feature : categorical
    - target_mean, ref_mean : mean expression of the target's cells and of the control, not log-transformed
    - target_membership, ref_membership : number of cells
    - log2_fold_change : log2((target_mean + epsilon) / (ref_mean + epsilon)); 0 where both means are 0
    - percent_change : (target_mean - ref_mean) / (ref_mean + epsilon); 0 where that is NaN
    - p_value
    - statistic : U of the target
    - fdr

    Raises
    ------
    InputError
        `values` is not a matrix of finite numbers, there are no control cells or no others, `targets` has missing
        values, or the number of targets or genes does not match `values`.

    Notes
    -----
    Definitions and column names are those of pdex 0.3 (mode "ref") and of cell-eval 0.8.

    References
    ----------
    Mann & Whitney (1947), doi:10.1214/aoms/1177730491. Benjamini & Hochberg (1995),
    doi:10.1111/j.2517-6161.1995.tb02031.x.

    Examples
    --------
    >>> import gpubench as gb
    >>> import numpy as np
    >>> values = np.array([[0.0, 1.0], [0.1, 0.0], [0.3, 1.0], [0.5, 0.0], [0.6, 1.0], [0.9, 1.0]])
    >>> targets = ["control", "control", "control", "KLF1", "KLF1", "KLF1"]
    >>> table = gb.metrics.differential_expression(values, targets, "control", genes=["A", "B"], engine="cpu")
    >>> table[["target", "feature", "statistic", "p_value"]].round(4)
      target feature  statistic  p_value
    0   KLF1       A        9.0   0.0809
    1   KLF1       B        4.5   1.0000
    """
    values = values if hasattr(values, "shape") else np.asarray(values)
    if len(values.shape) != 2:
        raise InputError(f"values has {len(values.shape)} dimensions; give a matrix of cells x genes")
    labels = encode_labels(targets, "targets", values.shape[0])
    if control not in labels.names:
        raise InputError(f"control={control!r} is no value of targets{close_matches(control, labels.names)}")
    if labels.n_classes == 1:
        raise InputError(f"targets has no value but {control!r} in all {len(labels):,} rows; give perturbed cells too")
    names = np.arange(values.shape[1]) if genes is None else np.asarray(genes)
    if len(names) != values.shape[1] or len(set(names.tolist())) < len(names):
        raise InputError(
            f"genes has {len(set(names.tolist())):,} different names, but values has {values.shape[1]:,} columns;"
            " give a name of its own for each"
        )

    on, reference = start_engine(engine), labels.names.index(control)
    counted = on.rank_sums(values, labels.codes, labels.n_classes, reference, float32_ties=float32_ties)
    means = expression_means(values, labels.codes, labels.n_classes, mean=mean, is_log1p=is_log1p, engine=on)
    p = mann_whitney_p(counted.u, counted.ties, counted.n_cells, counted.n_cells[reference])
    if cpm_filter is not None:
        expressed = expression_means(
            values, labels.codes, labels.n_classes, mean="arithmetic", is_log1p=is_log1p, engine=on
        )
        p[_are_low(expressed, reference, cpm_filter)] = np.nan
    tested = np.delete(np.arange(labels.n_classes), reference)
    rows = {
        "target_mean": means,
        "ref_mean": np.broadcast_to(means[reference], means.shape),
        "target_membership": np.broadcast_to(counted.n_cells[:, None], means.shape),
        "ref_membership": np.full(means.shape, counted.n_cells[reference]),
        "log2_fold_change": log2_fold_changes(means, means[reference], epsilon=epsilon),
        "percent_change": _percent_changes(means, means[reference], epsilon),
        "p_value": p,
        "statistic": counted.u,
        "fdr": benjamini_hochberg(p),
    }
    return _as_table(tested, labels.names, names, {name: values[tested] for name, values in rows.items()})


def _are_low(means: F64, reference: int, cpm_filter: float) -> NDArray[np.bool_]:
    """Return whether each gene is at most `cpm_filter` per million both in a group and in the reference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        per_million = means * PER_MILLION / means.sum(axis=1, keepdims=True)
    is_low = ~(per_million > cpm_filter)
    both: NDArray[np.bool_] = is_low & is_low[reference]
    return both


def _percent_changes(targets: F64, controls: F64, epsilon: float) -> F64:
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = (targets - controls) / (controls + epsilon)
    return np.where(np.isnan(changes), 0.0, changes)


def _as_table(
    tested: NDArray[np.intp], targets: Sequence[str], genes: NDArray[Any], columns: dict[str, NDArray[Any]]
) -> pd.DataFrame:
    """Make the table of the tested targets, without rows that have no p-value."""
    import pandas as pd

    kept = ~np.isnan(columns["p_value"]).ravel()
    codes = np.indices(columns["p_value"].shape)
    names = {
        "target": pd.Categorical.from_codes(codes[0].ravel(), pd.Index([targets[i] for i in tested])),
        "feature": pd.Categorical.from_codes(codes[1].ravel(), pd.Index(genes)),
    }
    table = pd.DataFrame(names | {name: values.ravel() for name, values in columns.items()})
    return table if kept.all() else table[kept].reset_index(drop=True)
