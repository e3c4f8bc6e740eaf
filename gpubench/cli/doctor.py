"""What works on this machine, what does not, and what to install."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from gpubench.core import machine
from gpubench.core.errors import EngineUnavailable
from gpubench.core.machine import usable_cores
from gpubench.engines import get_engine, planner
from gpubench.engines.cpu import compiled
from gpubench.engines.cuda.device import driver_version as _cuda_driver_version
from gpubench.engines.cuda.device import install_command

State = Literal["works", "missing", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    about : what
    state : "works", "missing" (scoring works without it), "broken" (scoring does not)
    text : what was found, and what to do
    """

    about: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class OptionalPackage:
    """A package that makes something faster.

    Attributes
    ----------
    name : its distribution
    extra : the extra of gpubench that installs it
    gain : what it speeds up
    """

    name: str
    extra: str
    gain: str


OPTIONAL = (
    OptionalPackage("faiss-cpu", "cpu", "finding neighbours among very many cells"),
    OptionalPackage("networkit", "cpu", "Leiden communities of half a million cells and more"),
    OptionalPackage("scikit-learn-intelex", "cpu", "random forests in the label prediction tasks"),
)

ELSEWHERE = (
    ("distributed", "dask", "engine dask", "--workers and --scheduler"),
    ("fsspec", "remote", "URLs", "files at https:// and s3:// addresses"),
)
"""Distribution, the extra of gpubench that installs it, what it makes possible, and where that is met."""

CUDA_MODULES = {
    "cuml": "random forests run on the CPU without it",
    "pylibcugraph": "Leiden runs on the CPU without it",
    "nvtx": "Nsight shows no stages without it",
}
"""Modules that the CUDA engine can do without, and what that costs."""


def examine() -> list[Finding]:
    """Look at the machine, and score a handful of cells."""
    return [*_machine(), _scoring(), _tiles(), *_cuda(), *_elsewhere(), *_optional_packages(), *_blas()]


def works(findings: list[Finding]) -> bool:
    """Whether scoring works."""
    return all(finding.state != "broken" for finding in findings)


def to_text(findings: list[Finding]) -> str:
    """One line for each finding, and a last one that sums up."""
    width = max(len(finding.about) for finding in findings)
    lines = [f"{finding.state:<8} {finding.about:<{width}}  {finding.text}" for finding in findings]
    verdict = "Scoring works here." if works(findings) else "Scoring does not work here: see what is broken above."
    return "\n".join([*lines, "", verdict])


def _machine() -> Iterator[Finding]:
    yield Finding("gpubench", "works", f"{machine.package_version('gpubench')}, Python {platform.python_version()}")
    free = planner.free_memory_bytes() / 1e9
    yield Finding(
        "machine", "works", f"{machine.cpu_model()}, {usable_cores()} usable cores, {free:.1f} GB of memory free"
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine.package_versions().items())
    yield Finding("packages", "works", versions)


def _scoring() -> Finding:
    """Cluster six cells and measure how they are separated, so that the libraries are really used."""
    try:
        from gpubench.metrics import adjusted_rand_index, leiden_clusters, silhouette_label

        cells, labels = [[0.0], [1.0], [2.0], [20.0], [21.0], [22.0]], list("aaabbb")
        engine = get_engine("cpu", threads=1)
        silhouette = silhouette_label(cells, labels, engine=engine)
        agreement = adjusted_rand_index(labels, leiden_clusters(cells, n_neighbors=3, engine=engine), engine=engine)
    except (ImportError, OSError, RuntimeError) as error:
        remedy = "install again: pip install --force-reinstall gpubench"
        return Finding("engine cpu", "broken", f"{type(error).__name__}: {error}; {remedy}")
    scores = f"silhouette_score {silhouette:.2f}, adjusted_rand_index {agreement:.2f}"
    return Finding("engine cpu", "works", f"scored six cells: {scores}")


def _tiles() -> Finding:
    """Whether distances between cells are computed by compiled code."""
    found = compiled.available()
    if not found:
        remedy = "install gpubench again where a C++ compiler (g++ or clang++) is"
        return Finding("compiled tiles", "missing", f"would speed up neighbours and silhouettes: {remedy}")
    return Finding("compiled tiles", "works", f"for {found[0]}; speed up neighbours and silhouettes")


def _cuda() -> Iterator[Finding]:
    """Ask the NVIDIA driver itself; the packages count only where there is a driver."""
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
        if find_spec(module) is None:
            yield Finding(module, "missing", f"{cost}: {install_command(driver)}")
        else:
            yield Finding(module, "works", "used by the engine cuda")


def _elsewhere() -> Iterator[Finding]:
    for package, extra, about, what in ELSEWHERE:
        version = machine.package_version(package)
        if version is None:
            yield Finding(about, "missing", f'for {what}: pip install "gpubench[{extra}]"')
        else:
            yield Finding(about, "works", f"{package} {version}; for {what}")


def _optional_packages() -> Iterator[Finding]:
    for package in OPTIONAL:
        version = machine.package_version(package.name)
        if version is not None:
            yield Finding(package.name, "works", f"{version}; speeds up {package.gain}")
            continue
        install = f'pip install "gpubench[{package.extra}]"'
        yield Finding(package.name, "missing", f"would speed up {package.gain}: {install}")


def _blas() -> Iterator[Finding]:
    from threadpoolctl import threadpool_info

    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            text = f"{pool['internal_api']} {pool['version']}, {pool.get('architecture', 'architecture not named')}"
            yield Finding("BLAS", "works", f"{text}, up to {pool['num_threads']} threads")
