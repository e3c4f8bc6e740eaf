"""The commands `score` and `demo`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubench.cli.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, reporting
from gpubench.cli.flags import parse_flags, with_run_flags
from gpubench.core.errors import InputError
from gpubench.running.options import RUN, RunOptions

if TYPE_CHECKING:
    from gpubench.core.checkpoint import Checkpoint
    from gpubench.results.result import Result
    from gpubench.running.output import Output

RUN_FILES = (".yaml", ".yml")

_NOT_SAVED = "Results were not saved; use --out results/ to save them."

_written = partial(typer.Option, rich_help_panel="Results")

EXAMPLES = """[bold]Examples[/bold]

Are cell types separated, and can they be predicted?

  gpubench score pbmc.h5ad -e X_pca --label cell_type --out results/

Two embeddings side by side, and whether donors are mixed:

  gpubench score pbmc.h5ad -e X_pca -e X_scvi --label cell_type --batch donor

Is the order of time points preserved?

  gpubench score embryo.h5ad -e X_pca --time day

An array, and a table with one row per cell:

  gpubench score emb.npy --obs obs.parquet --label cell_type

A dataset fetched by name, and your embedding of its cells:

  gpubench score tsv2_blood -e emb.npy

Several runs, from a run file:

  gpubench score run.yaml --out results/

One file per species:

  gpubench score human.h5ad mouse.h5ad -e X_uce --label cell_type --species organism

On the workers of a Dask cluster:

  gpubench score atlas.h5ad -e X_scvi --label cell_type --scheduler tcp://head:8786

[bold]gpubench tasks[/bold] lists what each task needs and the parameters for --option.
"""


@with_run_flags()
def score(
    context: typer.Context,
    *,
    plan: Annotated[
        bool,
        typer.Option("--plan", rich_help_panel=RUN, help="Print the expected time and memory; compute nothing."),
    ] = False,
    out: Annotated[Path | None, _written(metavar="FOLDER", help="Folder for the result files.")] = None,
    format_: Annotated[
        list[str] | None, _written("--format", metavar="NAME", help="json, csv, parquet, or several: json,csv.")
    ] = None,
    report: Annotated[bool, _written("--report", help="Also write report.html.")] = False,
    trace: Annotated[
        Path | None, _written(metavar="FILE", help="Write the stages as a trace for ui.perfetto.dev.")
    ] = None,
    quiet: Annotated[bool, _written("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[
        bool, _written("--verbose", "-v", help="Print time and memory of each stage, and tracebacks of errors.")
    ] = False,
    **given: Any,
) -> int:
    """Score embeddings on every task whose inputs are given, and say which tasks are skipped and why."""
    data: list[str] = given["data"]
    if any(path.lower().endswith(RUN_FILES) for path in data):
        return _score_run_file(context, data, out, format_, plan=plan, report=report, quiet=quiet, verbose=verbose)
    with reporting(verbose):
        from gpubench.cli.parse import check_file, parse_output
        from gpubench.cli.progress import Progress
        from gpubench.core.checkpoint import Checkpoint
        from gpubench.running import score as running_score

        output = parse_output(out, format_, report=report, quiet=quiet and trace is None and not plan)
        if trace is not None:
            check_file(trace, "trace", "trace.json", made=out)
        arguments = parse_flags(given)
        run = RunOptions.of(**arguments.pop("options"), **arguments)
        if plan:
            return _print_plan(run)
        with nullcontext() if output is None else Checkpoint(output.folder) as checkpoint:
            with Progress(shown=not quiet) as progress:
                result = running_score.score_run(run, listener=progress, checkpoint=checkpoint)
            return _finish(result, output, quiet, verbose, trace, checkpoint)


def _score_run_file(
    context: typer.Context,
    data: list[str],
    out: Path | None,
    formats: list[str] | None,
    *,
    plan: bool,
    report: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    from gpubench.cli.run_file import plan_runs, refuse_other_flags, score_runs

    refuse_other_flags(context)
    if len(data) > 1:
        raise InputError(f"{data[0]!r} and more: a run file goes alone; name the data in it")
    with reporting(verbose):
        if plan:
            return plan_runs(data[0], out, formats)
        return score_runs(data[0], out, formats, report=report, quiet=quiet, verbose=verbose)


def _print_plan(run: RunOptions) -> int:
    """Print the plan of a run; one that cannot fit the memory is an error."""
    from gpubench.running.plan import plan_run

    expected = plan_run(run)
    typer.echo(str(expected))
    if expected.refusal:
        raise InputError(expected.refusal)
    return 0


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the result files.")] = Path("gpubench-demo"),
) -> int:
    """Score real cells that come with gpubench, and explain each number."""
    from gpubench.cli.listing import meanings_text
    from gpubench.cli.parse import parse_output
    from gpubench.cli.progress import Progress
    from gpubench.datasets import DEMO_SOURCE, demo_path
    from gpubench.running import score as running_score

    output = parse_output(out, ["json", "csv"], report=True)
    typer.echo(f"{DEMO_SOURCE}\n")
    with reporting(verbose=False):
        with Progress() as progress:
            result = running_score.score(demo_path(), ["X_pca"], label="cell_type", batch="batch", listener=progress)
        result.provenance["dataset"]["source"] = DEMO_SOURCE  # rather than the folder in which gpubench is installed
        code = _finish(result, output, quiet=False, verbose=False)
    typer.echo(f"\nWhat the numbers mean:\n{meanings_text(row.metric for row in result.results)}")
    return code


def _finish(
    result: Result,
    output: Output | None,
    quiet: bool,
    verbose: bool,
    trace: Path | None = None,
    checkpoint: Checkpoint | None = None,
) -> int:
    """Write the files, print the scores, and return the exit code; an incomplete run keeps its checkpoint."""
    from gpubench.cli.print_result import print_result, stages_text

    if result.interrupted and not result.results:  # an older result is worth more
        raise KeyboardInterrupt
    lines = ["Interrupted: the scores above were finished before."] if result.interrupted else []
    not_written = None
    try:
        lines += [_NOT_SAVED] if output is None else output.write(result)
        if trace is not None:
            result.to_trace(trace)
            lines.append(f"Wrote {trace}")
    except InputError as error:  # raised again after the scores are printed
        not_written = error
    if checkpoint:
        lines += checkpoint.end(complete=not (result.interrupted or result.failures or not_written))
    if not quiet:
        print_result(result, lines, sys.stdout)
    if verbose:
        sys.stdout.write(f"\n{stages_text(result)}\n")
    if not_written is not None:
        raise not_written
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if result.failures else 0
