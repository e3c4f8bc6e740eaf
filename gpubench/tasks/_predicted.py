"""Which class each cell was given by classifiers that had not seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpubench.cells import FOLD, PREDICTED, CellColumn
from gpubench.tasks._folds import Folds
from gpubench.tasks._task import TaskInput, require

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answers:
    """What a classifier said of some cells.

    Attributes
    ----------
    cells : (m,) rows of the embedding
    codes : (m,) the classes that they were given
    names : of the classes
    """

    cells: NDArray[np.int64]
    codes: NDArray[np.int32]
    names: Sequence[str]


def keep_folds(given: TaskInput, task: str, params: Mapping[str, str], cells: NDArray[np.int64], folds: Folds) -> None:
    """Keep in which fold each of the cells (m,), rows of the embedding, is tested."""
    codes = np.full(require(given.embedding).n, -1, np.int32)
    codes[cells] = folds.codes
    names = tuple(str(i + 1) for i in range(len(folds)))
    given.cells.columns.append(CellColumn(given.name, task, FOLD, codes, _of_training(params), names))


def keep_answers(given: TaskInput, task: str, params: Mapping[str, str], answers: Sequence[Answers]) -> None:
    """Put answers into the column of cells with these parameters, which is made by the first that come.

    Classes are numbered as in the labels of the task.
    """
    if not answers:
        return
    label, params = require(given.label), _of_training(params)
    columns = given.cells.select(embedding=given.name, task=task, metric=PREDICTED, **params)
    if columns:
        codes = columns[0].values
    else:
        codes = np.full(require(given.embedding).n, -1, np.int32)
        given.cells.columns.append(CellColumn(given.name, task, PREDICTED, codes, params, label.names))
    code_of = {name: code for code, name in enumerate(label.names)}
    for answer in answers:
        codes[answer.cells] = np.array([code_of[name] for name in answer.names], np.int32)[answer.codes]


def _of_training(params: Mapping[str, str]) -> dict[str, str]:
    """Parameters that tell columns apart: one holds every cell that a classifier, so trained, was tested on."""
    return {name: value for name, value in params.items() if name != "test_species"}
