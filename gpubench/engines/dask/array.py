"""Arrays that stay on the workers: NumPy's functions run where they are, and only what is looked at crosses.

They follow NumPy's own protocols (NEP 13 and NEP 18), so metrics are the same code here as everywhere: a mean over
cells is computed on the worker that has them, and eight bytes come back.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from gpubench.core.types import Knn

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


MADE_HERE = ("item", "tobytes", "tofile", "tolist")
"""Methods that make no array."""


_SUMS = (np.mean, np.nanmean, np.sum, np.nansum, np.average, np.std, np.var, np.bincount, np.count_nonzero, np.dot)
_ORDERS = (np.median, np.percentile, np.quantile, np.max, np.min, np.argmax, np.argmin, np.argsort, np.sort)
_SHAPES = (np.concatenate, np.stack, np.transpose, np.reshape, np.ravel, np.take_along_axis)
RUN_THERE = frozenset((*_SUMS, *_ORDERS, *_SHAPES, np.where, np.clip, np.round, np.any, np.all))
"""Functions of NumPy that make one array; others are given the values here."""


class Remote(Protocol):
    """What an array needs of the cluster that it is on."""

    def submit(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function on a worker; the answer stays there. Arguments may be arrays of the cluster."""

    def fetch(self, argument: Any) -> Any:
        """Bring an answer here."""


