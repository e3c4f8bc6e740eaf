"""Read any supported input into a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.core.types import Dataset, Labels
from gpubench.data._formats import registry
from gpubench.data._formats.anndata_store import LoadedAnnData, is_anndata
from gpubench.data._formats.arrays import stem
from gpubench.data._formats.registry import MATRICES, STORES, TABLES, open_path
from gpubench.data._formats.row_names import names_reader
from gpubench.data._formats.source import NamedArrays, NamedColumns, OneMatrix, Source, Table
from gpubench.data.alignment import Align, NamedRows, Order, take_rows
from gpubench.data.alignment import align as align_rows
from gpubench.data.columns import as_numeric, check_length, count_values, encode_labels, take_values
from gpubench.data.matrices import Rows, as_rows, comes_from
from gpubench.data.selection import leave_out
from gpubench.data.urls import file_of, is_url, reading, shown


def load_anndata(path: Path, *, backed: bool = False) -> Any:
    """Read an AnnData file with the anndata package.

    Parameters
    ----------
    path : path of an h5ad file or a zarr store
    backed : leave the expression matrix of an h5ad file on disk instead of reading it into memory

    Returns
    -------
    anndata.AnnData

    Raises
    ------
    InputError
        The file is damaged or not AnnData, or `backed` was requested for a zarr store.

    Examples
    --------
    >>> import gpubench as gb
    >>> load_anndata(gb.datasets.demo_path()).n_obs
    1021
    """
    import anndata

    if backed and path.is_dir():
        raise InputError(f"backed: {path} is a zarr store, which is read whole; leave backed out")
    with reading(path):
        return anndata.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path, backed="r" if backed else None)


def read(
    source: Any,
    *,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    columns: Mapping[str, Any] | None = None,
    obs: Any = None,
    matrices: Mapping[str, Any] | None = None,
    cell_ids: bool | int = False,
    align: Align = "equal",
    where: str | None = None,
    drop_missing: bool = False,
) -> Dataset:
    """Read embeddings and columns of the same cells into a dataset; their rows are matched by the names of the cells.

    Only the requested parts are read.

    Parameters
    ----------
    source : path or URL of an .h5ad, .zarr, .npy, .npz, .parquet, .csv or .tsv file; AnnData object; matrix (see
        `as_rows`); or a mapping name -> matrix. Matrices on disk stay there as row sources and memmaps.
    embeddings : names of embeddings in the source (keys of obsm, "X", "layers/<name>", names in a mapping or archive),
        or, if the source is a single matrix, a name for it; paths of files with one embedding of the same cells; or a
        mapping name -> name in the source, path or matrix. If None, the only embedding of the source; if empty, none
    columns : role, such as "label" -> name of a column, or the values themselves; roles with None are left out
    obs : table with the same cells as the source, in which columns are looked up by name: path of a .parquet, .csv,
        .tsv, .npz, .h5ad or .zarr file, DataFrame, or mapping. If None, the table of the source itself.
    matrices : name -> further matrix with the same cells, given as in `embeddings`
    cell_ids : whether to read the names of the cells; a number means only if there are at most that many cells
    align : "equal" requires that all inputs that name their cells have the same cells, in any order; "inner" takes the
        cells that all of them have. Inputs without names are assumed to have their rows in the common order
    where : condition on the cells to keep, as in pandas' `DataFrame.query`, such as "n_genes > 500"; if None, all
    drop_missing : leave out cells that have a missing value in one of the columns

    Raises
    ------
    InputError
        An input cannot be read, is unknown (the message suggests similar names), ambiguous or empty, or inputs differ
        in their numbers of cells or in their cells.

    Examples
    --------
    >>> import numpy as np
    >>> dataset = read({"pca": np.eye(3)}, columns={"label": ["B", "T", "B"]})
    >>> dataset.n_cells, list(dataset.embeddings)
    (3, ['pca'])

    Rows are matched by name:

    >>> import pandas as pd
    >>> cells = pd.DataFrame(np.eye(3), index=["c1", "c2", "c3"])
    >>> dataset = read(cells, columns={"label": pd.Series(["T", "B", "NK"], index=["c3", "c1", "c2"])})
    >>> dataset.obs["label"]
    array(['B', 'NK', 'T'], dtype=object)
    """
    keys, more = split_embeddings(embeddings)
    with reading_source(source):
        opened = open_source(source)
        data = NamedRows(opened.where, opened.n_cells(), opened.names_reader())
        own = {name: _own_matrix(opened, data, name) for name in opened.choose(keys)}
    own |= {name: _given_matrix(opened, data, given, name, f"embedding {name!r}") for name, given in more.items()}
    others = {name: _given_matrix(opened, data, given, name, name) for name, given in (matrices or {}).items()}
    with reading_source(source if obs is None else obs):
        table = opened.table() if obs is None else open_table(obs)
        table_rows = data if obs is None or table is None else NamedRows(table.where, None, table.names_reader(), "obs")
        values = {
            role: (_column(table, role, given), table_rows if isinstance(given, str) else _rows_of_column(given, role))
            for role, given in (columns or {}).items()
            if given is not None
        }
    owners = [owner for _, owner in (*own.values(), *others.values(), *values.values())]
    inputs = list(dict.fromkeys([data, *owners, *([table_rows] if where else [])]))
    inputs = [one for one in inputs if one is not data or data in owners or data.n is not None]
    aligned = align_rows(inputs, align)
    orders = dict(zip(inputs, aligned.orders, strict=True))
    taken = {name: take_rows(rows, orders[owner]) for name, (rows, owner) in own.items()}
    columns_taken = {role: _take_values(given, orders[owner], role) for role, (given, owner) in values.items()}
    with reading_source(source):
        n = _count_cells(opened, taken, columns_taken, orders.get(data))
        read_names = aligned.names is None and (cell_ids is True or n <= cell_ids)
        names = _first_names(inputs) if read_names else aligned.names
        dataset = Dataset(
            embeddings=taken,
            obs=columns_taken,
            n_cells=n,
            cell_ids=None if names is None else np.asarray(names),
            source=shown(source) if _is_path(source) else None,
            rows=orders.get(data),
            matrices={name: take_rows(rows, orders[owner]) for name, (rows, owner) in others.items()},
            notes=aligned.notes,
        )
    if where is None and not drop_missing:
        return dataset
    with reading_source(source if obs is None else obs):
        return leave_out(
            dataset,
            where=where,
            drop_missing=drop_missing,
            names=[] if table is None else table.names(),
            column=lambda name: _column(table, "where", name),
            order=orders.get(table_rows),
        )


def _own_matrix(opened: Source, data: NamedRows, name: str) -> tuple[Rows, NamedRows]:
    """Read an embedding of the source, and the names of its rows: its own if it has any, else those of the source."""
    matrix = opened.embedding(name)
    rows = as_rows(matrix, name)
    if isinstance(opened, OneMatrix):
        return rows, data
    reader = names_reader(matrix)
    if reader is None and data.n is not None:
        return rows, data
    where = name if isinstance(opened, NamedArrays) else f"{name} of {opened.where}"
    return rows, NamedRows(where, int(rows.shape[0]), reader)


def _given_matrix(opened: Source, data: NamedRows, given: Any, name: str, argument: str) -> tuple[Rows, NamedRows]:
    """Read a matrix that is given as a file, an AnnData, a key of the source, or the matrix itself."""
    is_file = is_file_name(given) or (_is_path(given) and argument == name and os.path.lexists(given))
    if is_file or is_anndata(given):
        file, rows = open_matrix(given, name, argument)
        where = shown(given) if is_file else argument
        return rows, NamedRows(where, int(rows.shape[0]), file.names_reader(), None if argument != name else name)
    if not _is_path(given):
        rows = as_rows(given, name)
        return rows, NamedRows(argument, int(rows.shape[0]), names_reader(given))
    if isinstance(opened, OneMatrix):
        raise InputError(
            f"{name}={given!r} is not a file, and {opened.where} has no keys; give a path or a matrix",
            argument=name,
        )
    with reading_source(opened.where):
        return _own_matrix(opened, data, opened.choose([str(given)])[0])


def _rows_of_column(given: Any, role: str) -> NamedRows:
    return NamedRows(role, count_values(given, role), names_reader(given), role)


def _first_names(inputs: Iterable[NamedRows]) -> Any:
    return next((one.names for one in inputs if one.read_names and len(one.names)), None)


def _take_values(values: Any, order: Order, role: str) -> Any:
    return values if order is None else take_values(values, order, role)


def split_embeddings(
    embeddings: str | Sequence[Any] | Mapping[str, Any] | None,
) -> tuple[list[str] | None, dict[str, Any]]:
    """Split the argument `embeddings` of `read` into keys of the source, and a mapping name -> file or matrix.

    The keys are None if the default embedding is to be read. A file without a name is named by its stem.
    """
    if embeddings is None:
        return None, {}
    if isinstance(embeddings, Mapping):
        return [], {str(name): given for name, given in embeddings.items()}
    listed = [embeddings] if isinstance(embeddings, str | os.PathLike) else list(embeddings)
    keys: list[str] = []
    files: dict[str, Any] = {}
    for given in dict.fromkeys(listed):
        is_file = is_file_name(given)
        name = stem(file_of(given)) if is_file else given
        if name in files or name in keys:
            raise InputError(f"embeddings: two are called {name!r}; give a mapping name -> path", argument="embeddings")
        if is_file:
            files[name] = given
        else:
            keys.append(name)
    return keys, files


def is_file_name(given: Any) -> bool:
    """Whether an embedding is given as a file: a path object, a URL, or a text with the suffix of a matrix file."""
    if isinstance(given, os.PathLike) or is_url(given):
        return True
    return isinstance(given, str) and registry.is_file_name(given)


def split_name(text: str) -> tuple[str, str]:
    """Split "name=emb.npy" into name and path.

    Without "=", or if the whole text is the path of an existing file, the name is the stem of the path, or the text
    itself if it is no path.

    Examples
    --------
    >>> split_name("mine=folder/emb.npy")
    ('mine', 'folder/emb.npy')
    >>> split_name("folder/emb.csv.gz")
    ('emb', 'folder/emb.csv.gz')
    """
    name, equals, path = text.partition("=")
    if equals and name and not is_url(text) and is_file_name(path) and not os.path.lexists(text):
        return name, path
    return (stem(file_of(text)) if is_file_name(text) else text), text


def read_matrix(source: Any, given: Any, name: str) -> Rows:
    """Read a further matrix with the same cells as `source`.

    Parameters
    ----------
    source : as in `read`
    given : name of an embedding of the source as in `read`, path of a file with one embedding, or a matrix
    name : name of the argument in messages

    Raises
    ------
    InputError
        The matrix cannot be read, is unknown, or is one of several embeddings of a file.

    Examples
    --------
    >>> import gpubench as gb
    >>> read_matrix(gb.datasets.demo_path(), "X_pca", "pre_integrated").shape
    (1021, 50)
    """
    if not _is_path(given):
        return as_rows(given, name)
    if is_url(given) or os.path.lexists(given):
        return open_matrix(given, name, "data")[1]
    with reading_source(source):
        opened = open_source(source)
        if isinstance(opened, OneMatrix):
            raise InputError(
                f"{name}={given!r} is not a file, and {opened.where} has no keys; give a path or a matrix",
                argument=name,
            )
        return as_rows(opened.embedding(opened.choose([str(given)])[0]), name)


def read_labels(obs: Any, column: str, role: str, n: int, names: Any = None, notes: list[str] | None = None) -> Labels:
    """Read one column of a table as labels.

    Parameters
    ----------
    obs : a table as in `read`
    column : name of the column
    role : name of the argument in messages
    n : number of cells
    names : (n,) names of the cells, by which the rows of the table are matched; if None, the rows are taken in order
    notes : list to which sentences on how the rows were matched are appended

    Raises
    ------
    InputError
        The table cannot be read or has other cells, the column is unknown (the message suggests similar names), or
        `encode_labels` refuses its values.

    Examples
    --------
    >>> read_labels({"donor": ["b", "a", "b"]}, "donor", "batch", 3).names
    ('a', 'b')
    """
    with reading_source(obs):
        table = open_table(obs)
        values = _column(table, role, column)
        where = "obs" if table is None else table.where
        rows = NamedRows(where, count_values(values, role), table.names_reader() if table else None, "obs")
        aligned = align_rows([NamedRows("cells.parquet", n, None if names is None else lambda: names), rows])
        if notes is not None:
            notes += aligned.notes
        return encode_labels(_take_values(values, aligned.orders[1], role), role, n)


def has_embedding(source: Any, name: str) -> bool:
    """Whether a source as in `read` has an embedding of that name.

    Examples
    --------
    >>> has_embedding({"pca": [[1.0], [2.0]]}, "pca")
    True
    """
    if _is_path(source) and file_of(source).name.lower().endswith(tuple(MATRICES)):
        return False  # a single matrix has no name, and may be slow to open
    with reading_source(source):
        return open_source(source).has(name)


def embedding_names(source: Any) -> list[str]:
    """Return the names of the embeddings of a source as in `read`.

    Examples
    --------
    >>> import gpubench as gb
    >>> embedding_names(gb.datasets.demo_path())
    ['X_pca']
    """
    with reading_source(source):
        return open_source(source).keys()


def column_names(source: Any, obs: Any = None) -> list[str]:
    """Return the names of the columns of the table in which `read` looks up columns, that of `obs` or of the source.

    Examples
    --------
    >>> import gpubench as gb
    >>> column_names(gb.datasets.demo_path())
    ['cell_type', 'batch']
    """
    given = source if obs is None else obs
    with reading_source(given):
        table = open_source(source).table() if obs is None else open_table(obs)
        return [] if table is None else table.names()


def numeric_columns(source: Any, obs: Any = None) -> list[str]:
    """Return the names of those columns, of the table of `column_names`, that hold a finite number for each cell.

    Examples
    --------
    >>> import pandas as pd
    >>> numeric_columns([[0.0], [1.0]], pd.DataFrame({"day": [1, 2], "stage": ["E8", "E9"]}))
    ['day']
    """
    given = source if obs is None else obs
    with reading_source(given):
        table = open_source(source).table() if obs is None else open_table(obs)
        return [] if table is None else [name for name in table.names() if name and _is_numeric(table, name)]


def _is_numeric(table: Table, name: str) -> bool:
    try:
        as_numeric(table.column(name), name)
    except InputError:
        return False
    return True


def open_matrix(path: str | os.PathLike[str], name: str, argument: str) -> tuple[Source, Rows]:
    """Open a file with a single embedding; messages call the embedding `name`, and the file `argument`."""
    with reading_source(path):
        file = open_source(path, argument)
        return file, as_rows(file.embedding(file.choose(None)[0]), name)


def open_source(source: Any, argument: str = "data") -> Source:
    """Open an input according to its type or, for a path, its suffix; messages name `argument`."""
    if _is_path(source):
        return cast("Source", open_path(file_of(source), {**STORES, **MATRICES}, argument))
    if type(source).__name__ == "AnnCollection" and comes_from(source, "anndata"):
        source = source[:]  # a view, which has the interface of AnnData
    if is_anndata(source):
        return LoadedAnnData(source)
    if isinstance(source, Mapping) and not comes_from(source, "h5py") and not comes_from(source, "scipy"):
        return NamedArrays(source)
    return OneMatrix(source, "X")


def open_table(obs: Any) -> Table | None:
    """Open a table of cells, given as `obs` is in `read`; None if the file has no table."""
    if _is_path(obs):
        opened = open_path(file_of(obs), {**STORES, **TABLES}, "obs")
        return opened.table() if isinstance(opened, Source) else cast("Table", opened)
    if comes_from(obs, "polars") and hasattr(obs, "to_arrow"):
        obs = obs.to_arrow()
    if hasattr(obs, "column_names") and comes_from(obs, "pyarrow"):
        return NamedColumns({name: obs.column(name) for name in dict.fromkeys(obs.column_names)})
    if isinstance(obs, np.ndarray) and obs.dtype.names:
        return NamedColumns({name: np.asarray(obs[name]) for name in obs.dtype.names})
    if is_anndata(obs):
        return LoadedAnnData(obs).table()
    if hasattr(obs, "keys"):
        return NamedColumns(obs)
    raise InputError(f"obs is of type {type(obs).__name__}, not a table; give a DataFrame or the path of a table")


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def reading_source(source: Any) -> AbstractContextManager[None]:
    """Return a context in which errors from reading a damaged file name the file, wherever they are raised.

    Errors are unchanged if `source` is not a path.
    """
    return reading(shown(source), file_of(source)) if _is_path(source) else nullcontext()


def _column(table: Table | None, role: str, given: Any) -> Any:
    """Look up a column by name, or return the values unchanged."""
    if not isinstance(given, str):
        return given
    if table is None:
        raise InputError(
            f"{role}={given!r} names a column, but there is no table; give `obs`, the table that has it, or the values"
            " themselves",
            argument=role,
        )
    count = table.names().count(given)
    if count == 0:
        raise InputError(
            f"{role}={given!r} is not a column of {table.where}{close_matches(given, table.names())}", argument=role
        )
    if count > 1:
        raise InputError(
            f"{role}={given!r}: {table.where} has {count} columns of that name; rename all but one", argument=role
        )
    return table.column(given)


def _count_cells(source: Source, matrices: Mapping[str, Rows], columns: Mapping[str, Any], order: Order) -> int:
    """Return the number of cells; InputError if source, embeddings and columns differ in it.

    `order` has the rows that are taken from the source.
    """
    counts = {name: int(rows.shape[0]) for name, rows in matrices.items()}
    n_source = source.n_cells() if order is None else len(order)
    for name, count in counts.items():
        if n_source not in (None, count) and not isinstance(source, OneMatrix):
            raise InputError(
                f"embedding {name!r} has {count:,} rows, but {source.where} has {n_source:,} cells; give one row for"
                " each cell, in the same order"
            )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise InputError(f"embeddings differ in their number of rows ({listed}); give embeddings of the same cells")
    lengths = {role: count_values(values, role) for role, values in columns.items()}
    n = next(iter(counts.values()), None)
    if n is None:
        n = n_source
    if n is None:
        n = next(iter(lengths.values()), 0)
    for role, length in lengths.items():
        check_length(length, n, role)
    if n == 0:
        raise InputError(f"{source.where} has no cells; check how it was made")
    return n
