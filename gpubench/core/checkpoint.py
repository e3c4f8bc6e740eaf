"""Checkpoints: finished parts of a run in a folder, from which an interrupted run resumes.

An entry is a JSON file, and the .npy files of its arrays, which are written first. Its name is a digest of everything
that the entry depends on, so entries of other inputs, options or code are never read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from gpubench.core.errors import InputError
from gpubench.core.files import NO_LOCKS, lock_file, write_atomically
from gpubench.core.scores import plain
from gpubench.core.types import Labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpubench.core.timeline import Timeline

T = TypeVar("T")

FOLDER = ".checkpoint"
LOCK = "lock"
ENTRIES = "*.part.*"
MAPPED_FROM_BYTES = 64 << 20
LOCK_TRIES = 100  # a try fails only if another run ends at that very moment
RESUMED = " (resumed)"
"""Suffix of the name of a stage whose result was read from a checkpoint."""


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """Content of one checkpoint entry: a JSON value and arrays."""

    value: Any = None  # anything that JSON can hold; NaN becomes null
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # name -> array on the host


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """A pair of functions that convert a value of type T to a checkpoint entry and back, without loss.

    Arrays of at least `MAPPED_FROM_BYTES` are read back as read-only memory maps.
    """

    pack: Callable[[T], CheckpointEntry]
    unpack: Callable[[CheckpointEntry], T]


ARRAY: Codec[Any] = Codec(lambda array: CheckpointEntry(arrays={"values": array}), lambda entry: entry.arrays["values"])

LABELS: Codec[Labels] = Codec(
    lambda labels: CheckpointEntry({"names": labels.names, "key": labels.key}, {"codes": labels.codes}),
    lambda entry: Labels(entry.arrays["codes"], tuple(entry.value["names"]), entry.value["key"]),
)


class Checkpoint:
    """Folder with the checkpoint entries of a run; use it in a `with` statement, which locks the folder.

    Parameters
    ----------
    out : output folder of the run, in which the folder `.checkpoint` is created
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.folder = Path(out) / FOLDER  # created when the run starts, removed when it has completed
        self.resumed: Counter[str] = Counter()  # number of entries read, by name
        self.saved_s = 0.0  # seconds that an earlier run took to compute the entries in `resumed`
        self.notes: list[str] = []  # sentences on entries that could not be read or written
        self._lock: IO[bytes] | None = None
        self._found: frozenset[str] = frozenset()
        self._created: list[Path] = []
        self._complete = False
        self._full = False

    def __enter__(self) -> Self:
        """Create and lock the folder, and list the entries of earlier runs.

        Raises InputError if another run uses the folder or it cannot be created.
        """
        out = self.folder.parent
        self._created = [place for place in (out, *out.parents) if not place.exists()]
        self._lock = self._acquire_lock()
        for half_written in self.folder.glob(".*.tmp"):
            half_written.unlink()
        self._found = frozenset(file.name for file in self.folder.glob(ENTRIES))
        return self

    def _acquire_lock(self, tries: int = LOCK_TRIES) -> IO[bytes]:
        file = self.folder / LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return lock_file(file)
        except BlockingIOError as error:
            out = str(self.folder.parent)
            raise InputError(
                f"{out!r} is in use by another run; wait until it ends, or choose another folder"
            ) from error
        except OSError as error:
            # another run has just ended and removed its folder, or nothing can be created there at all
            if isinstance(error, FileNotFoundError) and tries > 1:
                return self._acquire_lock(tries - 1)
            if error.errno not in NO_LOCKS:
                raise InputError(
                    f"{str(self.folder)!r} cannot be created: {error.strerror}; choose another folder"
                ) from error
            self.notes.append(f"{self.folder} is on a file system without locks; start one run at a time there")
            return file.open("ab")

    def __exit__(self, *_: object) -> None:
        """Unlock the folder, and remove it if the run has completed or has no entries."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with lock:
            if not self._owns(lock):
                return
            entries = list(self.folder.glob(ENTRIES))
            if self._complete or not any(file.suffix == ".json" for file in entries):
                self._remove(entries, lock)

    def _owns(self, lock: IO[bytes]) -> bool:
        """Whether the locked file is still in the folder; the folder may have been removed and recreated meanwhile."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), (self.folder / LOCK).stat())
        except FileNotFoundError:
            return False

    def _remove(self, entries: list[Path], lock: IO[bytes]) -> None:
        """Remove the entries, the lock, and each folder that `__enter__` created if it is empty.

        The JSON file of an entry is removed before its arrays, so that no JSON file names an array that is gone.
        """
        for file in sorted(entries, key=lambda file: file.suffix != ".json"):
            file.unlink()
        if sys.platform == "win32":  # open files cannot be removed there
            lock.close()
        (self.folder / LOCK).unlink()
        for place in (self.folder, *self._created):
            if not any(place.iterdir()):
                place.rmdir()

    def end(self, *, complete: bool) -> list[str]:
        """Mark the run as ended; if it is complete, the entries are removed when the `with` statement ends.

        Returns sentences for the user: which entries were resumed, which failed, and how to resume an incomplete run.
        """
        self._complete = complete
        lines = [f"{line[0].upper()}{line[1:]}." for line in (self.summary(), *self.notes) if line]
        if not complete and any(self.folder.glob("*.part.json")):
            lines.append(f"Finished parts are in {self.folder}: run the same command again to resume.")
        return lines

    def has(self, key: str) -> bool:
        """Whether an earlier run has written an entry with this key."""
        return self._lock is not None and f"{key}.part.json" in self._found

    def read(self, name: str, key: str) -> CheckpointEntry | None:
        """Return the entry that an earlier run wrote with this key; None if there is none or it is damaged.

        `name` is the name of the stage, under which the entry is counted in `resumed`.
        """
        if not self.has(key):
            return None
        file = self.folder / f"{key}.part.json"
        try:
            content = json.loads(file.read_bytes())
            if content["digest"] != digest_of(content["value"]):
                raise ValueError("its digest differs")  # noqa: TRY301 - reported as any other damage
            arrays = {array: _load(self._array_file(key, array)) for array in content["arrays"]}
            seconds = float(content["seconds"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            self.notes.append(f"{file} is damaged ({error}), and was recomputed")
            return None
        self.resumed[name.partition(" ")[0]] += 1  # folds count together
        self.saved_s += seconds
        return CheckpointEntry(content["value"], arrays)

    def write(self, key: str, entry: CheckpointEntry, seconds: float) -> None:
        """Write an entry, and the seconds that computing it took, atomically.

        If writing fails, add a note and write no further entries.
        """
        if self._lock is None or self._full:
            return
        value = plain(entry.value)
        content = {"arrays": list(entry.arrays), "seconds": seconds, "digest": digest_of(value), "value": value}
        text = json.dumps(content).encode()
        try:
            for name, array in entry.arrays.items():
                write_atomically(self._array_file(key, name), partial(np.save, arr=np.asarray(array)))
            # Not synced to the disk: an entry torn by a power cut is recognised by its digest.
            write_atomically(self.folder / f"{key}.part.json", lambda file: file.write(text), sync=False)
        except InputError as error:
            self._full = True
            self.notes.append(f"checkpointing has stopped: {error}")

    def _array_file(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.part.{name}.npy"

    def summary(self) -> str:
        """Return one line with the names of the resumed entries and the seconds saved; empty if none was resumed."""
        if not self.resumed:
            return ""
        names = ", ".join(name if count == 1 else f"{name} x{count}" for name, count in self.resumed.items())
        return f"resumed from checkpoint: {names} ({self.saved_s:.1f} s saved)"


@dataclass(frozen=True, slots=True)
class CheckpointScope:
    """Access to those entries of a checkpoint that depend on the same facts, such as the data and the options.

    The key of an entry is a digest of these facts and of the name of the stage that computes it.
    """

    timeline: Timeline  # records a stage for each entry that is computed or read
    checkpoint: Checkpoint | None = None  # where entries are written; if None, nothing is stored
    depends_on: str = ""  # digest of the facts

    def keyed(self, *facts: Any) -> CheckpointScope:
        """Return a scope whose entries depend on further facts; a fact is any value that JSON can hold."""
        return replace(self, depends_on=digest_of(self.depends_on, facts)) if self.checkpoint else self

    def disabled(self) -> CheckpointScope:
        """Return a scope that stores nothing, for results that cannot be identified by facts."""
        return CheckpointScope(self.timeline)

    def has(self, name: str, *facts: Any) -> bool:
        """Whether an earlier run has written the entry of stage `name` with these further facts."""
        return self.checkpoint is not None and self.checkpoint.has(self.keyed(name, *facts).depends_on)

    def cached(self, name: str, make: Callable[[], T], codec: Codec[T], *facts: Any) -> T:
        """Return the result of a stage, read from the checkpoint if an earlier run wrote it, else computed and written.

        Parameters
        ----------
        name : name of the stage
        make : function that computes the result
        codec : conversion of the result to a checkpoint entry and back
        facts : JSON values that the result depends on, in addition to those of the scope
        """
        if self.checkpoint is None:
            with self.timeline.stage(name):
                return make()
        key = self.keyed(name, *facts).depends_on
        entry = self.checkpoint.read(name, key)
        if entry is not None:
            with self.timeline.stage(name + RESUMED):
                return codec.unpack(entry)
        begin = time.perf_counter()
        with self.timeline.stage(name):
            made = make()
        self.checkpoint.write(key, codec.pack(made), time.perf_counter() - begin)
        return made


def _load(file: Path) -> NDArray[Any]:
    return np.asarray(np.load(file, mmap_mode="r" if file.stat().st_size >= MAPPED_FROM_BYTES else None))


def digest_of(*facts: Any) -> str:
    """Return a digest of JSON values as 32 hexadecimal digits."""
    return blake2b(json.dumps(plain(facts), sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of_code() -> str:
    """Return a digest of gpubench's source files and compiled modules.

    It identifies the code more exactly than the version, which stays the same during development.
    """
    package = Path(__file__).parents[1]
    files = {file.relative_to(package): file for file in package.rglob("*")}
    if Path("kernels") not in files:  # a wheel has them inside the package, a checkout next to it
        files |= {file.relative_to(package.parent): file for file in package.parent.glob("kernels/*")}
    digest = blake2b(digest_size=16)
    for name, file in sorted(files.items()):
        if file.suffix in (".py", ".so", ".pyd", ".dylib", ".cu", ".cuh"):
            digest.update(name.as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
