"""Check what works on this machine, and what to install."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gpubench.core import machine
from gpubench.core.errors import EngineUnavailable
from gpubench.core.machine import usable_cores
from gpubench.engines import get_engine, knn_methods, planner
from gpubench.engines.cpu import compiled
from gpubench.engines.cuda.device import driver_version as _cuda_driver_version
from gpubench.engines.cuda.device import install_command
from gpubench.engines.cuda.memory import import_problem
from gpubench.results.table import Lines, TextTable

State = Literal["works", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    about: str  # what was checked
    state: State  # "works", "missing" (scoring works without it), "broken" (scoring fails)
    text: str  # details, and the remedy


class OptionalPackage(NamedTuple):
    """Optional dependency of gpubench."""

    name: str  # name on PyPI
    extra: str  # extra of gpubench that installs it
    about: str  # `Finding.about` of its check
    purpose: str  # what it is needed for


OPTIONAL = (
    OptionalPackage("distributed", "dask", "engine dask", "for --workers and --scheduler"),
    OptionalPackage("fsspec", "remote", "URLs", "for files at https:// and s3:// addresses"),
    OptionalPackage("networkit", "cpu", "networkit", "for faster Leiden clustering of half a million cells and more"),
)

CUDA_MODULES = {
    "cuml": "random forests run on the CPU without it",
    "pylibcugraph": "Leiden runs on the CPU without it",
    "nvtx": "Nsight shows no stages without it",
}
"""Optional module of the CUDA engine -> consequence if it is missing."""


def examine() -> list[Finding]:
    """Run all checks: machine, packages, engines, and a test that scores six cells."""
    return [*_machine(), _scoring(), _tiles(), *_cuda(), *_neighbor_searches("cpu"), *_optional_packages(), *_blas()]


def works(findings: list[Finding]) -> bool:
    """Whether scoring works, which is the case if no finding is "broken"."""
    return all(finding.state != "broken" for finding in findings)


def blocks(findings: list[Finding]) -> list[TextTable | Lines]:
    """Return a table of the findings, and a line of text that says whether scoring works."""
    rows = tuple((finding.state, finding.about, finding.text) for finding in findings)
    verdict = "Scoring works here." if works(findings) else "Scoring does not work here: see the broken items above."
    return [TextTable("", ("state", "what", "details"), rows), Lines([verdict])]


def _machine() -> Iterator[Finding]:
    yield Finding(
        "gpubench", "works", f"{machine.package_version(machine.DISTRIBUTION)}, Python {platform.python_version()}"
    )
    free = planner.free_memory_bytes() / 1e9
    yield Finding("machine", "works", f"{machine.cpu_model()}, {usable_cores()} usable cores, {free:.1f} GB free")
    versions = ", ".join(f"{name} {version}" for name, version in machine.package_versions().items())
    yield Finding("packages", "works", versions)


def _scoring() -> Finding:
    """Cluster six cells and score the clusters, to check that the libraries work."""
    try:
        from gpubench.metrics import adjusted_rand_index, leiden_clusters, silhouette_label

        cells, labels = [[0.0], [1.0], [2.0], [20.0], [21.0], [22.0]], list("aaabbb")
        engine = get_engine("cpu", threads=1)
        silhouette = silhouette_label(cells, labels, engine=engine)
        agreement = adjusted_rand_index(labels, leiden_clusters(cells, n_neighbors=3, engine=engine), engine=engine)
    except (ImportError, OSError, RuntimeError) as error:
        remedy = "install again: pip install --force-reinstall gpubench-sc"
        return Finding("engine cpu", "broken", f"{type(error).__name__}: {error}; {remedy}")
    scores = f"silhouette_score {silhouette:.2f}, adjusted_rand_index {agreement:.2f}"
    return Finding("engine cpu", "works", f"scored six cells: {scores}")


def _tiles() -> Finding:
    """Check whether the compiled code is available."""
    found = compiled.available()
    purpose = "for faster neighbour search, silhouettes and random forests"
    if found:
        return Finding("compiled tiles", "works", f"{found[0]}; {purpose}")
    remedy = "install gpubench again with a C++ compiler (g++ or clang++)"
    return Finding("compiled tiles", "missing", f"{purpose}: {remedy}")


def _cuda() -> Iterator[Finding]:
    """Check the NVIDIA driver and, if there is one, the CUDA engine and its optional modules."""
    driver = _cuda_driver_version()
    if driver is None:
        yield Finding("engine cuda", "missing", "no NVIDIA driver on this machine; the CPU engine is used")
        return
    gpus = machine.run_briefly("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    found = f"driver for CUDA {driver}, {'; '.join(gpus.splitlines()) if gpus else 'GPU not named by nvidia-smi'}"
    try:
        engine = get_engine("cuda")
    except EngineUnavailable as error:
        yield Finding("engine cuda", "missing", f"{found}; {error}")
        return
    yield Finding("engine cuda", "works", f"{found}; {engine.device}")
    for module, cost in CUDA_MODULES.items():
        problem = import_problem(module)
        if problem:
            yield Finding(module, "missing", f"{problem}; {cost}: {install_command(driver)}")
        else:
            yield Finding(module, "works", "used by the engine cuda")
    yield from _neighbor_searches("cuda")


def _neighbor_searches(engine: str) -> Iterator[Finding]:
    """Check the libraries of an engine's neighbour searches; see `knn_methods.KNN_METHODS`."""
    methods: dict[str, list[str]] = {}  # module -> methods that need it
    for name in knn_methods.offered_by(engine):
        methods.setdefault(knn_methods.KNN_METHODS[name].backends[engine].module, []).append(name)
    del methods[""]
    for module, names in methods.items():
        purpose = f"for {' and '.join(f'--knn {name}' for name in names)}"
        reason = knn_methods.why_not(names[0], engine)
        if reason:
            yield Finding(f"{module}, engine {engine}", "missing", f"{purpose}: {reason.partition(' needs ')[2]}")
            continue
        known = knn_methods.KNN_METHODS[names[0]].backends[engine].distributions
        versions = [f"{name} {version}" for name in known if (version := machine.package_version(name))]
        yield Finding(f"{module}, engine {engine}", "works", "; ".join([*versions, purpose]))
    conflict = knn_methods.faiss_conflict()
    if conflict and engine == "cpu":
        yield Finding("faiss", "missing", conflict)


def _optional_packages() -> Iterator[Finding]:
    for name, extra, about, purpose in OPTIONAL:
        version = machine.package_version(name)
        if version is None:
            yield Finding(about, "missing", f'{purpose}: pip install "gpubench-sc[{extra}]"')
        else:
            yield Finding(about, "works", f"{version if about == name else f'{name} {version}'}; {purpose}")


def _blas() -> Iterator[Finding]:
    from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            text = f"{pool['internal_api']} {pool['version']}, {pool.get('architecture', 'architecture not named')}"
            yield Finding("BLAS", "works", f"{text}, up to {pool['num_threads']} threads")
