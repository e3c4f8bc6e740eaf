"""A prediction paired with the real data, and the data that metrics take from both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.metrics.perturbation.cell_covariance import CellPair
from gpubench.metrics.perturbation.clustering import CentroidPair
from gpubench.metrics.perturbation.effects import EffectPair
from gpubench.metrics.perturbation.energy_distance import CellDistance, EnergyPair
from gpubench.metrics.perturbation.expression_tests import Scaled, cell_eval2_table
from gpubench.metrics.perturbation.noise import NoisePair
from gpubench.metrics.perturbation.sides import PreparedSide, RealSide
from gpubench.metrics.perturbation.tables import ExpressionTable, TablePair, pair_tables

if TYPE_CHECKING:
    from gpubench.metrics.perturbation._values import Needs
    from gpubench.metrics.perturbation.streaming import Cells


class PairedSides:
    """A prediction paired with the real data, and the data that metrics take from both."""

    def __init__(self, real: RealSide, predicted: Cells, table: ExpressionTable | None = None) -> None:
        predicted = predicted.with_genes(real.cells.genes)
        self.real = real
        self.predicted = PreparedSide(predicted, real.control, real.cell_eval, real.cell_eval2, real.engine, table)
        self._pairs: dict[Any, Any] = {}
        missing = [p for p in real.perturbations if p not in self.predicted.perturbations]
        extra = [p for p in self.predicted.perturbations if p not in real.perturbations]
        if missing or extra:
            faults = [
                f"{len(names):,} only in {where}: {quoted(names)}"
                for names, where in ((missing, "the real data"), (extra, "the prediction"))
                if names
            ]
            raise InputError(f"perturbations differ ({'; '.join(faults)}); predict the same ones", argument="predicted")

    def pair(self, needs: Needs, generation: int, key: str | None = None, distance: CellDistance = "euclidean") -> Any:
        """Return the data that metrics with this `needs` and generation take, computed once.

        `key` names an embedding to use instead of genes, and `distance` is that of E-distances.
        """
        asked = needs, generation, key, distance
        if asked not in self._pairs:
            make: dict[str, Callable[[], Any]] = {
                "effects": lambda: self._effects(key) if generation == 1 else self._bulk_effects(),
                "tables": lambda: self._tables() if generation == 1 else self._tables2(),
                "noise": self._noise,
                "cells": self._cells,
                "energies": lambda: self._energies(key, distance),
                "centroids": lambda: self._centroids(key),
            }
            self._pairs[asked] = make[needs]()
        return self._pairs[asked]

    def _require_control(self) -> None:
        if self.real.control not in self.predicted.cells.names:
            raise InputError(
                f"predicted: none of {self.predicted.cells.n:,} cells is labelled {self.real.control!r}; add control"
                " cells, such as the real ones: these metrics compare a prediction with its own control",
                argument="predicted",
            )

    def _effects(self, key: str | None) -> EffectPair:
        self._require_control()
        names, control = self.real.perturbations, (self.real.control,)
        real, predicted = self.real.profiles(key), self.predicted.profiles(key)
        return EffectPair(
            names,
            real[self.real.rows(names)],
            predicted[self.predicted.rows(names)],
            real[self.real.rows(control)][0],
            predicted[self.predicted.rows(control)][0],
            self.real.own_columns() if key is None else np.full(len(names), -1),
        )

    def _bulk_effects(self) -> EffectPair:
        real, predicted, names = self.real, self.predicted, self.real.perturbations
        if real.has_counts != predicted.has_counts:
            sides = ("counts", "log values") if real.has_counts else ("log values", "counts")
            raise InputError(f"predicted: the real data are {sides[0]}, the prediction {sides[1]}; give both alike")
        rows, control = real.rows(names), real.bulk[real.rows((real.control,))][0]
        own_control = control
        if real.cell_eval2.control_source == "pred":
            self._require_control()
            own_control = predicted.bulk[predicted.rows((real.control,))][0]
        scale = real.cell_eval2.bulk_target_sum if real.has_counts else real.target_sum
        mass = np.expm1(real.bulk[rows]).sum(axis=1) / scale
        return EffectPair(
            names,
            real.bulk[rows],
            predicted.bulk[predicted.rows(names)],
            control,
            own_control,
            real.own_columns(),
            mass,
        )

    def _tables(self) -> TablePair:
        self._require_control()
        own = {p: self.real.own_gene(p) for p in self.real.perturbations}
        return pair_tables(
            self.real.cell_eval_table,
            self.predicted.cell_eval_table,
            own,
            self.real.perturbations,
            alpha=self.real.cell_eval.fdr_threshold,
            float32=True,
        )

    def _tables2(self) -> TablePair:
        real, settings = self.real, self.real.cell_eval2
        own = {p: real.own_gene(p) for p in real.perturbations}
        return pair_tables(
            real.cell_eval2_table,
            self.predicted_table(),
            own,
            self.real.perturbations,
            alpha=settings.p_adj_threshold,
            sort_by=settings.sort_by,
            auc_floor=settings.auc_pval_floor,
        )

    def predicted_table(self) -> ExpressionTable:
        """Return the prediction's table by cell-eval2's rules, by default of tests against the real control cells."""
        if self.predicted.table is not None:
            return self.predicted.table
        real, settings = self.real, self.real.cell_eval2
        parts = self.predicted.scaled_parts(real.target_sum)
        if settings.control_source == "real":
            return cell_eval2_table(parts, real.scaled_control, real.control, real.tested_genes, settings, real.engine)
        self._require_control()
        control = self.predicted.cells.control_cells(real.control)
        scaled = Scaled(control, counts=self.predicted.has_counts, target_sum=real.target_sum)
        genes = scaled.expressed(real.control, settings.min_control_cpm)
        return cell_eval2_table(parts, scaled, real.control, genes, settings, real.engine)

    def _noise(self) -> NoisePair:
        effects: EffectPair = self.pair("effects", 2)
        return NoisePair(effects, self.real.variances, self.predicted.variances, self.real.control_variance)

    def _cells(self) -> CellPair:
        real = self.real
        return CellPair(real.cells, self.predicted.cells, real.perturbations, real.control, real.own_columns())

    def _energies(self, key: str | None, distance: CellDistance) -> EnergyPair:
        self._require_control()
        names = self.real.perturbations
        sides = [side.energies(key, distance) for side in (self.real, self.predicted)]
        return EnergyPair(*(np.array([side[name] for name in names]) for side in sides))

    def _centroids(self, key: str | None) -> CentroidPair:
        names = self.real.perturbations
        return CentroidPair(
            self.real.profiles(key)[self.real.rows(names)],
            self.predicted.profiles(key)[self.predicted.rows(names)],
            self.real.engine,
        )
