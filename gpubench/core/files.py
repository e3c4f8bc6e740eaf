"""Writing files whole or not at all."""

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
    """The folder of what can be fetched or measured again; not made here.

    Returns
    -------
    What `GPUBENCH_CACHE` names, else the platform's: ~/.cache/gpubench on Linux, ~/Library/Caches/gpubench on macOS.
    """
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("gpubench", appauthor=False)


def config_folder() -> Path:
    """The folder of what the user has written for gpubench, such as a catalogue: ~/.config/gpubench on Linux."""
    from platformdirs import user_config_path

    return user_config_path("gpubench", appauthor=False)


_NO_SPACE = "free some space there or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    None: _NO_SPACE,  # NumPy says of an array that did not fit how much was written, and nothing else
    errno.EFBIG: "raise the file-size limit or choose another folder",
    errno.ENOENT: "make the folder first or choose another one",
    errno.ENOTDIR: "a part of that path is a file; choose another folder",
    errno.EISDIR: "a folder has that name; move it away or choose another name",
}
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""What some file systems of clusters say when a file is to be locked."""

_NO_PERMISSION = "choose a folder that you may write to"


def write_atomically(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object], *, sync: bool = True) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    A write that fails or is interrupted leaves an older file of that name as it was, and no temporary file.

    Parameters
    ----------
    path : the file; a link is followed, so that what it points to is replaced
    write : gets the open binary file
    sync : wait until it is on the disk, so that it survives a power cut as well

    Raises
    ------
    InputError
        The file cannot be written: no such folder, no permission, full disk.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            # os.open rather than tempfile: the file gets the permissions that any new file of the user's has.
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
    """Make a file and lock it until it is closed or the process ends, however it ends.

    Raises
    ------
    BlockingIOError
        Another holds the lock.
    OSError
        The file cannot be made, was removed at that moment (ENOENT), or its file system knows no locks (`NO_LOCKS`).
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
                raise FileNotFoundError(errno.ENOENT, "another holder has removed it", str(path))
    except OSError as error:
        file.close()
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            raise BlockingIOError(error.errno, "locked by another", str(path)) from error
        raise
    return file


def check_writable_folder(folder: str | os.PathLike[str], name: str = "out") -> None:
    """Make sure that files can be written to a folder, without leaving a trace.

    A folder that does not exist yet is not made: the nearest one above it is tried.

    Raises
    ------
    InputError
        It is a file, or a file cannot be made there; `name` is the argument that the message names.
    """
    folder = Path(folder)
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0")
    except OSError as error:
        given = f"{name} {str(folder)!r}" if name.startswith("-") else f"{name}={str(folder)!r}"
        raise cannot_write(nearest, error, f"{given} cannot be written") from error


def cannot_write(folder: Path, error: OSError, what: str) -> InputError:
    """Make the error of a file that cannot be written, with what to do about it."""
    remedy = _REMEDIES.get(error.errno, _NO_PERMISSION)
    return InputError(f"{what}: {error.strerror or error} ({folder}); {remedy}")
