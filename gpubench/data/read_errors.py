"""Parts of error messages that many readers share."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from gpubench.core.errors import InputError
from gpubench.data.urls import redacted, with_network_errors

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
