"""Imports that are begun ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_what_leiden_needs_is_imported() -> None:
    assert loaded(["knn", "leiden"], 100) == "['scipy.sparse']"


def test_a_few_cells_need_the_forest_of_scikit_learn() -> None:
    assert loaded(["folds", "rf"], 100) == "['scipy.sparse', 'sklearn.ensemble']"


def test_without_forests_none_is_imported() -> None:
    assert loaded(["folds", "lr", "knn"], 10_000) == "['scipy.sparse']"


def test_nothing_is_imported_for_what_needs_nothing() -> None:
    assert loaded(["knn"], 100) == "[]"


def test_a_package_that_is_broken_is_left_to_the_operation_that_needs_it(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise OSError('a library is missing')")
    code = (
        "from gpubench.engines.cpu import engine as ahead;"
        "ahead.IMPORTED = {'leiden': ('broken',)}; ahead.import_ahead(['leiden'], 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
