"""Parsers of the values of flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from gpubench.core.errors import InputError, close_matches
from gpubench.core.files import check_writable_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gpubench.running.output import Output

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_embeddings(texts: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    """Read the values of `--embedding`: keys, paths, or "name=path" to give a file a name.

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


def parse_list(texts: Sequence[str], known: Sequence[str], argument: str) -> list[str]:
    """Split "a,b" and repeated texts into distinct names, each one of `known`.

    Raises
    ------
    InputError
        No such name (with close matches); `argument` is named in the message.
    """
    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            matches = close_matches(name, known)
            raise InputError(f"{argument}={name!r} is unknown{matches}; use one that exists", argument=argument)
    return names


def parse_output(
    folder: Path | None, formats: Sequence[str] | None, *, report: bool = False, quiet: bool = False
) -> Output | None:
    """Return the files that flags ask for, checked before anything is computed; None without a folder.

    Raises
    ------
    InputError
        An unknown format, a folder that cannot be written, or flags that make no sense without a folder.
    """
    from gpubench.running.output import WRITERS, Output

    if folder is None:
        flag = "--format" if formats else "--report" if report else "--quiet" if quiet else None
        if flag is not None:
            alone = " or --trace" if flag == "--quiet" else ""
            raise InputError(f"{flag} without --out{alone} would save nothing; add a folder, such as --out results/")
        return None
    output = Output(folder, parse_list(formats or ["json"], tuple(WRITERS), "format"), report)
    output.check()
    return output


def check_file(path: Path, argument: str, example: str, made: Path | None = None) -> None:
    """Check, before anything is computed, that a file can be written.

    Parameters
    ----------
    example : file name that the message suggests if the path is a folder
    made : folder that the command creates before it writes the file, so it need not exist yet

    Raises
    ------
    InputError
        Its folder cannot be written or does not exist, or the path is a folder.
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
