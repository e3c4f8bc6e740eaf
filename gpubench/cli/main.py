"""The command line: its entry point, and every command but `score`, `demo` and `datasets`."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubench.cli.audit import audit
from gpubench.cli.commands import Command, Group
from gpubench.cli.datasets import Json, print_json
from gpubench.cli.datasets import app as datasets_app
from gpubench.cli.demo import demo
from gpubench.cli.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, complain, printing_warnings, reporting, usage_hint
from gpubench.cli.flags import check_file, parse_flags, with_run_flags
from gpubench.cli.score import EXAMPLES, score
from gpubench.core import units
from gpubench.core.errors import GpubenchError, InputError
from gpubench.core.terminal import terminal_width
from gpubench.running.options import SPECS

if TYPE_CHECKING:
    from gpubench.profiling import Profile

# The base of every error in usage. Newer versions of typer carry their own copy of click, older ones use the package.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="gpubench",
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The exit code is 0 for success; 1 if a task failed (other scores are saved) or a comparison failed; 2 for wrong
    usage or input; 130 after Ctrl-C (finished scores are saved).

    Parameters
    ----------
    arguments : words after "gpubench". If None, those of this process, `sys.argv[1:]`
    """
    # names of labels and files may have characters that the terminal's encoding lacks
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # zarr reads parts of a store concurrently, and asyncio would print tracebacks of all failures after the first
    logging.getLogger("asyncio").disabled = True
    try:
        with printing_warnings():
            return app(args=arguments, prog_name="gpubench", standalone_mode=False) or 0
    except _UsageError as error:
        option = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
        if option in SPECS["options"].choices():
            return complain(InputError(f"--{option} is a parameter of the tasks; write it as -o {option}=VALUE"))
        context, message = error.ctx, error.format_message().rstrip(".")  # type: ignore[attr-defined]
        hint = usage_hint(error)
        if hint:
            message = message.partition(" (")[0]
        remedy = hint or f"see {context.command_path if context else 'gpubench'} --help"
        return complain(InputError(f"{message}; {remedy}"))
    except (GpubenchError, MemoryError) as error:
        return complain(error)
    except OSError as error:  # such as a folder without permission, wherever a path is first used
        if error.filename is None:
            raise
        message = f"{str(error.filename)!r} cannot be used: {error.strerror}; check the path, or choose another"
        return complain(InputError(message))
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED


