"""Files as AnnData objects, for those who work with their cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpubench.data.messages import reading
from gpubench.errors import InputError


def load_anndata(path: Path, *, backed: bool = False) -> Any:
    """Load an AnnData file.

    Parameters
    ----------
    path : of an h5ad file or a zarr store
    backed : leave the expression of an h5ad file on the disk

    Returns
    -------
    anndata.AnnData

    Raises
    ------
    InputError
        It is no AnnData, is damaged, or a zarr store is to be backed.
    """
    import anndata

    if not path.is_dir():
        with reading(str(path)):
            return anndata.read_h5ad(path, backed="r" if backed else None)
    if backed:
        raise InputError(f"backed: {path} is a zarr store, which is read whole; leave backed out")
    with reading(str(path)):
        return anndata.read_zarr(path)
