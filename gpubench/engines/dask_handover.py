"""How arrays that the client has reach the workers: through a folder that all see, else with the task."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubench.data.places import Place
from gpubench.engines.dask_worker import Handed
from gpubench.errors import InputError
from gpubench.units import bytes_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SMALL_BYTES = 1 << 14
"""Arrays up to this size travel with the task."""


class Handover:
    """Leaves arrays where workers find them, also those that take the place of others.

    Attributes
    ----------
    folder : None where workers do not see this machine's temporary folder
    """

    def __init__(self) -> None:
        self.folder: Path | None = Path(tempfile.mkdtemp(prefix="gpubench-dask-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
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

    def leave_matrix(self, cells: NDArray[np.float32]) -> Place:
        """Write the cells into the folder."""
        path = self.leave(cells).path
        return Place(path, "npy", "", path)


def _is_there(folder: str) -> bool:
    return Path(folder).is_dir()
