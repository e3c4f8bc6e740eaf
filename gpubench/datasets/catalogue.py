"""Catalogues: the one that comes with gpubench, and those of the user laid over it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.files import config_folder
from gpubench.core.yaml_document import Value, read_document
from gpubench.datasets import czbenchmarks
from gpubench.datasets.entry import KEYS, Entry, absolute

VARIABLE = "GPUBENCH_CATALOGUE"
"""Environment variable that names catalogues, separated like the folders of PATH."""

_OWN = Path(__file__).with_name("catalogue.yaml")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("s3", "https", "http")


def user_catalogue() -> Path:
    """The user's catalogue that is read wherever it exists."""
    return config_folder() / "datasets.yaml"


def read_catalogues(more: Sequence[str | os.PathLike[str]] = ()) -> dict[str, Entry]:
    """Read every catalogue; what a later one says of a dataset replaces what the earlier ones said.

    The order is: gpubench's own, the user's in the configuration folder, those of `GPUBENCH_CATALOGUE`, `more`.

    Parameters
    ----------
    more : paths of catalogues, in the form of gpubench or of cz-benchmarks

    Returns
    -------
    id -> entry

    Raises
    ------
    InputError
        A catalogue cannot be read, or says what cannot be understood, with file and line.
    """
    entries = _read(_OWN, {})
    if user_catalogue().is_file():
        entries = _read(user_catalogue(), entries)
    for named in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        entries = _read(Path(named).expanduser(), entries, VARIABLE)
    for path in more:
        entries = _read(Path(path).expanduser(), entries)
    return entries


def find(id_: str, entries: dict[str, Entry]) -> Entry:
    """The entry of a dataset.

    Raises
    ------
    InputError
        There is none of that name, with the close matches.
    """
    if id_ not in entries:
        raise InputError(f"dataset {id_!r} is in no catalogue{close_matches(id_, entries)}; see gpubench datasets list")
    return entries[id_]


def local_file(entry: Entry) -> Path:
    """The path that a catalogue gives, once it is sure that something is there.

    Raises
    ------
    InputError
        The catalogue has no address for it, or there is no such file.
    """
    if entry.path is None:
        raise InputError(
            f"dataset {entry.id!r} has no address; write 'datasets: {{{entry.id}: {{path: ...}}}}' with its path or URL"
            f" into {user_catalogue()}, or into a file that {VARIABLE} names"
        )
    place = Path(entry.path)
    if not place.exists():
        raise InputError(f"dataset {entry.id!r}: {place} does not exist; correct it in {entry.where}")
    return place


def _read(path: Path, known: dict[str, Entry], argument: str = "catalogue") -> dict[str, Entry]:
    document = read_document(path, argument)
    top = document.mapping(("datasets", "defaults"))  # `defaults` is Hydra's, in the files of cz-benchmarks
    if "datasets" not in top:
        raise document.error("a catalogue has its entries under the key 'datasets'; add that")
    entries = dict(known)
    for id_, value in top["datasets"].mapping(what="dataset").items():
        said = _said(value, path)
        base = known.get(id_, Entry(id_))
        if "path" in said:  # another file: what was known of the one before does not hold for it
            base = replace(base, sha256=None, size=None)
        entries[id_] = replace(base, **said, where=value.where)
    return entries


def _said(value: Value, path: Path) -> dict[str, Any]:
    """Fields of an entry, of what one catalogue says of it."""
    keys = value.mapping()
    if czbenchmarks.TARGET in keys:
        said = czbenchmarks.translate(value)
    else:
        said = {key: _field(key, given) for key, given in value.mapping(KEYS).items()}
    if "path" in said:
        scheme, separator, _ = said["path"].partition("://")
        if separator and scheme not in _SCHEMES:
            raise keys["path"].error(f"path {said['path']!r} is of an unknown kind; use s3://, https:// or a file")
        said["path"] = absolute(said["path"], path)
    return said


def _field(key: str, value: Value) -> str | int:
    if key == "size":
        size = value.plain()
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise value.error("size must be a whole number of bytes")
        return size
    if key == "sha256":
        digest = value.written(key).lower()
        if not _SHA256.fullmatch(digest):
            raise value.error("sha256 must be 64 hexadecimal digits; run sha256sum on the file")
        return digest
    return value.text(key)
