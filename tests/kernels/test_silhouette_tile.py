"""kernels/silhouette_tile.cu: exact on whole distances, against the oracle on cells, the same bits in any launch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import reference
from cells import make_cells
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray


@dataclass
class Tile:
    """A tile and its cells; its rows and columns are spans of the sorted cells."""

    products: NDArray[np.float32]
    row_terms: NDArray[np.float32]
    column_terms: NDArray[np.float32]
    row_segments: NDArray[np.int32]
    column_segments: NDArray[np.int32]
    x: NDArray[np.float32]
    order: NDArray[np.int32]
    first_row: int = 0
    first_column: int = 0
    scale: float = 1.0
    close: float = 0.0
    unit: float = 1.0
    shift: int = 0
    both_sides: bool = True


def silhouette_tile(run, tile: Tile, *, grid=2, block=64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums from each row to the segments of the columns, and from each column to the segments of the rows."""
    n_rows, n_columns = len(tile.row_terms), len(tile.column_terms)
    # the rows of the sums have gaps, as in a part of a larger array
    row_sums = np.zeros((tile.column_segments.max() + 1, n_rows + 3), np.int64)
    column_sums = np.zeros((tile.row_segments.max() + 1, n_columns + 5), np.int64)
    padded = np.full((n_rows, -(-n_columns // 4) * 4), np.nan, np.float32)
    padded[:, :n_columns] = tile.products
    terms = tile.row_terms, tile.column_terms, tile.row_segments, tile.column_segments
    sizes = n_rows, n_columns, tile.first_row, tile.first_column
    cells = tile.x, tile.order, tile.x.shape[1], tile.scale, tile.close
    sums = row_sums[:, :n_rows], row_sums.shape[1], column_sums[:, :n_columns], column_sums.shape[1]
    rest = tile.unit, tile.shift, int(tile.both_sides), *sums
    run((grid,), (block,), padded, padded.shape[1], *terms, *sizes, *cells, *rest)
    assert not row_sums[:, n_rows:].any()
    assert not column_sums[:, n_columns:].any()
    return row_sums[:, :n_rows], column_sums[:, :n_columns]


def expected(tile: Tile, distances: NDArray) -> tuple[NDArray, NDArray]:
    """Sum given distances by a matrix product."""
    same = tile.first_row + np.arange(len(distances))[:, None] == tile.first_column + np.arange(distances.shape[1])
    distances = np.where(same, 0, distances)
    row_sums = np.eye(tile.column_segments.max() + 1)[tile.column_segments].T @ distances.T
    column_sums = np.eye(tile.row_segments.max() + 1)[tile.row_segments].T @ distances
    return row_sums, column_sums * tile.both_sides


def segments(n: int, longest: int, seed: int) -> NDArray[np.int32]:
    """Ascending codes in runs of at most `longest`."""
    runs = np.random.default_rng(seed).integers(1, longest + 1, n)
    return np.repeat(np.arange(n), runs)[:n].astype(np.int32)


def whole_tile(n_rows: int, n_columns: int, longest: int = 1000, seed: int = 0, **more) -> tuple[Tile, NDArray]:
    """A tile of squares of whole distances, whose sums are exact."""
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 2000, (n_rows, n_columns)).astype(np.float64)
    row_terms, column_terms = rng.integers(0, 50, n_rows), rng.integers(0, 50, n_columns)
    products = distances**2 - row_terms[:, None] - column_terms
    n = max(n_rows, n_columns) + 200
    tile = Tile(
        *(a.astype(np.float32) for a in (products, row_terms, column_terms)),
        segments(n_rows, longest, seed),
        segments(n_columns, longest, seed + 1),
        np.zeros((n, 1), np.float32),
        np.arange(n, dtype=np.int32),
        **more,
    )
    return tile, distances


def tile_of_cells(x, row_span, column_span, labels, *, close=1e-3, centred=True, both_sides=True) -> tuple[Tile, float]:
    """Make a tile as the engine does, rows and columns centred on their own means and scaled, and return its unit."""
    order = np.argsort(labels, kind="stable").astype(np.int32)
    rows, columns = (x[order[slice(*span)]].astype(np.float64) for span in (row_span, column_span))
    scale = 2.0 ** -np.ceil(np.log2(np.abs(x - x.mean(axis=0)).max() * 2))
    row_mean, column_mean = rows.mean(axis=0), columns.mean(axis=0) if centred else rows.mean(axis=0)
    shift = (row_mean - column_mean) * scale
    rows, columns = (rows - row_mean) * scale, (columns - column_mean) * scale
    reach = np.linalg.norm(rows + shift, axis=1).max() + np.linalg.norm(columns, axis=1).max()
    tile = Tile(
        -2 * rows.astype(np.float32) @ columns.astype(np.float32).T,
        ((rows + shift) ** 2).sum(axis=1).astype(np.float32),
        ((columns**2).sum(axis=1) - 2 * columns @ shift).astype(np.float32),
        *(labels[order[slice(*span)]].astype(np.int32) for span in (row_span, column_span)),
        x,
        order,
        row_span[0],
        column_span[0],
        float(scale),
        float(close * reach**2),
        float(2.0 ** np.floor(np.log2(2**23 / (1.01 * reach)))),
        both_sides=both_sides,
    )
    return tile, float(tile.unit * scale)


def assert_near(found, tile: Tile, unit: float, x) -> None:
    rows = tile.order[tile.first_row : tile.first_row + len(tile.row_terms)]
    columns = tile.order[tile.first_column : tile.first_column + len(tile.column_terms)]
    distances = reference.distances(x[rows], x[columns])
    for sums, exact in zip(found, expected(tile, distances), strict=True):
        # distances are rounded to the unit, and float32 knows a square that is not refined to 1e-7 / close of itself
        assert_allclose(sums / unit, exact, rtol=1e-4, atol=distances.shape[0] / unit)


LAUNCHES = ((1, 32), (3, 64), (2, 128))


def check(run) -> None:
    for n_rows, n_columns, longest, more in [
        (1, 1, 1, {}),
        (33, 131, 1000, {"shift": 3}),
        (32, 128, 1000, {"both_sides": False}),
        (70, 257, 60, {"first_row": 40, "first_column": 3}),
        (37, 150, 4, {"first_row": 3, "first_column": 50}),
    ]:
        tile, distances = whole_tile(n_rows, n_columns, longest, **more)
        for grid, block in LAUNCHES:
            for found, exact in zip(
                silhouette_tile(run, tile, grid=grid, block=block), expected(tile, distances), strict=True
            ):
                assert_array_equal(found, exact * 2**tile.shift)
    check_refined(run)


def check_refined(run) -> None:
    """Every distance of the tile is below `close` and comes from the cells, which differ in their last dimension."""
    rng = np.random.default_rng(0)
    n_rows, n_columns, d = 9, 135, 37
    tile, _ = whole_tile(n_rows, n_columns, 50, first_row=5, first_column=100, close=1.0)
    n = len(tile.order)
    tile.x = np.repeat(rng.integers(0, 9, (1, d)), n, axis=0).astype(np.float32)
    tile.x[:, -1] = rng.integers(0, 500, n)
    tile.order = rng.permutation(n).astype(np.int32)
    tile.row_terms[:], tile.column_terms[:], tile.products[:], tile.scale = 0, 0, -1, 4.0
    ordered = tile.x[tile.order, -1].astype(np.float64)
    distances = 4 * np.abs(ordered[5 : 5 + n_rows, None] - ordered[100 : 100 + n_columns])
    for found, exact in zip(silhouette_tile(run, tile), expected(tile, distances), strict=True):
        assert_array_equal(found, exact)


def check_far(run) -> None:
    """Rows of products and of sums, and cells, that begin beyond 2^31 values."""
    stride, n, d = 2**30 + 8, 540_000, 4_000
    products = Sparse((3, stride), np.dtype(np.float32), {r: np.full(8, (r + 1) ** 2, np.float32) for r in range(3)})
    products.rows[2][7] = -1
    cells = Sparse((n, d), np.dtype(np.float32), {n - 1: np.ones(d, np.float32)})
    sums = [Sparse((3, stride), np.dtype(np.int64), {2: np.zeros(8, np.int64)}) for _ in range(2)]
    order = np.full(300, n - 1, np.int32)
    order[200:] = 0
    terms = [np.zeros(size, np.float32) for size in (3, 8)]
    codes = [np.full(size, 2, np.int32) for size in (3, 8)]
    sizes = np.int32(3), np.int32(8), np.int64(0), np.int64(200)
    scalars = np.float32(1), np.float32(0.0), np.float32(1), np.int32(0), np.int32(1)
    far = sums[0], np.int64(stride), sums[1], np.int64(stride)
    tile = products, np.int64(stride), *terms, *codes, *sizes
    run((1,), (32,), *tile, cells, order, np.int32(d), *scalars, *far)
    root = round(np.sqrt(d))
    assert_array_equal(sums[0].rows[2][:3], [8, 16, 21 + root])
    assert_array_equal(sums[1].rows[2], [6] * 7 + [3 + root])


def test_integer_distances_are_exact(kernel_on) -> None:
    check(kernel_on("silhouette_tile"))


def test_rows_beyond_32_bits_are_exact(emulate) -> None:
    check_far(emulate("silhouette_tile"))


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("n_columns", [1, 3, 4, 5, 127, 128, 129, 260])
def test_sizes_at_strip_edges_are_exact(kernel_on, n_rows, n_columns) -> None:
    tile, distances = whole_tile(n_rows, n_columns, longest=90, seed=n_rows)
    for found, exact in zip(
        silhouette_tile(kernel_on("silhouette_tile"), tile), expected(tile, distances), strict=True
    ):
        assert_array_equal(found, exact)


@pytest.mark.parametrize("centred", [False, True])
def test_distances_of_cells_equal_the_oracle(kernel_on, centred) -> None:
    cells = make_cells(300, 12, n_labels=4, duplicates=0.2)
    run = kernel_on("silhouette_tile")
    spans = [((0, 90), (0, 90), False), ((0, 90), (90, 230), True), ((100, 230), (230, 300), True)]
    for rows, columns, both_sides in spans:
        own = centred and both_sides
        tile, unit = tile_of_cells(cells.x, rows, columns, cells.label, centred=own, both_sides=both_sides)
        assert_near(silhouette_tile(run, tile), tile, unit, cells.x)


def test_copies_have_distance_zero(kernel_on) -> None:
    x = np.full((80, 5), 1234.5, np.float32) + np.repeat(np.float32([0, 1000]), 40)[:, None]
    labels = np.repeat(np.int32([0, 1]), 40)
    tile, _ = tile_of_cells(x, (0, 80), (0, 80), labels, both_sides=False)
    row_sums, _ = silhouette_tile(kernel_on("silhouette_tile"), tile)
    assert not row_sums[labels[None, :] == [[0], [1]]].any()
    assert (row_sums[labels[None, :] != [[0], [1]]] > 0).all()


def test_any_launch_and_order_gives_the_same_bits(emulate) -> None:
    cells = make_cells(260, 7, n_labels=5, duplicates=0.3)
    tile, _ = tile_of_cells(cells.x, (0, 120), (100, 260), cells.label)
    run = emulate("silhouette_tile")
    first = silhouette_tile(run, tile)
    for schedule, (grid, block) in enumerate([(1, 32), (2, 128), (7, 64), (40, 32)]):
        run.schedule = schedule
        for again, sums in zip(silhouette_tile(run, tile, grid=grid, block=block), first, strict=True):
            assert_array_equal(again, sums)


@pytest.mark.slow
@given(
    st.integers(1, 60), st.integers(1, 200), st.integers(1, 30), st.integers(0, 40), st.integers(0, 40), st.booleans()
)
def test_random_tiles_are_exact(kernel_on, n_rows, n_columns, longest, first_row, first_column, both_sides) -> None:
    where = {"first_row": first_row, "first_column": first_column, "both_sides": both_sides}
    tile, distances = whole_tile(n_rows, n_columns, longest, seed=longest, **where)
    for found, exact in zip(
        silhouette_tile(kernel_on("silhouette_tile"), tile), expected(tile, distances), strict=True
    ):
        assert_array_equal(found, exact)
