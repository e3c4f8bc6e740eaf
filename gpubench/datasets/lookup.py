"""Datasets of the catalogues as the data of a run: their files, and the columns that the catalogue names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.data.urls import file_of, shown

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.datasets.entry import Entry


@dataclass(frozen=True)
class Given:
    """What a run is given, with the datasets found and what their catalogue says filled in.

    Attributes
    ----------
    data : as `gpubench.score` takes it; paths in the place of datasets
    columns : role -> column
    condition, control : of a perturbation dataset
    source : the data as the user named it, where that is a dataset; else None
    files : what is known of the file of each dataset: "id", "address", "sha256"
    """

    data: Any
    columns: dict[str, Any]
    condition: str | None = None
    control: str | None = None
    source: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)


def look_up(given: Given, *, obs: Any, listener: Listener | None) -> Given:
    """Put the files of datasets in the place of their names; fetch those that are not in the cache.

    Parameters
    ----------
    given : as the user wrote it. A text is the name of a dataset where nothing of that name is on the disk and it has
        neither a folder nor a suffix.
    obs : a table of the user's, which then has the columns, whatever the catalogue says
    listener : hears of what is fetched, in bytes

    Returns
    -------
    The same where no dataset is named. Columns that the user gave stay; of several datasets, one for each species, the
    organisms are the species, unless there is a column of species.

    Raises
    ------
    InputError
        A name that is in no catalogue; what `gpubench.datasets.fetch` raises.
    """
    if isinstance(given.data, str):
        if not is_dataset_name(given.data):
            return given
        path, entry, file = _fetched(given.data, listener)
        columns = {} if obs is not None else entry.columns()
        filled = {role: value if value is not None else columns.get(role) for role, value in given.columns.items()}
        return replace(
            given,
            data=path,
            columns=filled,
            condition=given.condition or entry.condition,
            control=given.control if given.control is not None else entry.control,
            source=given.data,
            files=[file],
        )
    parts = _parts(given.data)
    if not any(is_dataset_name(part) for part in parts.values()):
        return given
    return _look_up_each(given, parts, obs, listener)


def _look_up_each(given: Given, parts: dict[Any, Any], obs: Any, listener: Listener | None) -> Given:
    """The same of several, one for each species."""
    found = {key: _fetched(part, listener) for key, part in parts.items() if is_dataset_name(part)}
    entries = {key: entry for key, (_, entry, _) in found.items()}
    names = {key: key for key in parts} if isinstance(given.data, Mapping) else _species(parts, entries)
    data = {names[key]: found[key][0] if key in found else part for key, part in parts.items()}
    columns = dict(given.columns)
    if obs is None:
        for role, value in given.columns.items():
            told = {names[key]: entry.columns().get(role) for key, entry in entries.items()}
            if value is None and len(told) == len(parts) and None not in told.values():
                columns[role] = told
    return replace(
        given,
        data=list(data.values()) if given.columns.get("species") is not None else data,
        columns=columns,
        source=", ".join(map(shown, parts.values())),
        files=[file for _, _, file in found.values()],
    )


def _parts(data: Any) -> dict[Any, Any]:
    """What is one of several, by species or by number."""
    if isinstance(data, Mapping):
        return dict(data)
    return dict(enumerate(data)) if isinstance(data, list | tuple) else {}


def _species(parts: dict[Any, Any], entries: dict[Any, Entry]) -> dict[Any, str]:
    """A name for each part: its organism where that tells them all apart, else its own."""
    organisms = {key: entries[key].organism if key in entries else None for key in parts}
    if None not in organisms.values() and len(set(organisms.values())) == len(parts):
        return {key: str(organism) for key, organism in organisms.items()}
    return {key: file_of(str(part)).name.partition(".")[0] for key, part in parts.items()}


def is_dataset_name(data: Any) -> bool:
    """Whether a text means a dataset: nothing of that name is on the disk, and it has neither a folder nor a suffix."""
    if not isinstance(data, str) or os.path.lexists(data):
        return False
    return bool(data) and not ({"/", os.sep, "."} & set(data))


def _fetched(name: str, listener: Listener | None) -> tuple[str, Entry, dict[str, Any]]:
    from gpubench.datasets.catalogue import find, local_file, read_catalogues
    from gpubench.datasets.fetching import fetch

    try:
        entry = find(name, read_catalogues())
    except InputError as error:
        raise InputError(f"data: there is no file {name!r}, and {error}") from error
    file = {"id": name, "address": entry.path if entry.is_remote else None, "sha256": entry.sha256}
    if not entry.is_remote:
        return str(local_file(entry)), entry, file
    place, record = fetch(entry, listener=listener)
    return str(place), entry, {**file, "sha256": record.sha256}
