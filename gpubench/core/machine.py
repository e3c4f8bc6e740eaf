"""Facts about the machine, installed packages and ended processes, found without importing any of the packages."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

KILLED = -9
"""Return code of a process that was ended by SIGKILL, which the system sends if memory runs out."""

DISTRIBUTION = "gpubench-sc"
"""Name on package indexes, where "gpubench" is another project."""

PACKAGES = (
    "numpy",
    "scipy",
    "llvmlite",
    "scikit-learn",
    "faiss-cpu",
    "faiss-gpu",
    "faiss-gpu-cu12",
    "faiss-gpu-cuvs",
    "igraph",
    "networkit",
    "threadpoolctl",
    "anndata",
    "h5py",
    "zarr",
    "pandas",
    "pyarrow",
    "cupy-cuda12x",
    "cupy-cuda13x",
    *(
        f"{name}-cu{cuda}"
        for cuda in (12, 13)
        for name in ("cuml", "libcuml", "cuvs", "libcuvs", "pylibcugraph", "libcugraph", "cudf", "rmm")
    ),
    "numba",
    "nvtx",
)
"""Distributions that results may depend on."""


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def why_ended(code: int, stderr: str) -> str:
    """Return why a process has ended, as text to follow "the process ".

    `code` is its return code, `stderr` its standard error, of which the last line is quoted.
    """
    if code == KILLED:
        return "was killed, as a system does that is out of memory"
    last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}: {last}"
    return f"ended with exit code {code}: {last}"


def lacked_memory(code: int, stderr: str) -> bool:
    """Whether a process ran out of memory: it was killed by the system, or raised MemoryError."""
    return code == KILLED or (stderr.strip().splitlines() or [""])[-1].startswith("MemoryError")


@cache
def package_version(name: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    from importlib import metadata  # imports the package email: 15 ms that most calls do not need

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Return name -> version for those of `PACKAGES` that are installed."""
    found = ((name, package_version(name)) for name in PACKAGES)
    return {name: version for name, version in found if version is not None}


def cpu_model() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return run_briefly("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def run_briefly(*command: str, timeout_s: float = 5.0) -> str | None:
    """Run a command and return its output; None if the program is missing, fails or exceeds `timeout_s`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
