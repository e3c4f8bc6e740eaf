"""Errors that are written for the person who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
