"""Which methods of the CUDA engine compute right numbers on this GPU, found out at first use and kept.

A kernel that is right on one GPU may be wrong with another driver, compiler or release of a library. So a method, such
as the kernel that ranks values or a search of a library, is run on a few cells before its first use with a combination
of GPU, driver, packages and gpubench. `checks` compares its result with that of the CPU engine. The verdict is kept in
the cache folder, in one file per combination, so that later processes only read it. What is wrong is not used.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from threading import RLock, get_ident
from typing import Any, NamedTuple

from gpubench.core import machine
from gpubench.core.errors import EngineUnavailable, GpubenchError, GpubenchWarning, give_warnings, is_memory_error
from gpubench.core.files import write_atomically
from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNEL_DIR

logger = logging.getLogger("gpubench")

FOLDER = "cuda_verdicts"
"""Name of the folder of the files within the cache folder."""

CUDA_LIBRARIES = tuple(
    f"nvidia-{name}{ending}"
    for name in ("cublas", "cuda-nvrtc", "cuda-runtime", "cusolver", "cusparse")
    for ending in ("", "-cu12", "-cu13")
)
"""Packages of CUDA's own libraries, which results on a GPU depend on in addition to those of `machine.PACKAGES`."""

VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUPY_TF32", "CUPY_ACCELERATORS", "CUBLAS")
"""Beginnings of environment variables that make cuBLAS and CuPy compute in another way, such as in TF32."""

Check = Callable[[Any, str], str]
"""Compares a method on a `Device` with the CPU engine; returns how the result differs, "" if it is right."""


class Verdict(NamedTuple):
    """Result of checking a method.

    Attributes
    ----------
    is_right : whether the method may be used
    reason : how its result differs, or the error that it raised; empty if it is right
    seconds : duration of the check
    """

    is_right: bool
    reason: str = ""
    seconds: float = 0.0


class Record:
    """Verdicts and times of one combination, which all engines of this process share.

    Attributes
    ----------
    lock : held while a method is checked, so that each is checked once
    verdicts : verdict of each method that was checked, by (operation, method)
    errors : methods whose check raised an error, which may have had a passing cause such as a full disk; not written
    times : seconds of alternatives, by name, for each question of `Verdicts.seconds`
    is_loaded : whether the file was read
    checking : methods whose checks are running, each with the thread that runs it
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.verdicts: dict[tuple[str, str], Verdict] = {}
        self.errors: set[tuple[str, str]] = set()
        self.times: dict[str, dict[str, float]] = {}
        self.is_loaded = False
        self.checking: list[tuple[int, tuple[str, str]]] = []


_records: dict[tuple[str, str], Record] = {}


class Verdicts:
    """The verdicts on the methods of one device.

    Parameters
    ----------
    folder : folder of the files. If None, verdicts last as long as this object

    Attributes
    ----------
    checks : function that checks the methods of an operation, by operation. The engine sets it; the methods of an
        operation without one are allowed
    note : receives a message about each method that is not used because it is wrong; the engine sets it
    used : verdicts that this object was asked for, by (operation, method)
    """

    def __init__(self, device: Any, folder: Path | None) -> None:
        self._device, self._folder = device, folder
        self.checks: Mapping[str, Check] = {}
        self.note: Callable[[str], None] = logger.debug
        self.used: dict[tuple[str, str], Verdict] = {}

    @cached_property
    def combination(self) -> dict[str, Any]:
        """Everything that verdicts depend on."""
        return {
            "gpu": self._device.name,
            "capability": self._device.capability,
            "software": self._device.software,
            "packages": machine.package_versions() | cuda_libraries(),
            "environment": {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
            "gpubench": [machine.package_version(machine.DISTRIBUTION), digest_of_engine()],
        }

    @cached_property
    def path(self) -> Path | None:
        """The file of this combination, which is named by the digest of the combination."""
        if self._folder is None:
            return None
        return self._folder / f"{sha256(json.dumps(self.combination, sort_keys=True).encode()).hexdigest()[:32]}.json"

    @cached_property
    def _record(self) -> Record:
        return Record() if self.path is None else _records.setdefault((str(self.path), self._device.name), Record())

    def allows(self, operation: str, method: str) -> bool:
        """Return whether a method of an operation may be used; it is checked first if it never was."""
        return self.of(operation, method).is_right

    def of(self, operation: str, method: str) -> Verdict:
        """Return the verdict on a method of an operation; it is checked first if it never was.

        If it is wrong, that is said once, in a `GpubenchWarning` and to `note`.

        Raises
        ------
        EngineUnavailable
            The GPU does not work before the check, or not any more after it.
        OutOfMemory
            There is too little memory for the check.
        """
        check, key, record = self.checks.get(operation), (operation, method), self._record
        if check is None or (get_ident(), key) in record.checking:
            return Verdict(is_right=True)  # a check uses its own method; other threads wait for the verdict
        if key not in record.verdicts:
            with record.lock:
                self._load()
                if key not in record.verdicts:
                    self._check(check, key)
        verdict = record.verdicts[key]
        if not verdict.is_right and key not in self.used:
            text = f"{operation} by {method} is wrong on this GPU ({verdict.reason}) and was not used"
            self.note(text)
            give_warnings([GpubenchWarning(f"{text}; see: gpubench doctor --gpu")])
        self.used[key] = verdict
        return verdict

    def seconds(self, question: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return the seconds of alternatives by name; `measure` is called if they are not known."""
        with self._record.lock:
            self._load()
            times = self._record.times
            if question not in times:
                times[question] = measure()
                self._save()
            return times[question]

    def forget(self) -> None:
        """Forget all verdicts and times of this combination, so that everything is checked again."""
        with self._record.lock:
            self._record.verdicts.clear()
            self._record.errors.clear()
            self._record.times.clear()
            self._record.is_loaded = True
            if self.path is not None:
                self.path.unlink(missing_ok=True)

    def summary(self) -> dict[str, str]:
        """Return "right", or what is wrong, by "operation/method", for the methods that were asked for."""
        return {"/".join(key): verdict.reason or "right" for key, verdict in sorted(self.used.items())}

    def _check(self, check: Check, key: tuple[str, str]) -> None:
        """Check a method and keep the verdict."""
        record, begin = self._record, time.perf_counter()
        if not self._device.works():  # the method would be blamed for what another one did
            raise EngineUnavailable("engine 'cuda': the GPU stopped working; start again")
        record.checking.append((get_ident(), key))
        try:
            reason = check(self._device, key[1])
        except Exception as error:
            if _is_no_verdict(error) or (isinstance(error, EngineUnavailable) and not self._device.works()):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            record.errors.add(key)
        finally:
            record.checking.remove((get_ident(), key))
        record.verdicts[key] = Verdict(not reason, reason, time.perf_counter() - begin)
        logger.debug("%s by %s: %s", *key, reason or "right")
        stopped = bool(reason) and not self._device.works()
        if stopped:  # later processes must avoid the method
            record.errors.discard(key)
        self._save()
        if stopped:
            _records.pop((str(self.path), self._device.name), None)
            raise EngineUnavailable(
                f"engine 'cuda': the GPU stopped working during a check of {' by '.join(key)} ({reason}); start again,"
                " and another method will be used"
            )

    def _load(self) -> None:
        """Read the file, once; a file that is damaged is made again."""
        record = self._record
        if record.is_loaded:
            return
        record.is_loaded = True
        verdicts, times = _read(self.path)
        record.verdicts.update(verdicts)
        record.times.update(times)

    def _save(self) -> None:
        """Write the file, with what other processes found; if that fails, each process repeats the checks."""
        if self.path is None:
            return
        verdicts, times = _read(self.path)
        record = self._record
        verdicts.update({key: verdict for key, verdict in record.verdicts.items() if key not in record.errors})
        times.update(record.times)
        content = {
            "combination": self.combination,
            "verdicts": {"/".join(key): verdict._asdict() for key, verdict in sorted(verdicts.items())},
            "times": times,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda file: file.write(json.dumps(content, indent=1).encode()), sync=False)
        except (OSError, GpubenchError) as error:
            logger.debug("verdicts are not kept: %s", error)


