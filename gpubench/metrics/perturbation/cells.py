"""Cells of perturbations and controls in memory: expression, the perturbation of each cell, names of genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.core.types import Labels
from gpubench.data import encode_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.types import F64, I64
    from gpubench.engines.base import Engine

LOG_FRACTION = 1e-3
"""Largest distance of a count from a whole number; larger fractions show that values are on a log scale."""

DENSE_VALUES = 1 << 24
"""Number of values in a dense block of rows."""


@dataclass(frozen=True)
class PerturbedCells:
    """Expression of cells under perturbations and of control cells; make it with `perturbed_cells`.

    Attributes
    ----------
    x : (n, G) values, `scipy.sparse.csr_array` or a NumPy array
    labels : perturbation of each cell, the control among them; names in sorted order
    genes : (G,) names, each once
    embeddings : name -> (n, d) array, for metrics that are computed in an embedding
    counts : whether values are counts (predicted counts may have fractions); if None, they are if no value has a
        fractional part
    """

    x: Any
    labels: Labels
    genes: tuple[str, ...]
    embeddings: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    counts: bool | None = None

    @property
    def n(self) -> int:
        """Number of cells n."""
        return int(self.x.shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the perturbations and the control, in sorted order."""
        return self.labels.names

    @cached_property
    def has_counts(self) -> bool:
        """Whether values are counts: as stated by `counts`, or because none has a fractional part."""
        return not is_log_normalised(self.x) if self.counts is None else self.counts

    @property
    def n_cells(self) -> I64:
        """Number of cells of each name; (L,) int64."""
        return np.bincount(self.labels.codes, minlength=self.labels.n_classes)

    def code(self, name: str) -> int:
        """Return the code of a perturbation or the control, its position in `names`.

        Raises
        ------
        InputError
            No cell has this label.
        """
        if name not in self.names:
            raise InputError(
                f"control={name!r}: no cell has this label{close_matches(name, self.names)}", argument="control"
            )
        return self.names.index(name)

    def rows_of(self, name: str) -> I64:
        """Return the row numbers of the cells of a perturbation or the control, ascending."""
        return np.flatnonzero(self.labels.codes == self.names.index(name))

    def values_of(self, name: str) -> Any:
        """Return the values of the cells of a perturbation or the control."""
        return self.x[self.rows_of(name)]

    def control_cells(self, control: str) -> PerturbedCells:
        """Return only the control cells."""
        return self.select(self.rows_of(control))

    def parts(self, control: str) -> Iterator[PerturbedCells]:  # noqa: ARG002 - as `StreamedCells`
        """Yield all cells as one part, in place of the several parts of `StreamedCells`."""
        yield self

    @cached_property
    def median_total(self) -> float:
        """Median over the cells with any expression of their sums of values."""
        return median_of_filled(row_totals(self.x))

    def select(self, rows: NDArray[Any]) -> PerturbedCells:
        """Return the cells with these row numbers, in this order; names without cells are dropped."""
        used, codes = np.unique(self.labels.codes[rows], return_inverse=True)
        names = tuple(self.names[code] for code in used)
        labels = Labels(codes.astype(np.int32), names, self.labels.key)
        embeddings = {name: values[rows] for name, values in self.embeddings.items()}
        return PerturbedCells(self.x[rows], labels, self.genes, embeddings, self.counts)

    def with_genes(self, genes: Sequence[str]) -> PerturbedCells:
        """Return the cells with their genes reordered to `genes`.

        Raises
        ------
        InputError
            `genes` are not the genes of the cells in another order.
        """
        genes = tuple(genes)
        if genes == self.genes:
            return self
        missing, extra = sorted(set(genes) - set(self.genes)), sorted(set(self.genes) - set(genes))
        if missing or extra:
            parts = [
                f"{len(names):,} of the {where} only ({quoted(names)})"
                for names, where in ((missing, "real data"), (extra, "prediction"))
                if names
            ]
            raise InputError(
                f"genes differ: {' and '.join(parts)}; give both sides the same {len(genes):,} genes", argument="genes"
            )
        place = {gene: column for column, gene in enumerate(self.genes)}
        return replace(self, x=self.x[:, [place[gene] for gene in genes]], genes=genes)

    def with_values(self, x: Any, *, counts: bool | None = None) -> PerturbedCells:
        """Return the same cells with other values of expression."""
        return replace(self, x=x, counts=counts)

    def means(self, engine: Engine) -> F64:
        """Average the values of the cells of each name, in float64; (L, G)."""
        return engine.group_means(self.x, self.labels.codes, self.labels.n_classes)

    def blocks(
        self, rows: NDArray[Any], dtype: Any = np.float64, max_values: int = DENSE_VALUES
    ) -> Iterator[NDArray[Any]]:
        """Yield the values of the cells with these row numbers as dense blocks."""
        step = max(1, max_values // max(1, self.x.shape[1]))
        for start in range(0, len(rows), step):
            yield dense(self.x[rows[start : start + step]], dtype)


def perturbed_cells(
    x: Any,
    labels: Any,
    genes: Sequence[str],
    embeddings: Mapping[str, Any] | None = None,
    *,
    counts: bool | None = None,
) -> PerturbedCells:
    """Make `PerturbedCells` from values, labels and names of genes, and check them.

    Parameters
    ----------
    x : (n, G) array, or sparse matrix of any format; float16 becomes float32, integers become float32
    labels : (n,) perturbation of each cell, or the control; none missing
    genes : (G,) names, each once
    embeddings : name -> (n, d)
    counts : whether values are counts; if None, they are if none has a fractional part

    Returns
    -------
    PerturbedCells

    Raises
    ------
    InputError
        Missing labels, lengths that do not match, a name that stands for two genes, NaN or infinite values.

    Examples
    --------
    >>> cells = perturbed_cells([[1, 0], [0, 2], [3, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> cells.names, cells.n_cells
    (('KLF1', 'control'), array([1, 2]))
    """
    from scipy.sparse import csr_array

    values: Any = csr_array(x) if hasattr(x, "tocsr") else np.asarray(x)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    names = tuple(map(str, genes))
    if values.ndim != 2 or values.shape[1] != len(names):
        raise InputError(f"genes: {len(names):,} names for values of shape {values.shape}; give one for each column")
    if len(set(names)) < len(names):
        seen, twice = set(), []
        for name in names:
            if name in seen:
                twice.append(name)
            seen.add(name)
        raise InputError(f"genes: {len(twice):,} names occur again ({quoted(twice)}); make them unique")
    stored = stored_values(values)
    if not np.isfinite(stored).all():
        bad = int((~np.isfinite(stored)).sum())
        raise InputError(f"x: {bad:,} values are NaN or infinite; give finite expression")
    if not isinstance(values, np.ndarray):
        values.sum_duplicates()
    return PerturbedCells(
        values,
        encode_labels(labels, "labels", values.shape[0]),
        names,
        {name: np.asarray(e) for name, e in (embeddings or {}).items()},
        counts,
    )


def stored_values(x: Any) -> NDArray[Any]:
    """Return the stored values of a matrix: all values if it is dense."""
    values: NDArray[Any] = x if isinstance(x, np.ndarray) else x.data
    return values


def dense(x: Any, dtype: Any = np.float64) -> NDArray[Any]:
    """Return a dense copy of a matrix in the given data type."""
    values: NDArray[Any] = x if isinstance(x, np.ndarray) else x.toarray()
    return values.astype(dtype)


def map_stored(x: Any, values: NDArray[Any]) -> Any:
    """Return a copy of a matrix with its stored values replaced by others."""
    if isinstance(x, np.ndarray):
        return values
    from scipy.sparse import csr_array

    return csr_array((values, x.indices, x.indptr), shape=x.shape)


def row_totals(x: Any) -> F64:
    """Sum the values of each cell in float64; (n,)."""
    if isinstance(x, np.ndarray):
        totals: F64 = x.sum(axis=1, dtype=np.float64)
    else:
        totals = np.add.reduceat(np.append(x.data.astype(np.float64), 0.0), x.indptr[:-1])
        totals = np.where(np.diff(x.indptr) > 0, totals, 0.0)
    return totals


def divide_rows(x: Any, by: NDArray[Any]) -> Any:
    """Divide each row by its own number, in the common data type of both."""
    if isinstance(x, np.ndarray):
        return x / by[:, None]
    return map_stored(x, x.data / np.repeat(by, np.diff(x.indptr)))


def is_log_normalised(x: Any) -> bool:
    """Return whether any value has a fractional part, so that the values are not counts."""
    values = stored_values(x)
    return bool((np.abs(values - np.rint(values)) > LOG_FRACTION).any())


def median_of_filled(totals: F64) -> float:
    """Return the median of the totals above 0, or 1 if there are none."""
    filled = totals[totals > 0]
    return float(np.median(filled)) if len(filled) else 1.0


def joined(parts: Sequence[PerturbedCells]) -> PerturbedCells:
    """Concatenate sets of cells that have the same genes."""
    names = sorted({name for part in parts for name in part.names})
    code = {name: i for i, name in enumerate(names)}
    codes = [np.array([code[name] for name in part.names], np.int32)[part.labels.codes] for part in parts]
    matrices = [part.x for part in parts]
    if all(isinstance(x, np.ndarray) for x in matrices):
        x: Any = np.concatenate(matrices)
    else:
        from scipy.sparse import csr_array, vstack

        x = vstack([csr_array(matrix) for matrix in matrices], format="csr")
    embeddings = {
        key: np.concatenate([part.embeddings[key] for part in parts])
        for key in parts[0].embeddings
        if all(key in part.embeddings for part in parts)
    }
    labels = Labels(np.concatenate(codes), tuple(names), parts[0].labels.key)
    return PerturbedCells(x, labels, parts[0].genes, embeddings, parts[0].counts)


def log_normalised(x: Any, median: float) -> Any:
    """Scale the counts of each cell to the total `median` and take log1p, in the data type of the values."""
    scale = (row_totals(x) / median).astype(stored_values(x).dtype)
    scaled = divide_rows(x, np.where(scale > 0, scale, 1).astype(scale.dtype))
    return map_stored(scaled, np.log1p(stored_values(scaled)))
