"""What is imported late behaves as what is imported at once."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpubench.accel.deferring import DEFERRED, deferred

SLOW = "def double(x):\n    return 2 * x\n\nOTHER = 7\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to write modules to; those with "deferrable" in their name are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    (tmp_path / "deferrable_slow.py").write_text(SLOW)
    monkeypatch.setitem(DEFERRED, "deferrable_user", ("deferrable_slow", "double"))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("deferrable")]:
        del sys.modules[name]


def _import(packages: Path, source: str):
    (packages / "deferrable_user.py").write_text(source)
    with deferred("deferrable_user"):
        return importlib.import_module("deferrable_user")


def test_the_import_waits_for_the_first_call(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import double\n")
    assert "deferrable_slow" not in sys.modules
    assert user.double(4) == 8
    assert sys.modules["deferrable_slow"].OTHER == 7


def test_another_name_imports_at_once(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import OTHER, double\n")
    assert (user.OTHER, user.double(4)) == (7, 8)
    assert "deferrable_slow" in sys.modules


def test_what_is_imported_already_stays(packages: Path) -> None:
    slow = importlib.import_module("deferrable_slow")
    assert _import(packages, "from deferrable_slow import double\n").double is slow.double


def test_a_package_that_is_missing_is_missing(packages: Path) -> None:
    (packages / "deferrable_slow.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="deferrable_slow"):
        _import(packages, "from deferrable_slow import double\n")


def test_the_next_import_finds_the_real_one_after_a_failure(packages: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _import(packages, "from deferrable_slow import double\n1 / 0\n")
    assert importlib.import_module("deferrable_slow").OTHER == 7


def test_what_stands_in_is_pickled_as_the_real_one(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import double\n")
    assert pickle.loads(pickle.dumps(user.double)) is sys.modules["deferrable_slow"].double


def test_scib_metrics_starts_without_umap_and_still_has_it() -> None:
    pytest.importorskip("scib_metrics")
    code = """
import gpubench.accel, sys
import numpy as np
gpubench.accel.install(engine="cpu")
from scib_metrics.nearest_neighbors import NeighborsResults, _pynndescent
assert not {"umap", "pynndescent"} & set(sys.modules), "imported already"
gpubench.accel.uninstall()
x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
index = _pynndescent.NNDescent(x, n_neighbors=5, random_state=0)
indices, distances = index.neighbor_graph
late = NeighborsResults(indices, distances).knn_graph_connectivities
from umap.umap_ import fuzzy_simplicial_set
import pynndescent
assert isinstance(index, pynndescent.NNDescent)
assert late.shape == (50, 50) and late.nnz
"""
    subprocess.run([sys.executable, "-c", code], check=True)
