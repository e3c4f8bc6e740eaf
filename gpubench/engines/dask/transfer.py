"""How arrays that the client has reach the workers: through a folder that all see, else with the task."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.files import lock_file
from gpubench.core.units import bytes_text
from gpubench.data.locations import Location
from gpubench.engines.dask.worker import Handed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SMALL_BYTES = 1 << 14
"""Arrays up to this size travel with the task."""

LOCK = "in-use"
"""A file in the folder that its process holds locked."""

YOUNG_S = 60.0
"""Folders that are not older may not be locked yet."""


def prefix() -> str:
    """How folders of this machine are called: what others lock in a shared folder may not be seen here."""
    return f"gpubench-dask-{platform.node()}-"


class Handover:
    """Leaves arrays where workers find them, also those that take the place of others.

    Attributes
    ----------
    folder : None where workers do not see this machine's temporary folder
    """

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.folder: Path | None = Path(tempfile.mkdtemp(prefix=prefix()))
        self._remove = weakref.finalize(self, _remove, self.folder, _locked(self.folder))
        self._n_files = 0
        self._known: dict[int, tuple[Any, Handed]] = {}

    def look(self, on_each: Callable[..., dict[str, Any]]) -> None:
        """Find out whether every worker sees the folder."""
        seen = on_each(_is_there, str(self.folder))
        if not seen or not all(seen.values()):
            self._remove()
            self.folder = None

    def close(self) -> None:
        """Remove the folder."""
        self._remove()

    def handed(self, given: Any) -> Any:
        """What a task is given in the place of an argument."""
        if not isinstance(given, np.ndarray) or given.nbytes <= SMALL_BYTES or self.folder is None:
            return given
        known = self._known.get(id(given))
        if known is not None and known[0]() is given:
            return known[1]
        left = self.leave(given)
        self._known[id(given)] = weakref.ref(given), left
        return left

    def leave(self, array: Any) -> Handed:
        """Write an array into the folder.

        Raises
        ------
        InputError
            It does not fit there.
        """
        assert self.folder is not None
        self._n_files += 1
        path = self.folder / f"{self._n_files}.npy"
        try:
            np.save(path, np.ascontiguousarray(array))
        except OSError as error:
            path.unlink(missing_ok=True)
            raise InputError(
                f"{bytes_text(array.nbytes)} for the workers cannot be written to {self.folder.parent}"
                f" ({error.strerror or error}); free some space there, name another folder with TMPDIR, or give the"
                " cells as a file"
            ) from error
        return Handed(str(path))

    def leave_matrix(self, cells: NDArray[np.float32]) -> Location:
        """Write the cells into the folder."""
        path = self.leave(cells).path
        return Location(path, "npy", "", path)


def remove_abandoned(place: Path) -> None:
    """Remove folders of processes that were killed, which had no time to; they may be as large as the cells."""
    for lock in place.glob(f"{prefix()}*/{LOCK}"):
        # locked by a process that lives, of another user, or gone by now; where files cannot be locked nothing is known
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > YOUNG_S:
                with lock_file(lock):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _locked(folder: Path) -> IO[bytes] | None:
    """Hold the folder as long as this process lives; None where files cannot be locked, and folders are not removed."""
    try:
        return lock_file(folder / LOCK)
    except OSError:
        (folder / LOCK).unlink(missing_ok=True)
        return None


def _remove(folder: Path, lock: IO[bytes] | None) -> None:
    if lock is not None:
        lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def _is_there(folder: str) -> bool:
    return Path(folder).is_dir()
