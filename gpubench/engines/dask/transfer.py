"""Pass arrays from the client to workers, as files if all workers can read a folder, else as arguments of tasks."""

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
"""Size in bytes up to which arrays are passed as arguments of tasks instead of files."""

LOCK = "in-use"
"""Name of a file in the folder that the process of the folder keeps locked."""

YOUNG_S = 60.0
"""Age in seconds from which on a folder whose file is not locked counts as abandoned."""


def prefix() -> str:
    """Return the prefix of folder names, which includes the machine, as locks may not work across machines."""
    return f"gpubench-dask-{platform.node()}-"


class ArrayTransfer:
    """Write arrays to files that workers read, including workers that are started later.

    Attributes
    ----------
    folder : folder of the files; None if workers cannot read this machine's temporary folder
    close : function that removes the folder
    """

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.folder: Path | None = Path(tempfile.mkdtemp(prefix=prefix()))
        self.close = weakref.finalize(self, _remove, self.folder, _lock(self.folder))
        self._n_files = 0
        self._written: dict[int, tuple[Any, TransferredArray]] = {}

    def check_visible(self, run_on_all: Callable[..., dict[str, Any]]) -> None:
        """Remove the folder, and pass arrays as arguments instead, unless every worker can read it."""
        seen = run_on_all(Path.is_dir, self.folder)
        if not seen or not all(seen.values()):
            self.close()
            self.folder = None

    def encode(self, given: Any) -> Any:
        """Return the object to pass to a task in place of an argument; an array is written to a file only once."""
        if not isinstance(given, np.ndarray) or given.nbytes <= SMALL_BYTES or self.folder is None:
            return given
        known = self._written.get(id(given))
        if known is not None and known[0]() is given:
            return known[1]
        written = self.write(given)
        self._written[id(given)] = weakref.ref(given), written
        return written

    def write(self, array: Any) -> TransferredArray:
        """Write an array to a file in the folder; raise InputError if there is not enough disk space."""
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
    """Remove folders left behind by processes that were killed, which may be as large as the cells."""
    for lock in parent.glob(f"{prefix()}*/{LOCK}"):
        # the file is locked by a living process, belongs to another user, or is gone; or files cannot be locked here
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > YOUNG_S:
                with lock_file(lock):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def _lock(folder: Path) -> IO[bytes] | None:
    """Lock a folder for the lifetime of this process; None if the system cannot lock files."""
    try:
        return lock_file(folder / LOCK)
    except OSError:
        (folder / LOCK).unlink(missing_ok=True)
        return None


def _remove(folder: Path, lock: IO[bytes] | None) -> None:
    if lock is not None:
        lock.close()
    shutil.rmtree(folder, ignore_errors=True)
