"""Turn the errors of libraries that read files into messages that name the file and say what to do."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpubench.core.errors import InputError
from gpubench.data.urls import File, Url, redacted, with_network_errors

# Raised by h5py, zarr, NumPy and Arrow for bytes that are missing or cannot be decoded, and for invalid metadata.
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
def reading(what: object, file: File | None = None) -> Iterator[None]:
    """Turn an error while `what` is read into an `InputError` that names it.

    Parameters
    ----------
    what : what messages call it; the file itself, or a part of it
    file : the file where `what` is a part of it; if it is a URL, its credentials are removed from messages
    """
    url = what if file is None else file
    redact = url.redact if isinstance(url, Url) else redacted
    try:
        yield
    except InputError:
        raise
    except with_network_errors(*_DAMAGED, MemoryError) as error:
        raise InputError(f"{what} {_fault(error, redact)}") from (None if _shows_secrets(error, redact) else error)


def _fault(error: Exception, redact: Callable[[str], str]) -> str:
    """Return the fault and its remedy."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the path"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied; ask its owner for access, or copy it"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give a file, or a zarr store"
    reason = redact(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return (
            f"does not fit into memory ({reason or 'none is free'}); use fewer cells, or copy it again if it is damaged"
        )
    if "range requests" in reason:  # the words of fsspec
        return "is on a server that does not serve parts of files; put simplecache:: before the URL, or download it"
    return f"cannot be read ({reason or type(error).__name__}); if it is damaged, copy or download it again"


def _shows_secrets(error: BaseException | None, redact: Callable[[str], str]) -> bool:
    """Whether a traceback of the error and its causes would show credentials of a URL."""
    while error is not None:
        if redact(str(error)) != str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
