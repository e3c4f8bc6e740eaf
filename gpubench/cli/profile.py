"""The command `profile`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubench.cli.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, reporting
from gpubench.cli.flags import parse_flags, with_run_flags
from gpubench.core import units

if TYPE_CHECKING:
    from gpubench.profiling import Profile

JSON, FIGURES = "profile.json", ("svg", "png")


@with_run_flags("tasks", "seed", "knn", "threads", "memory", "options", panels=False)
def profile_command(
    *,
    cells: Annotated[str, typer.Option(metavar="NUMBERS", help="Numbers of cells.")] = "10k,30k,100k",
    dims: Annotated[str, typer.Option(metavar="NUMBERS", help="Numbers of dimensions.")] = "50",
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the files.")] = Path("gpubench-profile"),
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks of errors.")] = False,
    **given: Any,
) -> int:
    """Score synthetic cells of growing size, and compare time and memory of each stage with the machine's limits.

    By default all tasks without classifiers run. Each size runs in its own process; Ctrl-C keeps the finished sizes.

    Writes profile.json, profile.svg and profile.png.
    """
    from gpubench.cli.progress import Progress
    from gpubench.core.files import check_writable_folder
    from gpubench.profiling import profile
    from gpubench.profiling.sweep import DEFAULT_TASKS
    from gpubench.profiling.table import blocks
    from gpubench.results.table import print_blocks

    with reporting(verbose):
        check_writable_folder(out, "out")
        with Progress() as progress:
            found = profile(
                units.parse_counts(cells, "cells"),
                units.parse_counts(dims, "dims"),
                engine=engine,
                listener=progress,
                keep=partial(_write_json, folder=out),
                **{**parse_flags(given), "tasks": given["task"] or DEFAULT_TASKS},
            )
        if found.interrupted and not found.runs:
            raise KeyboardInterrupt
    print_blocks(blocks(found), sys.stdout)
    sys.stdout.write("".join(f"Wrote {file}\n" for file in _write(found, out)))
    if found.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if found.failures or any(run.failures for run in found.runs) else 0


def _write_json(done: Profile, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done.to_json(folder / JSON)


def _write(found: Profile, folder: Path) -> list[Path]:
    """Write all files; the figures only if there is a run."""
    from gpubench.profiling.figure import write_figure

    _write_json(found, folder)
    files = [folder / JSON]
    if found.runs:
        for kind in FIGURES:
            files.append(folder / f"profile.{kind}")
            write_figure(found, files[-1])
    return files
