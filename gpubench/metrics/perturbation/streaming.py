"""Cells larger than memory: a few perturbations are read at a time, together with the control cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.core.types import Labels
from gpubench.metrics.perturbation.cells import PerturbedCells, joined, median_of_filled, row_totals

if TYPE_CHECKING:
    from gpubench.core.types import I64

CELLS_PER_PART = 20_000
"""Number of perturbed cells to read at a time."""


@dataclass(frozen=True)
class StreamedCells:
    """Cells of perturbations that are read when they are needed; accepted wherever `PerturbedCells` are.

    Only the control cells and one part are in memory at a time. Every part is read again for each kind of metric.

    Attributes
    ----------
    names : names of the perturbations and the control, sorted
    n_cells : (L,) number of cells of each name
    genes : names of the genes
    read : function that takes names and returns their cells, with the genes of `source_genes`
    source_genes : genes of the cells that `read` returns; if None, `genes`
    counts : whether values are counts; if None, they are if the cells of the first name have no fractional part
    cells_per_part : number of perturbed cells to read at a time; all cells of a perturbation are read together

    Examples
    --------
    >>> from gpubench.metrics.perturbation import StreamedCells, evaluate, perturbed_cells
    >>> stored = {"control": [[1.0, 0.5], [1.2, 0.5]], "A": [[0.1, 2.0]], "B": [[2.1, 0.2]]}
    >>> def read(names):
    ...     rows = [(name, row) for name in names for row in stored[name]]
    ...     return perturbed_cells([row for _, row in rows], [name for name, _ in rows], ["G1", "G2"])
    >>> cells = StreamedCells(("A", "B", "control"), np.array([1, 1, 2]), ("G1", "G2"), read, cells_per_part=1)
    >>> evaluate(cells, cells, control="control", metrics=["mae"], engine="cpu").means()
    {'mae': 0.0}
    """

    names: tuple[str, ...]
    n_cells: I64
    genes: tuple[str, ...]
    read: Callable[[Sequence[str]], PerturbedCells]
    source_genes: tuple[str, ...] | None = None
    counts: bool | None = None
    cells_per_part: int = CELLS_PER_PART

    @property
    def n(self) -> int:
        """Number of cells n."""
        return int(self.n_cells.sum())

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

    def with_genes(self, genes: Sequence[str]) -> StreamedCells:
        """Return the cells with their genes reordered to `genes`, see `PerturbedCells.with_genes`."""
        if tuple(genes) == self.genes:
            return self
        self._read(self.names[:1]).with_genes(genes)  # refuses other genes
        return replace(self, genes=tuple(genes), source_genes=self.source_genes or self.genes)

    def _read(self, names: Sequence[str]) -> PerturbedCells:
        cells = self.read(names).with_genes(self.genes)
        return cells if self.counts is None else replace(cells, counts=self.counts)

    def values_of(self, name: str) -> Any:
        """Return the values of the cells of a perturbation or the control."""
        return self._read([name]).x

    def control_cells(self, control: str) -> PerturbedCells:
        """Return the control cells, which stay in memory."""
        if control not in self._kept:
            self._kept[control] = self._read([control])
        return self._kept[control]

    @cached_property
    def _kept(self) -> dict[str, PerturbedCells]:
        return {}

    @cached_property
    def has_counts(self) -> bool:
        """Whether values are counts: as stated, or because the cells of the first name have no fractional part."""
        return self._read(self.names[:1]).has_counts if self.counts is None else self.counts

    @cached_property
    def median_total(self) -> float:
        """Median over the cells with any expression of their sums of values; reads every cell."""
        return median_of_filled(np.concatenate([row_totals(self.values_of(name)) for name in self.names]))

    def parts(self, control: str) -> Iterator[PerturbedCells]:
        """Yield all cells in parts, each with some perturbations and all control cells, if there are any."""
        kept = [self.control_cells(control)] if control in self.names else []
        batch: list[str] = []
        held = 0
        for name, n in zip(self.names, self.n_cells.tolist(), strict=True):
            if name == control:
                continue
            if batch and held + n > self.cells_per_part:
                yield joined([*kept, self._read(batch)])
                batch, held = [], 0
            batch.append(name)
            held += n
        if batch:
            yield joined([*kept, self._read(batch)])


Cells: TypeAlias = PerturbedCells | StreamedCells
"""Cells in memory or read in parts."""


def derived(
    source: Cells, n_cells: Mapping[str, int], values_of: Callable[[str], Any], *, counts: bool | None
) -> Cells:
    """Make cells with the genes of another set of cells: in memory if that is, otherwise to be read in parts.

    Parameters
    ----------
    source : cells whose genes the new ones have
    n_cells : name -> number of cells
    values_of : function that takes a name and returns the values of its cells
    counts : whether these values are counts; if None, that is detected
    """
    names = tuple(sorted(n_cells))

    def read(wanted: Sequence[str]) -> PerturbedCells:
        parts = []
        for name in wanted:
            values = values_of(name)
            labels = Labels(np.zeros(values.shape[0], np.int32), (name,))
            parts.append(PerturbedCells(values, labels, source.genes, counts=counts))
        return joined(parts)

    if isinstance(source, PerturbedCells):
        return read(names)
    sizes = np.array([n_cells[name] for name in names])
    return StreamedCells(names, sizes, source.genes, read, counts=counts, cells_per_part=source.cells_per_part)
