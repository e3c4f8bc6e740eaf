"""NVIDIA's run-time compiler (NVRTC), which needs no GPU."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path


def find_library() -> Path | None:
    """Return the library of the package nvidia-cuda-nvrtc-cu12 (or -cu13), None if it is not installed."""
    spec = find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    pattern = "nvrtc64*.dll" if sys.platform == "win32" else "libnvrtc.so*"
    found = sorted(path for folder in folders for path in folder.glob(f"*/*/{pattern}") if "alt" not in path.name)
    return found[0] if found else None


class Nvrtc:
    """The compiler of a library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def architectures(self) -> list[int]:
        """Return the compute capabilities (times ten) that it compiles for."""
        n = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(n))
        architectures = (ctypes.c_int * n.value)()
        self._call("nvrtcGetSupportedArchs", architectures)
        return list(architectures)

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> tuple[bool, str]:
        """Compile a source; return whether that works, and all errors, warnings and remarks."""
        program = ctypes.c_void_p()
        source = text.encode(), f"{name}.cu".encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), *source, 0, None, None)
        encoded = [option.encode() for option in options]
        result = self._library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        size = ctypes.c_size_t()
        self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self._call("nvrtcGetProgramLog", program, log)
        self._call("nvrtcDestroyProgram", ctypes.byref(program))
        return result == 0, log.value.decode()

    def _call(self, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        assert result == 0, f"{function} returned {result}"
