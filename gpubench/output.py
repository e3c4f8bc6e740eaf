"""The files that a run leaves in its output folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.errors import InputError
from gpubench.files import check_writable_folder
from gpubench.result import Result

WRITERS: dict[str, Callable[[Result, Path], None]] = {
    "json": Result.to_json,
    "csv": Result.to_csv,
    "parquet": Result.to_parquet,
}


@dataclass(frozen=True, slots=True)
class Output:
    """Where results are written, and as what.

    Attributes
    ----------
    folder : made when the first file is written
    formats : keys of `WRITERS`; each gives one file, results.<format>
    """

    folder: Path
    formats: Sequence[str]

    def files(self) -> dict[str, Path]:
        """The file of each format."""
        return {name: self.folder / f"results.{name}" for name in self.formats}

    def check(self) -> None:
        """Make sure, before anything is computed, that the files can be written.

        Raises
        ------
        InputError
            The folder cannot be written, or a folder stands where a file must go.
        """
        check_writable_folder(self.folder, "--out")
        for file in self.files().values():
            if file.is_dir():
                raise InputError(
                    f"--out {str(self.folder)!r} has a folder called {file.name}; move it or choose another folder"
                )

    def write(self, result: Result) -> list[str]:
        """Write every file, each whole or not at all; returns a line for each.

        Raises
        ------
        InputError
            A file cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {str(self.folder)!r} cannot be made: {error.strerror}; choose another folder"
            ) from error
        lines = []
        for name, file in self.files().items():
            replaces = file.exists()
            WRITERS[name](result, file)
            lines.append(f"Wrote {file}{' in place of the older one' if replaces else ''}")
        return lines
