"""Errors that are written for the person who reads them."""

from __future__ import annotations


class GpubenchError(Exception):
    """Base of every error that gpubench raises on purpose."""


class InputError(GpubenchError, ValueError):
    """An argument or a file cannot be scored.

    The message is one line: which argument, what is wrong, how many rows and the first few of them, and what to do.
    The command line prints it and exits with 2.
    """


def message_of(error: Exception) -> str:
    """What an error says to the user; of memory that ran out, what to do."""
    if not isinstance(error, MemoryError):
        return str(error)
    what = " ".join(str(error).split())
    return f"out of memory{f' ({what})' if what else ''}; use fewer cells, or smaller blocks with --memory 4GB"


class EngineUnavailable(GpubenchError, RuntimeError):
    """A named engine cannot start here; the message says which package or device is missing."""


class ClusterError(GpubenchError, RuntimeError):
    """A cluster has failed the run: workers ended again and again, or nobody answers any more."""
