"""The bootstrap: how far scores move when other cells are drawn, or donors left out."""

from __future__ import annotations

from gpubench.comparison.paired_intervals import Drawn, draw_differences
from gpubench.comparison.resampling import N_RESAMPLES, SEED, Resampler

__all__ = [
    "N_RESAMPLES",
    "SEED",
    "Drawn",
    "Resampler",
    "draw_differences",
]
