"""One run: read the data, put each embedding on the engine once, and answer the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from gpubench import data as readers
from gpubench.answering import answering
from gpubench.checkpoint import Checkpoint, Kept
from gpubench.engines import get_engine
from gpubench.errors import InputError
from gpubench.provenance import provenance, what_decides
from gpubench.registered import Given, look_up
from gpubench.result import Result
from gpubench.runner import PERTURBATION, Inputs, Runner, choose_tasks
from gpubench.seeds import check_seed
from gpubench.tasks import TASKS
from gpubench.tasks._task import Options
from gpubench.timeline import Timeline

if TYPE_CHECKING:
    import os

    from gpubench.engines.base import Engine, Precision
    from gpubench.timeline import Listener
    from gpubench.types import Dataset

SCIB = "scib"
"""The one task that compares with cells before integration."""

BASELINES = ("pca", "expression")


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
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Result:
    """Score embeddings of cells on every task whose inputs are given.

    Parameters
    ----------
    data : path (h5ad, zarr, npy, npz, parquet, csv), AnnData, (n, d) array of any library, dict name -> array, or
        several of these: one for each species, as a list or as a dict species -> data. A name such as "tsv2_blood" is a
        dataset of `gpubench.datasets`, which is fetched if it is not in the cache
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
    engine : "auto", "cpu", "cuda", or an engine already started
    seed : of everything random
    threads : CPU threads; None: all
    memory : bytes to use at most beyond the input; None: 80% of what is free
    knn : how neighbours are searched: "auto", "exact", "leaves" or "ivf", see `gpubench.get_engine`
    precision : "exact" or "fast", see `gpubench.get_engine`
    exact : compare all cells with all and train on all, however long it takes, see `gpubench.get_engine`
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
    """
    chosen = _options(options)
    wanted = _wanted_tasks(tasks)
    baselines = _baselines(baseline)
    seed = check_seed(seed)
    if baselines and _one_for_each_species(data):
        raise InputError("baseline cannot be computed from one file for each species; leave it out, or merge the files")
    if pre_integrated is not None:
        _check_pre_integrated(wanted, data)
    columns = {"label": label, "batch": batch, "time": time, "species": species, "sample": sample}
    given = look_up(Given(data, columns, condition, control), obs=obs, listener=listener)
    data, columns = given.data, given.columns
    timeline = Timeline(listener)
    if isinstance(engine, str):
        engine = get_engine(
            engine,
            seed=seed,
            threads=threads,
            memory_bytes=memory,
            timeline=timeline,
            knn=knn,
            precision=precision,
            exact=exact,
        )
    else:
        timeline = engine.timeline

    def read() -> tuple[Dataset | None, Inputs]:
        perturbation = None
        if predictions is not None:
            perturbation = readers.read_perturbation(
                data, predictions, condition=given.condition or "condition", control=given.control, seed=seed
            )
        dataset = None
        if wanted != [PERTURBATION] and not (wanted is None and perturbation and not any(_given(columns))):
            dataset = _read(data, embeddings, columns, obs)
        before = None if pre_integrated is None else readers.read_matrix(data, pre_integrated, "pre_integrated")
        return dataset, Inputs.of(dataset, perturbation, chosen, scorers or {}, before)

    with timeline.stage("read"):
        dataset, inputs = answering(read, timeline)
    tasks_to_run, skipped = choose_tasks(wanted, inputs)
    if dataset:
        engine.get_ready([operation for task in tasks_to_run for operation in task.operations], dataset.n_cells)

    with nullcontext() if checkpoint is None or isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint) as own:
        parts = checkpoint if isinstance(checkpoint, Checkpoint) else own
        kept = Kept(timeline, parts).on(what_decides(engine)) if parts else None
        run = Runner(engine, inputs, skipped, kept)
        run.finish_or_keep(run.everything(dataset, tasks_to_run, data, baselines))
        if own:
            own.end(whole=not (run.interrupted or run.failures))
    if parts:
        engine.notes += [note for note in (parts.summary(), *parts.notes) if note]
    return Result(
        results=run.rows,
        provenance=provenance(
            engine,
            options={
                "tasks": [task.id for task in tasks_to_run],
                "embeddings": list(dataset.embeddings) if dataset else [],
                **({} if pre_integrated is None else {"pre_integrated": _named(pre_integrated)}),
                **{role: _named(value) for role, value in _given(columns)},
                **{field.name: getattr(chosen, field.name) for field in fields(chosen)},
            },
            source=given.source or (dataset.source if dataset else str(data) if isinstance(data, str) else None),
            files=given.files,
            fingerprint=readers.fingerprint(dataset) if dataset else None,
            n_cells=dataset.n_cells if dataset else None,
        ),
        timeline=timeline.to_dicts(),
        skipped=run.skipped,
        failures=run.failures,
        interrupted=run.interrupted,
        cells=run.cells,
    )


def _check_pre_integrated(wanted: list[str] | None, data: Any) -> None:
    """Refuse it where nothing would use it, or where it is not clear whose it is."""
    if SCIB not in (wanted or []):
        raise InputError(f"pre_integrated is used by the task {SCIB!r} alone; name it in tasks, or leave it out")
    if _one_for_each_species(data):
        raise InputError("pre_integrated cannot be one file for each species; leave it out, or merge the files")


def _given(columns: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(role, value) for role, value in columns.items() if value is not None]


def _named(value: Any) -> str:
    return value if isinstance(value, str) else "array"


def _options(options: Mapping[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    for name in options:
        if name not in known:
            raise InputError(f"option {name!r} is unknown{readers.close_matches(name, known)}")
    return Options(**options)


def _wanted_tasks(tasks: str | Sequence[str]) -> list[str] | None:
    """Ids in the order of TASKS; None for "auto"."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if names == ["auto"]:
        return None
    if not names:
        raise InputError("tasks is empty; name at least one, or 'auto' for all whose inputs are given")
    for name in names:
        if name not in TASKS:
            raise InputError(f"task {name!r} is unknown{readers.close_matches(name, list(TASKS))}")
    return [name for name in TASKS if name in names]


def _baselines(baseline: str | Sequence[str] | None) -> list[str]:
    names = [] if baseline is None else [baseline] if isinstance(baseline, str) else list(baseline)
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baseline={name!r} is unknown; use 'pca' or 'expression'")
    return names


def _read(data: Any, embeddings: Any, columns: Mapping[str, Any], obs: Any) -> Dataset:
    given = dict(_given(columns))
    if _one_for_each_species(data):
        return readers.read_species(data, embeddings=embeddings, columns=given, obs=obs)
    return readers.read(data, embeddings=embeddings, columns=given, obs=obs)


def _one_for_each_species(data: Any) -> bool:
    """Whether `data` is several datasets: a list of paths or AnnData objects, or a dict of them by species."""
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    parts = list(parts)
    return bool(parts) and all(
        isinstance(part, str) or hasattr(part, "__fspath__") or hasattr(part, "obs") for part in parts
    )
