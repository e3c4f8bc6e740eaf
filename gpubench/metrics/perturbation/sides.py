"""Quantities of one data set, each computed once: profiles, tests, E-distances, variances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.engines.embedding import start_engine
from gpubench.metrics.perturbation.cells import (
    PerturbedCells,
    log_normalised,
    row_totals,
    stored_values,
)
from gpubench.metrics.perturbation.energy_distance import CellDistance, energy_distances
from gpubench.metrics.perturbation.expression_tests import Scaled, cell_eval2_table, cell_eval_table
from gpubench.metrics.perturbation.noise import profile_variances
from gpubench.metrics.perturbation.settings import CellEval2Settings, CellEvalSettings
from gpubench.metrics.perturbation.streaming import Cells
from gpubench.metrics.perturbation.tables import ExpressionTable, stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from gpubench.core.kept_results import KeptResults
    from gpubench.core.types import F64, I64, Bools
    from gpubench.engines.base import Engine

MAX_LOG = 15.0
"""Values from this on are no log1p of normalised counts; cell-eval refuses them."""


def check_log(values: NDArray[Any]) -> None:
    """Raise InputError if values cannot be log1p of normalised counts.

    Raises
    ------
    InputError
        Values below 0, or of 15 and more.
    """
    if (values < 0).any():
        raise InputError(f"x: {int((values < 0).sum()):,} values are negative; give counts or log1p of counts")
    if (values >= MAX_LOG).any():
        n = int((values >= MAX_LOG).sum())
        raise InputError(
            f"x: {n:,} values of {MAX_LOG:g} and more among fractions; give log1p of normalised counts, or counts"
        )


class PreparedSide:
    """One data set, real or predicted, and the quantities that metrics derive from it alone.

    Each quantity is computed when it is first used, and kept.

    Attributes
    ----------
    cells : the cells of the data set
    control : label of the control
    cell_eval, cell_eval2 : settings of both generations
    engine : engine to compute on
    table : differential expression that the user provides; if None, it is computed
    kept : results of earlier runs on the same data; if None, everything is computed
    """

    def __init__(
        self,
        cells: Cells,
        control: str,
        cell_eval: CellEvalSettings,
        cell_eval2: CellEval2Settings,
        engine: Engine,
        table: ExpressionTable | None = None,
    ) -> None:
        self.cells, self.control, self.engine = cells, control, engine
        self.cell_eval, self.cell_eval2, self.table = cell_eval, cell_eval2, table
        self.kept: KeptResults | None = None
        self._energies: dict[tuple[str | None, str], dict[str, float]] = {}
        self._profiles: dict[str | None, F64] = {}

    def _values(self, name: str, make: Callable[[], NDArray[Any]], *facts: Any) -> NDArray[Any]:
        """Return `make()`, or the array that an earlier run kept."""
        values: NDArray[Any] = self._arrays(name, lambda: {"values": make()}, *facts)["values"]
        return values

    def _table(self, name: str, make: Callable[[], ExpressionTable]) -> ExpressionTable:
        return ExpressionTable.from_arrays(self._arrays(name, lambda: make().to_arrays()))

    def _arrays(self, name: str, make: Callable[[], Mapping[str, NDArray[Any]]], *facts: Any) -> Any:
        return make() if self.kept is None else self.kept.result(name, make, *facts)

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations, without the control, in sorted order."""
        return tuple(name for name in self.cells.names if name != self.control)

    @cached_property
    def has_counts(self) -> bool:
        """Whether values are counts, as stated by the settings or detected."""
        if self.cell_eval2.input_type is not None:
            return self.cell_eval2.input_type == "counts"
        return self.cells.has_counts

    # Generation 1

    @cached_property
    def log_cells(self) -> PerturbedCells:
        """All cells, in memory, with log1p values."""
        (cells,) = self.cells.parts(self.control)
        return self.to_log(cells)

    def log_parts(self) -> Iterator[PerturbedCells]:
        """Yield the cells with log1p values: as given, or of counts normalised to the median total."""
        if isinstance(self.cells, PerturbedCells):
            yield self.log_cells
        else:
            yield from map(self.to_log, self.cells.parts(self.control))

    def to_log(self, cells: PerturbedCells) -> PerturbedCells:
        """Return these cells of the data set with log1p values."""
        if self.cell_eval.allow_discrete:
            return cells
        if self.cells.has_counts:
            return cells.with_values(log_normalised(cells.x, self.cells.median_total), counts=False)
        check_log(stored_values(cells.x))
        return cells

    def in_embedding(self, key: str | None) -> Iterator[PerturbedCells]:
        """Yield the cells with log1p values or, if `key` is given, with their values in that embedding."""
        if key is None:
            yield from self.log_parts()
            return
        for cells in self.cells.parts(self.control):
            if key not in cells.embeddings:
                raise InputError(f"embed_key={key!r} is not there{close_matches(key, cells.embeddings)}")
            values: NDArray[Any] = cells.embeddings[key]
            yield PerturbedCells(values, cells.labels, tuple(f"{key} {i}" for i in range(values.shape[1])))

    def _means(self, parts: Iterable[PerturbedCells]) -> F64:
        """Average the cells of each name, where every part has all cells of some names; (L, G)."""
        found: dict[str, F64] = {}
        for part in parts:
            found |= dict(zip(part.names, part.means(self.engine), strict=True))
        return np.stack([found[name] for name in self.cells.names])

    def profiles(self, key: str | None = None) -> F64:
        """Return the mean of every name, the control included, of log1p values or in the embedding `key`; (L, G)."""
        if key not in self._profiles:
            self._profiles[key] = self._values("profiles", lambda: self._means(self.in_embedding(key)), key)
        return self._profiles[key]

    def energies(self, key: str | None, distance: CellDistance) -> dict[str, float]:
        """Return perturbation -> E-distance to the control, of log1p values or in the embedding `key`."""
        if (key, distance) not in self._energies:

            def compute() -> NDArray[Any]:
                found = energy_distances(self.in_embedding(key), self.control, self.engine, distance=distance)
                return np.array([found[name] for name in self.perturbations])

            values = self._values("E-distances", compute, key, distance)
            self._energies[key, distance] = dict(zip(self.perturbations, values.tolist(), strict=True))
        return self._energies[key, distance]

    @cached_property
    def cell_eval_table(self) -> ExpressionTable:
        """Differential expression by cell-eval's rules, rounded to float32."""
        if self.table is not None:
            return self.table.to_float32()
        return self._table("tests of cell-eval", self._cell_eval_tests)

    def _cell_eval_tests(self) -> ExpressionTable:
        log = not self.cell_eval.allow_discrete
        tables = [
            cell_eval_table(part, self.control, self.cell_eval, self.engine, log=log).to_float32()
            for part in self.log_parts()
        ]
        return tables[0] if len(tables) == 1 else stacked(tables)

    # Generation 2

    @cached_property
    def raw_means(self) -> F64:
        """Mean over the cells of every name of their values as given; (L, G)."""
        return self._values("means", lambda: self._means(self.cells.parts(self.control)))

    @cached_property
    def bulk(self) -> F64:
        """Profiles by cell-eval2's rules: log1p of the summed and scaled counts, or means of log values; (L, G)."""
        means = self.raw_means
        if not self.has_counts:
            return means
        totals = means.sum(axis=1, keepdims=True)
        profiles: F64 = np.log1p(self.cell_eval2.bulk_target_sum * means / np.where(totals > 0, totals, 1))
        return profiles

    @cached_property
    def variances(self) -> F64:
        """Sampling variance of the profile of every perturbation, summed over genes; (P,)."""
        return self._values("sampling variances", self._all_variances)

    def _all_variances(self) -> F64:
        found: dict[str, float] = {}
        for part in self.cells.parts(self.control):
            names = tuple(name for name in part.names if name != self.control)
            found |= dict(zip(names, self._variances(part, names).tolist(), strict=True))
        return np.array([found[name] for name in self.perturbations])

    def _variances(self, cells: PerturbedCells, names: tuple[str, ...]) -> F64:
        return profile_variances(cells, names, self.cell_eval2.bulk_target_sum, counts=self.has_counts)

    def scaled_parts(self, target_sum: float) -> Iterator[Scaled]:
        """Yield the cells in parts, scaled to `target_sum` for tests and fold changes."""
        for part in self.cells.parts(self.control):
            yield Scaled(part, counts=self.has_counts, target_sum=target_sum)

    def rows(self, names: tuple[str, ...]) -> I64:
        """Return the row numbers of names in (L, G) arrays."""
        place = {name: code for code, name in enumerate(self.cells.names)}
        return np.array([place[name] for name in names], np.int64)


