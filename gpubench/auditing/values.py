"""Properties of a screen that several checks use: scale of values, totals, mean profiles, digests of cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpubench.metrics.perturbation.cells import divide_rows, map_stored, row_totals, stored_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64
    from gpubench.data.perturbation.screens import Screen

Scale = Literal["counts", "log"]

FRACTION = 1e-3
"""Largest distance from a whole number at which a value still counts as whole."""

MAX_LOG = 15.0
"""Upper limit of log1p values; a larger value would mean more than 3 million counts of one gene in a cell."""

_MAX_EXPONENT = 300.0
"""Largest exponent passed to expm1, to avoid overflow; no log value comes near it."""

MIN_NONZERO = 10
"""Fewest nonzero values of a cell that is compared with others; cells with fewer may be equal by chance."""


@dataclass(frozen=True)
class ValueFacts:
    """Facts about the values of a screen.

    Attributes
    ----------
    not_finite, negative, fractional : numbers of values that are not finite, negative, or not whole
    largest : largest finite value
    whole_cells : number of cells with nonzero values, all of them whole
    filled_cells : number of cells with nonzero values
    """

    not_finite: int
    negative: int
    fractional: int
    largest: float
    whole_cells: int
    filled_cells: int

    @property
    def scale(self) -> Scale:
        """Scale of the values: "counts" if all are whole numbers, else "log" for log1p values."""
        return "log" if self.fractional else "counts"

    def __add__(self, other: ValueFacts) -> ValueFacts:
        """Return the facts about the values of both sets of cells."""
        return ValueFacts(
            self.not_finite + other.not_finite,
            self.negative + other.negative,
            self.fractional + other.fractional,
            max(self.largest, other.largest),
            self.whole_cells + other.whole_cells,
            self.filled_cells + other.filled_cells,
        )

    def __str__(self) -> str:
        return f"{'counts' if self.scale == 'counts' else 'log values'} (largest {self.largest:.4g})"


class AuditedScreen:
    """A screen, and its properties that checks use; each property is computed on first use.

    Parameters
    ----------
    screen : expression and perturbation of each cell
    control : label of the control cells
    """

    def __init__(self, screen: Screen, control: str) -> None:
        self.screen, self.control, self.name = screen, control, screen.name
        self.labels = screen.perturbations

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations, without the control."""
        return tuple(name for name in self.labels.names if name != self.control)

    def rows_of(self, name: str) -> NDArray[np.intp]:
        """Return the indices of the cells with this label; empty if there are none."""
        if name not in self.labels.names:
            return np.empty(0, np.intp)
        return np.flatnonzero(self.labels.codes == self.labels.names.index(name))

    @cached_property
    def _measured(self) -> tuple[ValueFacts, F64, NDArray[np.uint64]]:
        """Facts about the values, the sum of each cell's values, and the digest of each cell, in one reading."""
        facts = ValueFacts(0, 0, 0, 0.0, 0, 0)
        sums, digests = np.empty(self.screen.n), np.empty(self.screen.n, np.uint64)
        keys = np.array([hash_text(gene) for gene in self.screen.genes], np.uint64)
        for rows, x in self.screen.blocks():
            facts += value_facts(x)
            sums[rows] = row_totals(x)
            digests[rows] = row_digests(x, keys)
        return facts, sums, digests

    @property
    def facts(self) -> ValueFacts:
        """Counts of the values that are not finite, negative or fractional, and the largest value."""
        return self._measured[0]

    @property
    def totals(self) -> F64:
        """(n,) total of each cell: the sum of its counts, or of expm1 of its log1p values."""
        return self._measured[1] if self.facts.scale == "counts" else self._natural_totals[0]

    @property
    def twice_totals(self) -> F64:
        """(n,) sum of each cell after expm1 is applied twice, its total if values were log-transformed twice."""
        return self._natural_totals[1]

    @cached_property
    def _natural_totals(self) -> tuple[F64, F64]:
        """Sums of each cell after expm1 is applied to its values once, and twice."""
        once, twice = np.empty(self.screen.n), np.empty(self.screen.n)
        for rows, x in self.screen.blocks():
            values = np.expm1(np.minimum(stored_values(x).astype(np.float64), _MAX_EXPONENT))
            once[rows] = row_totals(map_stored(x, values))
            twice[rows] = row_totals(map_stored(x, np.expm1(np.minimum(values, _MAX_EXPONENT))))
        return once, twice

    @property
    def digests(self) -> NDArray[np.uint64]:
        """(n,) uint64, digest of the nonzero values of each cell; 0 for cells with fewer than `MIN_NONZERO`.

        It is a sum of hashes of (gene, value), so it does not depend on the order of the genes in the file.
        """
        return self._measured[2]

    def profiles(self, target: float) -> Profiles:
        """Return mean and variance of log1p values for each label; counts are first scaled to a total of `target`."""
        names = self.labels.names
        means, variances = (np.zeros((len(names), len(self.screen.genes))) for _ in range(2))
        for rows, x in self.screen.blocks():
            values = x
            if self.facts.scale == "counts":
                totals = self.totals[rows]
                scaled = divide_rows(x, np.where(totals > 0, totals, 1) / target)
                values = map_stored(scaled, np.log1p(stored_values(scaled)))
            present, codes = np.unique(self.labels.codes[rows], return_inverse=True)
            own = group_profiles(values, codes.astype(np.int32), tuple(names[code] for code in present))
            means[present], variances[present] = own.means, own.variances
        n = np.bincount(self.labels.codes, minlength=len(names)).astype(np.float64)
        return Profiles(names, n, means, variances)


