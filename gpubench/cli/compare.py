"""The command `compare`: parses, calls, prints."""

from __future__ import annotations

import json
import math
import sys
from typing import Annotated

import typer

from gpubench.core.errors import InputError

EXIT_FAILED = 1


def compare(
    files: Annotated[
        list[str],
        typer.Argument(metavar="RESULT...", help="results.json files, or folders with one; one alone: its embeddings."),
    ],
    *,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Exit with 1 if a file after the first has this metric below, undefined or not at all. Repeatable.",
        ),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit with 1 if a row is worse than in the first file and not within noise, undefined or missing.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="What --fail-if-worse lets pass; 0 by default.")
    ] = None,
    donor: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Leave out each donor in turn: noise of other donors.")
    ] = None,
    obs: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Parquet, CSV or h5ad with the column, where the results lack it."),
    ] = None,
    resamples: Annotated[int, typer.Option(metavar="NUMBER", help="How often cells are drawn; 0: not at all.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Of the draws.")] = 42,
    format_: Annotated[str, typer.Option("--format", metavar="NAME", help="table or json.")] = "table",
) -> int:
    """Put results side by side: differences from the first, what is better, and whether it is more than noise.

    Noise is how far a difference moves with other cells, or with other donors.

    Of values in cells.parquet a bootstrap of cells, or a jackknife over donors, gives 95% intervals; other numbers have
    standard errors, or a reason.
    """
    if format_ not in ("table", "json"):
        raise InputError(f"--format {format_!r} is unknown; use table or json")
    if tolerance is not None and not fail_if_worse:
        raise InputError("--tolerance is what --fail-if-worse lets pass; add that, or leave it out")
    least = _least(fail_below or [])
    from gpubench.comparison.compare import compare as compare_results
    from gpubench.results.table import print_blocks

    compared = compare_results(files, donor=donor, obs=obs, resamples=resamples, seed=seed)
    failures = compared.below(least) + (compared.worse(tolerance or 0.0) if fail_if_worse else [])
    if format_ == "json":
        content = {**compared.to_dict(), "failures": failures}
        sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
    else:
        print_blocks(compared.blocks(), sys.stdout)
        sys.stdout.write("".join(f"Failed: {line}\n" for line in failures))
    return EXIT_FAILED if failures else 0


def _least(texts: list[str]) -> dict[str, float]:
    """Read "metric=value" texts."""
    least: dict[str, float] = {}
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
        least[metric] = max(value, least.get(metric, value))
    return least
