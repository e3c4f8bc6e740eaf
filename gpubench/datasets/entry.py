"""What a catalogue says of a dataset."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

COLUMNS = ("label", "batch", "time", "species", "sample")
"""Fields of `Entry` that name a column of obs for the argument of `gpubench.score` of that name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset of a catalogue.

    Attributes
    ----------
    id : its name
    path : s3://bucket/key, an http(s) URL, or the absolute path of a file; None where the user has to say
    title : one line for people
    organism : such as homo_sapiens
    label, batch, time, species, sample : columns of obs, for the arguments of `gpubench.score` of these names
    condition, control : of a perturbation dataset: the column with the perturbation, and its value for untreated cells
    sha256 : of the file, in hexadecimal, where it is known; checked when it is fetched
    size : of the file in bytes, where it is known; checked when it is fetched
    where : the catalogue and the line, for messages
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
        """Argument of `gpubench.score` -> column, of those that the catalogue names."""
        return {role: name for role in COLUMNS if (name := getattr(self, role)) is not None}


KEYS = tuple(field.name for field in fields(Entry) if field.name not in ("id", "where"))
"""What may be written of a dataset in a catalogue."""


def absolute(path: str, catalogue: str | os.PathLike[str]) -> str:
    """An address as it is; the path of a file, which is relative to the catalogue's folder, from the root."""
    return path if "://" in path else str((Path(catalogue).parent / Path(path).expanduser()).absolute())
