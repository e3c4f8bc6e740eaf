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
    """Return the cache folder, which may not exist: the value of `GPUBENCH_CACHE`, or the platform's."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("gpubench", appauthor=False)


def config_folder() -> Path:
    """Return the folder of the user's own files for gpubench, such as a catalogue: ~/.config/gpubench on Linux."""
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
    """Write a file under a temporary name in its folder, then rename it; InputError with a remedy if that fails.

    A write that fails or is interrupted leaves an existing file unchanged, and no temporary file. The target
    of a symbolic link is replaced. `write` receives the open binary file; `sync` waits until it is on the disk, so that
    it survives a power cut.
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
    """Create and lock a file until it is closed or the process ends, however it ends.

    Raises BlockingIOError if another process holds the lock, and OSError if the file cannot be created, was removed at
    that moment (ENOENT), or its file system has no locks (`NO_LOCKS`).
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
    """Raise InputError if no file can be created in a folder, or in its nearest existing parent; creates nothing."""
    folder = Path(folder)
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0")
    except OSError as error:
        raise cannot_write(nearest, error, f"{name}={str(folder)!r} cannot be written", argument=name) from error


def cannot_write(folder: Path, error: OSError, what: str, *, argument: str | None = None) -> InputError:
    """Return the error for a file that cannot be written, with a remedy."""
    remedy = _REMEDIES.get(error.errno, _NO_PERMISSION)
    return InputError(f"{what}: {error.strerror or error} ({folder}); {remedy}", argument=argument)
