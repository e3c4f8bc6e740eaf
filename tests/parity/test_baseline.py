"""The PCA that embeddings are compared with."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest
from parity import peer

from gpubench.running.score import score


# X of these files is logarithmised, which cz-benchmarks does once more
@pytest.mark.filterwarnings("ignore:baseline='pca' normalises and logarithmises X:gpubench.core.errors.GpubenchWarning")
@pytest.mark.parametrize("name", ["pbmc3k", "worm_embryo"])
def test_scores_of_the_pca_baseline(name: str, shared_data: Path) -> None:
    path = shared_data / f"{name}.h5ad"
    cells = anndata.read_h5ad(path)
    cells.obsm["X_pca"] = peer.pca_baseline(cells)
    theirs = peer.embedding(cells, "cell_type")
    result = score(path, ["X_pca"], label="cell_type", baseline="pca", tasks=["embedding"])
    ours = result.value("silhouette_score", embedding="baseline_pca")
    assert ours == pytest.approx(theirs["silhouette_score",], abs=1e-4)
