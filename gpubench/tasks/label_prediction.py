"""Can labels be predicted from the embedding, and do they transfer between species?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gpubench.core.errors import InputError, quoted
from gpubench.core.scores import MetricResult
from gpubench.core.types import Array, Labels
from gpubench.tasks._classifiers import Scores, TestSet
from gpubench.tasks._cross_validation import (
    IDS,
    MEAN_FOLD,
    ClassifierEvaluation,
    ClassifierSettings,
    FoldedCells,
    Training,
    joined,
)
from gpubench.tasks._folds import listed, stratified_folds, take_labels
from gpubench.tasks._task import Options, Task, TaskInput, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.engines.base import ClassifierKind
    from gpubench.engines.costs import Cost, CostModel, Sizes

SETTINGS = ClassifierSettings("label_prediction", centre=False, mean_of=("knn", "lr", "rf"))
SPECIES_SETTINGS = ClassifierSettings(
    "cross_species_label_prediction",
    centre=True,
    mean_of=("lr", "knn", "rf"),
    params={"lr": {"max_iter": 1000}},
)


def _predict_labels(given: TaskInput) -> Iterator[MetricResult]:
    embedding, options = require(given.embedding), given.options
    evaluation = ClassifierEvaluation(given, SETTINGS)
    rows, label, left_out = _without_small_labels(require(given.label), options.min_class_size)
    folds, scarce = stratified_folds(label, options.n_folds, given.engine.seed)
    note = joined(left_out, scarce)
    folded = FoldedCells(embedding.x, rows, label, folds, rows)
    yield from evaluation.cross_validate(folded, {}, note, random_folds=True)


def _without_small_labels(label: Labels, min_class_size: int) -> tuple[NDArray[np.int64], Labels, str]:
    """Return the rows of labels with at least `min_class_size` cells, their labels, and a note on the others."""
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


LABEL_PREDICTION = Task(
    id=SETTINGS.task,
    title="Label prediction",
    question="Can labels be predicted from the embedding?",
    needs=("label",),
    metrics=tuple(MEAN_FOLD + name for name in IDS),
    run=_predict_labels,
    costs=_costs,
    operations=lambda options: ("folds", *options.classifiers),
    baseline="expression",
)


@dataclass(frozen=True, slots=True)
class Species:
    """The cells of one species, or its samples if cells were aggregated."""

    name: str  # of the species
    x: Array  # (n, d) float32
    label: Labels  # (n,) label of each
    sample: Labels | None  # (n,) sample of each, or None
    note: str  # on the aggregation
    rows: NDArray[np.int64] | None = None  # (n,) their rows in the embedding; None for samples


def _transfer_labels(given: TaskInput) -> Iterator[MetricResult]:
    """Train on each species; test by cross-validation within it, and on each of the others."""
    evaluation = ClassifierEvaluation(given, SPECIES_SETTINGS)
    species = _split(given)
    for train in species:
        with given.engine.timeline.stage(train.name):
            yield from _within(given, evaluation, train)
            yield from _across(evaluation, train, [other for other in species if other is not train])


def _split(given: TaskInput) -> list[Species]:
    x, label, species = require(given.embedding).x, require(given.label), require(given.species)
    if species.n_classes < 2:
        raise InputError(f"{species.key} has one value ({species.names[0]!r}); labels transfer between at least two")
    parts = []
    for code, name in enumerate(species.names):
        rows = np.flatnonzero(species.codes == code)
        sample = take_labels(given.sample, rows) if given.sample else None
        part = Species(name, x[rows], take_labels(label, rows), sample, "", rows)
        parts.append(_aggregate(given, part))
    return parts


def _aggregate(given: TaskInput, cells: Species) -> Species:
    """Merge the cells of each sample; those of a sample with several labels are merged by label.

    cz-benchmarks gives a sample the label of its first cell, which is the same where samples have one label.
    """
    how = given.options.aggregation
    if how == "none":
        return cells
    if cells.sample is None:
        return replace(cells, note="no samples given, so cells are not aggregated")
    sample, label, engine, xp = cells.sample, cells.label, given.engine, given.engine.xp
    pairs = sample.codes.astype(np.int64) * label.n_classes + label.codes
    _, first, merged_as = np.unique(pairs, return_index=True, return_inverse=True)
    n_merged = len(first)
    if how == "mean":
        merged = xp.asarray(engine.group_means(cells.x, merged_as.astype(np.int32), n_merged), dtype=np.float32)
    else:
        groups = (cells.x[np.flatnonzero(merged_as == code)] for code in range(n_merged))
        merged = xp.stack([xp.median(group, axis=0) for group in groups])
    n_mixed = int(np.count_nonzero(np.bincount(sample.codes[first]) > 1))
    each = f"{sample.key} and label" if n_mixed else sample.key
    note = f"{how} of the cells of each {each}: {len(sample):,} cells became {n_merged:,}"
    if n_mixed:
        note += f", as {n_mixed:,} of {sample.n_classes:,} values of {sample.key} have cells of several labels"
    return Species(cells.name, merged, take_labels(label, first), take_labels(sample, first), note)


def _within(given: TaskInput, evaluation: ClassifierEvaluation, cells: Species) -> Iterator[MetricResult]:
    """Cross-validate within one species; all cells of a sample are in the same fold."""
    params = {"train_species": cells.name, "test_species": cells.name}
    try:
        folds, scarce = stratified_folds(cells.label, given.options.n_folds, given.engine.seed, cells.sample)
    except InputError as error:
        yield from evaluation.undefined_rows(len(cells.label), f"{cells.name}: {error}", params, MEAN_FOLD)
        return
    folded = FoldedCells(cells.x, np.arange(len(cells.label)), cells.label, folds, cells.rows)
    yield from evaluation.cross_validate(folded, params, joined(cells.note, scarce))


def _across(evaluation: ClassifierEvaluation, train: Species, others: list[Species]) -> Iterator[MetricResult]:
    """Train each classifier on one species, test it on the others."""
    tests, notes = zip(*(_test_set(train, other) for other in others), strict=True)
    cells = evaluation.cells_to_train(train.x, train.label)

    def prepare(kind: ClassifierKind) -> Training:
        return partial(evaluation.train, kind, cells), tests

    by_kind: list[list[Scores]] = []
    for kind in evaluation.kinds:
        begin = time.perf_counter()
        tested = evaluation.train_and_score(kind, kind, partial(prepare, kind), train.name)
        evaluation.record_predictions(kind, {"train_species": train.name}, tested)
        by_kind.append([test.scores for test in tested])
        seconds = (time.perf_counter() - begin) / len(tests)
        for other, note, scores in zip(others, notes, by_kind[-1], strict=True):
            params = {"train_species": train.name, "test_species": other.name, "classifier": kind}
            yield from evaluation.to_rows(scores, params, note, seconds=seconds)
    for i, (other, note) in enumerate(zip(others, notes, strict=True)):
        params = {"train_species": train.name, "test_species": other.name}
        yield from evaluation.mean_rows([[scores[i]] for scores in by_kind], params, note)


def _test_set(train: Species, other: Species) -> tuple[TestSet, str]:
    """Return the test cells of labels that both species have, numbered as in training, and a note on the others."""
    code = {name: c for c, name in enumerate(train.label.names)}
    codes = np.array([code.get(name, -1) for name in other.label.names], np.int32)[other.label.codes]
    rows = np.flatnonzero(codes >= 0)
    shared = np.unique(codes[rows]).tolist()
    unseen = np.flatnonzero([name not in code for name in other.label.names])
    untested = [name for name in code if name not in other.label.names]
    note = joined(
        train.note,
        other.note,
        f"left out, as {train.name} lacks them: {listed(other.label, unseen)}" if len(unseen) else "",
        f"not scored, as {other.name} lacks them: {quoted(untested)}" if untested else "",
    )
    undefined = ""
    if len(shared) < 2:
        undefined = (
            f"{train.name} and {other.name} have {len(shared)} of the two labels in common that prediction needs"
        )
    tested_cells = None if other.rows is None else other.rows[rows]
    return TestSet(other.x[rows], codes[rows], shared, undefined, tested_cells), note


CROSS_SPECIES_LABEL_PREDICTION = Task(
    id=SPECIES_SETTINGS.task,
    title="Cross-species label prediction",
    question="Do labels transfer between species?",
    needs=("label", "species"),
    metrics=(*(MEAN_FOLD + name for name in IDS), *IDS),
    run=_transfer_labels,
    operations=lambda options: ("folds", *options.classifiers),
    baseline=None,
)
