"""Catalogues of datasets: the one that comes with gpubench, and those of the user, which override it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpubench.core.errors import InputError, close_matches
from gpubench.core.files import config_folder
from gpubench.core.yaml_document import Value, read_document
from gpubench.datasets import czbenchmarks

VARIABLE = "GPUBENCH_CATALOGUE"
"""Environment variable that names catalogues, separated like the folders of PATH."""

_BUNDLED = Path(__file__).with_name("catalogue.yaml")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("s3", "https", "http")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A dataset of a catalogue.

    Attributes
    ----------
    id : its name
    path : s3://bucket/key, an http(s) URL, or the absolute path of a file; None where the user has to give it
    title : one line for people
    organism : such as homo_sapiens
    label, batch, time, species, sample : columns of obs, for the arguments of `gpubench.score` of these names
    condition, control : of a perturbation dataset: the column with the perturbation, and its value for untreated cells
    sha256 : SHA-256 of the file in hexadecimal, if known; checked when the file is fetched
    size : bytes of the file, if known; checked when the file is fetched
    where : catalogue and line, for messages
    """

    id: str
    path: str | None = None
    title: str | None = None
    organism: str | None = None
    label: str | None = None
    batch: str | None = None
    time: str | None = None
    species: str | None = None
    sample: str | None = None
    condition: str | None = None
    control: str | None = None
    sha256: str | None = None
    size: int | None = None
    where: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the file has to be fetched."""
        return self.path is not None and "://" in self.path

    def columns(self) -> dict[str, str]:
        """Return argument of `gpubench.score` -> column, for the arguments whose column the catalogue names."""
        roles = ("label", "batch", "time", "species", "sample")
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


_KEYS = tuple(field.name for field in fields(CatalogueEntry) if field.name not in ("id", "where"))


def user_catalogue() -> Path:
    """Return the path of the user's own catalogue, which is read if it exists."""
    return config_folder() / "datasets.yaml"


def read_catalogues(
    more: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
) -> dict[str, CatalogueEntry]:
    """Read every catalogue; the fields of a later one replace those of the earlier ones.

    The order is: the bundled one, the user's in the configuration folder, those of `GPUBENCH_CATALOGUE`, `more`.

    Parameters
    ----------
    more : paths of catalogues, in the format of gpubench or of cz-benchmarks

    Returns
    -------
    id -> entry

    Raises
    ------
    InputError
        A catalogue cannot be read or has an invalid entry; the message has file and line.
    """
    entries = _read(_BUNDLED, {})
    if user_catalogue().is_file():
        entries = _read(user_catalogue(), entries)
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        entries = _read(Path(path).expanduser(), entries, VARIABLE)
    for named in [more] if isinstance(more, str | os.PathLike) else more:
        entries = _read(Path(named).expanduser(), entries)
    return entries


def find(id_: str, entries: dict[str, CatalogueEntry]) -> CatalogueEntry:
    """Return the entry of a dataset, or raise with the close matches."""
    if id_ not in entries:
        raise InputError(f"dataset {id_!r} is in no catalogue{close_matches(id_, entries)}; see gpubench datasets list")
    return entries[id_]


def local_file(entry: CatalogueEntry) -> Path:
    """Return the path of a dataset that is not remote, which must exist."""
    if entry.path is None:
        raise InputError(
            f"dataset {entry.id!r} has no address; write 'datasets: {{{entry.id}: {{path: ...}}}}' with its path or URL"
            f" into {user_catalogue()}, or into a file that {VARIABLE} names"
        )
    path = Path(entry.path)
    if not path.exists():
        raise InputError(f"dataset {entry.id!r}: {path} does not exist; correct it in {entry.where}")
    return path


def _read(path: Path, known: dict[str, CatalogueEntry], argument: str = "catalogue") -> dict[str, CatalogueEntry]:
    document = read_document(path, argument)
    top = document.mapping(("datasets", "defaults"))  # `defaults` is Hydra's, in the files of cz-benchmarks
    if "datasets" not in top:
        raise document.error("a catalogue has its entries under the key 'datasets'; add that")
    entries = dict(known)
    for id_, value in top["datasets"].mapping(what="dataset").items():
        given = _read_fields(value, path)
        base = known.get(id_, CatalogueEntry(id_))
        if "path" in given:  # size and checksum of an earlier catalogue belong to another file
            base = replace(base, sha256=None, size=None)
        entries[id_] = replace(base, **given, where=value.where)
    return entries


def _read_fields(value: Value, catalogue: Path) -> dict[str, Any]:
    """Read the fields that one catalogue gives for a dataset; paths are relative to the catalogue's folder."""
    keys = value.mapping()
    if czbenchmarks.TARGET in keys:
        given = czbenchmarks.translate(value)
    else:
        given = {key: _read_field(key, node) for key, node in value.mapping(_KEYS).items()}
    if "path" in given:
        scheme, separator, _ = given["path"].partition("://")
        if separator and scheme not in _SCHEMES:
            raise keys["path"].error(f"path {given['path']!r} has an unknown scheme; use s3://, https:// or a file")
        if not separator:
            given["path"] = str((catalogue.parent / Path(given["path"]).expanduser()).absolute())
    return given


def _read_field(key: str, value: Value) -> str | int:
    if key == "size":
        size = value.plain()
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise value.error("size must be a whole number of bytes")
        return size
    if key == "sha256":
        checksum = value.written(key).lower()
        if not _SHA256.fullmatch(checksum):
            raise value.error("sha256 must be 64 hexadecimal digits; run sha256sum on the file")
        return checksum
    return value.text(key)
