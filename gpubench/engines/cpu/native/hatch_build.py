"""Compiles the tiles of the CPU engine while gpubench is built or installed, once for each instruction set.

Without a C++ compiler the package is built without them: NumPy does the same work, more slowly, and `gpubench doctor`
says so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path("gpubench", "engines", "cpu", "native")
HEADERS = ("product.hpp", "nearest.hpp", "splits.hpp")
SOURCES = (
    *("topk.cpp", "leaves.cpp", "silhouette.cpp", "distances.cpp"),
    *("graph.cpp", "ranks.cpp", "forest.cpp", "supported.cpp"),
)
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-fvisibility=hidden")
X86 = {
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
}


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the compiled libraries to the wheel, or puts them into the checkout that is installed in editable mode."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; called by hatchling before the wheel is put together."""
        compiler = _compiler()
        if compiler is None:
            self.app.display_warning("no C++ compiler found: gpubench is built without compiled tiles, which is slower")
            return
        root = Path(self.root)
        digest = hashlib.sha256(b"".join((root / HERE / name).read_bytes() for name in HEADERS + SOURCES)).hexdigest()
        self._folder = tempfile.mkdtemp()
        compiled = []
        for name, flags in _instruction_sets().items():
            library = root / HERE / f"{name}.so" if version == "editable" else Path(self._folder, f"{name}.so")
            sources = [str(root / HERE / source) for source in SOURCES]
            command = [*compiler, *FLAGS, *flags, f'-DDIGEST="{digest}"', *sources, "-o", str(library)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.app.display_warning(f"compiled tiles ({name}) are left out: {shlex.join(command)}\n{done.stderr}")
            else:
                compiled.append(library)
        if not compiled:
            return
        if version != "editable":
            build_data["force_include"] |= {str(library): (HERE / library.name).as_posix() for library in compiled}
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was compiled once it is in the wheel."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def _compiler() -> list[str] | None:
    """The compiler that $CXX names, or one that is found; None on Windows, whose compilers take other flags."""
    if sys.platform == "win32":
        return None
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    return [found] if found else None


def _instruction_sets() -> dict[str, tuple[str, ...]]:
    """Flags by name; "generic" is what every processor of this kind has."""
    return {**(X86 if platform.machine() in ("x86_64", "AMD64") else {}), "generic": ()}
