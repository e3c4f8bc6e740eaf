"""The options of a run, declared once: `score`, the command line, run files and provenance are derived from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from gpubench.core.errors import InputError, close_matches

if TYPE_CHECKING:
    from gpubench.engines.base import Engine, Precision
    from gpubench.tasks import Options

Kind = Literal[
    "data", "embeddings", "file", "matrix", "text", "tasks", "choices", "choice", "scorers", "parameters", "whole number",
    "switch", "cluster", "memory",
]  # fmt: skip
"""What an option holds; each kind is parsed in one way on the command line, and in one way in run files."""

FILES: tuple[Kind, ...] = ("data", "embeddings", "file", "matrix")
"""Kinds whose values may be paths and URLs."""

DATA, COLUMNS, RUN = "Data", "Columns of obs", "What to run"
"""Panels of `gpubench score --help`."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the command line.

    Attributes
    ----------
    names : as typed, such as ("--task", "-t"); without dashes: a positional argument
    metavar : placeholder of its value in the help
    help : one line of help
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str

    @property
    def parameter(self) -> str:
        """Name of the parameter that takes its value."""
        return self.names[0].partition("/")[0].strip("-").replace("-", "_")


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """How one option of a run is written by users.

    Attributes
    ----------
    kind : type of its values
    panel : of the help
    flags : on the command line
    choices : returns the names that it may have, for run files and shells; a function, because imports cost time
    recorded : whether the provenance of a result has the value under the option's name
    in_run_file : whether run files have a key of this name
    """

    kind: Kind
    panel: str
    flags: tuple[Flag, ...]
    choices: Callable[[], Iterable[str]] | None = None
    recorded: bool = False
    in_run_file: bool = True


def _option(
    kind: Kind,
    panel: str,
    flags: str,
    metavar: str | None,
    help_: str,
    *,
    default: Any = None,
    other: Flag | None = None,
    **spec: Any,
) -> Any:
    """Declare an option with its flags, separated by spaces; `other` is a second flag for other values."""
    first = Flag(tuple(flags.split()), metavar, help_)
    return field(
        default=default, metadata={"spec": OptionSpec(kind, panel, (first, other) if other else (first,), **spec)}
    )


def _column(name: str, help_: str, *, metavar: str = "COLUMN", recorded: bool = True) -> Any:
    return _option("text", COLUMNS, f"--{name}", metavar, help_, recorded=recorded)


def _datasets() -> Iterable[str]:
    from gpubench import datasets

    return datasets.ids()


def _tasks() -> Iterable[str]:
    from gpubench.tasks import TASKS

    return TASKS


def _parameters() -> Iterable[str]:
    from gpubench.tasks import Options

    return (f"{known.name}=" for known in fields(Options))


def _engines() -> Iterable[str]:
    from gpubench.engines import ENGINES

    return ("auto", *ENGINES)


def _knn_methods() -> Iterable[str]:
    from gpubench.engines import KNN_METHODS

    return KNN_METHODS


def _precisions() -> Iterable[str]:
    from gpubench.engines import PRECISIONS

    return PRECISIONS


def _scorers() -> Iterable[str]:
    from sklearn.metrics import get_scorer_names

    return cast("list[str]", get_scorer_names())


def _default_parameters() -> Options:
    from gpubench.tasks import Options

    return Options()


BASELINES = ("pca", "expression")


