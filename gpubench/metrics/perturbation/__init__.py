"""Metrics of predicted perturbations: those of cell-eval and cell-eval2, their baselines, ceilings and scales."""

from __future__ import annotations

from gpubench.metrics.perturbation._values import PerturbationMetric, Reason, Values
from gpubench.metrics.perturbation.baselines import (
    control_baseline,
    dispersed_mean_baseline,
    mean_baseline,
    mean_profile,
)
from gpubench.metrics.perturbation.cells import PerturbedCells, perturbed_cells
from gpubench.metrics.perturbation.evaluation import PerturbationScores, evaluate
from gpubench.metrics.perturbation.intervals import BootstrapInterval, intervals, paired_intervals, resampled_cells
from gpubench.metrics.perturbation.registry import CHALLENGE_2026, PERTURBATION_METRICS, PROFILES
from gpubench.metrics.perturbation.replicates import Replicates, ceiling, halves, replicates
from gpubench.metrics.perturbation.scales import (
    ScaledScores,
    dynamic_range,
    score_fixed,
    score_from_baseline,
    score_from_replicate,
)
from gpubench.metrics.perturbation.settings import CellEval2Settings, CellEvalSettings
from gpubench.metrics.perturbation.sides import RealSide, prepare
from gpubench.metrics.perturbation.streaming import StreamedCells
from gpubench.metrics.perturbation.tables import ExpressionTable, expression_table

__all__ = [
    "CHALLENGE_2026",
    "PERTURBATION_METRICS",
    "PROFILES",
    "BootstrapInterval",
    "CellEval2Settings",
    "CellEvalSettings",
    "ExpressionTable",
    "PerturbationMetric",
    "PerturbationScores",
    "PerturbedCells",
    "RealSide",
    "Reason",
    "Replicates",
    "ScaledScores",
    "StreamedCells",
    "Values",
    "ceiling",
    "control_baseline",
    "dispersed_mean_baseline",
    "dynamic_range",
    "evaluate",
    "expression_table",
    "halves",
    "intervals",
    "mean_baseline",
    "mean_profile",
    "paired_intervals",
    "perturbed_cells",
    "prepare",
    "replicates",
    "resampled_cells",
    "score_fixed",
    "score_from_baseline",
    "score_from_replicate",
]
