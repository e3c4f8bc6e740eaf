"""The CUDA engine's search, on the host emulation: a cell far from all others costs the others nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from emulated import EmulatedDevice, emulate_in_session, start
from numpy.testing import assert_array_equal

from gpubench.engines.cuda import exact_knn


def test_a_far_cell_does_not_make_the_others_uncertain(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding grows with the distance from the centre, but a far cell is nobody's neighbour."""
    searched: list[int] = []
    found = exact_knn.KnnSearch.search_exactly

    def count(self: Any, rows: Any) -> None:
        searched.append(len(rows))
        found(self, rows)

    monkeypatch.setattr(exact_knn.KnnSearch, "search_exactly", count)
    x = rng.standard_normal((500, 8)).astype(np.float32)
    x[7] += 3000
    engine = start(EmulatedDevice(emulate_in_session()))
    knn = engine.knn(engine.put(x), 6)
    assert_array_equal(engine.to_host(knn.indices), reference.knn(x, 6)[0])
    assert sum(searched) <= 2
