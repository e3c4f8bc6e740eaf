"""Read predicted expression and align it with the ground truth of a perturbation dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.types import check_seed
from gpubench.data.expression import Expression, index_names, read_expression
from gpubench.data.perturbation.prepare import derive_truth
from gpubench.data.perturbation.truth import CONTROL_MAP_KEY, Criteria, Truth, read_truth

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PerturbedCondition:
    """Genes and cells of one condition on which the predictions are scored.

    Attributes
    ----------
    name : name of the condition
    genes : (g,) names of the masked genes, on which predictions are scored
    true_change : (g,) float64, log fold changes of these genes in the dataset
    columns : (g,) columns of these genes in the predictions
    treated, control : (p,) rows of the predictions with treated and control cells, paired by position
    note : genes and cells that the predictions lack; empty if there are none
    undefined : reason why the condition cannot be scored; empty if it can
    """

    name: str
    genes: NDArray[np.str_]
    true_change: NDArray[np.float64]
    columns: NDArray[np.intp]
    treated: NDArray[np.intp]
    control: NDArray[np.intp]
    note: str = ""
    undefined: str = ""


@dataclass(frozen=True, slots=True)
class PerturbationData:
    """Predicted expression, and the conditions to score it on.

    Attributes
    ----------
    conditions : conditions with enough masked genes, in the order of the dataset
    predictions : predicted expression, cells x genes, in any order
    note : conditions that were left out, and why
    """

    conditions: tuple[PerturbedCondition, ...]
    predictions: Expression
    note: str = ""


def read_perturbation(
    dataset: Any,
    predictions: Any,
    *,
    condition: str = "condition",
    control: str | None = None,
    seed: int = 42,
    criteria: Criteria | None = None,
) -> PerturbationData:
    """Read a perturbation dataset, and align predictions with it by the names of cells and genes.

    Parameters
    ----------
    dataset : path of an h5ad file or a zarr store, or an AnnData, in the layout of cz-benchmarks:
        uns["de_results_wilcoxon"] (columns `condition`, gene_id, logfoldchange, pval_adj) and uns["control_cells_map"]
        (condition -> {treated cell: control cell}). A dataset without these is prepared in memory if `control` is
        given.
    predictions : path or AnnData with predicted expression in X; it may have fewer cells and genes, in another order
    condition : column with the condition, of the table of differential expression or of obs
    control : value of that column for control cells; needed only for a dataset that is not in the layout
    seed : random seed for drawing the masked genes, and, for a dataset that is not in the layout, the control cells
    criteria : criteria for the genes to score; if None, those of cz-benchmarks

    Raises
    ------
    InputError
        A file that cannot be read, a malformed layout, names that occur twice, or predictions of other cells or genes.

    Examples
    --------
    >>> data = read_perturbation("prepared.h5ad", "predicted.h5ad")  # doctest: +SKIP
    """
    criteria, seed = criteria or Criteria(), check_seed(seed)
    truth = read_truth(dataset, condition=condition, seed=seed, criteria=criteria)
    if truth is None:
        if control is None:
            raise InputError(
                "dataset has no differential expression in uns; say with `control` which condition is"
                " untreated, or prepare the file with gpubench prepare"
            )
        truth = derive_truth(dataset, condition=condition, control=control, seed=seed, criteria=criteria)
    return align(truth, read_expression(predictions, "predictions"), criteria)


def align(truth: Truth, predictions: Expression, criteria: Criteria) -> PerturbationData:
    """Find the masked genes and the pairs of treated and control cells of each condition in the predictions.

    Genes that are missing, and pairs of which a cell is missing, are left out and noted.
    """
    row_of = index_names(predictions.cells, "cells", predictions.name)
    column_of = index_names(predictions.genes, "genes", predictions.name)
    scored = [name for name in truth.changes if len(truth.targets.get(name, ()))]
    unpaired = [name for name in scored if not truth.control_map.get(name)]
    if unpaired:
        raise InputError(
            f"uns[{CONTROL_MAP_KEY!r}] has no pairs for {len(unpaired):,} of {len(scored):,} conditions"
            f" ({quoted(unpaired[:3])}); map their treated cells to control cells"
        )
    conditions = tuple(_align_condition(truth, name, row_of, column_of, criteria.min_masked_genes) for name in scored)
    if conditions and not any(len(condition.columns) for condition in conditions):
        raise _no_overlap("masked genes", [gene for name in scored for gene in truth.targets[name]], column_of)
    if conditions and not any(len(condition.treated) for condition in conditions):
        raise _no_pairs(truth, scored, row_of)
    too_few = [name for name in truth.changes if name not in scored]
    notes = [truth.note] if truth.note else []
    if too_few:
        fewer = f"with fewer than {criteria.min_masked_genes} masked genes"
        notes.append(f"{len(too_few):,} conditions {fewer} left out: {quoted(too_few)}")
    return PerturbationData(conditions, predictions, "; ".join(notes))


def _align_condition(
    truth: Truth, name: str, row_of: Mapping[str, int], column_of: Mapping[str, int], min_genes: int
) -> PerturbedCondition:
    changes = truth.changes[name]
    change_of = dict(zip(changes.genes.tolist(), changes.change.tolist(), strict=True))
    masked = [gene for gene in map(str, truth.targets[name]) if gene in change_of]
    genes = [gene for gene in masked if gene in column_of]
    pairs = truth.control_map[name].items()
    # In the order of the predictions, so that sums do not depend on how a file orders the keys of a mapping.
    rows = sorted((row_of[t], row_of[c]) for t, c in pairs if t in row_of and c in row_of)
    treated, control = np.array(rows, np.intp).reshape(-1, 2).T
    missing = []
    if len(genes) < len(masked):
        missing.append(f"{len(masked) - len(genes):,} of {len(masked):,} masked genes are not in the predictions")
    if len(rows) < len(pairs):
        missing.append(f"{len(pairs) - len(rows):,} of {len(pairs):,} pairs of cells are not in the predictions")
    undefined = ""
    if not genes or not rows:
        undefined = "nothing of this condition is in the predictions"
    elif len(genes) < (needed := min(min_genes, len(masked))):  # else a model of few genes would score best
        undefined = f"the predictions have {len(genes):,} of {len(masked):,} masked genes, and {needed:,} are needed"
    return PerturbedCondition(
        name=name,
        genes=np.array(genes, np.str_),
        true_change=np.array([change_of[gene] for gene in genes], np.float64),
        columns=np.array([column_of[gene] for gene in genes], np.intp),
        treated=treated,
        control=control,
        note="; ".join(missing),
        undefined=undefined,
    )


def _no_pairs(truth: Truth, scored: list[str], row_of: Mapping[str, int]) -> InputError:
    """Return the error of predictions without a whole pair: which side they lack."""
    pairs = [pair for name in scored for pair in truth.control_map[name].items()]
    treated, control = ({pair[side] for pair in pairs} for side in (0, 1))
    n_treated, n_control = (sum(cell in row_of for cell in cells) for cells in (treated, control))
    if n_treated and not n_control:
        return InputError(
            f"predictions have {n_treated:,} of the {len(treated):,} perturbed cells to score, but none of the"
            f" {len(control):,} control cells they are compared with; add the control cells of the dataset to the file,"
            " as they are, on the scale of the predictions"
        )
    if n_control and not n_treated:
        return InputError(
            f"predictions have {n_control:,} control cells, but none of the {len(treated):,} perturbed cells to score;"
            f" name the cells as the dataset does, such as {quoted(sorted(treated)[:3])}"
        )
    return _no_overlap("cells", [name for pair in pairs for name in pair], row_of)


def _no_overlap(what: str, sought: list[str], known: Mapping[str, int]) -> InputError:
    return InputError(
        f"predictions have none of the {len(sought):,} {what} to score: names there are such as"
        f" {quoted(list(known)[:3])}, in the dataset {quoted(sought[:3])}; use the names of the dataset"
    )