def _is_no_verdict(error: Exception) -> bool:
    """Whether an error of a check says nothing about the method; `EngineUnavailable` says that it lacks another one."""
    refused = isinstance(error, GpubenchError) and not isinstance(error, EngineUnavailable)
    return refused or isinstance(error, Warning) or is_memory_error(error)


def _read(path: Path | None) -> tuple[dict[tuple[str, str], Verdict], dict[str, dict[str, float]]]:
    """Return the verdicts and times in a file; nothing if it does not exist or is damaged."""
    try:
        content = json.loads(path.read_text()) if path else {}
        return _verdicts_in(content), _times_in(content)
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.debug("methods are checked again: %s", error)
        return {}, {}


def _verdicts_in(content: dict[str, Any]) -> dict[tuple[str, str], Verdict]:
    verdicts = {}
    for name, found in content.get("verdicts", {}).items():
        operation, method = name.split("/")
        verdict = Verdict(**found)
        if verdict.is_right == bool(verdict.reason):
            raise ValueError(f"the verdict on {name} contradicts itself")
        verdicts[operation, method] = verdict
    return verdicts


def _times_in(content: dict[str, Any]) -> dict[str, dict[str, float]]:
    times: dict[str, dict[str, float]] = content.get("times", {})
    if not all(own and all(seconds > 0 for seconds in own.values()) for own in times.values()):
        raise ValueError("times are not positive")
    return times


@cache
def cuda_libraries() -> dict[str, str]:
    """Return the versions of the installed packages of `CUDA_LIBRARIES`, by name."""
    found = {name: machine.package_version(name) for name in CUDA_LIBRARIES}
    return {name: version for name, version in found.items() if version is not None}


@cache
def digest_of_engine() -> str:
    """Return a digest of the sources of the kernels and engines, and of the options of the compiler.

    The CPU engine is included, as verdicts compare with it, and so is the array code that engines share.
    """
    engines = Path(__file__).parents[1]
    sources = [file for name in ("common", "cpu", "cuda") for file in (engines / name).glob("*.py")]
    files = sorted([*KERNEL_DIR.glob("*.cu*"), *sources, *(engines / "cpu" / "native").glob("*.[ch]pp")])
    return sha256(b"\0".join([*(file.read_bytes() for file in files), " ".join(kernels.OPTIONS).encode()])).hexdigest()
