"""The command `gpubench score`, for one run or for a run file."""

from __future__ import annotations

import shlex
import sys
import textwrap
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from gpubench.cli.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TASK_FAILED, complain, reporting
from gpubench.cli.flags import check_file, parse_flags, parse_output, with_run_flags
from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.core.terminal import terminal_width
from gpubench.running.options import RUN, SPECS, RunOptions

if TYPE_CHECKING:
    from gpubench.core.checkpoint import Checkpoint
    from gpubench.results.result import Result
    from gpubench.running.output import Output
    from gpubench.running.plan import Plan

RUN_FILES = (".yaml", ".yml")

_ALLOWED = ("data", "out", "format_", "report", "force", "plan", "quiet", "verbose")
"""Parameters of `score` that can be combined with a run file; most others are keys of the run file."""

ROWS_ON_TERMINAL = 40
"""Maximum number of rows of one metric that a terminal shows; pipes and files get all rows."""

_NOT_SAVED = "Results were not saved; add --out results/."

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
    ctx: typer.Context,
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
    force: Annotated[bool, _written("--force", help="Replace results of other data or options in --out.")] = False,
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
        _check_only_run_file(ctx, data)
        with reporting(verbose):
            if plan:
                return _plan_runs(data[0], out, format_)
            every = parse_output(out, format_, report=report, quiet=quiet, force=force)
            return _score_runs(data[0], every, quiet=quiet, verbose=verbose)
    with reporting(verbose):
        from gpubench.cli.progress import Progress
        from gpubench.core.checkpoint import Checkpoint
        from gpubench.running import score as running_score
        from gpubench.running.plan import plan_run

        output = parse_output(out, format_, report=report, quiet=quiet and trace is None and not plan, force=force)
        if trace is not None:
            check_file(trace, "trace", "trace.json", made=out)
        arguments = parse_flags(given)
        run = RunOptions.of(**arguments.pop("options"), **arguments)
        _check_written(run, output, trace)
        if plan:
            _print_plan(plan_run(run))
            return 0
        with nullcontext() if output is None else Checkpoint(output.folder) as checkpoint:
            with Progress(shown=not quiet) as progress:
                check = None if output is None else output.check_replaced
                result = running_score.score_run(run, listener=progress, checkpoint=checkpoint, check=check)
            return finish(result, output, quiet, verbose, trace, checkpoint)


def _check_written(run: RunOptions, output: Output | None, trace: Path | None) -> None:
    """Raise `InputError` if the run would overwrite one of its inputs, or the trace one of its result files."""
    from gpubench.running.output import check_not_input, input_files

    if output is not None:
        output.check_inputs(run)
    if trace is None:
        return
    for name, path in input_files(run):
        check_not_input(trace, path, name, "trace")
    if output is not None and trace.resolve() in [file.resolve() for file in output.files()]:
        raise InputError(f"trace={str(trace)!r} is a result file of the run; choose another name", argument="trace")


def _print_plan(expected: Plan, end: str = "") -> None:
    """Print a plan, followed by `end`; raise `InputError` if the run cannot fit in memory."""
    typer.echo(f"{expected}{end}")
    if expected.refusal:
        raise InputError(expected.refusal)


def finish(
    result: Result,
    output: Output | None,
    quiet: bool,
    verbose: bool,
    trace: Path | None = None,
    checkpoint: Checkpoint | None = None,
) -> int:
    """Write the files, print the scores, and return the exit code; the checkpoint is kept if the run is incomplete."""
    if result.interrupted and not result.results:  # an older result is worth more
        raise KeyboardInterrupt
    lines = list(result.provenance.get("warnings", ()))
    lines += ["Interrupted: the scores above were finished before."] if result.interrupted else []
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
        print_result(result, lines, sys.stdout, details=verbose)
    if verbose:
        sys.stdout.write(f"\n{stages_text(result)}\n")
    if not_written is not None:
        raise not_written
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if result.failures else 0


