"""Rows of several inputs brought together by the names of their cells, so that no cell gets another's values."""

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
"""What to do where inputs have different cells: refuse, or score those that all have."""

Order: TypeAlias = "NDArray[np.intp] | None"
"""Rows to take, in their order; None: all rows as they are."""


@dataclass(frozen=True, eq=False)
class NamedRows:
    """An input whose rows are cells, or genes, or samples.

    Parameters
    ----------
    where : what messages call it, such as "obs.csv"
    n : number of its rows; None if unknown
    read_names : returns the names of the rows, or None if they have none; called only if they are compared. None: the
        rows have no names
    argument : the argument that a message begins with
    """

    where: str
    n: int | None
    read_names: Callable[[], Any] | None = None
    argument: str | None = None

    @cached_property
    def names(self) -> pd.Index[str]:
        """The names as text; empty if the rows have none."""
        names = None if self.read_names is None else self.read_names()
        return as_names([] if names is None else names)

    @cached_property
    def are_numbers(self) -> bool:
        """Whether the names are the row numbers "0", "1", ..., which AnnData gives to cells without names."""
        return are_row_numbers(self.names)

    def refuse(self, fault: str) -> InputError:
        """Return the error for this input."""
        is_named = self.argument in (None, self.where)
        return InputError(fault if is_named else f"{self.argument}: {fault}", argument=self.argument)


def as_names(names: Any) -> pd.Index[str]:
    """Return names of rows as an index of texts; bytes are decoded."""
    import pandas as pd

    values = np.asarray(names).astype(object)
    if pd.api.types.infer_dtype(values, skipna=False) != "string":
        values = np.array([str(as_text(name)) for name in values.tolist()], object)
    index: pd.Index[str] = pd.Index(values, dtype=object)
    return index


@dataclass(frozen=True)
class Aligned:
    """How the rows of inputs belong together.

    Attributes
    ----------
    orders : for each input the rows to take
    names : of the rows that are taken, in their order; None if they were not compared
    notes : what was done, a sentence each
    """

    orders: tuple[Order, ...]
    names: pd.Index[str] | None
    notes: tuple[str, ...] = ()


def align(inputs: Sequence[NamedRows], how: Align = "equal", unit: str = "cells") -> Aligned:
    """Match the rows of inputs by name, in the order of the first input that names them.

    Rows without names are taken in the order in which they stand. Row numbers count as names only beside other
    numbers.

    Parameters
    ----------
    inputs : the first is what the others are matched with, if its rows have names
    how : "equal": all name the same rows; "inner": only rows that all name are taken
    unit : what a row is, in messages

    Raises
    ------
    InputError
        Other names, with counts and examples; names that occur twice where rows would have to be moved; rows without
        names, of another number, where some are left out.

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
    """Whether both inputs name rows; row numbers name none where the other's names are no numbers."""
    if not len(one.names) or one.are_numbers == reference.are_numbers:
        return bool(len(one.names))
    return not one.names.intersection(reference.names).empty


def _common(one: NamedRows, reference: NamedRows, common: pd.Index[str], how: Align, unit: str) -> pd.Index[str]:
    """Return the names in `common` that this input has as well.

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
    """Return advice for names that have nothing in common; a prefix or suffix that one side adds is named."""
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
    """Return the rows of an input that belong to the common names."""
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
    """Return a note on the inputs whose rows have no names, beside others that have."""
    unnamed = [one.where for one in inputs if one not in named]
    if not unnamed:
        return []
    listed = unnamed[0] if len(unnamed) == 1 else f"{', '.join(unnamed[:-1])} and {unnamed[-1]}"
    has, its = ("has", "its") if len(unnamed) == 1 else ("have", "their")
    return [f"{listed} {has} no names of {unit}: {its} rows are taken in the order of {named[0].where}"]


class TakenRows:
    """Rows of a matrix in another order, or some of them, without a copy of the matrix.

    Blocks of a matrix on disk whose rows are moved would be read from all over the file, so that it is then read into
    memory once.

    Parameters
    ----------
    rows : (n, d) array or `RowSource`
    order : (m,) rows to take

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
        """Take rows from a block, as `read` returns it, that has all of them."""
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
    """Taken rows that can also be read sparse, as those of `CsrMatrixRows`."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        return np.asarray(self.read_csr(start, stop).toarray())

    def read_csr(self, start: int, stop: int) -> Any:
        """Return rows [start, stop) as a CSR matrix."""
        return self._take(start, stop, self.rows.read_csr)  # type: ignore[union-attr]


def take_rows(rows: Rows, order: Order) -> Rows:
    """Return rows of a matrix in the order given; None: all as they are.

    Rows in device memory are copied there.
    """
    if order is None:
        return rows
    if isinstance(rows, DeviceRows):
        return rows.taken(order)
    if isinstance(rows, TakenRows):
        return take_rows(rows.rows, rows.order[order])
    return TakenSparseRows(rows, order) if hasattr(rows, "read_csr") else TakenRows(rows, order)
