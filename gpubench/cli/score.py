"""The commands `score` and `demo`: parse, call, print."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubench.cli import completion
from gpubench.cli.errors import EXIT_INTERRUPTED, EXIT_TASK_FAILED, reporting
from gpubench.core import units
from gpubench.core.errors import InputError

if TYPE_CHECKING:
    from gpubench.core.checkpoint import Checkpoint
    from gpubench.results.result import Result
    from gpubench.running.output import Output

RUN_FILES = (".yaml", ".yml")

_NOT_KEPT = "These numbers are in no file; add --out results/ to keep them."

_input = partial(typer.Option, rich_help_panel="Data")
_column = partial(typer.Option, metavar="COLUMN", rich_help_panel="Columns of obs")
_choice = partial(typer.Option, rich_help_panel="What to run")
_written = partial(typer.Option, rich_help_panel="Results")

EXAMPLES = """[bold]Examples[/bold]

Are cell types separated, and can they be predicted?

  gpubench score pbmc.h5ad -e X_pca --label cell_type --out results/

Two embeddings side by side, and whether donors are mixed:

  gpubench score pbmc.h5ad -e X_pca -e X_scvi --label cell_type --batch donor

Is the order of time points kept?

  gpubench score embryo.h5ad -e X_pca --time day

An array, and a table with one row for each cell:

  gpubench score emb.npy --obs obs.parquet --label cell_type

Labels of a dataset that is fetched by name, and your embedding of its cells:

  gpubench score tsv2_blood -e emb.npy

Several runs, written in a file:

  gpubench score run.yaml --out results/

One file for each species:

  gpubench score human.h5ad mouse.h5ad -e X_uce --label cell_type --species organism

On the workers of a Dask cluster:

  gpubench score atlas.h5ad -e X_scvi --label cell_type --scheduler tcp://head:8786

