"""The command `compare`."""

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
        typer.Argument(
            metavar="RESULT...", help="results.json files, or folders with one. A single file: its embeddings."
        ),
    ],
    *,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Exit with 1 if this metric is below the value, undefined or missing in a later file. Repeatable.",
        ),
    ] = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit with 1 if a row is worse than in the first file beyond noise, undefined or missing.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Largest deterioration that --fail-if-worse accepts. Default: 0."),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of donors; intervals then show variation between donors."),
    ] = None,
    obs: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Parquet, CSV or h5ad file with the column, if the results lack it."),
    ] = None,
    resamples: Annotated[int, typer.Option(metavar="NUMBER", help="Bootstrap resamples of the cells; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed.")] = 42,
    format_: Annotated[str, typer.Option("--format", metavar="NAME", help="table or json.")] = "table",
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
    from gpubench.comparison.compare import compare as compare_results
    from gpubench.results.table import print_blocks

    compared = compare_results(files, donor=donor, obs=obs, resamples=resamples, seed=seed)
    failures = compared.below(thresholds) + (compared.worse(tolerance or 0.0) if fail_if_worse else [])
    if format_ == "json":
        content = {**compared.to_dict(), "failures": failures}
        sys.stdout.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
    else:
        print_blocks(compared.blocks(), sys.stdout)
        sys.stdout.write("".join(f"Failed: {line}\n" for line in failures))
    return EXIT_FAILED if failures else 0


def _thresholds(texts: list[str]) -> dict[str, float]:
    """Read "metric=value" texts."""
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
        thresholds[metric] = max(value, thresholds.get(metric, value))
    return thresholds
