"""Derives what the perturbation task needs from plain expression: changed genes, a control for each treated cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches, quoted
from gpubench.core.types import Labels, check_seed
from gpubench.data.columns import encode_labels
from gpubench.data.expression.matrix import Expression, index_names, read_expression, to_csr
from gpubench.data.expression.normalize import log_normalized, measure_depth
from gpubench.data.perturbation.differential_expression import DifferentialExpression, differential_expression
from gpubench.data.perturbation.truth import CONDITION, ControlMap, Criteria, Truth, truth_of
from gpubench.data.read import read

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

_LARGEST_LOG_VALUE = 50.0
"""exp(50) counts in a cell: larger values were not logarithmised."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What was derived from a dataset.

    Attributes
    ----------
    table : a row for each condition and gene: condition, gene_id, logfoldchange (base 2), pval_adj
    control_map : condition -> {treated cell: its control cell}
    labels : the condition of each cell
    note : what was assumed or left out, and why
    """

    table: pd.DataFrame
    control_map: ControlMap
    labels: Labels
    note: str


def derive(source: Any, *, condition: str, control: str, seed: int = 42, tie_correct: bool = True) -> Preparation:
    """Test each condition against all controls, and pair its cells with controls.

    Parameters
    ----------
    source, condition, control, seed, tie_correct : as in `prepare_perturbation`

    Raises
    ------
    InputError
        Unknown column or control, no other condition, negative or infinite values, names that occur twice.
    """
    seed = check_seed(seed)
    expression = read_expression(source, "dataset")
    cells = list(index_names(expression.cells, "cells", "dataset"))
    genes = list(index_names(expression.genes, "genes", "dataset"))
    column = read(source, embeddings=[], columns={"condition": condition}).obs["condition"]
    labels = encode_labels(column, condition, len(cells))
    if control not in labels.names:
        raise InputError(f"control={control!r} is not a value of {condition!r}{close_matches(control, labels.names)}")
    if labels.n_classes == 1:
        raise InputError(f"{condition!r} holds nothing but {control!r}; give a dataset with perturbed cells")
    code = labels.names.index(control)
    x, assumed = _log_expression(expression)
    tested = differential_expression(x, labels.codes, code, labels.n_classes, tie_correct=tie_correct)
    control_map, unpaired = draw_control_map(cells, labels, code, seed)
    note = "; ".join(filter(None, (assumed, unpaired)))
    return Preparation(_table(tested, list(control_map), genes), control_map, labels, note)


def derive_truth(dataset: Any, *, condition: str, control: str, seed: int, criteria: Criteria) -> Truth:
    """Derive in memory what `prepare_perturbation` writes, and choose the genes to score."""
    prepared = derive(dataset, condition=condition, control=control, seed=seed)
    truth = truth_of(prepared.table, prepared.control_map, condition=CONDITION, seed=seed, criteria=criteria)
    derived = "changed genes and controls derived from the dataset"
    return replace(truth, note=f"{derived}; {prepared.note}" if prepared.note else derived)


def draw_control_map(
    cells: list[str], labels: Labels, control: int, seed: int
) -> tuple[dict[str, dict[str, str]], str]:
    """Pair each treated cell with a control; the cells of a condition get different ones, drawn from all controls.

    Returns
    -------
    (condition -> {treated cell: control cell}, note). Where a condition has more cells than there are controls, as many
    of its cells as there are controls are drawn, and the note says so.
    """
    random = np.random.default_rng(seed)
    controls = np.flatnonzero(labels.codes == control)
    control_map: dict[str, dict[str, str]] = {}
    cut = []
    for code, name in enumerate(labels.names):
        if code == control:
            continue
        treated = np.flatnonzero(labels.codes == code)
        if len(treated) > len(controls):
            cut.append(name)
            treated = np.sort(random.choice(treated, len(controls), replace=False))
        drawn = random.choice(controls, len(treated), replace=False)
        control_map[name] = {cells[t]: cells[c] for t, c in zip(treated, drawn, strict=True)}
    if not cut:
        return control_map, ""
    note = f"only {len(controls):,} cells, as many as there are controls, are paired of {quoted(cut)}"
    return control_map, note


def _log_expression(expression: Expression) -> tuple[csr_array, str]:
    """log(1 + normalised counts), and what had to be assumed."""
    from scipy.sparse import vstack

    depth = measure_depth(expression)
    if depth.is_counts:
        return vstack([rows for _, rows in log_normalized(expression, depth)], format="csr"), ""
    if depth.largest > _LARGEST_LOG_VALUE:
        raise InputError(
            f"dataset: X holds neither counts (some values are not whole) nor log values (the largest is"
            f" {depth.largest:,.0f}); give raw counts, or log1p of normalised counts"
        )
    x = vstack([to_csr(block) for _, block in expression.blocks()], format="csr")
    return x, "X holds no counts and was taken as log1p of normalised counts"


def _table(tested: DifferentialExpression, conditions: list[str], genes: list[str]) -> pd.DataFrame:
    import pandas as pd

    c, g = tested.scores.shape
    return pd.DataFrame(
        {
            CONDITION: pd.Categorical.from_codes(np.repeat(np.arange(c), g), pd.Index(conditions)),
            "gene_id": pd.Categorical.from_codes(np.tile(np.arange(g), c), pd.Index(genes)),
            "logfoldchange": tested.log2_fold_changes.ravel(),
            "pval_adj": tested.adjusted_p_values.ravel(),
        }
    )