def value_facts(x: Any) -> ValueFacts:
    """Return the facts about the values of some cells, dense or CSR."""
    values = stored_values(x)
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        fractional = finite & (np.abs(values - np.rint(values)) > FRACTION)
    has_fraction, filled = (_rows_with(x, flags) for flags in (fractional, finite & (values != 0)))
    return ValueFacts(
        not_finite=int(values.size - np.count_nonzero(finite)),
        negative=int((finite & (values < 0)).sum()),
        fractional=int(fractional.sum()),
        largest=float(values.max(initial=0.0, where=finite)),
        whole_cells=int((filled & ~has_fraction).sum()),
        filled_cells=int(filled.sum()),
    )


def _rows_with(x: Any, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if isinstance(x, np.ndarray):
        return np.asarray(flags.any(axis=1))
    ends = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(ends[x.indptr[1:]] > ends[x.indptr[:-1]])


def row_digests(x: Any, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the digest of each row, see `AuditedScreen.digests`; `keys` are hashes of the genes."""
    if isinstance(x, np.ndarray):
        sums = np.zeros(len(x), np.uint64)
        step = max(1, (1 << 22) // max(1, x.shape[1]))
        for start in range(0, len(x), step):
            block = x[start : start + step]
            sums[start : start + step] = np.where(block != 0, _mix(block, keys), np.uint64(0)).sum(axis=1)
        return np.where((x != 0).sum(axis=1) >= MIN_NONZERO, sums, np.uint64(0))
    mixed = np.where(x.data != 0, _mix(x.data, keys[x.indices]), np.uint64(0))
    ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    filled = np.concatenate([[0], np.cumsum(x.data != 0)])
    enough = filled[x.indptr[1:]] - filled[x.indptr[:-1]] >= MIN_NONZERO
    return np.where(enough, ends[x.indptr[1:]] - ends[x.indptr[:-1]], np.uint64(0))


@dataclass(frozen=True)
class Profiles:
    """Mean and variance of each gene over the cells of each label (perturbation or control).

    Attributes
    ----------
    names : the L labels
    n : (L,) number of cells of each label
    means, variances : (L, G) mean and variance of each gene; the variance of a single cell is 0
    """

    names: tuple[str, ...]
    n: F64
    means: F64
    variances: F64

    def row(self, name: str) -> int:
        """Return the index of the row of this label."""
        return self.names.index(name)


def group_profiles(x: Any, codes: NDArray[np.int32], names: tuple[str, ...]) -> Profiles:
    """Return mean and variance of each gene over the cells of each label.

    `x` is (n, G), dense or CSR; `codes` are the labels of the cells as indices into `names`.
    """
    from scipy.sparse import csr_array

    n = np.bincount(codes, minlength=len(names)).astype(np.float64)
    ones = (np.ones(len(codes)), (codes, np.arange(len(codes))))
    groups = csr_array(ones, shape=(len(names), len(codes)))
    x = x.astype(np.float64)
    squared = x**2 if isinstance(x, np.ndarray) else x.power(2)
    sums, squares = (np.asarray(_dense(groups @ part)) for part in (x, squared))
    means = sums / n[:, None]
    variances = np.maximum(squares / n[:, None] - means**2, 0) * (n / np.maximum(n - 1, 1))[:, None]
    return Profiles(names, n, means, variances)


def _dense(x: Any) -> Any:
    return x if isinstance(x, np.ndarray) else x.toarray()


def hash_text(text: str) -> int:
    """Return a 64-bit hash of a text that is the same in every process, unlike `hash`."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(values: NDArray[Any], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash pairs of a float32 value and a key, by two rounds of multiplication and shifts."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (bits ^ keys) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.asarray(mixed ^ (mixed >> np.uint64(29)))
