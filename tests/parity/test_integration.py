"""Integration metrics compared with the real scib-metrics, on the same cells and neighbours."""

from __future__ import annotations

import math
from importlib import metadata
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from parity.conftest import Case, cases_with

from gpubench import metrics
from gpubench.data import encode_labels
from gpubench.engines import get_engine
from gpubench.engines.embedding import Embedding, on_engine
from gpubench.running.score import score

VERSION = "0.5.10"
SEEDS = range(8)  # starts of k-means; one says little

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of the peer


class Side(NamedTuple):
    """One file as both take it.

    Attributes
    ----------
    cells : as gpubench takes them
    neighbors : the 90 nearest of each cell, itself first, as scib-metrics takes them
    """

    cells: Embedding
    x: NDArray[np.float32]
    label: NDArray[Any]
    batch: NDArray[Any]
    neighbors: Any


def test_it_is_the_release_that_we_agree_with() -> None:
    assert metadata.version("scib-metrics") == VERSION


@pytest.fixture(scope="module")
def side(case: Case) -> Side:
    """Labels are renamed by size: scib-metrics lets a small label lower the components of the labels after it."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    x = np.ascontiguousarray(case.cells.obsm["X_pca"], np.float32)
    label = encode_labels(case.cells.obs[case.columns["label"]], "label")
    rank = np.argsort(np.argsort(-np.bincount(label.codes), kind="stable"))
    cells = on_engine(x, "cpu")
    knn = cells.knn(89)
    own = np.arange(len(x), dtype=np.int32)[:, None]
    neighbors = NeighborsResults(
        np.hstack([own, knn.indices]), np.hstack([np.zeros((len(x), 1), np.float32), knn.distances])
    )
    names = np.array([f"type {r:02}" for r in rank])
    return Side(cells, x, names[label.codes], case.cells.obs[case.columns["batch"]].astype(str).to_numpy(), neighbors)


@cases_with("batch")
def test_silhouettes(side: Side) -> None:
    import scib_metrics

    x, label, batch = side.x, side.label, side.batch
    theirs = scib_metrics.isolated_labels(x, label, batch)
    assert metrics.isolated_labels(side.cells, label, batch) == pytest.approx(theirs, abs=1e-4)
    for distance in ("cosine", "euclidean"):
        theirs = scib_metrics.bras(x, label, batch, metric=distance)
        assert metrics.bras(side.cells, label, batch, metric=distance) == pytest.approx(theirs, abs=1e-4)


@cases_with("batch")
@pytest.mark.parametrize("n_neighbors", [15, 90])
def test_lisi(side: Side, n_neighbors: int) -> None:
    import scib_metrics

    near = side.neighbors.subset_neighbors(n_neighbors)
    theirs = scib_metrics.lisi_knn(near, side.batch)
    ours = metrics.lisi_knn(side.cells, side.batch, n_neighbors=n_neighbors)
    # where the entropy hardly depends on the weights, their tolerance leaves the weights open
    assert np.quantile(np.abs(ours - theirs), 0.95) < 1e-3
    theirs = scib_metrics.ilisi_knn(near, side.batch)
    assert metrics.ilisi_knn(side.cells, side.batch, n_neighbors=n_neighbors) == pytest.approx(theirs, abs=1e-3)
    theirs = scib_metrics.clisi_knn(near, side.label)
    assert metrics.clisi_knn(side.cells, side.label, n_neighbors=n_neighbors) == pytest.approx(theirs, abs=1e-3)


@cases_with("batch")
def test_kbet(side: Side) -> None:
    import scib_metrics

    near = side.neighbors.subset_neighbors(50)
    rate, statistics, p_values = scib_metrics.kbet(near, side.batch)
    ours = metrics.kbet_tests(side.cells, side.batch)
    assert ours.statistics == pytest.approx(statistics, rel=1e-4)
    assert ours.p_values == pytest.approx(p_values, abs=1e-4)
    assert metrics.kbet(side.cells, side.batch) == pytest.approx(rate, abs=1e-6)


@cases_with("batch")
def test_kbet_per_label(side: Side) -> None:
    import scib_metrics

    near = side.neighbors.subset_neighbors(50)
    theirs, table = scib_metrics.kbet_per_label(near, side.batch, side.label, return_df=True)
    per_label = metrics.kbet_of_labels(side.cells, side.batch, side.label)
    for label, expected in table.itertuples(index=False):
        assert math.isnan(per_label[label]) == math.isnan(expected), label
    assert metrics.kbet_per_label(side.cells, side.batch, side.label) == pytest.approx(theirs, abs=0.02)


@cases_with("batch")
@pytest.mark.parametrize("n_neighbors", [5, 15])
def test_graph_connectivity(side: Side, n_neighbors: int) -> None:
    import scib_metrics

    theirs = scib_metrics.graph_connectivity(side.neighbors.subset_neighbors(n_neighbors), side.label)
    ours = metrics.graph_connectivity(side.cells, side.label, n_neighbors=n_neighbors)
    assert ours == pytest.approx(theirs, abs=1e-6)


@cases_with("batch")
def test_pcr_comparison(side: Side) -> None:
    import scib_metrics

    numbers = np.unique(side.batch, return_inverse=True)[1].astype(np.float32)
    before = side.x + numbers[:, None]
    theirs = scib_metrics.pcr_comparison(before, side.x, side.batch, categorical=True)
    assert metrics.pcr_comparison(before, side.cells, side.batch) == pytest.approx(theirs, abs=1e-4)
    assert theirs > 0
    theirs = scib_metrics.pcr_comparison(before, side.x, numbers)
    ours = metrics.pcr_comparison(before, side.cells, numbers, categorical=False)
    assert ours == pytest.approx(theirs, abs=1e-4)


@cases_with("batch")
def test_kmeans(side: Side) -> None:
    from scib_metrics.utils import KMeans

    n_clusters = len(np.unique(side.label))
    theirs = [KMeans(n_clusters, seed=seed).fit(side.x.copy()).labels_ for seed in SEEDS]
    ours = [metrics.kmeans_clusters(side.x, n_clusters, engine=get_engine("cpu", seed=seed)) for seed in SEEDS]
    for agreement in (metrics.normalized_mutual_info, metrics.adjusted_rand_index):
        expected, found = (mean(agreement(side.label, one, engine="cpu") for one in both) for both in (theirs, ours))
        assert found == pytest.approx(expected, abs=0.05)


@cases_with("batch")
def test_leiden(side: Side) -> None:
    import scib_metrics

    theirs = scib_metrics.nmi_ari_cluster_labels_leiden(side.neighbors.subset_neighbors(15), side.label)
    nmi = metrics.nmi_ari_cluster_labels_leiden_nmi(side.cells, side.label)
    ari = metrics.nmi_ari_cluster_labels_leiden_ari(side.cells, side.label)
    assert (nmi, ari) == (pytest.approx(theirs["nmi"], abs=0.03), pytest.approx(theirs["ari"], abs=0.03))


@cases_with("batch")
def test_benchmarker(case: Case) -> None:
    """The whole task, with their approximate neighbours and their one start of k-means."""
    from scib_metrics.benchmark import Benchmarker

    cells = case.cells.copy()
    label, batch = case.columns["label"], case.columns["batch"]
    shift = np.unique(cells.obs[batch], return_inverse=True)[1].astype(np.float32)
    cells.obsm["X_before"] = cells.obsm["X_pca"] + shift[:, None]
    cells.obs[label] = cells.obs[label].astype(str)
    peer = Benchmarker(cells, batch, label, ["X_pca"], pre_integrated_embedding_obsm_key="X_before", progress_bar=False)
    peer.benchmark()
    theirs = peer.get_results(clean_names=False).loc["X_pca"].to_dict()
    result = score(cells, ["X_pca"], label=label, batch=batch, tasks="scib", pre_integrated="X_before", engine="cpu")
    names = {"silhouette_score": "silhouette_label", "bio_conservation": "Bio conservation"}
    names |= {"batch_correction": "Batch correction", "total": "Total"}
    for row in result.results:
        expected = float(theirs.pop(names.get(row.metric, row.metric)))
        assert row.value == pytest.approx(expected, abs=0.15 if "kmeans" in row.metric else 0.05), row.metric
    assert not theirs
