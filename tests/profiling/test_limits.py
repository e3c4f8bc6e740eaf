"""Limits of the machine: plausible, and what they say of work."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpubench.engines import get_engine
from gpubench.profiling import child
from gpubench.profiling.child import measure_limits
from gpubench.profiling.profile import Limits


@pytest.mark.slow
def test_measure_limits_is_plausible_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SECONDS", 0.05)
    monkeypatch.setattr(child, "COPY_BYTES", 1 << 26)
    monkeypatch.setattr(child, "DISTANCES", (1024, 512))
    measured = measure_limits(get_engine("cpu"), 1)
    left = np.ones((1024, 1024), np.float32)
    left @ left
    begin = time.perf_counter()
    left @ left
    alone = 2 * 1024**3 / (time.perf_counter() - begin)
    assert alone / 20 < measured.blas_flop_s < 20 * alone
    assert alone / 20 < measured.tiles_flop_s < 20 * alone
    assert measured.flop_s == max(measured.blas_flop_s, measured.tiles_flop_s)
    assert 5e8 < measured.bytes_s < 1e13
    assert 0.15 <= measured.seconds < 20


def test_least_s_is_the_slower_limit() -> None:
    machine = Limits(blas_flop_s=50.0, tiles_flop_s=100.0, bytes_s=10.0, seconds=1.0)
    assert machine.least_s(200, 10) == 2.0
    assert machine.least_s(200, 30) == 3.0
