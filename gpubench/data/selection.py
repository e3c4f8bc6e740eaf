"""Leave cells out of a dataset: those that an expression does not select, and those without a label."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError, close_matches
from gpubench.core.types import Dataset
from gpubench.data._formats.row_names import as_array
from gpubench.data.alignment import Order, take_rows
from gpubench.data.columns import CategoricalColumn, check_length, missing_values, take_values
from gpubench.data.matrices import comes_from

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def take_cells(dataset: Dataset, rows: NDArray[np.intp], *notes: str) -> Dataset:
    """Return a dataset with the cells at indices `rows`, in that order, and with `notes` appended to its notes.

    Examples
    --------
    >>> dataset = Dataset(embeddings={"pca": np.eye(3)}, obs={"label": ["B", "T", "B"]}, n_cells=3)
    >>> take_cells(dataset, np.array([2, 0])).obs["label"]
    array(['B', 'B'], dtype=object)
    """
    return replace(
        dataset,
        embeddings={name: take_rows(matrix, rows) for name, matrix in dataset.embeddings.items()},
        matrices={name: take_rows(matrix, rows) for name, matrix in dataset.matrices.items()},
        obs={role: take_values(values, rows, role) for role, values in dataset.obs.items()},
        n_cells=len(rows),
        cell_ids=None if dataset.cell_ids is None else dataset.cell_ids[rows],
        rows=rows if dataset.rows is None else dataset.rows[rows],
        notes=(*dataset.notes, *notes),
    )


def leave_out(
    dataset: Dataset,
    *,
    where: str | None = None,
    drop_missing: bool = False,
    names: Sequence[str] = (),
    column: Callable[[str], Any] | None = None,
    order: Order = None,
) -> Dataset:
    """Return a dataset without some of its cells, with a note on how many were left out.

    Parameters
    ----------
    dataset : dataset to select from
    where : condition on the cells to keep, as in pandas' `DataFrame.query`, which may use columns of the table of cells
        and roles of the dataset such as "label". If None, all are kept
    drop_missing : leave out cells that have a missing value in a column of the dataset
    names : names of the columns of the table of cells
    column : function that reads a column of the table by name
    order : row of the table of each cell; if None, the cells are all rows in their order

    Raises
    ------
    InputError
        An expression that cannot be evaluated, or that selects no cell.

    Examples
    --------
    >>> dataset = Dataset(embeddings={"pca": np.eye(3)}, obs={"label": ["B", "T", None]}, n_cells=3)
    >>> leave_out(dataset, where="label != 'T'", drop_missing=True).notes
    ("where: 1 of 3 cells left out by label != 'T'", 'drop_missing: 1 of 2 cells left out, without label')
    """
    if where is not None:
        columns = dict.fromkeys(names, column) if column else {}
        frame = _frame(where, columns, order, dataset)
        rows = np.flatnonzero(_evaluate(where, frame, [*names, *dataset.obs]))
        dataset = _take(dataset, rows, "where", f" by {where}")
    if drop_missing:
        missing = {role: missing_values(values, role) for role, values in dataset.obs.items()}
        any_missing = np.any([np.zeros(dataset.n_cells, bool), *missing.values()], axis=0)
        if any_missing.any():
            listed = " or ".join(role for role, rows in missing.items() if rows.any())
            dataset = _take(dataset, np.flatnonzero(~any_missing), "drop_missing", f", without {listed}")
    return dataset


def _take(dataset: Dataset, rows: NDArray[np.intp], argument: str, reason: str) -> Dataset:
    if not len(rows):
        raise InputError(
            f"{argument}: no cell is left: all {dataset.n_cells:,} are left out{reason}", argument=argument
        )
    if len(rows) == dataset.n_cells:
        return replace(dataset, notes=(*dataset.notes, f"{argument}: none of {len(rows):,} cells left out{reason}"))
    note = f"{argument}: {dataset.n_cells - len(rows):,} of {dataset.n_cells:,} cells left out{reason}"
    return take_cells(dataset, rows, note)


def _frame(where: str, columns: Mapping[str, Callable[[str], Any]], order: Order, dataset: Dataset) -> pd.DataFrame:
    """Return a DataFrame with the columns, and the roles of the dataset, whose names occur in the expression."""
    import pandas as pd

    used = {name: _series(values) for name, values in dataset.obs.items() if name in where and name not in columns}
    for name, read in columns.items():
        if name and name in where:
            values = _series(read(name))
            used[name] = values if order is None else values.iloc[order].reset_index(drop=True)
    for name, values in used.items():
        check_length(len(values), dataset.n_cells, name)
    return pd.DataFrame(used, index=pd.RangeIndex(dataset.n_cells))


def _series(values: Any) -> pd.Series[Any]:
    """Convert a column to a pandas Series; text becomes numbers if every value is a number, as in CSV files."""
    import pandas as pd

    if isinstance(values, CategoricalColumn):
        return pd.Series(as_array(values), dtype=object).where(np.asarray(values.codes >= 0))
    if comes_from(values, "pyarrow"):
        texts = values.to_pandas()
        texts = texts.astype(object) if texts.dtype == "category" else texts
        try:
            numbers: pd.Series[Any] = pd.to_numeric(texts)
        except (ValueError, TypeError):
            return pd.Series(texts)
        return numbers
    return pd.Series(np.asarray(values))


def _evaluate(where: str, frame: pd.DataFrame, known: Sequence[str]) -> NDArray[np.bool_]:
    """Evaluate the expression; return one boolean for each cell."""
    import pandas as pd

    if "@" in re.sub(r"'[^']*'|\"[^\"]*\"", "", where) or "__" in where:
        raise InputError(
            f"where={where!r} may use columns and constants only; leave out '@' and '__'", argument="where"
        )
    try:
        chosen = frame.eval(where, engine="python")
    except pd.errors.UndefinedVariableError as error:
        name = re.findall(r"'([^']*)'", str(error))
        raise InputError(
            f"where={where!r}: {name[0] if name else error!r} is not a column{close_matches(name[0], known)}",
            argument="where",
        ) from error
    except Exception as error:  # pandas lets errors of the parser and of operators through
        fault = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"where={where!r} cannot be evaluated ({fault}); write a comparison of columns, such as"
            " \"cell_type != 'unknown' and n_genes > 200\"",
            argument="where",
        ) from error
    values = np.asarray(chosen)
    if values.shape != (len(frame),) or (values.dtype != bool and not all(type(value) is bool for value in values)):
        raise InputError(
            f'where={where!r} is not true or false for each cell; write a comparison, such as "n_genes > 200"',
            argument="where",
        )
    return values.astype(bool)
