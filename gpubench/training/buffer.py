"""The embedding of a fixed subset of cells, collected from batches where they are: on the host or on a GPU."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.data.matrices import comes_from, is_on_device, to_host

if TYPE_CHECKING:
    from gpubench.core.types import I64, Bools

Rows = Any
"""Rows of an embedding, (m, d) float32: of NumPy, or of the library on whose device they stay (torch or CuPy)."""


@dataclass(frozen=True, slots=True)
class PickedRows:
    """Those rows of a batch that are cells of the subset."""

    positions: I64  # (m,) positions in the subset
    rows: Rows  # (m, d) float32


class EmbeddingBuffer:
    """Embedding of a fixed subset of cells, filled from batches.

    Parameters
    ----------
    subset : (m,) cells of the subset, ascending
    n_cells : number of all cells
    """

    def __init__(self, subset: I64, n_cells: int) -> None:
        self.n_cells = n_cells
        self._position = np.full(n_cells, -1, np.int64)
        self._position[subset] = np.arange(len(subset))
        self._m = len(subset)
        self._rows: Rows | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the collected rows, but not the memory that they were in."""
        self.filled: Bools = np.zeros(self._m, np.bool_)
        self.next_cell = 0

    def pick(self, embedding: Any, index: Any, xp: ModuleType) -> PickedRows:
        """Select the rows of a batch that belong to the subset.

        Parameters
        ----------
        embedding : (b, d) batch of an embedding: torch tensor on any device, CuPy or NumPy array, nested lists
        index : (b,) which cells these are; if None, the cells after those of the last batch
        xp : array module of the engine. If it is not NumPy, rows in the memory of a GPU stay there; otherwise the
            selected rows are copied to the host

        Raises
        ------
        InputError
            The batch is not a matrix, or the index does not fit.
        """
        matrix = _as_matrix(embedding)
        cells = self._cells(len(matrix), index)
        positions = self._position[cells]
        chosen = np.flatnonzero(positions >= 0)
        return PickedRows(positions[chosen], _take(matrix, chosen, xp))

    def add(self, picked: PickedRows, xp: ModuleType) -> None:
        """Store picked rows; a cell that comes again replaces its earlier row."""
        if not len(picked.positions):
            return
        shape, held = (self._m, int(picked.rows.shape[1])), self._rows
        if held is None or tuple(held.shape) != shape or _place(held) != _place(picked.rows):
            if held is not None and self.filled.any():
                raise InputError(
                    f"embedding: a batch has {shape[1]} dimensions and is on {_place(picked.rows)}, those before it"
                    f" have {held.shape[1]} on {_place(held)}; give one embedding, or call reset() before another one",
                    argument="embedding",
                )
            self._rows = _empty(shape, picked.rows, xp)
        _assign(self._rows, picked.positions, picked.rows, xp)
        self.filled[picked.positions] = True

    def collected(self, xp: ModuleType) -> PickedRows:
        """Return the rows that were collected since the last `reset`, in the order of the subset."""
        positions = np.flatnonzero(self.filled)
        if self._rows is None or not len(positions):
            return PickedRows(positions, np.empty((0, 0), np.float32))
        return PickedRows(positions, self._rows if len(positions) == self._m else _take(self._rows, positions, xp))

    def _cells(self, n: int, index: Any) -> I64:
        if index is None:
            first, self.next_cell = self.next_cell, self.next_cell + n
            if self.next_cell > self.n_cells:
                raise InputError(
                    f"embedding: {self.next_cell:,} rows were given for {self.n_cells:,} cells; call reset() before"
                    " each pass over the cells, or say with `index` which cells a batch has",
                    argument="embedding",
                )
            return np.arange(first, self.next_cell)
        cells = to_host(index, "index")
        if cells.ndim != 1 or len(cells) != n or cells.dtype.kind not in "iu":
            raise InputError(
                f"index has shape {cells.shape} and dtype {cells.dtype}, but the batch has {n:,} rows; give a whole"
                " number for each row",
                argument="index",
            )
        wrong = np.flatnonzero((cells < 0) | (cells >= self.n_cells))
        if len(wrong):
            raise InputError(
                f"index: {len(wrong):,} of {n:,} are not cells (first: {cells[wrong[0]]}); give numbers from 0 to"
                f" {self.n_cells - 1:,}, rows of the label and batch that the monitor was given",
                argument="index",
            )
        return cells.astype(np.int64)


def torch_if_loaded() -> ModuleType | None:
    """Return torch if the program has imported it; without it there are neither tensors nor processes of torch."""
    return sys.modules.get("torch")


def _as_matrix(embedding: Any) -> Any:
    matrix = embedding.detach() if comes_from(embedding, "torch") else embedding
    if not comes_from(matrix, "torch") and not is_on_device(matrix):
        matrix = to_host(matrix, "embedding")
    if len(matrix.shape) != 2:
        raise InputError(
            f"embedding: a batch has shape {tuple(matrix.shape)}; give (cells, dimensions), one row for each cell",
            argument="embedding",
        )
    return matrix


def _take(matrix: Any, rows: I64, xp: ModuleType) -> Rows:
    """Return rows as float32: on the device where they are, or on the host if the engine computes there."""
    if comes_from(matrix, "torch"):
        torch: Any = torch_if_loaded()
        taken = matrix.index_select(0, torch.as_tensor(rows, device=matrix.device)).to(torch.float32)
        return taken.cpu().numpy() if xp is np or taken.device.type == "cpu" else taken
    if is_on_device(matrix):
        if xp is np:
            return to_host(matrix, "embedding")[rows].astype(np.float32)
        return matrix[xp.asarray(rows)].astype(np.float32)
    return matrix[rows].astype(np.float32)


def _place(rows: Rows) -> str:
    """Return where rows are, for comparison and messages."""
    return "the host" if isinstance(rows, np.ndarray) else f"{type(rows).__module__.partition('.')[0]} {rows.device}"


def _empty(shape: tuple[int, int], like: Rows, xp: ModuleType) -> Rows:
    if comes_from(like, "torch"):
        return like.new_empty(shape)
    return (np if isinstance(like, np.ndarray) else xp).empty(shape, np.float32)


def _assign(rows: Rows, positions: I64, values: Rows, xp: ModuleType) -> None:
    if comes_from(rows, "torch"):
        torch: Any = torch_if_loaded()
        rows[torch.as_tensor(positions, device=rows.device)] = values
    elif isinstance(rows, np.ndarray):
        rows[positions] = values
    else:
        rows[xp.asarray(positions)] = values
