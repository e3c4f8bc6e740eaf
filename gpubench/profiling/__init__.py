"""Profiles: where time and memory go as the cells become more, beside what the machine can do."""

from __future__ import annotations

from gpubench.profiling.profile import Failure, Profile, Run
from gpubench.profiling.sweep import profile

__all__ = ["Failure", "Profile", "Run", "profile"]
