"""The files that a run leaves in its output folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.core.errors import InputError
from gpubench.core.files import check_writable_folder
from gpubench.reporting import report
from gpubench.results.cells_file import NAME as CELLS_NAME
from gpubench.results.result import Result


def parse_list(texts: Sequence[str], known: Sequence[str], argument: str) -> list[str]:
    """Split "a,b" and repeated texts into distinct names, each one of `known`.

    Raises
    ------
    InputError
        No such name (with close matches); `argument` is what the message calls it.
    """
    from gpubench.core.errors import close_matches

    names = list(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise InputError(f"{argument} {name!r} is unknown{close_matches(name, known)}; use one that exists")
    return names


WRITERS: dict[str, Callable[[Result, Path], None]] = {
    "json": Result.to_json,
    "csv": Result.to_csv,
    "parquet": Result.to_parquet,
}


@dataclass(frozen=True, slots=True)
class Output:
    """Where results are written, and as what.

    What the numbers are made of, cell by cell, goes into cells.parquet beside results.json.

    Attributes
    ----------
    folder : made when the first file is written
    formats : keys of `WRITERS`; each gives one file, results.<format>
    report : whether report.html is written as well
    """

    folder: Path
    formats: Sequence[str]
    report: bool = False

    def files(self) -> dict[Path, Callable[[Result, Path], None]]:
        """Each file, and what writes it."""
        files = {self.folder / f"results.{name}": WRITERS[name] for name in self.formats}
        if "json" in self.formats:
            files[self.folder / CELLS_NAME] = Result.cells_to_parquet
        if self.report:
            files[self.folder / "report.html"] = report
        return files

    def check(self) -> None:
        """Make sure, before anything is computed, that the files can be written.

        Raises
        ------
        InputError
            The folder cannot be written, or a folder stands where a file must go.
        """
        check_writable_folder(self.folder, "--out")
        for file in self.files():
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
        for file, write in self.files().items():
            if file.name == CELLS_NAME and not result.cells.columns:
                continue
            replaces = file.exists()
            write(result, file)
            lines.append(f"Wrote {file}{' in place of the older one' if replaces else ''}")
        return lines


def check_file(path: Path, flag: str, example: str, made: Path | None = None) -> None:
    """Make sure, before anything is computed, that a file can be written.

    Parameters
    ----------
    made : a folder that will be made for other files before

    Raises
    ------
    InputError
        Its folder cannot be written, or does not exist, or the path is a folder.
    """
    if path.is_dir():
        raise InputError(f"{flag} {str(path)!r} is a folder; name a file, such as {path / example}")
    if not path.parent.exists():
        if made is not None and path.parent.resolve() == made.resolve():
            return
        raise InputError(
            f"{flag} {str(path)!r} cannot be written: there is no folder {str(path.parent)!r}; make it first"
        )
    check_writable_folder(path.parent, flag)


def chosen_output(
    folder: Path | None, formats: Sequence[str] | None, *, report: bool = False, quiet: bool = False
) -> Output | None:
    """The files that flags ask for, checked before anything is computed; None where there is no folder.

    Raises
    ------
    InputError
        An unknown format, a folder that cannot be written, or flags that make no sense without a folder.
    """
    if folder is None:
        flag = "--format" if formats else "--report" if report else "--quiet" if quiet else None
        if flag is not None:
            alone = " or --trace" if flag == "--quiet" else ""
            raise InputError(f"{flag} without --out{alone} would keep nothing; add a folder, such as --out results/")
        return None
    output = Output(folder, parse_list(formats or ["json"], tuple(WRITERS), "--format"), report)
    output.check()
    return output
