"""The contract of `gpubench.engines.base`: the fourteen operations, and overrides that can stand for each other."""

from __future__ import annotations

import inspect

import pytest

from gpubench.engines.base import Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cuda.engine import CudaEngine
from gpubench.engines.dask.engine import DaskEngine
from gpubench.engines.dask.gpu_engine import DaskGpuEngine
from gpubench.engines.dask.worker import WorkerEngine

OPERATIONS = {
    *("put", "to_host", "release", "knn", "knn_between", "cluster_distances", "map_neighbors", "fuzzy_graph"),
    *("leiden", "classifier", "group_means", "rank", "rank_sums", "mean_distances"),
}
SERVICES = {
    *("cost_model", "digest", "map", "over_rows", "preload", "run", "verified"),
    *("require_backend", "library_classifier", "library_silhouettes"),  # for comparison with other packages
}
ENGINES = (CpuEngine, CudaEngine, DaskEngine, DaskGpuEngine, WorkerEngine)


def test_public_members_of_the_contract_are_fourteen_operations_and_the_services() -> None:
    public = {name for name, value in vars(Engine).items() if not name.startswith("_") and not isinstance(value, str)}
    assert public - {"packages"} == OPERATIONS | SERVICES
    assert len(OPERATIONS) == 14
    assert all(name in (Engine.__doc__ or "") for name in OPERATIONS)


def parameters(function: object) -> list[tuple[object, ...]]:
    """Names, kinds and defaults of the parameters."""
    assert callable(function)
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", sorted((OPERATIONS | SERVICES) - {"cost_model"}))
@pytest.mark.parametrize("engine", ENGINES)
def test_an_override_has_the_signature_of_the_contract(engine: type[Engine], name: str) -> None:
    assert parameters(getattr(engine, name)) == parameters(getattr(Engine, name))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_has_every_operation(engine: type[Engine]) -> None:
    assert not inspect.isabstract(engine)
