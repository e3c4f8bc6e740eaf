"""Datasets by name: the ones of the cz-benchmarks suite, and those of the user's catalogues.

>>> import gpubench as gb
>>> cells = gb.datasets.load("tsv2_blood")  # fetched once, then from the cache  # doctest: +SKIP
>>> gb.score("tsv2_blood", "embedding.npy")  # its labels, your embedding  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from gpubench.datasets.entry import Entry

__all__ = ["fetch", "ids", "info", "load", "path"]

Catalogues: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""One or more catalogues, read after those that are always read."""


def ids(*, catalogue: Catalogues = ()) -> list[str]:
    """Names of all datasets.

    Parameters
    ----------
    catalogue : paths of further catalogues, in the form of gpubench or of cz-benchmarks

    Raises
    ------
    InputError
        A catalogue cannot be read.
    """
    return list(_entries(catalogue))


def info(id: str, *, catalogue: Catalogues = ()) -> Entry:  # noqa: A002 - the field's word
    """What the catalogues say of a dataset.

    Raises
    ------
    InputError
        No catalogue has it, or one cannot be read.
    """
    from gpubench.datasets.catalogue import find

    return find(id, _entries(catalogue))


def fetch(
    id: str,  # noqa: A002 - the field's word
    *,
    refresh: bool = False,
    catalogue: Catalogues = (),
    progress: bool = True,
) -> Path:
    """Have the file of a dataset in the cache; a file that is there is not fetched again.

    Parameters
    ----------
    id : name in a catalogue
    refresh : ask the server for another version, and fetch it
    catalogue : paths of further catalogues
    progress : draw on standard error how far it is, where that is a terminal

    Returns
    -------
    The path of the file: in the cache, or where the catalogue says that it is.

    Raises
    ------
    InputError
        No such dataset, no address, no network, no permission, no space, a wrong checksum.
    """
    from gpubench.datasets.catalogue import local_file
    from gpubench.datasets.fetching import fetch as bring
    from gpubench.datasets.progress import Transfer

    entry = info(id, catalogue=catalogue)
    if not entry.is_remote:
        return local_file(entry)
    with Transfer(shown=progress) as transfer:
        return bring(entry, refresh=refresh, listener=transfer)[0]


def path(id: str, *, catalogue: Catalogues = ()) -> Path:  # noqa: A002 - the field's word
    """Where the file of a dataset is; nothing is fetched.

    Raises
    ------
    InputError
        No such dataset, or it is not there yet.
    """
    from gpubench.core.errors import InputError
    from gpubench.datasets.cache import meant, place_of, recorded
    from gpubench.datasets.catalogue import local_file

    entry = info(id, catalogue=catalogue)
    if not entry.is_remote:
        return local_file(entry)
    place = place_of(entry)
    if not meant(recorded(place), entry):
        raise InputError(f"dataset {id!r} is not in the cache ({place}); run gpubench datasets fetch {id}")
    return place


def load(
    id: str,  # noqa: A002 - the field's word
    *,
    backed: bool = False,
    catalogue: Catalogues = (),
    progress: bool = True,
) -> Any:
    """Load a dataset as AnnData; it is fetched if it is not in the cache.

    Parameters
    ----------
    id : name in a catalogue
    backed : leave the expression on the disk
    catalogue, progress : as in `fetch`

    Returns
    -------
    anndata.AnnData

    Raises
    ------
    InputError
        What `fetch` raises, or the file is no AnnData.
    """
    from gpubench.data import load_anndata

    return load_anndata(fetch(id, catalogue=catalogue, progress=progress), backed=backed)


def _entries(catalogue: Catalogues) -> dict[str, Entry]:
    from gpubench.datasets.catalogue import read_catalogues

    return read_catalogues([catalogue] if isinstance(catalogue, str | os.PathLike) else catalogue)
