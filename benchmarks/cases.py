"""Benchmark cases: what is measured, the peer, and the claim."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Figure = Literal["import_s", "first_call_s", "process_s", "peak_bytes"]


@dataclass(frozen=True)
class Cells:
    """Sizes of the synthetic cells."""

    n: int
    d: int = 50
    labels: int = 30
    batches: int = 8


@dataclass(frozen=True)
class Case:
    """One comparison of gpubench with a peer.

    Attributes
    ----------
    id : names the case and its result file
    what : the row of the table
    figure : which measured figure the claim is about
    ours : command without the interpreter; {data} is the folder of the cells, {file} the file, {out} an empty folder
    peer : command of the peer; None: nothing to compare with
    peer_name : name and version
    cells : the synthetic cells; None: the file given by --file
    at_least : claimed speed-up
    at_most : claimed limit, in the unit of the figure
    same_environment : the peer runs in our interpreter
    drop_in : both run in the peer's interpreter, in which gpubench is installed too
    """

    id: str
    what: str
    figure: Figure
    ours: tuple[str, ...]
    peer: tuple[str, ...] | None = None
    peer_name: str = ""
    cells: Cells | None = None
    at_least: float | None = None
    at_most: float | None = None
    same_environment: bool = False
    drop_in: bool = False

    def peer_python(self, peer_python: str | None) -> str | None:
        """Return the interpreter that runs the peer."""
        return sys.executable if self.same_environment else peer_python

    def own_python(self, peer_python: str | None) -> str:
        """Return the interpreter that runs gpubench."""
        return peer_python if self.drop_in and peer_python else sys.executable


_SCORE = ("-m", "gpubench", "score")
_TWENTY_THOUSAND = Cells(20_000)


def _call(side: Literal["ours", "peers", "scripts"], workload: str, source: str = "{data}") -> tuple[str, ...]:
    return ("{benchmarks}/child.py", side, workload, source)


def _metric(workload: str, what: str, peer_name: str, at_least: float) -> Case:
    return Case(
        workload,
        what,
        "process_s",
        _call("ours", workload),
        _call("peers", workload),
        peer_name,
        _TWENTY_THOUSAND,
        at_least=at_least,
    )


def _drop_in(id: str, call: tuple[str, ...], what: str, peer_name: str, at_least: float, cells: Cells | None) -> Case:  # noqa: A002
    """Return a case that runs a script without and with the drop-in."""
    ours = ("-m", "gpubench.accel", *call)
    return Case(id, what, "process_s", ours, call, peer_name, cells, at_least=at_least, drop_in=True)


CASES = (
    _metric("silhouette_label", "silhouette of the labels", "scib-metrics 0.5.10", 30),
    _metric("silhouette_batch", "silhouette of the batches within labels", "scib-metrics 0.5.10", 100),
    _metric("entropy_per_cell", "entropy of the batches among 200 neighbours", "cz-benchmarks 0.15.1", 3),
    _metric("sequential_alignment", "order of time among 10 neighbours", "cz-benchmarks 0.15.1", 10),
    _metric("clustering", "neighbour graph, Leiden, ARI and NMI", "cz-benchmarks 0.15.1", 10),
    _metric("suite", "all five tasks of one embedding", "cz-benchmarks 0.15.1", 12),
    _metric("suite_without_prediction", "the same without label prediction", "cz-benchmarks 0.15.1", 30),
    Case(
        "knn",
        "exact 15 nearest neighbours",
        "first_call_s",
        _call("ours", "knn"),
        _call("peers", "knn"),
        "faiss IndexFlatL2",
        Cells(50_000),
        at_least=4,
        same_environment=True,
    ),
    Case(
        "score_file",
        "tasks clustering and embedding of a file, whole process",
        "process_s",
        (
            *_SCORE,
            "{file}",
            "--embedding",
            "X_pca",
            "--label",
            "cell_type",
            "--task",
            "clustering",
            "--task",
            "embedding",
        ),
        _call("peers", "score_file", "{file}"),
        "cz-benchmarks 0.15.1",
        at_least=3,
    ),
    _drop_in(
        "drop_in_tasks",
        _call("scripts", "czbenchmarks_tasks"),
        "drop-in: a script of all eight tasks",
        "cz-benchmarks 0.15.1",
        8,
        _TWENTY_THOUSAND,
    ),
    _drop_in(
        "drop_in_benchmarker",
        _call("scripts", "scib_benchmarker"),
        "drop-in: the Benchmarker with its defaults",
        "scib-metrics 0.5.10",
        10,
        _TWENTY_THOUSAND,
    ),
    _drop_in(
        "drop_in_file",
        _call("peers", "score_file", "{file}"),
        "drop-in: tasks clustering and embedding of a file",
        "cz-benchmarks 0.15.1",
        2,
        None,
    ),
    Case("import", "import gpubench", "import_s", _call("ours", "import_package", "."), at_most=0.3),
    Case(
        "million_cells",
        "tasks embedding and sequential_organization of a memory-mapped npy, peak memory",
        "peak_bytes",
        (
            *(*_SCORE, "{data}/x.npy", "--obs", "{data}/obs.parquet", "--label", "label", "--time", "time"),
            *("--task", "embedding", "--task", "sequential_organization", "--out", "{out}"),
        ),
        cells=Cells(1_000_000),
        at_most=4e9,
    ),
)
