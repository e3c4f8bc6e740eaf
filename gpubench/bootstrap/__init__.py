"""The bootstrap: how far scores move when other cells, or other donors, are drawn."""

from __future__ import annotations

from gpubench.bootstrap.draws import Drawn, bootstrap_differences, bootstrap_values
from gpubench.bootstrap.resampling import N_RESAMPLES, SEED, Resampler, percentile_interval

__all__ = [
    "N_RESAMPLES",
    "SEED",
    "Drawn",
    "Resampler",
    "bootstrap_differences",
    "bootstrap_values",
    "percentile_interval",
]
