"""Confusion matrices equal those of scikit-learn, for the best classifier; largest confusions."""

from __future__ import annotations

import numpy as np
from cell_cases import cells_result
from numpy.testing import assert_array_equal
from sklearn.metrics import confusion_matrix

from gpubench.core.scores import CLUSTER, PREDICTED, CellColumn, CellScores
from gpubench.core.types import Labels
from gpubench.reporting.cell_groups import confusions
from gpubench.reporting.content import EmbeddingCells


def columns_of(cells: CellScores) -> list[EmbeddingCells]:
    return [EmbeddingCells("X_pca", cells, "X_pca")]


def test_confusion_is_of_the_most_accurate_classifier() -> None:
    cells = cells_result(1000, ["a", "b", "c", "d"]).cells
    (found,) = confusions("label_prediction", columns_of(cells))
    assert found.what == "Classifier rf"
    given = cells.find(PREDICTED, classifier="rf").values
    seen = given >= 0
    assert_array_equal(found.counts, confusion_matrix(cells.groups["label"].codes[seen], given[seen]))
    assert np.allclose(found.shares.sum(axis=1), 1)
    assert found.fits_a_table


def test_largest_confusions_come_first() -> None:
    codes = np.repeat([0, 1, 2], [100, 50, 4]).astype(np.int32)
    given = codes.copy()
    given[:30], given[100:120], given[-4:] = 1, 0, 0
    labels = Labels(codes, ("a", "b", "few"))
    column = CellColumn("X_pca", "label_prediction", PREDICTED, given, {"classifier": "lr"}, labels.names)
    (found,) = confusions("label_prediction", columns_of(CellScores(154, {"label": labels}, columns=[column])))
    assert [(pair.true, pair.predicted, pair.n) for pair in found.largest] == [
        ("b", "a", 20),
        ("a", "b", 30),
        ("few", "a", 4),
    ]
    assert found.largest[0].share == 0.4


def test_labels_left_out_are_not_shown() -> None:
    codes = np.array([0, 0, 1, 1, 2], np.int32)
    labels = Labels(codes, ("a", "b", "rare"))
    given = np.array([0, 1, 1, 1, -1], np.int32)
    column = CellColumn("X_pca", "label_prediction", PREDICTED, given, {"classifier": "lr"}, labels.names)
    (found,) = confusions("label_prediction", columns_of(CellScores(5, {"label": labels}, columns=[column])))
    assert found.rows == ("a", "b")
    assert_array_equal(found.counts, [[1, 1], [0, 2]])


def test_clusters_are_in_the_order_of_the_labels() -> None:
    codes = np.repeat([0, 1], [6, 4]).astype(np.int32)
    clusters = np.array([2, 2, 2, 0, 0, 1, 1, 1, 1, 1], np.int32)
    column = CellColumn("X_pca", "clustering", CLUSTER, clusters, names=("0", "1", "2"))
    cells = CellScores(10, {"label": Labels(codes, ("a", "b"))}, columns=[column])
    (found,) = confusions("clustering", columns_of(cells))
    assert found.columns == ("2", "0", "1")
    assert_array_equal(found.counts, [[3, 2, 1], [0, 0, 4]])
    assert found.largest == []


def test_test_sets_of_species_are_separate() -> None:
    label = Labels(np.array([0, 1, 0, 1], np.int32), ("a", "b"))
    species = Labels(np.array([0, 0, 1, 1], np.int32), ("human", "mouse"))
    given = np.array([0, 1, 1, 1], np.int32)
    params = {"train_species": "human", "classifier": "lr"}
    column = CellColumn("X_pca", "cross_species_label_prediction", PREDICTED, given, params, label.names)
    cells = CellScores(4, {"label": label, "species": species}, columns=[column])
    within, across = confusions("cross_species_label_prediction", columns_of(cells))
    assert within.what == "Classifier lr, trained on human, tested on human out of fold"
    assert_array_equal(within.counts, np.eye(2))
    assert across.what == "Classifier lr, trained on human, tested on the other species"
    assert_array_equal(across.counts, [[0, 1], [0, 1]])


def test_no_confusions_without_labels_or_cells() -> None:
    assert confusions("clustering", columns_of(CellScores())) == []
