"""Write the result files of a run, without overwriting its inputs or the results of another run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubench.core.errors import InputError
from gpubench.core.files import check_writable_folder
from gpubench.data.urls import Url, file_of
from gpubench.reporting import report
from gpubench.results.cells_file import NAME as CELLS_NAME
from gpubench.results.perturbations_file import NAME as PERTURBATIONS_NAME
from gpubench.results.result import Result
from gpubench.running.options import FILES, SPECS
from gpubench.tasks import Options

if TYPE_CHECKING:
    from gpubench.running.options import RunOptions

WRITERS: dict[str, Callable[[Result, Path], None]] = {
    "json": Result.to_json,
    "csv": Result.to_csv,
    "parquet": Result.to_parquet,
}

OPTIONAL = (CELLS_NAME, PERTURBATIONS_NAME)
"""Files that are written only if the result has per-cell values, or values of perturbations."""

REPORT = "report.html"

_MAX_DIFFERENCES = 3


@dataclass(frozen=True, slots=True)
class Output:
    """Folder and formats of the result files of a run.

    The format "json" also writes per-cell values to cells.parquet and values of perturbations to perturbations.parquet.
    """

    folder: Path  # created when the first file is written
    formats: Sequence[str]  # keys of `WRITERS`; each gives one file, results.<format>
    report: bool = False  # whether report.html is written as well
    force: bool = False  # whether results of other data or options may be replaced

    def files(self) -> dict[Path, Callable[[Result, Path], None]]:
        """Return path of each file to write -> function that writes a result to that path."""
        files = {self.folder / f"results.{name}": WRITERS[name] for name in self.formats}
        if "json" in self.formats:
            files[self.folder / CELLS_NAME] = Result.cells_to_parquet
            files[self.folder / PERTURBATIONS_NAME] = Result.perturbations_to_parquet
        if self.report:
            files[self.folder / REPORT] = report
        return files

    def check(self) -> None:
        """Raise `InputError` if the folder cannot be written, or if a subfolder has the name of a file to write."""
        check_writable_folder(self.folder, "out")
        for file in self.files():
            if file.is_dir():
                raise InputError(
                    f"out={str(self.folder)!r} has a folder called {file.name}; move it or choose another folder",
                    argument="out",
                )

    def check_inputs(self, run: RunOptions) -> None:
        """Raise `InputError` if a file would overwrite an input of the run, or lie in a folder that is an input."""
        for name, path in input_files(run):
            if path.is_dir() and self.folder.resolve().is_relative_to(path.resolve()):
                raise InputError(
                    f"out={str(self.folder)!r} is inside of the input {str(path)!r} ({name}); choose another folder",
                    argument="out",
                )
            for file in self._all_files():
                check_not_input(file, path, name, "out")

    def check_replaced(self, provenance: Mapping[str, Any]) -> None:
        """Raise `InputError` if the folder has results of other data or options than those in `provenance`.

        `provenance` is that of the run that is about to start. With `force` nothing is checked.
        """
        if self.force:
            return
        existing = [file for file in self._all_files() if file.exists()]
        json_file = self.folder / "results.json"
        if json_file.exists():
            differs = _differences(json_file, provenance)
        elif any(file.name.startswith("results.") for file in existing):
            differs = "no results.json says of which data and options"
        else:
            return
        if differs:
            names = ", ".join(file.name for file in existing)
            raise InputError(
                f"out={str(self.folder)!r} holds {names} of another run ({differs}); choose another folder, or replace"
                " them with --force",
                argument="out",
            )

    def write(self, result: Result) -> list[str]:
        """Write every file atomically and remove other files of an earlier run; return one line of text per file.

        If the result is of an interrupted run and the folder has complete results, those are kept, and nothing is
        written.
        """
        if result.interrupted and self._has_complete_result():
            return [f"Kept the complete results in {self.folder}; those of the interrupted run were not written"]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out={str(self.folder)!r} cannot be created: {error.strerror}; choose another folder", argument="out"
            ) from error
        lines = []
        written = set()
        for file, write in self.files().items():
            if not {CELLS_NAME: result.cells.columns, PERTURBATIONS_NAME: result.perturbations}.get(file.name, True):
                continue
            overwrites = file.exists()
            write(result, file)
            written.add(file)
            lines.append(f"{'Overwrote' if overwrites else 'Wrote'} {file}")
        for file in self._all_files():
            if file not in written and is_ours(file):
                file.unlink()
                lines.append(f"Removed {file} of the earlier run")
        return lines

    def _has_complete_result(self) -> bool:
        try:
            before = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
            return not (before["interrupted"] or before["failures"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _all_files(self) -> list[Path]:
        """Return the paths of all files that a run can write to this folder, in any format."""
        return [self.folder / name for name in (*(f"results.{name}" for name in WRITERS), *OPTIONAL, REPORT)]


def remove_old_report(folder: Path) -> list[str]:
    """Remove report.html of an earlier run from a folder; return a line of text, or none if there was no report."""
    if not is_ours(folder / REPORT):
        return []
    (folder / REPORT).unlink()
    return [f"Removed {folder / REPORT} of the earlier run"]


def input_files(run: RunOptions) -> Iterator[tuple[str, Path]]:
    """Yield the name of the argument and the path of each local file or folder that a run reads."""
    for name, spec in SPECS.items():
        if spec.kind not in FILES:
            continue
        for given in texts(getattr(run, name)):
            path = file_of(given)
            if not isinstance(path, Url) and path.exists():
                yield name, path


def texts(value: Any) -> Iterator[str]:
    """Yield every string and path in nested lists, tuples and mappings."""
    if isinstance(value, str | os.PathLike):
        yield os.fspath(value)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts(item)


def check_not_input(file: Path, path: Path, name: str, argument: str) -> None:
    """Raise `InputError` if `file`, which will be written, and the input `path` are the same file.

    Parameters
    ----------
    file : path to write
    path : path of an input
    name : name of the argument that gives the input
    argument : name of the argument that gives `file`
    """
    if file.exists() and path.exists() and file.samefile(path):
        raise InputError(
            f"{argument}={str(file)!r} is the input {str(path)!r} ({name}), which would be overwritten; choose another"
            " name",
            argument=argument,
        )


def is_ours(file: Path) -> bool:
    """Whether a run of gpubench wrote a file, judged by its first bytes or, for Parquet, its columns."""
    if not file.is_file():
        return False
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            names = pq.read_schema(file).names
        except (OSError, ValueError):
            return False
        return file.name in OPTIONAL or names[:3] == ["embedding", "task", "metric"]
    with file.open("rb") as opened:
        start = opened.read(1000)
    signs = (b"embedding,task,metric,", b'{\n "schema": ')
    return start.startswith(signs) or b'<meta name="generator" content="gpubench">' in start


def _differences(file: Path, provenance: Mapping[str, Any]) -> str:
    """Describe how data and options of the results in a file differ from those in `provenance`; empty if equal."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["provenance"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its results.json cannot be read"
    then, now = _identity(before), _identity(provenance)
    differing = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    lines = [f"{name} {then.get(name)} instead of {now.get(name)}" for name in differing if name != "fingerprint"]
    lines = lines or ["other values of the same names"] * bool(differing)
    more = f" and {len(lines) - _MAX_DIFFERENCES} more" if len(lines) > _MAX_DIFFERENCES else ""
    return "; ".join(lines[:_MAX_DIFFERENCES]) + more


def _identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return name -> value of all entries of the provenance that two runs of the same data and options share."""
    dataset = provenance.get("dataset") or {}
    options = {**Options().to_dict(), **(provenance.get("options") or {})}  # older versions had fewer parameters
    options = json.loads(json.dumps(options))
    return {
        **options,
        "seed": provenance.get("seed"),
        "number of cells": dataset.get("n_cells"),
        "fingerprint": dataset.get("fingerprint"),
    }
