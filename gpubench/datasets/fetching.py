"""Download files into the cache and check them; an interrupted download is resumed."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO

from gpubench.core.errors import InputError
from gpubench.core.files import CACHE, cannot_write, lock_file
from gpubench.core.terminal import Drawing
from gpubench.core.units import bytes_text
from gpubench.datasets import cache
from gpubench.datasets.cache import CacheRecord, CorruptFile
from gpubench.datasets.catalogue import CatalogueEntry
from gpubench.datasets.remote import FileChanged, RemoteFile, RemoteStat, TransientError

if TYPE_CHECKING:
    from rich import progress
    from rich.console import Console

    from gpubench.core.timeline import Listener

OFFLINE = "GPUBENCH_OFFLINE"
"""Environment variable that disables network access."""

RETRIES = 5
"""Largest number of consecutive failures, without a byte received between them, after which a download is retried."""

UNREACHABLE_RETRIES = 2
"""Like `RETRIES`, before the server has responded at all; then there is probably no network, and waiting is no use."""

BACKOFF_S = 0.5
"""Seconds to wait after the first failure; doubled for each further failure, and varied at random by up to half."""

_MAX_WAIT_S = 30.0
_LOCK_POLL_S = 0.1
_N_TRIES = 2  # of a whole file, which may change on the server meanwhile or arrive damaged


def fetch(
    entry: CatalogueEntry, *, refresh: bool = False, listener: Listener | None = None
) -> tuple[Path, CacheRecord]:
    """Download the file of a remote dataset unless it is in the cache; return its path in the cache and its record.

    If several processes fetch the same file at once, one downloads it and the others wait.

    Parameters
    ----------
    entry : catalogue entry with a remote address
    refresh : ask the server whether it has a newer version, and download that version
    listener : receiver of the progress of the stages "fetch <id>", "check <id>" and "wait for <id>", in bytes

    Raises
    ------
    InputError
        No network, no permission, no such file, no space, a wrong checksum, or a folder that cannot be written. An
        incomplete file never gets its final name in the cache, and the next call resumes the download.
    """
    path = cache.cache_path(entry)
    record = cache.read_record(path)
    if not refresh and cache.matches(record, entry):
        return path, record
    if os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no", "off"):
        raise InputError(
            f"dataset {entry.id!r} is not in the cache ({path}), and {OFFLINE} is set; unset it to fetch it"
        )
    download = _Download(entry, path, listener)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with download.lock():
            record = cache.read_record(path)  # another process may have fetched it meanwhile
            if refresh or not cache.matches(record, entry):
                record = download.run(record)
    except OSError as error:
        raise cannot_write(
            path.parent, error, f"{path.name} cannot be written to the cache; set {CACHE} to another folder"
        ) from error
    return path, record


class _Download:
    """Download of one file into the cache."""

    def __init__(self, entry: CatalogueEntry, path: Path, listener: Listener | None) -> None:
        assert entry.path is not None
        self._entry = entry
        self._path = path
        self._listener = listener
        self._address = entry.path

    def lock(self) -> IO[bytes]:
        """Lock the file in the cache, so that only this process writes it until the returned lock file is closed."""
        lock = self._path.with_name(f"{self._path.name}.lock")
        with suppress(BlockingIOError):
            return lock_file(lock)
        with self._stage("wait for", 0):
            while True:
                time.sleep(_LOCK_POLL_S)
                with suppress(BlockingIOError):
                    return lock_file(lock)

    def run(self, known: CacheRecord | None) -> CacheRecord:
        """Download, check and rename the file; start over once if it changes on the server or arrives corrupt.

        `known` is the record of a version in the cache; it is returned if the server still has the same version.
        """
        remote, entry = RemoteFile(self._address), self._entry
        problem = ""
        for _ in range(_N_TRIES):
            stat = self._stat(remote)
            if known is not None and stat.etag is not None and (known.size, known.etag) == (stat.size, stat.etag):
                if cache.matches(known, entry):
                    return known
                raise InputError(
                    f"{known.address}: wrong checksum: its SHA-256 is {known.sha256}, but {entry.where} has"
                    f" {entry.sha256}; correct the catalogue, or ask its owner"
                )
            part = self._prepare(stat)
            try:
                self._fill(part, remote, stat)
                with self._stage("check", stat.size) as advance:
                    sha256, checked = cache.check(part, entry, stat, advance)
            except FileChanged:
                part.unlink(missing_ok=True)
                problem = "it changed on the server while it was fetched; try again later"
            except CorruptFile as error:
                part.unlink(missing_ok=True)
                problem = f"wrong checksum: {error}; it was discarded: try again, or ask its owner"
            else:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                record = CacheRecord(self._address, stat.size, stat.etag, sha256, checked, now)
                cache.record_path(self._path).unlink(missing_ok=True)
                part.replace(self._path)
                cache.write_record(self._path, record)
                return record
        raise InputError(f"{self._address}: {problem}")

    def _stat(self, remote: RemoteFile) -> RemoteStat:
        """Request size and version from the server; retry failures that may pass."""
        stat, failures = None, 0
        while stat is None:
            try:
                stat = remote.stat()
            except TransientError as error:
                failures += 1
                self._wait(failures, error, RETRIES if error.answered else UNREACHABLE_RETRIES)
        if self._entry.size not in (None, stat.size):
            raise InputError(
                f"{self._address} has {stat.size:,} bytes, but {self._entry.where} says {self._entry.size:,}; it was"
                " changed or cut: correct the catalogue, or ask its owner"
            )
        return stat

    def _prepare(self, stat: RemoteStat) -> Path:
        """Return the path of the partial download to append to; remove partial downloads that cannot be resumed."""
        path, part = self._path, cache.part_path(self._path, stat)
        can_check = stat.md5 or self._entry.sha256 is not None
        # A process may have ended between the renaming and the record: check its file as if it were a complete part.
        if can_check and cache.read_record(path) is None and path.is_file() and path.stat().st_size == stat.size:
            path.replace(part)
        if stat.etag is None and not can_check:  # it cannot be known which version this part belongs to
            part.unlink(missing_ok=True)
        cache.remove_leftovers(path, keep=part)
        return part

    def _fill(self, part: Path, remote: RemoteFile, stat: RemoteStat) -> None:
        """Append to a partial download until it is complete; any byte received resets the count of failures."""
        size = part.stat().st_size if part.exists() else 0
        if size > stat.size:
            raise FileChanged(self._address)
        free = shutil.disk_usage(part.parent).free
        if stat.size - size > free:
            raise InputError(
                f"dataset {self._entry.id!r} needs {bytes_text(stat.size - size)} more, but {bytes_text(free)} are free"
                f" in {part.parent}; free some space, or set {CACHE} to a folder elsewhere"
            )
        with self._stage("fetch", stat.size) as advance, part.open("ab") as file:
            size = file.tell()
            advance(size)
            failures = 0
            while size < stat.size:
                try:
                    for block in remote.read(size, stat):
                        file.write(block)
                        size += len(block)
                        failures = 0
                        advance(size)
                except TransientError as error:
                    file.flush()
                    failures += 1
                    self._wait(failures, error, RETRIES)
            file.flush()
            os.fsync(file.fileno())

    def _wait(self, failures: int, error: TransientError, retries: int) -> None:
        """Wait before the next try, longer after each failure; raise InputError after more than `retries` failures."""
        if failures > retries:
            raise InputError(
                f"dataset {self._entry.id!r} cannot be fetched: {error}, {failures} times in a row; check the network"
                " and try again, which resumes the download"
            ) from error
        wait_s = BACKOFF_S * 2.0 ** (failures - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - not cryptographic
        time.sleep(min(max(wait_s, error.wait_s), _MAX_WAIT_S))

    @contextmanager
    def _stage(self, verb: str, total: int) -> Iterator[Callable[[int], None]]:
        """Report a stage to the listener; yield a function that receives the number of bytes done so far."""
        listener = self._listener
        if listener is None:
            yield lambda _: None
            return
        name, begin = f"{verb} {self._entry.id}", time.perf_counter()
        listener.started(name)
        try:
            yield lambda done: listener.advanced(name, done, total)
        finally:
            listener.ended(name, time.perf_counter() - begin)


class DownloadProgress(Drawing):
    """A `Listener` that draws a bar with the size and speed of a download, see `Drawing`."""

    def __init__(self, stream: TextIO | None = None, *, shown: bool = True) -> None:
        super().__init__(stream, shown=shown)
        self._tasks: dict[str, progress.TaskID] = {}

    def _live(self, console: Console) -> progress.Progress:
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def started(self, path: str) -> None:
        """Add a progress bar for a download that begins."""
        if self._shown:
            self._tasks[path] = self._drawn.add_task(path, total=None)

    def advanced(self, path: str, done: int, total: int) -> None:
        """Move the bar of the stage to `done` of `total` bytes."""
        if self._shown:
            self._drawn.update(self._tasks[path], completed=done, total=total)

    def ended(self, path: str, seconds: float) -> None:  # noqa: ARG002 - part of the protocol
        """Remove the bar of the stage."""
        if self._shown:
            self._drawn.remove_task(self._tasks.pop(path))