class ClusterArray(NDArrayOperatorsMixin):
    """An array on the workers; it is fetched where its values are asked for, once.

    Attributes
    ----------
    argument : what stands for it in a task
    """

    def __init__(self, remote: Remote, argument: Any, facts: tuple[tuple[int, ...], Any] | None = None) -> None:
        self.argument = argument
        self._remote = remote
        self._facts = facts
        self._here: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._described()[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        dtype: np.dtype[Any] = self._described()[1]
        return dtype

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        return len(self.shape)

    @property
    def flags(self) -> Any:
        """How it lies in memory, once it is here."""
        return np.asarray(self).flags

    @property
    def T(self) -> ClusterArray:  # noqa: N802 - as NumPy calls it
        """Transposed."""
        return self._ask(np.transpose, self)

    def _described(self) -> tuple[tuple[int, ...], Any]:
        if self._facts is None:
            self._facts = self._remote.fetch(self._remote.submit("shape", _describe, self))
        return self._facts

    def _ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> ClusterArray:
        return ClusterArray(self._remote, self._remote.submit(_name_of(function), function, *args, **kwargs))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's protocol
        if self._here is None:
            self._here = np.asarray(self._remote.fetch(self.argument))
        return np.array(self._here, dtype=dtype) if copy else np.asarray(self._here, dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        found = self._ask(getattr(ufunc, method) if method != "__call__" else ufunc, *inputs, **kwargs)
        if out is None:
            return found
        (target,) = out
        if isinstance(target, ClusterArray):
            target.become(self._remote.submit("astype", _astype, found, target.dtype))
        else:
            target[...] = np.asarray(found)
        return target

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in RUN_THERE:
            return self._ask(function, *args, **kwargs)
        return function(*_brought_here(args), **_brought_here(kwargs))

    def __getitem__(self, key: Any) -> ClusterArray:
        facts = None
        if self._facts is not None and isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu":
            facts = (len(key), *self.shape[1:]), self.dtype  # known without waiting for it
        return ClusterArray(self._remote, self._remote.submit("getitem", operator.getitem, self, key), facts)

    def __setitem__(self, key: Any, values: Any) -> None:
        self.become(self._remote.submit("setitem", _with_items, self, key, values))

    def made(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> ClusterArray:
        """Another array of the same shape, by a function of NumPy that makes one."""
        facts = None
        if self._facts is not None and not args and "ndmin" not in kwargs:
            facts = self.shape, np.dtype(kwargs.get("dtype") or self.dtype)
        made = self._remote.submit(_name_of(function), function, self, *args, **kwargs)
        return ClusterArray(self._remote, made, facts)

    def become(self, argument: Any) -> None:
        """Take other values of the same shape and dtype, as where it is written to."""
        self.argument = argument
        self._here = None

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __float__(self) -> float:
        return float(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def _method(self, name: str, args: Any, kwargs: Any) -> ClusterArray:
        return ClusterArray(self._remote, self._remote.submit(name, _call_method, self, name, args, kwargs))

    def __getattr__(self, name: str) -> Any:
        """Methods of NumPy's arrays, which run on the worker unless they make something other than an array."""
        if name.startswith("_") or not callable(getattr(np.ndarray, name, None)):
            raise AttributeError(name)
        if name in MADE_HERE:
            return getattr(np.asarray(self), name)
        return lambda *args, **kwargs: self._method(name, args, kwargs)


class BlockTable(ClusterArray):
    """One of the two tables of a neighbour graph, (n, k), in blocks of rows on the workers.

    Attributes
    ----------
    blocks : futures of `Block`s, which hold both tables and say which cells their rows are of
    """

    def __init__(self, remote: Remote, blocks: list[Any], shape: tuple[int, int], which: str) -> None:
        super().__init__(remote, None, (shape, np.dtype(np.int32 if which == "indices" else np.float32)))
        self.blocks = blocks
        self._which = which
        self._whole: Any = None

    @property
    def argument(self) -> Any:
        """The table on one worker, its rows in the order of the cells."""
        if self._whole is None:
            self._whole = self._remote.submit("whole", whole_table, self.blocks, *self.shape, self._which)
        return self._whole

    @argument.setter
    def argument(self, changed: Any) -> None:
        self._whole = changed

    def __getitem__(self, key: Any) -> ClusterArray:
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None) and isinstance(key[1], slice):
            start, k, step = key[1].indices(self.shape[1])
            if (start, step) == (0, 1) and self._whole is None:
                return BlockTable(self._remote, self.blocks, (self.shape[0], k), self._which)
        return super().__getitem__(key)


def tables(remote: Remote, blocks: list[Any], shape: tuple[int, int]) -> tuple[BlockTable, BlockTable]:
    """Indices and distances of a neighbour graph."""
    return BlockTable(remote, blocks, shape, "indices"), BlockTable(remote, blocks, shape, "distances")


Block = tuple["NDArray[np.int64] | None", "NDArray[np.int32]", "NDArray[np.float32]"]
"""Rows of a neighbour graph: the cells that they are of (None: all, in order), indices, distances."""


def whole_table(blocks: list[Block], n: int, k: int, which: str) -> NDArray[Any]:
    """Put the blocks of one table together, (n, k)."""
    parts: list[NDArray[Any]] = [block[1] if which == "indices" else block[2] for block in blocks]
    if blocks[0][0] is None:
        return np.ascontiguousarray(parts[0][:, :k])
    table = np.empty((n, k), parts[0].dtype)
    for block, part in zip(blocks, parts, strict=True):
        table[block[0]] = part[:, :k]
    return table


def whole_knn(blocks: list[Block], n: int, k: int) -> Knn:
    """Put the blocks of a neighbour graph together."""
    return Knn(whole_table(blocks, n, k, "indices"), whole_table(blocks, n, k, "distances"))


class ClusterNumpy:
    """NumPy, whose functions that make arrays of arrays leave those of the cluster where they are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def asarray(self, a: Any, *args: Any, **kwargs: Any) -> Any:
        """See `numpy.asarray`."""
        if isinstance(a, ClusterArray):
            return a.astype(*args, **kwargs) if args or kwargs.get("dtype") is not None else a
        return np.asarray(a, *args, **kwargs)

    def array(self, a: Any, *args: Any, **kwargs: Any) -> Any:
        """See `numpy.array`."""
        return self._made(np.array, a, *args, **kwargs)

    def ascontiguousarray(self, a: Any, *args: Any, **kwargs: Any) -> Any:
        """See `numpy.ascontiguousarray`."""
        return self._made(np.ascontiguousarray, a, *args, **kwargs)

    def _made(self, function: Any, a: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(a, ClusterArray):
            return a.made(function, *args, **kwargs)
        return function(a, *args, **kwargs)


def _brought_here(given: Any) -> Any:
    """Arguments with the values of their arrays."""
    if isinstance(given, ClusterArray):
        return np.asarray(given)
    if isinstance(given, list | tuple):
        return type(given)(map(_brought_here, given))
    return {name: _brought_here(value) for name, value in given.items()} if isinstance(given, dict) else given


def _describe(array: Any) -> tuple[tuple[int, ...], Any]:
    return np.shape(array), np.asarray(array).dtype


def _astype(array: Any, dtype: Any) -> Any:
    return np.asarray(array).astype(dtype, copy=False)


def _with_items(array: NDArray[Any], key: Any, values: Any) -> NDArray[Any]:
    changed = array.copy()  # what a task was given is not its own
    changed[key] = values
    return changed


def _call_method(array: Any, name: str, args: Any, kwargs: Any) -> Any:
    return getattr(np.asarray(array), name)(*args, **kwargs)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", "array"))
