"""Open files behind URLs by fsspec, and convert errors of reading files; credentials in URLs are never shown."""

from __future__ import annotations

import io
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from gpubench.core.errors import InputError

_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s'\"?#]*)[?#][^\s'\")\]]*")
# A password with an unescaped slash makes a URL invalid, but must not be shown either.
_USER = re.compile(r"(?<=://)(?:[^/\s'\"]*@|[^/\s'\":]*:(?!\d+/)[^\s'\"]*@)")

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
}
"""Protocol -> the package that fsspec needs for it."""

_PACKAGE_ERRORS = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""Errors of the packages below fsspec that are not subclasses of Python's own."""

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

_FAULTS = {
    "codec can't decode|invalid UTF8": "is not UTF-8 text, perhaps Latin-1 or Windows-1252; save it as UTF-8:"
    " iconv -f latin1 -t utf-8",
    "unable to lock file": "is open for writing in another process; close it there, or set"
    " HDF5_USE_FILE_LOCKING=FALSE to read it nevertheless",
    "can't open directory|required filter": "is compressed with an HDF5 filter that is not installed; install it with:"
    " pip install hdf5plugin",
    "range requests": "is on a server that does not serve parts of files; put simplecache:: before the URL, or"
    " download it",
}
"""Words of h5py, fsspec, pandas and Arrow -> the fault and its remedy."""

_IDENTITY = [
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "Content-MD5",
    "LastModified",
    "Last-Modified",
    "mtime",
    "created",
]
"""Keys of fsspec's `info` whose values identify the version of a file."""

_FORBIDDEN = (401, 403)
_BLOCK_BYTES = 4 << 20
_BLOCKS = 16
_RANGE_BYTES = 8 << 20
_MIN_PASSWORD_LENGTH, _MIN_VALUE_LENGTH = 4, 8
"""Shortest passwords and query values that are redacted; shorter ones may be part of ordinary words."""


class Url:
    """A file, or a store such as zarr, behind a URL; it has the methods of `pathlib.Path` that readers use.

    Parameters
    ----------
    address : URL, including credentials; chains such as simplecache::s3://bucket/key are allowed
    seen : `identity` that the file had before; reading fails if it has changed

    Attributes
    ----------
    name : last part of the path, without query
    """

    def __init__(self, address: str, seen: tuple[str, ...] | None = None) -> None:
        self._address = address
        self._seen = seen
        self.name = re.split(r"[?#]", address, maxsplit=1)[0].rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        return shown(self._address)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Url, (self._address, self._seen)

    @property
    def suffix(self) -> str:
        """Suffix of the name, as in `pathlib.Path.suffix`."""
        return Path(self.name).suffix

    @property
    def is_shared(self) -> bool:
        """Whether other processes can open the URL."""
        return "memory" not in self._address.partition("://")[0].split("::")

    @property
    def has_query(self) -> bool:
        """Whether the URL has a query or a fragment after its path."""
        return "?" in self._address

    def redact(self, text: str) -> str:
        """Remove from a text the credentials of this URL and of any URL that the text contains."""
        text = _redacted(text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @cached_property
    def _secrets(self) -> list[str]:
        """Credentials of the URL, in every encoding in which an error message may contain them, longest first."""
        url = self._address.rpartition("::")[2]
        query, user = urlsplit(url).query, _USER.search(url)
        password = user.group()[:-1].partition(":")[2] if user else ""
        values = [query, *(part.partition("=")[2] for part in query.split("&"))]
        values = [value for value in values if len(value) >= _MIN_VALUE_LENGTH]
        values += [password] if len(password) >= _MIN_PASSWORD_LENGTH else []
        decoded = {text for value in values for text in (value, unquote(value), unquote_plus(value))}
        encoded = {form for text in decoded for form in (text, quote(text, safe=""), quote(text))}
        return sorted(encoded, key=len, reverse=True)

    def _reason(self, error: BaseException) -> str:
        return self.redact(" ".join(str(error).split())) or type(error).__name__

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """File system of fsspec, and the path in it."""
        protocol = self._address.partition("://")[0].rpartition("::")[2].lower()
        try:
            import fsspec.core
        except ImportError as error:
            raise InputError(f'{self} needs fsspec; install it with: pip install "gpubench-sc[remote]"') from error
        try:
            fs, path = fsspec.core.url_to_fs(self._address)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            remedy = f"install it with: pip install {package}" if package else self._reason(error)
            raise InputError(f"{self} needs the package {package or protocol}; {remedy}") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{self} cannot be opened ({self._reason(error)}); check the address") from None
        return fs, path

    def open(self, mode: str = "rb") -> io.RawIOBase:
        """Open the file as a seekable binary stream, which fetches only the ranges that are read."""
        fs, path = self._opened
        file: Any = fs.open(
            path, mode, block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": _BLOCKS}
        )
        if getattr(file, "size", 0) is None:
            raise InputError(f"{self}: the server does not serve parts of files; download it, and give its path")
        return _OpenUrl(file, str(self))

    def zarr_store(self) -> Any:
        """Return a store of zarr for the URL."""
        from zarr.storage import FsspecStore

        _ = self._opened  # raises if a package is missing
        return FsspecStore.from_url(self._address, read_only=True)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop) of the file, by several concurrent requests if the range is long."""
        fs, path = self._opened
        starts = list(range(start, stop, _RANGE_BYTES))
        ends = [min(begin + _RANGE_BYTES, stop) for begin in starts]
        parts = fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
        read = b"".join(parts)
        if len(read) != stop - start:
            raise InputError(
                f"{self}: received {len(read):,} of {stop - start:,} bytes; the file is truncated, or the server does"
                " not serve parts of files: download it, and give its path"
            )
        return read

    @cached_property
    def info(self) -> dict[str, Any]:
        """Description of the file, such as its size, by fsspec."""
        fs, path = self._opened
        try:
            info: dict[str, Any] = fs.info(path)
        except _with_network_errors(OSError, ValueError) as error:
            cause = error.__cause__ or error
            status = getattr(cause, "status", None) or getattr(cause, "code", None)
            if isinstance(error, PermissionError) or status in _FORBIDDEN:
                message = "may not be read; check the credentials, or ask its owner for access"
            elif status is None and not isinstance(cause, FileNotFoundError):
                message = f"cannot be reached ({self._reason(cause)}); check the address and the network"
            else:
                message = "does not exist; check the address"
            raise InputError(f"{self} {message}") from None
        return info

    @property
    def identity(self) -> tuple[str, ...]:
        """Values that identify the version of the file, such as its ETag; empty if the file system reports none."""
        marks = tuple(str(self.info[key]) for key in _IDENTITY if self.info.get(key))
        return (str(self.info.get("size")), *marks) if marks else ()

    def require(self, argument: str = "") -> Url:
        """Return this URL if the file exists and has not changed since it was seen, else raise InputError.

        Messages name `argument`.
        """
        named = f"{argument}: " if argument else ""
        try:
            identity = self.identity
        except InputError as error:
            raise InputError(f"{named}{error}") from None
        if self._seen is not None and identity != self._seen:
            raise InputError(f"{named}{self} has changed since the run began; start it again")
        if self.info.get("size") == 0:
            raise InputError(f"{named}{self} is empty; check the address, or copy it again")
        self._seen = identity
        return self


class _OpenUrl(io.RawIOBase):
    """An open file whose repr has no credentials, because HDF5 quotes the repr in its messages."""

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    def __repr__(self) -> str:
        return f"{self._name} ({id(self)})"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._file.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


File: TypeAlias = Path | Url


def is_url(given: Any) -> bool:
    """Whether a text is a URL."""
    return isinstance(given, str) and _PROTOCOL.match(given) is not None


def file_of(given: Any) -> File:
    """Convert text to a `Url` if it is a URL, else to a `Path`; file:// URLs become paths."""
    if not is_url(given):
        return Path(given).expanduser()
    if given.lower().startswith("file://"):
        return Path(unquote(urlsplit(given).path))
    return Url(given)


