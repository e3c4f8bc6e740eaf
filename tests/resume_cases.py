"""Runs for `test_resume.py` to kill: a process that has imported everything forks them.

It reads one line per run, the seconds until it is killed (or "never"), and writes one line: how the run ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpubench as gb
from gpubench.core.checkpoint import Checkpoint
from gpubench.tasks import _cross_validation, label_prediction

N = 500

SMALL_FORESTS = _cross_validation.ClassifierSettings(
    "label_prediction", centre=False, mean_of=("lr", "knn", "rf"), params={"rf": {"n_estimators": 5}}
)


def cells() -> dict[str, Any]:
    """Return overlapping cells of four labels, three batches and five times."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, N)
    centres = rng.normal(size=(4, 10))
    return {
        "data": (rng.normal(size=(N, 10)) + 1.5 * centres[label]).astype(np.float32),
        "label": label.astype(str),
        "batch": rng.integers(0, 3, N).astype(str),
        "time": rng.integers(0, 5, N) + label,
    }


def score(**given: Any) -> Any:
    """Score the cells on five tasks and the metrics of scib-metrics; forests are small, for speed."""
    label_prediction.SETTINGS = SMALL_FORESTS
    tasks = ["clustering", "embedding", "label_prediction", "batch_integration", "sequential_organization", "scib"]
    return gb.score(**cells(), tasks=tasks, engine="cpu", threads=1, **given)


def run(out: Path) -> None:
    """Score, write the results as the command line does, and end the run."""
    with Checkpoint(out) as checkpoint:
        result = score(checkpoint=checkpoint)
        result.to_json(out / "results.json")
        result.cells_to_parquet(out / "cells.parquet")
        checkpoint.end(complete=True)


def import_all() -> None:
    """Import what a run imports, so that a fork spends its time on computing."""
    import igraph  # noqa: F401
    import scipy.optimize
    import scipy.sparse.csgraph
    import scipy.sparse.linalg  # noqa: F401
    import sklearn.ensemble
    import sklearn.model_selection  # noqa: F401


def main() -> None:
    """Fork a run for each line that is read."""
    import_all()
    out = Path(sys.argv[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                run(out)
            except BaseException:  # noqa: BLE001 - the fork must not go on with the parent's work
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        if line.strip() != "never":
            time.sleep(float(line))
            os.kill(child, signal.SIGKILL)  # one that has ended is not yet waited for
        _, status = os.waitpid(child, 0)
        ended = "killed" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        sys.stdout.write(ended + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
