"""What people write on the command line, turned into values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gpubench.core.errors import InputError

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_embeddings(texts: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    """Read keys, paths, and "name=path" texts, by which a file gets a name of the user's.

    Raises
    ------
    InputError
        A name occurs twice.
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


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read "name=value" texts as fields of `gpubench.tasks.Options`, each value by its field's type.

    Raises
    ------
    InputError
        No such field (with close matches), or a value that is not of its type.
    """
    from gpubench.core.errors import close_matches
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
    """Where to run on Dask: at a scheduler, or on workers to be started; None: neither is asked for.

    Raises
    ------
    InputError
        Both are.
    """
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