def shown(given: Any) -> str:
    """Return a path or URL as text for messages and results, without user, password and query.

    Examples
    --------
    >>> shown("https://me:password@host/cells.h5ad?token=1234")
    'https://host/cells.h5ad'
    """
    return _redacted(str(given)) if is_url(given) else str(given)


def _redacted(text: str) -> str:
    """Remove credentials from all URLs in a text."""
    return _USER.sub("", _QUERY.sub(r"\1", text))


def _with_network_errors(*kinds: type[Exception]) -> tuple[type[Exception], ...]:
    """Return these exceptions, and the network errors of packages that fsspec uses and that are imported."""
    modules = ((sys.modules[name], raised) for name, raised in _PACKAGE_ERRORS.items() if name in sys.modules)
    return (*kinds, *(getattr(module, name) for module, raised in modules for name in raised))


@contextmanager
def reading(what: object, file: File | None = None) -> Iterator[None]:
    """Convert errors in a `with` statement that reads `what` to an `InputError` that names `what`.

    If `what` is only a part of a file, `file` is that file. Credentials in URLs are removed from the message.
    """
    url = what if file is None else file
    redact = url.redact if isinstance(url, Url) else _redacted
    try:
        yield
    except InputError:
        raise
    except _with_network_errors(*_DAMAGED, MemoryError) as error:
        raise InputError(f"{what} {_fault(error, redact)}") from (None if _shows_secrets(error, redact) else error)


def _fault(error: Exception, redact: Callable[[str], str]) -> str:
    """Return a message that says why reading failed and what to do."""
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the path"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied; ask its owner for access, or copy it"
    if isinstance(error, IsADirectoryError):
        return "is a folder; give a file, or a zarr store"
    reason = redact(" ".join(str(error).split()))
    known = next((text for words, text in _FAULTS.items() if re.search(words, reason)), None)
    if known is not None:
        return known
    if isinstance(error, MemoryError):
        return (
            f"does not fit into memory ({reason or 'none is free'}); use fewer cells, or copy it again if it is damaged"
        )
    return f"cannot be read ({reason or type(error).__name__}); if it is damaged, copy or download it again"


def _shows_secrets(error: BaseException | None, redact: Callable[[str], str]) -> bool:
    """Whether the message of an error, or of one of its causes, contains credentials of a URL."""
    while error is not None:
        if redact(str(error)) != str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
