"""What a run will do, in words and sizes: the steps that a plan gives memory and time to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import Labels
    from gpubench.engines.base import ClassifierKind
    from gpubench.engines.cpu.costs import Cost
    from gpubench.engines.cpu.rates import Rates


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of what is scored.

    Attributes
    ----------
    n, d : cells and dimensions
    k : neighbours in the shared graph, 0 where no task asks for any
    columns : role -> labels of the cells
    estimated : whether means over neighbourhoods are estimated from some cells
    """

    n: int
    d: int
    k: int = 0
    columns: Mapping[str, Labels] = field(default_factory=dict)
    estimated: bool = False

    def classes(self, role: str) -> int:
        """How many values a column has."""
        return self.columns[role].n_classes

    def groups(self, role: str) -> NDArray[np.int64]:
        """Cells of each value of a column."""
        return np.bincount(self.columns[role].codes)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the engine.

    Attributes
    ----------
    name : of its stage
    operation : of the engine, for which it has a cost
    sizes : what the cost depends on
    remedy : what makes it smaller where it does not fit
    """

    name: str
    operation: str
    sizes: Mapping[str, Any]
    remedy: str = "use fewer cells"


class CostModel(Protocol):
    """What a plan knows of an engine's time and memory.

    Attributes
    ----------
    memory_bytes : what a run may use beyond its input; on a cluster each worker, the cells included
    n_workers : workers of a cluster; 0 if the run computes in this process
    beside : what the bytes of a step are counted beyond, for messages
    machine : the processor and the device whose rates are measured
    """

    @property
    def memory_bytes(self) -> int:
        """See above."""

    @property
    def n_workers(self) -> int:
        """See above."""

    @property
    def beside(self) -> str:
        """See above."""

    @property
    def machine(self) -> tuple[str, str]:
        """See above."""

    def cost(self, step: Step, memory_bytes: int, rates: Rates) -> Cost:
        """Return what a step takes if `memory_bytes` are left to it."""

    def option(self, needs: int) -> str:
        """Say which option makes room for so many bytes."""

    def measure_rates(self) -> Rates:
        """Run each operation on few cells and measure how long it takes."""


def put_step(sizes: Sizes, itemsize: int, *, copied: bool) -> Step:
    """The embedding on its way to the engine."""
    of_all = {"n": sizes.n, "d": sizes.d, "itemsize": itemsize, "copied": copied}
    return Step("put", "put", of_all)


def view_step(sizes: Sizes, n_drawn: int) -> Step:
    """Where cells are on two principal components."""
    return Step("view", "view", {"n": min(sizes.n, n_drawn), "d": sizes.d})


def knn_step(sizes: Sizes) -> Step:
    """The shared graph."""
    return Step("knn", "knn", {"n": sizes.n, "d": sizes.d, "k": sizes.k}, "ask for fewer neighbours")


def leiden_step(sizes: Sizes, k: int) -> Step:
    """UMAP's graph of k neighbours, and its communities."""
    return Step("leiden", "leiden", {"n": sizes.n, "k": k}, "lower n_cluster_neighbors, or leave out clustering")


def look_up_step(name: str, sizes: Sizes, k: int) -> Step:
    """A value looked up for each of k neighbours."""
    return Step(name, "look_up", {"n": sizes.n, "k": k})


def neighborhoods_step(name: str, sizes: Sizes, k: int) -> Step:
    """A mean over neighbourhoods of k others, or an estimate of it."""
    if not sizes.estimated:
        return look_up_step(name, sizes, k)
    return Step(name, "estimate", {"n": sizes.n, "d": sizes.d, "k": k}, "lower n_neighbors")


def silhouette_step(name: str, sizes: Sizes, role: str, within: str | None = None) -> Step:
    """Silhouettes of the values of one column, among all cells or within the values of another."""
    if within is None:
        groups, clusters = np.array([sizes.n]), np.array([sizes.classes(role)])
    else:
        groups = sizes.groups(within)
        pairs = sizes.columns[within].codes.astype(np.int64) * sizes.classes(role) + sizes.columns[role].codes
        clusters = np.bincount(np.unique(pairs) // sizes.classes(role), minlength=len(groups))
    return Step(
        name,
        "silhouette_widths",
        {
            "n": sizes.n,
            "d": sizes.d,
            "pairs": float((groups.astype(np.float64) ** 2).sum()),
            "sums": int((groups * clusters).max()),  # of a group, whose sums are held together
        },
    )


def classifier_steps(
    sizes: Sizes, n: int, n_folds: int, n_classes: int, kinds: Collection[ClassifierKind]
) -> tuple[Step, ...]:
    """Some classifiers on n of the cells, in folds."""
    of_all = {"n": n, "d": sizes.d, "folds": n_folds, "classes": n_classes}
    operations = {"knn": "knn_votes"}
    return tuple(Step(kind, operations.get(kind, kind), of_all, f"choose classifiers without {kind}") for kind in kinds)
