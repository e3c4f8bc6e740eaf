"""Neighbours and clusters that were computed before are used instead of found, after checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cells import make_cells
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.engines.cpu.engine import CpuEngine

TASKS = ["clustering", "batch_integration"]
N = 240


def neighbors_of(x: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances of the nearest cells, the cell itself not counted."""
    distances, indices = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(x.astype(float)).kneighbors()
    return indices[:, : n_neighbors - 1], distances[:, : n_neighbors - 1]


def store(adata: anndata.AnnData, n_neighbors: int, key: str = "neighbors", own: bool = False, **params: Any) -> None:
    """Write neighbours as scanpy.pp.neighbors does."""
    indices, distances = neighbors_of(adata.obsm["X_pca"], n_neighbors)
    if own:
        indices = np.column_stack([np.arange(N), indices])
        distances = np.column_stack([np.zeros(N), distances])
    n, k = indices.shape
    matrix = sparse.csr_matrix((distances.ravel(), indices.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    slot = "distances" if key == "neighbors" else f"{key}_distances"
    adata.obsp[slot] = matrix
    given = {"n_neighbors": n_neighbors, "method": "umap", "metric": "euclidean", "use_rep": "X_pca", "random_state": 0}
    given = {name: value for name, value in {**given, **params}.items() if value is not None}
    adata.uns[key] = {"connectivities_key": "connectivities", "distances_key": slot, "params": given}


@pytest.fixture
def adata() -> anndata.AnnData:
    cells = make_cells(N, 6, n_labels=4, n_batches=3, seed=1, duplicates=0)
    obs = pd.DataFrame(
        {
            "label": [f"type{code}" for code in cells.label],
            "batch": [f"donor{code}" for code in cells.batch],
            "leiden": pd.Categorical([str(code) for code in (cells.label + cells.batch) % 5]),
        },
        index=[f"c{i}" for i in range(N)],
    )
    return anndata.AnnData(obs=obs, obsm={"X_pca": cells.x, "X_two": cells.x[:, :2].copy()})


def score(data: Any, embeddings: Any = "X_pca", **changes: Any) -> gb.Result:
    given = {"label": "label", "batch": "batch", "tasks": TASKS, "n_neighbors": 30, "engine": "cpu"}
    return gb.score(data, embeddings, **{**given, **changes})


def values(result: gb.Result) -> dict[str, float]:
    return {row.metric: row.value for row in result}


def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuEngine, "knn", lambda *_: pytest.fail("searched"))


@pytest.mark.parametrize("own", [False, True])
def test_neighbors_of_scanpy_give_the_scores_of_a_search(
    adata: anndata.AnnData, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = values(score(adata))
    store(adata, 40, own=own)
    no_search(monkeypatch)
    result = score(adata, neighbors_key="neighbors")
    assert values(result) == pytest.approx(expected, abs=1e-6)
    assert not result.failures
    note = "neighbours of uns['neighbors'], 39 neighbours of each cell (n_neighbors=40, metric=euclidean, use_rep=X_pca"
    for row in result:
        assert (note in row.note) == (row.metric != "batch_silhouette")
        assert not row.approximate
    assert result.provenance["options"]["neighbors_key"] == "neighbors"
    assert note in f"neighbours of {result.notes[-1].partition('those of ')[2]}"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_neighbors_in_files(
    adata: anndata.AnnData, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(adata, 40, key="mine")
    adata.obsp["mine_distances"] = adata.obsp["mine_distances"].tocsc()
    expected = values(score(adata, neighbors_key="mine"))
    path = tmp_path / f"cells.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    no_search(monkeypatch)
    result = score(path, neighbors_key="mine")
    assert values(result) == expected
    assert "recall 1.000 of 200 cells" in result.results[0].note


@pytest.mark.parametrize("form", ["tuple", "mapping", "own first", "shuffled"])
def test_arrays_of_neighbors(adata: anndata.AnnData, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(score(adata))
    indices, distances = neighbors_of(adata.obsm["X_pca"], 30)
    given: Any = indices, distances
    if form == "mapping":
        given = {"indices": indices.astype(np.uint32), "distances": distances.astype(np.float32)}
    elif form == "own first":
        given = np.column_stack([np.arange(N), indices]), np.column_stack([np.zeros(N), distances])
    elif form == "shuffled":
        given = indices[:, ::-1], distances[:, ::-1]
    no_search(monkeypatch)
    result = score(adata, neighbors_key=given)
    assert values(result) == pytest.approx(expected, abs=1e-6)
    assert result.provenance["options"]["neighbors_key"] == "array"


def test_a_symmetric_graph_has_its_nearest(adata: anndata.AnnData) -> None:
    store(adata, 40)
    expected = values(score(adata, neighbors_key="neighbors"))
    matrix = adata.obsp["distances"]
    adata.obsp["distances"] = matrix.maximum(matrix.T)
    assert values(score(adata, neighbors_key="neighbors")) == expected


def test_copies_at_distance_zero_are_neighbors(adata: anndata.AnnData) -> None:
    x = adata.obsm["X_pca"].copy()
    x[100:120] = x[:20]
    adata.obsm["X_pca"] = x
    store(adata, 40)
    assert (adata.obsp["distances"].data == 0).sum() == 40
    assert values(score(adata, neighbors_key="neighbors")) == pytest.approx(values(score(adata)), abs=1e-6)
    adata.obsp["distances"].eliminate_zeros()
    with pytest.raises(InputError, match="40 of 240 rows have fewer than the 39 neighbours of n_neighbors=40"):
        score(adata, neighbors_key="neighbors")


def test_a_task_that_needs_more_neighbors_fails_alone(adata: anndata.AnnData) -> None:
    store(adata, 15)
    result = score(adata, neighbors_key="neighbors")
    assert {row.task for row in result} == {"clustering"}
    (failure,) = result.failures
    assert failure["task"] == "batch_integration"
    assert failure["error"].startswith("batch_integration: neighbors_key has 14 neighbours of each cell, and 29 are")
    with pytest.raises(InputError, match=r"and 29 are needed \(n_neighbors=30 in scanpy\); give more, lower the opt"):
        score(adata, neighbors_key="neighbors", tasks="batch_integration")


def test_several_embeddings_use_the_graph_of_one(adata: anndata.AnnData) -> None:
    store(adata, 40)
    expected = score(adata, ["X_two", "X_pca"])
    result = score(adata, ["X_two", "X_pca"], neighbors_key="neighbors")
    for name in ("X_two", "X_pca"):
        assert values(result[name]) == pytest.approx(values(expected[name]), abs=1e-6)
    assert not any("uns['neighbors']" in row.note for row in result["X_two"])
    store(adata, 40, use_rep=None)
    with pytest.raises(InputError, match=r"does not say of which embedding it is \(use_rep\), and there are 'X_two'"):
        score(adata, ["X_two", "X_pca"], neighbors_key="neighbors")
    assert score(adata, neighbors_key="neighbors").results


def test_approximate_neighbors_are_marked(adata: anndata.AnnData) -> None:
    indices, _ = neighbors_of(adata.obsm["X_pca"], 41)
    indices = np.delete(indices, 3, axis=1)  # the fourth was missed
    x = adata.obsm["X_pca"].astype(float)
    distances = np.linalg.norm(x[indices] - x[:, None], axis=2)
    result = score(adata, neighbors_key=(indices, distances))
    (row,) = [row for row in result if row.metric == "entropy_per_cell"]
    assert row.approximate
    assert row.params["knn"] == "given"
    assert row.params["recall"] == pytest.approx(38 / 39, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "cosine"}, "has distances of metric 'cosine'; give Euclidean ones"),
        ({"use_rep": "X_scvi"}, r"was computed on 'X_scvi' \(use_rep\), and the embeddings are 'X_pca'"),
        ({"n_neighbors": 60}, "240 of 240 rows have fewer than the 59 neighbours of n_neighbors=60"),
        ({"n_pcs": 3, "double": True}, r"is not of X_pca \(n_pcs=3 of 6\): from cell \d+ to its neighbour \d+ it has"),
        ({"key": "neighbours"}, r"neighbors_key='neighbours' is not in uns \(did you mean 'neighbors'\?\)"),
        ({"slot": "gone"}, "obsp has no 'gone'; compute the neighbours again"),
    ],
)
def test_neighbors_that_do_not_fit_are_refused(adata: anndata.AnnData, change: dict[str, Any], message: str) -> None:
    store(adata, 40)
    if change.pop("double", False):
        adata.obsp["distances"].data *= 2
    if slot := change.pop("slot", None):
        adata.uns["neighbors"]["distances_key"] = slot
    key = change.pop("key", "neighbors")
    adata.uns["neighbors"]["params"] |= change
    with pytest.raises(InputError, match=message) as error:
        score(adata, neighbors_key=key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda i, d: (i[:9], d[:9]), "have the shapes"),
        (lambda i, d: (d, i), "indices have dtype float64"),
        (lambda i, d: (i - 1, d), r"rows have neighbours outside of 0 to 239|do not have their own cell once"),
        (lambda i, d: (np.repeat(i[:, :5], 6, axis=1), np.repeat(d[:, :5], 6, axis=1)), "rows have a neighbour twice"),
        (lambda i, d: (i, d - 100), "have distances that are negative"),
        (lambda i, d: (i, d**2), "is not of X_pca: from cell"),
        (lambda *_: 3, "neighbors_key is of type int; give a key of uns, or"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(adata: anndata.AnnData, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(adata, neighbors_key=given(*neighbors_of(adata.obsm["X_pca"], 40)))


def test_combinations_that_cannot_be_are_refused(adata: anndata.AnnData) -> None:
    store(adata, 40)
    with pytest.raises(InputError, match="cannot be used, since cells are left out or reordered"):
        score(adata, neighbors_key="neighbors", where="batch != 'donor1'")
    with pytest.raises(InputError, match="is used by none of the chosen tasks"):
        score(adata, neighbors_key="neighbors", tasks="embedding")
    label = adata.obs["label"].tolist()
    with pytest.raises(InputError, match="is a key of uns, and data is not AnnData"):
        score(adata.obsm["X_pca"], None, label=label, batch=None, tasks="clustering", neighbors_key="n")
    with pytest.raises(InputError, match=r"'neighbors' is unknown .did you mean 'neighbors_key'"):
        score(adata, neighbors="neighbors")


def test_plan_does_not_search(adata: anndata.AnnData) -> None:
    store(adata, 40)
    given = {"label": "label", "tasks": "clustering", "engine": "cpu"}
    searched = [stage.path for stage in gb.plan(adata, "X_pca", **given).stages]
    planned = [stage.path for stage in gb.plan(adata, "X_pca", neighbors_key="neighbors", **given).stages]
    assert [path for path in searched if path not in planned] == ["X_pca/knn"]


def test_resuming_knows_the_neighbors(adata: anndata.AnnData, tmp_path: Path) -> None:
    """Scores of other neighbours are not read from a checkpoint."""
    store(adata, 40)
    searched = score(adata, tasks="clustering")
    given = neighbors_of(adata.obsm["X_pca"], 16)
    from gpubench.core.checkpoint import Checkpoint

    with Checkpoint(tmp_path) as parts:
        score(adata, tasks="clustering", checkpoint=parts)
    indices = np.delete(given[0], 0, axis=1)
    distances = np.delete(given[1], 0, axis=1)
    with Checkpoint(tmp_path) as parts:
        other = score(adata, tasks="clustering", neighbors_key=(indices, distances), checkpoint=parts)
        assert not parts.resumed
    assert other.results[0].params["recall"] < 1
    assert not searched.results[0].approximate


@pytest.mark.parametrize("form", ["name", "array"])
def test_given_clusters_are_compared_with_the_labels(
    adata: anndata.AnnData, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_search(monkeypatch)
    clusters = "leiden" if form == "name" else adata.obs["leiden"].to_numpy()
    result = score(adata, tasks="clustering", clusters=clusters)
    label, leiden = adata.obs["label"], adata.obs["leiden"]
    assert result["X_pca", "adjusted_rand_index"] == gb.metrics.adjusted_rand_index(label, leiden)
    assert result["X_pca", "normalized_mutual_info"] == gb.metrics.normalized_mutual_info(label, leiden)
    for row in result:
        assert row.params["clusters"] == ("leiden" if form == "name" else "array")
        assert row.note == "5 given clusters, not found in this embedding"
    assert result.provenance["options"]["clusters"] == ("leiden" if form == "name" else "array")
    column = result.cells.find("cluster")
    assert [column.names[code] for code in column.values] == leiden.tolist()
    assert "clusters" not in result.cells.groups
    assert [stage["path"] for stage in result.timeline if "leiden" in stage["path"]] == []


def test_given_clusters_follow_the_cells(adata: anndata.AnnData) -> None:
    result = score(adata, tasks="clustering", clusters="leiden", where="batch != 'donor1'")
    own = adata.obs[adata.obs["batch"] != "donor1"]
    assert result["X_pca", "adjusted_rand_index"] == gb.metrics.adjusted_rand_index(own["label"], own["leiden"])


def test_clusters_without_their_task_are_refused(adata: anndata.AnnData) -> None:
    with pytest.raises(InputError, match="clusters are used by the task 'clustering' only"):
        score(adata, tasks="embedding", clusters="leiden")
    with pytest.raises(InputError, match="clusters='leidn' is not a column"):
        score(adata, clusters="leidn")