@dataclass(frozen=True)
class RunOptions:
    """What a run scores and how; `gpubench.score` describes each field.

    A new option is a field here and a parameter of `gpubench.score`.
    """

    data: Any = _option(
        "data",
        DATA,
        "DATA",
        "DATA",
        "h5ad, zarr, npy or npz file, or name of a dataset (see gpubench datasets list). Several files: one per species."
        " Or a run file, run.yaml.",
        choices=_datasets,
    )
    embeddings: str | Sequence[str] | Mapping[str, Any] | None = _option(
        "embeddings",
        DATA,
        "--embedding -e",
        "KEY|FILE",
        "Key of obsm, such as X_pca, or X itself; or a file with one row per cell, as emb.npy or NAME=emb.npy."
        " Repeatable.",
    )
    obs: Any = _option("file", DATA, "--obs", "TABLE", "Parquet or CSV file with the columns, if DATA is an array.")
    pre_integrated: Any = _option(
        "matrix", DATA, "--pre-integrated", "KEY", "The same cells before batch integration.", recorded=True
    )
    predictions: Any = _option(
        "file", DATA, "--predictions", "H5AD", "Predicted expression of perturbed cells."
    )
    label: Any = _column("label", "Known labels, such as cell_type.")
    batch: Any = _column("batch", "Batches that should mix, such as donor.")
    time: Any = _column("time", "Time points, as numbers.")
    species: Any = _column("species", "Species.")
    sample: Any = _column("sample", "Samples, whose cells are merged for prediction across species.")
    condition: str | None = _column(
        "condition", "Perturbation of each cell, for --predictions. Default: condition.", recorded=False
    )
    control: str | None = _column(
        "control", "Value of --condition for untreated cells.", metavar="VALUE", recorded=False
    )
    tasks: str | Sequence[str] = _option(
        "tasks", RUN, "--task -t", "TASK", "Run only this task. Repeatable.", default="auto", choices=_tasks
    )
    baseline: str | Sequence[str] | None = _option(
        "choices", RUN, "--baseline", "NAME", "Also score a baseline: pca or expression.", choices=lambda: BASELINES
    )
    scorers: Mapping[str, Any] | None = _option(
        "scorers", RUN, "--scorer", "NAME", "scikit-learn scorer for label prediction. Repeatable.", choices=_scorers
    )
    options: Options = field(
        default_factory=_default_parameters,
        metadata={
            "spec": OptionSpec(
                "parameters",
                RUN,
                (Flag(("--option", "-o"), "NAME=VALUE", "Parameter of the tasks, such as k=15. Repeatable."),),
                _parameters,
            )
        },
    )
    engine: str | Engine = _option(
        "choice", RUN, "--engine", "NAME", "auto, cpu, cuda or dask.", default="auto", choices=_engines
    )
    seed: int = _option("whole number", RUN, "--seed", "NUMBER", "Random seed.", default=42)
    knn: str = _option(
        "choice",
        RUN,
        "--knn",
        "NAME",
        "Neighbour search: auto, exact, leaves, ivf or nn_descent.",
        default="auto",
        choices=_knn_methods,
    )
    precision: Precision = _option(
        "choice",
        RUN,
        "--precision",
        "NAME",
        "Distances on a GPU: exact, or fast (TF32; neighbours stay exact).",
        default="exact",
        choices=_precisions,
    )
    exact: bool = _option(
        "switch",
        RUN,
        "--exact/--no-exact",
        None,
        "Compare all cells and train on all cells, however long it takes.",
        default=False,
    )
    threads: int | None = _option("whole number", RUN, "--threads", "NUMBER", "Number of CPU threads. Default: all.")
    cluster: Any = _option(
        "cluster",
        RUN,
        "--scheduler",
        "ADDRESS|FILE",
        "Run on this Dask cluster: tcp://host:8786, or a scheduler file.",
        other=Flag(("--workers",), "NUMBER", "Start this many Dask workers on this machine."),
        in_run_file=False,
    )
    memory: int | None = _option(
        "memory", RUN, "--memory", "AMOUNT", "Maximum memory beyond the data, such as 4GB."
    )

    @classmethod
    def of(cls, **arguments: Any) -> Self:
        """Collect arguments of `gpubench.score`: fields, and parameters of the tasks.

        Raises
        ------
        InputError
            No such parameter (with close matches), or a value that no task can use.
        """
        from gpubench.tasks import Options

        names = {known.name for known in fields(cls)} - {"options"}
        parameters = {name: value for name, value in arguments.items() if name not in names}
        known = [parameter.name for parameter in fields(Options)]
        for name in parameters:
            if name not in known:
                raise InputError(f"option {name!r} is unknown{close_matches(name, known)}")
        return cls(
            **{name: value for name, value in arguments.items() if name in names}, options=Options(**parameters)
        )

    def recorded(self) -> dict[str, Any]:
        """Return what provenance says of the run: its columns by name ("array" for values), and task parameters."""
        from gpubench.data.urls import shown

        named = {name: getattr(self, name) for name, spec in SPECS.items() if spec.recorded}
        return {
            **{
                name: shown(value) if isinstance(value, str) else "array"
                for name, value in named.items()
                if value is not None
            },
            **self.options.to_dict(),
        }


def _spec(known: Field[Any]) -> OptionSpec:
    return cast("OptionSpec", known.metadata["spec"])


SPECS: dict[str, OptionSpec] = {known.name: _spec(known) for known in fields(RunOptions)}
"""Field of `RunOptions` -> how users write it."""
