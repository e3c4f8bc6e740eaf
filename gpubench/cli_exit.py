"""Exit codes of the command line, and what is said where a command ends early."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gpubench.errors import GpubenchError

EXIT_TASK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def reporting(verbose: bool) -> Iterator[None]:
    """Say of Ctrl-C that nothing was done, and show where an error comes from above the line that says what it is."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("gpubench: interrupted before any task was finished\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (GpubenchError, MemoryError, OSError):
        if verbose:
            traceback.print_exc()
        raise
