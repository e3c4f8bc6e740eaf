"""Result files of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.core.errors import InputError
from gpubench.core.files import check_writable_folder
from gpubench.reporting import report
from gpubench.results.cells_file import NAME as CELLS_NAME
from gpubench.results.perturbations_file import NAME as PERTURBATIONS_NAME
from gpubench.results.result import Result

WRITERS: dict[str, Callable[[Result, Path], None]] = {
    "json": Result.to_json,
    "csv": Result.to_csv,
    "parquet": Result.to_parquet,
}

OPTIONAL = (CELLS_NAME, PERTURBATIONS_NAME)
"""Files that a run without such values does not write."""


@dataclass(frozen=True, slots=True)
class Output:
    """Folder and formats of the result files.

    Per-cell values are written to cells.parquet, and those of perturbations to perturbations.parquet, together with
    results.json.
    """

    folder: Path  # created when the first file is written
    formats: Sequence[str]  # keys of `WRITERS`; each gives one file, results.<format>
    report: bool = False  # whether report.html is written as well

    def files(self) -> dict[Path, Callable[[Result, Path], None]]:
        """Return file -> function that writes it."""
        files = {self.folder / f"results.{name}": WRITERS[name] for name in self.formats}
        if "json" in self.formats:
            files[self.folder / CELLS_NAME] = Result.cells_to_parquet
            files[self.folder / PERTURBATIONS_NAME] = Result.perturbations_to_parquet
        if self.report:
            files[self.folder / "report.html"] = report
        return files

    def check(self) -> None:
        """Refuse, before anything is computed, a folder that cannot be written, or that has one named as a file."""
        check_writable_folder(self.folder, "out")
        for file in self.files():
            if file.is_dir():
                raise InputError(
                    f"out={str(self.folder)!r} has a folder called {file.name}; move it or choose another folder",
                    argument="out",
                )

    def write(self, result: Result) -> list[str]:
        """Write every file atomically; return one line of text per file."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"out={str(self.folder)!r} cannot be created: {error.strerror}; choose another folder", argument="out"
            ) from error
        lines = []
        for file, write in self.files().items():
            if not {CELLS_NAME: result.cells.columns, PERTURBATIONS_NAME: result.perturbations}.get(file.name, True):
                continue
            replaces = file.exists()
            write(result, file)
            lines.append(f"Wrote {file}{' (replaced)' if replaces else ''}")
        return lines