[bold]gpubench tasks[/bold] lists what each task needs and the names for --option.
"""


def score(
    context: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="h5ad, zarr, npy or npz, or the name of a dataset (see gpubench datasets list); several are one for"
            " each species. Or a run file, run.yaml.",
            autocompletion=completion.dataset_ids,
        ),
    ],
    *,
    embedding: Annotated[
        list[str] | None,
        _input(
            "--embedding",
            "-e",
            metavar="KEY|FILE",
            help="A key of obsm, such as X_pca, or X itself; or a file with a row for each cell, as emb.npy or"
            " NAME=emb.npy. Repeatable.",
        ),
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
    condition: Annotated[
        str | None, _column(help="What was done to a cell, for --predictions; 'condition' by default.")
    ] = None,
    control: Annotated[str | None, _column(metavar="VALUE", help="What --condition says of untreated cells.")] = None,
    task: Annotated[
        list[str] | None,
        _choice("--task", "-t", metavar="TASK", help="Only this task. Repeatable.", autocompletion=completion.task_ids),
    ] = None,
    baseline: Annotated[str | None, _choice(metavar="NAME", help="Score this as well: pca or expression.")] = None,
    scorer: Annotated[
        list[str] | None, _choice(metavar="NAME", help="A scikit-learn scorer, for label prediction. Repeatable.")
    ] = None,
    option: Annotated[
        list[str] | None,
        _choice(
            "--option",
            "-o",
            metavar="NAME=VALUE",
            help="A parameter, such as k=15. Repeatable.",
            autocompletion=completion.option_names,
        ),
    ] = None,
    engine: Annotated[
        str, _choice(metavar="NAME", help="auto, cpu, cuda or dask.", autocompletion=completion.engine_names)
    ] = "auto",
    seed: Annotated[int, _choice(metavar="NUMBER", help="Of everything random.")] = 42,
    knn: Annotated[
        str, _choice(metavar="NAME", help="Search of neighbours: auto, exact, leaves, ivf or nn_descent.")
    ] = "auto",
    precision: Annotated[
        str, _choice(metavar="NAME", help="Of distances on a GPU: exact, or fast (TF32; neighbours stay exact).")
    ] = "exact",
    exact: Annotated[bool, _choice(help="Compare all cells with all and train on all, however long it takes.")] = False,
    threads: Annotated[int | None, _choice(metavar="NUMBER", help="CPU threads; all by default.")] = None,
    scheduler: Annotated[
        str | None,
        _choice(metavar="ADDRESS|FILE", help="Run on this Dask cluster: tcp://host:8786, or a scheduler file."),
    ] = None,
    workers: Annotated[
        int | None, _choice(metavar="NUMBER", help="Run on so many Dask workers, started on this machine.")
    ] = None,
    memory: Annotated[str | None, _choice(metavar="AMOUNT", help="Most memory to use beyond the data, as 4GB.")] = None,
    out: Annotated[Path | None, _written(metavar="FOLDER", help="Where the result files go.")] = None,
    format_: Annotated[
        list[str] | None, _written("--format", metavar="NAME", help="json, csv, parquet, or several: json,csv.")
    ] = None,
    report: Annotated[bool, _written("--report", help="Write report.html as well.")] = False,
    trace: Annotated[
        Path | None, _written(metavar="FILE", help="Write the stages as a trace for ui.perfetto.dev.")
    ] = None,
    plan: Annotated[
        bool, _choice("--plan", help="Say what each stage would take in memory and time, and compute nothing.")
    ] = False,
    quiet: Annotated[bool, _written("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[
        bool, _written("--verbose", "-v", help="Print time and memory of each stage, and where errors come from.")
    ] = False,
) -> int:
    """Score embeddings on every task whose inputs are given, and say which are left out and why."""
    if any(path.lower().endswith(RUN_FILES) for path in data):
        return _score_run_file(context, data, out, format_, plan=plan, report=report, quiet=quiet, verbose=verbose)
    with reporting(verbose):
        from gpubench.cli import parse
        from gpubench.cli.progress import Progress
        from gpubench.core.checkpoint import Checkpoint
        from gpubench.running import score as running_score
        from gpubench.running.output import check_file, chosen_output
        from gpubench.tasks import _scorers

        output = chosen_output(out, format_, report=report, quiet=quiet and trace is None and not plan)
        if trace is not None:
            check_file(trace, "--trace", "trace.json", made=out)
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
            "scorers": _scorers.parse_scorers(scorer or []),
            "engine": engine,
            "seed": seed,
            "knn": knn,
            "precision": precision,
            "exact": exact,
            "threads": threads,
            "cluster": parse.parse_cluster(scheduler, workers),
            "memory": None if memory is None else units.parse_bytes(memory),
            **parse.parse_options(option or []),
        }
        source = data[0] if len(data) == 1 else data
        embeddings = parse.parse_embeddings(embedding)
        if plan:
            return _print_plan(source, embeddings, given)
        with nullcontext() if output is None else Checkpoint(output.folder) as checkpoint:
            with Progress(shown=not quiet) as progress:
                result = running_score.score(source, embeddings, listener=progress, checkpoint=checkpoint, **given)
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


def _print_plan(source: Any, embeddings: Any, given: dict[str, Any]) -> int:
    """Print what a run would take; one that cannot fit the memory is an error."""
    from gpubench.running.plan import plan

    expected = plan(source, embeddings, **given)
    typer.echo(str(expected))
    if expected.refusal:
        raise InputError(expected.refusal)
    return 0


def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the result files go.")] = Path("gpubench-demo"),
) -> int:
    """Score real cells that come with gpubench, and say what each number means."""
    from gpubench.cli.listing import meanings_text
    from gpubench.cli.progress import Progress
    from gpubench.datasets.demo import SOURCE, demo_path
    from gpubench.running import score as running_score
    from gpubench.running.output import chosen_output

    output = chosen_output(out, ["json", "csv"], report=True)
    typer.echo(f"{SOURCE}\n")
    with reporting(verbose=False):
        with Progress() as progress:
            result = running_score.score(demo_path(), ["X_pca"], label="cell_type", batch="batch", listener=progress)
        result.provenance["dataset"]["source"] = SOURCE  # rather than the folder in which gpubench is installed
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
    """Write the files, show the table, and choose the exit code; what is not whole leaves its checkpoint."""
    from gpubench.cli.show import show, stages_text

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
    if checkpoint:
        lines += checkpoint.end(complete=not (result.interrupted or result.failures or not_written))
    if not quiet:
        show(result, lines, sys.stdout)
    if verbose:
        sys.stdout.write(f"\n{stages_text(result)}\n")
    if not_written is not None:
        raise not_written
    if result.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_TASK_FAILED if result.failures else 0
