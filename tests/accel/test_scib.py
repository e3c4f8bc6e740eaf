"""scib_metrics with gpubench in its place: the same numbers and types as without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import Cells, make_cells

import gpubench as gb
from gpubench import accel

pytest.importorskip("scib_metrics", reason="scib_metrics is not installed; pip install '.[cpu,test,parity]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import scib_metrics as scib
    from scib_metrics.benchmark import Benchmarker
    from scib_metrics.nearest_neighbors import NeighborsResults

pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = {
    "nmi_ari_cluster_labels_leiden": 0.05,  # other draws
    "nmi_ari_cluster_labels_kmeans": 0.1,  # one start, of other draws
    "kbet_per_label": 0.02,  # theirs searches the diffusion map approximately
    "lisi_knn": 1e-4,  # theirs stops looking for the perplexity at 1e-5
}


@pytest.fixture(scope="module")
def cells() -> Cells:
    """Every label in every batch, with enough cells for kBET to use all diffusion components."""
    cells = make_cells(700, 8, n_labels=3, n_batches=2, duplicates=0, seed=4)
    return Cells(cells.x, cells.label, np.random.default_rng(0).integers(0, 2, 700).astype(np.int32), cells.time)


@pytest.fixture(scope="module")
def neighbors(cells: Cells) -> NeighborsResults:
    knn = gb.get_engine("cpu").knn(cells.x, 29)
    own = np.arange(cells.n, dtype=np.int32)[:, None]
    return NeighborsResults(
        np.hstack([own, knn.indices]), np.hstack([np.zeros((cells.n, 1), np.float32), knn.distances])
    )


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    accel.uninstall()
    accel.report().clear()
    yield
    accel.uninstall()
    accel.report().clear()


CALLS: dict[str, tuple[str, Callable[[Cells, Any], Any]]] = {
    "samples": ("utils.silhouette_samples", lambda c, _: scib.utils.silhouette_samples(c.x, c.label)),
    "label": ("silhouette_label", lambda c, _: scib.silhouette_label(c.x, c.label)),
    "label of text": ("silhouette_label", lambda c, _: scib.silhouette_label(c.x, pd.Series(c.label.astype(str)))),
    "label, raw, cosine": (
        "silhouette_label",
        lambda c, _: scib.silhouette_label(c.x, c.label, rescale=False, metric="cosine"),
    ),
    "batch": ("silhouette_batch", lambda c, _: scib.silhouette_batch(c.x, c.label, c.batch)),
    "batch, raw": ("silhouette_batch", lambda c, _: scib.silhouette_batch(c.x, c.label, c.batch, rescale=False)),
    "batch, mean": (
        "silhouette_batch",
        lambda c, _: scib.silhouette_batch(c.x, c.label, c.batch, between_cluster_distances="mean_other"),
    ),
    "bras, Euclidean": ("bras", lambda c, _: scib.bras(c.x, c.label, c.batch, metric="euclidean")),
    "bras": ("bras", lambda c, _: scib.bras(c.x, c.label, c.batch)),
    "isolated": ("isolated_labels", lambda c, _: scib.isolated_labels(c.x, c.label, c.batch)),
    "isolated, raw": (
        "isolated_labels",
        lambda c, _: scib.isolated_labels(c.x, c.label, c.batch, False, 1 + c.batch.max()),
    ),
    "lisi": ("lisi_knn", lambda c, n: scib.lisi_knn(n, c.label)),
    "lisi, perplexity": ("lisi_knn", lambda c, n: scib.lisi_knn(n, c.label, perplexity=5)),
    "ilisi": ("ilisi_knn", lambda c, n: scib.ilisi_knn(n, c.batch)),
    "clisi": ("clisi_knn", lambda c, n: scib.clisi_knn(n, c.label)),
    "clisi, raw": ("clisi_knn", lambda c, n: scib.clisi_knn(n, c.label, scale=False)),
    "kbet": ("kbet", lambda c, n: scib.kbet(n, c.batch)),
    "kbet_per_label": ("kbet_per_label", lambda c, n: scib.kbet_per_label(n, c.batch, c.label, diffusion_n_comps=20)),
    "connectivity": ("graph_connectivity", lambda c, n: scib.graph_connectivity(n, c.label)),
    "leiden": ("nmi_ari_cluster_labels_leiden", lambda c, n: scib.nmi_ari_cluster_labels_leiden(n, c.label)),
    "leiden, one": (
        "nmi_ari_cluster_labels_leiden",
        lambda c, n: scib.nmi_ari_cluster_labels_leiden(n, c.label, optimize_resolution=False, resolution=0.3),
    ),
    "kmeans": ("nmi_ari_cluster_labels_kmeans", lambda c, _: scib.nmi_ari_cluster_labels_kmeans(c.x, c.label)),
    "pcr": ("pcr_comparison", lambda c, _: scib.pcr_comparison(c.x + c.batch[:, None], c.x, c.batch, categorical=True)),
    "pcr of numbers": ("pcr_comparison", lambda c, _: scib.pcr_comparison(c.x + c.time[:, None], c.x, c.time)),
    "pcr below 0": ("pcr_comparison", lambda c, _: scib.pcr_comparison(c.x, c.x + c.time[:, None], c.time)),
    "pcr, raw": ("pcr_comparison", lambda c, _: scib.pcr_comparison(c.x, c.x + c.time[:, None], c.time, scale=False)),
}


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        ours, theirs = [list(one.items()) for one in (ours, theirs)]
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b, tolerance)
    elif isinstance(ours, str):
        assert ours == theirs
    else:
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("call", CALLS)
def test_calls_equal_those_of_scib_metrics(call: str, cells: Cells, neighbors: NeighborsResults) -> None:
    name, run = CALLS[call]
    theirs = run(cells, neighbors)
    with accel.accelerated(engine="cpu") as report:
        ours = run(cells, neighbors)
    assert_same(ours, theirs, TOLERANCE.get(name, 2e-5))
    assert report[f"scib_metrics.{name}"].ran == 1
    assert len(report) == 1


def test_kbet_per_label_returns_the_table(cells: Cells, neighbors: NeighborsResults) -> None:
    labels = np.where(cells.label == 0, "a", "b")
    _, theirs = scib.kbet_per_label(neighbors, cells.batch, labels, diffusion_n_comps=20, return_df=True)
    with accel.accelerated(engine="cpu"):
        score, ours = scib.kbet_per_label(neighbors, cells.batch, labels, diffusion_n_comps=20, return_df=True)
    pd.testing.assert_frame_equal(ours, theirs, atol=0.03)
    assert score == pytest.approx(ours["kBET"].mean())


def test_empty_categories_of_batch_count_as_in_scib_metrics(cells: Cells, caplog) -> None:
    """One label lacks the first batch, another the last, which does not count."""
    batch = np.where(cells.label == 1, 1 + cells.batch, np.where(cells.label == 2, 0 * cells.batch, cells.batch))
    batch[np.flatnonzero(cells.label == 2)[::2]] = 1
    given = (cells.x, pd.Series(cells.label.astype(str)), pd.Series(batch.astype(str)).astype("category"))
    theirs = scib.silhouette_batch(*given)
    plain = scib.silhouette_batch(given[0], given[1], given[2].astype(object))
    with accel.accelerated(engine="cpu"):
        ours = scib.silhouette_batch(*given)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(plain - theirs) > 1e-3
    assert "give batch as strings" in caplog.text


NOT_COVERED: dict[str, Callable[[Cells, NeighborsResults], Any]] = {
    "metric": lambda c, _: scib.silhouette_label(c.x, c.label, metric="l1"),
    "furthest": lambda c, _: scib.silhouette_batch(c.x, c.label, c.batch, between_cluster_distances="furthest"),
    "lists": lambda c, _: scib.silhouette_label(c.x, c.label.tolist()),
    "frame": lambda c, _: scib.silhouette_label(pd.DataFrame(c.x), c.label),
    "one label": lambda c, _: scib.silhouette_label(c.x, np.zeros(c.n)),
    "one batch": lambda c, _: scib.silhouette_batch(c.x, c.label, np.zeros(c.n)),
    "lengths": lambda c, _: scib.silhouette_label(c.x, c.label[1:]),
    "empty category": lambda c, _: scib.silhouette_label(
        c.x, pd.Series(pd.Categorical(c.label * 2, categories=range(5)))
    ),
    "origin": lambda c, _: scib.silhouette_label(
        np.where(np.arange(c.n)[:, None] < 2, 0, c.x), c.label, metric="cosine"
    ),
    "kbet lengths": lambda c, n: scib.kbet(n, c.batch[1:]),
    "kbet without self": lambda c, n: scib.kbet(NeighborsResults(n.indices[:, 1:], n.distances[:, 1:]), c.batch),
    "components": lambda c, _: scib.pcr_comparison(c.x, c.x, c.batch, categorical=True, n_components=3),
    "no cells": lambda c, _: scib.silhouette_label(c.x[:0], c.label[:0]),
}


@pytest.mark.parametrize("case", NOT_COVERED)
def test_uncovered_call_goes_to_the_original(case: str, cells: Cells, neighbors: NeighborsResults) -> None:
    few = Cells(cells.x[:60], cells.label[:60], cells.batch[:60], cells.time[:60])

    def answer() -> Any:
        try:
            return NOT_COVERED[case](cells if "kbet" in case else few, neighbors)
        except Exception as error:  # noqa: BLE001 - whatever it is
            return type(error), str(error)

    theirs = answer()
    with accel.accelerated(engine="cpu") as report:
        ours = answer()
    np.testing.assert_equal(ours, theirs)
    assert len(report)
    assert all(ran == 0 for _, ran, *_ in report.rows())


def test_lisi_accepts_neighbors_without_the_cell_itself(cells: Cells, neighbors: NeighborsResults) -> None:
    """Neighbours in any order, as searches on devices return them."""
    others = NeighborsResults(neighbors.indices[:, :0:-1].copy(), neighbors.distances[:, :0:-1].copy())
    theirs = scib.lisi_knn(others, cells.label)
    with accel.accelerated(engine="cpu") as report:
        ours = scib.lisi_knn(others, cells.label)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert report["scib_metrics.lisi_knn"].ran == 1


def test_benchmarker_equals_that_of_scib_metrics(cells: Cells) -> None:
    data = anndata.AnnData(
        cells.x, obs=pd.DataFrame({"label": cells.label.astype(str), "batch": cells.batch.astype(str)})
    )
    data.obs.index = data.obs.index.astype(str)
    data.obsm["plain"] = cells.x
    data.obsm["shifted"] = cells.x + cells.batch[:, None]

    def table() -> pd.DataFrame:
        benchmarker = Benchmarker(data.copy(), "batch", "label", ["plain", "shifted"], progress_bar=False)
        benchmarker.benchmark()
        return benchmarker.get_results()

    theirs = table()
    with accel.accelerated(engine="cpu") as report:
        ours = table()
    assert list(ours.columns) == list(theirs.columns)
    assert list(ours.index) == list(theirs.index)
    assert ours.loc["Metric Type"].tolist() == theirs.loc["Metric Type"].tolist()
    numbers = [one.drop(index="Metric Type").astype(float) for one in (ours, theirs)]
    draws = ["KMeans NMI", "KMeans ARI"]
    np.testing.assert_allclose(*(one.drop(columns=[*draws, "Bio conservation", "Total"]) for one in numbers), atol=0.03)
    np.testing.assert_allclose(*numbers, atol=0.15)
    assert len(report) == 10
    assert not any(report[name].reasons for name, *_ in report.rows()), report