def print_result(result: Result, lines: list[str], stream: TextIO, *, details: bool = False) -> None:
    """Print the scores of a result, its skipped tasks, failures and notes, and the time that it took.

    Parameters
    ----------
    result : result whose embeddings are printed side by side
    lines : lines of text to print at the end, such as paths of files
    stream : stream to print to, such as `sys.stdout`
    details : whether to also print a table with every row of each embedding and task
    """
    from gpubench.comparison.best import default_resampler, mark_best
    from gpubench.results.score_table import score_blocks, summarize
    from gpubench.results.table import Lines, print_blocks, result_blocks

    limit = ROWS_ON_TERMINAL if stream.isatty() else None
    summary, width = summarize(result.results), terminal_width(stream)
    cells = [result.cells] * len(summary.embeddings)
    tables = [result.perturbations] * len(summary.embeddings)
    resampler = default_resampler(result.cells.n_cells)
    best = mark_best([row.cells for row in summary.rows], cells, resampler=resampler, tables=tables)
    blocks = score_blocks(summary, width=width, best=best, limit=limit)
    if details:
        blocks += result_blocks(result.results, limit=limit)
    elif summary.n_others:
        blocks.append(Lines([f"{summary.n_others:,} more rows, such as those of each classifier: add -v"]))
    skipped = [{**item, "reason": _with_flags(item["reason"])} for item in result.skipped]
    blocks += result_blocks([], skipped, result.failures)
    took = [_time_line(result)] if result.results else []
    print_blocks([*blocks, Lines(result.note_lines()), Lines([*took, *lines], wrap=False)], stream, width)


def _with_flags(reason: str) -> str:
    """Replace names of arguments by flags in the reason for skipping a task: "needs batch" -> "needs --batch"."""
    if not reason.startswith("needs "):
        return reason
    return "needs " + " and ".join(f"--{need}" for need in reason.removeprefix("needs ").split(" and "))


def _time_line(result: Result) -> str:
    """Return a line of text with the seconds of the run and of its longest stages."""
    from gpubench.results.score_table import stage_seconds

    seconds = stage_seconds(result.timeline)
    total = seconds.pop("total")
    longest = [f"{_shown_stage(name)} {taken:.1f}" for name, taken in seconds.items() if taken >= max(0.05, total / 20)]
    return f"Took {total:.1f} s" + (f" ({', '.join(longest)})" if longest else "")


_STAGES = {"put": "copy to engine", "digest": "hash for checkpoint", "view": "2-D view"}


def _shown_stage(name: str) -> str:
    return _STAGES.get(name, name)


def stages_text(result: Result) -> str:
    """Return the timeline as a text table, where each stage is indented below the stage that contains it."""
    from gpubench.results.table import TextTable

    rows = []
    for stage in result.timeline:
        *outer, name = stage["path"].split("/")
        peak = "" if stage["peak_bytes"] is None else f"{stage['peak_bytes'] / 1e6:,.0f}"
        rows.append(
            (
                "  " * len(outer) + _shown_stage(name),
                f"{stage['seconds']:.3f}",
                f"{stage['put_bytes'] / 1e6:,.1f}",
                peak,
            )
        )
    header = ("stage", "seconds", "copied MB", "peak MB")
    return TextTable("", header, tuple(rows), numbers=frozenset(header[1:])).to_text()


def _check_only_run_file(context: typer.Context, data: list[str]) -> None:
    """Raise `InputError` for other data next to a run file, and for flags that cannot be combined with it."""
    keys = {flag.parameter for spec in SPECS.values() if spec.in_run_file for flag in spec.flags}
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _ALLOWED and source is not None and source.name == "COMMANDLINE":
            remedy = "write it there, for a run or under 'defaults'" if name in keys else "leave it out"
            raise InputError(f"--{name.replace('_', '-')} does not go with a run file; {remedy}")
    if len(data) > 1:
        raise InputError(f"{data[0]!r} and more: a run file goes alone; name the data in it")


