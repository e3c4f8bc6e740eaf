"""Two-dimensional views of the cells for reports: UMAP stored in the data or, without it, principal components."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.scores import CellView
from gpubench.data import has_embedding, read_matrix, read_rows
from gpubench.data.alignment import take_rows
from gpubench.engines.planner import PIECE_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gpubench.core.types import Array
    from gpubench.data import Rows
    from gpubench.engines.embedding import Embedding

logger = logging.getLogger("gpubench")

UMAP = "X_umap"

CELLS = 20_000
"""Maximum number of cells in a view: more would hide each other."""

COMPONENTS = "first two principal components"

_MAX_CENTRED_VALUES = 1 << 24
_BLOCK_ROWS = 1 << 18
_DIRECTIONS, _ROUNDS = 12, 10
"""Subspace iteration: after ten rounds direction 13 has decayed by (variance 13 / variance 2)^20."""


def drawn_cells(n: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted rows of the cells to draw: all n cells, or a random sample of `CELLS` of them."""
    if n <= CELLS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, CELLS, replace=False))


def given_view(data: Any, n_cells: int, seed: int, taken: NDArray[np.intp] | None = None) -> CellView | None:
    """Return the view of the UMAP coordinates stored in `data`, the first two columns of `X_umap`.

    Parameters
    ----------
    data : data of a run
    n_cells : number of cells that are scored
    seed : random seed for the sample of cells to draw
    taken : rows of the data that are scored. If None, all rows

    Returns
    -------
    CellView or None
        None if the data have no UMAP coordinates, or they cannot be drawn.
    """
    try:
        if not has_embedding(data, UMAP):
            return None
        rows = drawn_cells(n_cells, seed)
        xy = _first_two(take_rows(read_matrix(data, UMAP, UMAP), taken), rows, n_cells)
    except InputError as error:  # nobody asked for a view, so its failure must not stop a run
        logger.warning("the cells are drawn on principal components, because %s", error)
        return None
    finite = np.isfinite(xy).all(axis=1)
    return CellView(UMAP, rows[finite], xy[finite])


def _first_two(coordinates: Rows, rows: NDArray[np.int64], n_cells: int) -> NDArray[np.float32]:
    n, d = coordinates.shape
    if n != n_cells or d < 2:
        raise InputError(f"{UMAP} is {n:,} x {d}, not {n_cells:,} x 2")
    drawn = []
    for start in range(0, n, _BLOCK_ROWS):
        block = read_rows(coordinates, start, min(start + _BLOCK_ROWS, n))
        own = rows[(rows >= start) & (rows < start + len(block))] - start
        drawn.append(block[own, :2].astype(np.float32))
    xy = np.concatenate(drawn)
    if not np.isfinite(xy).all(axis=1).any():
        raise InputError(f"{UMAP} has no cell with two finite coordinates")
    return xy


def principal_view(embedding: Embedding, seed: int) -> CellView:
    """Project a sample of an embedding's cells on its two directions of largest variance, by subspace iteration.

    `seed` is the random seed for the sample and for the iteration.

    References
    ----------
    Halko, Martinsson & Tropp (2011), doi:10.1137/090771806.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # with more threads, BLAS sums in another order
        return _principal_view(embedding, seed)


def _principal_view(embedding: Embedding, seed: int) -> CellView:
    engine, xp, d = embedding.engine, embedding.engine.xp, embedding.d
    rows = drawn_cells(embedding.n, seed)
    step = max(1, PIECE_VALUES // d)
    pieces = [xp.asarray(rows[start : start + step]) for start in range(0, len(rows), step)]
    mean = sum(embedding.x[piece].sum(axis=0, dtype=np.float64) for piece in pieces) / len(rows)
    # scale by a power of two, which is exact, so that squares of very large or small values stay within float32
    exponent = np.frexp(max(float(xp.abs(embedding.x[piece]).max()) for piece in pieces))[1]
    scale = 2.0 ** -int(np.clip(exponent, -100, 100))
    mean = (mean * scale).astype(np.float32)

    def centred() -> Iterator[Array]:
        yield from (embedding.x[piece] * np.float32(scale) - mean for piece in pieces)

    in_memory = list(centred()) if len(rows) * d <= _MAX_CENTRED_VALUES else None

    def times_covariance(directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the product of the covariance matrix and directions, up to a constant factor."""
        held = xp.asarray(directions, dtype=np.float32)
        return np.asarray(engine.to_host(sum(x.T @ (x @ held) for x in in_memory or centred())), np.float64)

    directions = np.random.default_rng(seed).standard_normal((d, min(_DIRECTIONS, d)))
    for _ in range(_ROUNDS):
        directions = np.linalg.qr(times_covariance(directions))[0]
    axes = (directions @ np.linalg.eigh(directions.T @ times_covariance(directions))[1][:, ::-1])[:, :2]
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1, 1)
    xy = np.zeros((len(rows), 2), np.float32)
    held = xp.asarray(axes, dtype=np.float32)
    xy[:, : axes.shape[1]] = np.concatenate([engine.to_host(x @ held) for x in in_memory or centred()]) / scale
    return CellView(COMPONENTS, rows, xy)