class RealSide(PreparedSide):
    """The real data, prepared once for any number of predictions; made by `prepare`."""

    @cached_property
    def target_sum(self) -> float:
        """Total to which each cell is scaled for tests by cell-eval2's rules."""
        if self.cell_eval2.target_sum is not None:
            return self.cell_eval2.target_sum
        return float(np.median(row_totals(self.control_cells.x)))

    @cached_property
    def control_cells(self) -> PerturbedCells:
        """The real control cells."""
        return self.cells.control_cells(self.control)

    @cached_property
    def control_variance(self) -> float:
        """Sampling variance of the profile of the control, summed over genes."""
        return float(self._variances(self.control_cells, (self.control,))[0])

    @cached_property
    def scaled_control(self) -> Scaled:
        """The real control cells scaled for tests and fold changes."""
        return Scaled(self.control_cells, counts=self.has_counts, target_sum=self.target_sum)

    @cached_property
    def tested_genes(self) -> Bools:
        """Whether cell-eval2's rules test a gene: those that the control expresses; (G,)."""
        return self.scaled_control.expressed(self.control, self.cell_eval2.min_control_cpm)

    @cached_property
    def cell_eval2_table(self) -> ExpressionTable:
        """Differential expression by cell-eval2's rules."""
        if self.table is not None:
            return self.table
        return self._table("tests of cell-eval2", self._cell_eval2_tests)

    def _cell_eval2_tests(self) -> ExpressionTable:
        parts = self.scaled_parts(self.target_sum)
        settings, genes = self.cell_eval2, self.tested_genes
        return cell_eval2_table(parts, self.scaled_control, self.control, genes, settings, self.engine)

    def own_gene(self, perturbation: str) -> str | None:
        """Return the gene that a perturbation targets, by the map of the settings or by its name, or None."""
        targets = self.cell_eval2.target_gene_map
        gene = targets.get(perturbation, targets.get("*", perturbation))
        return gene if gene in self._genes else None

    @cached_property
    def _genes(self) -> frozenset[str]:
        return frozenset(self.cells.genes)

    def own_columns(self) -> I64:
        """Return the column of the gene that each perturbation targets, -1 if there is none; (P,)."""
        column = {gene: i for i, gene in enumerate(self.cells.genes)}
        return np.array([column.get(self.own_gene(p) or "", -1) for p in self.perturbations], np.int64)


