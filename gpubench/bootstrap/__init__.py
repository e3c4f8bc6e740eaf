"""The bootstrap: how far scores move when other cells, or other donors, are drawn."""

from __future__ import annotations

from gpubench.bootstrap.differences import Drawn, bootstrap_differences
from gpubench.bootstrap.resampling import N_RESAMPLES, SEED, Resampler, percentile_interval

__all__ = ["N_RESAMPLES", "SEED", "Drawn", "Resampler", "bootstrap_differences", "percentile_interval"]
