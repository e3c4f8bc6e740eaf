"""Errors with messages for users, and helpers that word them."""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


N_LISTED, N_MATCHES, N_ROWS = 10, 3, 3
"""Largest numbers of names, close matches and rows that a message lists."""


def close_matches(word: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message about an unknown name.

    It lists the names among `known` that are most similar to `word`, ignoring case, or else all of `known`.

    Examples
    --------
    >>> close_matches("X_pc", ["X_pca", "spatial"])
    " (did you mean 'X_pca'?)"
    >>> close_matches("b", ["X_pca"])
    " (there are: 'X_pca')"
    """
    known = [str(name) for name in known]
    meant = nearest(word, known)
    if meant:
        return f" (did you mean {quoted(meant)}?)"
    return f" (there are: {quoted(known)})" if known else " (there are none)"


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return up to `N_MATCHES` of the known names that are similar to `word`, best first; case is ignored."""
    by_folded: dict[str, list[str]] = {}
    for name in known:
        by_folded.setdefault(name.casefold(), []).append(name)
    found = difflib.get_close_matches(word.casefold(), by_folded, n=N_MATCHES)
    return [name for folded in found for name in by_folded[folded]][:N_MATCHES]


def quoted(names: Collection[str]) -> str:
    """Return a text with the first ten names in quotes, such as "'a', 'b', ... and 4 more"."""
    listed = ", ".join(repr(name) for name in list(names)[:N_LISTED])
    return listed if len(names) <= N_LISTED else f"{listed} and {len(names) - N_LISTED:,} more"


def some_rows(rows: NDArray[Any], n: int, verb: str) -> str:
    """Return a text with the number of affected rows and the first of them.

    With the verb "hold NaN": "12 of 2,638 rows hold NaN (first: 3, 17, 40)".
    """
    first = ", ".join(str(row) for row in rows[:N_ROWS])
    return f"{len(rows):,} of {n:,} rows {verb} (first: {first})"


class GpubenchError(Exception):
    """Base of all errors that gpubench raises on purpose.

    Parameters
    ----------
    message : one line that says which argument is wrong, why, in how many rows, and what to do. It begins with the name
        of the argument, if there is one; further arguments are in backticks
    argument : name of the argument with which the message begins; the command line replaces it by its flag

    Examples
    --------
    >>> error = InputError("knn='ivf' is approximate, which `exact` forbids", argument="knn")
    >>> error.with_flags(lambda argument: f"--{argument}")
    "--knn 'ivf' is approximate, which --exact forbids"
    """

    def __init__(self, message: str = "", *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument

    def with_flags(self, flag_of: Callable[[str], str]) -> str:
        """Return the message with the names of arguments replaced by the flags of the command line.

        `flag_of` returns the flag of an argument.
        """
        return _with_flags(str(self), self.argument, flag_of)


def _with_flags(message: str, argument: str | None, flag_of: Callable[[str], str]) -> str:
    if argument and message.startswith(argument):
        flag, rest = flag_of(argument), message.removeprefix(argument)
        message = flag + (rest.replace("=", " ", 1) if rest.startswith("=") and " " not in flag else rest)
    return re.sub(r"`(\w+)`", lambda named: flag_of(named[1]), message)


class InputError(GpubenchError, ValueError):
    """An argument or a file is invalid; the command line prints the message and exits with status 2."""


class GpubenchWarning(UserWarning):
    """The input can be scored, but is probably not what the user meant; with `strict` it is an `InputError` instead.

    Parameters
    ----------
    message, argument : as in `GpubenchError`
    """

    def __init__(self, message: str = "", *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument

    def with_flags(self, flag_of: Callable[[str], str]) -> str:
        """Return the message with flags in place of arguments; see `GpubenchError.with_flags`."""
        return _with_flags(str(self), self.argument, flag_of)


def give_warnings(found: Iterable[GpubenchWarning], *, strict: bool = False) -> None:
    """Issue warnings, attributed to the line that called gpubench.

    If `strict`, raise the first warning as an `InputError` instead.

    Raises
    ------
    InputError
        If `strict` and there is a warning.
    """
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - skip_file_prefixes of warnings.warn needs Python 3.12
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("gpubench", "contextlib"):
        level, frame = level + 1, frame.f_back
    for warning in found:
        if strict:
            raise InputError(f"{warning} (an error because of `strict`)", argument=warning.argument)
        warnings.warn(warning, stacklevel=level)


class OutOfMemory(GpubenchError, MemoryError):
    """Memory ran out; the message says what to do."""


_NO_MEMORY = re.compile(r"bad_alloc|out[ _]of[ _]memory|ALLOC_FAILED|cudaErrorMemoryAllocation", re.IGNORECASE)
"""Texts by which a RuntimeError of a GPU library is recognised as a lack of memory."""


def is_memory_error(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the host or on a GPU.

    CUDA, cuBLAS and cuGraph raise `RuntimeError` in that case, which is recognised by its message.

    Examples
    --------
    >>> is_memory_error(RuntimeError("CUGRAPH_UNKNOWN_ERROR std::bad_alloc: out_of_memory"))
    True
    """
    if isinstance(error, GpubenchError):
        return isinstance(error, MemoryError)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


@contextmanager
def explaining_memory_errors() -> Iterator[None]:
    """Raise `OutOfMemory`, whose message says what to do, in place of errors for which `is_memory_error` is true."""
    try:
        yield
    except OutOfMemory:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise OutOfMemory(message_of(error)) from error


def message_of(error: Exception) -> str:
    """Return the message of an error for the user; if memory ran out, it says what to do."""
    if isinstance(error, OutOfMemory) or not is_memory_error(error):
        return str(error)
    reason = " ".join(str(error).split())
    remedy = "use fewer cells, or smaller blocks with --memory 4GB (in Python memory, in bytes)"
    return f"out of memory{f' ({reason})' if reason else ''}; {remedy}"


class EngineUnavailable(GpubenchError, RuntimeError):
    """The requested engine cannot start on this machine; the message names the missing package or device."""


class ClusterError(GpubenchError, RuntimeError):
    """A run on a Dask cluster failed: workers ended repeatedly, or the scheduler does not answer."""
