"""Kernels on the host: compiles kernels/*.cu with the C++ compiler under emulation.h, and launches them from NumPy.

An executable serves any number of launches through its pipes, so that sanitizers need no special build of Python.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.engines.cuda import kernels
from gpubench.engines.cuda.signatures import KERNELS

HERE = Path(__file__).resolve().parent

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-unknown-pragmas")
FLAGS = ("-O1", "-g1")
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=97",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=97:report_signal_unsafe=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


COMPILE_SECONDS = 300
LAUNCH_SECONDS = 120
"""Seconds after which a program that does not answer is killed; one that computes ends itself, see serve.cpp."""


class Broken(AssertionError):
    """The kernel was stopped by a sanitizer, a crash, or a barrier that not all threads reached."""


class NotCompiled(Exception):
    """The compiler refused the source."""


@dataclass(frozen=True)
class Sparse:
    """An array too large for memory of which few rows are used; the others are 0 and take no memory.

    Attributes
    ----------
    rows : row number -> its values, which the kernel may overwrite
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    rows: dict[int, NDArray[Any]]


class Compiler:
    """Compiles each source once, into a folder, on all cores.

    Attributes
    ----------
    missing : why nothing can be compiled, or None
    """

    def __init__(self, folder: Path) -> None:
        compiler = os.environ.get("CXX", "g++")
        self._compiler = shutil.which(compiler)
        self.missing = None if self._compiler else f"no C++ compiler: {compiler} is not found"
        self._folder = folder
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._headers = {sanitizer: self._pool.submit(self._header, sanitizer) for sanitizer in SANITIZERS}
        self._runtimes = {
            sanitizer: [self._pool.submit(self._runtime, part, sanitizer) for part in ("emulation", "serve")]
            for sanitizer in SANITIZERS
        }
        self._executables: dict[tuple[str, str, str], Future[Path]] = {}

    def prepare(self, sources: Sequence[tuple[str, str, str]]) -> None:
        """Start to compile kernels in the background: (name, text, sanitizer) of each."""
        for name, text, sanitizer in sources:
            self._submit(name, text, sanitizer)

    def executable(self, name: str, text: str, sanitizer: str) -> Path:
        """Compile a kernel from its whole source `text` and return the path of its program.

        Raises
        ------
        NotCompiled
            With the output of the compiler.
        """
        return self._submit(name, text, sanitizer).result()

    def close(self) -> None:
        """Stop compiling."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, name: str, text: str, sanitizer: str) -> Future[Path]:
        key = name, text, sanitizer
        if key not in self._executables:
            path = self._folder / f"{name}-{sanitizer}-{len(self._executables)}"
            self._executables[key] = self._pool.submit(self._compile, path, *key)
        return self._executables[key]

    def _compile(self, path: Path, name: str, text: str, sanitizer: str) -> Path:
        path.with_suffix(".cpp").write_text(
            f'#include "emulation.h"\n{text}\n'
            f"int main() {{ using Kernel = emulation::Call<&{name}>;"
            " return emulation::serve(Kernel::with, Kernel::n_arguments); }\n"
        )
        header = self._headers[sanitizer].result()
        runtime = [future.result() for future in self._runtimes[sanitizer]]
        source = path.with_suffix(".cpp")
        self._run(*FLAGS, *WARNINGS, *SANITIZERS[sanitizer], "-I", header.parent, "-o", path, source, *runtime)
        return path

    def _header(self, sanitizer: str) -> Path:
        """Precompile the header that every kernel includes; a compiler that does not support that reads its text."""
        folder = self._folder / sanitizer
        folder.mkdir()
        header = folder / "emulation.h"
        header.write_text((HERE / "emulation.h").read_text())
        self._run(*FLAGS, *WARNINGS, *SANITIZERS[sanitizer], "-x", "c++-header", "-o", f"{header}.gch", header)
        return header

    def _runtime(self, part: str, sanitizer: str) -> Path:
        """Compile the part that all kernels share, without instrumentation."""
        path = self._folder / f"{part}-{sanitizer}.o"
        macro = f"-DEMULATE_WITH_{sanitizer.upper()}_SANITIZER"
        self._run("-O1", *WARNINGS[:2], "-Werror", macro, "-c", "-o", path, HERE / f"{part}.cpp")
        return path

    def _run(self, *arguments: str | Path) -> None:
        assert self._compiler is not None
        command = [self._compiler, "-std=c++17", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        if done.returncode != 0:
            raise NotCompiled(done.stderr)


class Emulated:
    """A kernel on the host; called like `kernels.launch`, without the name.

    Attributes
    ----------
    schedule : order in which threads run: 0 ascending, 1 descending, others random
    max_seconds : time limit of a launch
    """

    def __init__(self, name: str, executable: Path) -> None:
        self.kernel = KERNELS[name]
        self.schedule = 0
        self.max_seconds = LAUNCH_SECONDS
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, grid: Sequence[int], block: Sequence[int], *args: Any) -> None:
        """Run the kernel; arrays are written in place.

        Raises
        ------
        Broken
            With the output of the sanitizer or the emulation.
        """
        if any(isinstance(value, Sparse) for value in args):
            named = zip(self.kernel.parameters, args, strict=True)
            sizes = {parameter.name: value.item() for parameter, value in named if isinstance(value, np.generic)}
            shared = int(self.kernel.shared_bytes(sizes | self.kernel.block_sizes(block[0])))
        else:
            args, shared = kernels.check(self.kernel, grid, block, args, array_type=np.ndarray)
        request = [struct.pack("<9q", *(*grid, 1, 1)[:3], *(*block, 1, 1)[:3], shared, self.schedule, len(args))]
        answers: list[NDArray[Any]] = []
        for value in args:
            header, pieces = _pack(value)
            request += [header, *(part for offset, array in pieces for part in _piece(offset, array))]
            answers += [array for _, array in pieces if not isinstance(value, np.generic)]
            if isinstance(value, np.generic):
                answers.append(np.empty(value.nbytes, np.uint8))
        self._converse(b"".join(request), answers)

    def _converse(self, request: bytes, answers: list[NDArray[Any]]) -> None:
        process = self._start()
        # a bug may deadlock the sanitizer itself
        watch = Timer(self.max_seconds, process.kill)
        watch.start()
        try:
            self._exchange(process, request, answers)
        finally:
            watch.cancel()

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, answers: list[NDArray[Any]]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            self._give_up(process)
        for array in answers:
            data = process.stdout.read(array.nbytes)
            if len(data) < array.nbytes:
                self._give_up(process)
            if array.flags.writeable:
                array[...] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            errors = self._executable.with_suffix(".txt").open("wb")
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self._process = subprocess.Popen([self._executable], env={**os.environ, **ENVIRONMENT}, **pipes)
            errors.close()
        return self._process

    def _give_up(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self.close()
        output = self._executable.with_suffix(".txt").read_text(errors="replace")
        raise Broken(f"{self.kernel.name} ended with {code}:\n{output[:4000]}")

    def close(self) -> None:
        """Close the pipes and wait until the program ends."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:  # the program ended before it read its input
                    continue
            self._process.wait()
            self._process = None


def _pack(value: Any) -> tuple[bytes, list[tuple[int, NDArray[Any]]]]:
    """Return the header of an argument (size and kind), and its pieces: (offset in bytes, values)."""
    if isinstance(value, Sparse):
        row_bytes = value.shape[1] * value.dtype.itemsize
        pieces = [(row * row_bytes, values) for row, values in value.rows.items()]
        return struct.pack("<3q", value.shape[0] * row_bytes, True, len(pieces)), pieces
    if isinstance(value, np.generic) or value.flags.c_contiguous:
        array = np.asarray(value)
        return struct.pack("<3q", array.nbytes, False, 1), [(0, array)]
    # rows with gaps: the gaps are not sent, and the memory that the kernel may access ends with the last row
    row_bytes = value.strides[0]
    extent = (len(value) - 1) * row_bytes + value[-1].nbytes
    return struct.pack("<3q", extent, False, len(value)), [(i * row_bytes, row) for i, row in enumerate(value)]


def _piece(offset: int, array: NDArray[Any]) -> tuple[bytes, bytes]:
    return struct.pack("<2q", offset, array.nbytes), array.tobytes()
