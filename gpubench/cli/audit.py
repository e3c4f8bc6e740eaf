"""The command `gpubench audit`, which checks real data and predictions of perturbations."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gpubench.cli.datasets import Json, print_json
from gpubench.cli.errors import EXIT_TASK_FAILED, reporting
from gpubench.cli.flags import parse_predictions
from gpubench.core.errors import InputError

Option = typer.Option


def audit(
    real: Annotated[str, typer.Argument(metavar="REAL", help="h5ad file or zarr store with the real cells.")],
    predictions: Annotated[
        list[str], typer.Argument(metavar="PREDICTION...", help="Files with predicted cells, or NAME=FILE.")
    ],
    *,
    condition: Annotated[str, Option(metavar="COLUMN", help="Column of obs with the perturbation of each cell.")],
    control: Annotated[str, Option(metavar="VALUE", help="Value of --condition for control cells.")],
    context: Annotated[
        str | None, Option(metavar="COLUMN", help="Context of each cell, such as its cell line.")
    ] = None,
    profile: Annotated[
        str, Option(metavar="NAME", help="Metrics that will be scored: cell_eval, full, vcc2026, vcc2025 or minimal.")
    ] = "cell_eval",
    train: Annotated[
        str | None, Option(metavar="FILE", help="Perturbations that the model was trained on, one in each line.")
    ] = None,
    test: Annotated[
        str | None, Option(metavar="FILE", help="Perturbations to be scored, likewise. Default: all in REAL.")
    ] = None,
    memory: Annotated[
        str | None, Option(metavar="AMOUNT", help="Maximum memory, such as 4GB; larger files are read in parts.")
    ] = None,
    strict: Annotated[bool, Option("--strict", help="Exit with 1 for warnings too.")] = False,
    json_: Json = False,
    verbose: Annotated[bool, Option("--verbose", "-v", help="Print tracebacks of errors.")] = False,
) -> int:
    """Check real data and predictions of perturbations before they are scored; one line for each finding.

    Exits with 1 if an error is found, with which nothing can be scored, and with --strict for any finding.
    """
    from gpubench.auditing.audit import audit as audit_files
    from gpubench.metrics.perturbation.registry import metrics_of

    if test is not None and train is None:
        raise InputError("--test lists the perturbations that are compared with those of --train; give both")
    own_control = any(metric.generation == 1 for metric in metrics_of(profile))
    named = parse_predictions(predictions)
    with reporting(verbose):
        found = audit_files(
            real,
            named,
            condition=condition,
            control=control,
            context=context,
            own_control=own_control,
            train=train,
            test=test,
            memory=memory,
        )
    if json_:
        print_json(found.to_dict())
    else:
        sys.stdout.write(f"{found}\n")
    return EXIT_TASK_FAILED if found.errors or (strict and found.findings) else 0
