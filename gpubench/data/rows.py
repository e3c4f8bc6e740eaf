"""Row sources over things that slice, and several of them one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.data.host import to_host
from gpubench.data.messages import reading
from gpubench.errors import InputError
from gpubench.types import RowSource


class DeviceRows:
    """Rows of a matrix in the memory of a device: an engine on that device takes `array`, others read blocks.

    Attributes
    ----------
    array : of CuPy, torch or another library
    """

    def __init__(self, array: Any, what: str) -> None:
        self.array = array
        self._what = what
        self.dtype: np.dtype[Any] = to_host(array[:0], what).dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        n, d = self.array.shape
        return int(n), int(d)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Copy rows [start, stop) to the host."""
        return to_host(self.array[start:stop], self._what)


class SlicedRows:
    """Rows of a two-dimensional thing that `x[start:stop]` cuts: a CSR matrix, an HDF5 dataset, a zarr array.

    A chunked array is decompressed a chunk at a time, so a block is read to the end of its last chunk, and what is
    beyond the block is kept for the next one: whoever reads from top to bottom reads each chunk once.

    Attributes
    ----------
    node : has shape and dtype; a slice of it is an array, or has `toarray`
    what : for messages
    """

    def __init__(self, node: Any, what: str) -> None:
        self.node = node
        self.what = what
        chunks = getattr(node, "chunks", None)
        self._chunk_rows = int(np.max(chunks[0])) if chunks else 1  # Dask has the size of every chunk
        self._kept: tuple[int, NDArray[Any]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        n, d = self.node.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        dtype: np.dtype[Any] = self.node.dtype
        return dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense array."""
        kept = self._take_kept(start, stop)
        first = start + len(kept)
        if first >= stop:
            return kept
        end = min(-(-stop // self._chunk_rows) * self._chunk_rows, self.shape[0])
        rows = self._slice(first, end)
        # A copy, for a view would keep the whole block in memory. Set in one step: threads may read at once.
        self._kept = (stop, rows[stop - first :].copy()) if end > stop else None
        rows = rows[: stop - first]
        return np.concatenate([kept, rows]) if len(kept) else rows

    def _take_kept(self, start: int, stop: int) -> NDArray[Any]:
        """The first of rows [start, stop), as many as are kept from the block before."""
        kept = self._kept
        if kept is None or not kept[0] <= start < kept[0] + len(kept[1]):
            return np.empty((0, self.shape[1]), self.dtype)
        offset, rows = start - kept[0], kept[1]
        if stop >= self.shape[0]:
            self._kept = None
        return rows[offset : offset + stop - start]

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        with reading(f"{self.what}: rows {start:,} to {stop:,}"):
            block = self.node[start:stop]
            return np.asarray(block.toarray() if hasattr(block, "toarray") else block)


class CsrMatrixRows(SlicedRows):
    """Rows of a CSR matrix in memory, which can also be had as they are."""

    def read_csr(self, start: int, stop: int) -> Any:
        """Return rows [start, stop) as a CSR matrix."""
        return self.node[start:stop]


class StackedRows:
    """Several matrices with the same number of columns, one below the other, without copying them together.

    Parameters
    ----------
    parts : arrays or row sources
    """

    def __init__(self, parts: Sequence[NDArray[Any] | RowSource]) -> None:
        self._parts = list(parts)
        widths = {int(part.shape[1]) for part in parts}
        if len(widths) != 1:
            raise InputError(f"matrices of {sorted(widths)} columns cannot be stacked; they must have the same number")
        self._starts = np.cumsum([0, *(int(part.shape[0]) for part in parts)])

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the whole."""
        return int(self._starts[-1]), int(self._parts[0].shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that holds the values of every part."""
        return np.result_type(*(part.dtype for part in self._parts))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start, stop) as a dense (stop - start, d) array."""
        block = np.empty((stop - start, self.shape[1]), self.dtype)
        for part, begin, end in zip(self._parts, self._starts[:-1], self._starts[1:], strict=True):
            low, high = max(start, int(begin)), min(stop, int(end))
            if low < high:
                block[low - start : high - start] = read_rows(part, low - int(begin), high - int(begin))
        return block


def read_rows(x: NDArray[Any] | RowSource, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of an array or a row source."""
    return x.read(start, stop) if isinstance(x, RowSource) else x[start:stop]