@app.callback(invoke_without_command=True)
def _gpubench(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Score embeddings of single cells: clustering, separation, batch mixing, label prediction and more.

    Start with [bold]gpubench demo[/bold], then [bold]gpubench score --help[/bold].
    """
    if version:
        from gpubench.core.machine import DISTRIBUTION, package_version

        typer.echo(f"gpubench {package_version(DISTRIBUTION)}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(cls=Command, epilog=EXAMPLES)(score)
app.command(cls=Command)(demo)
app.command(cls=Command)(audit)
app.add_typer(datasets_app, name="datasets")


@app.command(cls=Command)
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check and time every method of the CUDA engine on this GPU.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="With --gpu: a million cells, the memory, and a run of all tasks.")
    ] = False,
    json_: Json = False,
) -> int:
    """Check what works on this machine, and what to install."""
    from gpubench.results.table import print_blocks

    if full and not gpu:
        raise InputError("--full needs --gpu; use both, or neither")
    if gpu:
        from gpubench.cli import gpu_doctor

        found = gpu_doctor.examine_gpu(full=full)
        if json_:
            print_json(found.to_dict())
        else:
            print_blocks(gpu_doctor.blocks(found), sys.stdout, terminal_width(sys.stdout))
        return 0 if found.works else 1
    from gpubench.cli import doctor as examination

    findings = examination.examine()
    works = examination.works(findings)
    if json_:
        print_json({"works": works, "findings": [asdict(finding) for finding in findings]})
    else:
        print_blocks(examination.blocks(findings), sys.stdout)
    return 0 if works else 1


@app.command(cls=Command)
def prepare(
    data: Annotated[str, typer.Argument(metavar="DATA", help="h5ad file with expression in X.")],
    condition: Annotated[str, typer.Option(metavar="COLUMN", help="Column of obs with the perturbation of each cell.")],
    control: Annotated[
        str, typer.Option(metavar="VALUE", help="Value in --condition that marks control cells, such as non-targeting.")
    ],
    out: Annotated[Path, typer.Option(metavar="H5AD", help="h5ad file to write.")],
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 42,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print tracebacks of errors.")] = False,
) -> None:
    """Find the genes that each perturbation changes, and match treated to control cells.

    The task perturbation_expression_prediction needs the file that is written.
    """
    from gpubench.data import prepare_perturbation

    with reporting(verbose):
        if out.exists() and not force and not (Path(data).exists() and out.samefile(data)):
            raise InputError(
                f"out={str(out)!r} exists; choose another name, or replace it with --force", argument="out"
            )
        prepared = prepare_perturbation(data, out, condition=condition, control=control, seed=seed)
    if prepared.note:
        typer.echo(f"Note: {prepared.note}")
    typer.echo(f"Wrote {out}")


@app.command("report", cls=Command)
def report_command(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A results.json, or a folder of results to compare.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="HTML", help="File to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not a report.")] = False,
) -> None:
    """Write results as one HTML page that works offline: scores, definitions, notes, time, memory and provenance."""
    from gpubench.reporting import report
    from gpubench.results.cells_file import NAME as CELLS_NAME
    from gpubench.results.runs import read_results, result_files
    from gpubench.running.output import check_not_input, is_ours

    check_file(out, "out", "report.html")
    for file in result_files(results).values():
        for read in (file, file.with_name(CELLS_NAME)):
            check_not_input(out, read, "RESULTS", "out")
    if out.exists() and not is_ours(out) and not force:
        message = f"out={str(out)!r} is not a report of gpubench; choose another name, or replace it with --force"
        raise InputError(message, argument="out")
    overwrites = out.exists()
    report(read_results(results), out)
    typer.echo(f"{'Overwrote' if overwrites else 'Wrote'} {out}")


@app.command("compare", cls=Command)
def compare_command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULT...",
            help="results.json files, folders with one, or one folder of several runs. One file: its embeddings.",
        ),
    ],
    *,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Exit with code 1 if a later result has the metric below VALUE, undefined or missing. Repeatable.",
        ),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit with code 1 if a row is worse than in the first file beyond noise, undefined or missing.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Largest decrease that --fail-if-worse accepts. Default: 0."),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of donors: compute intervals by leaving out one donor at a time."),
    ] = None,
    obs: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Parquet, CSV or h5ad file with the column, if the results lack it."),
    ] = None,
    resamples: Annotated[int, typer.Option(metavar="NUMBER", help="Number of bootstrap resamples (0 = none).")] = 1000,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 42,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse results that a warning would call not comparable.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", metavar="NAME", help="table or json.")] = "table",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print every row and every difference with its interval.")
    ] = False,
) -> int:
    """Compare results with the first one: differences, which is better, and whether a difference exceeds noise.

    Noise is the variation of a difference over other cells, or over other donors.

    Values in cells.parquet get 95% intervals: a bootstrap of cells, or a jackknife over donors.

    Other numbers have standard errors, or the reason why they have none.
    """
    if format_ not in ("table", "json"):
        raise InputError(f"--format {format_!r} is unknown; use table or json")
    if tolerance is not None and not fail_if_worse:
        raise InputError("--tolerance needs --fail-if-worse; add it, or leave out --tolerance")
    thresholds = _thresholds(fail_below or [])
    from gpubench.comparison.compare import compare, compare_runs, is_run_folder
    from gpubench.results.runs import rank_blocks
    from gpubench.results.table import print_blocks

    given: dict[str, Any] = {"donor": donor, "obs": obs, "resamples": resamples, "seed": seed, "strict": strict}
    if len(files) == 1 and is_run_folder(files[0]):
        compared = compare_runs(files[0], **given)
    else:
        compared = {"": compare(files, **given)}
    failures = [
        f"{source}: {line}" if source else line
        for source, one in compared.items()
        for line in one.below(thresholds) + (one.worse(tolerance or 0.0) if fail_if_worse else [])
    ]
    if format_ == "json":
        contents = {source: one.to_dict() for source, one in compared.items()}
        content = {**contents[""], "failures": failures} if "" in contents else {"runs": contents, "failures": failures}
        sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
    else:
        width = terminal_width(sys.stdout)
        for source, one in compared.items():
            sys.stdout.write(f"{source}\n{'=' * len(source)}\n" if source else "")
            print_blocks(one.blocks(width, details=verbose or None), sys.stdout, width)
            sys.stdout.write("\n" if source else "")
        if len(compared) > 1:
            print_blocks(
                rank_blocks({source: one.scores() for source, one in compared.items()}, width), sys.stdout, width
            )
        sys.stdout.write("".join(f"Failed: {line}\n" for line in failures))
    return 1 if failures else 0


@app.command("leaderboard", cls=Command)
def leaderboard_command(
    results: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS...",
            help="Folders with results.json files, also deeper; result files; CSV tables with model, metric and value.",
        ),
    ],
    *,
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", metavar="NAME", help="Task to rank. Repeatable. Default: all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder for leaderboard.html, leaderboard.csv, leaderboard.json."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed of the intervals.")] = 42,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the ranks on each dataset.")] = False,
) -> None:
    """Rank many models over many datasets: mean ranks with 95% intervals, for each task and overall.

    Tables of scib-metrics' Benchmarker are read as well.
    """
    from gpubench.core.files import check_writable_folder
    from gpubench.results.table import print_blocks
    from gpubench.standings.leaderboard import leaderboard

    if out is not None:
        check_writable_folder(out, "out")
    board = leaderboard(results, tasks=task or None, seed=seed)
    width = terminal_width(sys.stdout)
    print_blocks(board.blocks(width, details=verbose), sys.stdout, width)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    for suffix, write in {"html": board.to_html, "csv": board.to_csv, "json": board.to_json}.items():
        path = out / f"leaderboard.{suffix}"
        overwrites = path.exists()
        write(path)
        typer.echo(f"{'Overwrote' if overwrites else 'Wrote'} {path}")


def _thresholds(texts: list[str]) -> dict[str, float]:
    """Parse texts of the form "metric=value"; return metric -> value."""
    from gpubench.cli.listing import METRIC_ALIASES

    thresholds: dict[str, float] = {}
    for text in texts:
        metric, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"--fail-below {text!r} has no number; write it as METRIC=VALUE, such as silhouette_score=0.5"
            )
        metric = METRIC_ALIASES.get(metric.lower(), metric)
        thresholds[metric] = max(value, thresholds.get(metric, value))
    return thresholds


@app.command("profile", cls=Command)
@with_run_flags("tasks", "seed", "knn", "threads", "memory", "options", panels=False)
def profile_command(
    *,
    cells: Annotated[str, typer.Option(metavar="NUMBERS", help="Numbers of cells.")] = "10k,30k,100k",
    dims: Annotated[str, typer.Option(metavar="NUMBERS", help="Numbers of dimensions.")] = "50",
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the files.")] = Path("gpubench-profile"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier profile in --out.")] = False,
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
    from gpubench.profiling.presentation import blocks, write_figure
    from gpubench.profiling.sweep import DEFAULT_TASKS
    from gpubench.results.table import print_blocks

    with reporting(verbose):
        check_writable_folder(out, "out")
        files = [out / f"profile.{suffix}" for suffix in ("json", "svg", "png")]
        existing = [file.name for file in files if file.exists()]
        if existing and not force:
            message = f"out={str(out)!r} holds {', '.join(existing)}; choose another folder, or replace with --force"
            raise InputError(message, argument="out")
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
    _write_json(found, out)
    typer.echo(f"Wrote {out / 'profile.json'}")
    for figure in files[1:] if found.runs else ():
        write_figure(found, figure)
        typer.echo(f"Wrote {figure}")
    if found.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if found.failures or any(run.failures for run in found.runs) else 0


def _write_json(done: Profile, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done.to_json(folder / "profile.json")


@app.command(cls=Command)
def tasks(json_: Json = False) -> None:
    """List the tasks: question, inputs and metrics."""
    from gpubench.cli import listing

    print_json(listing.tasks_data()) if json_ else typer.echo(listing.tasks_text())


@app.command(cls=Command)
def metrics(
    metric: Annotated[
        str | None, typer.Argument(metavar="METRIC", help="Explain this metric: id, or short name such as ARI.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the metrics: id, range and meaning; or explain one, with its formula and reference."""
    from gpubench.cli import listing

    if metric is not None:
        found = listing.find_metric(metric)
        known = next(known for known in listing.metrics_data() if known["id"] == found)
        print_json(known) if json_ else typer.echo(listing.metric_text(found))
        return
    print_json(listing.metrics_data()) if json_ else typer.echo(listing.metrics_text())
