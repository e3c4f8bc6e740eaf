"""Parts of error messages that many readers share."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gpubench.data.urls import redacted, with_network_errors
from gpubench.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What h5py, zarr, NumPy and Arrow raise for bytes that are missing or do not decode, and for metadata without sense.
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)

N_LISTED = 10
N_MATCHES = 3
N_ROWS = 3


def close_matches(word: str, known: Iterable[str]) -> str:
    """What to append to "there is no such name": " (did you mean 'X_pca', 'X_umap'?)" or " (there are: 'a', 'b')".

    Upper and lower case count as equal.
    """
    known = [str(name) for name in known]
    meant = nearest(word, known)
    if meant:
        return f" (did you mean {quoted(meant)}?)"
    return f" (there are: {quoted(known)})" if known else " (there are none)"


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The names that `word` may be a slip for, best first."""
    by_folded: dict[str, list[str]] = {}
    for name in known:
        by_folded.setdefault(name.casefold(), []).append(name)
    found = difflib.get_close_matches(word.casefold(), by_folded, n=N_MATCHES)
    return [name for folded in found for name in by_folded[folded]][:N_MATCHES]


def quoted(names: Collection[str]) -> str:
    """'a', 'b', 'c' and 4 more."""
    listed = ", ".join(repr(name) for name in list(names)[:N_LISTED])
    return listed if len(names) <= N_LISTED else f"{listed} and {len(names) - N_LISTED:,} more"


def some_rows(rows: NDArray[Any], n: int, verb: str) -> str:
    """12 of 2,638 rows hold NaN (first: 3, 17, 40). The rows ascend and are counted from 0."""
    first = ", ".join(str(row) for row in rows[:N_ROWS])
    return f"{len(rows):,} of {n:,} rows {verb} (first: {first})"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong while `what` is read into an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except with_network_errors(*_DAMAGED, MemoryError) as error:
        raise InputError(f"{what} {_wrong(error)}") from (None if _shows_secrets(error) else error)


def _wrong(error: Exception) -> str:
    """What is wrong, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the path"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied; ask its owner for access, or copy it"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give a file, or a zarr store"
    reason = redacted(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        told = reason or "no more is free"
        return f"does not fit into memory ({told}); use fewer cells, or copy it again if it is damaged"
    if "range requests" in reason:  # as fsspec calls it
        return "is on a server that hands out no parts of files; put simplecache:: before the URL, or download it"
    return f"cannot be read ({reason or type(error).__name__}); if it is damaged, copy or download it again"


def _shows_secrets(error: BaseException | None) -> bool:
    """Whether a traceback of the error, and of what it came from, would show credentials of a URL."""
    while error is not None:
        if redacted(str(error)) != str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
