"""The metrics of predicted perturbations by their ids, and the profiles, which are named sets of metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from gpubench.core.errors import InputError, close_matches
from gpubench.metrics.perturbation._values import PerturbationMetric
from gpubench.metrics.perturbation.cell_covariance import correlation_concordance, gene_correlations
from gpubench.metrics.perturbation.clustering import clustering_agreement
from gpubench.metrics.perturbation.directions import direction, reach, sensitivity
from gpubench.metrics.perturbation.discrimination import discrimination
from gpubench.metrics.perturbation.effects import effect_correlation, mass_ratio, mean_error
from gpubench.metrics.perturbation.energy_distance import energy_correlation
from gpubench.metrics.perturbation.fold_changes import (
    direction_match,
    direction_precision,
    fold_change_correlation,
    fold_change_error,
    model_direction_match,
)
from gpubench.metrics.perturbation.noise import normalised_error, unbiased_error
from gpubench.metrics.perturbation.significant_genes import (
    adjusted_agreement,
    area,
    counts_correlation,
    jaccard_index,
    n_significant,
    overlap,
    recall,
)

Row = tuple[str, Any, Any, Any, tuple[float, float], dict[str, Any], str]
"""Id, function, `Needs`, `Best`, bounds, fixed options and description of a metric."""

ERROR, SHARE, CORRELATION, ANY = (0.0, math.inf), (0.0, 1.0), (-1.0, 1.0), (-math.inf, math.inf)

REAL: dict[str, Any] = {}
PREDICTED, SQUARED, EFFECT = {"of": "predicted"}, {"squared": True}, {"of": "effect"}
SQUARED_EFFECT = {**EFFECT, **SQUARED}
L1, L2, COSINE = ({"distance": name} for name in ("l1", "l2", "cosine"))
GATED = {"gated": True}

OVERLAP = "Share of the first K significant genes of the real data that are among the first K of the prediction"
PRECISION = "Share of the first K significant genes of the prediction that are among the first K of the real data"
NEAREST = "Rank of the own real effect by its {} distance to the predicted one, among all real effects"
NUMBERS = "Spearman over perturbations of the numbers of significant genes"
SIGNS = "Share of real significant genes whose fold change has the same sign"
RANKS = "Spearman of log2 fold changes over real significant genes"
FOUND = "Share of real significant genes that are significant in the prediction"
PRECISE = "Average precision of predicted p values for real significant genes"
ROC = "Area under the ROC curve of predicted p values for real significant genes"
DELTA = "Pearson over genes of the two effects"
N_REAL, N_PREDICTED = "Significant genes of the real data", "Significant genes of the prediction"
DEPTH = "How far down the prediction's ranking directions stay right, relative to real significant genes"
CHANCE = "{} of significant genes, 0 on average for random ones"

# fmt: off
CELL_EVAL: tuple[Row, ...] = (
    ("overlap_at_N", overlap, "tables", "high", SHARE, {"k": None}, OVERLAP),
    ("overlap_at_50", overlap, "tables", "high", SHARE, {"k": 50}, OVERLAP),
    ("overlap_at_100", overlap, "tables", "high", SHARE, {"k": 100}, OVERLAP),
    ("overlap_at_200", overlap, "tables", "high", SHARE, {"k": 200}, OVERLAP),
    ("overlap_at_500", overlap, "tables", "high", SHARE, {"k": 500}, OVERLAP),
    ("precision_at_N", overlap, "tables", "high", SHARE, {**PREDICTED, "k": None}, PRECISION),
    ("precision_at_50", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 50}, PRECISION),
    ("precision_at_100", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 100}, PRECISION),
    ("precision_at_200", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 200}, PRECISION),
    ("precision_at_500", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 500}, PRECISION),
    ("de_spearman_sig", counts_correlation, "tables", "high", CORRELATION, {}, NUMBERS),
    ("de_direction_match", direction_match, "tables", "high", SHARE, {}, SIGNS),
    ("de_spearman_lfc_sig", fold_change_correlation, "tables", "high", CORRELATION, {}, RANKS),
    ("de_sig_genes_recall", recall, "tables", "high", SHARE, {}, FOUND),
    ("de_nsig_counts_real", n_significant, "tables", "none", ERROR, REAL, N_REAL),
    ("de_nsig_counts_pred", n_significant, "tables", "none", ERROR, PREDICTED, N_PREDICTED),
    ("pr_auc", area, "tables", "high", SHARE, {}, PRECISE),
    ("roc_auc", area, "tables", "high", SHARE, {"curve": "roc"}, ROC),
    ("pearson_delta", effect_correlation, "effects", "high", CORRELATION, {}, DELTA),
    ("mse", mean_error, "effects", "low", ERROR, SQUARED, "Mean squared error of the profile"),
    ("mae", mean_error, "effects", "low", ERROR, {}, "Mean absolute error of the profile"),
    ("mse_delta", mean_error, "effects", "low", ERROR, SQUARED_EFFECT, "Mean squared error of the effect"),
    ("mae_delta", mean_error, "effects", "low", ERROR, EFFECT, "Mean absolute error of the effect"),
    ("discrimination_score_l1", discrimination, "effects", "high", SHARE, L1, NEAREST.format("Manhattan")),
    ("discrimination_score_l2", discrimination, "effects", "high", SHARE, L2, NEAREST.format("Euclidean")),
    ("discrimination_score_cosine", discrimination, "effects", "high", SHARE, COSINE, NEAREST.format("cosine")),
    ("pearson_edistance", energy_correlation, "energies", "high", CORRELATION, {},
     "Pearson over perturbations of the E-distances to the control"),
    ("clustering_agreement", clustering_agreement, "centroids", "high", SHARE, {},
     "Largest adjusted mutual information of Leiden clusters of the real and the predicted profiles"),
)
"""Metrics of cell-eval 0.8."""

CELL_EVAL2: tuple[Row, ...] = (
    ("de_wilcoxon_overlap", overlap, "tables", "high", SHARE, {"k": None}, OVERLAP),
    ("de_wilcoxon_overlap_top50", overlap, "tables", "high", SHARE, {"k": 50}, OVERLAP),
    ("de_wilcoxon_overlap_top100", overlap, "tables", "high", SHARE, {"k": 100}, OVERLAP),
    ("de_wilcoxon_overlap_top200", overlap, "tables", "high", SHARE, {"k": 200}, OVERLAP),
    ("de_wilcoxon_overlap_top500", overlap, "tables", "high", SHARE, {"k": 500}, OVERLAP),
    ("de_wilcoxon_precision", overlap, "tables", "high", SHARE, {**PREDICTED, "k": None}, PRECISION),
    ("de_wilcoxon_precision_top50", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 50}, PRECISION),
    ("de_wilcoxon_precision_top100", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 100}, PRECISION),
    ("de_wilcoxon_precision_top200", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 200}, PRECISION),
    ("de_wilcoxon_precision_top500", overlap, "tables", "high", SHARE, {**PREDICTED, "k": 500}, PRECISION),
    ("de_wilcoxon_nsig_counts_real", n_significant, "tables", "none", ERROR, REAL, N_REAL),
    ("de_wilcoxon_nsig_counts_pred", n_significant, "tables", "none", ERROR, PREDICTED, N_PREDICTED),
    ("de_wilcoxon_nsig_spearman", counts_correlation, "tables", "high", CORRELATION, {**GATED, "worst": -1.0}, NUMBERS),
    ("de_wilcoxon_sig_recall", recall, "tables", "high", SHARE, GATED, FOUND),
    ("de_wilcoxon_direction_match", direction_match, "tables", "high", SHARE, GATED, SIGNS),
    ("de_wilcoxon_model_direction_match", model_direction_match, "tables", "high", SHARE, {},
     "Share of the prediction's significant genes whose real fold change has the same sign"),
    ("de_wilcoxon_lfc_spearman", fold_change_correlation, "tables", "high", CORRELATION, GATED, RANKS),
    ("de_wilcoxon_lfc_spearman_pos", fold_change_correlation, "tables", "high", CORRELATION, {**GATED, "side": "up"},
     f"{RANKS} that go up"),
    ("de_wilcoxon_lfc_spearman_neg", fold_change_correlation, "tables", "high", CORRELATION, {**GATED, "side": "down"},
     f"{RANKS} that go down"),
    ("de_wilcoxon_lfc_nmae", fold_change_error, "tables", "low", ERROR, {},
     "Error of log2 fold changes relative to their size, over real significant genes"),
    ("de_wilcoxon_pr_auc", area, "tables", "high", SHARE, GATED, PRECISE),
    ("de_wilcoxon_roc_auc", area, "tables", "high", SHARE, {**GATED, "curve": "roc"}, ROC),
    ("de_wilcoxon_overlap_adjusted", adjusted_agreement, "tables", "high", CORRELATION, {"kind": "overlap"},
     CHANCE.format("Overlap")),
    ("de_wilcoxon_precision_adjusted", adjusted_agreement, "tables", "high", CORRELATION, {"kind": "precision"},
     CHANCE.format("Precision")),
    ("de_wilcoxon_sig_recall_adjusted", adjusted_agreement, "tables", "high", CORRELATION, {"kind": "recall"},
     CHANCE.format("Recall")),
    ("de_wilcoxon_sig_mcc", adjusted_agreement, "tables", "high", CORRELATION, {"kind": "mcc"},
     CHANCE.format("Matthews correlation")),
    ("de_wilcoxon_sig_jaccard", jaccard_index, "tables", "high", SHARE, {},
     "Genes significant on both sides over those significant on either"),
    ("de_wilcoxon_direction_precision", direction_precision, "tables", "high", SHARE, {},
     "Share of the prediction's significant genes with a real fold change whose direction is right"),
    ("de_wilcoxon_direction_sensitivity", sensitivity, "tables", "open", ERROR, {}, DEPTH),
    ("de_wilcoxon_direction_sensitivity_universe", sensitivity, "tables", "open", ERROR, {"universe": True},
     f"{DEPTH}, among all genes"),
    ("de_wilcoxon_direction_fidelity", direction, "tables", "high", ANY, {"kind": "fidelity"},
     "Share of called genes with the right direction, 0 where the more frequent sign alone would do"),
    ("de_wilcoxon_direction_fidelity_raw", direction, "tables", "high", SHARE, {"kind": "fidelity_raw"},
     "Share of called genes with the right direction"),
    ("de_wilcoxon_direction_coverage", direction, "tables", "open", ERROR, {"kind": "coverage"},
     "Called genes relative to real significant ones"),
    ("de_wilcoxon_direction_yield", direction, "tables", "open", ANY, {"kind": "yield"},
     "Right directions beyond those of the more frequent sign, relative to real significant genes"),
    ("de_wilcoxon_direction_yield_raw", direction, "tables", "open", ERROR, {"kind": "yield_raw"},
     "Called genes with the right direction relative to real significant ones"),
    ("de_wilcoxon_direction_fidelity_yield", direction, "tables", "high", ANY, {"kind": "fidelity_yield"},
     "Fidelity times coverage, which counts up to 1"),
    ("de_wilcoxon_direction_fidelity_yield_raw", direction, "tables", "high", SHARE, {"kind": "fidelity_yield_raw"},
     "Called genes with the right direction over the larger number of called and real significant ones"),
    ("de_wilcoxon_direction_reach", reach, "tables", "high", SHARE, {"raw": False},
     f"{DEPTH}, beyond the frequent sign"),
    ("de_wilcoxon_direction_reach_raw", reach, "tables", "high", SHARE, {"raw": True}, DEPTH),
    ("de_wilcoxon_direction_reach_unbounded", reach, "tables", "open", ERROR, {"raw": False, "unbounded": True},
     f"{DEPTH}, beyond the frequent sign and among all genes"),
    ("de_wilcoxon_direction_reach_unbounded_raw", reach, "tables", "open", ERROR, {"raw": True, "unbounded": True},
     f"{DEPTH}, among all genes"),
    ("expr_mae", mean_error, "effects", "low", ERROR, {}, "Mean absolute error of the profile"),
    ("expr_mse", mean_error, "effects", "low", ERROR, SQUARED, "Mean squared error of the profile"),
    ("delta_mae", mean_error, "effects", "low", ERROR, EFFECT, "Mean absolute error of the effect"),
    ("delta_mse", mean_error, "effects", "low", ERROR, SQUARED_EFFECT, "Mean squared error of the effect"),
    ("delta_pearson", effect_correlation, "effects", "high", CORRELATION, {"worst": -1.0}, DELTA),
    ("pds_l1", discrimination, "effects", "high", SHARE, L1, NEAREST.format("Manhattan")),
    ("pds_l2", discrimination, "effects", "high", SHARE, L2, NEAREST.format("Euclidean")),
    ("pds_cosine", discrimination, "effects", "high", SHARE, COSINE, NEAREST.format("cosine")),
    ("expr_mse_unbiased", unbiased_error, "noise", "none", ANY, {"kind": "unbiased"},
     "Mean squared error of the profile without the noise of either side"),
    ("expr_mse_unbiased_capped", unbiased_error, "noise", "none", ANY, {"kind": "capped"},
     "Mean squared error of the profile without noise, that of the prediction capped"),
    ("expr_distance_unbiased", unbiased_error, "noise", "none", ANY, {"kind": "distance"},
     "Mean squared distance of the real profile to the control without their noise"),
    ("expr_mse_unbiased_capped_norm", normalised_error, "noise", "low", ANY, {},
     "Sum of the capped errors over the sum of the distances to the control"),
    ("expr_real_mass_ratio", mass_ratio, "effects", "none", ERROR, {},
     "Total of the real profile relative to its scale"),
    ("cell_cov_corr", gene_correlations, "cells", "none", CORRELATION, {"kind": "corr"},
     "Pearson of the correlations of changed genes over cells"),
    ("cell_cov_eig_ratio", gene_correlations, "cells", "none", ERROR, {"kind": "eig_ratio"},
     "Largest eigenvalue of the correlations of changed genes, predicted over real"),
    ("cell_cov_ccc", correlation_concordance, "cells", "none", CORRELATION, {},
     "Concordance of the significant correlations of genes over cells"),
)
"""Metrics of cell-eval2 0.20."""
# fmt: on

WITH_CEILING = frozenset(
    {row[0] for row in CELL_EVAL if row[2] == "tables" and row[3] == "high"}
    | {"pearson_delta", "discrimination_score_l1", "discrimination_score_l2", "discrimination_score_cosine"}
    | {row[0] for row in CELL_EVAL2 if row[1] in (overlap, discrimination, effect_correlation)}
    | {
        "de_wilcoxon_nsig_spearman",
        "de_wilcoxon_lfc_spearman",
        "de_wilcoxon_direction_match",
        "de_wilcoxon_sig_recall",
    }
)
"""Metrics for which cell-eval and cell-eval2 define a ceiling, extrapolated from halves of the real data."""


def _metric(row: Row, generation: Literal[1, 2]) -> PerturbationMetric:
    name, function, needs, best, bounds, options, description = row
    return PerturbationMetric(
        name, function, needs, generation, best, bounds, description, options, name in WITH_CEILING
    )


PERTURBATION_METRICS: dict[str, PerturbationMetric] = {
    **{row[0]: _metric(row, 1) for row in CELL_EVAL},
    **{row[0]: _metric(row, 2) for row in CELL_EVAL2},
}
"""Metric id -> declaration, for every metric of predicted perturbations."""

CHALLENGE_2026 = (
    "pds_cosine",
    "expr_mse_unbiased_capped_norm",
    "de_wilcoxon_direction_fidelity_yield_raw",
    "de_wilcoxon_direction_reach_raw",
    "de_wilcoxon_sig_jaccard",
    "de_wilcoxon_lfc_nmae",
)
"""The six metrics that the Virtual Cell Challenge of 2026 scores."""

PROFILES: dict[str, tuple[str, ...]] = {
    "cell_eval": tuple(row[0] for row in CELL_EVAL),
    "full": tuple(row[0] for row in CELL_EVAL2),
    "vcc2026": (
        *CHALLENGE_2026,
        "expr_mse_unbiased",
        "expr_mse_unbiased_capped",
        "expr_distance_unbiased",
        "expr_real_mass_ratio",
    ),
    "vcc2025": ("mae", "discrimination_score_l1", "overlap_at_N"),
    "minimal": (
        "pearson_delta",
        "mse",
        "mae",
        "discrimination_score_l1",
        "overlap_at_N",
        "precision_at_N",
        "de_nsig_counts_real",
        "de_nsig_counts_pred",
    ),
}
"""Sets of metrics by name: all of cell-eval, all of cell-eval2, those of the two challenges, and a few of cell-eval."""


def metrics_of(profile: str | None = None, metrics: Sequence[str] | None = None) -> list[PerturbationMetric]:
    """Return the metrics of a profile, or those named.

    Parameters
    ----------
    profile : name of a set of metrics, a key of `PROFILES`
    metrics : ids of the metrics, instead of a profile

    Raises
    ------
    InputError
        An unknown name.

    Examples
    --------
    >>> [m.id for m in metrics_of("vcc2025")]
    ['mae', 'discrimination_score_l1', 'overlap_at_N']
    """
    if metrics is None:
        if profile not in PROFILES:
            hint = close_matches(str(profile), PROFILES)
            raise InputError(f"profile={profile!r} is unknown{hint}", argument="profile")
        metrics = PROFILES[profile]
    for name in metrics:
        if name not in PERTURBATION_METRICS:
            hint = close_matches(name, PERTURBATION_METRICS)
            raise InputError(f"metrics: {name!r} is unknown{hint}", argument="metrics")
    return [PERTURBATION_METRICS[name] for name in dict.fromkeys(metrics)]
