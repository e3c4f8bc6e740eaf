"""The code of docs/training.md runs."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import anndata
import numpy as np
import pytest

from gpubench.core.errors import GpubenchWarning
from gpubench.datasets import demo_path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("needs_lightning", "needs_torchmetrics", "needs_transformers")
def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    cells = anndata.read_h5ad(demo_path())[::4]
    np.save("expression.npy", cells.obsm["X_pca"])
    np.save("labels.npy", cells.obs["cell_type"].to_numpy(str))
    np.save("batch.npy", cells.obs["batch"].to_numpy(str))
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", GpubenchWarning)
        for code in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            exec(compile(code, "docs/training.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("'embedding/silhouette_score'") == 4
    assert "'batch_integration/entropy_per_cell'" in printed
    assert names["trainer"].callback_metrics["embedding/silhouette_score"] > 0  # type: ignore[attr-defined]
