"""Flags of the command line for the fields of `gpubench.running.options.RunOptions`, and the parsing of values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from gpubench.core import units
from gpubench.core.errors import InputError, close_matches
from gpubench.core.files import check_writable_folder
from gpubench.running.options import COLUMNS, SPECS, Kind, OptionSpec

if TYPE_CHECKING:
    from pathlib import Path

    from gpubench.running.output import Output

C = TypeVar("C", bound=Callable[..., Any])

_REPEATED: tuple[Kind, ...] = ("data", "embeddings", "predictions", "tasks", "choices", "scorers", "parameters")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def with_run_flags(*names: str, panels: bool = True) -> Callable[[C], C]:
    """Return a decorator that adds flags for options of a run to a command, before the command's own flags.

    The command receives the values as keyword arguments.

    Parameters
    ----------
    *names : names of fields of `RunOptions` to add flags for. If empty, all fields
    panels : whether the help shows the flags in groups
    """

    def decorate(command: C) -> C:
        run = [
            parameter
            for name, spec in SPECS.items()
            if not names or name in names
            for parameter in _parameters(spec, panels=panels)
        ]
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        first = [parameter for parameter in own if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        parameters = [*first, *run, *own[len(first) :]]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _parameters(spec: OptionSpec, *, panels: bool) -> Iterator[inspect.Parameter]:
    """Yield a function parameter for each flag of an option, annotated for typer; see `with_run_flags`."""
    for flag in spec.flags:
        help_: dict[str, Any] = {"metavar": flag.metavar, "help": flag.help, "autocompletion": completion(spec)}
        value: Any = list[flag.type] if spec.kind in _REPEATED else flag.type  # type: ignore[name-defined]
        if not flag.names[0].startswith("-"):
            annotation = Annotated[value, typer.Argument(**help_)]
            yield inspect.Parameter(flag.parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
            continue
        default = None if spec.kind in _REPEATED else spec.default
        option = typer.Option(*flag.names, **help_, rich_help_panel=spec.panel if panels else None)
        yield inspect.Parameter(
            flag.parameter,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[value | None if default is None else value, option],
        )


def completion(spec: OptionSpec) -> Callable[..., list[str]] | None:
    """Return a function that completes the value of an option in a shell; None if its values are not known.

    Where the function returns nothing, shells offer names of files.
    """
    if not spec.named_in:
        names = _IN_DATA.get("text" if spec.panel == COLUMNS else spec.kind)
        return None if names is None else _complete_from_data(names)

    def complete(incomplete: str) -> list[str]:
        if spec.kind == "data" and not incomplete:  # files first
            return []
        equals = "=" if spec.kind == "parameters" else ""
        return [f"{name}{equals}" for name in spec.choices() if name.startswith(incomplete)]

    return complete


def _columns_of(data: str, obs: str | None) -> list[str]:
    from gpubench.data import column_names

    return column_names(data, obs)


def _embeddings_of(data: str, obs: str | None) -> list[str]:  # noqa: ARG001 - as for columns
    from gpubench.data import embedding_names

    return embedding_names(data)


_IN_DATA: dict[str, Callable[[str, str | None], list[str]]] = {
    "text": _columns_of,
    "embeddings": _embeddings_of,
    "matrix": _embeddings_of,
}
"""Kind of an option -> function (data, obs) that lists the names in the data from which its value is chosen."""


def _complete_from_data(names_of: Callable[[str, str | None], list[str]]) -> Callable[..., list[str]]:
    """Return a function that completes names of columns or embeddings from the data file on the command line."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from gpubench.data.urls import is_url

        # the flag whose value is completed has none yet, at which parsing ends; what follows the flags is in `ctx.args`
        place = next(iter([*(ctx.params.get("data") or ()), *ctx.args]), None)
        if place is None or is_url(place):
            return []
        obs = ctx.params.get("obs")
        try:
            return [name for name in names_of(place, obs) if name.startswith(incomplete)]
        except (InputError, OSError):  # a shell that completes a word is no place for messages
            return []

    return complete


