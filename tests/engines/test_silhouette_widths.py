"""`Engine.silhouette_widths` against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cells import Cells, make_cells, uneven_codes
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from tolerance import assert_as_good_as_plain, plain_silhouette_widths

from gpubench.engines.base import Distance, Engine
from gpubench.engines.cpu.engine import CpuEngine
from gpubench.metrics.silhouette import silhouette_widths

SIZES = (1, 2, 3, 63, 64, 65, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2049)
DIMENSIONS = (1, 2, 3, 17, 64, 513)
METRICS: tuple[Distance, ...] = ("euclidean", "cosine")

# In a pair of cells a is one distance d. From |x|^2 + |y|^2 - 2 xy in float32 it comes with a relative error of about
# (|x| / d)^2 units in the last place; in the middle of a cloud of cells that is some tens of them.
FLOOR = 5e-6


def check(
    engine: Engine,
    x: NDArray[np.float32],
    clusters: NDArray[np.int32],
    groups: NDArray[np.int32] | None = None,
    metric: Distance = "euclidean",
) -> NDArray[np.float64]:
    widths = silhouette_widths(engine, engine.put(x), clusters, groups, metric)
    assert widths.dtype == np.float64
    exact = reference.silhouette_widths(x, clusters, groups, metric)
    assert_as_good_as_plain(widths, plain_silhouette_widths(x, clusters, groups, metric), exact, FLOOR)
    return widths


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", SIZES)
def test_sizes_about_block_edges(engine: Engine, n: int, metric: Distance) -> None:
    cells = make_cells(n, 17, n_labels=min(n, 5), n_batches=min(n, 3), seed=n)
    check(engine, cells.x, cells.label, metric=metric)
    check(engine, cells.x, cells.batch, cells.label, metric)


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_many_blocks(engine_at_scale: Engine, metric: Distance) -> None:
    # More cells than any block holds; the oracle looks at some of them only.
    cells = make_cells(20_011, 20, n_labels=8, n_batches=3, seed=1)
    some = np.r_[0:5, 10_000:10_005, 20_006:20_011]
    d = reference.distances(cells.x[some], cells.x, metric)
    x = engine_at_scale.put(cells.x)
    widths = silhouette_widths(engine_at_scale, x, cells.label, metric=metric)
    batch_widths = silhouette_widths(engine_at_scale, x, cells.batch, cells.label, metric)
    for i, row in zip(some, d, strict=True):
        inside = cells.label == cells.label[i]
        assert widths[i] == pytest.approx(width_of(row, cells.label, i), abs=FLOOR)
        itself = int(inside[:i].sum())
        assert batch_widths[i] == pytest.approx(width_of(row[inside], cells.batch[inside], itself), abs=FLOOR)


def width_of(d: NDArray[np.float64], clusters: NDArray[np.int32], i: int) -> float:
    """Silhouette width of cell i, whose distances to all cells are d."""
    own, others = clusters == clusters[i], np.unique(clusters[clusters != clusters[i]])
    a = np.delete(d, i)[np.delete(own, i)].mean()
    b = min(d[clusters == c].mean() for c in others)
    return float((b - a) / max(a, b))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_dimensions(engine: Engine, d: int, metric: Distance) -> None:
    cells = make_cells(300, d, seed=d)
    check(engine, cells.x, cells.label, metric=metric)
    check(engine, cells.x, cells.batch, cells.label, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_own", [63, 64, 65, 256, 257, 513])
def test_clusters_that_end_at_block_edges(
    engine: Engine, n_own: int, metric: Distance, rng: np.random.Generator
) -> None:
    clusters = np.repeat(np.arange(3, dtype=np.int32), [n_own, n_own + 1, 2])
    x = rng.normal(size=(len(clusters), 5)).astype(np.float32)
    order = rng.permutation(len(clusters))
    check(engine, x, clusters[order], metric=metric)


def cluster_sizes(case: str) -> list[int]:
    return {
        "many singletons": [200, 100] + [1] * 300,
        "only singletons": [1] * 200,
        "one huge, many tiny": [900] + [2] * 60 + [3] * 20,
        "half as many clusters as cells": [2] * 300,
        "two clusters, one of them single": [1, 500],
    }[case]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "case",
    [
        "many singletons",
        "only singletons",
        "one huge, many tiny",
        "half as many clusters as cells",
        "two clusters, one of them single",
    ],
)
def test_uneven_clusters(engine: Engine, case: str, metric: Distance, rng: np.random.Generator) -> None:
    sizes = cluster_sizes(case)
    clusters = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    x = (rng.normal(size=(len(clusters), 8)) + clusters[:, None] % 7).astype(np.float32)
    widths = check(engine, x, clusters, metric=metric)
    alone = np.bincount(clusters)[clusters] == 1
    assert (widths[alone] == 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_groups_without_two_clusters_are_undefined(engine: Engine, metric: Distance, rng: np.random.Generator) -> None:
    groups = rng.permutation(np.repeat(np.arange(5, dtype=np.int32), [1, 2, 50, 100, 1]))
    clusters = uneven_codes(len(groups), 4, rng)
    clusters[groups == 2] = 3  # one cluster
    clusters[np.flatnonzero(groups == 1)] = [0, 1]  # two singletons
    x = rng.normal(size=(len(groups), 3)).astype(np.float32)
    widths = check(engine, x, clusters, groups, metric)
    assert np.isnan(widths[np.isin(groups, [0, 2, 4])]).all()
    assert (widths[groups == 1] == 0).all()


def test_a_group_for_each_cell(engine: Engine, small_cells: Cells) -> None:
    groups = np.arange(small_cells.n, dtype=np.int32)
    assert np.isnan(silhouette_widths(engine, engine.put(small_cells.x), small_cells.label, groups)).all()


def test_codes_of_clusters_and_groups_may_have_gaps(engine: Engine, small_cells: Cells) -> None:
    x = engine.put(small_cells.x)
    dense = silhouette_widths(engine, x, small_cells.batch, small_cells.label)
    sparse = silhouette_widths(engine, x, small_cells.batch * 5 + 3, small_cells.label * 7 + 2)
    assert_array_equal(dense, sparse)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("offset", "scale"), [(1e4, 1.0), (-300.0, 1e-2), (0.0, 1e-6), (0.0, 1e6), (1e8, 1e4)])
def test_offset_and_scale(engine: Engine, offset: float, scale: float, metric: Distance) -> None:
    cells = make_cells(400, 12, seed=4)
    x = (cells.x.astype(np.float64) * scale + offset).astype(np.float32)
    check(engine, x, cells.label, metric=metric)
    check(engine, x, cells.batch, cells.label, metric)


def test_smallest_float32_values() -> None:
    cells = make_cells(400, 12, seed=4)
    check(CpuEngine(threads=1), (cells.x.astype(np.float64) * 1e-41).astype(np.float32), cells.label)


@pytest.mark.parametrize(("constant", "scale"), [(1e20, 1e-20), (3e38, 1e-3), (1e5, 1e-38), (3e38, 1e37)])
def test_a_large_constant_dimension_has_no_effect(constant: float, scale: float) -> None:
    cells, engine = make_cells(400, 12, seed=4), CpuEngine(threads=1)
    x = (cells.x.astype(np.float64) * scale).astype(np.float32)
    expected = silhouette_widths(engine, x, cells.label)
    shifted = np.column_stack([np.full(len(x), constant, np.float32), x])
    some = np.arange(0, len(x), 3)
    assert_allclose(silhouette_widths(engine, shifted, cells.label), expected, atol=1e-5)
    assert_allclose(silhouette_widths(engine, shifted, cells.label, cells=some), expected[some], atol=1e-5)


@pytest.mark.parametrize("gap", [1e2, 1e4, 1e6])
def test_distances_inside_distant_clusters_are_accurate(engine: Engine, gap: float) -> None:
    cells = make_cells(400, 12, seed=4)
    x = cells.x.astype(np.float64)
    x[:, 0] += gap * cells.label
    check(engine, x.astype(np.float32), cells.label)
    check(engine, x.astype(np.float32), cells.batch, cells.label)


def test_an_outlier_does_not_change_the_widths_of_other_cells(engine: Engine, small_cells: Cells) -> None:
    x = small_cells.x.copy()
    x[7] *= 1e6
    widths = silhouette_widths(engine, engine.put(x), small_cells.label)
    # That cell moves the mean, and what is centred on the mean loses digits: 1e-4 here, and nothing in their average.
    exact = reference.silhouette_widths(x, small_cells.label)
    assert_allclose(widths, exact, atol=1e-4)
    assert_allclose(widths.mean(), exact.mean(), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-20])
@pytest.mark.parametrize("n", [3, 100, 600])
def test_identical_cells_have_width_zero(engine: Engine, n: int, value: float) -> None:
    x = np.full((n, 7), value, np.float32)
    x[:, 3] = 1 / 3
    clusters = np.arange(n, dtype=np.int32) % 2
    assert_array_equal(silhouette_widths(engine, engine.put(x), clusters), np.zeros(n))


@pytest.mark.parametrize("metric", METRICS)
def test_copies_of_cells(engine: Engine, metric: Distance, rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 9)).astype(np.float32)[rng.integers(0, 60, 700)]
    check(engine, x, uneven_codes(700, 5, rng), metric=metric)


def test_cosine_with_a_zero_vector_is_zero(engine: Engine, rng: np.random.Generator) -> None:
    x = rng.normal(size=(150, 4)).astype(np.float32)
    x[::10] = 0
    clusters = uneven_codes(150, 3, rng)
    widths = check(engine, x, clusters, metric="cosine")
    assert np.isfinite(widths).all()


@pytest.mark.slow
@given(st.data())
def test_any_clusters_in_any_groups(engine: Engine, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    codes = st.lists(st.integers(0, 4), min_size=n, max_size=n)
    values = st.lists(st.integers(-3, 3), min_size=2 * n, max_size=2 * n)  # small integers: copies and ties
    x = np.reshape(data.draw(values), (n, 2)).astype(np.float32)
    clusters, groups = (np.array(data.draw(codes), np.int32) for _ in range(2))
    check(engine, x, clusters, groups)
