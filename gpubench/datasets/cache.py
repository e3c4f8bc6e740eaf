"""Where fetched files are kept, and what is recorded of them.

Beside a file stand its record (`<name>.json`), the part that is there while it is fetched (`<name>.<version>.part`),
and the lock of the process that fetches it (`<name>.lock`). A file under its own name is whole: it is renamed once it
was checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gpubench.core.errors import InputError
from gpubench.core.files import cache_folder, write_atomically
from gpubench.datasets.entry import Entry
from gpubench.datasets.remote import Stat

_VERSION_DIGITS = 16
"""Hexadecimal digits that tell versions of a file apart in the names of its parts."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a file in the cache.

    Attributes
    ----------
    address : where it came from
    size, etag : what the server said of it
    sha256 : of the file
    checked : by what: "sha256", "md5" (the ETag of S3), or "size" alone
    fetched : when, as ISO 8601 in UTC
    """

    address: str
    size: int
    etag: str | None
    sha256: str
    checked: str
    fetched: str


def place_of(entry: Entry) -> Path:
    """The path of a remote file in the cache: below the name of its server or bucket, as it is there.

    Raises
    ------
    InputError
        The address names no file.
    """
    assert entry.path is not None
    parts = urlsplit(entry.path)
    folders = [part for part in unquote(parts.path).split("/") if part]
    if not parts.netloc or not folders or {".", ".."} & set(folders):
        raise InputError(f"{entry.where}: path {entry.path!r} names no file; write it as s3://bucket/folder/file.h5ad")
    if parts.query:  # two queries of one path are two files
        folders[-1] = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}-{folders[-1]}"
    return cache_folder().joinpath("datasets", parts.netloc.replace(":", "_"), *folders)


def part_of(place: Path, stat: Stat) -> Path:
    """The name of an unfinished file; another version on the server has another name, so that they never mix."""
    version = hashlib.sha256(f"{stat.size} {stat.etag}".encode()).hexdigest()[:_VERSION_DIGITS]
    return place.with_name(f"{place.name}.{version}.part")


def record_of(place: Path) -> Path:
    """The name of the record of a file."""
    return place.with_name(f"{place.name}.json")


def lock_of(place: Path) -> Path:
    """The name of the lock of a file."""
    return place.with_name(f"{place.name}.lock")


def recorded(place: Path) -> Record | None:
    """The record of a file that is in the cache and whole; else None.

    Raises
    ------
    InputError
        It is there and may not be read.
    """
    try:
        record = Record(**json.loads(record_of(place).read_text(encoding="utf-8")))
        return record if place.stat().st_size == record.size else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
    except OSError as error:
        raise InputError(
            f"{place} cannot be read: {error.strerror}; ask its owner, or set GPUBENCH_CACHE to another folder"
        ) from error


def meant(record: Record | None, entry: Entry) -> bool:
    """Whether a recorded file is the one of which a catalogue speaks."""
    return (
        record is not None
        and record.address == entry.path
        and entry.sha256 in (None, record.sha256)
        and entry.size in (None, record.size)
    )


def write_record(place: Path, record: Record) -> None:
    """Keep what is known of a file."""
    text = json.dumps(asdict(record), indent=1) + "\n"
    write_atomically(record_of(place), lambda file: file.write(text.encode()))


def remove_leftovers(place: Path, keep: Path | None = None) -> None:
    """Take away parts of other versions of this file; the part of `cells.h5ad.gz` is none of `cells.h5ad`."""
    of_file = re.compile(rf"{re.escape(place.name)}\.[0-9a-f]{{{_VERSION_DIGITS}}}\.part")
    for part in place.parent.iterdir():
        if part != keep and of_file.fullmatch(part.name):
            part.unlink(missing_ok=True)
