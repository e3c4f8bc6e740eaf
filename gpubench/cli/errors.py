"""Exit codes, error messages and warnings of the command line."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from gpubench.core.errors import GpubenchError, GpubenchWarning, message_of
from gpubench.running.options import SPECS

EXIT_TASK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def complain(error: Exception, *, with_flags: bool = True) -> int:
    """Print the message of an error on one line to standard error, and return the exit code for wrong input.

    `with_flags` replaces names of arguments in the message by flags, such as `label` by --label.
    """
    message = message_of(error)
    if with_flags and isinstance(error, GpubenchError):
        message = error.with_flags(flag_of)
    sys.stderr.write(f"gpubench: {' '.join(message.split())}\n")
    return EXIT_BAD_INPUT


def flag_of(argument: str) -> str:
    """Return the flag for an argument of `gpubench.score`: "--label" for `label`, "--option k" for a task's `k`."""
    from gpubench.tasks import Options

    if argument in SPECS:
        return SPECS[argument].flags[0].names[0].partition("/")[0]
    if argument in (parameter.name for parameter in fields(Options)):
        return f"--option {argument}"
    return f"--{argument.replace('_', '-')}"


_OTHER_NAMES = {
    **dict.fromkeys(("labels", "label-key", "cell-type", "celltype"), "--label"),
    **dict.fromkeys(("batches", "batch-key"), "--batch"),
    **dict.fromkeys(("embeddings", "embedding-key", "use-rep", "obsm", "key"), "--embedding"),
    **dict.fromkeys(("output", "output-dir", "outdir"), "--out"),
    **dict.fromkeys(("n-jobs", "jobs", "cpus"), "--threads"),
    **dict.fromkeys(("random-state", "random-seed"), "--seed"),
}
"""Flags as other programs call them -> ours."""


def usage_hint(error: Exception) -> str:
    """Return what to write in place of an unknown flag or command; empty if nothing is known of it."""
    flag = str(getattr(error, "option_name", None) or "").lstrip("-").replace("_", "-").lower()
    command = re.search(r"No such command '?([^']+)'?", str(getattr(error, "message", "")))
    if flag in _OTHER_NAMES:
        return f"write {_OTHER_NAMES[flag]}"
    if command and (Path(command[1]).exists() or Path(command[1]).suffix):
        return f"did you mean: gpubench score {command[1].rstrip('.')}?"
    return ""


@contextmanager
def printing_warnings() -> Iterator[None]:
    """In a `with` block, print each distinct `GpubenchWarning` once, on one line of standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", GpubenchWarning)
        show_others, shown = warnings.showwarning, set()

        def show(message: Warning | str, *where: Any, **more: Any) -> None:
            if not isinstance(message, GpubenchWarning):
                show_others(message, *where, **more)
                return
            text = " ".join(message.with_flags(flag_of).split())
            if text not in shown:
                shown.add(text)
                sys.stderr.write(f"Warning: {text}\n")

        warnings.showwarning = show
        yield


@contextmanager
def reporting(verbose: bool) -> Iterator[None]:
    """In a `with` block, turn Ctrl-C into a message and an exit code; with `verbose`, print tracebacks of errors."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("gpubench: interrupted before any task was finished\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (GpubenchError, MemoryError, OSError):
        if verbose:
            traceback.print_exc()
        raise
