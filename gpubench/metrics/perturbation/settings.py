"""Settings of both generations of metrics: what cell-eval 0.8 and cell-eval2 0.20 decide by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class CellEvalSettings:
    """How the metrics of cell-eval prepare cells and tables.

    Attributes
    ----------
    allow_discrete : use counts as they are; the fold changes then take values as not on a log scale
    fdr_threshold : a gene is significant below it
    epsilon : added to both means of a fold change
    geometric_mean : average log1p values for fold changes, otherwise expm1 of them
    cpm_filter : genes with at most this share of the expression, in parts per million, in both groups are not tested;
        None: all are
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
    control_source : whose control cells predicted effects and tests refer to
    input_type : None: found out for each side
    target_sum : scale of each cell before the test; None: the median total of the real control cells
    bulk_target_sum : scale of the profiles
    min_control_cpm : a gene is tested if its mean over the real control cells is larger, in counts per million; None:
        all are
    mean_calc, epsilon, clip_value : fold changes: mean over cells, number added to both means, largest absolute value
    fdr_scope : Benjamini-Hochberg over the genes of a perturbation, or over the whole table
    p_adj_threshold : a gene is significant below it
    min_abs_log2fc : genes below it are never significant
    nan_lfc_policy : whether a gene without a fold change can be significant
    auc_pval_floor : what an adjusted p value of 0 becomes where genes are ranked by it: the smallest other one, or
        1e-10; "clip" raises all values below 1e-10 to it
    sort_by : order of significant genes for overlaps
    exclude_target_gene, exclusion_scope, rank_denominator, tie_policy : discrimination scores
    target_gene_map : perturbation -> its gene; None: it has none; the key "*" stands for all others. A perturbation
        that is not in the map targets the gene of its name, if there is one
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
