"""The options of a run, declared once: `score`, the command line, run files and provenance are derived from them."""

# ruff: noqa: RUF009 - every default of the class below is a field

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from os import PathLike
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal, Self

from gpubench.core.errors import InputError, close_matches, nearest

if TYPE_CHECKING:
    from gpubench.data.alignment import Align
    from gpubench.engines.base import Engine, Precision
    from gpubench.tasks import Options

Kind = Literal[
    "data", "embeddings", "predictions", "file", "matrix", "text", "tasks", "choices", "choice", "scorers",
    "parameters", "whole number", "switch", "cluster", "memory",
]  # fmt: skip
"""Type of an option's value, which determines how the value is parsed on the command line and in run files."""

FILES: tuple[Kind, ...] = ("data", "embeddings", "predictions", "file", "matrix")
"""Kinds of options whose values may be paths and URLs."""

DATA, COLUMNS, RUN = "Data", "Columns of obs", "What to run"
"""Titles of the groups of flags in `gpubench score --help`."""

EMBEDDING_BASELINES = ("pca", "expression")
SCREEN_BASELINES = ("mean", "control", "replicate", "ceiling")
BASELINES = EMBEDDING_BASELINES + SCREEN_BASELINES
"""Names of all baselines: of embeddings, then of predicted perturbations."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Flag, or positional argument, of the command line."""

    names: tuple[str, ...]  # names as the user types them, such as ("--task", "-t")
    metavar: str | None  # placeholder for the value in the help
    help: str  # help text
    type: type = str  # type of the value

    @property
    def parameter(self) -> str:
        """Name of the parameter of a command that receives the flag's value: "fail_below" for "--fail-below"."""
        return self.names[0].partition("/")[0].strip("-").replace("-", "_").lower()


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """How users give one option of a run: its flags, default and possible values."""

    kind: Kind  # type of the option's value
    panel: str  # title of the group of its flags in the help
    flags: tuple[Flag, ...]  # flags of the command line that give the option
    default: Any  # value if the option is not given; None for no value
    # "module:object" of the object with the names that the value may have: a collection, a function that returns one,
    # or a dataclass whose fields are the names
    named_in: str = ""
    recorded: bool = False  # whether the provenance of a result has the value under the option's name
    in_run_file: bool = True  # whether run files have a key of this name

    def choices(self) -> list[str]:
        """Return the names that the option may have as its value; empty if it does not take one of several names."""
        if not self.named_in:
            return []
        names = resolve_name(self.named_in)
        if hasattr(names, "__dataclass_fields__"):
            return [known.name for known in fields(names)]
        default = [self.default] if isinstance(self.default, str) else []
        return list(dict.fromkeys([*default, *(names() if callable(names) else names)]))


def _option(
    panel: str,
    kind: Kind,
    metavar: str | None,
    help_: str,
    *,
    default: Any = None,
    flags: str = "",
    more: tuple[Flag, ...] = (),
    **spec: Any,
) -> Any:
    """Declare an option as a field of `RunOptions`.

    Parameters
    ----------
    panel, kind : see `OptionSpec`
    metavar, help_ : placeholder of the value and help text of the option's flag, see `Flag`
    default : default value, or a function that returns it; `...` for an option that must be given
    flags : names of the option's flag, separated by blanks. If empty, the flag is "--" and the name of the field
    more : additional flags, for values of another form
    **spec : further fields of `OptionSpec`
    """
    first = Flag(tuple(flags.split()), metavar, help_, {"whole number": int, "switch": bool}.get(kind, str))
    has = {"default_factory": default} if callable(default) else {} if default is ... else {"default": default}
    return field(**has, metadata={"panel": panel, "kind": kind, "flags": (first, *more), **spec})


def _spec(declared: Field[Any]) -> OptionSpec:
    first, *more = declared.metadata["flags"]
    if not first.names:
        first = replace(first, names=(f"--{declared.name.replace('_', '-')}",))
    default = None if declared.default is MISSING else declared.default
    return OptionSpec(**{**declared.metadata, "flags": (first, *more), "default": default})


def _default_parameters() -> Options:
    from gpubench.tasks import Options

    return Options()


