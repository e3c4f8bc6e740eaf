"""The command `gpubench demo`: real data that come with gpubench, scored and explained."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.errors import reporting
from gpubench.cli.flags import parse_output
from gpubench.cli.score import finish
from gpubench.core.errors import InputError, close_matches
from gpubench.running.options import RunOptions

if TYPE_CHECKING:
    from gpubench.results.result import Result

SCREEN = "perturbation_prediction"
SCREEN_METRICS = ("pearson_delta", "discrimination_score_l1", "overlap_at_N", "mae")
CONDITION, CONTROL = "perturbation", "non-targeting"

PREDICTIONS = """\
Replicate 1 of the screen is the real experiment. What is scored as its prediction:
  replicate 2   the same experiment done again, as good as a model can be
  linear        the responses of replicate 2, reduced to three principal components
  neighbour     the response of the most similar other knockout
  mean          the mean response of all other knockouts
  shuffled      cells of replicate 2 with their labels permuted
The middle three are control cells of replicate 1, changed by that response.
"""

FINDINGS = """\
The warnings are what gpubench audit says of the files before anything is scored:
  [controls]  the control cells are those of another batch, so that effects and
              profiles also contain the difference between the batches
  [effects]   the prediction is the same for every knockout; some metrics reward
              that, and the last part below says which
"""


def demo(
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help=f"{SCREEN}: predictions instead of an embedding.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the result files.")] = Path("gpubench-demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace results of another run in --out.")] = False,
) -> int:
    """Score real cells that come with gpubench, and explain each number."""
    if task is None:
        return _of_embedding(out, force=force)
    if task != SCREEN:
        raise InputError(f"task={task!r} has no demo{close_matches(task, [SCREEN])}", argument="task")
    return _of_screen(out, force=force)


def _of_embedding(out: Path, *, force: bool) -> int:
    from gpubench.datasets import DEMO_SOURCE, demo_path

    run = RunOptions.of(data=demo_path(), embeddings=["X_pca"], label="cell_type", batch="batch")
    typer.echo(f"{DEMO_SOURCE}\n")
    code, result = _score(run, out, DEMO_SOURCE, "gpubench demo", force=force)
    _print_meanings(result)
    return code


def _of_screen(out: Path, *, force: bool) -> int:
    """Score simple predictions of a knockout screen; say what the audit finds and what the scores are worth."""
    from gpubench.comparison.perturbation_models import metric_powers
    from gpubench.data.perturbation.simple_predictions import simple_predictions, split_screen
    from gpubench.datasets import KNOCKOUTS_SOURCE, knockouts_path

    real, again = split_screen(knockouts_path(), "replicate")
    predictions = {"replicate 2": again, **simple_predictions(again, real, condition=CONDITION, control=CONTROL)}
    typer.echo(f"{KNOCKOUTS_SOURCE}\n\n{PREDICTIONS}")
    run = RunOptions.of(
        data=real,
        predictions=predictions,
        tasks=[SCREEN],
        condition=CONDITION,
        control=CONTROL,
        baseline=["mean", "replicate"],
        metrics=list(SCREEN_METRICS),
    )
    code, result = _score(run, out, KNOCKOUTS_SOURCE, f"gpubench demo --task {SCREEN}", force=force)
    typer.echo(f"\n{FINDINGS}", nl=False)
    _print_meanings(result)
    typer.echo("\nWhat they are worth on these data:")
    for power in metric_powers(result.results, result.perturbations):
        typer.echo(fill(f"{power.metric}: {' '.join(power.sentences())}", 79, subsequent_indent="    "))
    return code


def _score(run: RunOptions, out: Path, source: str, command: str, *, force: bool) -> tuple[int, Result]:
    from gpubench.cli.progress import Progress
    from gpubench.running import score as running_score

    output = parse_output(out, ["json", "csv"], report=True, force=force)
    check = None if output is None else output.check_replaced
    with reporting(verbose=False):
        with Progress() as progress:
            result = running_score.score_run(run, listener=progress, check=check)
        result.provenance["dataset"]["source"] = source  # rather than the folder in which gpubench is installed
        result.provenance["command"] = command
        return finish(result, output, quiet=False, verbose=False), result


def _print_meanings(result: Result) -> None:
    from gpubench.cli.listing import meanings_text
    from gpubench.metrics.published import SCALED

    metrics = dict.fromkeys(row.metric for row in result.results if not row.metric.endswith(SCALED))
    typer.echo(f"\nWhat the numbers mean:\n{meanings_text(metrics)}")
