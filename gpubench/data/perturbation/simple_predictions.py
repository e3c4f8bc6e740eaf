"""Predictions of perturbations that need no trained model: linear, nearest neighbour, mean, shuffled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches

if TYPE_CHECKING:
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray

    from gpubench.core.types import F64

N_COMPONENTS = 3
"""Number of principal components of the responses that the linear prediction keeps."""

PSEUDOCOUNT = 0.05
"""Mean count that is added to both sides of a ratio, so that rare genes do not change without limit."""


def simple_predictions(
    training: anndata.AnnData, cells: anndata.AnnData, *, condition: str, control: str, seed: int = 0
) -> dict[str, anndata.AnnData]:
    """Predict the cells of one experiment from another one, in four simple ways.

    - "linear": the mean response of each perturbation, reduced to the first three principal components of all
    - "neighbour": the response of the other perturbation whose mean response is the most similar (cosine)
    - "mean": the mean response of all other perturbations
    - "shuffled": cells of the other experiment, with the labels of the perturbed ones permuted

    The first three are made of control cells, drawn with replacement: each gene is multiplied by its predicted ratio to
    the control, and rounded up or down at random, so that counts remain counts and their mean is unchanged.

    Parameters
    ----------
    training : counts of the experiment that responses are learned from
    cells : counts of the experiment to predict, of which only the control cells and the numbers of cells are used; the
        same perturbations and genes
    condition : name of the column of `obs` with the perturbation of each cell
    control : label of the control cells in it
    seed : random seed of draws, roundings and permutation

    Returns
    -------
    dict
        Name of the prediction -> AnnData with cells of every perturbation, and control cells.

    Raises
    ------
    InputError
        No such column or control, fewer than two perturbations, or other perturbations in `cells`.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"target": ["ctrl", "ctrl", "A", "B"]}, index=list("1234"))
    >>> screen = anndata.AnnData(np.ones((4, 3), np.float32), obs)
    >>> sorted(simple_predictions(screen, screen, condition="target", control="ctrl"))
    ['linear', 'mean', 'neighbour', 'shuffled']
    """
    for side in (training, cells):
        if condition not in side.obs:
            raise InputError(f"condition={condition!r} is no column of obs{close_matches(condition, side.obs)}")
    labels, wanted = (side.obs[condition].to_numpy(str) for side in (training, cells))
    names = sorted(set(labels) - {control})
    if len(names) < 2 or control not in labels:
        raise InputError(f"condition={condition!r} has {len(names):,} perturbations and control={control!r}; give two")
    if set(wanted) != set(labels):
        raise InputError("cells: its perturbations are not those of the training data")
    random = np.random.default_rng(seed)
    means = np.stack([_mean(training.X[labels == name]) for name in (control, *names)]) + PSEUDOCOUNT
    responses = np.log(means[1:] / means[0])
    predicted = {
        "linear": _first_components(responses),
        "neighbour": responses[_nearest(responses)],
        "mean": np.stack([np.delete(responses, i, axis=0).mean(axis=0) for i in range(len(names))]),
    }
    made = {
        name: _cells(cells, wanted, control, dict(zip(names, np.exp(changes), strict=True)), random)
        for name, changes in predicted.items()
    }
    shuffled = training.copy()
    column = labels.copy()
    column[labels != control] = random.permutation(column[labels != control])
    shuffled.obs[condition] = column
    return {**made, "shuffled": shuffled}


def split_screen(path: Path, column: str) -> list[anndata.AnnData]:
    """Read a screen and split it by a column of `obs`, such as the replicate; values sorted, X as float32."""
    import anndata

    cells = anndata.read_h5ad(path)
    cells.X = cells.X.astype(np.float32)
    values = cells.obs[column].to_numpy(str)
    return [cells[values == value].copy() for value in sorted(set(values))]


def _mean(values: Any) -> F64:
    return np.asarray(values.mean(axis=0), np.float64).ravel()


def _first_components(responses: F64) -> F64:
    centre = responses.mean(axis=0)
    u, s, v = np.linalg.svd(responses - centre, full_matrices=False)
    kept = min(N_COMPONENTS, len(s))
    reduced: F64 = centre + (u[:, :kept] * s[:kept]) @ v[:kept]
    return reduced


def _nearest(responses: F64) -> NDArray[np.int64]:
    """Return the position of the most similar other response of each."""
    directions = responses / np.maximum(np.linalg.norm(responses, axis=1, keepdims=True), 1e-12)
    similarity = directions @ directions.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest


def _cells(
    cells: anndata.AnnData,
    labels: NDArray[np.str_],
    control: str,
    ratios: dict[str, F64],
    random: np.random.Generator,
) -> anndata.AnnData:
    """Return control cells in the place of the perturbed ones, with each gene multiplied by its ratio."""
    from scipy.sparse import csr_matrix, vstack

    controls = np.flatnonzero(labels == control)
    x = csr_matrix(cells.X).astype(np.float32)
    blocks, order = [x[controls]], [controls]
    for name, ratio in ratios.items():
        own = np.flatnonzero(labels == name)
        drawn = x[random.choice(controls, len(own))]
        drawn.data = np.floor(drawn.data * ratio[drawn.indices] + random.random(drawn.nnz)).astype(np.float32)
        blocks.append(drawn)
        order.append(own)
    predicted = cells.copy()
    predicted.X = csr_matrix(vstack(blocks, format="csr")[np.argsort(np.concatenate(order), kind="stable")])
    predicted.X.eliminate_zeros()
    return predicted
