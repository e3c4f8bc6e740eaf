"""kernels/topk_update.cu: exactly the smallest (key, id) of each row, whatever the tiles and the launch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels.emulator import Sparse
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from gpubench.engines.cuda.signatures import NO_CANDIDATE


def candidates_of(keys: NDArray[np.float32], ids: NDArray[np.integer]) -> NDArray[np.uint64]:
    """The packed candidates: unsigned integers in the order of (key, id)."""
    bits = (keys + np.float32(0)).astype(np.float32).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return ordered << np.uint64(32) | ids.astype(np.uint64)


def topk_update(
    run, products, column_terms, keep, *, first_row=-1, first_column=0, tile=10_000, backwards=False, grid=2, block=64
) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.uint64]]:
    """Candidates (sorted), counts and limits after all tiles of `tile` columns each."""
    n_rows, n = products.shape
    spare = 32
    candidates = np.zeros((n_rows, keep + spare), np.uint64)
    counts, limits = np.zeros(n_rows, np.int32), np.full(n_rows, NO_CANDIDATE)
    starts = range(0, n, tile)
    for start in reversed(starts) if backwards else starts:
        part = products[:, start : start + tile]
        padded = np.full((n_rows, -(-part.shape[1] // 4) * 4), -np.inf, np.float32)
        padded[:, : part.shape[1]] = part
        terms = column_terms[start : start + tile].copy()  # aligned
        sizes = (
            n_rows,
            len(terms),
            first_row,
            first_column + start,
            keep,
            keep + spare,
            int(start == (0 if backwards else starts[-1])),
        )
        run((grid,), (block,), padded, padded.shape[1], terms, *sizes, candidates, counts, limits)
    for row, count in zip(candidates, counts, strict=True):
        row[count:] = NO_CANDIDATE
    return np.sort(candidates, axis=1), counts, limits


def assert_right(found, products, column_terms, keep, *, first_row=-1, first_column=0) -> None:
    candidates, counts, limits = found
    n_rows, n = products.shape
    ids = first_column + np.arange(n)
    everything = candidates_of(products + column_terms, np.broadcast_to(ids, products.shape))
    if first_row >= 0:
        everything[(first_row + np.arange(n_rows))[:, None] == ids] = NO_CANDIDATE
    everything.sort(axis=1)
    n_others = (everything != NO_CANDIDATE).sum(axis=1)
    assert_array_equal(counts, np.minimum(keep, n_others))
    assert_array_equal(candidates[:, : min(keep, n)], everything[:, :keep])
    more = n_others > keep
    assert_array_equal(limits[more], everything[more, min(keep, n) - 1])
    assert (limits[~more] == NO_CANDIDATE).all()


def tile(n_rows: int, n: int, n_keys: int = 50, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Products and terms with few different keys, so that most are tied, some of them negative."""
    rng = np.random.default_rng(seed)
    products = rng.integers(-n_keys, n_keys, (n_rows, n)).astype(np.float32)
    return products, rng.integers(0, 3, n).astype(np.float32)


def check(run) -> None:
    for n_rows, n, keep, where in [
        (1, 1, 1, {}),
        (2, 5, 5, {"first_row": 0}),
        (5, 133, 7, {"first_row": 100}),
        (3, 1100, 40, {"first_row": 700, "first_column": 200}),
        (1, 700, 300, {}),
    ]:
        products, terms = tile(n_rows, n, seed=n)
        for grid, block, width in [(1, 32, 10_000), (3, 64, 130)]:
            launch = {"tile": width, "backwards": grid > 1, "grid": grid, "block": block}
            found = topk_update(run, products, terms, keep, **launch, **where)
            assert_right(found, products, terms, keep, **where)
    # falling keys pass every limit, and every buffer is cut back many times
    falling = -np.arange(900, dtype=np.float32)[None]
    zeros = np.zeros(900, np.float32)
    assert_right(topk_update(run, falling, zeros, 33, tile=512), falling, zeros, 33)
    check_ties(run)


def check_ties(run) -> None:
    """All keys are equal, and the smaller ids come last; the two zeros are one key."""
    products, terms = np.full((2, 600), -3, np.float32), np.ones(600, np.float32)
    for width in (100, 600):
        found = topk_update(run, products, terms, 50, tile=width, backwards=True, first_row=1)
        assert_right(found, products, terms, 50, first_row=1)
    candidates, _, _ = topk_update(run, np.float32([[0.0, -0.0, 0.0, -0.0]]), np.full(4, -0.0, np.float32), 2)
    assert_array_equal(candidates[0, :2] & np.uint64(0xFFFFFFFF), [0, 1])
    # NaN of either sign is no candidate
    candidates, counts, _ = topk_update(run, np.float32([[np.nan, 5, -np.nan]]), np.zeros(3, np.float32), 3)
    assert (counts[0], candidates[0, 0] & np.uint64(0xFFFFFFFF)) == (1, 1)


def check_far(run) -> None:
    """Rows of products that begin beyond 2^31 values."""
    stride = 2**30 + 8
    values, terms = tile(3, 40)
    products = Sparse((3, stride), np.dtype(np.float32), dict(enumerate(values)))
    candidates, counts, limits = np.zeros((3, 64), np.uint64), np.zeros(3, np.int32), np.full(3, NO_CANDIDATE)
    sizes = np.int32(3), np.int32(40), np.int64(-1), np.int64(0), np.int32(9), np.int32(64), np.int32(1)
    run((1,), (32,), products, np.int64(stride), terms, *sizes, candidates, counts, limits)
    assert_right((np.sort(candidates[:, :9], axis=1), counts, limits), values, terms, 9)


def test_candidates_are_the_smallest_keys(kernel_on) -> None:
    check(kernel_on("topk_update"))


def test_rows_beyond_32_bits_have_the_smallest_keys(emulate) -> None:
    check_far(emulate("topk_update"))


@pytest.mark.parametrize("n", [31, 32, 33, 127, 128, 129, 511, 512, 513, 1025])
@pytest.mark.parametrize("keep", [1, 31, 32, 33])
def test_sizes_at_vote_edges_have_the_smallest_keys(kernel_on, n, keep) -> None:
    products, terms = tile(4, n, seed=n)
    where = {"first_row": 2, "first_column": 0}
    assert_right(topk_update(kernel_on("topk_update"), products, terms, keep, **where), products, terms, keep, **where)


def test_any_order_gives_the_same_bits(emulate) -> None:
    run = emulate("topk_update")
    products, terms = tile(6, 700, 9)
    first = topk_update(run, products, terms, 60)
    for schedule in (1, 2, 3):
        run.schedule = schedule
        for again, value in zip(topk_update(run, products, terms, 60, grid=schedule, block=96), first, strict=True):
            assert_array_equal(again, value)


@given(
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(1, 90),
    st.integers(1, 60),
    st.integers(-1, 9),
    st.integers(0, 9),
)
def test_random_tiles_have_the_smallest_keys(kernel_on, n_rows, n, keep, n_keys, first_row, first_column) -> None:
    products, terms = tile(n_rows, n, n_keys, seed=n)
    where = {"first_row": first_row, "first_column": first_column}
    found = topk_update(kernel_on("topk_update"), products, terms, keep, tile=1 + n // 2, **where)
    assert_right(found, products, terms, keep, **where)
