"""The table of neighbour searches: complete, and the same in the documentation, the options and the packaging."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from gpubench.core.errors import InputError
from gpubench.engines import ENGINES, get_engine, knn_methods
from gpubench.engines.cuda import exact_knn
from gpubench.running.options import SPECS

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = [backend for method in knn_methods.KNN_METHODS.values() for backend in method.backends.values()]


def test_documentation_has_the_table() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    start = page.index("| method | candidates | engine |")
    shown = page[start : page.index("\n\n", start)].splitlines()[2:]
    assert shown == [f"| {' | '.join(row)} |" for row in knn_methods.table_rows()]


def test_limits_of_k_in_the_table_are_those_of_the_engine() -> None:
    limits = {
        name: method.backends["cuda"].limits
        for name, method in knn_methods.KNN_METHODS.items()
        if "cuda" in method.backends
    }
    largest = {name: exact_knn.MAX_K - (name != "exact") for name in limits}
    assert all(text.partition(";")[0] == f"k ≤ {largest[name]:,}" for name, text in limits.items())


def test_option_offers_the_methods() -> None:
    assert SPECS["knn"].choices() == ["auto", *knn_methods.KNN_METHODS]
    assert all(name in SPECS["knn"].flags[0].help for name in knn_methods.KNN_CHOICES)


def test_engines_and_order_of_auto_are_known() -> None:
    assert {engine for method in knn_methods.KNN_METHODS.values() for engine in method.backends} == {"cpu", "cuda"}
    for engine, names in knn_methods.AUTOMATIC.items():
        assert set(names) <= set(knn_methods.offered_by(engine))
        assert not any(knn_methods.KNN_METHODS[name].exact for name in names)
    assert set(knn_methods.offered_by("dask")) == set(knn_methods.KNN_METHODS)
    assert set(knn_methods.AUTOMATIC) < set(ENGINES)


def test_packages_that_the_table_names_are_in_the_extras() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for backend in BACKENDS:
        for extra in extras:
            if f"gpubench-sc[{extra}]" in backend.install:
                assert any(line.startswith(backend.distributions) for line in extras[extra]), (backend, extra)


def test_message_for_an_unknown_method_lists_all() -> None:
    with pytest.raises(InputError, match="use one of: auto, exact, leaves, ivf, faiss, cuvs, nn_descent"):
        get_engine("cpu", knn="annoy")


def test_method_of_gpus_only_is_refused_where_auto_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubench.engines.cuda.device.driver_version", lambda: None)
    with pytest.raises(InputError, match="knn='cuvs' needs the engine 'cuda'; the engine 'cpu' has: exact"):
        get_engine("auto", knn="cuvs")
