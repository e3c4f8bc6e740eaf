"""The result files that a report is made of."""

from __future__ import annotations

from pathlib import Path

from gpubench.errors import InputError
from gpubench.result import Result

_NAME = "results.json"


def read_runs(place: Path) -> dict[str, Result]:
    """Read a result file, or all of a folder: its `*.json`, or else each `results.json` in the folders below.

    Returns
    -------
    Name -> result; the name is what tells the file from the others.

    Raises
    ------
    InputError
        There is no result, or one of the files is none.
    """
    if not place.is_dir():
        return {place.stem: Result.from_json(place)}
    files = sorted(place.glob("*.json")) or sorted(place.rglob(_NAME))
    if not files:
        raise InputError(f"{str(place)!r} holds no result; give a results.json, or a folder that --out named")
    return {_name(file, place): Result.from_json(file) for file in files}


def _name(file: Path, folder: Path) -> str:
    within = file.relative_to(folder)
    return within.parent.as_posix() if within.name == _NAME and len(within.parts) > 1 else within.stem
