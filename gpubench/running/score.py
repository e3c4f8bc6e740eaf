"""`gpubench.score`: read the data, put each embedding on the engine once, and run the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.core.checkpoint import Checkpoint, CheckpointScope
from gpubench.core.errors import explaining_memory_errors
from gpubench.data.urls import shown
from gpubench.results.result import Result
from gpubench.running.options import RunOptions
from gpubench.running.plan import check_fits
from gpubench.running.prepare import prepare
from gpubench.running.provenance import bit_level_context, provenance
from gpubench.running.runner import Runner

if TYPE_CHECKING:
    import os

    from gpubench.core.timeline import Listener
    from gpubench.engines.base import Engine, Precision
    from gpubench.running.prepare import Prepared


def score(
    data: Any,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    *,
    label: Any = None,
    batch: Any = None,
    time: Any = None,
    species: Any = None,
    sample: Any = None,
    obs: Any = None,
    pre_integrated: Any = None,
    predictions: Any = None,
    condition: str | None = None,
    control: str | None = None,
    baseline: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] = "auto",
    scorers: Mapping[str, Any] | None = None,
    engine: str | Engine = "auto",
    seed: int = 42,
    threads: int | None = None,
    memory: int | None = None,
    knn: str = "auto",
    precision: Precision = "exact",
    exact: bool = False,
    cluster: Any = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Result:
    """Score embeddings of cells on every task whose inputs are given.

    Parameters
    ----------
    data : path or URL (h5ad, zarr, npy, npz, parquet, csv), AnnData, (n, d) array of any library, dict name -> array,
        or several of these: one per species, as a list or as a dict species -> data. A name such as "tsv2_blood" is a
        dataset of `gpubench.datasets`, which is fetched if it is not in the cache
    embeddings : keys of `obsm`, or "X"; paths of files with one embedding of the same cells, row by row; or a dict
        name -> key, path or matrix. None: the only embedding in `data`
    label, batch, time, species, sample : name of a column of `obs`, or an array of n values. None: for a dataset of
        `gpubench.datasets` the columns that its catalogue names
    obs : path or DataFrame with the columns, row by row, if `data` is an array
    pre_integrated : the cells before batch integration, for the task "scib": a key as in `embeddings`, the path of a
        file, or a matrix
    predictions : predicted expression (path of an h5ad, or AnnData); cells and genes may be in any order
    condition, control : the column of `obs` with the perturbation, and its value for untreated cells. None: those in
        the catalogue of a dataset, else "condition" and the value that the data record
    baseline : "pca" (50 components of the 3,000 most variable genes) or "expression" (X itself), scored in addition to
        the embeddings
    tasks : ids of the tasks, or "auto": all tasks of cz-benchmarks whose inputs are given; "scib" runs only if named
    scorers : further scores of the prediction tasks: name -> f(y_true, y_pred), or a scikit-learn scorer
    engine : "auto", "cpu", "cuda", "dask", or a started engine
    seed : random seed
    threads : number of CPU threads; None: all
    memory : maximum bytes beyond the input; None: 80% of the free memory
    knn : neighbour search: "auto", "exact", "leaves", "ivf" or "nn_descent", see `gpubench.get_engine`
    precision : "exact" or "fast", see `gpubench.get_engine`
    exact : compare all cells and train on all cells, however long it takes, see `gpubench.get_engine`
    cluster : Dask cluster: the address of a scheduler, a scheduler file, a number of workers to start here, or a
        `Client`, see `gpubench.get_engine`
    checkpoint : folder in which finished parts are saved during the run, below `.checkpoint`. A run that was stopped or
        killed reads them when it is started again, and gives the same numbers. A complete run removes them. An open
        `Checkpoint` is left to its owner
    listener : receives the stages of the run
    **options : parameters of the tasks, see `gpubench.tasks.Options`

    Returns
    -------
    Result
        Every number with its parameters and notes, the skipped tasks with reasons, the timeline, and the provenance.

    Raises
    ------
    InputError
        An argument or a file cannot be scored, and nothing was computed. An embedding that is refused after others were
        scored is listed in the failures instead.
    EngineUnavailable
        The named engine cannot start here.
    OutOfMemory
        Memory ran out before anything was scored; if it runs out later, the failures list what did not fit.

    Examples
    --------
    >>> import gpubench as gb
    >>> from gpubench.datasets import demo_path
    >>> result = gb.score(demo_path(), ["X_pca"], label="cell_type", tasks="embedding", engine="cpu")
    >>> f"{result.value('silhouette_score'):.2f}"
    '0.64'
    """
    given = {name: value for name, value in locals().items() if name not in ("checkpoint", "listener", "options")}
    return score_run(RunOptions.of(**given, **options), checkpoint=checkpoint, listener=listener)


@explaining_memory_errors()
def score_run(
    run: RunOptions,
    *,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    listener: Listener | None = None,
) -> Result:
    """Score what the options of a run ask for; see `score`."""
    prepared = prepare(run, listener)
    check_fits(prepared)
    engine, dataset = prepared.engine, prepared.dataset
    if dataset:
        operations = {name: None for task in prepared.tasks for name in task.operations(prepared.run.options)}
        engine.preload(operations, dataset.n_cells)

    with nullcontext() if checkpoint is None or isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint) as own:
        parts = checkpoint if isinstance(checkpoint, Checkpoint) else own
        scope = CheckpointScope(engine.timeline, parts).keyed(bit_level_context(engine)) if parts else None
        runner = Runner(prepared, scope)
        runner.run()
        if own:
            own.end(complete=not (runner.interrupted or runner.failures))
    if parts:
        engine.notes += [note for note in (parts.summary(), *parts.notes) if note]
    return Result(
        results=runner.rows,
        provenance=_provenance(prepared),
        timeline=engine.timeline.to_dicts(),
        skipped=runner.skipped,
        failures=runner.failures,
        interrupted=runner.interrupted,
        cells=runner.cells,
    )


def _provenance(prepared: Prepared) -> dict[str, Any]:
    run, dataset = prepared.run, prepared.dataset
    named = shown(run.data) if isinstance(run.data, str) else None
    return provenance(
        prepared.engine,
        options={
            "tasks": [task.id for task in prepared.tasks],
            "embeddings": list(dataset.embeddings) if dataset else [],
            **run.recorded(),
        },
        source=prepared.source or (dataset.source if dataset else named),
        files=prepared.files,
        fingerprint=readers.fingerprint(dataset) if dataset else None,
        columns=readers.fingerprint(replace(dataset, embeddings={})) if dataset else None,
        n_cells=dataset.n_cells if dataset else None,
    )
