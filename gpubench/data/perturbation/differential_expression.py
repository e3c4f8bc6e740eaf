"""Differential expression of each condition against the controls, by Wilcoxon rank-sum tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csc_array, csr_array

_FOLD_CHANGE_OFFSET = 1e-9
"""Added to both means of a fold change, as scanpy does."""


@dataclass(frozen=True, slots=True)
class DifferentialExpression:
    """Results of testing each gene in each condition against the controls; rows are conditions, columns are genes.

    Attributes
    ----------
    scores : (c, g) float64, z-score of the rank sum; positive if the gene is higher in the condition
    p_values : (c, g) float64, two-sided p-values
    adjusted_p_values : (c, g) float64, p-values adjusted by Benjamini-Hochberg over the genes of a condition
    log2_fold_changes : (c, g) float64, log2 fold changes of the condition over the controls
    """

    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    adjusted_p_values: NDArray[np.float64]
    log2_fold_changes: NDArray[np.float64]


def differential_expression(
    x: csr_array, codes: NDArray[np.int32], control: int, n_codes: int, *, tie_correct: bool = True
) -> DifferentialExpression:
    """Test every gene of every condition against the controls by the Wilcoxon rank-sum test.

    Parameters
    ----------
    x : (n, g) log(1 + normalised counts), cells x genes
    codes : (n,) condition of each cell, in [0, n_codes)
    control : code of the controls
    n_codes : number of conditions with the controls; each has at least one cell
    tie_correct : correct the variance of the rank sum for ties, which scanpy does not do by default; uncorrected, the
        test has little power for genes with many zeros

    Returns
    -------
    Results with a row for each code other than `control`, ascending, as defined in scanpy's
    `rank_genes_groups(method="wilcoxon")`.
    """
    from scipy.special import ndtr

    scores = rank_sum_scores(x.tocsc(), codes, control, n_codes, tie_correct=tie_correct)
    p_values = 2 * ndtr(-np.abs(scores))
    return DifferentialExpression(
        scores, p_values, benjamini_hochberg(p_values), _log2_fold_changes(x, codes, control, n_codes)
    )


def rank_sum_scores(
    x: csc_array, codes: NDArray[np.int32], control: int, n_codes: int, *, tie_correct: bool = True
) -> NDArray[np.float64]:
    """Return the z-score of the rank sum of each gene in each condition against the controls.

    For n cells of a condition and m controls, N = n + m, it is z = (U - n m / 2) / sigma. U is the number of pairs of a
    treated cell and a control in which the treated cell has the larger value; ties count one half. The variance is
    sigma^2 = n m (N + 1) / 12, reduced if `tie_correct` by the share sum (t^3 - t) / (N^3 - N) over groups of t equal
    values. Only the controls are sorted, once for each gene.

    Parameters are those of `differential_expression`; `x` has no stored zeros. Returns (n_codes - 1, g) float64, 0 if
    all values are equal.

    References
    ----------
    Mann & Whitney (1947), doi:10.1214/aoms/1177730491.
    """
    n_treated = np.bincount(codes, minlength=n_codes)
    n_control = int(n_treated[control])
    scores = np.empty((n_codes, x.shape[1]))
    for gene in range(x.shape[1]):
        stored = slice(x.indptr[gene], x.indptr[gene + 1])
        u, ties = _count_pairs(x.data[stored], codes[x.indices[stored]], n_treated, control, tie_correct=tie_correct)
        n_pooled = (n_treated + n_control).astype(np.float64)
        variance = n_treated * n_control * (n_pooled + 1) / 12
        if tie_correct:
            variance *= 1 - ties / (n_pooled**3 - n_pooled)
        excess = u - n_treated * n_control / 2
        scores[:, gene] = np.divide(excess, np.sqrt(variance), out=np.zeros(n_codes), where=variance > 0)
    return np.delete(scores, control, axis=0)


def _count_pairs(
    values: NDArray[Any], codes: NDArray[np.int32], n_treated: NDArray[np.int64], control: int, *, tie_correct: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return U of each condition for one gene, and sum (t^3 - t) over groups of t equal values with the controls.

    `values` are the nonzero values of the gene, `codes` the conditions of their cells.
    """
    is_control = codes == control
    controls = np.sort(values[is_control])
    treated, treated_codes = values[~is_control], codes[~is_control]
    n_codes = len(n_treated)
    control_zeros = int(n_treated[control]) - len(controls)
    zeros = n_treated - np.bincount(treated_codes, minlength=n_codes)
    zeros[control] = 0

    first, last = np.searchsorted(controls, treated, "left"), np.searchsorted(controls, treated, "right")
    below = first + np.where(treated > 0, control_zeros, 0)
    u = _sum_by_code(below + (last - first) / 2, treated_codes, n_codes)
    u += zeros * (np.searchsorted(controls, 0) + control_zeros / 2)
    if not tie_correct:
        return u, np.zeros(n_codes)

    ties = np.full(n_codes, _cubes(np.unique(controls, return_counts=True)[1]).sum())
    ties += _cubes(zeros + control_zeros)
    # Where b treated values equal a control values, the ties of the a values alone are counted already.
    order = np.lexsort((treated, treated_codes))
    codes, values = treated_codes[order], treated[order]
    starts = np.flatnonzero(np.r_[len(codes) > 0, (codes[1:] != codes[:-1]) | (values[1:] != values[:-1])])
    sizes = np.diff(np.append(starts, len(order)))
    run_first = order[starts]
    equal_controls = (last - first)[run_first]
    added = _cubes(equal_controls + sizes) - _cubes(equal_controls)
    return u, ties + _sum_by_code(added, treated_codes[run_first], n_codes)


def _sum_by_code(values: NDArray[np.float64], codes: NDArray[np.int32], n_codes: int) -> NDArray[np.float64]:
    return np.bincount(codes, weights=values, minlength=n_codes).astype(np.float64, copy=False)


def _cubes(sizes: NDArray[Any]) -> NDArray[np.float64]:
    t = np.asarray(sizes, np.float64)
    return t**3 - t


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust the p-values in each row for the false discovery rate.

    Returns float64 in [0, 1] of the same shape. NaN stays NaN, and is not counted as a test.

    References
    ----------
    Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    n_tests = np.count_nonzero(~np.isnan(p_values), axis=-1, keepdims=True)
    ascending = np.argsort(p_values, axis=-1)  # NaN is last; equal p-values get the same in any order
    ranks = np.arange(1, p_values.shape[-1] + 1)
    scaled = np.take_along_axis(p_values, ascending, axis=-1) * n_tests / ranks
    smallest = np.fmin.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty(p_values.shape)
    np.put_along_axis(adjusted, ascending, np.minimum(smallest, 1), axis=-1)
    return adjusted


def _log2_fold_changes(x: csr_array, codes: NDArray[np.int32], control: int, n_codes: int) -> NDArray[np.float64]:
    """Return the fold changes of exp(mean log value) - 1, as scanpy defines them."""
    from scipy.sparse import csr_array as csr

    n = len(codes)
    sums = csr((np.ones(n), (codes, np.arange(n))), shape=(n_codes, n)) @ x
    means = np.expm1(sums.toarray() / np.bincount(codes, minlength=n_codes)[:, None]) + _FOLD_CHANGE_OFFSET
    return np.asarray(np.log2(np.delete(means, control, axis=0) / means[control]))
