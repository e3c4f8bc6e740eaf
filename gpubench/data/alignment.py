"""Match the rows of several inputs by the names of their cells, so that no cell gets the values of another cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubench.core.errors import N_ROWS, InputError, quoted
from gpubench.data._formats.row_names import are_row_numbers
from gpubench.data.columns import as_text
from gpubench.data.matrices import DeviceRows, Rows, read_rows

if TYPE_CHECKING:
    import pandas as pd

Align: TypeAlias = Literal["equal", "inner"]
ALIGN: tuple[Align, ...] = ("equal", "inner")
"""What to do if inputs have different cells: raise an error, or use the cells that all inputs have."""

Order: TypeAlias = "NDArray[np.intp] | None"
"""Indices of the rows to take, in this order; None for all rows as they are."""


@dataclass(frozen=True, eq=False)
class NamedRows:
    """Number and names of the rows of one input; a row is a cell, a gene or a sample.

    Parameters
    ----------
    where : name of the input in messages, such as "obs.csv"
    n : number of rows; None if unknown
    read_names : function that returns the names of the rows, or None if they have none; called only if names have to be
        compared. If `read_names` is None, the rows have no names
    argument : name of the argument with which messages begin
    """

    where: str
    n: int | None
    read_names: Callable[[], Any] | None = None
    argument: str | None = None

    @cached_property
    def names(self) -> pd.Index[str]:
        """Names of the rows as text; empty if the rows have none."""
        names = None if self.read_names is None else self.read_names()
        return as_names([] if names is None else names)

    @cached_property
    def are_numbers(self) -> bool:
        """Whether the names are the row numbers "0", "1", ..., which AnnData gives to cells without names."""
        return are_row_numbers(self.names)

    def refuse(self, fault: str) -> InputError:
        """Return an InputError for this input, whose message says the fault."""
        is_named = self.argument in (None, self.where)
        return InputError(fault if is_named else f"{self.argument}: {fault}", argument=self.argument)


def as_names(names: Any) -> pd.Index[str]:
    """Convert names of rows to a pandas index of text; bytes are decoded."""
    import pandas as pd

    values = np.asarray(names).astype(object)
    if pd.api.types.infer_dtype(values, skipna=False) != "string":
        values = np.array([str(as_text(name)) for name in values.tolist()], object)
    index: pd.Index[str] = pd.Index(values, dtype=object)
    return index


@dataclass(frozen=True)
class Aligned:
    """Rows to take from each of several inputs, so that the i-th rows of all inputs belong to the same cell.

    Attributes
    ----------
    orders : for each input, the indices of the rows to take; None for all rows as they are
    names : names of the rows taken, in their order; None if no names were compared
    notes : sentences on rows that were moved, left out, or matched by position
    """

    orders: tuple[Order, ...]
    names: pd.Index[str] | None
    notes: tuple[str, ...] = ()


def align(inputs: Sequence[NamedRows], how: Align = "equal", unit: str = "cells") -> Aligned:
    """Match the rows of several inputs by name, in the order of the first input whose rows have names.

    Inputs whose rows have no names are assumed to have that order already. Row numbers count as names only if the names
    of the first input are row numbers too, or share names with them.

    Parameters
    ----------
    inputs : inputs to match
    how : "equal" requires the same names in all inputs; "inner" takes only the rows whose names all inputs have
    unit : plural noun for rows in messages

    Raises
    ------
    InputError
        Names differ (the message has counts and examples), or occur twice although rows have to be moved; or rows are
        left out, and an input without names has a different number of rows.

    Examples
    --------
    >>> cells = NamedRows("emb.csv", 3, lambda: ["a", "b", "c"])
    >>> table = NamedRows("obs.csv", 3, lambda: ["c", "a", "b"])
    >>> aligned = align([cells, table])
    >>> aligned.orders
    (None, array([1, 2, 0]))
    >>> aligned.notes
    ('obs.csv: 3 of 3 rows were moved to the order of emb.csv, by the names of the cells',)
    """
    nameable = [one for one in inputs if one.read_names]
    reference = next((one for one in nameable if len(one.names)), None) if len(nameable) > 1 else None
    if reference is None:
        notes = _in_order_notes(inputs, nameable[:1], unit) if len(nameable) == 1 else []
        return Aligned((None,) * len(inputs), None, tuple(notes))
    named = [reference, *(one for one in inputs if one is not reference and _is_comparable(one, reference))]
    common = reference.names
    for one in named[1:]:
        common = _common(one, reference, common, how, unit)
    orders = tuple(_order(one, reference, common, is_named=one in named, unit=unit) for one in inputs)
    return Aligned(orders, common, tuple(_notes(inputs, orders, named, common, unit)))


def _is_comparable(one: NamedRows, reference: NamedRows) -> bool:
    """Whether rows of an input can be matched by name; row numbers match only row numbers or equal names."""
    if not len(one.names) or one.are_numbers == reference.are_numbers:
        return bool(len(one.names))
    return not one.names.intersection(reference.names).empty


def _common(one: NamedRows, reference: NamedRows, common: pd.Index[str], how: Align, unit: str) -> pd.Index[str]:
    """Return those names in `common` that the input `one` also has.

    Raises
    ------
    InputError
        Names occur twice, or differ as sets and `how` is "equal", or have nothing in common.
    """
    if one.names.equals(reference.names):
        return common
    for side in (reference, one):
        _require_unique(side, unit)
    has = common.isin(one.names)
    missing, extra = common[~has], one.names[~one.names.isin(reference.names)]
    if has.all() and extra.empty:
        return common
    facts = _difference(one, reference, missing, extra, unit)
    if not has.any():
        raise one.refuse(f"{facts}; {_how_to_rename(one, reference)}")
    if how == "equal":
        raise one.refuse(f"{facts}; give the same {unit}, or set `align` to inner to score those that all have")
    return common[has]


def _require_unique(one: NamedRows, unit: str) -> None:
    if one.names.is_unique:
        return
    twice = one.names[one.names.duplicated()].unique()
    raise one.refuse(
        f"{one.where} has {len(twice):,} names of {unit} more than once ({_examples(twice)}), so that rows cannot be"
        " matched by name; make them unique"
    )


def _difference(one: NamedRows, reference: NamedRows, missing: pd.Index[str], extra: pd.Index[str], unit: str) -> str:
    facts = []
    if len(missing):
        facts.append(f"lacks {len(missing):,} of the {len(reference.names):,} {unit} of {reference.where}")
        facts[-1] += f" ({_examples(missing)})"
    if len(extra):
        facts.append(f"has {len(extra):,} that {reference.where} lacks ({_examples(extra)})")
    return f"{one.where}, with {len(one.names):,} {unit}, {' and '.join(facts)}"


def _examples(names: pd.Index[str]) -> str:
    return quoted(list(names[:N_ROWS])) + (", ..." if len(names) > N_ROWS else "")


def _how_to_rename(one: NamedRows, reference: NamedRows) -> str:
    """Return advice for inputs without common names; it mentions a prefix or suffix that only one of them has."""
    for longer, shorter in ((one, reference), (reference, one)):
        names, known = [str(name) for name in longer.names[:100]], set(shorter.names)
        first = names[0]
        for cut in range(1, len(first)):
            for added, place, strip in (
                (first[:cut], "before", str.removeprefix),
                (first[-cut:], "after", str.removesuffix),
            ):
                if added != first and sum(strip(name, added) in known for name in names) > len(names) / 2:
                    return f"{longer.where} has {added!r} {place} the names; use the same names in both"
    if one.names.str.isdecimal().all() or reference.names.str.isdecimal().all():
        return "if both have the same order, give the values without names, such as .to_numpy()"
    return "use the same names in both"


def _order(one: NamedRows, reference: NamedRows, common: pd.Index[str], *, is_named: bool, unit: str) -> Order:
    """Return the rows of an input in the order of the common names; None if that is all rows as they are."""
    names = one.names if is_named else reference.names
    if not is_named and one.n not in (None, len(names)) and len(common) < len(names):
        raise one.refuse(
            f"{one.where} has {one.n:,} rows without names, but {reference.where} has {len(names):,} {unit}, of which"
            f" {len(common):,} are taken; give it names, or one row for each"
        )
    if common.equals(names):
        return None
    order: NDArray[np.intp] = names.get_indexer(common)
    return order


def _notes(
    inputs: Sequence[NamedRows],
    orders: Sequence[Order],
    named: Sequence[NamedRows],
    common: pd.Index[str],
    unit: str,
) -> list[str]:
    notes, reference = [] if named[0].are_numbers else _in_order_notes(inputs, named, unit), named[0].where
    for one, order in zip(inputs, orders, strict=True):
        if one in named and order is not None and np.any(np.diff(order) < 0):
            n_moved = int(np.count_nonzero(np.argsort(np.argsort(order)) != np.arange(len(order))))
            notes.append(
                f"{one.where}: {n_moved:,} of {len(order):,} rows were moved to the order of {reference}, by the names"
                f" of the {unit}"
            )
    left_out = [f"{len(one.names) - len(common):,} of {one.where}" for one in named if len(one.names) > len(common)]
    if left_out:
        notes.append(f"{len(common):,} {unit} are in all inputs; left out: {', '.join(left_out)}")
    return notes


def _in_order_notes(inputs: Sequence[NamedRows], named: Sequence[NamedRows], unit: str) -> list[str]:
    """Return a note on the inputs whose rows have no names, if there are any."""
    unnamed = [one.where for one in inputs if one not in named]
    if not unnamed:
        return []
    listed = unnamed[0] if len(unnamed) == 1 else f"{', '.join(unnamed[:-1])} and {unnamed[-1]}"
    has, its = ("has", "its") if len(unnamed) == 1 else ("have", "their")
    return [f"{listed} {has} no names of {unit}: {its} rows are taken in the order of {named[0].where}"]


class TakenRows:
    """A `RowSource` of selected or reordered rows of a matrix, which is not copied.

    If rows are reordered, a matrix on disk is read into memory as a whole, because each block would need rows from all
    over the file.

    Parameters
    ----------
    rows : (n, d) array or `RowSource`
    order : (m,) indices of the rows to take

    Examples
    --------
    >>> TakenRows(np.eye(3), np.array([2, 0])).read(0, 2)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """

    def __init__(self, rows: Rows, order: NDArray[np.intp]) -> None:
        self.rows, self.order = rows, order
        self._is_sorted = bool(np.all(np.diff(order) > 0))
        self._in_memory: Any = rows if isinstance(rows, np.ndarray) else None
        self.shape = (len(order), int(rows.shape[1]))
        self.dtype: np.dtype[Any] = rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        block = self._take(start, stop, lambda low, high: read_rows(self.rows, low, high))
        return np.asarray(block)

    def _take(self, start: int, stop: int, read: Callable[[int, int], Any]) -> Any:
        """Return rows [start, stop), taken from a block that `read` returns and that contains all of them."""
        wanted = self.order[start:stop]
        if not len(wanted):
            return read(0, 0)
        if not self._is_sorted and self._in_memory is None:
            self._in_memory = read(0, int(self.rows.shape[0]))
        if self._in_memory is not None:
            return self._in_memory[wanted]
        first = int(wanted[0])
        return read(first, int(wanted[-1]) + 1)[wanted - first]


class TakenSparseRows(TakenRows):
    """`TakenRows` of a sparse matrix, which can also be read as CSR blocks."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return np.asarray(self.read_csr(start, stop).toarray())

    def read_csr(self, start: int, stop: int) -> Any:
        """Return rows [start, stop) as a CSR matrix."""
        return self._take(start, stop, self.rows.read_csr)  # type: ignore[union-attr]


def take_rows(rows: Rows, order: Order) -> Rows:
    """Return the rows of a matrix in the given order; if `order` is None, the matrix itself.

    For a matrix in device memory, the rows are copied in device memory.
    """
    if order is None:
        return rows
    if isinstance(rows, DeviceRows):
        return rows.taken(order)
    if isinstance(rows, TakenRows):
        return take_rows(rows.rows, rows.order[order])
    return TakenSparseRows(rows, order) if hasattr(rows, "read_csr") else TakenRows(rows, order)
