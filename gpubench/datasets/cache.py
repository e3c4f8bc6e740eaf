"""The cache of downloaded files: their paths, records and checksums.

Up to three more files belong to a file: its record (`<name>.json`), the part downloaded so far
(`<name>.<version>.part`) and the lock of the process that downloads it (`<name>.lock`). A download gets the name of the
file only after its checksum was verified.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import unquote, urlsplit

from gpubench.core.errors import InputError
from gpubench.core.files import cache_folder, write_atomically
from gpubench.datasets.catalogue import CatalogueEntry
from gpubench.datasets.remote import RemoteStat

_VERSION_DIGITS = 16
"""Hexadecimal digits that distinguish versions of a file in the names of its parts."""

_BLOCK_BYTES = 1 << 20


class CorruptFile(Exception):
    """A downloaded file does not have the expected checksum."""


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """Origin and checksums of a file in the cache.

    Attributes
    ----------
    address : address from which the file was downloaded
    size, etag : size in bytes and ETag that the server reported
    sha256 : SHA-256 of the file in hexadecimal
    checked : how the file was verified: "sha256", "md5" (by the ETag of S3), or "size" if no checksum is known
    fetched : time of the download, ISO 8601 in UTC
    """

    address: str
    size: int
    etag: str | None
    sha256: str
    checked: str
    fetched: str


def cache_path(entry: CatalogueEntry) -> Path:
    """Return the path that the file of a remote dataset has in the cache, whether or not it is there.

    It is the path on the server, in a folder named after the server or bucket.
    """
    assert entry.path is not None
    parts = urlsplit(entry.path)
    folders = [part for part in unquote(parts.path).split("/") if part]
    if not parts.netloc or not folders or {".", ".."} & set(folders):
        raise InputError(f"{entry.where}: path {entry.path!r} names no file; write it as s3://bucket/folder/file.h5ad")
    if parts.query:  # the same path with another query is another file
        folders[-1] = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}-{folders[-1]}"
    return cache_folder().joinpath("datasets", parts.netloc.replace(":", "_"), *folders)


def part_path(path: Path, stat: RemoteStat) -> Path:
    """Return the path of the partial download of a file; it differs between versions, so that these never mix."""
    version = hashlib.sha256(f"{stat.size} {stat.etag}".encode()).hexdigest()[:_VERSION_DIGITS]
    return path.with_name(f"{path.name}.{version}.part")


def record_path(path: Path) -> Path:
    """Return the path of the record of a file in the cache."""
    return path.with_name(f"{path.name}.json")


def read_record(path: Path) -> CacheRecord | None:
    """Return the record of a file in the cache; None if the file or its record is missing or incomplete."""
    try:
        record = CacheRecord(**json.loads(record_path(path).read_text(encoding="utf-8")))
        return record if path.stat().st_size == record.size else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}; ask its owner, or set GPUBENCH_CACHE to another folder"
        ) from error


def matches(record: CacheRecord | None, entry: CatalogueEntry) -> TypeGuard[CacheRecord]:
    """Whether a record agrees with the address, SHA-256 and size in a catalogue entry."""
    return (
        record is not None
        and record.address == entry.path
        and entry.sha256 in (None, record.sha256)
        and entry.size in (None, record.size)
    )


def write_record(path: Path, record: CacheRecord) -> None:
    """Write the record of the file at `path` next to it, atomically."""
    text = json.dumps(asdict(record), indent=1) + "\n"
    write_atomically(record_path(path), lambda file: file.write(text.encode()))


def remove_leftovers(path: Path, keep: Path | None = None) -> None:
    """Remove the partial downloads of a file, except `keep`; those of cells.h5ad.gz do not belong to cells.h5ad."""
    own_part = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{_VERSION_DIGITS}}}\.part")
    for part in path.parent.iterdir():
        if part != keep and own_part.fullmatch(part.name):
            part.unlink(missing_ok=True)


def facts(entry: CatalogueEntry) -> dict[str, Any]:
    """Return the catalogue entry of a dataset, its "state", and the record of its file as one JSON object.

    "state" is "cached", "not fetched", "local", "missing" (a local file that does not exist) or "no address".
    """
    known = {**asdict(entry), "state": "no address", "file": None, "checked": None, "fetched": None, "etag": None}
    if entry.path is None:
        return known
    if not entry.is_remote:
        exists = Path(entry.path).exists()
        return {**known, "state": "local" if exists else "missing", "file": entry.path if exists else None}
    path = cache_path(entry)
    record = read_record(path)
    if not matches(record, entry):
        return {**known, "state": "not fetched"}
    recorded = {key: value for key, value in asdict(record).items() if key != "address"}
    return {**known, "state": "cached", "file": str(path), **recorded}


def check(path: Path, entry: CatalogueEntry, stat: RemoteStat, advance: Callable[[int], None]) -> tuple[str, str]:
    """Compare a file with its checksums in the catalogue and on the server.

    An object that was uploaded to S3 in n parts has the ETag md5(md5(part 1) md5(part 2) ...)-n.

    Parameters
    ----------
    path : file to check
    entry : catalogue entry, which may have a SHA-256
    stat : description by the server, which may have an MD5
    advance : function that receives the number of bytes read so far

    Returns
    -------
    SHA-256 of the file, and how it was verified (see `CacheRecord.checked`)

    Raises
    ------
    CorruptFile
        A checksum differs.
    """
    sha256, md5s = _hash_file(path, stat.part_size if stat.md5 else None, advance)
    if entry.sha256 is not None and sha256 != entry.sha256:
        raise CorruptFile(f"its SHA-256 is {sha256}, but {entry.where} has {entry.sha256}")
    if stat.md5 and stat.etag is not None:
        whole, dash, n_parts = stat.etag.partition("-")
        joined = hashlib.md5(b"".join(md5s), usedforsecurity=False).hexdigest() if dash else md5s[0].hex()
        if joined != whole or (dash and int(n_parts) != len(md5s)):
            raise CorruptFile(f"its MD5 is {joined}, but the server's ETag is {stat.etag}")
    return sha256, "sha256" if entry.sha256 is not None else "md5" if stat.md5 else "size"


def _hash_file(path: Path, part_size: int | None, advance: Callable[[int], None]) -> tuple[str, list[bytes]]:
    """Read a file once and return its SHA-256 and the MD5 of each part; if `part_size` is None, no MD5 is computed."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    md5s: list[bytes] = []
    done = in_part = 0
    with path.open("rb") as file:
        while block := file.read(min(_BLOCK_BYTES, part_size - in_part) if part_size else _BLOCK_BYTES):
            sha256.update(block)
            done += len(block)
            if part_size:
                md5.update(block)
                in_part += len(block)
                if in_part == part_size:
                    md5s.append(md5.digest())
                    md5, in_part = hashlib.md5(usedforsecurity=False), 0
            advance(done)
    if in_part or not md5s:
        md5s.append(md5.digest())
    return sha256.hexdigest(), md5s
