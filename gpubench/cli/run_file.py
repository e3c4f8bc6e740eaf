"""The command `score` with a run file."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpubench.cli.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TASK_FAILED, complain
from gpubench.core.errors import EngineUnavailable, InputError
from gpubench.running.options import SPECS

if TYPE_CHECKING:
    from gpubench.results.result import Result
    from gpubench.running.plan import Plan

ALLOWED = ("data", "out", "format_", "report", "plan", "quiet", "verbose")
"""Parameters of `score` that a run file allows; most others are keys of the run file."""


def refuse_other_flags(context: typer.Context) -> None:
    """Refuse flags that a run file does not allow.

    Raises
    ------
    InputError
        A flag that belongs in the file, or to a single run.
    """
    keys = {flag.parameter for spec in SPECS.values() if spec.in_run_file for flag in spec.flags}
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ALLOWED and source is not None and source.name == "COMMANDLINE":
            remedy = "write it there, for a run or under 'defaults'" if name in keys else "leave it out"
            raise InputError(f"--{name.replace('_', '-')} does not go with a run file; {remedy}")


def plan_runs(file: str, out: Path | None, formats: list[str] | None) -> int:
    """Print the plans of all runs of a run file, and their sum; return the exit code."""
    from gpubench.cli.parse import parse_output
    from gpubench.running import batch
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
            expected[run.name] = batch.plan_run(run)
        except (InputError, EngineUnavailable) as error:
            code = complain(error, with_flags=False)
            continue
        typer.echo(f"{expected[run.name]}\n")
        if expected[run.name].refusal:
            refusal = f"{run.where}: run {run.name!r}: {expected[run.name].refusal}"
            code = complain(InputError(refusal), with_flags=False)
    if expected:
        typer.echo(batch.sum_text(expected))
    return code


def score_runs(
    file: str, out: Path | None, formats: list[str] | None, *, report: bool, quiet: bool, verbose: bool
) -> int:
    """Score every run of a run file; return the exit code.

    A run that cannot be scored is reported, and the others continue.
    """
    from gpubench.cli.parse import parse_output
    from gpubench.cli.print_result import stages_text
    from gpubench.cli.progress import Progress
    from gpubench.results.table import result_blocks
    from gpubench.running import batch
    from gpubench.running.run_file import read_run_file

    every = parse_output(out, formats, report=report, quiet=quiet)
    if every is None:
        raise InputError("a run file needs --out: the folder in which each run gets its own folder")
    plans = read_run_file(file)
    outputs = {plan.name: batch.output_of(plan, every) for plan in plans}
    for output in outputs.values():
        output.check()
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
        _say(textwrap.indent("\n".join(filter(None, [text, *lines])), "  "), quiet)
        if verbose:
            sys.stdout.write(f"{stages_text(result)}\n")
        if result.interrupted:
            code = EXIT_INTERRUPTED
            break
    return _finish(results, every.folder, code, report=report, quiet=quiet)


def _finish(results: dict[str, Result], folder: Path, code: int, *, report: bool, quiet: bool) -> int:
    """Write the files of all runs, and print the table."""
    from gpubench.running import batch

    if not any(result.results for result in results.values()):
        return EXIT_BAD_INPUT if code == EXIT_TASK_FAILED else code
    lines = [batch.write_table(results, folder)]
    if report:
        from gpubench import reporting

        reporting.report(results, folder / "report.html")
        lines.append(f"Wrote {folder / 'report.html'}")
    if code == EXIT_INTERRUPTED:
        lines.append("Interrupted: run the same command to continue.")
    _say(f"\n{batch.table_text(results)}\n\n" + "\n".join(lines), quiet)
    return code


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
