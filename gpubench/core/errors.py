"""Errors that are written for the person who reads them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


N_LISTED = 10


N_MATCHES = 3


N_ROWS = 3


def close_matches(word: str, known: Iterable[str]) -> str:
    """What to append to "there is no such name": " (did you mean 'X_pca', 'X_umap'?)" or " (there are: 'a', 'b')".

    Upper and lower case count as equal.
    """
    known = [str(name) for name in known]
    meant = nearest(word, known)
    if meant:
        return f" (did you mean {quoted(meant)}?)"
    return f" (there are: {quoted(known)})" if known else " (there are none)"


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The names that `word` may be a slip for, best first."""
    by_folded: dict[str, list[str]] = {}
    for name in known:
        by_folded.setdefault(name.casefold(), []).append(name)
    found = difflib.get_close_matches(word.casefold(), by_folded, n=N_MATCHES)
    return [name for folded in found for name in by_folded[folded]][:N_MATCHES]


def quoted(names: Collection[str]) -> str:
    """'a', 'b', 'c' and 4 more."""
    listed = ", ".join(repr(name) for name in list(names)[:N_LISTED])
    return listed if len(names) <= N_LISTED else f"{listed} and {len(names) - N_LISTED:,} more"


def some_rows(rows: NDArray[Any], n: int, verb: str) -> str:
    """12 of 2,638 rows hold NaN (first: 3, 17, 40). The rows ascend and are counted from 0."""
    first = ", ".join(str(row) for row in rows[:N_ROWS])
    return f"{len(rows):,} of {n:,} rows {verb} (first: {first})"


class GpubenchError(Exception):
    """Base of every error that gpubench raises on purpose."""


class InputError(GpubenchError, ValueError):
    """An argument or a file cannot be scored.

    The message is one line: which argument, what is wrong, how many rows and the first few of them, and what to do.
    The command line prints it and exits with 2.
    """


class OutOfMemory(GpubenchError, MemoryError):
    """Memory ran out; the message says what to do."""


@contextmanager
def telling_of_memory() -> Iterator[None]:
    """Say what to do where memory runs out, for Python's own message says at most how much was asked for.

    Raises
    ------
    OutOfMemory
        In place of any other `MemoryError`.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        raise OutOfMemory(message_of(error)) from error


def message_of(error: Exception) -> str:
    """What an error says to the user; of memory that ran out, what to do."""
    if not isinstance(error, MemoryError) or isinstance(error, OutOfMemory):
        return str(error)
    what = " ".join(str(error).split())
    told = f" ({what})" if what else ""
    remedy = "use fewer cells, or smaller blocks with --memory 4GB (in Python memory, in bytes)"
    return f"out of memory{told}; {remedy}"


class EngineUnavailable(GpubenchError, RuntimeError):
    """A named engine cannot start here; the message says which package or device is missing."""


class ClusterError(GpubenchError, RuntimeError):
    """A cluster has failed the run: workers ended again and again, or nobody answers any more."""
