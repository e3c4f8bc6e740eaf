"""Datasets by name: those of the cz-benchmarks suite, and those of the user's catalogues.

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

__all__ = ["demo_path", "fetch", "ids", "info", "load", "path"]

Catalogues: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""Paths of one or more catalogues, in the format of gpubench or of cz-benchmarks."""


DEMO_SOURCE = (
    "1,021 cells of five human lung cancer cell lines in five batches (Tian et al. 2019,"
    " doi:10.1038/s41592-019-0425-8; LuyiTian/sc_mixology, MIT licence)"
)
"""Origin of the cells of `demo_path`, see celllines.txt."""


def demo_path() -> Path:
    """Return the bundled h5ad file: 1,021 cells, obsm/X_pca, and cell_type (5 values) and batch (5) in obs.

    Examples
    --------
    >>> import gpubench as gb
    >>> result = gb.score(gb.datasets.demo_path(), "X_pca", label="cell_type", tasks="embedding", engine="cpu")
    >>> round(result.value("silhouette_score"), 3)
    0.641
    """
    return Path(__file__).with_name("celllines.h5ad")


def ids(*, catalogue: Catalogues = ()) -> list[str]:
    """Return the names of all datasets.

    Parameters
    ----------
    catalogue : further catalogues, whose entries override those of the catalogues that are always read

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
        No catalogue has it, or one cannot be read.

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
    """Fetch the file of a dataset into the cache, unless it is there.

    Parameters
    ----------
    id : name in a catalogue
    refresh : ask the server whether it has another version, and fetch that
    catalogue : further catalogues, as in `ids`
    progress : draw a progress bar on standard error if that is a terminal

    Returns
    -------
    Path of the file: in the cache, or the local path of the catalogue.

    Raises
    ------
    InputError
        No such dataset, no address, no network, no permission, no space, a wrong checksum.
    """
    from gpubench.datasets import fetching
    from gpubench.datasets.catalogue import local_file

    entry = info(id, catalogue=catalogue)
    if not entry.is_remote:
        return local_file(entry)
    with fetching.DownloadProgress(shown=progress) as listener:
        return fetching.fetch(entry, refresh=refresh, listener=listener)[0]


def path(id: str, *, catalogue: Catalogues = ()) -> Path:  # noqa: A002 - the field's word
    """Return the path of a dataset's file without fetching anything.

    Parameters
    ----------
    id : name in a catalogue
    catalogue : further catalogues, as in `ids`

    Raises
    ------
    InputError
        No such dataset, or its file is not there yet.
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
    backed : leave the expression matrix on disk
    catalogue, progress : as in `fetch`

    Returns
    -------
    anndata.AnnData

    Raises
    ------
    InputError
        As `fetch` raises, or the file is not AnnData.
    """
    from gpubench.data import load_anndata

    return load_anndata(fetch(id, catalogue=catalogue, progress=progress), backed=backed)
