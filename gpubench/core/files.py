"""Atomic writes, file locks, and the folders of the cache and the configuration."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gpubench.core.errors import InputError

CACHE = "GPUBENCH_CACHE"
"""Environment variable that names the cache folder."""


def cache_folder() -> Path:
    """Return the cache folder: the value of `GPUBENCH_CACHE`, or the platform's default; it may not exist yet."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("gpubench", appauthor=False)


def config_folder() -> Path:
    """Return the user's configuration folder, ~/.config/gpubench on Linux, which may hold a catalogue of datasets."""
    from platformdirs import user_config_path

    return user_config_path("gpubench", appauthor=False)


_NO_SPACE = "free some space there or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    None: _NO_SPACE,  # NumPy's error for an array that did not fit has no errno
    errno.EFBIG: "raise the file-size limit or choose another folder",
    errno.ENOENT: "create the folder first or choose another one",
    errno.ENOTDIR: "part of that path is a file; choose another folder",
    errno.EISDIR: "a folder has that name; move it away or choose another name",
}
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of file systems, as some clusters have, that do not support locks."""

_NO_PERMISSION = "choose a folder with write permission"


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], *, sync: bool = True) -> None:
    """Write a file under a temporary name in the same folder, then rename it.

    A write that fails or is interrupted leaves an existing file unchanged, and no temporary file.

    Parameters
    ----------
    path : file to write; if it is a symbolic link, the target of the link is replaced
    write : function that receives the open binary file and writes its content
    sync : wait until the content is on the disk, so that the file survives a power cut

    Raises
    ------
    InputError
        The file cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            # os.open instead of tempfile gives the file the permissions of any new file of the user
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            with os.fdopen(handle, "wb") as file:
                write(file)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target.parent, error, f"{target.name} cannot be written to {target.parent}") from error


def lock_file(path: Path) -> IO[bytes]:
    """Create and lock a file, and return it open; the lock lasts until the file is closed or the process ends.

    Raises BlockingIOError if another process holds the lock. Raises OSError if the file cannot be created, if it was
    removed while it was being locked (ENOENT), or if its file system has no locks (an errno in `NO_LOCKS`).
    """
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise FileNotFoundError(errno.ENOENT, "removed by another process", str(path))
    except OSError as error:
        file.close()
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise BlockingIOError(error.errno, "locked by another process", str(path)) from error
        raise
    return file


def check_writable_folder(folder: str | os.PathLike[str], name: str = "out") -> None:
    """Raise InputError if files cannot be created in a folder; messages call the folder `name`.

    If the folder does not exist, its nearest existing parent is checked. Nothing is created.
    """
    folder = Path(folder)
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0")
    except OSError as error:
        raise cannot_write(nearest, error, f"{name}={str(folder)!r} cannot be written", argument=name) from error


def cannot_write(folder: Path, error: OSError, what: str, *, argument: str | None = None) -> InputError:
    """Return an InputError that says that `what` cannot be written into a folder, why, and what to do."""
    remedy = _REMEDIES.get(error.errno, _NO_PERMISSION)
    return InputError(f"{what}: {error.strerror or error} ({folder}); {remedy}", argument=argument)