def _plan_runs(file: str, out: Path | None, formats: list[str] | None) -> int:
    """Print the plans of all runs of a run file, then their total time and peak memory; return the exit code."""
    from gpubench.running import batch
    from gpubench.running.plan import plan_run
    from gpubench.running.run_file import read_run_file

    every = parse_output(out, formats if out else None)
    runs = read_run_file(file)
    expected: dict[str, Plan] = {}
    code = 0
    for i, run in enumerate(runs, 1):
        typer.echo(f"[{i}/{len(runs)}] {run.name}")
        output = batch.output_of(run, every) if every else None
        if output is not None and batch.is_complete(run, output):
            typer.echo(f"Complete: the result in {output.folder} would be reused.\n")
            continue
        try:
            with run.named_in_errors():
                expected[run.name] = plan_run(run.options)
                _print_plan(expected[run.name], "\n")
        except (InputError, EngineUnavailable) as error:
            code = complain(error, with_flags=False)
    if expected:
        typer.echo(batch.sum_text(expected))
    return code


def _score_runs(file: str, every: Output | None, *, quiet: bool, verbose: bool) -> int:
    """Score every run of a run file and return the exit code; `every` is the output of all runs.

    All runs are checked before anything is computed. If a run fails later, the error is reported and the next run
    starts.
    """
    from gpubench.cli.progress import Progress
    from gpubench.results.table import result_blocks
    from gpubench.running import batch
    from gpubench.running.run_file import read_run_file

    if every is None:
        raise InputError("a run file needs --out: the folder in which each run gets its own folder")
    plans = read_run_file(file)
    outputs = {plan.name: batch.output_of(plan, every) for plan in plans}
    if problems := batch.check_runs(plans, outputs):
        for problem in problems:
            complain(problem, with_flags=False)
        return EXIT_BAD_INPUT
    results: dict[str, Result] = {}
    code = 0
    for i, plan in enumerate(plans, 1):
        _say(f"[{i}/{len(plans)}] {plan.name}", quiet)
        try:
            with Progress(shown=not quiet) as progress:
                result, lines = batch.score_run(plan, outputs[plan.name], progress)
        except (InputError, EngineUnavailable, MemoryError) as error:
            complain(error, with_flags=False)
            code = EXIT_TASK_FAILED
            continue
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
            break
        results[plan.name] = result
        if result.failures:
            code = EXIT_TASK_FAILED
        text = "\n".join(block.to_text() for block in result_blocks([], result.skipped, result.failures))
        _say(textwrap.indent("\n".join(filter(None, [text, *result.note_lines(), *lines])), "  "), quiet)
        if verbose:
            sys.stdout.write(f"{stages_text(result)}\n")
        if result.interrupted:
            code = EXIT_INTERRUPTED
            break
    return _finish_runs(results, every.folder, code, report=every.report, quiet=quiet)


def _finish_runs(results: dict[str, Result], folder: Path, code: int, *, report: bool, quiet: bool) -> int:
    """Write the files of all runs, and print their scores."""
    from gpubench.results.table import Lines, print_blocks
    from gpubench.running import batch
    from gpubench.running.output import remove_old_report

    if not any(result.results for result in results.values()):
        return EXIT_BAD_INPUT if code == EXIT_TASK_FAILED else code
    lines = [batch.write_table(results, folder)]
    if report:
        from gpubench import reporting

        reporting.report(results, folder / "report.html")
        lines.append(f"Wrote {folder / 'report.html'}")
    else:
        lines += remove_old_report(folder)
    if code == EXIT_INTERRUPTED:
        lines.append("Interrupted: run the same command to continue.")
    if not quiet:
        width = terminal_width(sys.stdout)
        lines.append(f"Compare the embeddings with: gpubench compare {shlex.quote(str(folder))}")
        sys.stdout.write("\n")
        print_blocks([*batch.score_blocks_of(results, width), Lines(lines, wrap=False)], sys.stdout, width)
    return code


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
