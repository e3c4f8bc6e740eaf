"""Inputs behind URLs, and Parquet: the workers of Dask read them for themselves, over a server that is really there."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import s3
from shared_dask import shared_client
from stores import make_anndata, write_h5ad, zarr_writer

pytest.importorskip("distributed", reason="Dask is not installed")
pytest.importorskip("aiohttp", reason="fsspec has no HTTP without aiohttp")

from pathlib import Path

import gpubench as gb
from gpubench.core.errors import InputError
from gpubench.data import read
from gpubench.engines.dask.engine import DaskEngine

TOKEN = "aBcDeFgHiJkL"


@pytest.mark.slow
def test_workers_read_urls_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is handed over by the client, no name of a task or a held matrix has the token, values are the same."""
    whole = make_anndata()
    x = whole.obsm["X_pca"]
    adata = ad.AnnData(obs=whole.obs[["cell_type"]], obsm={"X_pca": x})
    write_h5ad(adata, tmp_path)
    zarr_writer(3)(adata, tmp_path)
    np.save(tmp_path / "emb.npy", x)
    pd.DataFrame(x).to_parquet(tmp_path / "emb.parquet")
    engine = DaskEngine(cluster=shared_client())
    monkeypatch.setattr(engine.placement.here, "put", lambda *_: pytest.fail("the cells went through the client"))
    with s3.serve() as (client, proxy):
        for file in tmp_path.rglob("*"):
            if file.is_file():
                name = file.relative_to(tmp_path).as_posix()
                client.put_object(Bucket=s3.BUCKET, Key=name, Body=file.read_bytes(), ACL="public-read")
        for name in ("cells.h5ad", "cells3.zarr", "emb.npy", "emb.parquet"):
            query = "" if name.endswith(".zarr") else f"?token={TOKEN}"
            asked: Any = ["X_pca"] if name.startswith("cells") else None
            (rows,) = read(f"{proxy.url}/{s3.BUCKET}/{name}{query}", embeddings=asked).embeddings.values()
            on = engine.put(rows)
            np.testing.assert_array_equal(np.asarray(on), x)
            assert TOKEN not in repr([on.blocks, on.future])
            engine.release(on)
        url = f"{proxy.url}/{s3.BUCKET}/cells.h5ad?token={TOKEN}"
        result = gb.score(url, ["X_pca"], label="cell_type", tasks="embedding", engine=engine)
        assert not result.failures
        assert TOKEN not in str(result.provenance) + str(result.timeline)
        lost = read(f"{proxy.url}/{s3.BUCKET}/emb.npy?token={TOKEN}").embeddings["emb"]
        client.delete_object(Bucket=s3.BUCKET, Key="emb.npy")
        with pytest.raises(InputError, match=r"emb\.npy does not exist; check the address$") as error:
            engine.put(lost)
        assert TOKEN not in str(error.value)
