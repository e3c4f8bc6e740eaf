"""The command line: parses, calls, prints."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli_compare import compare
from gpubench.cli_report import report_command
from gpubench.errors import GpubenchError, InputError, message_of

if TYPE_CHECKING:
    from gpubench.output import Output
    from gpubench.result import Result

EXIT_TASK_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

# The base of every error in usage. Newer versions of typer carry their own copy of click, older ones use the package.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="gpubench",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_NOT_KEPT = "No files were written; add --out results/ to keep these numbers."

_input = partial(typer.Option, rich_help_panel="Data")
_column = partial(typer.Option, metavar="COLUMN", rich_help_panel="Columns of obs")
_choice = partial(typer.Option, rich_help_panel="What to run")
_written = partial(typer.Option, rich_help_panel="Results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done. 1: a task failed, the others are kept; or a comparison found what it must not. 2: wrong usage or input.
    130: interrupted, what was done is kept.
    """
    for stream in (sys.stdout, sys.stderr):  # names of labels and files may hold what the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # zarr reads parts of a store at once, and asyncio would print tracebacks of those that fail beside the first
    logging.getLogger("asyncio").disabled = True
    try:
        return app(args=arguments, prog_name="gpubench", standalone_mode=False) or 0
    except _UsageError as error:
        context, message = error.ctx, error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return _complain(f"{message}; see {context.command_path if context else 'gpubench'} --help")
    except (GpubenchError, MemoryError) as error:
        return _complain(message_of(error))
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED


def _complain(message: str) -> int:
    sys.stderr.write(f"gpubench: {' '.join(message.split())}\n")
    return EXIT_BAD_INPUT


