"""Finished parts of a run, kept in a folder until the run has ended whole: one that was killed goes on where it was.

A part is one JSON file, and arrays beside it, which are written first. Its name is a digest of everything that the part
depends on, so what has changed is computed anew.
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
PARTS = "*.part.*"
MAPPED_FROM_BYTES = 64 << 20
LOCK_TRIES = 100  # each is lost only where another run ends at that moment
TAKEN_OVER = " (taken over)"
"""Ends the name of a stage in which a part was read and not computed."""


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """What is written of a part.

    Attributes
    ----------
    value : anything that JSON holds; NaN becomes null
    arrays : name -> array on the host
    """

    value: Any = None
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """Turns something into a part, and back to the bit; large arrays come back read-only, mapped from their files."""

    pack: Callable[[T], CheckpointEntry]
    unpack: Callable[[CheckpointEntry], T]


ARRAY: Codec[Any] = Codec(lambda array: CheckpointEntry(arrays={"values": array}), lambda entry: entry.arrays["values"])

LABELS: Codec[Labels] = Codec(
    lambda labels: CheckpointEntry({"names": labels.names, "key": labels.key}, {"codes": labels.codes}),
    lambda entry: Labels(entry.arrays["codes"], tuple(entry.value["names"]), entry.value["key"]),
)


class Checkpoint:
    """The folder of the finished parts. One run at a time uses it, in a `with` statement.

    Attributes
    ----------
    folder : `.checkpoint` in the folder of the results; made when the run starts, gone when it has ended whole
    taken : how many parts of each name were taken over
    saved_s : what computing those took
    notes : what could not be kept, or not be read
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.folder = Path(out) / FOLDER
        self.taken: Counter[str] = Counter()
        self.saved_s = 0.0
        self.notes: list[str] = []
        self._lock: IO[bytes] | None = None
        self._finished_before: frozenset[str] = frozenset()
        self._made: list[Path] = []
        self._whole = False
        self._full = False

    def __enter__(self) -> Self:
        """Make the folder, and see what an earlier run has left there.

        Raises
        ------
        InputError
            Another run uses the folder, or it cannot be made.
        """
        out = self.folder.parent
        self._made = [place for place in (out, *out.parents) if not place.exists()]
        self._lock = self._locked()
        for half_written in self.folder.glob(".*.tmp"):
            half_written.unlink()
        self._finished_before = frozenset(file.name for file in self.folder.glob(PARTS))
        return self

    def _locked(self, tries: int = LOCK_TRIES) -> IO[bytes]:
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
            # the other run has just ended and taken its folder away; or nothing can be made there at all
            if isinstance(error, FileNotFoundError) and tries > 1:
                return self._locked(tries - 1)
            if error.errno not in NO_LOCKS:
                raise InputError(
                    f"{str(self.folder)!r} cannot be made: {error.strerror}; choose another folder"
                ) from error
            self.notes.append(f"{self.folder} is on a file system without locks; start one run at a time there")
            return file.open("ab")

    def __exit__(self, *_: object) -> None:
        """Let the folder go; it is removed where the run has ended whole, or has left nothing."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with lock:
            if not self._holds(lock):
                return
            parts = list(self.folder.glob(PARTS))
            if self._whole or not any(file.suffix == ".json" for file in parts):
                self._remove(parts, lock)

    def _holds(self, lock: IO[bytes]) -> bool:
        """Whether the folder is still this run's: someone may have removed it, and another run made it again."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), (self.folder / LOCK).stat())
        except FileNotFoundError:
            return False

    def _remove(self, parts: list[Path], lock: IO[bytes]) -> None:
        """Remove what this class has made, and nothing else; what names arrays goes before them."""
        for file in sorted(parts, key=lambda file: file.suffix != ".json"):
            file.unlink()
        if sys.platform == "win32":  # open files cannot be removed there
            lock.close()
        (self.folder / LOCK).unlink()
        for place in (self.folder, *self._made):
            if not any(place.iterdir()):
                place.rmdir()

    def end(self, *, whole: bool) -> list[str]:
        """Say whether the run has ended whole and its results are safe, so that nothing of this is needed any more.

        Returns
        -------
        Lines for people: what was taken over, and what is left for the next run.
        """
        self._whole = whole
        lines = [f"{line[0].upper()}{line[1:]}." for line in (self.summary(), *self.notes) if line]
        if not whole and any(self.folder.glob("*.part.json")):
            lines.append(f"What is finished is kept in {self.folder}: the same command goes on from there.")
        return lines

    def has(self, key: str) -> bool:
        """Whether an earlier run has finished something under this key."""
        return self._lock is not None and f"{key}.part.json" in self._finished_before

    def read(self, name: str, key: str) -> CheckpointEntry | None:
        """What an earlier run has finished under this key; None where there is nothing whole."""
        if not self.has(key):
            return None
        file = f"{key}.part.json"
        try:
            entry, seconds = self._read(file, key)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            self.notes.append(f"{self.folder / file} is damaged ({error}), and was computed anew")
            return None
        self.taken[name.partition(" ")[0]] += 1  # folds count together
        self.saved_s += seconds
        return entry

    def _read(self, file: str, key: str) -> tuple[CheckpointEntry, float]:
        content = json.loads((self.folder / file).read_bytes())
        if content["digest"] != digest_of(content["value"]):
            raise ValueError("its digest differs")
        arrays = {name: _load(self._array(key, name)) for name in content["arrays"]}
        return CheckpointEntry(content["value"], arrays), float(content["seconds"])

    def write(self, key: str, entry: CheckpointEntry, seconds: float) -> None:
        """Keep a part, whole or not at all. Where that fails the run goes on without, and a note tells."""
        import numpy as np

        if self._lock is None or self._full:
            return
        value = plain(entry.value)
        content = {"arrays": list(entry.arrays), "seconds": seconds, "digest": digest_of(value), "value": value}
        text = json.dumps(content).encode()
        try:
            for of, array in entry.arrays.items():
                write_atomically(self._array(key, of), partial(np.save, arr=np.asarray(array)))
            # Not forced to the disk: what a power cut leaves torn is known by its digest.
            write_atomically(self.folder / f"{key}.part.json", lambda file: file.write(text), sync=False)
        except InputError as error:
            self._full = True
            self.notes.append(f"what is finished is not kept any more: {error}")

    def _array(self, key: str, name: str) -> Path:
        return self.folder / f"{key}.part.{name}.npy"

    def summary(self) -> str:
        """What was taken over, in a line; empty where nothing was."""
        if not self.taken:
            return ""
        parts = ", ".join(name if count == 1 else f"{name} x {count}" for name, count in self.taken.items())
        return f"taken over from the run before, {self.saved_s:.1f} s of work: {parts}"


