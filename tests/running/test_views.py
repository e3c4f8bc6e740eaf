"""Views show the cells on their own coordinates, else on the two directions of largest variance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import gpubench as gb
from gpubench.engines.base import Engine
from gpubench.engines.embedding import on_engine
from gpubench.running import views
from gpubench.running.views import UMAP, drawn_cells, given_view, principal_view


def principal_components(x: np.ndarray) -> np.ndarray:
    """By singular values; the largest loading of a component is positive."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    loadings = np.linalg.svd(centred, full_matrices=False)[2][:2]
    loadings *= np.sign(loadings[np.arange(2), np.abs(loadings).argmax(axis=1)])[:, None]
    return centred @ loadings.T


@pytest.mark.parametrize("d", [2, 3, 40, 700])
def test_principal_view(engine: Engine, rng: np.random.Generator, d: int) -> None:
    x = rng.normal(size=(300, d)) * 0.97 ** np.arange(d) * np.where(np.arange(d) < 2, (9, 5, *[1] * (d - 2)), 1) + 7
    view = principal_view(on_engine(x.astype(np.float32), engine), seed=0)
    assert view.title == "first two principal components"
    assert np.array_equal(view.rows, np.arange(300))
    assert np.allclose(view.xy, principal_components(x.astype(np.float32)), atol=1e-3 * np.abs(view.xy).max())


@pytest.mark.parametrize("x", [np.ones((20, 3)), np.arange(20.0)[:, None]], ids=["copies", "one dimension"])
def test_principal_view_of_cells_with_one_direction(engine: Engine, x: np.ndarray) -> None:
    view = principal_view(on_engine(x.astype(np.float32), engine), seed=0)
    assert view.xy.shape == (20, 2)
    assert np.isfinite(view.xy).all()
    assert np.ptp(view.xy[:, 1]) == 0


@pytest.mark.parametrize("exponent", [100, -100])
def test_principal_view_scales_extreme_values(engine: Engine, rng: np.random.Generator, exponent: int) -> None:
    x = rng.normal(size=(50, 5)).astype(np.float32)
    scaled = np.ldexp(x, exponent)
    as_they_are, large_or_small = (principal_view(on_engine(cells, engine), seed=0).xy for cells in (x, scaled))
    assert np.array_equal(large_or_small, np.ldexp(as_they_are, exponent))


def test_principal_view_is_the_same_for_any_number_of_blas_threads(
    start_engine: Callable[..., Engine], rng: np.random.Generator
) -> None:
    x = rng.normal(size=(20_000, 50)).astype(np.float32)
    drawn = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            drawn.append(principal_view(on_engine(x, start_engine()), seed=0).xy.tobytes())
    assert drawn[1:] == drawn[:1] * 2


def test_many_cells_are_sampled(start_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "CELLS", 50)
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    view = principal_view(on_engine(x, start_engine()), seed=3)
    assert len(view.rows) == 50
    assert np.array_equal(view.rows, drawn_cells(200, 3))
    assert np.allclose(view.xy, principal_components(x[view.rows]), atol=1e-2)
    assert not np.array_equal(view.rows, drawn_cells(200, 4))


def data_with(umap: np.ndarray) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    return anndata.AnnData(
        obs={"label": list("ab" * 30)}, obsm={"X_pca": rng.normal(size=(60, 5)).astype(np.float32), UMAP: umap}
    )


def test_stored_coordinates_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    umap = np.random.default_rng(1).normal(size=(60, 3))
    umap[7, 0] = np.nan
    data_with(umap).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(views, "_BLOCK_ROWS", 16)
    cells = gb.score(tmp_path / "cells.h5ad", ["X_pca"], label="label", tasks="embedding", engine="cpu").cells
    assert list(cells.views) == [""], "one view for all embeddings"
    assert cells.views[""].title == UMAP
    assert cells.views[""].rows.tolist() == [i for i in range(60) if i != 7]
    assert np.array_equal(cells.views[""].xy, np.delete(umap, 7, axis=0)[:, :2].astype(np.float32))


def test_unusable_stored_coordinates_fall_back_to_principal_components(caplog: pytest.LogCaptureFixture) -> None:
    assert given_view(data_with(np.ones((60, 1))), 60, seed=0) is None
    assert "X_umap is 60 x 1, not 60 x 2" in caplog.text
    assert given_view(data_with(np.full((60, 2), np.nan)), 60, seed=0) is None
    assert "X_umap has no cell with two finite coordinates" in caplog.text
    cells = gb.score(data_with(np.ones((60, 1))), ["X_pca"], label="label", tasks="embedding", engine="cpu").cells
    assert list(cells.views) == ["X_pca"]


def test_each_array_has_its_own_view() -> None:
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    embeddings = {"a": x, "b": -x}
    cells = gb.score(embeddings, label=list("ab" * 30), tasks="embedding", engine="cpu").cells
    assert list(cells.views) == ["a", "b"]
