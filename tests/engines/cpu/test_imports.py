"""`CpuEngine.preload`: packages that are imported in the background."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, threading
import gpubench as gb
engine = gb.get_engine("cpu")
assert "scipy.sparse" not in sys.modules
engine.preload({operations}, {n})
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
print(sorted({{"scipy.sparse", "sklearn.ensemble", "sklearnex.ensemble"}} & set(sys.modules)))
"""


def loaded(operations: list[str], n: int) -> str:
    code = CODE.format(operations=operations, n=n)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_preload_imports_the_packages_of_leiden() -> None:
    assert loaded(["knn", "leiden"], 100) == "['scipy.sparse']"


@pytest.mark.slow
def test_preload_imports_scikit_learn_for_few_cells() -> None:
    assert loaded(["folds", "rf"], 100) == "['scipy.sparse', 'sklearn.ensemble']"


@pytest.mark.slow
def test_preload_without_forests_imports_none() -> None:
    assert loaded(["folds", "lr", "knn"], 10_000) == "['scipy.sparse']"


def test_preload_of_knn_imports_nothing() -> None:
    assert loaded(["knn"], 100) == "[]"


def test_preload_ignores_a_broken_package(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('a library is missing')")
    code = (
        "from gpubench.engines.cpu import engine;"
        "engine.PRELOADED = {'leiden': ('broken',)}; engine.CpuEngine().preload(['leiden'], 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