_OTHER_NAMES = {
    **dict.fromkeys(("labels", "label_key", "labels_key", "celltype_key", "cell_type_key", "cell_type"), "label"),
    **dict.fromkeys(("batches", "batch_key", "batch_column"), "batch"),
    **dict.fromkeys(("times", "time_key", "time_column"), "time"),
    **dict.fromkeys(("embedding", "embedding_key", "embedding_obsm_keys", "obsm_key", "use_rep"), "embeddings"),
    **dict.fromkeys(("adata", "X"), "data"),
    "task": "tasks",
    "neighbors": "neighbors_key",
    **dict.fromkeys(("cluster_key", "leiden"), "clusters"),
    **dict.fromkeys(("random_state", "random_seed"), "seed"),
    **dict.fromkeys(("n_jobs", "n_threads"), "threads"),
    **dict.fromkeys(("query", "filter", "subset"), "where"),
    **dict.fromkeys(("pre_integrated_embedding_obsm_key", "unintegrated"), "pre_integrated"),
}
"""Name of an argument in other packages, or a likely slip -> name of the option in gpubench."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run: the data, the columns, and how to score them. `gpubench.score` describes each field.

    To add an option, add a field here and a parameter to `gpubench.score`.
    """

    data: Any = _option(
        DATA,
        "data",
        "DATA",
        "h5ad, zarr, npy or npz file, or name of a dataset (see gpubench datasets list). Several files: one per"
        " species. Or a run file, run.yaml.",
        default=...,
        flags="DATA",
        named_in="gpubench.datasets:ids",
    )
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = _option(
        DATA,
        "embeddings",
        "KEY|FILE",
        "Key of obsm, such as X_pca, or X itself; or a file with one row per cell, as emb.npy or NAME=emb.npy."
        " Repeatable.",
        flags="--embedding -e",
    )
    obs: Any = _option(DATA, "file", "TABLE", "Parquet or CSV file with the columns, if DATA is an array.")
    pre_integrated: Any = _option(DATA, "matrix", "KEY", "The same cells before batch integration.", recorded=True)
    neighbors_key: Any = _option(
        DATA,
        "text",
        "KEY",
        "Key of uns with neighbours of the cells, as scanpy.pp.neighbors writes it, used instead of a search.",
        recorded=True,
    )
    align: Align = _option(
        DATA,
        "choice",
        "NAME",
        "Inputs with names of cells: equal (all have the same cells, in any order) or inner (score those all have).",
        default="equal",
        named_in="gpubench.data.alignment:ALIGN",
        recorded=True,
    )
    where: str | None = _option(
        DATA, "text", "EXPR", 'Score only cells for which this holds, such as "n_genes > 200".', recorded=True
    )
    drop_missing: bool = _option(
        DATA,
        "switch",
        None,
        "Leave out cells without a label, batch or other column that is given.",
        default=False,
        flags="--drop-missing/--no-drop-missing",
        recorded=True,
    )
    predictions: Any = _option(
        DATA, "predictions", "H5AD", "Predicted expression of perturbed cells, or NAME=H5AD. Repeatable."
    )
    label: Any = _option(COLUMNS, "text", "COLUMN", "Known labels, such as cell_type.", recorded=True)
    batch: Any = _option(COLUMNS, "text", "COLUMN", "Batches that should mix, such as donor.", recorded=True)
    time: Any = _option(COLUMNS, "text", "COLUMN", "Time points, as numbers.", recorded=True)
    species: Any = _option(COLUMNS, "text", "COLUMN", "Species.", recorded=True)
    sample: Any = _option(
        COLUMNS,
        "text",
        "COLUMN",
        "Sample IDs; cross-species prediction averages the cells of each sample.",
        recorded=True,
    )
    clusters: Any = _option(
        COLUMNS,
        "text",
        "COLUMN",
        "Clusters, such as leiden, to compare with the labels instead of finding some.",
        recorded=True,
    )
    condition: str | None = _option(
        COLUMNS, "text", "COLUMN", "Perturbation of each cell, for --predictions. Default: condition."
    )
    control: str | None = _option(COLUMNS, "text", "VALUE", "Value in --condition that marks control cells.")
    context: str | None = _option(
        COLUMNS, "text", "COLUMN", "Context of each cell, such as its cell line, for perturbation_prediction."
    )
    tasks: str | Sequence[str] = _option(
        RUN,
        "tasks",
        "TASK",
        "Run only this task. Repeatable.",
        default="auto",
        flags="--task -t",
        named_in="gpubench.tasks:TASKS",
    )
    baseline: str | Sequence[str] | None = _option(
        RUN,
        "choices",
        "NAME",
        "Also score a baseline: pca or expression; of predicted perturbations mean, control, replicate or ceiling."
        " Repeatable.",
        named_in=f"{__name__}:BASELINES",
    )
    scorers: Mapping[str, Any] | None = _option(
        RUN,
        "scorers",
        "NAME",
        "scikit-learn scorer for label prediction. Repeatable.",
        flags="--scorer",
        named_in="sklearn.metrics:get_scorer_names",
    )
    options: Options = _option(
        RUN,
        "parameters",
        "NAME=VALUE",
        "Parameter of the tasks, such as k=15. Repeatable.",
        default=_default_parameters,
        flags="--option -o",
        named_in="gpubench.tasks:Options",
    )
    engine: str | Engine = _option(
        RUN, "choice", "NAME", "auto, cpu, cuda or dask.", default="auto", named_in="gpubench.engines:ENGINES"
    )
    seed: int = _option(RUN, "whole number", "NUMBER", "Random seed.", default=42)
    knn: str = _option(
        RUN,
        "choice",
        "NAME",
        "Neighbour search method: auto, exact, leaves, ivf, faiss, cuvs or nn_descent.",
        default="auto",
        named_in="gpubench.engines.knn_methods:KNN_CHOICES",
    )
    precision: Precision = _option(
        RUN,
        "choice",
        "NAME",
        "Distances on a GPU: exact, or fast (TF32; neighbours stay exact).",
        default="exact",
        named_in="gpubench.engines:PRECISIONS",
    )
    exact: bool = _option(
        RUN,
        "switch",
        None,
        "Disable all sampling and approximation, which is slow on large data.",
        default=False,
        flags="--exact/--no-exact",
    )
    strict: bool = _option(
        RUN, "switch", None, "Treat warnings as errors.", default=False, flags="--strict/--no-strict"
    )
    threads: int | None = _option(RUN, "whole number", "NUMBER", "Number of CPU threads. Default: all.")
    cluster: Any = _option(
        RUN,
        "cluster",
        "ADDRESS|FILE",
        "Run on this Dask cluster: tcp://host:8786, or a scheduler file.",
        flags="--scheduler",
        more=(Flag(("--workers",), "NUMBER", "Start this many local Dask workers and run on them.", int),),
        in_run_file=False,
    )
    memory: int | str | None = _option(RUN, "memory", "AMOUNT", "Maximum memory beyond the data, such as 4GB.")

    @classmethod
    def of(cls, **arguments: Any) -> Self:
        """Create options from the keyword arguments of `gpubench.score`.

        Arguments that are not fields of this class become parameters of the tasks.

        Raises
        ------
        InputError
            If an argument is neither a field nor a parameter of a task.
        """
        from gpubench.tasks import Options

        names = SPECS.keys() - {"options"}
        parameters = {name: value for name, value in arguments.items() if name not in names}
        known = SPECS["options"].choices()
        for name in parameters:
            if name in _OTHER_NAMES and name not in known:
                raise InputError(f"option {name!r} is unknown (did you mean {_OTHER_NAMES[name]!r}?)")
            if name not in known:
                every = known if nearest(name, known) else [*SPECS, *known]
                raise InputError(f"option {name!r} is unknown{close_matches(name, every)}")
        run = {name: value for name, value in arguments.items() if name in names}
        return cls(**run, options=Options(**parameters))

    def recorded(self) -> dict[str, Any]:
        """Return the options to record in a result's provenance, and the parameters of the tasks.

        Values that were not given by name, such as arrays, are recorded as "array".
        """
        from gpubench.data.urls import shown

        values = {name: getattr(self, name) for name, spec in SPECS.items() if spec.recorded}
        named = {
            name: shown(value) if isinstance(value, str) else value if isinstance(value, bool) else "array"
            for name, value in values.items()
            if value is not None and not (isinstance(value, str | bool) and value == SPECS[name].default)
        }
        listed = {name: _names(getattr(self, name)) for name in ("predictions", "baseline")}
        listed["scorers"] = sorted(self.scorers or ())
        named |= {
            name: value for name in ("condition", "control", "context") if (value := getattr(self, name)) is not None
        }
        return {**named, **{name: names for name, names in listed.items() if names}, **self.options.to_dict()}


def _names(value: Any) -> list[str]:
    """Return a value as a flat list of names: text and paths are kept, and arrays and objects become "array"."""
    from gpubench.data.urls import shown

    if value is None:
        return []
    if isinstance(value, str | PathLike):
        return [shown(value)]
    if isinstance(value, Mapping):
        return [f"{name}={text}" for name, item in value.items() for text in _names(item)]
    return [text for item in value for text in _names(item)] if isinstance(value, list | tuple) else ["array"]


SPECS = {declared.name: _spec(declared) for declared in fields(RunOptions)}
"""Name of each field of `RunOptions` -> its `OptionSpec`."""
