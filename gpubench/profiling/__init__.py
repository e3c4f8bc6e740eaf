"""Profiling: time and memory of each stage as data grow, compared with the limits of the machine."""

from __future__ import annotations

from gpubench.profiling.profile import Failure, Profile, Run
from gpubench.profiling.sweep import profile

__all__ = ["Failure", "Profile", "Run", "profile"]
