"""Lazy imports behave as immediate ones; garbage collection is postponed, never switched off."""

from __future__ import annotations

import gc
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpubench.accel.startup import LAZY_IMPORTS, collect_own_garbage, gc_paused, lazy_imports

SLOW = "def double(x):\n    return 2 * x\n\nOTHER = 7\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to write modules to; those with "deferrable" in their name are unloaded afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    (tmp_path / "deferrable_slow.py").write_text(SLOW)
    monkeypatch.setitem(LAZY_IMPORTS, "deferrable_user", ("deferrable_slow", "double"))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("deferrable")]:
        del sys.modules[name]


def _import(packages: Path, source: str):
    (packages / "deferrable_user.py").write_text(source)
    with lazy_imports("deferrable_user"):
        return importlib.import_module("deferrable_user")


def test_import_waits_for_the_first_call(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import double\n")
    assert "deferrable_slow" not in sys.modules
    assert user.double(4) == 8
    assert sys.modules["deferrable_slow"].OTHER == 7


def test_another_name_imports_at_once(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import OTHER, double\n")
    assert (user.OTHER, user.double(4)) == (7, 8)
    assert "deferrable_slow" in sys.modules


def test_module_already_imported_is_used(packages: Path) -> None:
    slow = importlib.import_module("deferrable_slow")
    assert _import(packages, "from deferrable_slow import double\n").double is slow.double


def test_missing_package_raises_at_import(packages: Path) -> None:
    (packages / "deferrable_slow.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="deferrable_slow"):
        _import(packages, "from deferrable_slow import double\n")


def test_next_import_after_a_failure_finds_the_real_module(packages: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _import(packages, "from deferrable_slow import double\n1 / 0\n")
    assert importlib.import_module("deferrable_slow").OTHER == 7


def test_stand_in_is_pickled_as_the_real_function(packages: Path) -> None:
    user = _import(packages, "from deferrable_slow import double\n")
    assert pickle.loads(pickle.dumps(user.double)) is sys.modules["deferrable_slow"].double


def test_scib_metrics_starts_without_umap_and_can_still_use_it() -> None:
    pytest.importorskip("scib_metrics")
    code = """
import gpubench.accel, sys
import numpy as np
gpubench.accel.install(engine="cpu")
from scib_metrics.nearest_neighbors import NeighborsResults, _pynndescent
assert not {"umap", "pynndescent"} & set(sys.modules), "imported too early"
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


def collect() -> int:
    return gc.collect()


class Node:
    """An object in a cycle, which only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_gc_paused_restores_the_previous_state() -> None:
    with gc_paused(), gc_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with gc_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_method_collects_its_own_garbage_and_leaves_the_rest() -> None:
    gc.collect()
    Node()  # garbage from before

    def method(new: int) -> int:
        """Doc."""
        for _ in range(new):
            Node()
        return gc.collect()

    wrapped = collect_own_garbage(method)
    assert wrapped.__doc__ == "Doc."
    gc.disable()
    try:
        assert wrapped(3) >= 3
        assert gc.get_freeze_count() == 0
        assert gc.collect() >= 1, "garbage from before is never collected"
    finally:
        gc.enable()


def test_objects_frozen_by_others_stay_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        collect_own_garbage(collect)()
        assert gc.get_freeze_count() == pytest.approx(frozen, abs=100)
    finally:
        gc.unfreeze()


def test_failure_leaves_nothing_frozen() -> None:
    with pytest.raises(ZeroDivisionError):
        collect_own_garbage(lambda: 1 / 0)()
    assert gc.get_freeze_count() == 0
