"""Arrays of the client are passed to workers in files of a folder that all see, else as arguments of the tasks."""

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
from gpubench.engines.dask.worker import TransferredArray

if TYPE_CHECKING:
    from collections.abc import Callable


SMALL_BYTES = 1 << 14
"""Arrays up to this size are arguments of the task."""

LOCK = "in-use"
"""Name of a file in the folder that the process of the folder keeps locked."""

YOUNG_S = 60.0
"""Age in seconds from which on a folder whose file is not locked counts as abandoned."""


def prefix() -> str:
    """Return how names of folders of this machine begin. Locks on a shared folder may be invisible to others."""
    return f"gpubench-dask-{platform.node()}-"


class ArrayTransfer:
    """Writes arrays where workers find them, also workers that replace others.

    Attributes
    ----------
    folder : None where workers do not see this machine's temporary folder
    close : removes the folder
    """

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.folder: Path | None = Path(tempfile.mkdtemp(prefix=prefix()))
        self.close = weakref.finalize(self, _remove, self.folder, _lock(self.folder))
        self._n_files = 0
        self._written: dict[int, tuple[Any, TransferredArray]] = {}

    def check_visible(self, run_on_all: Callable[..., dict[str, Any]]) -> None:
        """Remove the folder unless every worker sees it."""
        seen = run_on_all(Path.is_dir, self.folder)
        if not seen or not all(seen.values()):
            self.close()
            self.folder = None

    def encode(self, given: Any) -> Any:
        """Return what a task takes in place of an argument; an array is written once."""
        if not isinstance(given, np.ndarray) or given.nbytes <= SMALL_BYTES or self.folder is None:
            return given
        known = self._written.get(id(given))
        if known is not None and known[0]() is given:
            return known[1]
        written = self.write(given)
        self._written[id(given)] = weakref.ref(given), written
        return written

    def write(self, array: Any) -> TransferredArray:
        """Write an array into the folder; an `InputError` where it does not fit there."""
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
        return TransferredArray(str(path))


def remove_abandoned(parent: Path) -> None:
    """Remove folders of processes that were killed; they may be as large as the cells."""
    for lock in parent.glob(f"{prefix()}*/{LOCK}"):
        # the file is locked by a living process, belongs to another user, or is gone; or files cannot be locked here
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > YOUNG_S:
                with lock_file(lock):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _lock(folder: Path) -> IO[bytes] | None:
    """Lock the folder as long as this process lives; None where files cannot be locked, and nothing is abandoned."""
    try:
        return lock_file(folder / LOCK)
    except OSError:
        (folder / LOCK).unlink(missing_ok=True)
        return None


def _remove(folder: Path, lock: IO[bytes] | None) -> None:
    if lock is not None:
        lock.close()
    shutil.rmtree(folder, ignore_errors=True)
