"""What the checks of two screens share: the scale of values, mean profiles, spreads, digests of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64
    from gpubench.data.perturbation.screens import Screen

Scale = Literal["counts", "log"]

FRACTION = 1e-3
"""A value that is farther from a whole number is none."""

MAX_LOG = 15.0
"""Values of log1p are smaller: cells would have more than 3 million counts of one gene."""

_MAX_EXPONENT = 300.0
"""Larger ones overflow; no log value comes near it."""

MIN_NONZERO = 10
"""Rows with fewer values other than 0 may be equal by chance."""


@dataclass(frozen=True)
class ValueFacts:
    """Facts about the values of a screen.

    Attributes
    ----------
    not_finite, negative, fractional : numbers of such values
    largest : largest finite value
    whole_cells : cells that have values other than 0, all whole
    filled_cells : cells that have values other than 0
    """

    not_finite: int
    negative: int
    fractional: int
    largest: float
    whole_cells: int
    filled_cells: int

    @property
    def scale(self) -> Scale:
        """Counts if no value has a fractional part, else log1p values."""
        return "log" if self.fractional else "counts"

    def __str__(self) -> str:
        return f"{'counts' if self.scale == 'counts' else 'log values'} (largest {self.largest:.4g})"


class AuditedScreen:
    """A screen, and what checks take from it, each computed when it is first asked for.

    Parameters
    ----------
    screen : the cells
    control : label of the control
    """

    def __init__(self, screen: Screen, control: str) -> None:
        self.screen, self.control, self.name = screen, control, screen.name
        self.labels = screen.perturbations

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names without the control."""
        return tuple(name for name in self.labels.names if name != self.control)

    def rows_of(self, name: str) -> NDArray[np.intp]:
        """Rows of cells with this label."""
        if name not in self.labels.names:
            return np.empty(0, np.intp)
        return np.flatnonzero(self.labels.codes == self.labels.names.index(name))

    @cached_property
    def facts(self) -> ValueFacts:
        """Facts about the values."""
        values = self.screen.values
        finite = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            fractional = finite & (np.abs(values - np.rint(values)) > FRACTION)
        known = values[finite]
        has_fraction, filled = (self._rows_with(flags) for flags in (fractional, finite & (values != 0)))
        return ValueFacts(
            not_finite=int(values.size - len(known)),
            negative=int((known < 0).sum()),
            fractional=int(fractional.sum()),
            largest=float(known.max(initial=0.0)),
            whole_cells=int((filled & ~has_fraction).sum()),
            filled_cells=int(filled.sum()),
        )

    def _rows_with(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        x = self.screen.x
        if isinstance(x, np.ndarray):
            return np.asarray(flags.any(axis=1))
        ends = np.concatenate([[0], np.cumsum(flags)])
        return np.asarray(ends[x.indptr[1:]] > ends[x.indptr[:-1]])

    @cached_property
    def totals(self) -> F64:
        """Sum of each cell, of log values after expm1; (n,)."""
        return self._sums(self.screen.values if self.facts.scale == "counts" else np.expm1(self._doubles))

    @cached_property
    def twice_totals(self) -> F64:
        """Sum of each cell after expm1 twice, as of values that were log-transformed twice; (n,)."""
        return self._sums(np.expm1(np.minimum(np.expm1(self._doubles), _MAX_EXPONENT)))

    @property
    def _doubles(self) -> F64:
        return np.minimum(self.screen.values.astype(np.float64), _MAX_EXPONENT)

    def _sums(self, values: NDArray[Any]) -> F64:
        x = self.screen.x
        if isinstance(x, np.ndarray):
            return np.asarray(values.sum(axis=1, dtype=np.float64))
        ends = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return np.asarray(ends[x.indptr[1:]] - ends[x.indptr[:-1]])

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """A 64-bit digest of each cell by its values other than 0, 0 for cells with few of them; (n,) uint64.

        It is a sum of hashes of (gene, value), so that equal cells of files with genes in another order agree.
        """
        x = self.screen.x
        keys = np.array([hash_text(gene) for gene in self.screen.genes], np.uint64)
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

    def profiles(self, target: float) -> Profiles:
        """Means and variances of each name on the scale of log1p; counts are scaled to this total per cell before."""
        x = self.screen.x
        if self.facts.scale == "counts":
            scale = target / np.where(self.totals > 0, self.totals, 1)
            if isinstance(x, np.ndarray):
                x = np.log1p(x * scale[:, None])
            else:
                from scipy.sparse import csr_array

                values = np.log1p(x.data * np.repeat(scale, np.diff(x.indptr)))
                x = csr_array((values, x.indices, x.indptr), shape=x.shape)
        return group_profiles(x, self.labels.codes, self.labels.names)


@dataclass(frozen=True)
class Profiles:
    """Mean and variance of each gene for each name.

    Attributes
    ----------
    names : (L,)
    n : (L,) cells
    means, variances : (L, G); the variance is 0 of a single cell
    """

    names: tuple[str, ...]
    n: F64
    means: F64
    variances: F64

    def row(self, name: str) -> int:
        """Return the row of a name."""
        return self.names.index(name)


def group_profiles(x: Any, codes: NDArray[np.int32], names: tuple[str, ...]) -> Profiles:
    """Average values and squared deviations of the cells of each name."""
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
    """Return 64 bits that depend on a text, the same in every process."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(values: NDArray[Any], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash pairs of a value, as float32, and a key by two rounds of multiplication and shifts."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (bits ^ keys) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.asarray(mixed ^ (mixed >> np.uint64(29)))
