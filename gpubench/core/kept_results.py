"""Results that are kept in the cache folder between runs, by a digest of all that they depend on."""

from __future__ import annotations

import os
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.core.checkpoint import digest_of
from gpubench.core.errors import InputError
from gpubench.core.files import write_atomically
from gpubench.core.units import seconds_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

FOLDER = "results"
"""Name of the folder of kept results within the cache folder."""

MIN_SECONDS = 1.0
"""Results that took less time are not kept."""

MAX_BYTES = 4_000_000_000
"""Size of all kept results; when it is exceeded, those that were not used for the longest time are removed."""

_SECONDS = "seconds_"
"""Name of the array with the time that a result took."""


class KeptResults:
    """Results in files of a folder; a result is a mapping name -> array.

    Parameters
    ----------
    folder : folder of the files, which need not exist
    depends_on : JSON value of all that the results depend on, such as a digest of the data, settings and version
    log : where to collect what was read and what failed; if None, a log of its own

    Examples
    --------
    >>> import tempfile
    >>> kept = KeptResults(Path(tempfile.mkdtemp()), "digest of the data")
    >>> kept.result("means", lambda: {"values": np.ones(2)})["values"]
    array([1., 1.])
    """

    def __init__(self, folder: Path, depends_on: Any, log: KeptLog | None = None) -> None:
        self._folder, self._depends_on = folder, digest_of(depends_on)
        self.log = log or KeptLog()

    def keyed(self, *facts: Any) -> KeptResults:
        """Return the same folder for results that depend on further facts; a fact is any value that JSON can hold."""
        return KeptResults(self._folder, [self._depends_on, *facts], self.log)

    def result(self, name: str, make: Callable[[], Arrays], *facts: Any) -> Arrays:
        """Return the result of an earlier run, or `make()`, which is kept if it takes at least `MIN_SECONDS`.

        Parameters
        ----------
        name : name of the result
        make : function that computes the result
        facts : JSON values that the result depends on, in addition to those of this object
        """
        file = self._folder / f"{digest_of(self._depends_on, name, facts)}.npz"
        found = self._read(file, name)
        if found is not None:
            return found
        begin = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - begin
        if seconds >= MIN_SECONDS:
            self._write(file, {**made, _SECONDS: np.array(seconds)})
        return made

    def _read(self, file: Path, name: str) -> Arrays | None:
        """Return the arrays of a file, whose checksums are compared; None if it does not exist or is damaged."""
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            self.log.saved_s += float(arrays.pop(_SECONDS))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            self.log.notes.append(f"{file} is damaged ({error}), and was computed again")
            return None
        self.log.read[name] += 1
        try:
            os.utime(file)  # the last use, for `_remove_oldest`
        except OSError as error:
            self.log.notes.append(f"{file} cannot be marked as used: {error.strerror}")
        return arrays

    def _write(self, file: Path, arrays: Arrays) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda opened: np.savez(opened, **arrays))  # type: ignore[arg-type]
            self._remove_oldest()
        except (OSError, InputError) as error:
            self.log.notes.append(f"results for later runs cannot be kept in {self._folder}: {error}")

    def _remove_oldest(self) -> None:
        files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self._folder.glob("*.npz"))
        excess = sum(size for _, size, _ in files) - MAX_BYTES
        for _, size, file in files[:-1]:
            if excess <= 0:
                break
            file.unlink(missing_ok=True)
            excess -= size


class KeptLog:
    """What was read from kept results, and what failed."""

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.saved_s = 0.0
        self.notes: list[str] = []

    def lines(self) -> list[str]:
        """Return sentences for the user; none if nothing was read and nothing failed."""
        lines = list(dict.fromkeys(self.notes))
        if self.read:
            names = ", ".join(self.read)
            lines.insert(0, f"from an earlier run on the same real data: {names} ({seconds_text(self.saved_s)} saved)")
        return lines
