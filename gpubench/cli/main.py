"""The command line."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gpubench.cli.compare import compare
from gpubench.cli.datasets import app as datasets_app
from gpubench.cli.errors import EXIT_INTERRUPTED, complain, reporting
from gpubench.cli.profile import profile_command
from gpubench.cli.score import EXAMPLES, demo, score
from gpubench.core.errors import GpubenchError, InputError

# The base of every error in usage. Newer versions of typer carry their own copy of click, older ones use the package.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="gpubench",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    0: success. 1: a task failed and the other scores are saved, or a comparison failed. 2: wrong usage or input.
    130: interrupted; finished scores are saved.
    """
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # names of labels and files may have characters that the terminal's encoding lacks
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # zarr reads parts of a store concurrently, and asyncio would print tracebacks of all failures after the first
    logging.getLogger("asyncio").disabled = True
    try:
        return app(args=arguments, prog_name="gpubench", standalone_mode=False) or 0
    except _UsageError as error:
        context, message = error.ctx, error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return complain(InputError(f"{message}; see {context.command_path if context else 'gpubench'} --help"))
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
        from gpubench.core.machine import package_version

        typer.echo(f"gpubench {package_version('gpubench')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command(epilog=EXAMPLES)(score)
app.command()(demo)


app.add_typer(datasets_app, name="datasets")

_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def doctor(json_: _Json = False) -> int:
    """Check what works on this machine, and what to install."""
    from gpubench.cli import doctor as examination

    findings = examination.examine()
    works = examination.works(findings)
    if json_:
        _print_json({"works": works, "findings": [asdict(finding) for finding in findings]})
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        typer.echo(examination.to_text(findings, width))
    return 0 if works else 1


@app.command()
def prepare(
    data: Annotated[str, typer.Argument(metavar="DATA", help="h5ad file with expression in X.")],
    condition: Annotated[str, typer.Option(metavar="COLUMN", help="Column of obs with the perturbation of each cell.")],
    control: Annotated[
        str, typer.Option(metavar="VALUE", help="Value of --condition for untreated cells, such as non-targeting.")
    ],
    out: Annotated[Path, typer.Option(metavar="H5AD", help="h5ad file to write.")],
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 42,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print tracebacks of errors.")] = False,
) -> None:
    """Find the genes that each perturbation changes, and match treated to control cells.

    The task perturbation_expression_prediction needs the file that is written.
    """
    from gpubench.data import prepare_perturbation

    with reporting(verbose):
        prepare_perturbation(data, out, condition=condition, control=control, seed=seed)
    typer.echo(f"Wrote {out}")


@app.command("report")
def report_command(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A results.json, or a folder of results to compare.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="HTML", help="File to write.")] = Path("report.html"),
) -> None:
    """Write results as one HTML page that works offline: scores, definitions, notes, time, memory and provenance."""
    from gpubench.cli.parse import check_file
    from gpubench.reporting import report
    from gpubench.reporting.page import read_runs

    check_file(out, "out", "report.html")
    runs = read_runs(results)
    replaced = " (replaced)" if out.exists() else ""
    report(runs, out)
    typer.echo(f"Wrote {out}{replaced}")


app.command()(compare)
app.command("profile")(profile_command)


@app.command()
def tasks(json_: _Json = False) -> None:
    """List the tasks: question, inputs and metrics."""
    from gpubench.cli import listing

    _print_json(listing.tasks_data()) if json_ else typer.echo(listing.tasks_text())


@app.command()
def metrics(json_: _Json = False) -> None:
    """List the metrics: id, range and meaning."""
    from gpubench.cli import listing

    _print_json(listing.metrics_data()) if json_ else typer.echo(listing.metrics_text())


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
