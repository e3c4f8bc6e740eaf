"""The plain data that travels between layers."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpubench.core.scores import Score
from gpubench.core.types import Graph, Knn, Labels


@pytest.fixture
def score() -> Score:
    return Score(0.25, n=7, stderr=0.01, note="2 labels left out", params={"k": 15}, approximate=True)


def test_score_is_a_float(score: Score) -> None:
    assert isinstance(score, float)
    assert score == 0.25
    assert (score.n, score.stderr, score.note) == (7, 0.01, "2 labels left out")
    assert (score.params, score.approximate) == ({"k": 15}, True)
    assert score + 1 == 1.25
    assert f"{score:.1f}" == "0.2"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_score_pickles_with_all_attributes(score: Score, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(score, protocol))
    assert type(again) is Score
    assert again == score
    assert vars(again) == vars(score)


def test_score_copies_with_all_attributes(score: Score) -> None:
    for again in (copy.copy(score), copy.deepcopy(score)):
        assert (again, vars(again)) == (score, vars(score))


def test_score_of_nan_keeps_its_reason() -> None:
    again = pickle.loads(pickle.dumps(Score(math.nan, note="one label")))
    assert math.isnan(again)
    assert again.note == "one label"


def test_score_keeps_its_own_params() -> None:
    params = {"k": 15}
    score = Score(1.0, params=params)
    params["k"] = 3
    assert score.params == {"k": 15}
    assert Score(1.0).params == {}


@pytest.fixture
def knn() -> Knn:
    indices = np.array([[1, 2], [0, 2], [1, 0]], np.int32)
    return Knn(indices, np.array([[1, 2], [1, 1], [1, 2]], np.float32), "ivf", {"n_probe": 8}, recall=0.5)


def test_head_is_a_view_with_the_same_method(knn: Knn) -> None:
    head = knn.head(1)
    assert_array_equal(head.indices, [[1], [0], [1]])
    assert_array_equal(head.distances, [[1], [1], [1]])
    assert np.shares_memory(head.indices, knn.indices)
    assert np.shares_memory(head.distances, knn.distances)
    assert (head.k, head.method, head.params, head.recall) == (1, "ivf", {"n_probe": 8}, 0.5)


def test_head_of_all_is_the_graph(knn: Knn) -> None:
    assert_array_equal(knn.head(2).indices, knn.indices)


@pytest.mark.parametrize("k", [0, -1, 3])
def test_head_of_too_many_neighbours_is_refused(knn: Knn, k: int) -> None:
    with pytest.raises(ValueError, match="head"):
        knn.head(k)


def test_a_measured_recall_makes_a_graph_approximate(knn: Knn) -> None:
    assert not knn.exact
    assert Knn(knn.indices, knn.distances).exact


def test_labels_and_graph_report_their_sizes() -> None:
    labels = Labels(np.array([1, 0, 1], np.int32), ("a", "b"), "cell_type")
    assert (len(labels), labels.n_classes) == (3, 2)
    assert Graph(np.array([0, 1, 2]), np.array([1, 0]), np.ones(2)).n == 2
