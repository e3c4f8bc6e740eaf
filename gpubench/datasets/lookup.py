"""Replace names of datasets in the input of a run by their files, and take their columns from the catalogue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.data.urls import file_of, shown

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener
    from gpubench.datasets.catalogue import CatalogueEntry


@dataclass(frozen=True)
class RunData:
    """Those arguments of a run that name its data; `look_up` replaces the names of datasets in them by files.

    Attributes
    ----------
    data : the argument `data` of `gpubench.score`; after `look_up` with paths in place of dataset names
    columns : role, such as "label" -> name or values of a column; None if not given
    condition, control : for a perturbation dataset, the column with the perturbation, and its value for control cells
    source : name of the dataset that the user gave; None if the data are not a dataset by name
    files : {"id", "address", "sha256"} of the file of each dataset, for provenance
    """

    data: Any
    columns: dict[str, Any]
    condition: str | None = None
    control: str | None = None
    source: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)


def look_up(given: RunData, *, obs: Any, listener: Listener | None) -> RunData:
    """Replace names of datasets by the paths of their files; files that are not in the cache are downloaded.

    Columns that the user did not give are taken from the catalogue. If the data are several datasets, one for each
    species, the species are named by the organisms in the catalogue unless a column of species was given.

    Parameters
    ----------
    given : arguments of the user
    obs : table of the cells that the user gave; unless it is None, no columns are taken from the catalogue
    listener : receiver of the progress of downloads, in bytes

    Returns
    -------
    Arguments with paths, or `given` itself if it names no dataset
    """
    if isinstance(given.data, str):
        if not is_dataset_name(given.data):
            return given
        path, entry, file = _fetch_named(given.data, listener)
        columns = {} if obs is not None else entry.columns()
        return replace(
            given,
            data=path,
            columns={role: columns.get(role) if column is None else column for role, column in given.columns.items()},
            condition=given.condition or entry.condition,
            control=given.control if given.control is not None else entry.control,
            source=given.data,
            files=[file],
        )
    parts: dict[Any, Any] = {}
    if isinstance(given.data, Mapping):
        parts = dict(given.data)
    elif isinstance(given.data, list | tuple):
        parts = dict(enumerate(given.data))
    if not any(map(is_dataset_name, parts.values())):
        return given
    return _look_up_species(given, parts, obs, listener)


def _look_up_species(given: RunData, parts: dict[Any, Any], obs: Any, listener: Listener | None) -> RunData:
    """Replace names of datasets among several sources, of which each is one species."""
    fetched = {key: _fetch_named(part, listener) for key, part in parts.items() if is_dataset_name(part)}
    entries = {key: entry for key, (_, entry, _) in fetched.items()}
    names = {key: key for key in parts} if isinstance(given.data, Mapping) else _name_species(parts, entries)
    data = {names[key]: fetched[key][0] if key in fetched else part for key, part in parts.items()}
    columns = dict(given.columns)
    if obs is None:
        for role in (role for role, column in given.columns.items() if column is None):
            from_catalogue = {names[key]: entry.columns().get(role) for key, entry in entries.items()}
            if len(from_catalogue) == len(parts) and None not in from_catalogue.values():
                columns[role] = from_catalogue
    return replace(
        given,
        data=list(data.values()) if given.columns.get("species") is not None else data,
        columns=columns,
        source=", ".join(map(shown, parts.values())),
        files=[file for _, _, file in fetched.values()],
    )


def _name_species(parts: dict[Any, Any], entries: dict[Any, CatalogueEntry]) -> dict[Any, str]:
    """Return a species name for each part: its organism if all organisms are known and distinct, else its file name."""
    organisms = [entries[key].organism if key in entries else None for key in parts]
    if None not in organisms and len(set(organisms)) == len(parts):
        return dict(zip(parts, map(str, organisms), strict=True))
    return {key: file_of(str(part)).name.partition(".")[0] for key, part in parts.items()}


def is_dataset_name(data: Any) -> bool:
    """Whether an input is the name of a dataset: text without folder or suffix that is not the name of a file.

    Examples
    --------
    >>> is_dataset_name("tsv2_blood"), is_dataset_name("blood.h5ad")
    (True, False)
    """
    if not isinstance(data, str) or os.path.lexists(data):
        return False
    return bool(data) and not ({"/", os.sep, "."} & set(data))


def is_local(data: Any) -> bool:
    """Whether no dataset of `data` must be fetched: each is given by path or in memory, or is in the cache."""
    from gpubench.datasets.cache import cache_path, read_record
    from gpubench.datasets.catalogue import find, read_catalogues

    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else [data]
    for name in filter(is_dataset_name, parts):
        entry = find(name, read_catalogues())
        if entry.is_remote and read_record(cache_path(entry)) is None:
            return False
    return True


def _fetch_named(name: str, listener: Listener | None) -> tuple[str, CatalogueEntry, dict[str, Any]]:
    """Fetch a dataset; return the path of its file, its catalogue entry, and its item of `RunData.files`."""
    from gpubench.datasets.catalogue import find, local_file, read_catalogues
    from gpubench.datasets.fetching import fetch

    try:
        entry = find(name, read_catalogues())
    except InputError as error:
        raise InputError(f"data: there is no file {name!r}, and {error}") from error
    file = {"id": name, "address": entry.path if entry.is_remote else None, "sha256": entry.sha256}
    if not entry.is_remote:
        return str(local_file(entry)), entry, file
    path, record = fetch(entry, listener=listener)
    return str(path), entry, {**file, "sha256": record.sha256}
