"""The command `profile`: parses, calls, prints."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, reporting
from gpubench.core import units

if TYPE_CHECKING:
    from gpubench.profiling import Profile

JSON, FIGURES = "profile.json", ("svg", "png")


def profile_command(
    cells: Annotated[str, typer.Option(metavar="NUMBERS", help="How many cells.")] = "10k,30k,100k",
    dims: Annotated[str, typer.Option(metavar="NUMBERS", help="Of how many dimensions.")] = "50",
    *,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", metavar="TASK", help="Only this task. Repeatable. By default all without classifiers."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of everything random.")] = 42,
    knn: Annotated[
        str, typer.Option(metavar="NAME", help="Search of neighbours: auto, exact, leaves, ivf or nn_descent.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(metavar="NUMBER", help="CPU threads; all by default.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="AMOUNT", help="Most memory beyond the data, as 4GB.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="A parameter, such as k=15.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")] = Path("gpubench-profile"),
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print where errors come from.")] = False,
) -> int:
    """Score synthetic cells of growing size, and say where time and memory go beside what this machine can do.

    Writes profile.json, profile.svg and profile.png. Each size runs in a process of its own; Ctrl-C keeps what is done.
    """
    from gpubench.cli import parse
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
                tasks=task or DEFAULT_TASKS,
                engine=engine,
                seed=seed,
                knn=knn,
                threads=threads,
                memory=None if memory is None else units.parse_bytes(memory),
                options=parse.parse_options(option or []),
                listener=progress,
                keep=partial(_write_json, folder=out),
            )
        if found.interrupted and not found.runs:  # nothing to keep
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
    """All files, of which the figures need a run."""
    from gpubench.profiling.figure import write_figure

    _write_json(found, folder)
    files = [folder / JSON]
    if found.runs:
        for kind in FIGURES:
            files.append(folder / f"profile.{kind}")
            write_figure(found, files[-1])
    return files
