"""Embeddings in files of their own, beside the data that has the cells' table."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gpubench.data.arrays import stem
from gpubench.data.source import Source
from gpubench.data.urls import file_of, is_url
from gpubench.errors import InputError


def split_embeddings(
    embeddings: str | Sequence[Any] | Mapping[str, Any] | None, suffixes: Collection[str]
) -> tuple[list[str] | None, dict[str, Any]]:
    """Tell keys of the data from files and matrices beside it.

    Parameters
    ----------
    embeddings : keys and paths of files, or name -> key, path or matrix; None: what goes without saying
    suffixes : of files with a matrix; a text that ends in one is a path

    Returns
    -------
    The keys, or None; and the others by name: that of the mapping, or of the file without its suffixes.

    Raises
    ------
    InputError
        Two files of one name, or a file of the name of a key.
    """
    if embeddings is None:
        return None, {}
    if isinstance(embeddings, Mapping):
        return [], {str(name): given for name, given in embeddings.items()}
    listed = [embeddings] if isinstance(embeddings, str | os.PathLike) else list(embeddings)
    keys: list[str] = []
    files: dict[str, Any] = {}
    for given in dict.fromkeys(listed):
        is_file = is_file_name(given, suffixes)
        name = stem(file_of(given)) if is_file else given
        if name in files or name in keys:
            raise InputError(f"embeddings: two are called {name!r}; give a mapping name -> path")
        if is_file:
            files[name] = given
        else:
            keys.append(name)
    return keys, files


def is_file_name(given: Any, suffixes: Collection[str]) -> bool:
    """Whether an embedding is meant as a file: a path object, a URL, or a text that ends like one."""
    if isinstance(given, os.PathLike) or is_url(given):
        return True
    return isinstance(given, str) and given.lower().endswith(tuple(suffixes))


def check_same_cells(name: str, file: Any, theirs: Source, data: Source) -> None:
    """Where a file and the data both name their cells, they must be the same ones in the same order.

    Raises
    ------
    InputError
        They are not; the message has the first row that differs.
    """
    ids, wanted = theirs.cell_ids(), data.cell_ids()
    if ids is None or wanted is None or len(ids) != len(wanted):  # lengths are compared, and told, for all embeddings
        return
    ids, wanted = np.asarray(ids).astype(str), np.asarray(wanted).astype(str)
    differ = np.flatnonzero(ids != wanted)
    if len(differ):
        row = int(differ[0])
        raise InputError(
            f"embedding {name!r}: {len(differ):,} of {len(ids):,} rows of {file} are other cells than in {data.where}"
            f" (first: row {row} is {str(ids[row])!r}, not {str(wanted[row])!r}); bring them into the same order, or"
            " give the matrix as .npy if only the names differ"
        )
