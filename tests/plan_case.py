"""Process that plans and scores cells of a size and prints both peaks of memory: started by `test_plan.py`."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

import gpubench as gb
from gpubench.core.memory import resident_bytes


def cells(n: int, d: int) -> dict[str, Any]:
    """Draw cells of eight labels in three batches."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 8, n)
    x = rng.standard_normal((n, d), np.float32)
    x += rng.standard_normal((8, d), np.float32)[label]
    return {"data": x, "label": label.astype(str), "batch": rng.integers(0, 3, n).astype(str)}


def main() -> None:
    """Plan and score, without random forests, which take long."""
    n, d, *tasks = sys.argv[1:]
    given = {**cells(int(n), int(d)), "tasks": tasks, "engine": "cpu", "threads": 2, "classifiers": ("lr", "knn")}
    expected = gb.plan(**given)
    before = resident_bytes()
    result = gb.score(**given)
    assert not result.failures
    measured = max(stage["peak_bytes"] for stage in result.timeline)
    print(json.dumps({"expected": expected.peak_bytes, "measured": measured, "before": before}))  # noqa: T201


if __name__ == "__main__":
    main()
