"""Datasets by name, from the cz-benchmarks suite and from the user's own catalogues.

>>> import gpubench as gb
>>> path = gb.datasets.fetch("tsv2_blood")  # downloaded once  # doctest: +SKIP
>>> cells = gb.datasets.load("tsv2_blood")  # from then on read from the cache  # doctest: +SKIP
>>> gb.score("tsv2_blood", "embedding.npy")  # its labels, your embedding  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from gpubench.datasets.catalogue import CatalogueEntry

__all__ = ["demo_path", "fetch", "ids", "info", "knockouts_path", "load", "path"]

Catalogues: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""Paths of one or more catalogues, in the format of gpubench or of cz-benchmarks."""


DEMO_SOURCE = (
    "1,021 cells of five human lung cancer cell lines in five batches (Tian et al. 2019,"
    " doi:10.1038/s41592-019-0425-8; LuyiTian/sc_mixology, MIT licence)"
)
"""Origin of the cells of `demo_path`, see celllines.txt."""

KNOCKOUTS_SOURCE = (
    "2,105 cells of a knockout screen of 12 genes in two replicates (Papalexi et al. 2021,"
    " doi:10.1038/s41588-021-00778-2; Katsevich-Lab/sceptredata, MIT licence)"
)
"""Origin of the cells of `knockouts_path`, see knockouts.txt."""


def demo_path() -> Path:
    """Return the path of the bundled h5ad file, with 1,021 cells.

    It has an embedding, obsm["X_pca"], and the columns obs["cell_type"] and obs["batch"] with 5 values each.

    Examples
    --------
    >>> import gpubench as gb
    >>> result = gb.score(gb.datasets.demo_path(), "X_pca", label="cell_type", tasks="embedding", engine="cpu")
    >>> round(result.value("silhouette_score"), 3)
    0.641
    """
    return Path(__file__).with_name("celllines.h5ad")


def knockouts_path() -> Path:
    """Return the path of the bundled h5ad file of a perturbation screen, with 2,105 cells.

    X has counts of 244 genes, obs["perturbation"] the knocked-out gene or "non-targeting", obs["replicate"] "1" or "2".

    Examples
    --------
    >>> import anndata
    >>> import gpubench as gb
    >>> screen = anndata.read_h5ad(gb.datasets.knockouts_path())
    >>> screen.shape
    (2105, 244)
    """
    return Path(__file__).with_name("knockouts.h5ad")


def ids(*, catalogue: Catalogues = ()) -> list[str]:
    """Return the names of all datasets in the bundled catalogue, in the user's, and in further ones.

    Parameters
    ----------
    catalogue : paths of further catalogues; fields of their entries override those of the other catalogues

    Raises
    ------
    InputError
        A catalogue cannot be read.

    Examples
    --------
    >>> import gpubench as gb
    >>> gb.datasets.ids()[:3]
    ['tsv2_bladder', 'tsv2_blood', 'tsv2_bone_marrow']
    """
    from gpubench.datasets.catalogue import read_catalogues

    return list(read_catalogues(catalogue))


def info(id: str, *, catalogue: Catalogues = ()) -> CatalogueEntry:  # noqa: A002 - the field's word
    """Return the catalogue entry of a dataset.

    Parameters
    ----------
    id : name in a catalogue
    catalogue : further catalogues, as in `ids`

    Raises
    ------
    InputError
        No catalogue has the dataset, or a catalogue cannot be read.

    Examples
    --------
    >>> import gpubench as gb
    >>> entry = gb.datasets.info("tsv2_blood")
    >>> entry.title, entry.label
    ('Tabula Sapiens v2, blood', 'cell_type')
    """
    from gpubench.datasets.catalogue import find, read_catalogues

    return find(id, read_catalogues(catalogue))


def fetch(
    id: str,  # noqa: A002 - the field's word
    *,
    refresh: bool = False,
    catalogue: Catalogues = (),
    progress: bool = True,
) -> Path:
    """Download the file of a dataset into the cache, unless it is already there.

    Parameters
    ----------
    id : name in a catalogue
    refresh : ask the server whether it has a newer version, and download that version
    catalogue : further catalogues, as in `ids`
    progress : draw a progress bar on standard error if that is a terminal

    Returns
    -------
    Path of the file in the cache, or the path in the catalogue if that is a local file.

    Raises
    ------
    InputError
        The dataset is unknown or has no address, the download fails (no network, permission or space), or the file has
        a wrong checksum.
    """
    from gpubench.datasets import fetching
    from gpubench.datasets.catalogue import local_file

    entry = info(id, catalogue=catalogue)
    if not entry.is_remote:
        return local_file(entry)
    with fetching.DownloadProgress(shown=progress) as listener:
        return fetching.fetch(entry, refresh=refresh, listener=listener)[0]


def path(id: str, *, catalogue: Catalogues = ()) -> Path:  # noqa: A002 - the field's word
    """Return the path of a dataset's file without downloading anything.

    Parameters
    ----------
    id : name in a catalogue
    catalogue : further catalogues, as in `ids`

    Raises
    ------
    InputError
        The dataset is unknown, or its file has not been downloaded yet.
    """
    from gpubench.core.errors import InputError
    from gpubench.datasets.cache import cache_path, matches, read_record
    from gpubench.datasets.catalogue import local_file

    entry = info(id, catalogue=catalogue)
    if not entry.is_remote:
        return local_file(entry)
    cached = cache_path(entry)
    if not matches(read_record(cached), entry):
        raise InputError(f"dataset {id!r} is not in the cache ({cached}); run gpubench datasets fetch {id}")
    return cached


def load(
    id: str,  # noqa: A002 - the field's word
    *,
    backed: bool = False,
    catalogue: Catalogues = (),
    progress: bool = True,
) -> Any:
    """Load a dataset as AnnData; fetch it first if it is not in the cache.

    Parameters
    ----------
    id : name in a catalogue
    backed : leave the expression matrix on disk instead of reading it into memory
    catalogue, progress : as in `fetch`

    Returns
    -------
    anndata.AnnData

    Raises
    ------
    InputError
        The file cannot be fetched (see `fetch`), or is not AnnData.
    """
    from gpubench.data import load_anndata

    return load_anndata(fetch(id, catalogue=catalogue, progress=progress), backed=backed)
