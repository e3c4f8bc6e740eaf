"""One run: read the data, put each embedding on the engine once, and answer the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.core.checkpoint import Checkpoint, CheckpointScope
from gpubench.core.errors import telling_of_memory
from gpubench.data.urls import shown
from gpubench.results.result import Result
from gpubench.running.forecast import check_fits
from gpubench.running.prepare import prepare
from gpubench.running.provenance import provenance, what_decides
from gpubench.running.runner import Runner

if TYPE_CHECKING:
    import os

    from gpubench.core.timeline import Listener
    from gpubench.engines.base import Engine, Precision


@telling_of_memory()
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
        or several of these: one for each species, as a list or as a dict species -> data. A name such as "tsv2_blood"
        is a dataset of `gpubench.datasets`, which is fetched if it is not in the cache
    embeddings : keys of `obsm`, or "X"; paths of files with one embedding of the same cells, row by row; or a dict
        name -> key, path or matrix. None: the only one there is
    label, batch, time, species, sample : name of a column of `obs`, or an array of n values. None: of a dataset of
        `gpubench.datasets` the columns that its catalogue names
    obs : path or DataFrame with the columns, row by row, where `data` is an array
    pre_integrated : the cells before their batches were integrated, for the task "scib": a key as in `embeddings`, the
        path of a file, or a matrix
    predictions : predicted expression (path of an h5ad, or AnnData), with its own order of cells and genes
    condition, control : the column of `obs` with the perturbation, and its value for untreated cells. None: what the
        catalogue of a dataset says, else "condition" and what the data say
    baseline : "pca" (50 components of the 3,000 most variable genes) or "expression" (X itself), scored beside the
        embeddings
    tasks : ids of the tasks, or "auto": all of cz-benchmarks whose inputs are given; "scib" is run where it is named
    scorers : further scores of the prediction tasks: name -> f(y_true, y_pred), or a scikit-learn scorer
    engine : "auto", "cpu", "cuda", "dask", or an engine already started
    seed : of everything random
    threads : CPU threads; None: all
    memory : bytes to use at most beyond the input; None: 80% of what is free
    knn : how neighbours are searched: "auto", "exact", "leaves", "ivf" or "nn_descent", see `gpubench.get_engine`
    precision : "exact" or "fast", see `gpubench.get_engine`
    exact : compare all cells with all and train on all, however long it takes, see `gpubench.get_engine`
    cluster : of Dask: the address of a scheduler, a scheduler file, a number of workers to start here, or a `Client`,
        see `gpubench.get_engine`
    checkpoint : folder in which finished parts are kept while the run goes on, below `.checkpoint`: a run that was
        stopped or killed takes them over when it is started again, and gives the same numbers. What has ended whole
        leaves nothing there; a `Checkpoint` that is open already is left to whoever opened it
    listener : hears of the stages of the run
    **options : parameters of the tasks, see `gpubench.tasks.Options`

    Returns
    -------
    Result
        Every number with its parameters and notes, the tasks left out and why, the timeline, and the provenance.

    Raises
    ------
    InputError
        An argument or a file cannot be scored. Nothing has been computed then: an embedding that is refused after
        others were scored is listed in the failures instead.
    EngineUnavailable
        The named engine cannot start here.
    OutOfMemory
        Nothing was scored before memory ran out; what fails for want of it later is listed in the failures.
    """
    prepared = prepare(
        data,
        embeddings,
        label=label,
        batch=batch,
        time=time,
        species=species,
        sample=sample,
        obs=obs,
        pre_integrated=pre_integrated,
        predictions=predictions,
        condition=condition,
        control=control,
        baseline=baseline,
        tasks=tasks,
        scorers=scorers,
        engine=engine,
        seed=seed,
        threads=threads,
        memory=memory,
        knn=knn,
        precision=precision,
        exact=exact,
        cluster=cluster,
        listener=listener,
        options=options,
    )
    check_fits(prepared)
    engine, dataset, given = prepared.engine, prepared.dataset, prepared.given
    if dataset:
        operations = {name: None for task in prepared.tasks for name in task.operations(prepared.options)}
        engine.get_ready(operations, dataset.n_cells)

    with nullcontext() if checkpoint is None or isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint) as own:
        parts = checkpoint if isinstance(checkpoint, Checkpoint) else own
        scope = CheckpointScope(engine.timeline, parts).keyed(what_decides(engine)) if parts else None
        run = Runner(engine, prepared.inputs, prepared.skipped, scope)
        run.finish_or_keep(run.everything(dataset, prepared.tasks, given.data, prepared.baselines))
        if own:
            own.end(complete=not (run.interrupted or run.failures))
    if parts:
        engine.notes += [note for note in (parts.summary(), *parts.notes) if note]
    named = shown(given.data) if isinstance(given.data, str) else None
    return Result(
        results=run.rows,
        provenance=provenance(
            engine,
            options={
                "tasks": [task.id for task in prepared.tasks],
                "embeddings": list(dataset.embeddings) if dataset else [],
                **prepared.asked,
                **prepared.options.to_dict(),
            },
            source=given.source or (dataset.source if dataset else named),
            files=given.files,
            fingerprint=readers.fingerprint(dataset) if dataset else None,
            columns=readers.fingerprint(replace(dataset, embeddings={})) if dataset else None,
            n_cells=dataset.n_cells if dataset else None,
        ),
        timeline=engine.timeline.to_dicts(),
        skipped=run.skipped,
        failures=run.failures,
        interrupted=run.interrupted,
        cells=run.cells,
    )
