"""`gpubench.score`: read the data, put each embedding on the engine once, and run the tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gpubench import data as readers
from gpubench.core.checkpoint import Checkpoint, CheckpointScope
from gpubench.core.errors import InputError, explaining_memory_errors, message_of
from gpubench.core.scores import PerturbationTable
from gpubench.data.urls import shown
from gpubench.datasets.lookup import is_local
from gpubench.engines.embedding import Embedding
from gpubench.results.result import Result
from gpubench.running.annotation import annotate, check_annotation
from gpubench.running.given_neighbors import belongs_to, too_few, use_neighbors
from gpubench.running.interrupt import run_interruptible
from gpubench.running.notebook_progress import NotebookProgress, in_notebook
from gpubench.running.options import EMBEDDING_BASELINES, RunOptions
from gpubench.running.plan import check_fits
from gpubench.running.prepare import PERTURBATION, SCREEN, prepare, read_inputs
from gpubench.running.provenance import bit_level_context, command_line, provenance
from gpubench.running.views import given_view, principal_view
from gpubench.tasks._task import Task, TaskInput, with_note

if TYPE_CHECKING:
    import os

    from gpubench.core.scores import MetricResult
    from gpubench.core.timeline import Listener
    from gpubench.core.types import Dataset
    from gpubench.data.alignment import Align
    from gpubench.data.expression import Baseline
    from gpubench.engines.base import Engine, Precision
    from gpubench.running.prepare import Inputs, Prepared

T = TypeVar("T")
Step = Callable[[], None]
logger = logging.getLogger("gpubench")


def score(
    data: Any,
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = None,
    *,
    label: Any = None,
    batch: Any = None,
    time: Any = None,
    species: Any = None,
    sample: Any = None,
    clusters: Any = None,
    obs: Any = None,
    pre_integrated: Any = None,
    neighbors_key: Any = None,
    align: Align = "equal",
    where: str | None = None,
    drop_missing: bool = False,
    predictions: Any = None,
    condition: str | None = None,
    control: str | None = None,
    context: str | None = None,
    baseline: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] = "auto",
    scorers: Mapping[str, Any] | None = None,
    engine: str | Engine = "auto",
    seed: int = 42,
    threads: int | None = None,
    memory: int | str | None = None,
    knn: str = "auto",
    precision: Precision = "exact",
    exact: bool = False,
    strict: bool = False,
    cluster: Any = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    listener: Listener | None = None,
    key_added: str | None = None,
    **options: Any,
) -> Result:
    """Score embeddings of cells on every task whose inputs are given.

    The usual call names one or more embeddings and the columns of `obs`::

        result = gb.score(adata, ["X_pca", "X_scvi"], label="cell_type", batch="donor")

    Parameters
    ----------
    data : path or URL (h5ad, zarr, npy, npz, parquet, csv), AnnData, (n, d) array of any library, or dict
        name -> array. For data with one file per species, a list of these or a dict species -> data. A name such as
        "tsv2_blood" is a dataset of `gpubench.datasets`, which is fetched if it is not in the cache
    embeddings : keys of `obsm`, or "X"; paths of files with one embedding of the same cells; or a dict
        name -> key, path or matrix. If None, score the only embedding in `data`
    label, batch, time, species, sample : name of a column of `obs`, or an array or Series with one value per cell. If
        None, a dataset of `gpubench.datasets` uses the columns that its catalogue names; other data have no such column
    clusters : name of a column of `obs`, such as "leiden", or an array or Series with one value per cell: clusters that
        the task "clustering" compares with the labels, instead of finding Leiden clusters
    obs : path or DataFrame with the columns of the cells, if `data` does not contain them
    pre_integrated : the cells before batch integration, for the task "scib": a key as in `embeddings`, the path of a
        file, or a matrix
    neighbors_key : neighbours that were computed before, used instead of a search: key of `uns` in AnnData, such as
        "neighbors", as scanpy.pp.neighbors writes it; or (indices, distances), two (n, k) arrays. They must be
        Euclidean and of this embedding, which is checked on a sample of cells, as is their recall. A task that needs
        more neighbours fails with a message
    align : how to match inputs that name their cells (AnnData, the index of a DataFrame or Series, in files an unnamed
        first column or a column such as "barcode"). "equal" requires all inputs to have the same cells, in any order;
        "inner" scores the cells that all inputs have. Inputs without names are matched by row
    where : score only the cells for which this expression of pandas' `DataFrame.query` on columns of `obs` is true
    drop_missing : whether to leave out cells with a missing value in a given column. By default missing values raise
        `InputError`
    predictions : predicted expression (path of an h5ad, or AnnData); cells and genes may be in any order. For
        "perturbation_prediction" also a dict name -> prediction
    condition, control : name of the column of `obs` with the perturbation of each cell, and the value of this column
        for control cells. If None, use those in the catalogue of a dataset, otherwise "condition" and the value that
        the data record
    context : name of the column of `obs` with the context of each cell, such as its cell line. The task
        "perturbation_prediction" scores each context separately, against its own control cells
    baseline : "pca" (50 components of the 3,000 most variable genes) or "expression" (X itself), scored in addition to
        the embeddings. For "perturbation_prediction": "mean" (mean of all perturbations), "control" (control cells),
        "replicate" (one random half of the real cells as prediction of the other half) or "ceiling"; predictions then
        also get scaled scores, where 0 is the score of the mean or the control and 1 a perfect score or that of the
        replicate
    tasks : ids of the tasks, or "auto": all tasks of cz-benchmarks whose inputs are given; "scib" runs only if named
    scorers : additional scores for the prediction tasks, as a dict name -> function f(y_true, y_pred), or scikit-learn
        scorer
    engine : "auto", "cpu", "cuda", "dask", or a started engine
    seed : random seed
    threads : number of CPU threads. If None, use all cores
    memory : maximum memory in addition to the input, in bytes or as text such as "4GB". If None, 80% of the free memory
    knn : neighbour search: "auto", "exact", "leaves", "ivf", "faiss", "cuvs" or "nn_descent", see `gpubench.get_engine`
    precision : "exact" or "fast", see `gpubench.get_engine`
    exact : whether to disable all sampling and approximation, which is slow on large data, see `gpubench.get_engine`
    strict : whether inputs that are probably a mistake raise `InputError` instead of a `GpubenchWarning`
    cluster : Dask cluster: the address of a scheduler, a scheduler file, a number of workers to start here, or a
        `Client`, see `gpubench.get_engine`
    checkpoint : folder in whose subfolder `.checkpoint` finished parts are saved during the run. If a run is stopped or
        killed, running it again with the same folder continues from these parts and gives the same numbers. A complete
        run removes them. If an open `Checkpoint` is given instead, it is used and not closed
    listener : object that is notified when a stage begins, advances and ends. If None, notebooks show a progress bar
    key_added : if `data` is an AnnData object, key of its `uns` to which a small summary of the result is written: the
        table of scores, and text and numbers that say how they were computed. Nothing else in the object changes
    **options : parameters of the tasks, see `gpubench.tasks.Options`

    Returns
    -------
    Result
        All scores with their parameters and notes, skipped tasks with reasons, failures, timeline and provenance.

    Raises
    ------
    InputError
        If an argument or a file cannot be scored. If other embeddings were scored before, the result lists the error in
        its failures instead.
    EngineUnavailable
        If the engine cannot start on this machine.
    OutOfMemory
        If memory runs out before anything is scored. If other scores were computed before, the result lists the error
        in its failures instead.

    Examples
    --------
    >>> import gpubench as gb
    >>> from gpubench.datasets import demo_path
    >>> result = gb.score(demo_path(), ["X_pca"], label="cell_type", tasks="embedding", engine="cpu")
    >>> f"{result.value('silhouette_score'):.2f}"
    '0.64'

    Scores can be stored with the cells:

    >>> import anndata
    >>> adata = anndata.read_h5ad(demo_path())
    >>> result = gb.score(adata, "X_pca", label="cell_type", tasks="embedding", engine="cpu", key_added="gpubench")
    >>> adata.uns["gpubench"]["scores"]["metric"].tolist()
    ['silhouette_score']
    """
    not_recorded = ("checkpoint", "listener", "key_added", "options")
    given = {name: value for name, value in locals().items() if name not in (*not_recorded, "not_recorded")}
    run = RunOptions.of(**given, **options)
    if key_added is not None:
        check_annotation(data, key_added)
    with NotebookProgress() if listener is None and in_notebook() else nullcontext(listener) as shown:
        result = score_run(run, checkpoint=checkpoint, listener=shown)
    if key_added is not None:
        annotate(data, key_added, result)
    return result


@explaining_memory_errors()
def score_run(
    run: RunOptions,
    *,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    listener: Listener | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
) -> Result:
    """Score a run with the given options; see `score`.

    Parameters
    ----------
    run : options of the run
    checkpoint, listener : see `score`
    check : function called with the provenance of the run before anything is computed; it may raise `InputError` to
        refuse the run
    """
    prepared = prepare(run, listener)
    check_fits(prepared)
    if check:
        check(_provenance(prepared, run))
    engine, dataset = prepared.engine, prepared.dataset
    if dataset:
        operations = {name: None for task in prepared.tasks for name in task.operations(prepared.run.options)}
        engine.preload(operations)

    with nullcontext() if checkpoint is None or isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint) as own:
        parts = checkpoint if isinstance(checkpoint, Checkpoint) else own
        scope = CheckpointScope(engine.timeline, parts).keyed(bit_level_context(engine)) if parts else None
        runner = Runner(prepared, scope)
        runner.run()
        if own:
            own.end(complete=not (runner.interrupted or runner.failures))
    if prepared.inputs.screens:
        engine.notes += prepared.inputs.screens.log.lines()
    if parts:
        engine.notes += [note for note in (parts.summary(), *parts.notes) if note]
    return Result(
        results=runner.rows,
        provenance=_provenance(prepared, run),
        timeline=engine.timeline.to_dicts(),
        skipped=runner.skipped,
        failures=runner.failures,
        interrupted=runner.interrupted,
        cells=runner.cells,
        perturbations=runner.perturbations,
    )


def check_run(run: RunOptions) -> dict[str, Any] | None:
    """Read and check the inputs of a run without starting an engine.

    Returns seed, options and facts about the data as the provenance of the run will have them, or None if the data are
    datasets that are not in the cache.
    """
    if not is_local(run.data):
        return None
    seed = run.seed
    run, dataset, inputs, tasks = read_inputs(run)
    return {"seed": seed, "options": _recorded(run, dataset, tasks), "dataset": _dataset_facts(dataset, inputs)}


def _recorded(run: RunOptions, dataset: Dataset | None, tasks: Sequence[Task]) -> dict[str, Any]:
    embeddings = list(dataset.embeddings) if dataset else []
    return {"tasks": [task.id for task in tasks], "embeddings": embeddings, **run.recorded()}


def _dataset_facts(dataset: Dataset | None, inputs: Inputs) -> dict[str, Any]:
    screens = inputs.screens
    digest = screens.real.digest if screens else None
    return {
        "fingerprint": readers.fingerprint(dataset) if dataset else digest,
        "columns": readers.fingerprint(replace(dataset, embeddings={})) if dataset else digest,
        "n_cells": dataset.n_cells if dataset else screens.real.n if screens else None,
    }


def _provenance(prepared: Prepared, asked: RunOptions) -> dict[str, Any]:
    run, dataset = prepared.run, prepared.dataset
    named = shown(run.data) if isinstance(run.data, str) else None
    return provenance(
        prepared.engine,
        options=_recorded(run, dataset, prepared.tasks),
        source=prepared.source or (dataset.source if dataset else named),
        files=prepared.files,
        notes=dataset.notes if dataset else (),
        warnings=prepared.warnings,
        command=command_line(asked),
        **_dataset_facts(dataset, prepared.inputs),
    )


class Runner:
    """Run the tasks of a prepared run and collect their scores; scores computed before a failure are kept."""

    def __init__(self, prepared: Prepared, scope: CheckpointScope | None = None) -> None:
        self._prepared = prepared
        self._engine = prepared.engine
        self._inputs = prepared.inputs
        self._scope = scope or CheckpointScope(prepared.engine.timeline)
        self.rows: list[MetricResult] = []
        self.cells = prepared.inputs.cells()
        self.perturbations = prepared.inputs.screens.table if prepared.inputs.screens else PerturbationTable()
        self.skipped = list(prepared.skipped)
        self.failures: list[dict[str, str]] = []
        self.interrupted = False
        self._refusals: list[InputError] = []
        self._pre_integrated: Embedding | None = None

    def run(self) -> None:
        """Run all tasks; on Ctrl-C stop, keep the scores so far and set `interrupted`.

        If every task raised `InputError`, the first of these errors is raised.
        """

        def work() -> None:
            for step in self._steps():
                step()

        try:
            run_interruptible(work, self._engine.timeline)
        except KeyboardInterrupt:
            self.interrupted = True
        if not self.rows and self._refusals and len(self._refusals) == len(self.failures):
            raise self._refusals[0]

    def _steps(self) -> Iterator[Step]:
        """Yield a function for each task of each embedding, then of each baseline, then of the predictions."""
        dataset, data, tasks = self._prepared.dataset, self._prepared.run.data, self._prepared.tasks
        embedding_tasks = [task for task in tasks if task.id not in (PERTURBATION, SCREEN)]
        if dataset is not None and embedding_tasks:
            if self._inputs.pre_integrated is not None:
                self._pre_integrated = self._put(self._inputs.pre_integrated, "pre_integrated")
            with self._engine.timeline.stage("view"):
                view = given_view(data, dataset.n_cells, self._engine.seed, dataset.rows)
            if view is not None:
                self.cells.views[""] = view
            for name, matrix in dataset.embeddings.items():
                yield from self._embedding(name, matrix, embedding_tasks)
            for baseline in self._prepared.baselines:
                if baseline in EMBEDDING_BASELINES:
                    yield from self._baseline(baseline, data, embedding_tasks)
        for task in tasks:
            yield from self._prediction_steps(task)

    def _prediction_steps(self, task: Task) -> Iterator[Step]:
        """Yield the steps of a task if it scores predicted expression; yield nothing for other tasks."""
        run, perturbation, screens = self._prepared.run, self._inputs.perturbation, self._inputs.screens
        if task.id == PERTURBATION:
            given = TaskInput(self._engine, run.options, "predictions", perturbation=perturbation)
            yield partial(self._task, task, given)
        elif task.id == SCREEN and screens is not None:
            for name, column in screens.columns(run, self._prepared.baselines, self._engine):
                yield partial(self._screen, task, TaskInput(self._engine, run.options, name, screen=column))

    def _screen(self, task: Task, given: TaskInput) -> None:
        with self._engine.timeline.stage(given.name):
            self._task(task, given)

    def _embedding(self, name: str, matrix: Any, tasks: list[Task], note: str = "") -> Iterator[Step]:
        timeline, run = self._engine.timeline, self._prepared.run
        with timeline.stage(name):
            embedding = self._unless_refused(lambda: self._put(matrix, name), name, tasks)
            if embedding is None:
                return
            tasks = self._with_graph(embedding, self._with_given_neighbors(embedding, tasks))
            if "" not in self.cells.views:
                with timeline.stage("view"):
                    self.cells.views[name] = principal_view(embedding, self._engine.seed)
            scope = self._row_scope(embedding)
            for task in tasks:
                given = TaskInput(
                    self._engine,
                    run.options,
                    name,
                    embedding,
                    pre_integrated=self._pre_integrated,
                    scorers=run.scorers or {},
                    cells=self.cells,
                    scope=scope,
                    **self._inputs.columns,
                )
                yield partial(self._task, task, given, note)
            embedding.release()

    def _with_given_neighbors(self, embedding: Embedding, tasks: list[Task]) -> list[Task]:
        """Use given neighbours if they are of this embedding; return the tasks for which they suffice."""
        neighbors = self._inputs.neighbors
        is_baseline = embedding.name in (f"baseline_{name}" for name in self._prepared.baselines)
        if neighbors is None or is_baseline or not belongs_to(neighbors, embedding.name):
            return tasks
        with self._engine.timeline.stage("neighbors"):
            used = self._unless_refused(lambda: use_neighbors(embedding, neighbors), embedding.name, tasks)
        if used is None:
            return []
        left = []
        for task in tasks:
            wanted = task.graph_k(self._prepared.run.options, self._engine, embedding.n, embedding.d)
            if message := too_few(task, min(wanted, embedding.n - 1), neighbors):
                self._refusals.append(InputError(message))
                self.failures.append({"task": task.id, "embedding": embedding.name, "error": message})
            else:
                left.append(task)
        return left

    def _put(self, matrix: Any, name: str) -> Embedding:
        embedding = Embedding.put(self._engine, matrix, name, self._scope)
        if self._scope.checkpoint:
            with self._engine.timeline.stage("digest"):
                facts = (embedding.offsets,) if embedding.offsets else ()
                embedding.scope = self._scope.keyed(self._engine.digest(embedding.x), *facts)
        return embedding

    def _row_scope(self, embedding: Embedding) -> CheckpointScope:
        """Return the checkpoint scope of an embedding's scores, whose key depends on all inputs of the tasks."""
        if not self._scope.checkpoint:
            return self._scope
        before = self._pre_integrated and self._pre_integrated.scope.depends_on
        return embedding.scope.keyed(
            embedding.name, embedding.planned_k, before, self._inputs.digest(self._prepared.run.options)
        )

    def _with_graph(self, embedding: Embedding, tasks: list[Task]) -> list[Task]:
        """Compute the neighbour graph that tasks share; return all tasks, or those without a graph if it fails."""
        options, engine = self._prepared.run.options, self._engine
        wanted = {task.id: task.graph_k(options, engine, embedding.n, embedding.d) for task in tasks}
        k = min(max(wanted.values(), default=0), embedding.n - 1)
        if k <= 0:
            return tasks
        embedding.plan_knn(k)
        graph_tasks = [task for task in tasks if wanted[task.id] > 0]
        if self._unless_refused(lambda: embedding.knn(k), embedding.name, graph_tasks) is not None:
            return tasks
        return [task for task in tasks if wanted[task.id] == 0]

    def _baseline(self, baseline: str, data: Any, tasks: list[Task]) -> Iterator[Step]:
        """Yield the steps that score a baseline: "pca" on tasks with any baseline, "expression" on tasks with that."""
        compute: Callable[..., Baseline]
        dataset = self._prepared.dataset
        rows = None if dataset is None else dataset.rows
        if baseline == "pca":
            tasks = [task for task in tasks if task.baseline is not None]
            compute = readers.pca_baseline
        else:
            tasks = [task for task in tasks if task.baseline == "expression"]
            compute = readers.expression_baseline
        if not tasks:
            self.skipped.append({"task": f"baseline_{baseline}", "reason": "no chosen task has this baseline"})
            return
        name = f"baseline_{baseline}"
        with self._engine.timeline.stage(name):
            matrix = self._unless_refused(lambda: compute(data, rows=rows), name, tasks)
        if matrix is not None:
            yield from self._embedding(name, matrix, tasks, matrix.note)

    def _unless_refused(self, make: Callable[[], T], name: str, tasks: list[Task]) -> T | None:
        """Return `make()`; if it fails after other scores were computed, record failures of tasks and return None."""
        try:
            with explaining_memory_errors():
                return make()
        except (InputError, MemoryError) as error:
            if not self.rows:
                raise
            self.failures += [{"task": task.id, "embedding": name, "error": message_of(error)} for task in tasks]
            return None

    def _task(self, task: Task, given: TaskInput, note: str = "") -> None:
        with self._engine.timeline.stage(task.id):
            try:
                with explaining_memory_errors():
                    for row in task.run(given):
                        self._engine.timeline.cancel_token.check()
                        self.rows.append(with_note(row, note))
            except Exception as error:
                logger.debug("task %s failed", task.id, exc_info=True)
                reason = message_of(error) or type(error).__name__
                if isinstance(error, InputError):
                    self._refusals.append(error)
                elif not isinstance(error, MemoryError):
                    reason = f"{type(error).__name__}: {reason}"
                self.failures.append({"task": task.id, "embedding": given.name, "error": reason})
