"""Settings of the metrics of cell-eval and cell-eval2; the defaults are those of cell-eval 0.8 and cell-eval2 0.20."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class CellEvalSettings:
    """How the metrics of cell-eval prepare cells and tables.

    Attributes
    ----------
    allow_discrete : use values as they are, without normalising counts; fold changes then treat them as not
        log-transformed
    fdr_threshold : a gene is significant if its false discovery rate is below
    epsilon : number added to both means of a fold change
    geometric_mean : average log1p values for fold changes; if False, average expm1 of them
    cpm_filter : genes with at most this many counts per million, both in the perturbed and in the control cells, are
        not tested; if None, all genes are tested
    """

    allow_discrete: bool = False
    fdr_threshold: float = 0.05
    epsilon: float = 0.0
    geometric_mean: bool = True
    cpm_filter: float | None = None


@dataclass(frozen=True)
class CellEval2Settings:
    """How the metrics of cell-eval2 prepare cells and tables; the defaults are those of the challenge of 2026.

    Attributes
    ----------
    control_source : control cells to which predicted effects and tests refer: those of the "real" data or of the
        prediction ("pred")
    input_type : whether values are counts or log-normalised; if None, this is detected for each data set
    target_sum : total to which each cell is scaled before the test; if None, the median total of the real control cells
    bulk_target_sum : total to which profiles are scaled
    min_control_cpm : a gene is tested if its mean over the real control cells exceeds this many counts per million; if
        None, all genes are tested
    mean_calc, epsilon, clip_value : for fold changes, the kind of mean over cells, the number added to both means, and
        the largest absolute value (None for no limit)
    fdr_scope : tests that Benjamini-Hochberg corrects together: the genes of a perturbation, or the whole table
        ("global")
    p_adj_threshold : a gene is significant if its adjusted p-value is below
    min_abs_log2fc : genes with a smaller absolute log2 fold change are never significant
    nan_lfc_policy : whether a gene without a fold change can be significant ("keep") or not ("mask")
    auc_pval_floor : replacement of adjusted p-values of 0 where genes are ranked by them: the smallest other p-value
        ("min_nonzero") or 1e-10 ("replace_zero"); "clip" raises all p-values below 1e-10 to 1e-10
    sort_by : column by which significant genes are sorted for overlaps
    exclude_target_gene, exclusion_scope, rank_denominator, tie_policy : arguments of `discrimination`
    target_gene_map : perturbation -> the gene that it targets, or None if it targets none; the key "*" stands for all
        perturbations that are not in the map. Without it, such a perturbation targets the gene of the same name, if
        there is one
    """

    control_source: Literal["real", "pred"] = "real"
    input_type: Literal["counts", "lognorm"] | None = None
    target_sum: float | None = 1e6
    bulk_target_sum: float = 5e4
    min_control_cpm: float | None = 5.0
    mean_calc: Literal["arithmetic", "geometric"] = "arithmetic"
    epsilon: float = 1e-9
    clip_value: float | None = None
    fdr_scope: Literal["perturbation", "global"] = "perturbation"
    p_adj_threshold: float = 0.05
    min_abs_log2fc: float = 0.0
    nan_lfc_policy: Literal["mask", "keep"] = "mask"
    auc_pval_floor: Literal["min_nonzero", "replace_zero", "clip"] = "min_nonzero"
    sort_by: str = "abs_log2_fold_change"
    exclude_target_gene: bool = True
    exclusion_scope: Literal["panel", "row"] = "panel"
    rank_denominator: Literal["n-1", "n"] = "n-1"
    tie_policy: Literal["midrank", "position"] = "midrank"
    target_gene_map: Mapping[str, str | None] = field(default_factory=dict)