@dataclass(frozen=True, slots=True)
class CheckpointScope:
    """The parts of a run that depend on the same things.

    Attributes
    ----------
    timeline : each part is a stage of it
    checkpoint : where parts are kept; None: nowhere
    depends_on : digest of what decides these parts
    """

    timeline: Timeline
    checkpoint: Checkpoint | None = None
    depends_on: str = ""

    def keyed(self, *facts: Any) -> CheckpointScope:
        """Those that depend on these facts as well; a fact is what JSON holds."""
        return replace(self, depends_on=digest_of(self.depends_on, facts)) if self.checkpoint else self

    def disabled(self) -> CheckpointScope:
        """Parts that are not kept, because nothing tells whether they would come out the same."""
        return CheckpointScope(self.timeline)

    def has(self, name: str, *facts: Any) -> bool:
        """Whether an earlier run has finished a part."""
        return self.checkpoint is not None and self.checkpoint.has(self.keyed(name, *facts).depends_on)

    def cached(self, name: str, make: Callable[[], T], codec: Codec[T], *facts: Any) -> T:
        """Take a part over from an earlier run, or make and keep it.

        Parameters
        ----------
        name : of its stage
        facts : what else decides it
        """
        if self.checkpoint is None:
            with self.timeline.stage(name):
                return make()
        key = self.keyed(name, *facts).depends_on
        found = self.checkpoint.read(name, key)
        if found is not None:
            with self.timeline.stage(name + TAKEN_OVER):
                return codec.unpack(found)
        begin = time.perf_counter()
        with self.timeline.stage(name):
            made = make()
        self.checkpoint.write(key, codec.pack(made), time.perf_counter() - begin)
        return made


def _load(file: Path) -> NDArray[Any]:
    import numpy as np

    return np.asarray(np.load(file, mmap_mode="r" if file.stat().st_size >= MAPPED_FROM_BYTES else None))


def digest_of(*facts: Any) -> str:
    """32 hexadecimal digits that differ where the facts do."""
    return blake2b(json.dumps(plain(facts), sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of_code() -> str:
    """Of the files that gpubench itself is made of, for a version alone does not tell one being worked on."""
    package = Path(__file__).parents[1]
    files = {file.relative_to(package): file for file in package.rglob("*")}
    if Path("kernels") not in files:  # in a wheel they are inside the package, in a checkout beside it
        files |= {file.relative_to(package.parent): file for file in package.parent.glob("kernels/*")}
    digest = blake2b(digest_size=16)
    for name, file in sorted(files.items()):
        if file.suffix in (".py", ".so", ".pyd", ".dylib", ".cu", ".cuh"):
            digest.update(name.as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
