"""Folds of a cross-validation, as scikit-learn makes them, and subsets of cells and of their labels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import N_LISTED, InputError
from gpubench.core.types import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def stratified_folds(
    labels: Labels, n_folds: int, seed: int, samples: Labels | None = None
) -> tuple[NDArray[np.int32], str]:
    """Assign cells to folds with the same shares of the labels; the cells of a sample stay in one fold.

    Returns the number of the fold in which each cell is tested, by scikit-learn's `StratifiedKFold`
    (`StratifiedGroupKFold` if there are samples), and a note on labels with fewer cells than folds, of which
    scikit-learn warns.

    scikit-learn before 1.8 shuffled the sizes of the groups separately from the groups, so that folds by sample were
    not stratified; with such a version, cz-benchmarks has other folds by sample than gpubench with a newer one. Samples
    are sorted as text. So they are in cz-benchmarks, except for samples that are numbers: it cannot aggregate these,
    and sorts them as numbers if there is no aggregation.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if labels.n_classes < 2:
        raise InputError(f"{labels.key} has one value ({labels.names[0]!r}), and prediction needs two")
    sizes = np.bincount(labels.codes)
    scarce = np.flatnonzero(sizes < n_folds)
    note = f"{labels.key} has fewer cells than the {n_folds} folds in {listed(labels, scarce)}" if len(scarce) else ""
    if len(scarce) == len(sizes):
        raise InputError(f"{note}: no label is in every fold; lower `n_folds`, or give more cells")
    if samples is not None and samples.n_classes < n_folds:
        raise InputError(f"{samples.key} has {samples.n_classes} values, too few for {n_folds} folds; lower `n_folds`")
    splitter = (StratifiedKFold if samples is None else StratifiedGroupKFold)(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # the note says it
        groups = None if samples is None else samples.codes
        codes = np.zeros(len(labels), np.int32)
        for i, (_, test) in enumerate(splitter.split(labels.codes, labels.codes, groups)):
            codes[test] = i
    if len(np.unique(codes)) < n_folds:
        raise InputError(f"{labels.key}: the samples are too uneven for {n_folds} folds; lower `n_folds`")
    return codes, note


def take_labels(labels: Labels, rows: NDArray[np.int64]) -> Labels:
    """Return the labels of some rows, without the values that do not occur there."""
    used, codes = np.unique(labels.codes[rows], return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(labels.names[c] for c in used), labels.key)


def draw_in_shares(codes: NDArray[np.int32], m: int, seed: int) -> NDArray[np.int64]:
    """Draw a stratified sample of m cells; returns their positions, ascending.

    Each of the at most m classes gets its share of the m cells, rounded up or down, but at least one cell. The cells of
    a class are drawn with equal probability.
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # each class's cells in random order
    sizes = np.bincount(codes)
    shares = sizes * m / len(codes)
    wanted = np.maximum(np.floor(shares).astype(np.int64), sizes > 0)
    by_remainder = np.argsort(wanted - shares, kind="stable")  # the largest first; those that were rounded up are last
    wanted[by_remainder[: max(0, m - int(wanted.sum()))]] += 1
    for _ in range(int(wanted.sum()) - m):  # room for the single cells of small classes
        wanted[wanted.argmax()] -= 1
    starts = np.cumsum(sizes) - sizes
    return np.sort(np.concatenate([order[a : a + k] for a, k in zip(starts, wanted, strict=True)]))


def listed(labels: Labels, classes: NDArray[np.int64]) -> str:
    """List classes and their sizes for a message, such as "3 labels: 'a' (2), 'b' (4), 'c' (1)"."""
    sizes = np.bincount(labels.codes, minlength=labels.n_classes)
    first = ", ".join(f"{labels.names[c]!r} ({sizes[c]:,})" for c in classes[:N_LISTED])
    more = f" and {len(classes) - N_LISTED:,} more" if len(classes) > N_LISTED else ""
    return f"{len(classes):,} label{'s' if len(classes) > 1 else ''}: {first}{more}"