def parse_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert name of each flag -> value to field of `RunOptions` -> value; "options" becomes a dict of parameters."""
    arguments: dict[str, Any] = {}
    for name, spec in SPECS.items():
        values = [given[flag.parameter] for flag in spec.flags if flag.parameter in given]
        if not values:
            continue
        arguments[name] = _PARSE[spec.kind](*values) if spec.kind in _PARSE else values[0]
    return arguments


def parse_embeddings(texts: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    """Parse the values of `--embedding`: keys of obsm, paths, or "name=path".

    Returns a list or, if a file has another name than its path, a dict name -> path or key; None without values.
    """
    from gpubench.data import split_name

    if not texts:
        return None
    named: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        name, place = split_name(text)
        if name in named:
            raise InputError(f"--embedding: two are called {name!r}; write NAME=FILE to give one another name")
        named[name] = place
    return list(named) if all(name == place for name, place in named.items()) else named


def parse_predictions(texts: Sequence[str] | None) -> str | dict[str, str] | None:
    """Parse the values of `--predictions`: paths, or "name=path".

    Returns a single path without a name as it is, otherwise a dict name -> path, where names default to those of the
    files; None if there are no values.
    """
    from gpubench.data import split_name

    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    named: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        name, place = split_name(text)
        if name in named:
            raise InputError(f"--predictions: two are called {name!r}; write NAME=FILE to give one another name")
        named[name] = place
    return named


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Parse texts of the form "name=value" as fields of `gpubench.tasks.Options`; return name -> typed value."""
    from gpubench.tasks import Options

    types = get_type_hints(Options)
    known = [field.name for field in fields(Options)]
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--option {text!r} has no value; write it as name=value, for example k=15")
        if name not in known:
            raise InputError(f"--option {name!r} is unknown{close_matches(name, known)}; write one that exists")
        values[name] = _parse_value(name, value, types[name])
    return values


def parse_cluster(scheduler: str | None, workers: int | None) -> str | int | None:
    """Return the address of a Dask scheduler or the number of Dask workers to start, whichever is given, or None."""
    if scheduler is not None and workers is not None:
        raise InputError("--workers starts a cluster of its own, and --scheduler names another; leave one of them out")
    return workers if scheduler is None else scheduler


def _parse_value(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(text.split(","))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text in choices:
            return text
        raise InputError(f"--option {name}={text!r} is none of {', '.join(map(repr, choices))}; use one of these")
    if kind in (str, Any):
        return text
    if kind is bool:
        if text.lower() in (*_YES, *_NO):
            return text.lower() in _YES
        raise InputError(f"--option {name}={text!r} is neither true nor false; write one of the two")
    noun = "a whole number" if kind is int else "a number"
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"--option {name}={text!r} is not {noun}; write {noun}") from None
    if not math.isfinite(value):
        raise InputError(f"--option {name}={text!r} is not finite; write {noun}")
    return value


def _parse_scorers(names: list[str] | None) -> dict[str, Any] | None:
    if not names:
        return None
    from gpubench.tasks._scorers import parse_scorers  # imports scikit-learn

    return parse_scorers(names)


_PARSE: dict[Kind, Callable[..., Any]] = {
    "data": lambda texts: texts[0] if len(texts) == 1 else texts,
    "embeddings": parse_embeddings,
    "predictions": parse_predictions,
    "tasks": lambda texts: [name for text in texts or () for name in text.split(",") if name] or "auto",
    "scorers": _parse_scorers,
    "parameters": lambda texts: parse_options(texts or []),
    "cluster": parse_cluster,
    "memory": lambda text: None if text is None else units.parse_bytes(text),
}
"""Kind of an option -> function that parses the values of its flags; values of other kinds are used as they are."""


def parse_list(texts: Sequence[str], known: Sequence[str], argument: str) -> list[str]:
    """Split texts such as "a,b" at commas and return the distinct names.

    Raises `InputError`, in the name of `argument`, for a name that is not in `known`.
    """
    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            matches = close_matches(name, known)
            raise InputError(f"{argument}={name!r} is unknown{matches}; use one that exists", argument=argument)
    return names


def parse_output(
    folder: Path | None,
    formats: Sequence[str] | None,
    *,
    report: bool = False,
    quiet: bool = False,
    force: bool = False,
) -> Output | None:
    """Return the output that flags ask for, after checking that its files can be written; None without a folder.

    Raises `InputError` if there is no folder, but another flag (--format, --report, --quiet) needs one.
    """
    from gpubench.running.output import WRITERS, Output

    if folder is None:
        flag = "--format" if formats else "--report" if report else "--quiet" if quiet else None
        if flag is not None:
            alone = " or --trace" if flag == "--quiet" else ""
            raise InputError(f"{flag} without --out{alone} would save nothing; add a folder, such as --out results/")
        return None
    output = Output(folder, parse_list(formats or ["json"], tuple(WRITERS), "format"), report, force)
    output.check()
    return output


def check_file(path: Path, argument: str, example: str, made: Path | None = None) -> None:
    """Raise `InputError` if a file cannot be written.

    Parameters
    ----------
    path : file to write
    argument : name of the argument that gives the file, for messages
    example : name of a file to suggest if `path` is a folder
    made : folder that the command will create before it writes the file, which therefore need not exist yet
    """
    given = f"{argument}={str(path)!r}"
    if path.is_dir():
        raise InputError(f"{given} is a folder; name a file, such as {path / example}", argument=argument)
    if not path.parent.exists():
        if made is not None and path.parent.resolve() == made.resolve():
            return
        problem = f"cannot be written: there is no folder {str(path.parent)!r}; make it first"
        raise InputError(f"{given} {problem}", argument=argument)
    check_writable_folder(path.parent, argument)
