"""Fetching: whole and checked, or not at all; what a cut connection has left is taken up again."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from gpubench.core.errors import InputError
from gpubench.core.files import CACHE, cannot_write, lock_file
from gpubench.core.units import bytes_text
from gpubench.datasets.cache import (
    Record,
    lock_of,
    meant,
    part_of,
    place_of,
    record_of,
    recorded,
    remove_leftovers,
    write_record,
)
from gpubench.datasets.checksum import Corrupt, check
from gpubench.datasets.entry import Entry
from gpubench.datasets.remote import Changed, Remote, Stat, Transient

if TYPE_CHECKING:
    from gpubench.core.timeline import Listener

T = TypeVar("T")

OFFLINE = "GPUBENCH_OFFLINE"
"""Environment variable that forbids to ask any server."""

RETRIES = 5
"""Failures in a row, without a byte between them, after which it is given up."""

UNREACHABLE_RETRIES = 2
"""The same before a server has said anything: more likely there is no network than one that comes back."""

BACKOFF_S = 0.5
"""Wait after the first failure; each further one doubles it, and chance moves it by up to a half."""

_MAX_WAIT_S = 30.0
_LOCK_POLL_S = 0.1
_TRIES = 2  # of a whole file: it may change on the server meanwhile, or come damaged


class Watch:
    """Tells a listener of the stages of a fetch, in bytes.

    Parameters
    ----------
    id_ : of the dataset
    listener : hears of "fetch <id>", "check <id>" and "wait for <id>"
    """

    def __init__(self, id_: str, listener: Listener | None) -> None:
        self._id = id_
        self._listener = listener

    @contextmanager
    def stage(self, verb: str, total: int) -> Iterator[Callable[[int], None]]:
        """Open a stage; what it yields takes the number of bytes done."""
        path, begin = f"{verb} {self._id}", time.perf_counter()
        if self._listener is None:
            yield lambda _: None
            return
        listener = self._listener
        listener.started(path)
        try:
            yield lambda done: listener.advanced(path, done, total)
        finally:
            listener.ended(path, time.perf_counter() - begin)


def fetch(entry: Entry, *, refresh: bool = False, listener: Listener | None = None) -> tuple[Path, Record]:
    """Have a remote file in the cache, and return its path.

    A file that is there is not asked for again. Several processes may fetch at once: one does, the others wait for it.

    Parameters
    ----------
    entry : has a remote address
    refresh : ask the server whether it has another version, and fetch that
    listener : hears of the stages, in bytes

    Raises
    ------
    InputError
        No network, no permission, no such file, no space, a wrong checksum, a folder that cannot be written; the cache
        holds no half file under a name of its own then, and what was fetched of it is taken up by the next try.
    """
    place, watch = place_of(entry), Watch(entry.id, listener)
    record = recorded(place)
    if record is not None and meant(record, entry) and not refresh:
        return place, record
    if os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no", "off"):
        raise InputError(
            f"dataset {entry.id!r} is not in the cache ({place}), and {OFFLINE} is set; unset it to fetch it"
        )
    with _writing(place), _locked(place, watch):
        record = recorded(place)  # another process may have brought it meanwhile
        if record is None or refresh or not meant(record, entry):
            record = _bring(entry, place, record, watch)
    return place, record


def _bring(entry: Entry, place: Path, known: Record | None, watch: Watch) -> Record:
    """Download, check, rename. Another version on the server, or bytes that are wrong, start it over once."""
    remote = Remote(_address(entry))
    reason = ""
    for _ in range(_TRIES):
        stat = _patiently(remote.stat, entry.id)
        if entry.size not in (None, stat.size):
            raise InputError(
                f"{remote.address} has {stat.size:,} bytes, but {entry.where} says {entry.size:,}; it was changed or"
                " cut: correct the catalogue, or ask its owner"
            )
        if known is not None and stat.etag is not None and (known.size, known.etag) == (stat.size, stat.etag):
            return _still_meant(known, entry)
        part = part_of(place, stat)
        _prepare(place, part, stat, entry)
        try:
            _download(remote, stat, part, entry.id, watch)
            with watch.stage("check", stat.size) as advance:
                sha256, checked = check(part, entry, stat, advance)
        except Changed:
            part.unlink(missing_ok=True)
            reason = "it changed on the server while it was fetched; try again later"
        except Corrupt as error:
            part.unlink(missing_ok=True)
            reason = f"wrong checksum: {error}; nothing was kept: try again, or ask its owner"
        else:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = Record(remote.address, stat.size, stat.etag, sha256, checked, now)
            record_of(place).unlink(missing_ok=True)
            part.replace(place)
            write_record(place, record)
            return record
    raise InputError(f"{remote.address}: {reason}")


def _still_meant(known: Record, entry: Entry) -> Record:
    """The record of the version that the server still has; fetching that again would not change its checksum."""
    if not meant(known, entry):
        raise InputError(
            f"{known.address}: wrong checksum: its SHA-256 is {known.sha256}, but {entry.where} has {entry.sha256};"
            " correct the catalogue, or ask its owner"
        )
    return known


def _prepare(place: Path, part: Path, stat: Stat, entry: Entry) -> None:
    """Leave of earlier tries what can be gone on with, and nothing else."""
    checkable = stat.md5 or entry.sha256 is not None
    # A process may have ended between the renaming and the record. Its file is checked like a part that is all there.
    if checkable and recorded(place) is None and place.is_file() and place.stat().st_size == stat.size:
        place.replace(part)
    if stat.etag is None and not checkable:  # whose part this is, nothing tells
        part.unlink(missing_ok=True)
    remove_leftovers(place, keep=part)


def _download(remote: Remote, stat: Stat, part: Path, id_: str, watch: Watch) -> None:
    """Fill a part to its size, from where it ends; failures in a row are counted, a byte between them forgets them.

    Raises
    ------
    Changed
        Another version is on the server, or the part is longer than the file.
    """
    have = part.stat().st_size if part.exists() else 0
    if have > stat.size:
        raise Changed(remote.address)
    _check_space(part.parent, stat.size - have, id_)
    with watch.stage("fetch", stat.size) as advance, part.open("ab") as file:
        have = file.tell()
        advance(have)
        failures = 0
        while have < stat.size:
            try:
                for block in remote.read(have, stat):
                    file.write(block)
                    have += len(block)
                    failures = 0
                    advance(have)
            except Transient as error:
                file.flush()
                failures += 1
                _wait(failures, error, id_, RETRIES)
        file.flush()
        os.fsync(file.fileno())


def _patiently(ask: Callable[[], T], id_: str) -> T:
    """Ask until there is an answer."""
    failures = 0
    while True:
        try:
            return ask()
        except Transient as error:
            failures += 1
            _wait(failures, error, id_, RETRIES if error.answered else UNREACHABLE_RETRIES)


def _wait(failures: int, error: Transient, id_: str, retries: int) -> None:
    """Wait longer after each failure.

    Raises
    ------
    InputError
        There were too many.
    """
    if failures > retries:
        raise InputError(
            f"dataset {id_!r} cannot be fetched: {error}, {failures} times in a row; check the network and try again"
            " (what is fetched already is kept)"
        ) from error
    wait_s = BACKOFF_S * 2.0 ** (failures - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
    time.sleep(min(max(wait_s, error.wait_s), _MAX_WAIT_S))


def _check_space(folder: Path, needed: int, id_: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"dataset {id_!r} needs {bytes_text(needed)} more, but {bytes_text(free)} are free in {folder};"
            f" free some space, or set {CACHE} to a folder elsewhere"
        )


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Make the folder, and say of what cannot be written there what to do."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise cannot_write(
            place.parent, error, f"{place.name} cannot be kept in the cache; {CACHE} names another folder"
        ) from error


@contextmanager
def _locked(place: Path, watch: Watch) -> Iterator[None]:
    """Be the only process that writes this file; a lock is free as soon as its process has ended, however it ended."""
    try:
        lock = lock_file(lock_of(place))
    except BlockingIOError:
        with watch.stage("wait for", 0):
            lock = _wait_for_lock(lock_of(place))
    with lock:
        yield


def _wait_for_lock(path: Path) -> IO[bytes]:
    while True:
        time.sleep(_LOCK_POLL_S)
        with suppress(BlockingIOError):
            return lock_file(path)


def _address(entry: Entry) -> str:
    assert entry.path is not None
    return entry.path