def prepare(
    real: Cells,
    *,
    control: str,
    cell_eval: CellEvalSettings | None = None,
    cell_eval2: CellEval2Settings | None = None,
    table: ExpressionTable | None = None,
    engine: Engine | str | None = None,
    kept: KeptResults | None = None,
) -> RealSide:
    """Prepare the real data, to be compared with any number of predictions.

    Parameters
    ----------
    real : cells under perturbations and control cells, in memory or streamed
    control : label of the control
    cell_eval, cell_eval2 : settings of the metrics of each package; if None, the defaults
    table : differential expression of the real data; if None, it is computed
    engine : engine to compute on, or its name; if None, the best available one
    kept : results of earlier runs on the same cells and engine, and where to keep those of this one; if None, nothing
        is kept

    Returns
    -------
    RealSide
        Nothing is computed before a metric needs it.

    Raises
    ------
    InputError
        No cell has the control's label, or all have it.

    Examples
    --------
    >>> from gpubench.metrics.perturbation import perturbed_cells
    >>> real = perturbed_cells([[1, 0], [0, 2], [3, 1]], ["control", "KLF1", "control"], ["A", "B"])
    >>> prepare(real, control="control", engine="cpu").perturbations
    ('KLF1',)
    """
    real.code(control)
    if len(real.names) == 1:
        raise InputError(f"control={control!r} is the label of all {real.n:,} cells; give cells under perturbations")
    first, second = cell_eval or CellEvalSettings(), cell_eval2 or CellEval2Settings()
    side = RealSide(real, control, first, second, start_engine(engine), table)
    if kept is not None:
        side.kept = kept.keyed(control, asdict(first), asdict(second), None if table is None else table.digest())
    return side
