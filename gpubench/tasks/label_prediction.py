"""Can labels be predicted from the embedding?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import MetricResult
from gpubench.core.types import Labels
from gpubench.tasks._cross_validation import (
    IDS,
    MEAN_FOLD,
    ClassifierEvaluation,
    ClassifierSettings,
    FoldedCells,
    joined,
)
from gpubench.tasks._folds import listed, stratified_folds, take_labels
from gpubench.tasks._task import Options, Task, TaskInput, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.costs import Cost, CostModel, Sizes

ID = "label_prediction"
SETTINGS = ClassifierSettings(ID, centre=False, mean_of=("knn", "lr", "rf"))


def _run(given: TaskInput) -> Iterator[MetricResult]:
    embedding, options = require(given.embedding), given.options
    evaluation = ClassifierEvaluation(given, SETTINGS)
    rows, label, left_out = _without_small_labels(require(given.label), options.min_class_size)
    folds, scarce = stratified_folds(label, options.n_folds, given.engine.seed)
    note = joined(left_out, scarce)
    folded = FoldedCells(embedding.x, rows, label, folds, rows)
    yield from evaluation.cross_validate(folded, {}, note, random_folds=True)


def _without_small_labels(label: Labels, min_class_size: int) -> tuple[NDArray[np.int64], Labels, str]:
    """Return the rows of labels with at least `min_class_size` cells, their labels, and a note on the others.

    Raises
    ------
    InputError
        Fewer than two labels are left.
    """
    sizes = np.bincount(label.codes, minlength=label.n_classes)
    small = np.flatnonzero(sizes < min_class_size)
    note = f"left out, with fewer than {min_class_size} cells: {listed(label, small)}" if len(small) else ""
    if label.n_classes - len(small) < 2:
        raise InputError(
            f"{label.key}: {label.n_classes - len(small)} of {label.n_classes} values have at least {min_class_size} "
            "cells, and prediction needs two; lower `min_class_size`, or give another label"
        )
    rows = np.flatnonzero(~np.isin(label.codes, small))
    return rows, take_labels(label, rows), note


def _costs(model: CostModel, sizes: Sizes, options: Options) -> dict[str, Cost]:
    cells = np.bincount(sizes.columns["label"].codes)
    cells = cells[cells >= options.min_class_size]
    data = int(cells.sum()), sizes.d, options.n_folds, len(cells)
    return {kind: model.classifier(kind, *data) for kind in options.classifiers}


TASK = Task(
    id=ID,
    title="Label prediction",
    question="Can labels be predicted from the embedding?",
    needs=("label",),
    metrics=tuple(MEAN_FOLD + name for name in IDS),
    run=_run,
    costs=_costs,
    operations=lambda options: ("folds", *options.classifiers),
    baseline="expression",
)
