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
engine.preload({operations})
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
print(sorted({{"scipy.sparse", "sklearn.ensemble"}} & set(sys.modules)))
"""


def loaded(operations: list[str], **variables: str) -> str:
    command, environment = [sys.executable, "-c", CODE.format(operations=operations)], {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.mark.slow
def test_preload_imports_the_packages_of_leiden() -> None:
    assert loaded(["knn", "leiden"]) == "['scipy.sparse']"


@pytest.mark.slow
def test_preload_without_compiled_tiles_imports_the_forests_of_scikit_learn() -> None:
    assert loaded(["folds", "rf"], GPUBENCH_TILES="numpy") == "['scipy.sparse', 'sklearn.ensemble']"


@pytest.mark.slow
def test_preload_without_forests_imports_none() -> None:
    assert loaded(["folds", "lr", "knn"]) == "['scipy.sparse']"


def test_preload_of_knn_imports_nothing() -> None:
    assert loaded(["knn"]) == "[]"


def test_preload_ignores_a_broken_package(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('a library is missing')")
    code = (
        "from gpubench.engines.cpu import engine;"
        "engine.PRELOADED = {'leiden': ('broken',)}; engine.CpuEngine().preload(['leiden'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
