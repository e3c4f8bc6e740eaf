"""The command that makes a report of results that were written before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report_command(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A results.json, or a folder of results to set side by side.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="HTML", help="The file to write.")] = Path("report.html"),
) -> None:
    """Write results as one HTML page that works offline: scores, definitions, notes, time, memory and provenance."""
    from gpubench.cli.parse import check_file
    from gpubench.reporting import report
    from gpubench.reporting.page import read_runs

    check_file(out, "out", "report.html")
    runs = read_runs(results)
    replaces = out.exists()
    report(runs, out)
    typer.echo(f"Wrote {out}{' in place of the older one' if replaces else ''}")
