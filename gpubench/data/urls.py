"""Files behind URLs: fsspec opens them, whatever their protocol. What a URL has of credentials is never shown."""

from __future__ import annotations

import io
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from gpubench.core.errors import InputError

_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_QUERY = re.compile(r"(://[^\s'\"?#]*)[?#][^\s'\")\]]*")
# a password with an unescaped slash is no part of a valid URL, but is not to be shown for that
_USER = re.compile(r"(?<=://)(?:[^/\s'\"]*@|[^/\s'\":]*:(?!\d+/)[^\s'\"]*@)")

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
}
"""What fsspec needs for a protocol."""

_RAISED = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""Errors of the packages below fsspec that are none of Python's own."""

_IDENTITY = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "Content-MD5",
    "LastModified",
    "Last-Modified",
    "mtime",
    "created",
)
"""What tells one version of a file from another, by the names that file systems have for it."""

_FORBIDDEN = (401, 403)
_BLOCK_BYTES = 4 << 20
_BLOCKS = 16
_RANGE_BYTES = 8 << 20
_MIN_PASSWORD, _MIN_VALUE = 4, 8
"""Characters; what is shorter is in other words as well."""

_secrets: set[str] = set()


class Url:
    """A file, or a store of several, behind a URL: like a path, as far as it is read.

    Parameters
    ----------
    address : the URL with everything that is needed to open it; chains such as simplecache::s3://bucket/key are taken
    seen : the `identity` that the file must have

    Attributes
    ----------
    name : the last part of its path, without query
    """

    def __init__(self, address: str, seen: tuple[str, ...] | None = None) -> None:
        self._address = address
        self._seen = seen
        self.name = _last_part(address)
        _remember_secrets(address)

    def __str__(self) -> str:
        return shown(self._address)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Url, (self._address, self._seen)

    @property
    def suffix(self) -> str:
        """As of a path."""
        return Path(self.name).suffix

    @property
    def is_shared(self) -> bool:
        """Whether other processes can open it."""
        return "memory" not in self._address.partition("://")[0].split("::")

    @property
    def has_query(self) -> bool:
        """Whether something follows the path."""
        return "?" in self._address

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and the path in it."""
        protocol = self._address.partition("://")[0].rpartition("::")[2].lower()
        try:
            import fsspec.core
        except ImportError as error:
            raise InputError(f'{self} needs fsspec; install it with: pip install "gpubench[remote]"') from error
        try:
            fs, path = fsspec.core.url_to_fs(self._address)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            remedy = f"install it with: pip install {package}" if package else redacted(" ".join(str(error).split()))
            raise InputError(f"{self} needs the package {package or protocol}; {remedy}") from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{self} cannot be opened ({_reason(error)}); check the address") from None
        return fs, path

    def open(self, mode: str = "rb") -> io.RawIOBase:
        """Open it for reading anywhere in it; ranges are fetched when they are asked for."""
        fs, path = self._opened
        file: Any = fs.open(
            path, mode, block_size=_BLOCK_BYTES, cache_type="blockcache", cache_options={"maxblocks": _BLOCKS}
        )
        if getattr(file, "size", 0) is None:
            raise InputError(f"{self}: the server hands out no parts of files; download it, and give its path")
        return _Opened(file, self)

    def zarr_store(self) -> Any:
        """It as zarr's own store of fsspec."""
        from zarr.storage import FsspecStore

        _ = self._opened  # says what is not installed
        return FsspecStore.from_url(self._address, read_only=True)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), in several requests at a time where they are many."""
        fs, path = self._opened
        starts = list(range(start, stop, _RANGE_BYTES))
        ends = [min(begin + _RANGE_BYTES, stop) for begin in starts]
        parts = fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
        read = b"".join(parts)
        if len(read) != stop - start:
            raise InputError(
                f"{self}: {len(read):,} bytes came where {stop - start:,} were asked for; the file is truncated, or the"
                " server hands out no parts of files: download it, and give its path"
            )
        return read

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the file system says of the file.

        Raises
        ------
        InputError
            It is not there, may not be read, or nobody answers.
        """
        fs, path = self._opened
        try:
            found: dict[str, Any] = fs.info(path)
        except with_network_errors(OSError, ValueError) as error:
            raise self._not_there(error) from None
        return found

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells this version of the file from another; empty where nothing does."""
        marks = tuple(str(self.info[key]) for key in _IDENTITY if self.info.get(key))
        return (str(self.info.get("size")), *marks) if marks else ()

    def require(self, argument: str = "") -> Url:
        """Make sure that the file is there, and the one that was seen before; returns it with what was seen now.

        Raises
        ------
        InputError
            It is not there, or another one; `argument` is what the message names.
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

    def _not_there(self, error: Exception) -> InputError:
        cause = error.__cause__ or error
        status = getattr(cause, "status", None) or getattr(cause, "code", None)
        if isinstance(error, PermissionError) or status in _FORBIDDEN:
            return InputError(f"{self} may not be read; check the credentials, or ask its owner for access")
        if status is None and not isinstance(cause, FileNotFoundError):
            return InputError(f"{self} cannot be reached ({_reason(cause)}); check the address and the network")
        return InputError(f"{self} does not exist; check the address")


class _Opened(io.RawIOBase):
    """An open file, whose own name has credentials, under one that has none: HDF5 writes names into its messages."""

    def __init__(self, file: Any, url: Url) -> None:
        self._file = file
        self.url = url

    def __repr__(self) -> str:
        return f"{self.url} ({id(self)})"

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
    """A path, or a URL; one of a file of this machine is a path."""
    if not is_url(given):
        return Path(given).expanduser()
    if given.lower().startswith("file://"):
        return Path(unquote(urlsplit(given).path))
    return Url(given)


def shown(given: Any) -> str:
    """What a path or a URL is called in messages and results: without user, password, and query."""
    return redacted(str(given)) if is_url(given) else str(given)


def redacted(text: str) -> str:
    """A text without what URLs in it have of credentials, and without those of every URL that was opened."""
    text = _USER.sub("", _QUERY.sub(r"\1", text))
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def with_network_errors(*kinds: type[Exception]) -> tuple[type[Exception], ...]:
    """These, and the errors of the packages below fsspec, of those that are imported."""
    modules = ((sys.modules[name], raised) for name, raised in _RAISED.items() if name in sys.modules)
    return (*kinds, *(getattr(module, name) for module, raised in modules for name in raised))


def _last_part(address: str) -> str:
    path = re.split(r"[?#]", address, maxsplit=1)[0]
    return path.rstrip("/").rpartition("/")[2]


def _remember_secrets(address: str) -> None:
    url = address.rpartition("::")[2]
    query, user = urlsplit(url).query, _USER.search(url)
    password = user.group()[:-1].partition(":")[2] if user else ""
    values = [query, *(part.partition("=")[2] for part in query.split("&"))]
    values = [value for value in values if len(value) >= _MIN_VALUE]
    values += [password] if len(password) >= _MIN_PASSWORD else []
    for value in values:
        for meant in (value, unquote(value), unquote_plus(value)):  # a plus is itself, or a space
            _secrets.update((meant, quote(meant, safe=""), quote(meant)))


def _reason(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())) or type(error).__name__