@contextmanager
def _reporting(verbose: bool) -> Iterator[None]:
    """Say of Ctrl-C that nothing was done, and show where an error comes from above the line that says what it is."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("gpubench: interrupted before any task was finished\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except (GpubenchError, MemoryError):
        if verbose:
            traceback.print_exc()
        raise


@app.callback(invoke_without_command=True)
def _gpubench(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Score embeddings of single cells: clustering, separation, batch mixing, label prediction and more.

    Start with [bold]gpubench demo[/bold], then [bold]gpubench score --help[/bold].
    """
    if version:
        from gpubench.machine import package_version

        typer.echo(f"gpubench {package_version('gpubench')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


_SCORE_EXAMPLES = """[bold]Examples[/bold]

Are cell types separated, and can they be predicted?

  gpubench score pbmc.h5ad -e X_pca --label cell_type --out results/

Two embeddings side by side, and whether donors are mixed:

  gpubench score pbmc.h5ad -e X_pca -e X_scvi --label cell_type --batch donor

Is the order of time points kept?

  gpubench score embryo.h5ad -e X_pca --time day

An array, and a table with one row for each cell:

  gpubench score emb.npy --obs obs.parquet --label cell_type

One file for each species:

  gpubench score human.h5ad mouse.h5ad -e X_uce --label cell_type --species organism

[bold]gpubench tasks[/bold] lists what each task needs and the names for --option.
"""


@app.command(epilog=_SCORE_EXAMPLES)
def score(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA", help="h5ad, zarr, npy or npz; several files are one for each species."),
    ],
    *,
    embedding: Annotated[
        list[str] | None,
        _input("--embedding", "-e", metavar="KEY", help="A key of obsm, such as X_pca, or X itself. Repeatable."),
    ] = None,
    obs: Annotated[
        str | None, _input(metavar="TABLE", help="Parquet or CSV with the columns, where DATA is an array.")
    ] = None,
    pre_integrated: Annotated[str | None, _input(metavar="KEY", help="The same cells before integration.")] = None,
    predictions: Annotated[str | None, _input(metavar="H5AD", help="Predicted expression of perturbed cells.")] = None,
    label: Annotated[str | None, _column(help="Known labels, such as cell_type.")] = None,
    batch: Annotated[str | None, _column(help="Batches that should mix, such as donor.")] = None,
    time: Annotated[str | None, _column(help="Time points, as numbers.")] = None,
    species: Annotated[str | None, _column(help="Species.")] = None,
    sample: Annotated[str | None, _column(help="Samples; prediction across species merges their cells.")] = None,
    condition: Annotated[str, _column(help="What was done to a cell, for --predictions.")] = "condition",
    control: Annotated[str | None, _column(metavar="VALUE", help="What --condition says of untreated cells.")] = None,
    task: Annotated[
        list[str] | None, _choice("--task", "-t", metavar="TASK", help="Only this task. Repeatable.")
    ] = None,
    baseline: Annotated[str | None, _choice(metavar="NAME", help="Score this as well: pca or expression.")] = None,
    scorer: Annotated[
        list[str] | None, _choice(metavar="NAME", help="A scikit-learn scorer, for label prediction. Repeatable.")
    ] = None,
    option: Annotated[
        list[str] | None, _choice("--option", "-o", metavar="NAME=VALUE", help="A parameter, such as k=15. Repeatable.")
    ] = None,
    engine: Annotated[str, _choice(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, _choice(metavar="NUMBER", help="Of everything random.")] = 42,
    knn: Annotated[str, _choice(metavar="NAME", help="Search of neighbours: auto, exact, leaves or ivf.")] = "auto",
    precision: Annotated[
        str, _choice(metavar="NAME", help="Of distances on a GPU: exact, or fast (TF32; neighbours stay exact).")
    ] = "exact",
    exact: Annotated[bool, _choice(help="Compare all cells with all, however long it takes.")] = False,
    threads: Annotated[int | None, _choice(metavar="NUMBER", help="CPU threads; all by default.")] = None,
    memory: Annotated[str | None, _choice(metavar="AMOUNT", help="Most memory to use beyond the data, as 4GB.")] = None,
    out: Annotated[Path | None, _written(metavar="FOLDER", help="Where the result files go.")] = None,
    format_: Annotated[
        list[str] | None, _written("--format", metavar="NAME", help="json, csv, parquet, or several: json,csv.")
    ] = None,
    report: Annotated[bool, _written("--report", help="Write report.html as well.")] = False,
    trace: Annotated[
        Path | None, _written(metavar="FILE", help="Write the stages as a trace for ui.perfetto.dev.")
    ] = None,
    quiet: Annotated[bool, _written("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[
        bool, _written("--verbose", "-v", help="Print time and memory of each stage, and where errors come from.")
    ] = False,
) -> int:
    """Score embeddings on every task whose inputs are given, and say which are left out and why."""
    with _reporting(verbose):
        from gpubench import arguments, run
        from gpubench.output import check_trace, chosen_output
        from gpubench.progress import Progress

        output = chosen_output(out, format_, report=report, quiet=quiet)
        if trace is not None:
            check_trace(trace)
        given = {
            "label": label,
            "batch": batch,
            "time": time,
            "species": species,
            "sample": sample,
            "obs": obs,
            "pre_integrated": pre_integrated,
            "predictions": predictions,
            "condition": condition,
            "control": control,
            "baseline": baseline,
            "tasks": task or "auto",
            "scorers": arguments.parse_scorers(scorer or []),
            "engine": engine,
            "seed": seed,
            "knn": knn,
            "precision": precision,
            "exact": exact,
            "threads": threads,
            "memory": None if memory is None else arguments.parse_bytes(memory),
            **arguments.parse_options(option or []),
        }
        with Progress(shown=not quiet) as progress:
            result = run.score(data[0] if len(data) == 1 else data, embedding, listener=progress, **given)
        return _finish(result, output, quiet, verbose, trace)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the result files go.")] = Path("gpubench-demo"),
) -> int:
    """Score real cells that come with gpubench, and say what each number means."""
    from gpubench import run
    from gpubench.demo import SOURCE, demo_path
    from gpubench.listing import meanings_text
    from gpubench.output import chosen_output
    from gpubench.progress import Progress

    output = chosen_output(out, ["json", "csv"], report=True)
    typer.echo(f"{SOURCE}\n")
    with _reporting(verbose=False):
        with Progress() as progress:
            result = run.score(demo_path(), ["X_pca"], label="cell_type", batch="batch", listener=progress)
        result.provenance["dataset"]["source"] = SOURCE  # rather than the folder in which gpubench is installed
        code = _finish(result, output, quiet=False, verbose=False)
    typer.echo(f"\nWhat the numbers mean:\n{meanings_text(row.metric for row in result.results)}")
    return code


@app.command()
def doctor() -> int:
    """Say what works on this machine, what does not, and what to install."""
    from gpubench import doctor as examination

    findings = examination.examine()
    typer.echo(examination.to_text(findings))
    return 0 if examination.works(findings) else 1


@app.command()
def prepare(
    data: Annotated[str, typer.Argument(metavar="DATA", help="h5ad with expression in X.")],
    condition: Annotated[
        str, typer.Option(metavar="COLUMN", help="The column of obs that says what was done to a cell.")
    ],
    control: Annotated[
        str, typer.Option(metavar="VALUE", help="Its value for untreated cells, such as non-targeting.")
    ],
    out: Annotated[Path, typer.Option(metavar="H5AD", help="The h5ad to write.")],
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of the drawing of controls.")] = 42,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print where errors come from.")] = False,
) -> None:
    """Find the genes that each perturbation changes, and match treated to control cells.

    The file written is what the task perturbation_expression_prediction needs.
    """
    from gpubench.data import prepare_perturbation

    with _reporting(verbose):
        prepare_perturbation(data, out, condition=condition, control=control, seed=seed)
    typer.echo(f"Wrote {out}")


app.command("report")(report_command)
app.command()(compare)


@app.command()
def tasks() -> None:
    """List the tasks: what each asks, what it needs, and its metrics."""
    from gpubench.listing import tasks_text

    typer.echo(tasks_text())


@app.command()
def metrics() -> None:
    """List the metrics: their ids, their range, and what they say."""
    from gpubench.listing import metrics_text

    typer.echo(metrics_text())


def _finish(result: Result, output: Output | None, quiet: bool, verbose: bool, trace: Path | None = None) -> int:
    """Write the files, show the table, and choose the exit code."""
    from gpubench.show import show, stages_text

    if result.interrupted and not result.results:  # an older result is worth more
        raise KeyboardInterrupt
    lines = ["Interrupted: what was finished by then is above."] if result.interrupted else []
    not_written = None
    try:
        lines += [_NOT_KEPT] if output is None else output.write(result)
        if trace is not None:
            result.to_trace(trace)
            lines.append(f"Wrote {trace}")
    except InputError as error:  # the scores are shown before it ends the run
        not_written = error
    if not quiet:
        show(result, lines, sys.stdout)
    if verbose:
        sys.stdout.write(f"\n{stages_text(result)}\n")
    if not_written is not None:
        raise not_written
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if result.failures else 0
