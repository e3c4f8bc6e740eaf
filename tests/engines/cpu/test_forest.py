"""The random forest of the CPU engine: bins, trees against a tree builder in NumPy, predictions, and scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cells import make_cells
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from gpubench.core.timeline import Timeline
from gpubench.engines.cpu import compiled, forest
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.engines.cpu.forest import BinnedCells, RandomForest, Trees, bin_cells, grow_trees
from gpubench.engines.cpu.threads import WorkerThreads

WORKERS = WorkerThreads(1, Timeline())
TILES = [compiled.load(name) for name in compiled.available()]
MASK = (1 << 64) - 1

pytestmark = pytest.mark.skipif(not TILES, reason="no compiled tiles")
each_instruction_set = pytest.mark.parametrize("tiles", TILES, ids=compiled.available())


def binned(x: Any, tiles: Any = None) -> BinnedCells:
    return bin_cells(np.ascontiguousarray(x, np.float32), tiles or TILES[0], WORKERS)


# --- bins


@each_instruction_set
def test_bins_of_few_values_are_the_values(tiles: Any) -> None:
    rng = np.random.default_rng(0)
    values = np.array([-np.float32(3e38), -2, -1e-45, 0, 1e-45, 0.5, 3e38], np.float32)
    x = rng.choice(values, (3000, 20))
    x[:, 1] = np.where(rng.random(3000) < 0.5, 0.0, -0.0)
    x[:, 2] = 7
    cells = binned(x, tiles)
    for feature in range(20):
        distinct, expected = np.unique(x[:, feature] + 0.0, return_inverse=True)
        np.testing.assert_array_equal(cells.columns[feature], expected)
        assert cells.n_bins[feature] == len(distinct)
        np.testing.assert_array_equal(cells.lows[feature, : len(distinct)], distinct)
        np.testing.assert_array_equal(cells.highs[feature, : len(distinct)], distinct)
    np.testing.assert_array_equal(cells.rows, cells.columns.T)


@each_instruction_set
@pytest.mark.parametrize("n", [2560, 100_000])
def test_bins_of_many_values_are_smaller_at_the_ends(tiles: Any, n: int) -> None:
    rng = np.random.default_rng(1)
    cells = binned(np.column_stack([rng.permutation(n), rng.permutation(n)]), tiles)
    assert (cells.n_bins == 256).all()
    for feature in range(2):
        sizes = np.bincount(cells.columns[feature])
        ends = np.arange(n + 1) / n
        share = ends / 2 + (np.sqrt(ends) + 1 - np.sqrt(1 - ends)) / 4
        expected = np.diff(np.interp(np.arange(257) / 256, share, np.arange(n + 1)))
        assert np.abs(sizes - expected).max() <= 2
        assert sizes.max() <= 1.2 * n / 256
        assert sizes[[0, -1]].max() <= max(2, n / 256 / 8)


def test_bins_of_values_of_which_most_are_zero_leave_room_for_the_others() -> None:
    rng = np.random.default_rng(2)
    x = np.where(rng.random((4000, 1)) < 0.9, 0, rng.exponential(size=(4000, 1)))
    cells = binned(x)
    sizes = np.bincount(cells.columns[0])
    assert cells.n_bins[0] > 200
    assert sizes[1:].max() <= 8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.sampled_from([3, 40, 255, 256, 257, 5000]), st.integers(0, 2**32))
def test_bins_are_in_the_order_of_the_values(n: int, n_values: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, n_values, (n, 2)) ** 2 / 7).astype(np.float32)
    cells = binned(x)
    for feature in range(2):
        column, bins, n_bins = x[:, feature], cells.columns[feature], cells.n_bins[feature]
        assert sorted(set(bins)) == list(range(n_bins))
        for b in range(n_bins):
            assert cells.lows[feature, b] == column[bins == b].min()
            assert cells.highs[feature, b] == column[bins == b].max()
        assert (cells.highs[feature, : n_bins - 1] < cells.lows[feature, 1:n_bins]).all()


# --- trees against NumPy


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class SplitMix64:
    """Steele, Lea & Flood (2014), doi:10.1145/2660193.2660195."""

    def __init__(self, state: int) -> None:
        self.state = state

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        return mixed(self.state)

    def below(self, n: int) -> int:
        return (self.next() >> 32) * n >> 32


@dataclass
class PlainTree:
    """A tree grown by the definition: all bins of a feature scored from a table of counts."""

    cells: BinnedCells
    codes: np.ndarray
    nodes: list[tuple[int, np.float32, int]] = field(default_factory=list)
    shares: list[int] = field(default_factory=list)

    def grow(self, seed: int, number: int) -> PlainTree:
        n = len(self.codes)
        random = SplitMix64(mixed((mixed(seed) + number) & MASK))
        self.weights = np.bincount([random.below(n) for _ in range(n)], minlength=n)
        self.nodes = [(0, np.float32(0), 0)]
        waiting = [(np.flatnonzero(self.weights), 0, random.next())]
        while waiting:
            rows, node, key = waiting.pop()
            split = self.best_split(rows, key) if len(np.unique(self.codes[rows])) > 1 else None
            if split is None:
                self.nodes[node] = (-1, np.float32(0), self.leaf(rows))
                continue
            feature, last_left = split
            bins = self.cells.columns[feature][rows]
            is_left = bins <= last_left
            high, low = self.cells.highs[feature][last_left], self.cells.lows[feature][bins[~is_left].min()]
            middle = np.float32((np.float64(high) + np.float64(low)) / 2)
            left = len(self.nodes)
            self.nodes[node] = (feature, high if middle >= low else middle, left)
            self.nodes += [(0, np.float32(0), 0)] * 2
            waiting.append((rows[~is_left], left + 1, mixed((key + 2) & MASK)))
            waiting.append((rows[is_left], left, mixed((key + 1) & MASK)))
        return self

    def leaf(self, rows: np.ndarray) -> int:
        weights = np.bincount(self.codes[rows], self.weights[rows]).astype(int)
        present = np.flatnonzero(weights)
        if len(present) == 1:
            return int(present[0])
        place = len(self.shares)
        self.shares += [len(present), int(weights.sum())]
        for label in present:
            self.shares += [int(label), int(weights[label])]
        return -1 - place

    def best_split(self, rows: np.ndarray, key: int) -> tuple[int, int] | None:
        random, d = SplitMix64(key), len(self.cells.columns)
        features, best, split = list(range(d)), np.float32(0), None
        for i in range(d):
            if i >= int(np.sqrt(d)) and split is not None:
                break
            j = i + random.below(d - i)
            features[i], features[j] = features[j], features[i]
            scores = self.scores(rows, features[i])
            if scores.max() > best:
                best, split = scores.max(), (features[i], int(scores.argmax()))
        return split

    def scores(self, rows: np.ndarray, feature: int) -> np.ndarray:
        _, labels = np.unique(self.codes[rows], return_inverse=True)
        counts = np.zeros((256, labels.max() + 1), np.int64)
        np.add.at(counts, (self.cells.columns[feature][rows], labels), self.weights[rows])
        left = counts.cumsum(axis=0)
        right = left[-1] - left
        sides = [((side**2).sum(axis=1), side.sum(axis=1)) for side in (left, right)]
        with np.errstate(invalid="ignore"):
            terms = [squares.astype(np.float32) / weight.astype(np.float32) for squares, weight in sides]
        return np.where((sides[0][1] > 0) & (sides[1][1] > 0), terms[0] + terms[1], np.float32(0))


def normal_cells(n: int, d: int, n_classes: int, distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_classes, n).astype(np.int32)
    return rng.normal(scale=distance, size=(n_classes, d))[codes] + rng.normal(size=(n, d)), codes


def assert_grows_as_in_numpy(x: np.ndarray, codes: np.ndarray, tiles: Any, seed: int = 5, n_trees: int = 2) -> Trees:
    cells = binned(x, tiles)
    trees = grow_trees(cells, codes, n_trees, seed, tiles, WORKERS)
    ends = [*trees.node_starts[1:], len(trees.nodes)], [*trees.share_starts[1:], len(trees.shares)]
    for number in range(n_trees):
        plain = PlainTree(cells, codes).grow(seed, number)
        expected = np.array(plain.nodes, compiled.TREE_NODE)
        np.testing.assert_array_equal(trees.nodes[trees.node_starts[number] : ends[0][number]], expected)
        np.testing.assert_array_equal(trees.shares[trees.share_starts[number] : ends[1][number]], plain.shares)
    return trees


CASES = {
    "two classes": (600, 9, 2, 0.7),
    "many classes": (1500, 16, 150, 1.0),  # more than 8 of at most 16 rows in the upper nodes
    "one feature": (300, 1, 3, 1.0),
    "very few cells": (5, 3, 2, 1.0),
    "one cell": (1, 3, 1, 1.0),
    "many features": (200, 300, 4, 1.0),
}


@each_instruction_set
@pytest.mark.parametrize("case", CASES)
def test_tree_equals_the_one_of_numpy(tiles: Any, case: str) -> None:
    assert_grows_as_in_numpy(*normal_cells(*CASES[case]), tiles)


@each_instruction_set
@pytest.mark.parametrize("n_values", [1, 2, 15, 16, 17, 31, 32, 33, 64, 65])
def test_tree_on_tied_values_equals_the_one_of_numpy(tiles: Any, n_values: int) -> None:
    """Numbers of bins around those at which vectors and tables change, and leaves of several classes."""
    x, codes = normal_cells(700, 3, 12, 0.8)
    x = np.floor(np.clip(x / 8 + 0.5, 0, 0.999) * n_values)
    trees = assert_grows_as_in_numpy(x, codes, tiles)
    assert len(trees.shares) > 0


@each_instruction_set
def test_tree_on_sparse_counts_equals_the_one_of_numpy(tiles: Any) -> None:
    rng = np.random.default_rng(3)
    x, codes = rng.poisson(0.05, (500, 40)), rng.integers(0, 6, 500).astype(np.int32)
    x[:, ::3] = 0  # constant, so more features than usual are drawn
    assert_grows_as_in_numpy(x, codes, tiles)


@each_instruction_set
def test_tree_on_many_cells_equals_the_one_of_numpy(tiles: Any) -> None:
    """Nodes above a weight of 32,767, and nodes that are copied into the cache."""
    x, codes = normal_cells(40_000, 30, 3, 1.5)
    assert_grows_as_in_numpy(x, codes, tiles, n_trees=1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_tree_equals_the_one_of_numpy_for_any_cells(data: st.DataObject) -> None:
    n, d, n_classes = (data.draw(st.integers(1, most)) for most in (400, 12, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n_values = data.draw(st.sampled_from([2, 20, 300, 10**6]))
    x, codes = rng.integers(0, n_values, (n, d)), rng.integers(0, n_classes, n).astype(np.int32)
    tiles = data.draw(st.sampled_from(TILES))
    assert_grows_as_in_numpy(x, codes, tiles, seed=data.draw(st.integers(0, MASK)), n_trees=1)


# --- predictions


def plain_proba(trees: Trees, x: np.ndarray, n_classes: int) -> np.ndarray:
    proba = np.zeros((len(x), n_classes))
    for start, share_start in zip(trees.node_starts, trees.share_starts, strict=True):
        for i, cell in enumerate(x):
            node = trees.nodes[start]
            while node["feature"] >= 0:
                node = trees.nodes[start + node["child"] + int(cell[node["feature"]] > node["threshold"])]
            if node["child"] >= 0:
                proba[i, node["child"]] += 1
                continue
            share = trees.shares[share_start - 1 - node["child"] :]
            for label, weight in share[2 : 2 + 2 * share[0]].reshape(-1, 2):
                proba[i, label] += weight / share[1]
    return proba / len(trees.node_starts)


@each_instruction_set
@pytest.mark.parametrize("n", [1, 15, 16, 17, 300])
def test_prediction_averages_the_leaves(tiles: Any, n: int) -> None:
    x, codes = normal_cells(300, 4, 6, 0.5)
    x = np.round(x).astype(np.float32)
    trees = grow_trees(binned(x, tiles), codes, 5, 0, tiles, WORKERS)
    tested = np.random.default_rng(1).normal(scale=2, size=(n, 4)).astype(np.float32)
    found = trees.predict_proba(tested, 7, tiles, WORKERS)
    np.testing.assert_allclose(found, plain_proba(trees, tested, 7), rtol=0, atol=1e-15)


def test_cells_that_a_tree_has_seen_get_their_class() -> None:
    """Thresholds separate raw values as they separate bins: a tree with pure leaves knows its own cells."""
    x, codes = normal_cells(2000, 8, 5, 0.3)
    x = x.astype(np.float32)
    trees = grow_trees(binned(x), codes, 1, 0, TILES[0], WORKERS)
    assert not len(trees.shares)
    weights = PlainTree(binned(x), codes).grow(0, 0).weights
    proba = trees.predict_proba(x, 5, TILES[0], WORKERS)
    assert (proba[weights > 0, codes[weights > 0]] == 1).all()
    assert (proba.argmax(axis=1) != codes)[weights == 0].any()


def test_threshold_between_adjacent_floats_separates_them() -> None:
    low = np.float32(1)
    x = np.where(np.arange(60)[:, None] % 2, np.nextafter(low, np.float32(2)), low)
    codes = (np.arange(60) % 2).astype(np.int32)
    proba = RandomForest(0, 1, n_estimators=20).fit(x, codes, 2).predict_proba(x)
    np.testing.assert_array_equal(proba[:, 1], codes)


# --- the classifier


@pytest.mark.parametrize("n_threads", [2, 5])
def test_forest_is_the_same_for_any_number_of_threads_and_instruction_set(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, codes = normal_cells(3000, 20, 12, 0.5)
    x = x.astype(np.float32)
    one = RandomForest(3, 1, n_estimators=9).fit(x, codes, 12).predict_proba(x)
    for name in compiled.available():
        monkeypatch.setenv(compiled.VARIABLE, name)
        several = RandomForest(3, n_threads, n_estimators=9).fit(x, codes, 12).predict_proba(x)
        np.testing.assert_array_equal(several, one)


def test_forests_of_different_seeds_and_trees_differ() -> None:
    x, codes = normal_cells(500, 6, 4, 0.4)
    x = x.astype(np.float32)
    forests = [RandomForest(seed, 1, n_estimators=2).fit(x, codes, 4) for seed in (0, 1, 2**40, -1)]
    proba = [grown.predict_proba(x) for grown in forests]
    assert len({values.tobytes() for values in proba}) == 4
    trees = forests[0]._trees
    assert trees is not None
    first = trees.nodes[: trees.node_starts[1]]
    assert first.tobytes() != trees.nodes[trees.node_starts[1] :].tobytes()


def test_first_trees_do_not_depend_on_how_many_follow() -> None:
    cells, codes = binned(normal_cells(400, 6, 4, 0.4)[0]), normal_cells(400, 6, 4, 0.4)[1]
    few, many = (grow_trees(cells, codes, n_trees, 0, TILES[0], WORKERS) for n_trees in (2, 4))
    np.testing.assert_array_equal(many.nodes[: many.node_starts[2]], few.nodes)


def test_without_compiled_tiles_the_forest_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.VARIABLE, compiled.NUMPY)
    x, codes = normal_cells(300, 6, 4, 0.4)
    x = x.astype(np.float32)
    ours = CpuEngine(threads=2).classifier("rf", n_estimators=20).fit(x, codes, 4)
    peer = RandomForestClassifier(20, random_state=42).fit(x, codes)
    assert ours.note == "random forest of scikit-learn"
    assert (ours.predict_proba(x) == peer.predict_proba(x)).all()


def test_a_forest_that_moves_to_a_machine_without_compiled_tiles_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = normal_cells(50, 6, 4, 0.4)
    x = x.astype(np.float32)
    grown = RandomForest(0, 1, n_estimators=2).fit(x, codes, 4)
    monkeypatch.setenv(compiled.VARIABLE, compiled.NUMPY)
    with pytest.raises(forest.EngineUnavailable, match="compiled tiles, which are missing here"):
        grown.predict_proba(x)


@pytest.mark.slow
@pytest.mark.parametrize("rounded", [False, True])
def test_forest_predicts_as_well_as_scikit_learns(rounded: bool) -> None:
    """Within two and a half standard errors of the difference, over ten seeds that each draw other training cells."""
    cells = make_cells(2400, 16, n_labels=7, seed=3)
    x = np.round(cells.x) if rounded else cells.x
    differences = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(cells.n)
        train, test = order[:1600], order[1600:]
        ours = RandomForest(seed, 2).fit(x[train], cells.label[train], 7).predict_proba(x[test])
        peer = RandomForestClassifier(random_state=seed, n_jobs=2).fit(x[train], cells.label[train])
        accuracies = [(p.argmax(axis=1) == cells.label[test]).mean() for p in (ours, peer.predict_proba(x[test]))]
        differences.append(accuracies[0] - accuracies[1])
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    assert abs(np.mean(differences)) <= max(0.003, 2.5 * error)
