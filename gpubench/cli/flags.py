"""Flags of the command line, made from the fields of `gpubench.running.options.RunOptions`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import typer

from gpubench.cli import parse
from gpubench.core import units
from gpubench.running.options import SPECS, Kind, OptionSpec

C = TypeVar("C", bound=Callable[..., Any])

_REPEATED: tuple[Kind, ...] = ("data", "embeddings", "tasks", "scorers", "parameters")


def _parse_scorers(names: list[str] | None) -> dict[str, Any] | None:
    if not names:
        return None
    from gpubench.tasks._scorers import parse_scorers  # imports scikit-learn

    return parse_scorers(names)


_PARSE: dict[Kind, Callable[..., Any]] = {
    "data": lambda texts: texts[0] if len(texts) == 1 else texts,
    "embeddings": parse.parse_embeddings,
    "tasks": lambda names: names or "auto",
    "scorers": _parse_scorers,
    "parameters": lambda texts: parse.parse_options(texts or []),
    "cluster": parse.parse_cluster,
    "memory": lambda text: None if text is None else units.parse_bytes(text),
}
"""Kind of an option -> function of the values of its flags; other kinds are as typer reads them."""


def with_run_flags(*names: str, panels: bool = True) -> Callable[[C], C]:
    """Give a command flags for options of a run, before its own; their values come as keyword arguments.

    Parameters
    ----------
    names : fields of `RunOptions`; none: all
    panels : whether the help groups them
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
    """Yield what typer makes an argument or a flag of, for each flag of an option."""
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


def parse_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the values of flags into fields of `RunOptions`, parameters of tasks as a dict.

    Raises
    ------
    InputError
        A value of the wrong form, or flags that exclude each other.
    """
    arguments: dict[str, Any] = {}
    for name, spec in SPECS.items():
        values = [given[flag.parameter] for flag in spec.flags if flag.parameter in given]
        if not values:
            continue
        arguments[name] = _PARSE[spec.kind](*values) if spec.kind in _PARSE else values[0]
    return arguments


def completion(spec: OptionSpec) -> Callable[[str], list[str]] | None:
    """Return what completes the values of an option in a shell; shells offer files if nothing fits."""
    if not spec.named_in:
        return None

    def complete(incomplete: str) -> list[str]:
        if spec.kind == "data" and not incomplete:  # files first
            return []
        equals = "=" if spec.kind == "parameters" else ""
        return [f"{name}{equals}" for name in spec.choices() if name.startswith(incomplete)]

    return complete
