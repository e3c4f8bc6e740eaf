"""Exit codes of the command line, and what is said where a command ends early."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gpubench.core.errors import GpubenchError

FLAGS = (
    "baseline", "batch", "cells", "condition", "control", "dims", "donor", "engine", "exact", "knn", "label", "memory",
    "obs", "out", "precision", "predictions", "pre_integrated", "resamples", "sample", "seed", "species", "threads",
    "time", "tolerance", "workers",
)  # fmt: skip
"""Arguments whose flag has the same name, with dashes."""

RENAMED = {"cluster": "scheduler"}
"""Arguments whose flag has another name."""

PHRASES = {
    "cluster is of the engine": "--scheduler and --workers are of the engine",
    "in embeddings": "with --embedding",
    "embeddings must name": "--embedding must name",
    "embeddings names": "--embedding names",
    "embeddings:": "--embedding:",
    "in tasks": "with --task",
    "scorers:": "--scorer:",
    "pre_integrated": "--pre-integrated",
    "in control": "with --control",
    "give obs": "give --obs",
    "give obs, or the values themselves": "give --obs, the table that has it",
    "with donor": "with --donor",
    "obs is where": "--obs is where",
    "raise memory": "raise --memory",
    "exact forbids": "--exact forbids",
    "give label (and batch, time or species), or predictions": (
        "give --label (and --batch, --time or --species), or --predictions"
    ),
    "lower n_folds": "lower --option n_folds",
    "lower min_class_size": "lower --option min_class_size",
}
"""What messages say of arguments in sentences -> the same of flags."""

_QUOTED = re.compile(r"""('[^']*'|"[^"]*")""")
_PHRASE = re.compile(
    "|".join(rf"(?<![\w-]){re.escape(phrase)}(?![\w.])" for phrase in sorted(PHRASES, key=len, reverse=True))
)
_GIVEN = re.compile(rf"(?<![\w-])({'|'.join((*FLAGS, *RENAMED))})=")


def in_flags(message: str) -> str:
    """Write a message for those who gave flags: `knn="ivf"` is `--knn "ivf"`; what is quoted stays as it is."""
    parts = _QUOTED.split(message)
    parts[::2] = [_GIVEN.sub(_flag, _PHRASE.sub(lambda found: PHRASES[found[0]], part)) for part in parts[::2]]
    return "".join(parts)


def _flag(found: re.Match[str]) -> str:
    return f"--{RENAMED.get(found[1], found[1]).replace('_', '-')} "


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
